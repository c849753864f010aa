"""CSV and Parquet, as people and spreadsheets write them."""

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.datasets.example import Example
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.reading import read_file
from tunesmith.datasets.rows import ROW_LIMIT, Reading
from tunesmith.datasets.table_rows import csv_rows, parquet_rows
from tunesmith.kernel.problems import Invalid


def read(data: bytes) -> list[Reading]:
    return list(csv_rows(io.BytesIO(data), "f.csv"))


HELLO = {"prompt": "hi", "completion": "you"}


@pytest.mark.parametrize(
    "data",
    [
        b"prompt,completion\nhi,you\n",
        b"prompt,completion\r\nhi,you\r\n",
        b"prompt,completion\nhi,you",
        b"\n\nprompt,completion\n\nhi,you\n\n",
        b'"prompt" , completion \n"hi",you\n'.replace(b'" ,', b'",'),
        b"prompt;completion\nhi;you\n",
        b"prompt\tcompletion\nhi\tyou\n",
        b'prompt,completion\n"hi","you"\n',
    ],
)
def test_csv_of_every_common_dialect_gives_the_row(data: bytes) -> None:
    assert [row[1] for row in read(data) if isinstance(row, tuple)] == [HELLO]


def test_the_line_of_a_csv_row_is_where_it_begins() -> None:
    data = b'a,b\n"x\ny\nz",1\n\nu,2\r\nv,"3\n"\nw,4\n'
    assert [row[0] for row in read(data) if isinstance(row, tuple)] == [2, 6, 7, 9]


def test_a_csv_row_with_too_few_or_too_many_cells_is_a_bad_row() -> None:
    good, few, many = read(b"a,b\n1,2\n1\n1,2,3\n")
    assert good == (2, {"a": "1", "b": "2"})
    assert isinstance(few, BadRow)
    assert isinstance(many, BadRow)
    assert few.text("en") == "f.csv:3: b: expected 2 cells, got 1; add the missing ones"
    assert many.text("en") == "f.csv:4: expected 2 cells, got 3; put text that holds the separator in double quotes"
    assert many.row == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'a,b\n1,2\n3,"open\n4,5\n', "f.csv:3: a quote of the row that begins here is never closed"),
        (b'a,b\n1,"x"y\n', "f.csv:2: not valid CSV: "),
        (b"a,b\n1,\xb4\xf3\n", "f.csv:2: byte 6 (from 0) is not UTF-8"),
        (b"a,b\n1,x\0\n", "f.csv:2: byte 7 is NUL (0)"),
        (b"a,b\r1,2\r3,4\r", "f.csv:1: lines end in a bare carriage return"),
        (b"a,b,a\n1,2,3\n", "f.csv:1: the header names 'a' twice"),
        (b",".join(b"c%d" % i for i in range(1001)) + b"\n1\n", "f.csv:1: 1001 columns, at most 1000 are read"),
        (b'a,b\n1,"' + b"x" * (ROW_LIMIT + 10) + b'"\n', "f.csv:2: the row is over 4 MB"),
        (b'a,b\n1,"' + b"x\n" * ROW_LIMIT + b'"\n', "f.csv:2: the row is over 4 MB"),
        (b"a" * (ROW_LIMIT + 10), "f.csv:1: the row is over 4 MB"),
    ],
)
def test_a_broken_csv_file_is_refused_with_line_and_reason(data: bytes, told: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(data)
    assert caught.value.en.startswith(told)
    assert caught.value.zh != caught.value.en


def test_a_cell_of_megabytes_is_read_though_the_library_defaults_to_less() -> None:
    assert read(b"a,b\n1," + b"x" * 1_000_000)[0] == (2, {"a": "1", "b": "x" * 1_000_000})


def test_a_quote_left_open_at_the_top_of_a_big_csv_is_told_without_reading_on() -> None:
    file = io.BytesIO(b'a,b\n1,"open\n' + b"1,2\n" * 5_000_000)
    with pytest.raises(Invalid, match=r"f.csv:2: .* \(or a quote in it is never closed"):
        list(csv_rows(file, "f.csv"))
    assert file.tell() < 6 << 20


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1).filter(
    lambda cell: not cell.isspace()
)


@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=6))
def test_what_a_csv_writer_wrote_is_what_is_read(rows: list[tuple[str, str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("question", "answer"), *rows])
    found = read(text.getvalue().encode())
    assert [row[1] for row in found if isinstance(row, tuple)] == [{"question": q, "answer": a} for q, a in rows]


def parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def test_parquet_rows_come_with_their_numbers_and_plain_values(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
    path = parquet(tmp_path / "a.parquet", [{"messages": turns, "blob": b"x" * 100}] * 3000, row_group_size=700)
    found = list(read_file(path))
    assert [example.source.line for example in found] == list(range(1, 3001))
    assert {tuple(m.content for m in example.messages) for example in found} == {("问", "答")}


def test_columns_no_shape_knows_are_not_even_read(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [{"prompt": "a", "completion": "b", "image": b"x", "id": 3}])
    with path.open("rb") as file:
        assert list(parquet_rows(file, "a")) == [(1, {"prompt": "a", "completion": "b"})]


def test_nulls_and_wrong_types_in_parquet_are_bad_rows(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet", [{"prompt": "a", "completion": None}, {"prompt": "a", "completion": b"b"}][:1]
    )
    bad: list[BadRow] = []
    assert list(read_file(path, on_bad=bad.append, shape="prompt_completion")) == []
    assert [row.text("en") for row in bad] == [
        "a.parquet:1: completion: expected string, got null; fill it in or remove the row"
    ]


@pytest.mark.parametrize("damage", ["middle", "tail", "head only"])
def test_damaged_parquet_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    path = parquet(tmp_path / "a.parquet", [{"prompt": f"a{i}", "completion": "b"} for i in range(5000)])
    data = bytearray(path.read_bytes())
    if damage == "middle":
        data[100:600] = b"\xff" * 500
    elif damage == "tail":
        del data[-200:-50]
    else:
        del data[8:]
    path.write_bytes(data)
    with pytest.raises(Invalid) as caught:
        list(read_file(path))
    assert caught.value.en.startswith("a.parquet:")
    assert "\n" not in caught.value.en


def test_parquet_with_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    broken = pa.array([b"ok", b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"prompt": broken, "completion": pa.array(["a", "b"])}), tmp_path / "a.parquet")
    with pytest.raises(Invalid, match=r"a\.parquet"):
        list(read_file(tmp_path / "a.parquet"))


def test_a_csv_file_as_excel_saves_it_trains(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes('\ufeffinstruction,input,output\r\n说“你好”,,"你好，\r\n世界"\r\n'.encode())
    (example,) = read_file(path)
    assert isinstance(example, Example)
    assert example.completion == "你好，\r\n世界"
    assert (example.source.file, example.source.line) == ("excel.csv", 2)
