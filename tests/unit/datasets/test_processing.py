"""Processing: split, whole, free of leaks, as JSON Lines and Parquet; or not there at all."""

import asyncio
import gc
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.unit.datasets.conftest import Here
from tunesmith.datasets import processing
from tunesmith.datasets.children import Children
from tunesmith.datasets.processing import Processed
from tunesmith.datasets.reading import read_examples
from tunesmith.datasets.service import DatasetService
from tunesmith.datasets.store import DatasetStore
from tunesmith.datasets.upload import Upload
from tunesmith.datasets.uploads import UploadService
from tunesmith.datasets.worker import tasks
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Unavailable
from tunesmith.settings import Settings

NOW = datetime(2026, 11, 21, 5, 0, 0, 123456, tzinfo=UTC)
ANN, BOB = Caller("ann"), Caller("bob")
THREE = {"train": 0.8, "validation": 0.1, "test": 0.1}
Row = dict[str, Any]


def rows(count: int) -> list[Row]:
    return [
        {"instruction": f"问 {n}", "input": "" if n % 2 else f"given {n}", "output": f"答 {n}"} for n in range(count)
    ]


class Room:
    """The services of one home folder, with a worker in this process."""

    def __init__(self, database: Database, home: Home, worker: Any = None) -> None:
        self.home, worker = home, worker or Here()
        self.datasets = DatasetService(database, home, lambda: NOW, worker)
        self.uploads = UploadService(database, home, Settings(home=home.root), lambda: NOW, worker)

    def send(self, content: list[Row], caller: Caller = ANN) -> Upload:
        return self.upload(f"n{len(self.uploads.list())}", caller, content)

    def upload(self, name: str, caller: Caller, content: list[Row] | None = None) -> Upload:
        incoming = self.uploads.begin("raw.jsonl", name=name, caller=caller)
        content = rows(9) if content is None else content
        incoming.write(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in content))
        return asyncio.run(incoming.finish())

    def process(self, id: str, name: str = "town", ratios: dict[str, float] | None = None, **how: Any) -> Processed:
        return asyncio.run(self.datasets.process(id, name, ratios or THREE, **{"caller": ANN, **how}))

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.home.datasets.iterdir())


@pytest.fixture
def room(database: Database, home: Home) -> Room:
    return Room(database, home)


def lines(home: Home, name: str = "town") -> dict[str, list[str]]:
    return {path.stem: path.read_text().splitlines() for path in (home.datasets / name).glob("*.jsonl")}


# what comes out


def test_an_upload_becomes_a_dataset_of_exact_splits(room: Room, home: Home) -> None:
    made = room.process(room.send(rows(800)).id, description="小镇")
    assert made.splits == made.dataset.splits == {"train": 640, "validation": 80, "test": 80}
    assert (made.duplicates, made.leaks) == (0, 0)
    names = [f"{split}.{suffix}" for split in ("test", "train", "validation") for suffix in ("jsonl", "parquet")]
    assert sorted(path.name for path in (home.datasets / "town").iterdir()) == ["dataset.json", *names]
    dataset = made.dataset
    assert (dataset.path, dataset.owner, dataset.shape, dataset.examples) == (
        "data/processed/town",
        "ann",
        "alpaca",
        800,
    )
    assert dataset.size_bytes == sum((home.datasets / "town" / name).stat().st_size for name in names)
    assert room.datasets.get("town", ANN) == dataset
    turns = [{"role": "user", "content": "问 0\ngiven 0"}, {"role": "assistant", "content": "答 0"}]
    assert {"messages": turns} in [json.loads(line) for line in chain(*lines(home).values())]


def test_every_row_stands_in_one_split_once(room: Room, home: Home) -> None:
    room.process(room.send(rows(100)).id)
    found = [json.loads(line)["messages"][1]["content"] for line in chain(*lines(home).values())]
    assert sorted(found) == sorted(row["output"] for row in rows(100))


def test_parquet_holds_the_rows_of_the_lines(room: Room, home: Home) -> None:
    import pyarrow.parquet as pq

    content = [*rows(60), {"instruction": "s", "output": "t", "system": "be brief"}]
    room.process(room.send(content).id)
    for split, written in lines(home).items():
        table = pq.read_table(home.datasets / "town" / f"{split}.parquet")
        assert str(table.schema.field("messages").type) == "list<element: struct<role: string, content: string>>"
        assert table.to_pylist() == [json.loads(line) for line in written]


def test_the_name_of_a_processed_dataset_means_its_train_split(room: Room, home: Home) -> None:
    room.process(room.send(rows(50)).id)
    train = [example.messages for example in read_examples(home, "town")]
    assert len(train) == 40
    for name in ("town/train", "data/processed/town", "data/processed/town/train", "data/processed/town/train.jsonl"):
        assert [example.messages for example in read_examples(home, name)] == train
    assert [e.messages for e in read_examples(home, "data/processed/town/train.parquet")] == train
    assert len(list(read_examples(home, "data/processed/town/test"))) == 5
    everything = list(read_examples(home, "town/all"))
    assert len(everything) == 50
    assert str(everything[40].source) == "data/processed/town/validation.jsonl:1"
    assert room.datasets.preview("town", 50) == everything


def test_one_seed_divides_alike_wherever_the_rows_stand_and_another_otherwise(room: Room, home: Home) -> None:
    content = rows(200)
    room.process(room.send(content).id, "one")
    room.process(room.send(random.Random(1).sample(content, 200)).id, "two")
    room.process(room.send(content).id, "three", seed=7)
    one, two, three = ({split: sorted(rows) for split, rows in lines(home, n).items()} for n in ("one", "two", "three"))
    assert one == two != three


def test_prompts_that_read_alike_never_fall_into_two_splits(room: Room, home: Home) -> None:
    content = rows(60)
    spelled = [
        {"instruction": f"  问　{n} ", "input": row["input"].upper(), "output": f"other {n}"}
        for n, row in enumerate(content)
    ]
    made = room.process(room.send(content + spelled).id, ratios={"train": 0.5, "test": 0.5})
    assert (made.splits, made.leaks) == ({"train": 60, "test": 60}, 0)
    numbers = {
        split: {json.loads(line)["messages"][1]["content"].split()[1] for line in of}
        for split, of in lines(home).items()
    }
    assert not numbers["train"] & numbers["test"]


def test_exact_duplicates_are_kept_and_counted(room: Room, home: Home) -> None:
    made = room.process(room.send(rows(30) + rows(10) + rows(10)).id)
    assert (made.dataset.examples, made.duplicates, made.leaks) == (50, 20, 0)


def test_a_kept_dataset_is_processed_too_and_a_processed_one(room: Room, home: Home, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows(40)))
    kept = room.datasets.add("kept", path, caller=ANN)
    room.process(kept.id, "one")
    room.process("one", "two", {"train": 0.5, "test": 0.5})
    assert sorted(chain(*lines(home, "one").values())) == sorted(chain(*lines(home, "two").values()))
    assert room.datasets.get("two").splits == {"train": 20, "test": 20}


def test_csv_is_processed(room: Room) -> None:
    incoming = room.uploads.begin("x.csv", name="x", format="csv", caller=ANN)
    incoming.write(b"question,answer\n" + "".join(f'问{n},"a\nb"\n' for n in range(20)).encode())
    made = room.process(asyncio.run(incoming.finish()).id)
    assert (made.splits, made.dataset.shape) == ({"train": 16, "validation": 2, "test": 2}, "question_answer")


def test_a_template_shapes_the_turns(room: Room, home: Home) -> None:
    room.process(room.send(rows(10)).id, template="### 指令:\n{instruction}\n\n### 回答:\n{response}")
    found = [json.loads(line)["messages"] for line in chain(*lines(home).values())]
    assert {"role": "user", "content": "### 指令:\n问 1\n\n### 回答:\n"} in [turns[0] for turns in found]
    assert {"role": "assistant", "content": "答 1"} in [turns[1] for turns in found]


def test_a_share_of_nothing_asks_for_no_such_split(room: Room, home: Home) -> None:
    made = room.process(room.send(rows(10)).id, ratios={"train": 1, "validation": 0, "test": 0})
    assert made.splits == {"train": 10}
    assert set(lines(home)) == {"train"}


def test_a_processed_dataset_is_not_split_again(room: Room) -> None:
    room.process(room.send(rows(10)).id)
    with pytest.raises(Conflict, match="process it again under another name"):
        room.datasets.split("town", {"train": 0.5, "test": 0.5})


def test_a_long_file_is_processed_by_several_children(database: Database, home: Home) -> None:
    room = Room(database, home, Children())
    content = [{"instruction": f"{n} " + "问" * 8000, "output": "答" * 8000} for n in range(900)]
    told: list[str] = []
    made = room.process(room.send(content).id, on_progress=lambda progress: told.append(progress.phase))
    assert made.splits == {"train": 720, "validation": 90, "test": 90}
    assert [phase for phase in dict.fromkeys(told) if phase != "splitting"] == ["converting", "writing"]
    numbers = [int(example.messages[0].content.split()[0]) for example in read_examples(home, "town/train")]
    assert (numbers, len(numbers)) == (sorted(numbers), 720)


# what is refused


@pytest.mark.parametrize(
    ("content", "how", "told"),
    [
        ([*rows(40), {"instruction": "x"}], {}, "raw.jsonl:41: output: missing"),
        ([{"text": "x"}] * 9, {}, "there is only a text field"),
        (rows(2), {}, "3 splits need at least 3 different prompts; there are 2"),
        (rows(1) * 40, {}, "3 splits need at least 3 different prompts; there are 1"),
        (rows(9), {"ratios": {"train": 0.8, "test": 0.1}}, "the ratios must sum to 1, got 0.9"),
        (rows(9), {"ratios": {"train": 1.5, "test": -0.5}}, "the ratio of train must be between 0 and 1"),
        (rows(9), {"template": "{instruction}"}, "exactly one {response}"),
        (rows(9), {"template": "{instruction.__class__}{instruction}{response}"}, "unknown placeholder"),
        (rows(9), {"description": "\0"}, "description"),
    ],
)
def test_what_cannot_be_processed_is_refused_and_leaves_nothing(
    room: Room, content: list[Row], how: dict[str, Any], told: str
) -> None:
    with pytest.raises(Invalid) as caught:
        room.process(room.send(content).id, **how)
    assert told in caught.value.en
    assert (room.folders(), room.datasets.list()) == ([], [])


def test_the_first_twenty_bad_rows_are_listed(room: Room) -> None:
    with pytest.raises(Invalid, match="at least 20 bad rows") as caught:
        room.process(room.send(rows(5) + [{"instruction": "x"}] * 50).id)
    assert [row["line"] for row in caught.value.details["bad_rows"]] == list(range(6, 26))


def test_bad_rows_of_a_long_file_keep_their_lines(database: Database, home: Home) -> None:
    room = Room(database, home, Children())
    content = [{"instruction": f"{n}", "output": "答" * 8000} for n in range(1500)]
    content[3] = content[1400] = {"instruction": "x"}
    with pytest.raises(Invalid, match="has 2 bad rows") as caught:
        room.process(room.send(content).id)
    assert [row["line"] for row in caught.value.details["bad_rows"]] == [4, 1401]
    assert room.folders() == []


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "/a", "a.b", "../x", "nul", "x" * 65, "\ud800", "a\0", ".processing-x"]
)
def test_hostile_output_names_are_refused(room: Room, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        room.process(room.send(rows(9)).id, name)
    assert caught.value.details["field"] == "output_name"
    assert room.folders() == []


def test_a_taken_output_name_is_a_conflict_whoever_took_it(room: Room) -> None:
    room.process(room.send(rows(9)).id)
    with pytest.raises(Conflict):
        room.process(room.send(rows(9), BOB).id, caller=BOB)
    (room.home.datasets / "folder").mkdir()
    (room.home.datasets / "folder" / "notes.txt").write_text("x")
    (room.home.datasets / "link").symlink_to("nowhere")
    for name in ("folder", "link"):
        with pytest.raises(Conflict):
            room.process(room.send(rows(9)).id, name)
    assert room.folders() == ["folder", "link", "town"]


def test_an_empty_folder_takes_no_name(room: Room) -> None:
    (room.home.datasets / "town").mkdir()
    assert room.process(room.send(rows(9)).id).dataset in room.datasets.list(ANN)


async def test_of_many_who_process_to_one_name_at_once_exactly_one_succeeds(room: Room) -> None:
    id = (await asyncio.to_thread(room.send, rows(500))).id
    tries = [room.datasets.process(id, "town", THREE, caller=ANN, seed=n) for n in range(4)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 3 + ["Processed"]
    assert room.folders() == ["town"]


@pytest.mark.parametrize("id", ["dataset_0123456789ab", "", "../raw/x", "town", "\0", "\ud800", "x" * 9999])
def test_an_unknown_dataset_is_not_found(room: Room, id: str) -> None:
    with pytest.raises(NotFound) as caught:
        room.process(id)
    assert caught.value.en.isprintable()
    assert room.folders() == []


def test_a_full_disk_is_told_and_nothing_is_kept(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    id = room.send(rows(9)).id
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(Unavailable, match="not enough disk"):
        room.process(id)
    assert room.folders() == []


# who sees what


def test_others_cannot_process_find_or_use_what_is_not_theirs(room: Room) -> None:
    upload = room.send(rows(9))
    made = room.process(upload.id)
    for key in (upload.id, upload.name, made.dataset.id, "town"):
        assert room.datasets.find(key, ANN) in (upload, made.dataset)
        assert room.datasets.find(key) in (upload, made.dataset)
        with pytest.raises(NotFound) as caught:
            room.datasets.find(key, BOB)
        assert caught.value.en == f"there is no dataset {key}"
        with pytest.raises(NotFound):
            room.process(key, "mine", caller=BOB)
    calls: list[Callable[[], Any]] = [
        lambda: room.datasets.get("town", BOB),
        lambda: room.datasets.preview("town", 1, BOB),
        lambda: room.datasets.split("town", THREE, caller=BOB),
        lambda: room.datasets.remove("town", BOB),
    ]
    for call in calls:
        with pytest.raises(NotFound, match="there is no dataset town"):
            call()
    assert room.datasets.list(BOB) == room.datasets.everything(BOB) == []
    assert room.datasets.list(ANN) == [made.dataset]
    assert list(room.datasets.everything(ANN)) == [made.dataset, upload]


def test_a_name_is_told_as_it_was_asked_for_and_escaped_where_it_cannot_be_printed(room: Room) -> None:
    for asked, told in (("金融数据", "金融数据"), ("a\u202eb", r"'a\u202eb'"), ("a\nb", r"'a\nb'")):
        with pytest.raises(NotFound) as caught:
            room.datasets.find(asked, ANN)
        assert (caught.value.zh, caught.value.en) == (f"数据集不存在：{told}", f"there is no dataset {told}")


def test_to_an_admin_a_name_means_their_own_before_anybody_elses(room: Room) -> None:
    admin = Caller("root", admin=True)
    own = room.send(rows(9), admin)
    others = [room.upload("other", BOB), room.upload(own.name, BOB)]
    room.process(others[0].id, "town", caller=BOB)
    named = room.upload("town", admin)
    assert [room.datasets.find(name, admin) for name in (own.name, "other", "town")] == [own, others[0], named]
    assert room.datasets.find("town", BOB).owner == "bob"


def test_a_raw_file_that_is_gone_is_called_by_its_name_under_home(room: Room) -> None:
    upload = room.send(rows(9))
    (room.home.root / upload.path).unlink()
    with pytest.raises(NotFound) as caught:
        room.process(upload.id)
    assert (upload.path in caught.value.en, caught.value.details["field"]) == (True, "dataset_id")
    assert str(room.home.root) not in caught.value.en + caught.value.zh


def test_a_raw_file_that_vanishes_meanwhile_is_called_by_its_name_under_home(database: Database, home: Home) -> None:
    class Late(Here):
        """A worker that finds nothing any more."""

        async def perform(self, task: Any, answer: type[Any], on_progress: Any = None) -> Any:
            if isinstance(task, tasks.Process):
                await asyncio.to_thread(Path(task.files[0].path).unlink)
            return await super().perform(task, answer, on_progress)

    room = Room(database, home, Late())
    upload = room.send(rows(9))
    with pytest.raises(NotFound) as caught:
        room.process(upload.id)
    assert (caught.value.en, caught.value.details["field"]) == (f"there is no file {upload.path}", "dataset_id")
    assert str(home.root) not in caught.value.zh


# what canceling leaves


class Slow:
    """Lets a test cancel while a function runs in its thread: the function goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        wrapped = getattr(owner, name)

        def waits(*given: Any) -> Any:
            self.entered.set()
            assert self.go_on.wait(30)
            return wrapped(*given)

        monkeypatch.setattr(owner, name, waits)

    async def cancel(self, task: "asyncio.Task[Any]") -> None:
        """Cancel twice, as a server does that shuts down while the client leaves."""
        await asyncio.to_thread(self.entered.wait, 30)
        for _ in range(2):
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
        self.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_canceled_while_it_publishes_the_dataset_is_whole_and_recorded(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = (await asyncio.to_thread(room.send, rows(20))).id
    slow = Slow(monkeypatch, processing, "_publish")
    await slow.cancel(asyncio.create_task(room.datasets.process(id, "town", THREE, caller=ANN)))
    assert [dataset.name for dataset in room.datasets.list(ANN)] == room.folders() == ["town"]
    assert len(list(read_examples(room.home, "town/all"))) == 20


async def test_canceled_while_it_records_the_dataset_is_recorded(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    id = (await asyncio.to_thread(room.send, rows(20))).id
    slow = Slow(monkeypatch, room.datasets._processing, "_save")
    await slow.cancel(asyncio.create_task(room.datasets.process(id, "town", THREE, caller=ANN)))
    assert [dataset.name for dataset in room.datasets.list(ANN)] == room.folders() == ["town"]


async def test_canceled_while_it_prepares_nothing_is_left(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    id = (await asyncio.to_thread(room.send, rows(20))).id
    slow = Slow(monkeypatch, processing, "require_free")
    await slow.cancel(asyncio.create_task(room.datasets.process(id, "town", THREE, caller=ANN)))
    assert (room.folders(), room.datasets.list()) == ([], [])


async def test_a_failure_after_canceling_is_no_noise(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    noise: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    id = (await asyncio.to_thread(room.send, rows(20))).id
    slow = Slow(monkeypatch, processing, "_publish")
    task = asyncio.create_task(room.datasets.process(id, "town", THREE, caller=ANN))
    await asyncio.to_thread(slow.entered.wait, 30)
    (room.home.datasets / "town").write_text("in the way")
    await slow.cancel(task)
    del task
    gc.collect()
    await asyncio.sleep(0)
    assert (noise, room.folders(), room.datasets.list()) == ([], ["town"], [])


def test_a_dataset_that_cannot_be_recorded_is_not_kept(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(dataset: Any) -> None:
        raise RuntimeError("no database")

    monkeypatch.setattr(room.datasets._processing, "_save", broken)
    id = room.send(rows(20)).id
    with pytest.raises(RuntimeError, match="no database"):
        room.process(id)
    assert room.folders() == []


# what a crash leaves


def test_a_gutted_folder_is_never_adopted(room: Room, database: Database) -> None:
    for name in ("bare", "cut", "empty"):
        room.process(room.send(rows(20)).id, name)
        DatasetStore(database).delete(name)
    for name, kept in (("bare", ["dataset.json"]), ("cut", ["dataset.json", "test.jsonl"]), ("empty", [])):
        for file in (room.home.datasets / name).iterdir():
            if file.name not in kept:
                file.unlink()
    with pytest.raises(NotFound):
        room.datasets.get("cut")
    room.datasets.reconcile()
    assert (room.datasets.list(), room.folders()) == ([], ["cut"])
    room.datasets.remove("cut")
    assert room.folders() == []


async def test_canceling_kills_the_children_and_leaves_nothing(database: Database, home: Home) -> None:
    room = Room(database, home, Children())
    content = [{"instruction": f"{n}", "output": "答" * 8000} for n in range(1500)]
    id = (await asyncio.to_thread(room.send, content)).id
    begun = asyncio.Event()
    task = asyncio.create_task(room.datasets.process(id, "town", THREE, caller=ANN, on_progress=lambda _: begun.set()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (room.folders(), room.datasets.list()) == ([], [])


def test_a_folder_nobody_fills_any_more_is_deleted_at_the_next_start(room: Room) -> None:
    (room.home.datasets / ".processing-0123456789ab").mkdir()
    (room.home.datasets / ".processing-0123456789ab" / "part-0.lines").write_text("{}")
    room.datasets.reconcile()
    assert room.folders() == []


async def test_a_folder_somebody_fills_is_left_alone_at_a_start(room: Room) -> None:
    id = (await asyncio.to_thread(room.send, rows(3000))).id
    task = asyncio.create_task(room.datasets.process(id, "town", THREE, caller=ANN))
    while not any(name.startswith(".processing-") for name in room.folders()):
        await asyncio.sleep(0)
        if task.done():
            break
    await asyncio.to_thread(room.datasets.reconcile)
    assert (await task).dataset.examples == 3000


def test_a_processed_dataset_whose_record_was_lost_is_adopted(room: Room, database: Database) -> None:
    made = room.process(room.send(rows(20)).id)
    DatasetStore(database).delete("town")
    room.datasets.reconcile()
    assert room.datasets.list() == [made.dataset]


WORKER = """
import asyncio, sys
from pathlib import Path
from tunesmith.datasets.service import DatasetService
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tests.unit.datasets.conftest import Here

home = Home(Path(sys.argv[1]))
service = DatasetService(Database(f"sqlite:///{home.root}/tunesmith.db"), home, worker=Here())
for number in range(1000000):
    asyncio.run(service.process(sys.argv[2], f"d{number}", {"train": 0.5, "test": 0.5}))
    print(number, flush=True)
"""


@pytest.mark.crash
@pytest.mark.parametrize("before", [1, 3, 5])
def test_kill_9_while_processing_leaves_whole_datasets_and_true_records(room: Room, before: int) -> None:
    id = room.send(rows(300)).id
    with subprocess.Popen([sys.executable, "-c", WORKER, str(room.home.root), id], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        for _ in range(before):
            worker.stdout.readline()
        worker.send_signal(signal.SIGKILL)
    room.datasets.reconcile()
    datasets = room.datasets.list()
    assert len(datasets) >= before
    assert room.folders() == sorted(dataset.name for dataset in datasets)
    for dataset in datasets:
        assert {split: len(of) for split, of in lines(room.home, dataset.name).items()} == dataset.splits
