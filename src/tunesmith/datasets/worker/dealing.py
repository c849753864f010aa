"""Rows dealt to splits of exact sizes, and the written splits checked.

Rows whose prompts read alike stay together. Their order is that of a hash keyed by the seed, so the same rows and seed
give the same splits wherever the rows stood.
"""

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b, sha256
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tunesmith.datasets.worker.converting import LENGTH_BITS, MARK_BYTES, line_mark
from tunesmith.datasets.worker.tasks import Progress, Report
from tunesmith.kernel.problems import Invalid

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Marks = npt.NDArray[np.uint64]
    Indexes = npt.NDArray[np.int64]

_BUFFER = 1 << 20
_READ = 2 << 20  # bytes
_ROWS_A_READ = 1 << 14
_SAID_BYTES = 16  # of a hash without a known collision
_NEWLINE = 10


def sizes(rows: int, ratios: Mapping[str, float]) -> list[int]:
    """Rows for each split: the largest remainders are rounded up, and no split is left empty.

    Args:
        rows: at least one a split.
        ratios: above 0, summing to 1.
    """
    shares = [round(rows * ratio, 6) for ratio in ratios.values()]
    found = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda index: (found[index] - shares[index], index))
    for index in by_remainder[: rows - sum(found)]:
        found[index] += 1
    for index, size in enumerate(found):
        if size == 0:
            found[index] = 1
            found[found.index(max(found))] -= 1
    return found


def deal(places: "Marks", ratios: Mapping[str, float]) -> bytes:
    """The index of the split each row goes to, a byte a row.

    Sizes come out exact unless groups of rows with one prompt are too large to fit.

    Raises:
        Invalid: there are fewer different prompts than splits.
    """
    import numpy as np

    _, group_of, counts = np.unique(places, return_inverse=True, return_counts=True)
    splits = len(ratios)
    if len(counts) < splits:
        raise Invalid(
            f"分成 {splits} 份至少需要 {splits} 个不同的问题，只有 {len(counts)} 个",
            f"{splits} splits need at least {splits} different prompts; there are {len(counts)}",
            field="ratios",
        )
    wanted = sizes(len(places), ratios)
    split_of = np.full(len(counts), splits - 1, dtype=np.uint8)  # the last takes what the others leave
    left = np.arange(len(counts))
    for index, size in enumerate(wanted[:-1]):
        taken = _filled(counts[left], size, most=len(left) - (splits - 1 - index))
        split_of[left[taken]] = index
        left = np.delete(left, taken)
    return bytes(split_of[group_of].tobytes())


def _filled(counts: "Indexes", size: int, *, most: int) -> "Indexes":
    """Groups, by their index, that fill ``size`` rows: the first ones, then whichever still fit; at least one."""
    import numpy as np

    first = min(int(np.searchsorted(np.cumsum(counts), size, side="right")), most)
    taken = list(range(first))
    room = size - int(counts[:first].sum())
    for index in np.flatnonzero(counts[first:] <= room) + first if room else ():
        if len(taken) == most or not room:
            break
        if counts[index] <= room:
            taken.append(int(index))
            room -= int(counts[index])
    return np.asarray(taken or [0], dtype=np.int64)


def read_marks(files: Sequence[Path]) -> tuple["Marks", "Marks"]:
    """Places of the prompts, and the marks of the lines, of all rows in order."""
    import numpy as np

    raw = np.concatenate([np.fromfile(file, dtype=">u8") for file in files]).reshape(-1, MARK_BYTES // 8)
    return raw[:, 0].astype(np.uint64), raw[:, 1].astype(np.uint64)


def write_splits(
    parts: Sequence[Path], splits: bytes, lines: "Marks", folder: Path, names: Sequence[str], report: Report
) -> None:
    """Deal the lines of ``parts`` to ``folder/name.jsonl``; each part is deleted when it is dealt.

    Args:
        lines: their marks, which know how long each is.
    """
    import numpy as np

    lengths = (lines & ((1 << LENGTH_BITS) - 1)).astype(np.int64)
    total, done, row = sum(part.stat().st_size for part in parts), 0, 0
    files = [(folder / f"{name}.jsonl").open("wb", buffering=_BUFFER) for name in names]
    try:
        for part in parts:
            left = part.stat().st_size
            with part.open("rb") as dealt:
                while left:
                    ends = np.cumsum(lengths[row : row + _ROWS_A_READ])
                    rows = max(1, int(np.searchsorted(ends, min(left, _READ), side="right")))
                    read = dealt.read(int(ends[rows - 1]))
                    if len(read) != ends[rows - 1]:
                        raise RuntimeError(f"{part.name} is not as long as its lines")
                    _deal_out(read, np.frombuffer(splits, np.uint8, rows, row), ends[:rows], files)
                    left, done, row = left - len(read), done + len(read), row + rows
                    report(Progress("splitting", done, total, row))
            part.unlink()
    finally:
        for file in files:
            file.close()


def _deal_out(read: bytes, splits: "npt.NDArray[np.uint8]", ends: "Indexes", files: Sequence[BinaryIO]) -> None:
    """Write the lines that end at ``ends``; those that follow each other into one split at once."""
    import numpy as np

    last = np.append(np.flatnonzero(splits[1:] != splits[:-1]), len(splits) - 1)
    view, start = memoryview(read), 0
    for split, end in zip(splits[last].tolist(), ends[last].tolist(), strict=True):
        files[split].write(view[start:end])
        start = end


def check_written(
    folder: Path, names: Sequence[str], splits: bytes, places: "Marks", lines: "Marks"
) -> tuple[int, int, str]:
    """Read the written splits again.

    Returns:
        Exact duplicates among all rows; rows whose prompt also stands in an earlier split; SHA-256 of all.

    Raises:
        RuntimeError: a file does not hold the lines dealt to it.
    """
    import numpy as np

    dealt = np.frombuffer(splits, dtype=np.uint8)
    ordered = np.sort(lines)
    alike = np.isin(lines, ordered[1:][ordered[1:] == ordered[:-1]])  # only these can be duplicates; usually few
    del ordered
    digest, leaks, said = sha256(), 0, bytearray()
    before: Marks = np.empty(0, dtype=np.uint64)
    for index, name in enumerate(names):
        here = dealt == index
        if not _read_back(folder / f"{name}.jsonl", lines[here], alike[here], digest, said):
            raise RuntimeError(f"{name}.jsonl does not hold what was written to it")
        leaks += int(np.isin(places[here], before).sum())
        before = np.union1d(before, places[here])
    different = len(np.unique(np.frombuffer(said, dtype=f"V{_SAID_BYTES}")))
    return len(said) // _SAID_BYTES - different, leaks, digest.hexdigest()


def _read_back(file: Path, lines: "Marks", alike: "npt.NDArray[np.bool_]", digest: Any, said: bytearray) -> bool:
    """Whether ``file`` holds the lines of these marks and nothing else.

    Args:
        alike: the lines of which another may say the same; what they say goes into ``said``, _SAID_BYTES each.
        digest: is given all of the file.
    """
    import numpy as np

    rest, row = b"", 0
    with file.open("rb", buffering=0) as written:
        while block := written.read(_READ):
            digest.update(block)
            block = rest + block
            ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == _NEWLINE) + 1
            view, borders = memoryview(block), [0, *ends.tolist()]
            found = [line_mark(view[start:end]) for start, end in pairwise(borders)]
            if not np.array_equal(np.array(found, dtype=np.uint64), lines[row : row + len(found)]):
                return False
            for index in np.flatnonzero(alike[row : row + len(found)]).tolist():
                said += blake2b(view[borders[index] : borders[index + 1]], digest_size=_SAID_BYTES).digest()
            rest, row = block[borders[-1] :], row + len(found)
    return not rest and row == len(lines)
