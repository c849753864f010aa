"""Datasets by their names, written and opened."""

import json
import os
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.datasets.conftest import Here
from tunesmith.datasets.access import check_may_read, owner_folder
from tunesmith.datasets.export.sample import Format, Sample, Strategy, Wanted
from tunesmith.datasets.export.service import ExportService
from tunesmith.datasets.service import DatasetService
from tunesmith.datasets.upload_store import UploadStore
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid, NotFound

ANN, BOB = Caller("ann"), Caller("bob")
CHAT = Wanted(format=Format.OPENAI_CHAT, system="s")
ROWS = "".join(f'{{"prompt": "q{n}", "completion": "a{n}"}}\n' for n in range(10))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with ann's dataset town (split), her dataset village (not split), and everybody's data/x.jsonl."""
    home = Home(tmp_path_factory.mktemp("prepared") / "home")
    database = Database(f"sqlite:///{home.root}/tunesmith.db")
    database.migrate()
    datasets = DatasetService(database, home, worker=Here())
    path = home.root / "data" / "x.jsonl"
    path.parent.mkdir()
    path.write_text(ROWS)
    for name in ("town", "village"):
        datasets.add(name, path, caller=ANN)
    datasets.split("town", {"train": 0.8, "validation": 0.1, "test": 0.1}, caller=ANN)
    database.close()
    return home.root


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Home:
    return Home(shutil.copytree(prepared, tmp_path / "home"))


@pytest.fixture
def exports(home: Home) -> Iterator[ExportService]:
    database = Database(f"sqlite:///{home.root}/tunesmith.db")
    uploads = UploadStore(database)
    yield ExportService(home, lambda name, caller: check_may_read(home, uploads, name, caller))
    database.close()


def asked(samples: Iterator[Sample]) -> list[str]:
    return sorted((sample.input for sample in samples), key=lambda text: int(text[1:]))


ALL = [f"q{n}" for n in range(10)]


@pytest.mark.parametrize("name", ["data/x.jsonl", "village", "data/processed/village", "./village/"])
def test_a_file_and_a_dataset_never_split_are_train_and_all(exports: ExportService, name: str) -> None:
    assert asked(exports.samples(name, "train", ANN)) == ALL
    assert asked(exports.samples(name, "all", ANN)) == ALL


def test_the_parts_of_a_dataset_are_its_samples(exports: ExportService) -> None:
    parts = {part: asked(exports.samples("town", part, ANN)) for part in ("train", "validation", "test")}
    assert len(parts["train"]) > len(parts["test"]) > 0
    assert sorted(text for found in parts.values() for text in found) == ALL
    assert asked(exports.samples("town", "all", ANN)) == ALL
    assert asked(exports.samples("town", "val", ANN)) == parts["validation"]
    assert asked(exports.samples("data/processed/town", "test", ANN)) == parts["test"]
    assert asked(exports.samples("town/test", "train", ANN)) == parts["test"]
    assert next(exports.samples("town", "test", ANN)).id == "town/test:1"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("data/x.jsonl", split) for split in ("test", "val", "", "Train", "x")),
        *(("village", split) for split in ("test", "validation", "../x")),
        *(("town", split) for split in ("gold", "", "train/..", "dataset.json")),
        ("town/test", "test"),
    ],
)
def test_a_split_that_is_none_is_not_found(exports: ExportService, name: str, split: str) -> None:
    with pytest.raises(NotFound) as caught:
        exports.samples(name, split, ANN)
    assert caught.value.en == f"Dataset split with name '{split}' not found"


def test_what_is_anothers_is_not_there(exports: ExportService, home: Home) -> None:
    mine = exports.write("town", "train", CHAT, ANN)
    assert mine.startswith(f"data/formatted/{owner_folder('ann')}/town-train-openai_chat_jsonl-no-cot-")
    written = asked(exports.samples("town", "train", ANN))
    assert asked(exports.samples(mine, "train", ANN)) == written
    for name in ("town", "town/test", "data/processed/town/all.jsonl", mine, f"./{mine}", mine.replace("data", "Data")):
        with pytest.raises(NotFound):
            exports.samples(name, "train", BOB)
    assert asked(exports.samples(mine, "all", LOCAL)) == written
    theirs = exports.write("data/x.jsonl", "train", CHAT, BOB)
    assert len(list(exports.samples(theirs, "train", BOB))) == 10


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "data/../../x", "C:\\x", "%2e%2e/x", "a\0b", "", "x" * 3000])
def test_what_is_no_name_is_refused(exports: ExportService, name: str) -> None:
    for caller in (ANN, LOCAL):
        with pytest.raises(Invalid):
            list(exports.samples(name, "train", caller))
        with pytest.raises(Invalid):
            exports.write(name, "train", CHAT, caller)


def test_a_file_is_written_whole_and_read_again(exports: ExportService, home: Home) -> None:
    first, second = (exports.write("data/x.jsonl", "train", CHAT, ANN) for _ in range(2))
    assert first != second
    assert (home.root / first).read_bytes() == (home.root / second).read_bytes()
    rows = [json.loads(line) for line in (home.root / first).read_bytes().split(b"\n")[:-1]]
    assert rows[3]["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q3"},
        {"role": "assistant", "content": "a3"},
    ]
    assert asked(exports.samples(first, "train", ANN)) == ALL


def test_the_longest_names_are_taken(exports: ExportService, home: Home) -> None:
    name = f"data/{'数' * 80}.jsonl"
    (home.root / name).write_text(ROWS)
    for format in (Format.HUGGINGFACE_TOOLCALL, Format.OPENAI_CHAT_JSON_SCHEMA):
        with pytest.raises(Invalid):  # the answers are no JSON, which is found while the file is open
            exports.write(name, "train", Wanted(format=format), ANN)
    written = exports.write(name, "train", CHAT, ANN)
    assert asked(exports.samples(written, "train", ANN)) == ALL


def test_nothing_is_left_where_a_row_is_bad(exports: ExportService, home: Home) -> None:
    (home.root / "data" / "bad.jsonl").write_text(ROWS + '{"prompt": "q"}\n')
    with pytest.raises(Invalid, match=r"bad\.jsonl:11"):
        exports.write("data/bad.jsonl", "train", CHAT, ANN)
    thinking = Wanted(format=Format.OPENAI_CHAT, strategy=Strategy.R1)
    with pytest.raises(Invalid, match=r"Sample data/x\.jsonl:1:"):
        exports.write("data/x.jsonl", "train", thinking, ANN)
    with pytest.raises(Invalid):
        exports.open(exports.samples("data/bad.jsonl", "train", ANN), CHAT, dataset="bad", split="train")
    assert not [path for path in home.formatted.rglob("*") if path.is_file()]


def test_what_a_crash_left_is_swept_when_it_is_old(exports: ExportService, home: Home) -> None:
    folder = (home.root / exports.write("village", "all", CHAT, ANN)).parent
    old, new = folder / ".partial-1-x.jsonl", folder / ".partial-2-x.jsonl"
    for path in (old, new):
        path.write_text("{")
    os.utime(old, (0, 0))
    exports.write("village", "all", CHAT, ANN)
    assert (old.exists(), new.exists()) == (False, True)


def test_no_link_is_followed_to_where_files_are_written(exports: ExportService, home: Home, tmp_path: Path) -> None:
    (home.formatted / owner_folder("ann")).symlink_to(tmp_path)
    with pytest.raises(Exception, match="symbolic link"):
        exports.write("village", "all", CHAT, ANN)


def test_a_download_is_complete_before_it_begins(exports: ExportService, home: Home) -> None:
    export = exports.open(exports.samples("town", "train", ANN), CHAT, dataset="town", split="train")
    assert export.filename == "town -- split-train -- format-openai_chat_jsonl -- no-cot.jsonl"
    assert not list(home.formatted.iterdir())
    sent = b"".join(export.chunks())
    assert (export.size, export.rows) == (len(sent), sent.count(b"\n"))
    assert export.rows == len(list(exports.samples("town", "train", ANN)))
    assert sent == (home.root / exports.write("town", "train", CHAT, ANN)).read_bytes()
    export.close()
    two = Wanted(format=Format.VERTEX_GEMINI, strategy=Strategy.TWO_MESSAGE, thinking_instructions="t")
    empty = exports.open([], two, dataset='数据/"a"\r\n', split="val")
    assert (empty.filename, empty.size, empty.rows) == (
        "数据--a--- -- split-val -- format-vertex_gemini -- cot.jsonl",
        0,
        0,
    )
    assert list(empty.chunks()) == []


def test_a_download_given_up_is_closed(exports: ExportService) -> None:
    export = exports.open(exports.samples("town", "train", ANN), CHAT, dataset="town", split="train")
    chunks = export.chunks()
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="closed"):
        list(export.chunks())


def test_memory_stays_flat(exports: ExportService, home: Home) -> None:
    with (home.root / "data" / "long.jsonl").open("w") as file:
        for number in range(2000):
            file.write(json.dumps({"prompt": f"{number}{'q' * 1000}", "completion": "a" * 1000}) + "\n")
    tracemalloc.start()
    try:
        export = exports.open(exports.samples("data/long.jsonl", "train", LOCAL), CHAT, dataset="x", split="train")
        size = sum(len(chunk) for chunk in export.chunks())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 4_000_000
    assert peak < 2_500_000
