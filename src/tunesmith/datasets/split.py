"""Deterministic splits by a hash of the content.

Where an example goes depends on what it says and on the seed, not on where it stands: reordering the file changes
nothing, exact duplicates stay together (so nothing trained on is asked in the test), and adding rows moves no old row,
but for sets so small that a split would come out empty.
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from tunesmith.datasets.dataset import SPLITS
from tunesmith.datasets.example import Example
from tunesmith.kernel.problems import Invalid

_SPACE = 1 << 64
_encode = msgspec.json.Encoder().encode


def encode_example(example: Example) -> bytes:
    """The one form examples are kept in, ``{"messages": [...]}`` on one line without its end; equal for equals."""
    return _encode({"messages": example.messages})


def place(encoded: bytes, seed: int) -> int:
    """Where an example lies in [0, 2**64): evenly spread, decided by its content and ``seed``."""
    return int.from_bytes(blake2b(encoded, digest_size=8, key=(seed % _SPACE).to_bytes(8, "big")).digest(), "big")


@dataclass(frozen=True, slots=True)
class Borders:
    """Where one split ends and the next begins in the space of places."""

    names: tuple[str, ...]
    ends: tuple[int, ...]  # exclusive, ascending; the last is 2**64

    def split_of(self, place: int) -> str:
        """The split an example at ``place`` belongs to."""
        return self.names[bisect_right(self.ends, place)]


def check_ratios(ratios: Mapping[str, float]) -> dict[str, float]:
    """The ratios above 0, in the order train, validation, test.

    Raises:
        Invalid: an unknown split, a number that is no ratio, or a sum other than 1.
    """
    for name, ratio in ratios.items():
        if name not in SPLITS:
            known = ", ".join(SPLITS)
            raise Invalid(
                f"未知的划分 {name!r}，可用：{known}", f"unknown split {name!r}; known: {known}", field="ratios"
            )
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            raise Invalid(
                f"{name} 的比例应在 0 与 1 之间，得到 {ratio!r}",
                f"the ratio of {name} must be between 0 and 1, got {ratio!r}",
                field=f"ratios.{name}",
            )
    total = math.fsum(ratios.values())
    if abs(total - 1) > 1e-6:
        raise Invalid(f"比例之和应为 1，得到 {total:g}", f"the ratios must sum to 1, got {total:g}", field="ratios")
    return {name: ratios[name] for name in SPLITS if ratios.get(name, 0) > 0}


def borders(places: Callable[[], Iterable[int]], ratios: Mapping[str, float]) -> Borders:
    """Borders for the examples at ``places``, so that no split is empty.

    Args:
        places: gives every example's place; 8 bytes of memory an example are used.
        ratios: as ``check_ratios`` gives them.

    Raises:
        Invalid: there are fewer different examples than splits.
    """
    names, shares = tuple(ratios), tuple(ratios.values())
    ends = [round(math.fsum(shares[: i + 1]) * _SPACE) for i in range(len(shares) - 1)]
    kept, filled = array("Q"), set[str]()
    plain = Borders(names, (*ends, _SPACE))
    for here in places():
        kept.append(here)
        if len(filled) < len(names):
            filled.add(plain.split_of(here))
    if len(filled) == len(names):
        return plain
    return Borders(names, (*_moved(sorted(set(kept)), ends), _SPACE))


def _moved(places: list[int], ends: list[int]) -> list[int]:
    """The borders, each moved by as few examples as leaves at least one in every split."""
    splits = len(ends) + 1
    if len(places) < splits:
        raise Invalid(
            f"分成 {splits} 份至少需要 {splits} 条不同的样本，只有 {len(places)} 条",
            f"{splits} splits need at least {splits} different examples; there are {len(places)}",
            field="ratios",
        )
    moved, before = [], 0
    for index, end in enumerate(ends):
        # examples below this border: one more than below the last, and one left for each split to come
        below = min(max(bisect_left(places, end), before + 1), len(places) - (splits - 1 - index))
        moved.append(places[below])
        before = below
    return moved
