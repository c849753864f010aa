"""An adapter taken elsewhere: checked before anything is written, published whole or not at all, compared with ours."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunesmith.kernel.files import folder_published_whole, require_free
from tunesmith.kernel.problems import Conflict, NotFound
from tunesmith.models.export import gguf_files, modelfile, parity
from tunesmith.models.export.adapter import Lora, read_adapter
from tunesmith.models.export.merging import Merged, write_merged
from tunesmith.models.export.parity import Check, Form, Parity, Task
from tunesmith.models.export.tensors import FLOATS
from tunesmith.models.export.vocabulary import read_vocabulary, special_texts
from tunesmith.models.model import Adapter, BaseModel

_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}
_SMALL_FILES = 64_000_000  # tokenizer, vocabulary, configuration


@dataclass(frozen=True, slots=True)
class Export:
    """What is wanted.

    Attributes:
        base: what the adapter was trained on; None where it is not on this machine, which leaves ``peft``.
        destination: the folder to make; may be there if it is empty.
        type: of the numbers in GGUF files, one of gguf_files.TYPES.
        separate: base and adapter as two GGUF files instead of one that is merged.
        max_shard: most bytes of a safetensors file.
    """

    base: BaseModel | None
    adapter: Adapter
    destination: Path
    form: Form
    type: str = "f16"
    separate: bool = False
    max_shard: int = 4_000_000_000


def export(wanted: Export, check: Check | Parity, tell: Callable[[str, str], None]) -> Parity:
    """Make the folder, and say whether what is in it answers as we do.

    Args:
        check: the questions; or, where there are none to ask, what is said instead.
        tell: is told in Chinese and English what goes on.

    Returns:
        What ``parity.json`` in the folder says too, if anything was asked.

    Raises:
        Conflict: something lies at the destination.
        NotFound: the base is needed and is not here.
        Invalid, Unsupported: the adapter or the base cannot be written so.
        Unavailable: the disk has not enough room.
    """
    place = wanted.destination
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise Conflict(f"{place} 已存在且不为空", f"{place} exists and is not empty", destination=str(place))
    needed = _prepared(wanted)
    place.parent.mkdir(parents=True, exist_ok=True)
    require_free(place.parent, needed)
    try:
        with folder_published_whole(place) as folder:
            written = _written(wanted, folder, tell)
            if isinstance(check, Parity):
                return check
            if wanted.base is None:
                return parity.not_done("基座不在本机，未比较", "not compared: the base is not on this machine")
            tell("正在与我们的回答比较……", "comparing its answers with ours ...")
            found = parity.checked(_task(wanted, wanted.base, folder, written, check))
            parity.keep(found, folder)
            return found
    except FileExistsError as error:
        raise Conflict(f"{place} 已存在", f"{place} exists", destination=str(place)) from error


@dataclass(frozen=True, slots=True)
class _Written:
    """What was written: the names of GGUF files, and what the numbers were rounded to."""

    type: str
    model: str = ""
    lora: str | None = None


def _prepared(wanted: Export) -> int:
    """Bytes the export takes; whatever cannot be written so is refused here."""
    if wanted.form == "peft":
        return wanted.adapter.size_bytes + _SMALL_FILES
    lora = read_adapter(wanted.adapter)
    merged = Merged(_base(wanted), lora)
    if wanted.form == "merged":
        return sum(tensor.size for tensor in merged.tensors.values()) + _SMALL_FILES
    gguf_files.check_gguf(_base(wanted), lora, separate=wanted.separate)
    numbers = sum(tensor.size // (4 if tensor.dtype == "F32" else 2) for tensor in merged.tensors.values())
    adapter = sum(change.a.nbytes + change.b.nbytes for change in lora.changes.values())
    return int(numbers * _BYTES[wanted.type]) + adapter + _SMALL_FILES


def _written(wanted: Export, folder: Path, tell: Callable[[str, str], None]) -> _Written:
    if wanted.form == "peft":
        for file in wanted.adapter.path.iterdir():
            if file.is_file() and not file.is_symlink() and not file.name.startswith("."):
                shutil.copyfile(file, folder / file.name)
        return _Written("f32")  # the same weights: nothing was rounded
    base, lora = _base(wanted), read_adapter(wanted.adapter)
    if wanted.form == "merged":
        tell("正在合并……", "merging ...")
        write_merged(base, lora, folder, max_shard=wanted.max_shard)
        return _Written(_kept_type(base))
    tell("正在写 GGUF……", "writing GGUF ...")
    written = _gguf(wanted, base, lora, folder)
    if wanted.form == "ollama":
        _ollama(wanted, base, folder, written)
    return written


def _gguf(wanted: Export, base: BaseModel, lora: Lora, folder: Path) -> _Written:
    if not wanted.separate:
        model = f"model-{wanted.type}.gguf"
        gguf_files.write_model(base, lora, folder / model, type=wanted.type, name=wanted.adapter.name)
        return _Written(wanted.type, model)
    model, alone = f"base-{wanted.type}.gguf", "adapter-f32.gguf"
    gguf_files.write_model(base, None, folder / model, type=wanted.type, name=base.name)
    gguf_files.write_adapter(base, lora, folder / alone, name=wanted.adapter.name)
    return _Written(wanted.type, model, alone)


def _ollama(wanted: Export, base: BaseModel, folder: Path, written: _Written) -> None:
    vocabulary = read_vocabulary(base.path, gguf_files.rows_of(Merged(base, None)))
    template = None
    if vocabulary.template:
        jinja = modelfile.Template(vocabulary.template, special_texts(base.path))
        template = modelfile.go_version(jinja, adds_bos=vocabulary.adds_bos)
    stops = [vocabulary.tokens[end] for end in vocabulary.ends]
    text = modelfile.modelfile(written.model, written.lora, template, stops, rendered_by_gguf=bool(vocabulary.template))
    (folder / "Modelfile").write_text(text, encoding="utf-8")
    known = template is not None or not vocabulary.template
    name = modelfile.ollama_name(wanted.adapter.name)
    (folder / "README.md").write_text(modelfile.readme(name, template_known=known), encoding="utf-8")


def _task(wanted: Export, base: BaseModel, folder: Path, written: _Written, check: Check) -> Task:
    return Task(
        form=wanted.form,
        base=str(base.path),
        adapter=str(wanted.adapter.path),
        adapter_name=wanted.adapter.name,
        folder=str(folder),
        type=written.type,
        check=check,
        model=written.model,
        lora=written.lora,
    )


def _kept_type(base: BaseModel) -> str:
    """The type most of the base's weights are kept in, as parity.BOUNDS names it."""
    sizes: dict[str, int] = {}
    for tensor in Merged(base, None).tensors.values():
        if tensor.dtype in FLOATS:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
    return max(sizes, key=lambda dtype: sizes[dtype], default="F32").lower()


def _base(wanted: Export) -> BaseModel:
    if wanted.base is None:
        raise NotFound(f"基座 {wanted.adapter.base} 不在本机", f"the base {wanted.adapter.base} is not on this machine")
    return wanted.base
