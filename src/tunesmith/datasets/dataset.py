"""A dataset kept by name, and how its folder lies under home.

data/processed/town/dataset.json      the manifest; what it names is complete
data/processed/town/all.jsonl         every example as {"messages": [...]}
data/processed/town/quarantine.jsonl  the rows left out, each with its reason; only if there are any
data/processed/town/split-1f2e3d4c/   train.jsonl, validation.jsonl, test.jsonl of the current split
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from tunesmith.kernel.home import Home, parse_name
from tunesmith.kernel.problems import Invalid, NotFound, Problem

FOLDER = "data/processed"
SPLITS = ("train", "validation", "test")
MANIFEST, ALL, QUARANTINE, SPLIT_PREFIX = "dataset.json", "all.jsonl", "quarantine.jsonl", "split-"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples kept under a name.

    Attributes:
        shape: the shape the source had, e.g. ``alpaca``; the kept files all have the shape ``openai``.
        examples: how many are kept.
        skipped: how many rows were bad and lie in the quarantine file.
        splits: split name to its number of examples; empty before the first split.
    """

    name: str
    owner: str
    shape: str
    examples: int
    skipped: int
    splits: Mapping[str, int]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Split:
    """The current split: its folder inside the dataset's, what it was made by, and examples per part."""

    folder: str
    seed: int
    ratios: dict[str, float]
    examples: dict[str, int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The truth about a dataset, in its folder; the database row repeats it for listing.

    Attributes:
        sha256: of all.jsonl, in hexadecimal.
        source: name of the file the rows came from.
    """

    name: str
    owner: str
    shape: str
    format: str
    source: str
    examples: int
    skipped: int
    sha256: str
    created_at: datetime
    split: Split | None = None

    def dataset(self) -> Dataset:
        """What callers see of it."""
        splits = dict(self.split.examples) if self.split else {}
        return Dataset(self.name, self.owner, self.shape, self.examples, self.skipped, splits, self.created_at)


def check_name(name: str) -> str:
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
        field="name",
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
    if manifest is None or manifest.name != name or (manifest.split and not _is_split_folder(manifest.split.folder)):
        raise Invalid(
            f"数据集 {name} 的 {MANIFEST} 已损坏；请删除 {FOLDER}/{name} 后重新添加",
            f"{MANIFEST} of the dataset {name} is damaged; remove {FOLDER}/{name} and add it again",
            field="dataset",
        )
    return manifest


def split_name(home: Home, name: str) -> str | None:
    """The file under home that a dataset name stands for: ``town`` (its train split, else all of it), ``town/test``.

    None when ``name`` is not the name of a kept dataset, but perhaps of a file.

    Raises:
        NotFound: the dataset is there but has no such split.
    """
    dataset, _, part = name.partition("/")
    if part not in ("", "all", *SPLITS) or not re.fullmatch(r"\w[\w-]{0,63}", dataset):
        return None
    manifest = read_manifest(home, dataset)
    if manifest is None:
        return None
    folder = f"{FOLDER}/{dataset}"
    parts = manifest.split.examples if manifest.split else {}
    if not part and "train" in parts:
        part = "train"
    if part in ("", "all"):
        return f"{folder}/{ALL}"
    if manifest.split is None or part not in parts:
        raise NotFound(
            f"数据集 {dataset} 没有 {part} 划分；请先划分（datasets split {dataset}）",
            f"the dataset {dataset} has no split {part}; split it first (datasets split {dataset})",
            field="dataset",
        )
    return f"{folder}/{manifest.split.folder}/{part}.jsonl"


def _is_split_folder(name: str) -> bool:
    return re.fullmatch(rf"{SPLIT_PREFIX}[0-9a-f]{{8}}", name) is not None
