"""What an adapter was made from, told exactly enough to make it again to the same bytes; no torch here.

It is written into the adapter's folder (``tunesmith.json``): the recipe, a digest of the base model and of every file of
data, the chat template's, the versions of what computed it, and how many threads did. ``differences`` says what has
changed since: other data or another base cannot give the same adapter, other versions or threads may not.
"""

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import msgspec

from tunesmith import __version__
from tunesmith.datasets.dataset import FOLDER, kept_files, read_manifest
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid
from tunesmith.training.run import Recipe
from tunesmith.training.run_folder import FACTS

_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
# what decides what a base model computes and how it reads text; how it is sampled from does not matter here
_BASE_FILES = (
    "*.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "*.model", "*.jinja",
)  # fmt: skip
_WHOLE = 64 << 20  # files up to this size are read whole; larger ones in as much, in pieces
_PIECE = 1 << 20
_LARGEST_FACTS = 8 << 20


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of examples that a run read.

    Attributes:
        role: the recipe's field that named it: ``dataset``, ``validation``, ``replay`` or ``control``.
        dataset: what the recipe calls it: ``town/train``.
        file: its name under home.
        dataset_id: of the dataset it belongs to; None for a plain file.
        split: what made the split it is: ``{"part", "seed", "ratios"}``; None where it is none.
    """

    role: str
    dataset: str
    file: str
    size_bytes: int
    sha256: str
    dataset_id: str | None = None
    split: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What computed it, as far as it decides how sums are rounded.

    Attributes:
        cpu_capability: the widest vectors the CPU has, as torch names them: ``AVX2``, ``AVX512``.
        threads: as asked for; 0 left it to torch.
        default_threads: what torch would make of 0.
    """

    system: str
    architecture: str
    processor: str
    cpu_capability: str
    gpu: bool
    threads: int
    default_threads: int


@dataclass(frozen=True, slots=True)
class Ingredients:
    """All that an adapter is made from, beside the recipe.

    Attributes:
        base_files: digest of each file of the base model that matters; see ``digest``.
        versions: of Python, Tunesmith and the libraries.
    """

    base_files: dict[str, str]
    data: tuple[DataFile, ...]
    chat_template_sha256: str
    versions: dict[str, str]
    machine: Machine


@dataclass(frozen=True, slots=True)
class Bundle:
    """What an adapter's folder says of how it was made.

    Attributes:
        weights_sha256: of ``adapter_model.safetensors``.
        computed: what torch said when it had done it: ``threads``, ``cpu_capability``, ``device``,
            ``arithmetic``, ``kernels``.
        material_sha256: of the examples in tokens, in their order.
    """

    recipe: Recipe
    ingredients: Ingredients
    weights_sha256: str
    material_sha256: str | None = None
    computed: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as it was.

    Attributes:
        decides: with it the same adapter cannot come out; without, perhaps.
    """

    zh: str
    en: str
    decides: bool


def gathered(home: Home, recipe: Recipe, base: Path, tokenizer: Any, threads: int) -> Ingredients:
    """What a run of ``recipe`` is made from, here and now.

    Args:
        base: the folder of the base model.
        threads: as asked for; 0 leaves it to torch.

    Raises:
        NotFound, Forbidden, Invalid: a file of data is not there, or may not be read.
    """
    return Ingredients(
        base_files=dict(_digests(base)),
        data=tuple(_data(home, recipe)),
        chat_template_sha256=template_sha256(tokenizer),
        versions=_versions(),
        machine=Machine(
            system=platform.system(),
            architecture=platform.machine(),
            processor=_cpu()[0],
            cpu_capability=_cpu()[1],
            gpu=Path("/dev/nvidia0").exists(),
            threads=threads,
            default_threads=_default_threads(),
        ),
    )


def template_sha256(tokenizer: Any) -> str:
    """Of the chat template as it stands: another one at serving time is the commonest silent fault."""
    return hashlib.sha256(tokenizer.get_chat_template().encode()).hexdigest()


def sha256(path: Path) -> str:
    """Of a whole file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> str:
    """A digest of a file of any size in at most a second: of all of it up to 64 MiB, else of 64 pieces and its size.

    The pieces are 1 MiB each, evenly spread, the first and the last among them. Another model of the same shape
    differs in every one of them.
    """
    size = path.stat().st_size
    if size <= _WHOLE:
        return sha256(path)
    found = hashlib.sha256(f"{size}\n".encode())
    pieces = _WHOLE // _PIECE
    with path.open("rb") as file:
        for number in range(pieces):
            file.seek((size - _PIECE) * number // (pieces - 1))
            found.update(file.read(_PIECE))
    return f"sampled:{found.hexdigest()}"


def read(folder: Path, name: str) -> Bundle:
    """The bundle in an adapter's folder.

    Args:
        name: what people call the adapter.

    Raises:
        Invalid: it has none, or one that cannot be read.
    """
    try:
        with (folder / FACTS).open("rb") as file:
            facts = msgspec.json.decode(file.read(_LARGEST_FACTS))
        return Bundle(
            msgspec.convert(facts["recipe"], Recipe),
            msgspec.convert(facts["ingredients"], Ingredients),
            str(facts["weights_sha256"]),
            facts.get("material_sha256"),
            dict(facts.get("computed") or {}),
        )
    except (OSError, msgspec.MsgspecError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise Invalid(
            f"{name} 的 {FACTS} 中没有可重复训练的记录：它不是由这个版本的 Tunesmith 训练的，或文件已损坏",
            f"{name} holds no record to repeat it from in its {FACTS}: it was not trained by this version of Tunesmith, "
            "or the file is damaged",
            adapter=name,
        ) from error


def differences(then: Bundle, now: Ingredients) -> list[Difference]:
    """What has changed since, what decides first."""
    was = then.ingredients
    return [
        *_of_base(was.base_files, now.base_files),
        *_of_data(was.data, now.data),
        *([] if was.chat_template_sha256 == now.chat_template_sha256 else [_OTHER_TEMPLATE]),
        *_of_versions(was.versions, now.versions),
        *_of_machine(then, now.machine),
    ]


_OTHER_TEMPLATE = Difference("基座模型的对话模板已改变", "the base model has another chat template now", True)


def _of_base(was: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Difference]:
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            zh = "已改变" if name in was and name in now else "已不在" if name in was else "是新增的"
            en = "was changed" if name in was and name in now else "is gone" if name in was else "is new"
            yield Difference(f"基座模型的 {name} {zh}", f"the base model's {name} {en}", True)


def _of_data(was: tuple[DataFile, ...], now: tuple[DataFile, ...]) -> Iterator[Difference]:
    found = {(file.role, number): file for number, file in enumerate(now)}
    for number, old in enumerate(was):
        new = found.get((old.role, number))
        if new is None or new.sha256 != old.sha256:
            said = f"{old.dataset} ({old.file}, {old.role})"
            yield Difference(f"数据 {said} 已改变", f"the data of {said} was changed", True)
    if len(now) > len(was):
        yield Difference("数据由更多的文件组成", "the data is made of more files now", True)


def _of_versions(was: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Difference]:
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            before, after = was.get(name, "-"), now.get(name, "-")
            yield Difference(f"{name} 当时是 {before}，现在是 {after}", f"{name} was {before} and is {after}", False)


def _of_machine(then: Bundle, now: Machine) -> Iterator[Difference]:
    was = then.ingredients.machine
    used = then.computed.get("threads")
    left_alone = not now.threads and not was.threads and now.default_threads == was.default_threads
    if not left_alone and (not now.threads or now.threads != (used or was.threads)):
        took, takes = used or was.threads or was.default_threads, now.threads or now.default_threads
        yield Difference(
            f"当时用 {took} 个线程，现在是 {takes} 个；设置 TUNESMITH_THREADS={took} 可相同",
            f"it took {took} threads and would take {takes} now; TUNESMITH_THREADS={took} makes them the same",
            False,
        )
    for zh, en, before, after in (
        ("系统", "system", was.system, now.system),
        ("架构", "architecture", was.architecture, now.architecture),
        ("处理器", "processor", was.processor, now.processor),
        ("处理器指令集", "CPU capability", was.cpu_capability, now.cpu_capability),
        ("GPU", "GPU", str(was.gpu), str(now.gpu)),
    ):
        if before != after:
            yield Difference(f"{zh}当时是 {before}，现在是 {after}", f"the {en} was {before} and is {after}", False)


def _digests(base: Path) -> Iterator[tuple[str, str]]:
    files = {path for pattern in _BASE_FILES for path in base.glob(pattern) if path.is_file()}
    for path in sorted(files):
        yield path.name, digest(path)


def _data(home: Home, recipe: Recipe) -> Iterator[DataFile]:
    for role in ("dataset", "validation", "replay", "control"):
        name = getattr(recipe, role)
        if name is None or (role == "replay" and not recipe.replay_share):
            continue
        kept = kept_files(home, name)
        for file in kept or (name,):
            with home.open(file, role) as stream:
                found, size = _hashed(stream)
            yield DataFile(role, name, file, size, found, *(_origin(home, file) if kept else (None, None)))


def _origin(home: Home, file: str) -> tuple[str | None, dict[str, Any] | None]:
    """Which dataset a kept file belongs to, and what made the split it is."""
    manifest = read_manifest(home, PurePosixPath(file.removeprefix(f"{FOLDER}/")).parts[0])
    if manifest is None:
        return None, None
    part = PurePosixPath(file).stem
    split = manifest.split
    if split is None or part not in split.examples:
        return manifest.id, None
    return manifest.id, {"part": part, "folder": split.folder, "seed": split.seed, "ratios": split.ratios}


def _hashed(stream: BinaryIO) -> tuple[str, int]:
    found, size = hashlib.sha256(), 0
    while block := stream.read(_PIECE):
        found.update(block)
        size += len(block)
    return found.hexdigest(), size


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "tunesmith": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _default_threads() -> int:
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdecimal() and int(said):
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _cpu() -> tuple[str, str]:
    """The processor's name and the widest vectors it has; both "" where the system does not say."""
    name, flags = platform.processor(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
    except OSError:
        return name, ""
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return name, "AVX512"
    if {"avx2", "fma"} <= flags:
        return name, "AVX2"
    return name, "SVE" if "sve" in flags else "DEFAULT"
