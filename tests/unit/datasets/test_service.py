"""Datasets kept by name: whole or absent, however they come to be and go."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tunesmith.datasets import service as module
from tunesmith.datasets.dataset import Dataset
from tunesmith.datasets.folder import alone
from tunesmith.datasets.reading import read_examples
from tunesmith.datasets.service import DatasetService
from tunesmith.datasets.store import DatasetStore
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound, Problem, Unavailable

NOW = datetime(2026, 11, 21, 5, 0, 0, 123456, tzinfo=UTC)
THREE = {"train": 0.8, "validation": 0.1, "test": 0.1}


@pytest.fixture
def datasets(database: Database, home: Home) -> DatasetService:
    return DatasetService(database, home, lambda: NOW)


def source(tmp_path: Path, rows: int = 100, *extra: str) -> Path:
    path = tmp_path / "town.jsonl"
    lines = [json.dumps({"prompt": f"问{n}", "completion": f"答{n}", "id": n}, ensure_ascii=False) for n in range(rows)]
    path.write_text("\n".join([*lines, *extra]) + "\n", encoding="utf-8")
    return path


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def left_over(home: Home) -> list[str]:
    return sorted(path.name for path in home.datasets.iterdir() if path.name.startswith("."))


# adding


def test_a_dataset_is_kept_as_messages_with_a_manifest_that_tells_how_it_came(
    datasets: DatasetService, home: Home, tmp_path: Path
) -> None:
    kept = datasets.add("town", source(tmp_path, 3), caller=Caller("ann"), description="facts\nof a town")
    folder = home.datasets / "town"
    size = (folder / "all.jsonl").stat().st_size
    values = {"shape": "prompt_completion", "examples": 3, "skipped": 0, "splits": {}, "size_bytes": size}
    told = {"id": kept.id, "description": "facts\nof a town", "created_at": NOW}
    assert kept == Dataset(name="town", owner="ann", **values, **told)  # type: ignore[arg-type]
    assert re.fullmatch("dataset_[0-9a-f]{12}", kept.id)
    assert kept.path == "data/processed/town"
    assert sorted(path.name for path in folder.iterdir()) == ["all.jsonl", "dataset.json"]
    assert rows_of(folder / "all.jsonl")[1] == {
        "messages": [{"role": "user", "content": "问1"}, {"role": "assistant", "content": "答1"}]
    }
    manifest = json.loads((folder / "dataset.json").read_bytes())
    assert manifest["sha256"] == hashlib.sha256((folder / "all.jsonl").read_bytes()).hexdigest()
    assert (manifest["format"], manifest["source"], manifest["split"]) == ("jsonl", "town.jsonl", None)
    assert str(tmp_path) not in json.dumps(manifest)
    assert left_over(home) == []


def test_a_kept_dataset_is_found_again_by_every_service_on_the_same_home(
    datasets: DatasetService, database: Database, home: Home, tmp_path: Path
) -> None:
    one = datasets.add("one", source(tmp_path))
    two = replace(datasets.add("二", source(tmp_path)), created_at=NOW)
    other = DatasetService(database, home)
    assert other.list() == [one, two]
    assert other.get("二") == two


def test_a_file_with_bad_rows_is_refused_and_nothing_is_kept(
    datasets: DatasetService, home: Home, tmp_path: Path
) -> None:
    with pytest.raises(Invalid, match=r"town\.jsonl:101: completion: expected string, got int 5"):
        datasets.add("town", source(tmp_path, 100, '{"prompt": "a", "completion": 5}'))
    assert list(home.datasets.iterdir()) == []
    assert datasets.list() == []
    with pytest.raises(NotFound):
        datasets.get("town")


def test_bad_rows_may_be_set_aside_with_their_reasons(datasets: DatasetService, home: Home, tmp_path: Path) -> None:
    path = source(
        tmp_path, 100, '{"prompt": "a", "completion": 5}', "{broken", '{"prompt": "x", "completion": "\\ud800"}'
    )
    kept = datasets.add("town", path, skip_bad=True)
    assert (kept.examples, kept.skipped) == (100, 3)
    first, second, third = rows_of(home.datasets / "town" / "quarantine.jsonl")
    assert first == {
        "file": "town.jsonl",
        "line": 101,
        "field": "completion",
        "zh": "应为字符串，得到 int 5；请写成一段文本，例如用引号括起",
        "en": "expected string, got int 5; write it as one text, in quotes",
        "row": {"prompt": "a", "completion": 5},
    }
    assert (second["line"], second["row"]) == (102, "{broken")
    assert third["line"] == 103
    assert "surrogate" in third["en"]


def test_quarantine_holds_whatever_a_parquet_row_holds(datasets: DatasetService, home: Home, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    moment = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [{"prompt": "a", "completion": "b", "system": None}, {"prompt": "a", "completion": None, "system": moment}]
    schema = pa.schema({"prompt": pa.string(), "completion": pa.string(), "system": pa.timestamp("us", "UTC")})
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "x.parquet")
    assert datasets.add("x", tmp_path / "x.parquet", skip_bad=True).skipped == 1
    (row,) = rows_of(home.datasets / "x" / "quarantine.jsonl")
    assert row["row"]["system"].startswith("2026-01-01")


def test_a_file_without_one_good_row_is_refused_even_when_bad_ones_may_be_skipped(
    datasets: DatasetService, home: Home, tmp_path: Path
) -> None:
    with pytest.raises(Invalid, match="none of its 1 rows can be used"):
        datasets.add("town", source(tmp_path, 0, '{"prompt": "a", "completion": 5}'), skip_bad=True)
    assert list(home.datasets.iterdir()) == []


def test_a_name_is_given_once(datasets: DatasetService, home: Home, tmp_path: Path) -> None:
    kept = datasets.add("town", source(tmp_path, 3))
    with pytest.raises(Conflict):
        datasets.add("town", source(tmp_path, 5))
    assert datasets.get("town") == kept
    assert len(rows_of(home.datasets / "town" / "all.jsonl")) == 3


def test_of_many_who_add_one_name_at_once_exactly_one_succeeds(
    datasets: DatasetService, home: Home, tmp_path: Path
) -> None:
    path = source(tmp_path, 2000)

    def add(_: int) -> str:
        try:
            return datasets.add("town", path).name
        except Conflict:
            return "conflict"

    with ThreadPoolExecutor(6) as pool:
        outcomes = sorted(pool.map(add, range(6)))
    assert outcomes == ["conflict"] * 5 + ["town"]
    assert len(rows_of(home.datasets / "town" / "all.jsonl")) == 2000
    assert left_over(home) == []


BAD_NAMES = [
    *("", ".", "..", "a/b", "../a", "/a", "a.b", ".partial-x", "-a", "a b", "a\0", "a\n", "a\\b", "%2e", "nul", "COM1"),
    *("x" * 65, "字" * 100, "\u202ea", "\ud800", "a:b", "~"),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_hostile_names_are_refused_everywhere(datasets: DatasetService, tmp_path: Path, name: str) -> None:
    path = source(tmp_path, 3)
    calls = [
        lambda: datasets.add(name, path),
        lambda: datasets.split(name, THREE),
        lambda: datasets.remove(name),
        lambda: datasets.preview(name, 1),
        lambda: datasets.get(name),
    ]
    for call in calls:
        with pytest.raises((Invalid, NotFound)) as caught:
            call()
        assert caught.value.en.isprintable()


@pytest.mark.parametrize("name", ["town", "城镇", "Ünï-1", "a_b-c", "1", "x" * 64])
def test_names_of_any_script_are_welcome(datasets: DatasetService, home: Home, tmp_path: Path, name: str) -> None:
    datasets.add(name, source(tmp_path, 3))
    assert len(list(read_examples(home, name))) == 3


def test_a_source_that_is_not_there_or_no_file_is_refused_before_anything_is_made(
    datasets: DatasetService, home: Home, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "no.json", NotFound), (tmp_path, Invalid), (tmp_path / "pipe", Invalid)):
        with pytest.raises(kind):
            datasets.add("town", path)
    assert list(home.datasets.iterdir()) == []


def test_a_full_disk_is_told_and_nothing_is_kept(
    datasets: DatasetService, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", full)
        with pytest.raises(Unavailable, match="the disk is full"):
            datasets.add("town", path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
        with pytest.raises(Unavailable, match="not enough disk"):
            datasets.add("town", path)
    assert list(home.datasets.iterdir()) == []


# reading


def test_a_dataset_is_read_by_its_name_and_its_splits(datasets: DatasetService, home: Home, tmp_path: Path) -> None:
    datasets.add("town", source(tmp_path))
    for name in ("town/test", "data/processed/town/test"):
        with pytest.raises(NotFound, match="has no split test; split it first"):
            list(read_examples(home, name))
    assert list(read_examples(home, "./data//processed/town")) != []
    assert len(list(read_examples(home, "town"))) == 100
    kept = datasets.split("town", THREE)
    for split, count in kept.splits.items():
        examples = list(read_examples(home, f"town/{split}"))
        assert len(examples) == count > 0
        assert str(examples[0].source) == f"town/{split}:1"
        assert [e.messages for e in read_examples(home, f"data/processed/town/{split}")] == [
            e.messages for e in examples
        ]
    assert kept.size_bytes == sum(path.stat().st_size for path in home.datasets.rglob("*.jsonl"))
    assert len(list(read_examples(home, "town"))) == kept.splits["train"]
    assert len(list(read_examples(home, "town/all"))) == 100


def test_what_a_wire_says_of_format_and_shape_does_not_confuse_a_kept_dataset(
    datasets: DatasetService, home: Home, tmp_path: Path
) -> None:
    datasets.add("town", source(tmp_path, 3))
    assert len(list(read_examples(home, "town", format="csv", shape="alpaca"))) == 3


def test_a_folder_that_is_no_dataset_leaves_its_name_to_files(home: Home) -> None:
    (home.root / "town").mkdir()
    (home.root / "town" / "test").write_text('{"prompt": "a", "completion": "b"}')
    (home.datasets / "town").mkdir()
    assert len(list(read_examples(home, "town/test"))) == 1


def test_a_manifest_that_is_a_link_or_points_elsewhere_is_not_followed(
    datasets: DatasetService, home: Home, tmp_path: Path
) -> None:
    datasets.add("town", source(tmp_path, 10))
    datasets.split("town", {"train": 0.5, "test": 0.5})
    path = home.datasets / "town" / "dataset.json"
    manifest = json.loads(path.read_bytes())
    for folder in ("../../..", "split-../x", "/etc", "split-zzzzzzzz"):
        path.write_text(json.dumps({**manifest, "split": {**manifest["split"], "folder": folder}}))
        with pytest.raises(Invalid, match="damaged"):
            list(read_examples(home, "town/test"))
    path.write_text(json.dumps({**manifest, "name": "other"}))
    with pytest.raises(Invalid, match="damaged"):
        list(read_examples(home, "town"))
    (tmp_path / "dataset.json").write_text(json.dumps(manifest))
    path.unlink()
    path.symlink_to(tmp_path / "dataset.json")
    with pytest.raises(Forbidden):
        list(read_examples(home, "town"))


def test_preview_shows_the_first_examples(datasets: DatasetService, tmp_path: Path) -> None:
    datasets.add("town", source(tmp_path))
    assert [example.completion for example in datasets.preview("town", 2)] == ["答0", "答1"]
    assert len(datasets.preview("town", 1000)) == 100
    for n in (0, -1, 1001):
        with pytest.raises(Invalid):
            datasets.preview("town", n)
    with pytest.raises(NotFound):
        datasets.preview("other", 1)


# splitting


def splits_on_disk(home: Home, name: str = "town") -> dict[str, list[str]]:
    manifest = json.loads((home.datasets / name / "dataset.json").read_bytes())
    folder = home.datasets / name / manifest["split"]["folder"]
    return {path.stem: path.read_text().splitlines() for path in folder.iterdir()}


def test_a_split_holds_every_example_once_and_says_how_many(
    datasets: DatasetService, home: Home, tmp_path: Path
) -> None:
    datasets.add("town", source(tmp_path))
    kept = datasets.split("town", THREE, seed=7)
    found = splits_on_disk(home)
    assert {name: len(rows) for name, rows in found.items()} == kept.splits == datasets.get("town").splits
    assert sorted(chain(*found.values())) == sorted((home.datasets / "town" / "all.jsonl").read_text().splitlines())


def test_a_question_asked_twice_is_never_in_two_splits(datasets: DatasetService, home: Home, tmp_path: Path) -> None:
    path = source(tmp_path, 50)
    path.write_text(path.read_text() * 3)
    datasets.add("town", path)
    datasets.split("town", {"train": 0.5, "test": 0.5})
    found = splits_on_disk(home)
    assert not set(found["train"]) & set(found["test"])
    assert len(found["train"]) + len(found["test"]) == 150


def test_one_seed_splits_alike_and_another_replaces_the_split_whole(
    datasets: DatasetService, home: Home, tmp_path: Path
) -> None:
    datasets.add("town", source(tmp_path))
    datasets.split("town", THREE, seed=1)
    first = splits_on_disk(home)
    reader = read_examples(home, "town/train")
    opened = next(reader)
    datasets.split("town", {"train": 0.5, "test": 0.5}, seed=2)
    assert set(splits_on_disk(home)) == {"train", "test"}
    datasets.split("town", THREE, seed=1)
    assert splits_on_disk(home) == first
    # who was reading reads the old split to its end
    assert [opened, *reader] == list(read_examples(home, "town/train"))
    assert len([path for path in (home.datasets / "town").iterdir() if path.is_dir()]) == 1


def test_a_split_that_cannot_be_leaves_the_earlier_one(
    datasets: DatasetService, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets.add("town", source(tmp_path, 2))
    kept = datasets.split("town", {"train": 0.5, "test": 0.5})
    before = splits_on_disk(home)
    with pytest.raises(Invalid, match="3 splits need at least 3 different examples; there are 2"):
        datasets.split("town", THREE)
    with pytest.raises(Invalid, match="sum to 1"):
        datasets.split("town", {"train": 0.5})
    with pytest.raises(NotFound):
        datasets.split("other", THREE)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_divide", full)
    with pytest.raises(Unavailable):
        datasets.split("town", {"train": 0.9, "test": 0.1})
    assert splits_on_disk(home) == before
    assert datasets.get("town") == kept
    assert [path.name for path in (home.datasets / "town").iterdir() if path.name.startswith(".")] == []


def test_many_who_split_at_once_leave_one_whole_split(datasets: DatasetService, home: Home, tmp_path: Path) -> None:
    datasets.add("town", source(tmp_path, 300))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda seed: datasets.split("town", THREE, seed=seed), range(12)))
    found = splits_on_disk(home)
    assert {name: len(rows) for name, rows in found.items()} == datasets.get("town").splits
    assert sum(map(len, found.values())) == 300
    assert len([path for path in (home.datasets / "town").iterdir() if path.is_dir()]) == 1


# removing and reconciling


def test_a_removed_dataset_is_gone_and_its_name_free(datasets: DatasetService, home: Home, tmp_path: Path) -> None:
    datasets.add("town", source(tmp_path, 3))
    datasets.remove("town")
    assert list(home.datasets.iterdir()) == []
    for call in (datasets.get, datasets.remove):
        with pytest.raises(NotFound):
            call("town")
    assert datasets.add("town", source(tmp_path, 4)).examples == 4


def test_a_folder_we_did_not_make_is_never_deleted(datasets: DatasetService, home: Home) -> None:
    (home.datasets / "mine").mkdir()
    (home.datasets / "mine" / "notes.txt").write_text("x")
    (home.datasets / "loose.txt").write_text("x")
    with pytest.raises(NotFound):
        datasets.remove("mine")
    datasets.reconcile()
    assert (home.datasets / "mine" / "notes.txt").exists()
    assert (home.datasets / "loose.txt").exists()
    assert datasets.list() == []


def test_a_dataset_whose_record_was_lost_is_adopted(
    datasets: DatasetService, database: Database, tmp_path: Path
) -> None:
    datasets.add("town", source(tmp_path))
    kept = datasets.split("town", THREE)
    DatasetStore(database).delete("town")
    assert datasets.list() == []
    datasets.reconcile()
    assert datasets.list() == [kept]
    DatasetStore(database).delete("town")
    assert datasets.get("town") == kept


def test_a_record_that_differs_from_the_folder_is_corrected_and_one_without_folder_forgotten(
    datasets: DatasetService, database: Database, home: Home, tmp_path: Path
) -> None:
    kept = datasets.add("town", source(tmp_path))
    datasets.add("gone", source(tmp_path))
    DatasetStore(database).save(replace(kept, splits={"train": 7}))
    shutil.rmtree(home.datasets / "gone")
    datasets.reconcile()
    assert datasets.list() == [kept]


def test_what_a_crash_left_is_swept_but_not_what_somebody_is_writing(
    datasets: DatasetService, home: Home, tmp_path: Path
) -> None:
    datasets.add("town", source(tmp_path))
    datasets.split("town", THREE)
    before = splits_on_disk(home)
    for name in (".removed-1-x", ".partial-old-x", ".partial-new-x", "town/split-00000000", "town/.partial-1-split-1"):
        (home.datasets / name).mkdir()
        (home.datasets / name / "all.jsonl").write_text("{}")
    long_ago = time.time() - 7200
    for path in (home.datasets / ".partial-old-x", home.datasets / ".partial-old-x" / "all.jsonl"):
        os.utime(path, (long_ago, long_ago))
    datasets.reconcile()
    assert left_over(home) == [".partial-new-x"]
    assert len(list((home.datasets / "town").iterdir())) == 3
    assert splits_on_disk(home) == before


def test_reconciling_does_not_wait_for_somebody_who_is_splitting(
    datasets: DatasetService, home: Home, tmp_path: Path
) -> None:
    datasets.add("town", source(tmp_path))
    with alone(home.datasets / "town", "town"):
        datasets.reconcile()
    assert [dataset.name for dataset in datasets.list()] == ["town"]


def test_a_damaged_dataset_is_told_and_can_be_removed(datasets: DatasetService, home: Home, tmp_path: Path) -> None:
    datasets.add("town", source(tmp_path))
    (home.datasets / "town" / "dataset.json").write_text("{")
    with pytest.raises(Invalid, match="damaged"):
        list(read_examples(home, "town"))
    with pytest.raises(Problem):
        datasets.split("town", THREE)
    datasets.reconcile()
    datasets.remove("town")
    assert list(home.datasets.iterdir()) == []


WORKER = """
import sys
from pathlib import Path
from tunesmith.datasets.service import DatasetService
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
home = Home(Path(sys.argv[1]))
datasets = DatasetService(Database(f"sqlite:///{home.root}/tunesmith.db"), home)
print("ready", flush=True)
for number in range(1000000):
    datasets.split("town", {"train": 0.5, "test": 0.5}, seed=number)
    datasets.add(f"extra{number}", Path(sys.argv[2]))
    datasets.remove(f"extra{number}")
"""


@pytest.mark.crash
@pytest.mark.parametrize("delay", [0.05, 0.11, 0.23, 0.31])
def test_kill_9_between_any_two_lines_leaves_whole_datasets_and_true_records(
    datasets: DatasetService, home: Home, tmp_path: Path, delay: float
) -> None:
    path = source(tmp_path, 400)
    datasets.add("town", path)
    datasets.split("town", THREE)
    command = [sys.executable, "-c", WORKER, str(home.root), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        time.sleep(delay)
        worker.send_signal(signal.SIGKILL)
    datasets.reconcile()
    found = splits_on_disk(home)
    assert {name: len(rows) for name, rows in found.items()} == datasets.get("town").splits
    assert sorted(chain(*found.values())) == sorted((home.datasets / "town" / "all.jsonl").read_text().splitlines())
    names = [dataset.name for dataset in datasets.list()]
    assert sorted(names) == sorted(p.name for p in home.datasets.iterdir() if not p.name.startswith("."))
    for dataset in datasets.list():
        assert len(list(read_examples(home, f"{dataset.name}/all"))) == dataset.examples == 400
