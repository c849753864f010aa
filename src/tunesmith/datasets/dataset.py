"""A dataset kept by name, and how its folder lies under home.

data/processed/town/dataset.json      the manifest; what it names is complete
data/processed/town/all.jsonl         every example as {"messages": [...]}
data/processed/town/quarantine.jsonl  the rows left out, each with its reason; only if there are any
data/processed/town/split-1f2e3d4c/   train.jsonl, validation.jsonl, test.jsonl of the current split

A dataset that was processed is its split: there is no second copy, and its split never changes.

data/processed/city/dataset.json
data/processed/city/train.jsonl       and validation, test; all of it is the three in this order
data/processed/city/train.parquet     the same rows, in one column ``messages``
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

import msgspec

from tunesmith.kernel.home import UNPRINTABLE, Home, parse_name
from tunesmith.kernel.problems import Invalid, NotFound, Problem

FOLDER = "data/processed"
SPLITS = ("train", "validation", "test")
MANIFEST, ALL, QUARANTINE, SPLIT_PREFIX = "dataset.json", "all.jsonl", "quarantine.jsonl", "split-"
OWN_FOLDER = "."
_LONGEST_DESCRIPTION = 4000


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples kept under a name.

    Attributes:
        id: ``dataset_`` and 12 hexadecimal digits, given once.
        shape: the shape the source had, e.g. ``alpaca``; the kept files all have the shape ``openai``.
        examples: how many are kept.
        skipped: how many rows were bad and lie in the quarantine file.
        splits: split name to its number of examples; empty before the first split.
        size_bytes: of all its files but the manifest.
    """

    id: str
    name: str
    owner: str
    shape: str
    examples: int
    skipped: int
    splits: Mapping[str, int]
    size_bytes: int
    description: str
    created_at: datetime

    @property
    def path(self) -> str:
        """The name of its folder under home, as wires show it."""
        return f"{FOLDER}/{self.name}"


@dataclass(frozen=True, slots=True)
class Split:
    """The current split: its folder inside the dataset's (OWN_FOLDER: itself), what made it, and examples per part."""

    folder: str
    seed: int
    ratios: dict[str, float]
    examples: dict[str, int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The truth about a dataset, in its folder; the database row repeats it for listing.

    Attributes:
        sha256: of all.jsonl, or of the processed splits one after another, in hexadecimal.
        source: name of the file the rows came from.
    """

    id: str
    name: str
    owner: str
    description: str
    shape: str
    format: str
    source: str
    examples: int
    skipped: int
    size_bytes: int
    sha256: str
    created_at: datetime
    split: Split | None = None

    @property
    def processed(self) -> bool:
        """Whether the split is all there is."""
        return self.split is not None and self.split.folder == OWN_FOLDER

    def dataset(self) -> Dataset:
        """What callers see of it."""
        return Dataset(
            id=self.id,
            name=self.name,
            owner=self.owner,
            shape=self.shape,
            examples=self.examples,
            skipped=self.skipped,
            splits=dict(self.split.examples) if self.split else {},
            size_bytes=self.size_bytes,
            description=self.description,
            created_at=self.created_at,
        )


def new_id() -> str:
    """An id for a dataset or an upload; guessing one is hopeless, and needless: others' are not shown."""
    return f"dataset_{secrets.token_hex(6)}"


def is_id(text: str) -> bool:
    """Whether ``text`` has the form of an id."""
    return re.fullmatch(r"dataset_[0-9a-f]{12}", text) is not None


def check_name(name: str, field: str = "name") -> str:
    """``name`` if a dataset may be called so: 1 to 64 letters of any script, digits, ``-`` and ``_``.

    Raises:
        Invalid: it may not.
    """
    try:
        # no dots: a dataset must not be mistaken for a file such as data.json
        if re.fullmatch(r"\w[\w-]{0,63}", name):
            return str(parse_name(name, "name"))
    except Problem:
        pass  # a name only some systems refuse, such as "nul"
    raise Invalid(
        f"数据集名称无效：{ascii(name)[:80]}（1 到 64 个字母、数字、汉字、- 或 _，不以 - 开头）",
        f"{ascii(name)[:80]} cannot be a dataset name: 1 to 64 letters, digits, - or _, not starting with -",
        field=field,
    )


def check_description(text: str) -> str:
    """``text`` if a dataset may be described so: at most 4000 characters, line breaks among them.

    Raises:
        Invalid: it is too long, or holds control characters.
    """
    if len(text) <= _LONGEST_DESCRIPTION and not UNPRINTABLE.search(re.sub(r"[\t\r\n]", " ", text)):
        return text
    raise Invalid(
        f"description 应为至多 {_LONGEST_DESCRIPTION} 个可见字符，得到 {len(text)} 个",
        f"description must be at most {_LONGEST_DESCRIPTION} printable characters, got {len(text)}",
        field="description",
    )


def read_manifest(home: Home, name: str) -> Manifest | None:
    """The manifest of the dataset ``name``; None when there is no such dataset.

    Raises:
        Invalid: the folder is there but its manifest is damaged.
    """
    try:
        with home.open(f"{FOLDER}/{check_name(name)}/{MANIFEST}", "dataset") as file:
            manifest = msgspec.json.decode(file.read(1 << 20), type=Manifest)
    except NotFound:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        manifest = None
    if manifest is None or not _is_whole(manifest, name):
        raise Invalid(
            f"数据集 {name} 的 {MANIFEST} 已损坏；请删除 {FOLDER}/{name} 后重新添加",
            f"{MANIFEST} of the dataset {name} is damaged; remove {FOLDER}/{name} and add it again",
            field="dataset",
        )
    return manifest


def kept_files(home: Home, name: str) -> tuple[str, ...] | None:
    """The files under home that a dataset name stands for: ``town`` (its train split, else all of it), ``town/test``.

    ``data/processed/town`` and ``data/processed/town/test`` mean the same.

    Returns:
        Their names in the order they are read; None when ``name`` is not of a kept dataset, but perhaps of a file.

    Raises:
        NotFound: the dataset is there but has no such split.
    """
    dataset, _, part = str(PurePosixPath(name)).removeprefix(f"{FOLDER}/").partition("/")
    if part not in ("", "all", *SPLITS) or not re.fullmatch(r"\w[\w-]{0,63}", dataset):
        return None
    manifest = read_manifest(home, dataset)
    if manifest is None:
        return None
    parts = manifest.split.examples if manifest.split else {}
    if not part and "train" in parts:
        part = "train"
    if part in ("", "all"):
        return whole_files(manifest)
    if manifest.split is None or part not in parts:
        raise NotFound(
            f"数据集 {dataset} 没有 {part} 划分；请先划分（datasets split {dataset}）",
            f"the dataset {dataset} has no split {part}; split it first (datasets split {dataset})",
            field="dataset",
        )
    return (str(PurePosixPath(FOLDER, dataset, manifest.split.folder, f"{part}.jsonl")),)


def whole_files(manifest: Manifest) -> tuple[str, ...]:
    """The files under home that hold every example once, in order."""
    if manifest.processed and manifest.split:
        return tuple(f"{FOLDER}/{manifest.name}/{part}.jsonl" for part in SPLITS if part in manifest.split.examples)
    return (f"{FOLDER}/{manifest.name}/{ALL}",)


def _is_whole(manifest: Manifest, name: str) -> bool:
    split = manifest.split
    if split and split.folder != OWN_FOLDER and not re.fullmatch(rf"{SPLIT_PREFIX}[0-9a-f]{{8}}", split.folder):
        return False
    return manifest.name == name and is_id(manifest.id)
