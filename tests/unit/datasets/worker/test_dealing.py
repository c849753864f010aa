"""Dealing: exact sizes, prompts kept together, nothing empty, and a check that finds what is wrong."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.datasets.worker.converting import line_mark
from tunesmith.datasets.worker.dealing import check_written, deal, sizes, write_splits
from tunesmith.kernel.problems import Invalid

THREE = {"train": 0.8, "validation": 0.1, "test": 0.1}


def places(groups: list[int], seed: int = 0) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    """Rows of as many prompts as there are groups, each with so many rows."""
    made = np.random.default_rng(seed).integers(0, 1 << 63, len(groups), dtype=np.uint64)
    return np.repeat(made, groups)


def counts(dealt: bytes, splits: int) -> list[int]:
    return [dealt.count(bytes([index])) for index in range(splits)]


@pytest.mark.parametrize(
    ("rows", "ratios", "expected"),
    [
        (8000, THREE, [6400, 800, 800]),
        (1_000_000, THREE, [800_000, 100_000, 100_000]),
        (10, THREE, [8, 1, 1]),
        (7, THREE, [5, 1, 1]),
        (3, THREE, [1, 1, 1]),
        (100, {"train": 0.29, "test": 0.71}, [29, 71]),
        (10, {"train": 1 / 3, "validation": 1 / 3, "test": 1 / 3}, [4, 3, 3]),
        (5, {"train": 1.0}, [5]),
        (1000, {"train": 1 - 1e-9, "test": 1e-9}, [999, 1]),
    ],
)
def test_sizes_are_exact(rows: int, ratios: dict[str, float], expected: list[int]) -> None:
    assert sizes(rows, ratios) == expected
    assert counts(deal(places([1] * rows), ratios), len(ratios)) == expected


@settings(max_examples=150)
@given(
    groups=st.lists(st.integers(1, 6), min_size=3, max_size=60),
    shares=st.lists(st.floats(1e-6, 1), min_size=1, max_size=3),
    seed=st.integers(0, 50),
)
def test_prompts_stay_together_and_no_split_is_empty(groups: list[int], shares: list[float], seed: int) -> None:
    ratios = {name: share / sum(shares) for name, share in zip(("train", "validation", "test"), shares, strict=False)}
    rows = places(groups, seed)
    dealt = deal(rows, ratios)
    assert len(dealt) == len(rows)
    assert min(counts(dealt, len(ratios))) > 0
    where: dict[int, set[int]] = {}
    for place, split in zip(rows.tolist(), dealt, strict=True):
        where.setdefault(place, set()).add(split)
    assert all(len(splits) == 1 for splits in where.values())


def test_sizes_are_exact_beside_prompts_that_repeat() -> None:
    for seed in range(30):
        dealt = deal(places([3] * 100 + [1] * 700, seed), THREE)
        assert counts(dealt, 3) == [800, 100, 100]


def test_the_order_of_the_rows_changes_nothing() -> None:
    rows = places([1, 2, 3] * 50)
    shuffled = np.random.default_rng(1).permutation(len(rows))
    assert np.array_equal(
        np.frombuffer(deal(rows, THREE), np.uint8)[shuffled], np.frombuffer(deal(rows[shuffled], THREE), np.uint8)
    )


def test_too_few_prompts_for_the_splits_are_refused() -> None:
    with pytest.raises(Invalid, match="3 splits need at least 3 different prompts; there are 2"):
        deal(places([50, 50]), THREE)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, bytes, list[bytes]]:
    """A folder with the splits a and b of six lines."""
    lines = [f"line {number % 5}\n".encode() for number in range(6)]
    for part, of in (("0", lines[:4]), ("1", lines[4:])):
        (tmp_path / part).write_bytes(b"".join(of))
    splits = bytes([0, 1, 0, 1, 1, 0])
    write_splits([tmp_path / "0", tmp_path / "1"], splits, marks(lines), tmp_path, ("a", "b"), lambda _: None)
    return tmp_path, splits, lines


def marks(lines: list[bytes]) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    return np.array([line_mark(line) for line in lines], dtype=np.uint64)


def test_lines_are_dealt_in_their_order_and_the_parts_are_gone(written: tuple[Path, bytes, list[bytes]]) -> None:
    folder, _, lines = written
    assert sorted(path.name for path in folder.iterdir()) == ["a.jsonl", "b.jsonl"]
    assert (folder / "a.jsonl").read_bytes() == lines[0] + lines[2] + lines[5]
    assert (folder / "b.jsonl").read_bytes() == lines[1] + lines[3] + lines[4]


def test_the_check_counts_duplicates_and_prompts_that_leaked(written: tuple[Path, bytes, list[bytes]]) -> None:
    folder, splits, lines = written
    apart = np.array([1, 2, 1, 3, 4, 1], dtype=np.uint64)
    assert check_written(folder, ("a", "b"), splits, apart, marks(lines))[:2] == (1, 0)
    leaked = np.array([1, 1, 1, 3, 1, 1], dtype=np.uint64)
    assert check_written(folder, ("a", "b"), splits, leaked, marks(lines))[:2] == (1, 2)


def test_lines_alike_in_length_and_checksum_are_no_duplicates(tmp_path: Path) -> None:
    lines = [b"plumless\n", b"buckeroo\n", b"plumless\n"]  # a known pair of one CRC-32
    assert line_mark(lines[0]) == line_mark(lines[1])
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    found = check_written(tmp_path, ("a",), bytes(3), np.arange(3, dtype=np.uint64), marks(lines))
    assert found == (1, 0, sha256(b"".join(lines)).hexdigest())


@pytest.mark.parametrize("sizes", [[1 << 20] * 7, [5 << 20, 1, 3 << 20], [10] * 40_000, [9_000_000]])
def test_lines_of_any_length_are_dealt_and_read_back(tmp_path: Path, sizes: list[int]) -> None:
    lines = [bytes([97 + number % 26]) * size + b"\n" for number, size in enumerate(sizes)]
    cut = len(lines) // 2
    parts = [tmp_path / "0", tmp_path / "1"]
    parts[0].write_bytes(b"".join(lines[:cut]))
    parts[1].write_bytes(b"".join(lines[cut:]))
    splits = bytes(number % 3 % 2 for number in range(len(lines)))
    write_splits(parts, splits, marks(lines), tmp_path, ("a", "b"), lambda _: None)
    for index, name in enumerate("ab"):
        dealt = b"".join(line for line, split in zip(lines, splits, strict=True) if split == index)
        assert (tmp_path / f"{name}.jsonl").read_bytes() == dealt
    places = np.arange(len(lines), dtype=np.uint64)
    duplicates, leaks, _ = check_written(tmp_path, ("a", "b"), splits, places, marks(lines))
    assert (duplicates, leaks) == (len(lines) - len(set(lines)), 0)


def test_a_part_that_lost_its_end_is_not_dealt(tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(b"one\ntw")
    with pytest.raises(RuntimeError, match="0 is not as long as its lines"):
        write_splits([tmp_path / "0"], bytes(2), marks([b"one\n", b"two\n"]), tmp_path, ("a",), lambda _: None)


@pytest.mark.parametrize(
    "change",
    [
        b"",
        b"line 1\nline 3\nline 5\n",
        b"line 3\nline 1\nline 4\n",
        b"line 1\nline 3\nline 4",
        b"line 1\nline 3\nline 4\nline 4\n",
    ],
)
def test_the_check_reads_the_files_and_not_what_was_meant_for_them(
    written: tuple[Path, bytes, list[bytes]], change: bytes
) -> None:
    folder, splits, lines = written
    (folder / "b.jsonl").write_bytes(change)
    with pytest.raises(RuntimeError, match=r"b\.jsonl does not hold what was written to it"):
        check_written(folder, ("a", "b"), splits, np.arange(6, dtype=np.uint64), marks(lines))
