"""Texts taken out of whole blocks of lines are those that decoding finds, or none are taken."""

from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.datasets.example import Message
from tunesmith.datasets.worker.converting import Conversation
from tunesmith.datasets.worker.tables import tabulate
from tunesmith.datasets.worker.tasks import Read, Tabulate, encode
from tunesmith.datasets.worker.texts import pairs_of

HARD = [
    "\\",
    '\\"',
    '\\\\"',
    "\n",
    "\\n",
    "\x01",
    "\x00",
    '"},{"role":"assistant","content":"',
    '"}]}\n',
    "问",
    "\U0001f600",
    "\x7f",
]
TEXTS = st.lists(st.one_of(st.sampled_from(HARD), st.text(max_size=3)), max_size=4).map("".join)


def lines_of(*rows: tuple[str, ...], roles: tuple[str, ...] = ("user", "assistant", "user", "assistant")) -> bytes:
    turns = [tuple(Message.of(role, text) for role, text in zip(roles, row, strict=False)) for row in rows]
    return b"".join(encode(Conversation(row)) + b"\n" for row in turns)


def taken(lines: bytes) -> list[str] | None:
    found = pairs_of(lines)
    if found is None:
        return None
    offsets, texts = found
    array = pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(texts))
    array.validate(full=True)
    made: list[str] = array.to_pylist()
    return made


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_what_is_taken_is_what_decoding_finds(rows: list[tuple[str, str]]) -> None:
    found = taken(lines_of(*rows))
    assert found in (None, [text for row in rows for text in row])


@pytest.mark.parametrize(
    "row",
    [
        ("q", "a"),
        ("", ""),
        ('say "x"\n\t\r', "\\"),
        ("\\\\n", '\\\\"'),
        ("问", "\U0001f600"),
        ('"},{"role":"assistant","content":"', '{"messages":[{"role":"user","content":"'),
    ],
)
def test_common_texts_are_taken(row: tuple[str, str]) -> None:
    assert taken(lines_of(row, ("x", "y"), row)) == [*row, "x", "y", *row]


@pytest.mark.parametrize(
    "lines",
    [
        lines_of(("q", "a", "q", "a")),
        lines_of(("q", "a"), ("q", "a", "q", "a"), ("q", "a")),
        lines_of(("q",), ("q", "a", "q")),
        lines_of(("q", "a"), roles=("system", "assistant")),
        lines_of(("q", "a")) + lines_of(("q", "a"), roles=("system", "user")) + lines_of(("q", "a")),
        lines_of(("\x01", "a")),
        lines_of(("q", "a"))[:-1],
        b"",
    ],
)
def test_nothing_is_taken_where_there_is_more(lines: bytes) -> None:
    assert taken(lines) is None


def test_tables_hold_the_rows_of_the_lines_whichever_way_they_go(tmp_path: Path) -> None:
    plain = lines_of(*[(f'q{number} "x"\n', "答" * (number % 50)) for number in range(30_000)])
    other = lines_of(("q", "\x01"), ("q", "a", "q", "a"), ("x" * 3_000_000, "a"))
    lines = other + plain + other + plain + other
    (tmp_path / "train.jsonl").write_bytes(lines)
    rows = [msgspec.json.decode(line) for line in lines.splitlines()]
    assert tabulate(Tabulate(str(tmp_path), ("train",)), lambda _: None) == Read(len(rows))
    table = pq.read_table(tmp_path / "train.parquet")
    table.validate(full=True)
    assert table.to_pylist() == rows
