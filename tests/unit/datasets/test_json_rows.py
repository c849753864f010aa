"""JSON Lines and JSON arrays, row by row, with true line numbers, whatever the layout and the reading size."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.datasets import json_rows as module
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.json_rows import json_rows
from tunesmith.datasets.rows import ROW_LIMIT, Reading
from tunesmith.kernel.problems import Invalid


def read(data: bytes, *, lines: bool = False) -> list[Reading]:
    return list(json_rows(io.BytesIO(data), "f.json", lines=lines))


def refusal(data: bytes, *, lines: bool = False) -> Invalid:
    with pytest.raises(Invalid) as caught:
        read(data, lines=lines)
    return caught.value


@pytest.fixture(params=[1, 7, 64, 1 << 20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Reading sizes that cut strings, escapes and characters in the middle."""
    monkeypatch.setattr(module, "CHUNK", request.param)
    yield request.param


ROWS = [
    {"a": 'x"}, {"a" \\'},
    {"a": "多\n行", "b": [1, {"c": "]"}]},
    {"a": ""},
    {},
    [],
    "s,]",
    5,
    None,
    {"é": "\u2028"},
]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("ascii", [True, False])
def test_an_array_of_any_layout_gives_its_rows(chunk: int, indent: int | None, ascii: bool) -> None:
    data = json.dumps(ROWS * 3, indent=indent, ensure_ascii=ascii).encode()
    assert [row[1] for row in read(data) if isinstance(row, tuple)] == ROWS * 3


def test_a_row_of_an_array_is_where_it_begins(chunk: int) -> None:
    data = b'\n\n[\n  {"a": 1}, {"a": 2},\r\n\n  {\n   "a": 3},\n{"a": "\\n"}\n, {"a": 5}]\n\n'
    assert read(data) == [(4, {"a": 1}), (4, {"a": 2}), (6, {"a": 3}), (8, {"a": "\n"}), (9, {"a": 5})]


def test_lines_are_counted_with_blank_ones_and_every_line_end(chunk: int) -> None:
    data = b'\n{"a": 1}\r\n\n   \n{"a": 2}\n{"a": "\xe2\x80\xa8"}'
    assert read(data, lines=True) == [(2, {"a": 1}), (5, {"a": 2}), (6, {"a": "\u2028"})]


def test_lines_under_a_json_name_and_an_array_under_a_jsonl_name_are_read_all_the_same() -> None:
    assert read(b'{"a": 1}\n{"a": 2}\n') == [(1, {"a": 1}), (2, {"a": 2})]
    assert read(b'[{"a": 1}]', lines=True) == [(1, {"a": 1})]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list('ab"\\{}')), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(
    rows=st.lists(json_values, max_size=8),
    size=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 3]),
    separators=st.sampled_from([(",", ":"), (" , ", ": "), (",\n\n", ":\n")]),
    ascii=st.booleans(),
)
def test_any_array_read_in_pieces_of_any_size_is_what_was_written(
    rows: list[Any], size: int, indent: int | None, separators: tuple[str, str], ascii: bool
) -> None:
    written = json.dumps(rows, indent=indent, separators=separators, ensure_ascii=ascii).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", size)
        found = read(written)
    assert [row[1] for row in found if isinstance(row, tuple)] == rows
    # every line number points at text that begins with the row
    lines = written.split(b"\n")
    for row in found:
        assert isinstance(row, tuple)
        rest = b"\n".join(lines[row[0] - 1 :]).decode()
        start = json.dumps(row[1], indent=indent, separators=separators, ensure_ascii=ascii)[:1]
        assert start in rest.split("\n")[0]


@settings(max_examples=300)
@given(data=st.binary(max_size=60) | st.text('[]{},:"\\ \n1a', max_size=40).map(str.encode), size=st.integers(1, 20))
def test_no_text_whatsoever_does_more_than_be_refused(data: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", size)
        try:
            rows = read(data)
        except Invalid as refused:
            assert "f.json" in refused.en
            return
    good = [row[1] for row in rows if isinstance(row, tuple)]
    if data.lstrip(b" \t\r\n").startswith(b"["):
        assert good == json.loads(data)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'[{"a": 1} {"a": 2}]', "f.json:1: a comma is missing between two rows"),
        (b'[{"a": 1},\n]', "f.json:2: a row is missing after the comma"),
        (b"[,]", "f.json:1: a row is missing"),
        (b'[\n{"a": 1}', "f.json:2: the file ends inside the array (no closing ])"),
        (b'[\n{"a": 1},', "f.json:2: the file ends inside the array (no closing ])"),
        (b"[", "f.json:1: the file ends inside the array (no closing ])"),
        (b'[{"a": 1}]\n[{"a": 2}]', "f.json:2: there is more after the end of the array"),
        (b'[\n{"a": "b},\n{"a": 2}\n]', "f.json:2: a quote or bracket of the row that begins here is never closed"),
        (b'[\n{"a": [1, 2}\n]', "f.json:2: not valid JSON: "),
        (b'[\n{"a": 1,}]', "f.json:2: not valid JSON: trailing comma in object (byte 8)"),
        (b"[\n{'a': 1}]", "f.json:2: not valid JSON: "),
        (b'[\n{"a": NaN}]', "f.json:2: a: not valid JSON: invalid character (byte 6); JSON has no NaN"),
        (b'[\n{"a": "\xc4\xe3\xba\xc3"}]', "f.json:2: a: byte 9 (from 0) is not UTF-8; save the file as UTF-8"),
        (b'[\n{"a": "x\0"}]', "f.json:2: a: byte 10 is NUL (0)"),
        (b'[\n{"a": "\\ud800"}]', "f.json:2: a: holds a lone surrogate"),
        (b'[\n"\\udc00x"]', "f.json:2: holds a lone surrogate"),
        (b"[\n" + b"[" * 100_000 + b"]" * 100_000 + b"]", "f.json:2: the JSON is nested too deep"),
        (b'{\n "data": [\n {"a": 1}]}', "f.json:1: the file is one JSON object"),
    ],
)
def test_a_broken_json_file_is_refused_with_line_and_reason(chunk: int, data: bytes, told: str) -> None:
    if chunk == 1 and len(data) > 1000:
        data = data[:3000]  # a byte at a time is slow, and as deep as that is too deep already
    refused = refusal(data)
    assert refused.en.startswith(told)
    assert refused.zh != refused.en
    assert refused.details["file"] == "f.json"


def test_one_object_over_several_lines_is_refused_with_the_list_to_save() -> None:
    assert "save the list 'data' inside it alone" in refusal(b'{\n  "version": 1,\n  "data": [\n').en
    assert refusal(b'{\n  "a": 1\n}\n', lines=True).en.startswith("f.json:1: the file is one JSON object")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"a": 1,}', "not valid JSON: trailing comma in object (byte 8)"),
        (b'{"a": ', "not complete JSON: a quote or bracket is not closed"),
        (b'{"a": 1} {"a": 2}', "not valid JSON: trailing characters (byte 10); there are two objects in one line"),
        (b'{"a": 1},', "not valid JSON: trailing characters (byte 9); rows of JSON Lines have no commas between them"),
        (b"{'a': 1}", "not valid JSON: object keys must be strings (byte 1); JSON has double quotes"),
        (b'{"a": -Infinity}', "not valid JSON: invalid character (byte 7); JSON has no Infinity"),
        (b'{"prompt": "1", "b": 2, "prompt": "3"}', "the key stands twice in one object"),
        (b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "the key stands twice in one object"),
        (b'{"a": "\xff"}', "byte 16 (from 0) is not UTF-8"),
        (b'{"a": "\0"}', "byte 16 is NUL (0)"),
        (b'{"a": "\\ud83d"}', "holds a lone surrogate"),
        (b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "the JSON is nested too deep"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "not valid JSON: Integer value out of range"),
        (b"<html>", "not valid JSON: "),
    ],
)
def test_a_bad_line_is_one_bad_row_and_the_next_is_read(line: bytes, told: str) -> None:
    first, broken, after = read(b'{"a": 0}\n' + line + b"\n" + b'{"a": 2}\n', lines=True)
    assert (first, after) == ((1, {"a": 0}), (3, {"a": 2}))
    assert isinstance(broken, BadRow)
    assert broken.source.line == 2
    assert broken.en.startswith(told)
    assert broken.row == line.decode(errors="replace")


def test_a_line_over_the_limit_is_one_bad_row_and_counting_goes_on() -> None:
    long = b'{"a": "' + b"x" * (2 * ROW_LIMIT + 5) + b'"}'
    first, broken, spoiled = read(b'{"a": 0}\n' + long + b'\n{"a": "\xff"}\n', lines=True)
    assert first == (1, {"a": 0})
    assert isinstance(broken, BadRow)
    assert (broken.source.line, broken.en) == (2, "the row is over 4 MB; divide it into several")
    assert len(str(broken.row)) <= 1000
    assert isinstance(spoiled, BadRow)
    assert spoiled.source.line == 3
    assert spoiled.en.startswith(f"byte {9 + len(long) + 1 + 7} ")


def test_a_row_just_within_the_limit_is_read_and_one_byte_more_is_not() -> None:
    row = b'{"a": "' + b"x" * (ROW_LIMIT - 9) + b'"}'
    assert len(row) == ROW_LIMIT
    assert len(read(row + b"\n" + row, lines=True)) == 2
    assert len(read(b'[{"a": 1}, ' + row + b", " + row + b"]")) == 3
    longer = row[:-2] + b'y"}'
    assert all(isinstance(found, BadRow) for found in read(longer + b"\n" + longer, lines=True))
    assert refusal(b'[{"a": 1},\n ' + longer + b"]").en.startswith("f.json:2: the row is over 4 MB")


def test_a_quote_left_open_in_a_big_array_is_told_at_its_row_without_reading_on() -> None:
    head = b'[{"a": 1},\n{"a": "open}'
    file = io.BytesIO(head + b', {"a": 2}' * 2_000_000)
    with pytest.raises(Invalid, match=r"f.json:2: the row is over 4 MB; divide it into several \(or a quote"):
        list(json_rows(file, "f.json", lines=False))
    assert file.tell() < 8 << 20


def test_an_array_of_rows_with_ever_changing_first_keys_is_read_right() -> None:
    rows = [{f"k{i % 7}": i, "x": '}, {"k1"'} for i in range(500)]
    assert [row[1] for row in read(json.dumps(rows).encode()) if isinstance(row, tuple)] == rows


def test_keys_that_nothing_reads_may_stand_twice_and_names_may_stand_in_the_text() -> None:
    for row in (b'{"a": 1, "a": 2}', b'{"prompt": "prompt", "completion": "say \\"prompt\\": completion"}'):
        assert not any(isinstance(found, BadRow) for found in read(row + b"\n", lines=True))
        assert not any(isinstance(found, BadRow) for found in read(b"[" + row + b"]"))
    assert any(isinstance(found, BadRow) for found in read(b'[{"prompt": 1}, {"prompt": 1, "prompt": 2}]'))
