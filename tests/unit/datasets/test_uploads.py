"""Uploads: kept as they came, counted truly, or gone without a trace."""

import asyncio
import gc
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import Message

from tests.unit.datasets.conftest import Here
from tunesmith.datasets.children import Children
from tunesmith.datasets.reading import read_examples
from tunesmith.datasets.rows import ROW_LIMIT
from tunesmith.datasets.service import DatasetService
from tunesmith.datasets.upload import Upload, file_name
from tunesmith.datasets.upload_store import UploadStore
from tunesmith.datasets.uploads import UploadService
from tunesmith.dialects.platform_v1.datasets import routes
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, TooMany, Unavailable
from tunesmith.settings import Settings

NOW = datetime(2026, 11, 21, 5, 0, 0, 123456, tzinfo=UTC)
ANN, BOB, ADMIN = Caller("ann"), Caller("bob"), Caller("root", admin=True)
LIMIT = 12 << 20
ROWS = [{"instruction": f"问题 {n}", "output": f"答案 {n}"} for n in range(30)]
LINES = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS)
ARRAY = json.dumps(ROWS, indent=2).encode()
CSV = b"prompt,completion\n" + b"".join(f'"a ""{n}"", b\nc",d\n'.encode() for n in range(30))


@pytest.fixture
def uploads(database: Database, home: Home) -> UploadService:
    return UploadService(database, home, Settings(home=home.root, max_upload_bytes=LIMIT), lambda: NOW, Here())


def upload(service: UploadService, data: bytes, filename: str = "finance.json", **form: Any) -> Upload:
    """Send ``data`` in pieces and finish."""
    incoming = service.begin(filename, **{"name": "金融", "caller": ANN, **form})
    for at in range(0, len(data), 50_000):
        incoming.write(data[at : at + 50_000])
    return asyncio.run(incoming.finish())


def files(home: Home) -> list[str]:
    return sorted(path.name for path in home.uploads.iterdir())


# keeping


def test_an_upload_is_kept_as_it_came_and_its_rows_are_counted(uploads: UploadService, home: Home) -> None:
    kept = upload(uploads, LINES, description="金融领域")
    assert kept == Upload(
        id=kept.id,
        name="金融",
        owner="ann",
        path="data/raw/finance.json",
        format="json",
        samples=30,
        size_bytes=len(LINES),
        description="金融领域",
        created_at=NOW,
    )
    assert (home.root / kept.path).read_bytes() == LINES
    assert files(home) == ["finance.json"]
    assert uploads.get(kept.id, ANN) == kept
    assert len(list(read_examples(home, kept.path))) == 30


@pytest.mark.parametrize(
    ("data", "filename", "format"),
    [
        (LINES, "a.jsonl", "json"),
        (b"\xef\xbb\xbf" + LINES, "a.json", "json"),
        (LINES.replace(b"\n", b"\r\n"), "a.json", "json"),
        (b"\n\n" + LINES.replace(b"\n", b"\n\r\n \n", 4) + b"\n\n", "a.json", "json"),
        (LINES.rstrip(b"\n"), "a.json", "json"),
        (ARRAY, "a.json", "json"),
        (ARRAY, "a.jsonl", "json"),
        (b"\xef\xbb\xbf \n" + ARRAY, "a.json", "json"),
        (CSV, "a.csv", "csv"),
        (b"\xef\xbb\xbf" + CSV.replace(b"\n", b"\r\n"), "a.csv", "csv"),
        (json.dumps([{"any": [1, {"b": None}], "shape": 1.5}] * 30).encode(), "a.json", "json"),
    ],
)
def test_samples_are_the_rows_of_the_file_whatever_its_layout(
    uploads: UploadService, data: bytes, filename: str, format: str
) -> None:
    assert upload(uploads, data, filename, format=format).samples == 30


def test_the_form_may_come_after_the_file(uploads: UploadService) -> None:
    incoming = uploads.begin("x.csv", caller=ANN)
    incoming.write(CSV)
    incoming.name, incoming.description, incoming.format = " 表 ", "later", "csv"
    kept = asyncio.run(incoming.finish())
    assert (kept.name, kept.description, kept.path) == ("表", "later", "data/raw/x.csv")


def test_a_child_process_counts_and_tells_how_far_it_is(database: Database, home: Home) -> None:
    service = UploadService(database, home, Settings(home=home.root), worker=Children())
    incoming = service.begin("x.jsonl", name="x", caller=ANN)
    incoming.write(LINES)
    told: list[tuple[str, int, int, int]] = []
    kept = asyncio.run(incoming.finish(lambda p: told.append((p.phase, p.bytes, p.total, p.rows))))
    assert kept.samples == 30
    assert told[-1] == ("checking", len(LINES), len(LINES), 30)


def test_a_long_file_is_counted_in_two_spans_and_a_bad_row_keeps_its_line(database: Database, home: Home) -> None:
    service = UploadService(database, home, Settings(home=home.root), worker=Children())
    line = json.dumps({"text": "x" * 100_000}).encode() + b"\n"
    whole, broken = line * 400, line * 390 + b"\n{broken\n" + line * 10
    assert upload(service, whole).samples == 400
    with pytest.raises(Invalid, match=r"finance\.json:392: not valid JSON"):
        upload(service, broken, name="other")
    assert files(home) == ["finance.json"]


# names


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("finance.json", "finance.json"),
        ("金融 数据.JSONL", "金融-数据.jsonl"),
        ("データ_1-a.json", "データ_1-a.json"),
        ("हिन्दी.json", "हिन्दी.json"),
        ("../../etc/passwd", "passwd.json"),
        ("C:\\Users\\ann\\d.json", "d.json"),
        ("..\\..\\x.json", "x.json"),
        ("/etc/shadow", "shadow.json"),
        ("a\0b\n.json", "a-b.json"),
        ("\u202egnp.json", "gnp.json"),
        ("%2e%2e%2fx.json", "2e-2e-2fx.json"),
        ("..", "data.json"),
        ("", "data.json"),
        (".json", "data.json"),
        ("…．．.json", "data.json"),
        ("nul.json", "data-nul.json"),
        ("COM1", "data-COM1.json"),
        ("x.exe", "x.json"),
        ("x.json.exe", "x-json.json"),
        ("<script>.json", "script.json"),
        ("=cmd|'x'!A1.json", "cmd-x-A1.json"),
        ("-rf.json", "rf.json"),
        ("\ud800.json", "data.json"),
        ("e\u0301.json", "é.json"),
        ("x" * 10_000, "x" * 59 + ".json"),
        ("字" * 300 + ".jsonl", "字" * 58 + ".jsonl"),
        ("𠀀" * 300, "𠀀" * 59 + ".json"),
    ],
)
def test_the_name_a_client_gives_a_file_is_made_safe(uploads: UploadService, home: Home, sent: str, kept: str) -> None:
    assert upload(uploads, LINES, sent).path == f"data/raw/{kept}"
    assert files(home) == [kept]


def test_a_file_is_never_overwritten(uploads: UploadService, home: Home) -> None:
    (home.uploads / "finance-2.json").write_bytes(b"the owner's")
    paths = [upload(uploads, LINES, name=f"n{number}").path for number in range(3)]
    assert paths == [f"data/raw/finance{tail}.json" for tail in ("", "-3", "-4")]
    assert (home.uploads / "finance-2.json").read_bytes() == b"the owner's"


def test_names_that_differ_in_case_alone_are_one_name(uploads: UploadService) -> None:
    assert upload(uploads, LINES, "Finance.json", name="1").path == "data/raw/Finance.json"
    assert upload(uploads, LINES, "finance.JSON", name="2").path == "data/raw/finance-2.json"
    assert upload(uploads, LINES, "ÉTÉ.json", name="3").path == "data/raw/ÉTÉ.json"
    assert upload(uploads, LINES, "été.json", name="4").path == "data/raw/été-2.json"


def test_numbered_names_stay_within_the_limit() -> None:
    assert len(file_name("x" * 100, "csv", 123)) == 64
    assert file_name("x" * 100, "csv", 123).endswith("x-123.csv")


def test_a_name_is_given_once_by_an_owner(uploads: UploadService, home: Home) -> None:
    upload(uploads, LINES)
    with pytest.raises(Conflict, match="you already have"):
        upload(uploads, LINES)
    assert files(home) == ["finance.json"]
    assert upload(uploads, LINES, caller=BOB).path == "data/raw/finance-2.json"


def test_of_many_who_upload_one_name_at_once_exactly_one_succeeds(uploads: UploadService, home: Home) -> None:
    def send(_: int) -> str:
        try:
            return upload(uploads, LINES).path
        except Conflict:
            return "conflict"

    with ThreadPoolExecutor(4) as pool:
        outcomes = sorted(pool.map(send, range(4)))
    assert outcomes == ["conflict"] * 3 + ["data/raw/finance.json"]
    assert files(home) == ["finance.json"]


def test_of_many_who_upload_one_file_name_at_once_each_gets_its_own(uploads: UploadService, home: Home) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda number: upload(uploads, LINES, name=str(number)).path, range(12)))
    assert len(paths) == 12
    assert {f"data/raw/{name}" for name in files(home)} == paths


@pytest.mark.parametrize(
    "form",
    [
        *({"name": name} for name in ("", "  ", "x" * 129, "a\nb", "a\0", "\u202ea", "\ud800", "a\u2028b")),
        *({"description": text} for text in ("x" * 4001, "a\0b", "\x1b[31m", "\ud800")),
        *({"format": text} for text in ("xml", "JSON", "", "parquet", "\ud800")),
    ],
)
def test_a_form_that_makes_no_sense_is_refused_and_the_file_gone(
    uploads: UploadService, home: Home, form: dict[str, str]
) -> None:
    with pytest.raises(Invalid) as caught:
        upload(uploads, LINES, **form)
    assert caught.value.details["field"] == next(iter(form))
    assert caught.value.en.isprintable()
    assert (files(home), uploads.list()) == ([], [])


# what bad files get


def zipped() -> bytes:
    target = BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("x.json", LINES)
    return target.getvalue()


BAD: list[tuple[str, Callable[[], bytes], str, str]] = [
    ("0 bytes", lambda: b"", "json", "the file is empty"),
    ("only white space", lambda: b" \n\n ", "json", "no rows"),
    ("an empty array", lambda: b"[]", "json", "no rows"),
    ("a header alone", lambda: b"a,b\n", "csv", "no rows"),
    ("zip sent as JSON", zipped, "json", "a zip file; unpack it first"),
    ("gzip sent as JSON", lambda: gzip.compress(LINES), "json", "a gzip file; unpack it first"),
    ("Parquet sent as JSON", lambda: b"PAR1" + bytes(20), "json", "a Parquet file, but it is read as json"),
    ("UTF-16", lambda: LINES.decode().encode("utf-16"), "json", "UTF-16 or UTF-32; save it as UTF-8"),
    ("UTF-16 without a mark", lambda: LINES.decode().encode("utf-16-le"), "json", "UTF-16 or UTF-32"),
    ("UTF-32", lambda: LINES.decode().encode("utf-32"), "json", "UTF-16 or UTF-32"),
    ("GBK", lambda: LINES.decode().encode("gbk"), "json", ":1: instruction: byte 17 (from 0) is not UTF-8"),
    ("GBK as CSV", lambda: "问,答\n1,2\n".encode("gbk"), "csv", ":1: byte 0 (from 0) is not UTF-8"),
    ("NULs at the beginning", lambda: bytes(100), "json", "NUL"),
    ("a NUL within", lambda: LINES.replace(b"7", b"\0", 1), "json", ":8: "),
    ("a NUL in CSV", lambda: b"a,b\n1,\0\n", "csv", ":2: byte 6 is NUL"),
    ("nesting of a million in an array", lambda: b"[" * 10**6, "json", "nested too deep"),
    ("nesting of half a million in a line", lambda: b'{"a":' * 500_000 + b"1" + b"}" * 500_000, "json", "too deep"),
    ("nesting of a million in a row", lambda: b'{"a":1}\n' + b'{"a":' + b"[" * 10**6 + b"\n", "json", ":2: "),
    ("an array that is cut", lambda: ARRAY[:-20], "json", "never closed"),
    ("an array without its end", lambda: ARRAY.rstrip()[:-1], "json", "no closing ]"),
    ("something after the array", lambda: ARRAY + b"{}", "json", "after the end of the array"),
    ("a line that is cut", lambda: LINES[:-9], "json", ":30: not complete JSON"),
    ("one object over lines", lambda: json.dumps({"data": ROWS}, indent=1).encode(), "json", "one JSON object"),
    ("rows that are no objects", lambda: b'{"a":1}\n[1]\n', "json", ":2: each row should be a JSON object"),
    ("an array of no objects", lambda: b'[{"a":1}, 2]', "json", ":1: each row should be a JSON object"),
    ("NaN", lambda: b'{"a":NaN}\n', "json", "not valid JSON"),
    ("a lone surrogate", lambda: b'{"a":"\\ud800"}\n', "json", "surrogate"),
    ("a number without end", lambda: b'{"a":' + b"9" * 5000 + b"}\n", "json", "out of range"),
    ("a huge row", lambda: b'{"a":"' + b"x" * (ROW_LIMIT + 1) + b'"}\n', "json", "over 4 MB"),
    ("a huge row of an array", lambda: b'[{"a":"' + b"x" * (ROW_LIMIT + 1) + b'"}]', "json", "over 4 MB"),
    ("a row of many fields", lambda: json.dumps({str(n): n for n in range(1001)}).encode(), "json", "1001 fields"),
    ("CSV sent as JSON", lambda: CSV, "json", "if it is CSV, send format=csv"),
    ("JSON sent as CSV", lambda: LINES, "csv", "it holds JSON"),
    ("an array sent as CSV", lambda: ARRAY, "csv", "it holds JSON"),
    ("one huge cell", lambda: b'a,b\n"' + b"x" * (ROW_LIMIT + 1) + b'",1\n', "csv", ":2: "),
    ("a million columns", lambda: b"a" + b",a" * 10**6 + b"\n", "csv", "1000001 columns, at most 1000"),
    ("an unclosed quote", lambda: b'a,b\n"1,2\n' + b"3,4\n" * 10, "csv", "never closed"),
    ("an unclosed quote before much", lambda: b'a,b\n"1,2\n' + b"3,4\n" * (ROW_LIMIT // 4), "csv", "never closed"),
    ("rows of other widths", lambda: b"a,b\n1,2\n1,2,3\n", "csv", ":3: expected 2 cells, got 3"),
    ("lines ended by CR alone", lambda: b"a,b\r1,2\r", "csv", "carriage return"),
    ("a header that repeats", lambda: b"a,a\n1,2\n", "csv", "names 'a' twice"),
]


@pytest.mark.parametrize(("data", "format", "told"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_broken_file_is_refused_with_its_reason_and_is_gone(
    uploads: UploadService, home: Home, data: Callable[[], bytes], format: str, told: str
) -> None:
    with pytest.raises(Invalid) as caught:
        upload(uploads, data(), f"bad.{format}", format=format)
    assert told in caught.value.en
    assert f"bad.{format}" in caught.value.en
    assert (caught.value.zh, len(caught.value.en) < 4000) != (caught.value.en, False)
    assert (files(home), uploads.list()) == ([], [])


def test_at_most_twenty_bad_rows_are_listed(uploads: UploadService) -> None:
    with pytest.raises(Invalid, match="at least 20 bad rows") as caught:
        upload(uploads, LINES + b"x\n" * 1000)
    assert [row["line"] for row in caught.value.details["bad_rows"]] == list(range(31, 51))


def test_a_file_over_the_limit_is_refused_while_it_comes_and_is_gone(uploads: UploadService, home: Home) -> None:
    incoming = uploads.begin("x.json", name="x", caller=ANN)
    incoming.write(bytes(LIMIT))
    with pytest.raises(Invalid, match="over the limit of 12 MB") as caught:
        incoming.write(b"x")
    assert (caught.value.details["reason"], caught.value.details["limit_bytes"]) == ("too_large", LIMIT)
    incoming.abort()
    assert files(home) == []


def test_a_file_of_just_the_limit_is_taken(uploads: UploadService) -> None:
    assert upload(uploads, LINES + b"\n" * (LIMIT - len(LINES))).size_bytes == LIMIT


def test_an_upload_that_is_cut_leaves_nothing(uploads: UploadService, home: Home) -> None:
    incoming = uploads.begin("x.json", name="x", caller=ANN)
    incoming.write(LINES[:99])
    incoming.abort()
    incoming.abort()
    assert files(home) == []
    with pytest.raises((Invalid, ValueError)):
        asyncio.run(incoming.finish())
    assert (files(home), uploads.list()) == ([], [])


def test_a_full_disk_is_told_before_and_while_the_file_comes(
    uploads: UploadService, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    incoming = uploads.begin("x.json", name="x", caller=ANN)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(Unavailable, match="not enough disk"):
        uploads.begin("y.json", caller=ANN)
    monkeypatch.setattr("tunesmith.datasets.uploads._LOOK_EVERY", 1)
    incoming._free_at = 1
    with pytest.raises(Unavailable, match="not enough disk"):
        incoming.write(LINES)
    incoming.abort()
    assert files(home) == []


async def test_canceling_ends_the_child_and_leaves_nothing(database: Database, home: Home) -> None:
    class Endless:
        """A worker that never answers."""

        def __init__(self) -> None:
            self.asked = asyncio.Event()

        async def perform(self, task: Any, answer: type[Any], on_progress: Any = None) -> Any:
            self.asked.set()
            await asyncio.Event().wait()

    worker = Endless()
    service = UploadService(database, home, Settings(home=home.root), worker=worker)
    incoming = service.begin("x.json", name="x", caller=ANN)
    incoming.write(LINES)
    task = asyncio.create_task(incoming.finish())
    await worker.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (files(home), service.list()) == ([], [])


# who sees what


def test_others_uploads_are_answered_like_missing_ones(uploads: UploadService, home: Home) -> None:
    kept = upload(uploads, LINES)
    assert uploads.list(ANN) == uploads.list(ADMIN) == [kept]
    assert uploads.list(BOB) == []
    for call in (uploads.get, uploads.remove):
        with pytest.raises(NotFound) as other:
            call(kept.id, BOB)
        with pytest.raises(NotFound) as absent:
            call("dataset_0123456789ab", BOB)
        assert other.value.en == absent.value.en.replace("dataset_0123456789ab", kept.id)
    uploads.remove(kept.id, ANN)
    assert (files(home), uploads.list()) == ([], [])


@pytest.mark.parametrize("id", ["", "dataset_", "../x", "dataset_0123456789ab\n", "\0", "\ud800", "x" * 9999])
def test_hostile_ids_are_not_found(uploads: UploadService, id: str) -> None:
    with pytest.raises(NotFound) as caught:
        uploads.get(id, ADMIN)
    assert caught.value.en.isprintable()


# what a crash leaves


def test_a_file_nobody_writes_any_more_is_deleted_at_the_next_start(uploads: UploadService, home: Home) -> None:
    incoming = uploads.begin("x.json", name="x", caller=ANN)
    incoming.write(LINES)
    uploads.reconcile()
    assert files(home) == [incoming.path.name]  # somebody is writing it
    (home.uploads / ".upload-dataset_0123456789ab").write_bytes(LINES)
    (home.uploads / "mine.json").write_bytes(LINES)
    uploads.reconcile()
    assert files(home) == [incoming.path.name, "mine.json"]
    incoming.abort()


def test_a_record_whose_file_was_not_renamed_yet_gets_it(
    uploads: UploadService, home: Home, database: Database
) -> None:
    kept = upload(uploads, LINES)
    path, waiting = home.root / kept.path, home.uploads / f".upload-{kept.id}"
    path.rename(waiting)  # killed before the rename
    uploads.reconcile()
    assert (files(home), path.read_bytes()) == (["finance.json"], LINES)
    os.link(path, waiting)  # killed between the two halves of the rename
    uploads.reconcile()
    assert (files(home), uploads.list()) == (["finance.json"], [kept])
    path.unlink()
    UploadStore(database).insert(lambda: [replace(kept, id="dataset_0123456789ab", name="2", path="data/raw/b.json")])
    uploads.reconcile()
    assert uploads.list() == []


async def test_an_upload_canceled_before_its_first_step_leaves_nothing(uploads: UploadService, home: Home) -> None:
    incoming = uploads.begin("x.json", name="x", caller=ANN)
    task = asyncio.ensure_future(incoming.finish())
    task.cancel()
    await asyncio.wait([task])
    del incoming, task
    gc.collect()
    assert files(home) == []
    for _ in range(4):
        uploads.place(ANN)


def test_one_bad_entry_keeps_neither_the_server_nor_the_others_waiting(
    uploads: UploadService, home: Home, tmp_path: Path
) -> None:
    kept = [upload(uploads, LINES, name=str(number)) for number in range(4)]
    paths = [home.root / each.path for each in kept]
    waiting = [home.uploads / f".upload-{each.id}" for each in kept]
    paths[0].unlink()
    paths[0].symlink_to(tmp_path / "nowhere")  # recorded, but a link now
    paths[1].rename(waiting[1])
    paths[1].symlink_to(tmp_path / "nowhere")  # not renamed yet, and a link stands in the way
    paths[2].rename(waiting[2])
    paths[2].write_bytes(b"mine")  # not renamed yet, and another file stands in the way
    paths[3].rename(waiting[3])
    (home.uploads / ".upload-dataset_0").mkdir()
    uploads.reconcile()
    assert {each.id for each in uploads.list()} == {each.id for each in kept}
    assert (paths[2].read_bytes(), waiting[2].read_bytes(), paths[3].read_bytes()) == (b"mine", LINES, LINES)


# how many at once


def test_of_one_caller_four_uploads_are_under_way_at_most(uploads: UploadService, home: Home) -> None:
    coming = [uploads.begin("x.json", name="x", caller=ANN) for _ in range(4)]
    with pytest.raises(TooMany) as caught:
        uploads.begin("x.json", caller=ANN)
    assert caught.value.details["retry_after"] == 10
    with pytest.raises(TooMany):
        uploads.place(ANN)
    assert len(files(home)) == 4
    uploads.begin("x.json", caller=BOB).abort()
    coming[0].write(LINES)
    asyncio.run(coming[0].finish())
    coming[1].abort()
    coming[1].abort()  # leaves one place, however often
    again = [uploads.begin("x.json", caller=ANN) for _ in range(2)]
    with pytest.raises(TooMany):
        uploads.begin("x.json", caller=ANN)
    for incoming in coming + again:
        incoming.abort()


def test_of_all_callers_sixteen_uploads_are_under_way_at_most(uploads: UploadService) -> None:
    places = [uploads.place(Caller(f"user{number % 8}")) for number in range(16)]
    with pytest.raises(TooMany, match="the server has too many"):
        uploads.place(ANN)
    for place in places:
        place.leave()
        place.leave()
    incoming = uploads.begin("x.json", caller=ANN, place=uploads.place(ANN))
    others = [uploads.place(ANN) for _ in range(3)]
    with pytest.raises(TooMany):
        uploads.place(ANN)
    incoming.abort()
    assert uploads.place(ANN) not in others


async def test_a_caller_with_too_many_uploads_is_refused_before_a_byte_is_read(uploads: UploadService) -> None:
    async def receive() -> Message:
        raise AssertionError("the body was read")

    route = next(
        r
        for r in routes(cast(DatasetService, None), uploads).routes
        if isinstance(r, APIRoute) and r.path.endswith("/upload")
    )
    request = Request({"type": "http", "headers": [], "state": {"tunesmith.caller": ANN}}, receive)
    places = [uploads.place(ANN) for _ in range(4)]
    with pytest.raises(TooMany):
        await route.endpoint(request)
    places[0].leave()
    for _ in range(2):
        with pytest.raises(Invalid, match="multipart"):  # refused now for what it is, and its place given back
            await route.endpoint(request)


def test_an_upload_that_cannot_begin_holds_no_place(uploads: UploadService, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
        for _ in range(5):
            with pytest.raises(Unavailable):
                uploads.begin("x.json", caller=ANN)
    uploads.begin("x.json", caller=ANN).abort()


def test_a_file_that_vanishes_while_it_is_counted_is_called_by_its_own_name(uploads: UploadService, home: Home) -> None:
    incoming = uploads.begin("town.json", name="x", caller=ANN)
    incoming.path.unlink()
    with pytest.raises(NotFound) as caught:
        asyncio.run(incoming.finish())
    assert (caught.value.en, caught.value.details["field"]) == ("there is no file town.json", "file")


WRITER = """
import asyncio, sys
from pathlib import Path
from tunesmith.datasets.uploads import UploadService
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.settings import Settings
from tests.unit.datasets.conftest import Here

home = Home(Path(sys.argv[1]))
service = UploadService(Database(f"sqlite:///{home.root}/tunesmith.db"), home, Settings(home=home.root), worker=Here())
print("ready", flush=True)
for number in range(1000000):
    incoming = service.begin("x.jsonl", name=str(number))
    incoming.write(b'{"a": 1}\\n' * 50)
    print(asyncio.run(incoming.finish()).path, flush=True)
"""


@pytest.mark.crash
@pytest.mark.parametrize("uploads_before", [1, 3, 6, 9])
def test_kill_9_while_uploading_loses_nothing_that_was_answered(
    uploads: UploadService, home: Home, uploads_before: int
) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(home.root)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        answered = [writer.stdout.readline().decode().strip() for _ in range(uploads_before)]
        writer.send_signal(signal.SIGKILL)
        answered += writer.stdout.read().decode().split()
    uploads.reconcile()
    known = {kept.path for kept in uploads.list()}
    assert set(answered) <= known
    assert known == {f"data/raw/{name}" for name in files(home)}
    assert all((home.root / path).read_bytes() == b'{"a": 1}\n' * 50 for path in known)
