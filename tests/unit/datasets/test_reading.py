"""From a name or a path to examples: formats, refusals, bad rows, and what never happens."""

import gzip
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from tunesmith.datasets.example import Example
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.reading import Parsed, open_path, parse, read_examples, read_file
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Forbidden, Invalid, NotFound, Problem

GOOD = {"instruction": "a", "input": "b", "output": "c"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def put(home: Home, name: str, content: bytes | str | list[Any]) -> str:
    path = home.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = "\n".join(json.dumps(row, ensure_ascii=False) for row in content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def refusal(home: Home, name: str, **options: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        list(read_examples(home, name, **options))
    return caught.value


def test_a_file_under_home_gives_examples_that_know_their_line(home: Home) -> None:
    put(home, "data/train.json", json.dumps([GOOD, GOOD], indent=1))
    first, second = read_examples(home, "data/train.json")
    assert [(m.role, m.content) for m in first.messages] == [("user", "a\nb"), ("assistant", "c")]
    assert (str(first.source), str(second.source)) == ("data/train.json:2", "data/train.json:7")


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.ndjson", "x.JSONL", "x", "x.txt"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_json_is_read_under_any_of_its_names_with_and_without_byte_order_mark(
    home: Home, name: str, mark: bytes
) -> None:
    put(home, name, mark + json.dumps(GOOD).encode())
    assert len(list(read_examples(home, name))) == 1


def test_the_format_may_be_named_where_the_file_name_does_not_tell(home: Home) -> None:
    put(home, "x.data", "prompt,completion\na,b\n")
    assert len(list(read_examples(home, "x.data", format="CSV"))) == 1
    assert "unknown kind of file" in refusal(home, "x.data").en
    assert "unknown format 'xml'; known: json, jsonl, csv, parquet" in refusal(home, "x.data", format="xml").en


def test_format_and_shape_are_reported(home: Home) -> None:
    put(home, "x.jsonl", [GOOD])
    with open_path(home.root / "x.jsonl") as file:
        parsed = parse(file, "x.jsonl")
        assert isinstance(parsed, Parsed)
        assert (parsed.format, parsed.shape) == ("jsonl", "alpaca")
        assert len(list(parsed.rows)) == 1


def test_a_shape_asked_for_is_held_against_every_row(home: Home) -> None:
    put(home, "x.jsonl", [GOOD])
    assert "x.jsonl:1: messages: missing" in refusal(home, "x.jsonl", shape="openai").en
    assert "unknown shape 'nonsense'" in refusal(home, "x.jsonl", shape="nonsense").en


def container(kind: str, folder: Path) -> bytes:
    inner = json.dumps([GOOD]).encode()
    if kind == "gzip":
        return gzip.compress(inner)
    if kind == "zip":
        with zipfile.ZipFile(folder / "z", "w") as archive:
            archive.writestr("train.json", inner)
        return (folder / "z").read_bytes()
    magic = {
        "bzip2": b"BZh91AY",
        "xz": b"\xfd7zXZ\x00",
        "zstd": b"\x28\xb5\x2f\xfd",
        "7z": b"7z\xbc\xaf\x27\x1c",
        "rar": b"Rar!\x1a",
    }
    return magic[kind] + b"\0" * 20


@pytest.mark.parametrize("kind", ["gzip", "zip", "bzip2", "xz", "zstd", "7z", "rar"])
@pytest.mark.parametrize("name", ["x.json", "x.csv", "x.parquet"])
def test_a_packed_file_under_a_plain_name_is_refused_and_not_unpacked(
    home: Home, tmp_path: Path, kind: str, name: str
) -> None:
    put(home, name, container(kind, tmp_path))
    assert refusal(home, name).en == f"{name}: this is a {kind} file; unpack it first"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.json", b"", "the file is empty"),
        ("x.csv", b"", "the file is empty"),
        ("x.json", b" \n ", "the file has no rows"),
        ("x.json", b"[]", "the file has no rows"),
        ("x.json", b"\xef\xbb\xbf", "the file has no rows"),
        ("x.csv", b"prompt,completion\n", "the file has no rows"),
        ("x.json", json.dumps([GOOD]).encode("utf-16"), "the file is UTF-16 or UTF-32; save it as UTF-8"),
        ("x.json", json.dumps([GOOD]).encode("utf-16-le"), "the file is UTF-16 or UTF-32; save it as UTF-8"),
        ("x.csv", "a,b\n".encode("utf-32"), "the file is UTF-16 or UTF-32; save it as UTF-8"),
        ("x.json", b"\0" * 4096, "the file begins with NUL bytes: it is damaged"),
        ("x.json", b"PAR1....", "this is a Parquet file, but it is read as json"),
        ("x.parquet", b"[]......", "this is not a Parquet file, but it is read as parquet"),
        ("x.json", json.dumps({"data": [GOOD]}).encode(), "its rows lie in the list 'data'; save that list alone"),
        ("x.jsonl", b'{"text": "a"}', "there is only a text field"),
        ("x.jsonl", b'{"prompt":"a","chosen":"b","rejected":"c"}', "this is preference data"),
    ],
)
def test_a_file_that_cannot_be_data_is_refused_with_its_name(home: Home, name: str, content: bytes, told: str) -> None:
    put(home, name, content)
    found = refusal(home, name)
    assert isinstance(found, Invalid)
    assert found.en.startswith((f"{name}: ", f"{name}:1: "))
    assert told in found.en
    assert found.zh.startswith(name)


def test_gb18030_text_is_refused_with_the_byte_where_it_begins(home: Home) -> None:
    put(home, "x.json", json.dumps([{"instruction": "你好", "output": "好"}], ensure_ascii=False).encode("gb18030"))
    assert "byte 18 (from 0) is not UTF-8" in refusal(home, "x.json").en


def test_a_row_without_assistant_turn_is_refused_with_its_line(home: Home) -> None:
    turns = [{"role": "user", "content": "u"}]
    put(home, "x.jsonl", [{"messages": [*turns, {"role": "assistant", "content": "a"}]}, {"messages": turns}])
    found = refusal(home, "x.jsonl")
    assert found.en == (
        "x.jsonl has 1 bad row:\n"
        "  x.jsonl:2: messages: the last turn is user, not assistant: there is nothing to train on; "
        "remove it or add the answer"
    )
    assert (
        found.zh
        == "x.jsonl 有 1 行不能用于训练：\n  x.jsonl:2: messages：最后一轮应为 assistant，得到 user；请删去该轮或补上回答"
    )
    assert found.details["bad_rows"][0]["line"] == 2
    assert found.details["more_possible"] is False


def test_after_the_first_bad_row_nothing_is_yielded_and_all_bad_rows_are_listed(home: Home) -> None:
    put(home, "x.jsonl", [GOOD, {**GOOD, "output": 5}, GOOD, {**GOOD, "output": None}])
    used: list[Example] = []
    with pytest.raises(Invalid) as caught:
        used.extend(read_examples(home, "x.jsonl"))
    assert len(used) <= 1
    assert "x.jsonl:2: output: expected string, got int 5" in caught.value.en
    assert "x.jsonl:4: output: expected string, got null" in caught.value.en


def test_twenty_bad_rows_are_listed_and_reading_stops_there(home: Home) -> None:
    put(home, "x.jsonl", [GOOD] + [{**GOOD, "output": n} for n in range(1000)])
    found = refusal(home, "x.jsonl")
    assert found.en.startswith("x.jsonl has at least 20 bad rows (reading stopped there):")
    assert len(found.en.splitlines()) == 21
    assert len(found.details["bad_rows"]) == 20
    assert found.details["more_possible"] is True
    json.dumps(found.details)


def test_bad_rows_go_to_the_caller_when_asked_and_the_good_ones_come(home: Home) -> None:
    broken = '{"instruction": \n'
    put(home, "x.jsonl", json.dumps(GOOD) + "\n" + broken + json.dumps({**GOOD, "output": 1}) + "\n" + json.dumps(GOOD))
    bad: list[BadRow] = []
    assert [example.source.line for example in read_examples(home, "x.jsonl", on_bad=bad.append)] == [1, 4]
    assert [(row.source.line, row.field) for row in bad] == [(2, ""), (3, "output")]
    assert bad[0].row == broken.rstrip("\n")
    assert bad[1].row == {**GOOD, "output": 1}


def test_a_file_of_nothing_but_unreadable_lines_lists_them(home: Home) -> None:
    put(home, "x.jsonl", "hello\nworld\n")
    found = refusal(home, "x.jsonl")
    assert "x.jsonl:1: not valid JSON" in found.en
    assert "x.jsonl:2: not valid JSON" in found.en


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "C:\\x", "x\0", "%2e%2e/x", "", "~/x", "x\ud800"])
def test_a_name_that_leaves_home_is_refused(home: Home, name: str) -> None:
    assert isinstance(refusal(home, name), Invalid)


def test_what_is_no_regular_file_is_refused_and_nothing_hangs(home: Home, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text(json.dumps(GOOD))
    (home.root / "link.jsonl").symlink_to(secret)
    (home.root / "folder").mkdir()
    os.mkfifo(home.root / "pipe.jsonl")
    assert isinstance(refusal(home, "link.jsonl"), Forbidden)
    assert isinstance(refusal(home, "folder"), Invalid)
    assert isinstance(refusal(home, "pipe.jsonl"), Invalid)
    assert isinstance(refusal(home, "nothing.jsonl"), NotFound)


def test_the_owner_of_the_machine_reads_any_file_by_path(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(GOOD))
    link = tmp_path / "y.jsonl"
    link.symlink_to(path)
    assert str(next(iter(read_file(link))).source) == "y.jsonl:1"


def test_a_path_that_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", Invalid), (tmp_path, Invalid), (tmp_path / "no", NotFound)):
        with pytest.raises(kind):
            list(read_file(path))
    with pytest.raises(Forbidden):
        list(read_file(tmp_path / "pipe" / "x"))
    with pytest.raises(Forbidden):
        list(read_file(Path("x\0y")))


def test_the_file_is_closed_when_the_reader_leaves_early(home: Home) -> None:
    put(home, "x.jsonl", [GOOD] * 100)
    path = (home.root / "x.jsonl").resolve()
    rows = read_examples(home, "x.jsonl")
    next(iter(rows))
    assert str(path) in {file.path for file in psutil.Process().open_files()}
    rows.close()  # type: ignore[attr-defined]
    assert str(path) not in {file.path for file in psutil.Process().open_files()}


def test_reading_imports_nothing_heavy() -> None:
    code = (
        "import sys, tunesmith.datasets.service, tunesmith.datasets.samples\n"
        "print([m for m in ('torch', 'pyarrow', 'numpy', 'pandas', 'alembic') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
