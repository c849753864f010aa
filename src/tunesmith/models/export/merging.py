"""The base with the adapter added into its weights: in float32, tensor by tensor, rounded once to the base's own type."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tunesmith.kernel.files import write_json
from tunesmith.kernel.problems import Invalid, Unsupported
from tunesmith.models.export.adapter import Change, Lora
from tunesmith.models.export.tensors import FLOATS, Floats, Stored, narrowed, read_json, stored, write
from tunesmith.models.model import BaseModel

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# everything beside the weights that a model needs, and nothing that runs
_BESIDE = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*")


class Merged:
    """The tensors of a base model with an adapter in them; nothing is read before it is asked for.

    Args:
        lora: None for the bare base.

    Attributes:
        config: of config.json.
        tensors: by name, without a second copy of tied weights, in the order they lie on the disk.

    Raises:
        Invalid: a file cannot be used, or the adapter does not fit the base.
        Unsupported: the base is quantized, or the adapter changes a tied head.
    """

    def __init__(self, base: BaseModel, lora: Lora | None) -> None:
        self.config: dict[str, Any] = read_json(base.path / "config.json")
        if self.config.get("quantization_config"):
            raise Unsupported(
                f"基座 {base.name} 是量化模型，无法合并",
                f"base {base.name} is quantized: nothing can be added into its weights",
                model=base.name,
            )
        found = stored(base.path)
        self.tied = HEAD not in found or bool(self.config.get("tie_word_embeddings"))
        if self.tied and EMBEDDING in found:
            found.pop(HEAD, None)
        self.tensors: Mapping[str, Stored] = found
        self._changes = {} if lora is None else dict(self._placed(base.name, lora))

    def floats(self, name: str) -> Floats:
        """A tensor in float32, the adapter's change in it.

        Raises:
            Invalid: it holds no floating-point numbers.
        """
        values = self.tensors[name].floats()
        change = self._changes.get(name)
        return values if change is None else change.onto(values)

    def data(self, name: str) -> NDArray[Any]:
        """A tensor's numbers in the base's own type.

        Raises:
            Invalid: they do not fit that type.
        """
        tensor = self.tensors[name]
        if name not in self._changes:
            return tensor.data()
        try:
            return narrowed(self.floats(name), tensor.dtype)
        except OverflowError as error:
            raise Invalid(
                f"{name} 合并后超出 float16 范围", f"{name} is too large for the base's float16 once merged"
            ) from error

    def _placed(self, base: str, lora: Lora) -> Iterator[tuple[str, Change]]:
        for module, change in lora.changes.items():
            name = f"{module}.weight"
            tensor = self.tensors.get(name)
            if tensor is None and name == HEAD:
                raise Unsupported(
                    f"适配器 {lora.name} 修改了与词嵌入共享的输出层，合并会同时改变词嵌入",
                    f"adapter {lora.name} changes the output head, which {base} shares with its embeddings: "
                    f"merged into one it would change the other",
                    adapter=lora.name,
                )
            shape = (change.b.shape[0], change.a.shape[1])
            expected = shape[::-1] if change.transposed else shape
            if tensor is None or tensor.shape != expected or tensor.dtype not in FLOATS or name == EMBEDDING:
                raise Invalid(
                    f"适配器 {lora.name} 的 {module}（{shape}）与基座 {base} 不符",
                    f"adapter {lora.name}: {module} {shape} does not fit a linear layer of {base}",
                    adapter=lora.name,
                )
            yield name, change


def write_merged(base: BaseModel, lora: Lora | None, folder: Path, *, max_shard: int) -> None:
    """Write a model folder that transformers opens: weights, configuration, tokenizer, template, licence.

    Args:
        folder: exists; is filled.
        max_shard: most bytes of a weight file; a tensor larger than that has one of its own.

    Raises:
        Invalid, Unsupported: see Merged.
    """
    merged = Merged(base, lora)
    copy_beside(base.path, folder)
    shards = _shards(list(merged.tensors.values()), max_shard)
    of: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        write(folder / file, [(tensor.name, tensor.dtype, tensor.shape) for tensor in shard], merged.data)
        of |= {tensor.name: file for tensor in shard}
    if len(shards) > 1:
        total = sum(tensor.size for tensor in merged.tensors.values())
        write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": dict(of)})


def copy_beside(source: Path, folder: Path) -> None:
    """Copy what belongs to a model beside its weights; links are followed, as a Hugging Face cache is made of them."""
    for pattern in _BESIDE:
        for file in sorted(source.glob(pattern)):
            if file.is_file() and not file.name.endswith(".index.json"):
                shutil.copyfile(file, folder / file.name)


def _shards(tensors: Sequence[Stored], most: int) -> list[list[Stored]]:
    shards: list[list[Stored]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.size > most:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.size
    return shards
