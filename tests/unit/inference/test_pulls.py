"""Pulls as jobs: a real record, and a real socket behind which each test plays Ollama."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web

from tunesmith.inference.engines.ollama import OllamaEngine
from tunesmith.inference.engines.upstream import Terms
from tunesmith.inference.pull_store import PullStore
from tunesmith.inference.pulls import Pull, Pulls, PullState
from tunesmith.kernel.db import Database
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Unavailable

END, CUT = b"END", b"CUT"
QUICK = (0.01, 0.01)


def line(status: str, completed: int = 0, total: int = 0, digest: str = "sha256:aa") -> bytes:
    layer = {"digest": digest, "total": total, **({"completed": completed} if completed else {})} if total else {}
    return json.dumps({"status": status, **layer}).encode() + b"\n"


SUCCESS = line("success")


class Ollama:
    """What its pulls are to say comes from ``say``; ``END`` ends an answer, ``CUT`` breaks its connection."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = 0
        self.on_asked: Callable[[], None] = lambda: None
        self._said: asyncio.Queue[bytes] = asyncio.Queue()

    def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._said.put_nowait(piece)

    async def pull(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((await request.json())["model"])
        self.on_asked()
        response = web.StreamResponse()
        await response.prepare(request)
        self.open += 1
        try:
            while (piece := await self._said.get()) not in (END, CUT):
                await response.write(piece)
        finally:
            self.open -= 1
        if piece == CUT:
            assert request.transport is not None
            request.transport.abort()
        return response


@pytest.fixture
async def ollama() -> AsyncIterator[Ollama]:
    yield Ollama()


@pytest.fixture
async def engine(ollama: Ollama) -> AsyncIterator[OllamaEngine]:
    app = web.Application()
    app.router.add_post("/api/pull", ollama.pull)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    engine = OllamaEngine.at(f"http://127.0.0.1:{runner.addresses[0][1]}", Terms())
    yield engine
    await engine.close()
    await runner.cleanup()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/tunesmith.db")
    database.migrate()
    yield database
    database.close()


@asynccontextmanager
async def serving(database: Database, engine: OllamaEngine, **options: Any) -> AsyncIterator[Pulls]:
    """A server's pulls, from its start to its stop."""
    pulls = Pulls(database, engine, **({"again_s": QUICK, "write_s": 0.02} | options))
    try:
        yield pulls
    finally:
        await pulls.close()


async def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def last(pulls: Pulls, pull_id: str) -> Pull:
    """How it ended."""
    async with asyncio.timeout(20), aclosing(pulls.watch(pull_id)) as frames:
        return [frame async for frame in frames][-1]


async def test_a_pull_is_in_the_record_before_ollama_hears_of_it(
    database: Database, engine: OllamaEngine, ollama: Ollama
) -> None:
    seen: list[Pull] = []
    ollama.on_asked = lambda: seen.extend(PullStore(database).running())
    async with serving(database, engine) as pulls:
        begun = await pulls.begin(" qwen3:8b ", "ada")
        await until(lambda: ollama.asked)
    assert ollama.asked == ["qwen3:8b"]
    assert seen == [begun]
    assert (begun.state, begun.model, begun.asked_by, begun.fraction) == (PullState.RUNNING, "qwen3:8b", "ada", 0.0)


async def test_a_pull_that_succeeds_is_completed_with_its_bytes_and_told(
    database: Database, engine: OllamaEngine, ollama: Ollama
) -> None:
    told: list[PullState] = []
    async with serving(
        database, engine, write_s=60, on_success=lambda: told.append(PullStore(database).newest(1)[0].state)
    ) as pulls:
        begun = await pulls.begin("qwen3", "ada")
        ollama.say(line("pulling manifest"), line("pulling aa", 30, 40))
        await until(lambda: pulls.get(begun.id).completed_bytes == 30)  # known here, not yet written
        assert pulls.get(begun.id).fraction == 0.75
        assert pulls.list()[0].completed_bytes == 30
        assert PullStore(database).get(begun.id).completed_bytes == 0
        ollama.say(line("pulling aa", 40, 40), line("pulling bb", 10, 10, "sha256:bb"), SUCCESS, END)
        ended = await last(pulls, begun.id)
    assert told == [PullState.COMPLETED]  # once, and after the record
    assert (ended.state, ended.status, ended.failure) == (PullState.COMPLETED, "success", None)
    assert (ended.completed_bytes, ended.total_bytes, ended.fraction) == (50, 50, 1.0)
    assert ended.ended_at is not None and ended.ended_at >= ended.created_at
    assert pulls.get(begun.id) == PullStore(database).get(begun.id) == ended


async def test_progress_reaches_the_record_while_it_runs(
    database: Database, engine: OllamaEngine, ollama: Ollama
) -> None:
    async with serving(database, engine) as pulls:
        begun = await pulls.begin("qwen3", "ada")
        for done in (10, 20):
            ollama.say(line("pulling aa", done, 40))
            await until(lambda done=done: PullStore(database).get(begun.id).completed_bytes == done)
        recorded = PullStore(database).get(begun.id)
    assert (recorded.state, recorded.status, recorded.total_bytes) == (PullState.RUNNING, "pulling aa", 40)
    assert recorded.updated_at > begun.updated_at


async def test_a_model_is_pulled_by_one_job_however_often_it_is_asked_for(
    database: Database, engine: OllamaEngine, ollama: Ollama
) -> None:
    async with serving(database, engine) as pulls:
        begun = await asyncio.gather(*(pulls.begin("qwen3", f"caller {n}") for n in range(5)))
        assert len({pull.id for pull in begun}) == 1
        other = await pulls.begin("gemma", "ada")
        await until(lambda: len(ollama.asked) == 2)
        ollama.say(SUCCESS, END, SUCCESS, END)
        await last(pulls, begun[0].id)
        await last(pulls, other.id)
        again = await pulls.begin("qwen3", "ada")
        assert again.id != begun[0].id
        await until(lambda: len(ollama.asked) == 3)
        assert [pull.id for pull in pulls.list()] == [again.id, other.id, begun[0].id]
        assert [pull.id for pull in pulls.list(1)] == [again.id]
    assert sorted(ollama.asked) == ["gemma", "qwen3", "qwen3"]


async def test_two_servers_on_one_database_share_a_job(
    database: Database, engine: OllamaEngine, ollama: Ollama
) -> None:
    async with serving(database, engine) as ours, serving(database, engine) as theirs:
        begun = await ours.begin("qwen3", "ada")
        assert (await theirs.begin("qwen3", "bob")).id == begun.id
        follower = asyncio.create_task(last(theirs, begun.id))
        ollama.say(line("pulling aa", 10, 40))
        await until(lambda: theirs.get(begun.id).completed_bytes == 10)
        ollama.say(SUCCESS, END)
        assert (await follower).state is PullState.COMPLETED
        assert ollama.asked == ["qwen3"]

        second = await ours.begin("qwen3", "ada")
        await until(lambda: ollama.open == 1)
        assert (await theirs.cancel(second.id)).state is PullState.CANCELED
        ollama.say(line("pulling aa", 20, 40))
        assert (await last(ours, second.id)).state is PullState.CANCELED
        await until(lambda: ollama.open == 0)


async def test_cancel_hangs_up_and_is_final(database: Database, engine: OllamaEngine, ollama: Ollama) -> None:
    async with serving(database, engine, write_s=60) as pulls:
        begun = await pulls.begin("qwen3", "ada")
        ollama.say(line("pulling aa", 10, 40))
        await until(lambda: pulls.get(begun.id).completed_bytes == 10)
        watching = asyncio.create_task(last(pulls, begun.id))
        canceled = await pulls.cancel(begun.id)
        await until(lambda: ollama.open == 0)
        assert (canceled.state, canceled.failure, canceled.fraction) == (PullState.CANCELED, None, 0.25)
        assert canceled.ended_at is not None
        assert (await watching).state is PullState.CANCELED
        assert await pulls.cancel(begun.id) == canceled
        assert pulls.get(begun.id) == canceled
        assert len(ollama.asked) == 1

        ended = await pulls.begin("qwen3", "ada")
        ollama.say(SUCCESS, END)
        assert (await last(pulls, ended.id)).state is PullState.COMPLETED
        with pytest.raises(Conflict):
            await pulls.cancel(ended.id)


@pytest.mark.parametrize("pull_id", ["none", "\x00", "\ud800"])
async def test_an_id_nobody_has_is_not_found(database: Database, engine: OllamaEngine, pull_id: str) -> None:
    async with serving(database, engine) as pulls:
        with pytest.raises(NotFound):
            pulls.get(pull_id)
        with pytest.raises(NotFound):
            await pulls.cancel(pull_id)
        with pytest.raises(NotFound):
            await last(pulls, pull_id)
        with pytest.raises(NotFound):
            await pulls.settled(pull_id, 1)


@pytest.mark.parametrize("name", ["", "evil.example/library/qwen3", "../../etc", "a\nb", "x" * 300])
async def test_a_name_ollama_must_not_get_is_refused_and_not_recorded(
    database: Database, engine: OllamaEngine, ollama: Ollama, name: str
) -> None:
    async with serving(database, engine) as pulls:
        with pytest.raises(Invalid):
            await pulls.begin(name, "ada")
        assert pulls.list() == []
    assert ollama.asked == []


async def test_a_broken_connection_is_asked_again_and_progress_never_goes_back(
    database: Database, engine: OllamaEngine, ollama: Ollama
) -> None:
    async with serving(database, engine) as pulls:
        begun = await pulls.begin("qwen3", "ada")
        frames = asyncio.create_task(collected(pulls, begun.id))
        states: list[int] = []
        for done in (10, 20, 30, 35):  # oftener than there are tries: each has brought bytes
            ollama.say(line("pulling manifest"))  # says nothing of the bytes that are there
            await until(lambda: pulls.get(begun.id).status == "pulling manifest")
            states.append(pulls.get(begun.id).completed_bytes)
            ollama.say(line("pulling aa", done, 40))
            await until(lambda done=done: pulls.get(begun.id).completed_bytes == done)
            ollama.say(CUT if done % 20 else END)  # a clean end without success is none, too
        ollama.say(line("pulling aa", 40, 40), SUCCESS, END)
        seen = [frame.completed_bytes for frame in await frames]
        assert (await last(pulls, begun.id)).state is PullState.COMPLETED
    assert len(ollama.asked) == 5
    assert states == [0, 10, 20, 30]
    assert seen == sorted(seen)


async def collected(pulls: Pulls, pull_id: str) -> list[Pull]:
    async with asyncio.timeout(20), aclosing(pulls.watch(pull_id)) as frames:
        return [frame async for frame in frames]


async def test_a_connection_that_keeps_breaking_fails_the_pull_at_last(
    database: Database, engine: OllamaEngine, ollama: Ollama
) -> None:
    async with serving(database, engine) as pulls:
        begun = await pulls.begin("qwen3", "ada")
        ollama.say(line("pulling aa", 10, 40))
        await until(lambda: pulls.get(begun.id).completed_bytes == 10)
        ollama.say(CUT, CUT, CUT, CUT)
        failed = await last(pulls, begun.id)
        recorded = pulls.get(begun.id)
    assert len(ollama.asked) == 1 + len(QUICK)
    assert failed.state is recorded.state is PullState.FAILED
    assert isinstance(failed.failure, Unavailable) and recorded.failure is not None
    assert (recorded.failure.zh, recorded.failure.en) == (failed.failure.zh, failed.failure.en)
    assert "Ollama" in failed.failure.zh
    assert failed.completed_bytes == 10


async def test_what_ollama_itself_refuses_is_not_asked_again(
    database: Database, engine: OllamaEngine, ollama: Ollama
) -> None:
    async with serving(database, engine) as pulls:
        begun = await pulls.begin("nothing", "ada")
        ollama.say(line("pulling manifest"))
        await until(lambda: pulls.get(begun.id).status)
        ollama.say(b'{"error":"pull model manifest: file does not exist"}\n', END)
        settled = await pulls.settled(begun.id, 20)
        full = await pulls.begin("large", "ada")
        ollama.say(line("pulling aa", 1, 2))
        await until(lambda: pulls.get(full.id).completed_bytes)
        ollama.say(b'{"error":"no space left on device"}\n', END)
        ended = await last(pulls, full.id)
        again = await pulls.settled(begun.id, 20)
    assert ollama.asked == ["nothing", "large"]
    assert settled.state is PullState.FAILED
    assert isinstance(settled.failure, NotFound)
    assert again == settled  # the kind, too, however late one asks
    recorded = Pulls(database, engine).get(begun.id).failure
    assert isinstance(recorded, Unavailable) and recorded.zh == settled.failure.zh
    assert ended.failure is not None and "no space left" in ended.failure.zh


async def test_where_nobody_listens_a_new_pull_fails_at_once(database: Database) -> None:
    engine = OllamaEngine.at("http://127.0.0.1:9", Terms())
    async with serving(database, engine, again_s=(600.0,)) as pulls:
        failed = await last(pulls, (await pulls.begin("qwen3", "ada")).id)
    await engine.close()
    assert failed.failure is not None and "OLLAMA_HOST" in failed.failure.zh


async def test_a_server_that_stops_leaves_its_pulls_to_the_next(
    database: Database, engine: OllamaEngine, ollama: Ollama
) -> None:
    async with serving(database, engine) as pulls:
        begun = await pulls.begin("qwen3", "ada")
        ollama.say(line("pulling aa", 10, 40))
        await until(lambda: PullStore(database).get(begun.id).completed_bytes == 10)
        watching = asyncio.create_task(last(pulls, begun.id))
        await asyncio.sleep(0)
    assert (await watching).state is PullState.RUNNING  # told to go, not left waiting
    with pytest.raises(Unavailable):
        await pulls.begin("gemma", "ada")
    await until(lambda: ollama.open == 0)
    assert PullStore(database).get(begun.id).state is PullState.RUNNING

    ollama.on_asked = lambda: None if len(ollama.asked) > 2 else ollama.say(CUT)  # Ollama starts at the same time
    async with serving(database, engine) as pulls:
        assert await pulls.reconcile() == [begun.id]
        assert (await pulls.begin("qwen3", "bob")).id == begun.id
        await until(lambda: len(ollama.asked) == 3)
        assert pulls.get(begun.id).completed_bytes == 10
        ollama.say(line("pulling aa", 40, 40), SUCCESS, END)
        ended = await last(pulls, begun.id)
    assert (ended.state, ended.completed_bytes, ended.asked_by) == (PullState.COMPLETED, 40, "ada")


async def test_a_stop_right_after_the_start_ends_too(database: Database, engine: OllamaEngine) -> None:
    PullStore(database).begin("qwen3", "ada")
    pulls = Pulls(database, engine)
    await pulls.reconcile()
    async with asyncio.timeout(20):
        await pulls.close()
    assert PullStore(database).newest(1)[0].state is PullState.RUNNING


async def test_a_pull_another_server_left_for_dead_is_taken_up_by_who_asks_next(
    database: Database, engine: OllamaEngine, ollama: Ollama
) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    dead, _ = PullStore(database, lambda: now).begin("qwen3", "ada")
    async with serving(database, engine, clock=lambda: now + timedelta(seconds=30)) as pulls:
        assert (await pulls.begin("qwen3", "bob")).id == dead.id
        assert ollama.asked == []  # somebody may still be at it
    async with serving(database, engine, clock=lambda: now + timedelta(seconds=90)) as pulls:
        assert (await pulls.begin("qwen3", "bob")).id == dead.id
        ollama.say(SUCCESS, END)
        assert (await last(pulls, dead.id)).state is PullState.COMPLETED


async def test_who_asks_and_leaves_has_begun_a_pull_all_the_same(
    database: Database, engine: OllamaEngine, ollama: Ollama
) -> None:
    async with serving(database, engine) as pulls:
        asking = asyncio.create_task(pulls.begin("qwen3", "ada"))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        assert asking.cancelled()
        await until(lambda: ollama.asked == ["qwen3"])


async def test_watching_shows_changes_but_not_every_one(
    database: Database, engine: OllamaEngine, ollama: Ollama
) -> None:
    async with serving(database, engine) as pulls:
        begun = await pulls.begin("qwen3", "ada")
        clock = asyncio.get_running_loop().time
        started = clock()
        frames = asyncio.create_task(collected(pulls, begun.id))
        for done in range(1, 31):
            ollama.say(line("pulling aa", done, 40))
            await until(lambda done=done: pulls.get(begun.id).completed_bytes == done)
        ollama.say(SUCCESS, END)
        seen = [(frame.completed_bytes, frame.status, frame.state) for frame in await frames]
        took = clock() - started
        assert len(seen) == len(set(seen)) <= took / 0.1 + 3
        assert seen[-1] == (30, "success", PullState.COMPLETED)
        assert {state for *_, state in seen[:-1]} == {PullState.RUNNING}
        assert [frame.state for frame in await collected(pulls, begun.id)] == [PullState.COMPLETED]


async def test_who_stops_watching_stops_nothing(database: Database, engine: OllamaEngine, ollama: Ollama) -> None:
    async with serving(database, engine) as pulls:
        begun = await pulls.begin("qwen3", "ada")
        await until(lambda: ollama.open == 1)
        async with aclosing(pulls.watch(begun.id)) as frames:
            assert (await anext(frames)).state is PullState.RUNNING
        ollama.say(line("pulling aa", 10, 40))
        await until(lambda: pulls.get(begun.id).completed_bytes == 10)
        ollama.say(SUCCESS, END)
        assert (await last(pulls, begun.id)).state is PullState.COMPLETED
    assert len(ollama.asked) == 1


async def test_settled_waits_for_the_first_layer_or_for_so_long(
    database: Database, engine: OllamaEngine, ollama: Ollama
) -> None:
    async with serving(database, engine) as pulls:
        begun = await pulls.begin("qwen3", "ada")
        ollama.say(line("pulling manifest"))
        early = await pulls.settled(begun.id, 0.05)
        assert (early.state, early.total_bytes) == (PullState.RUNNING, 0)
        ollama.say(line("pulling aa", 0, 40))
        settled = await pulls.settled(begun.id, 20)
        assert (settled.state, settled.completed_bytes, settled.total_bytes) == (PullState.RUNNING, 0, 40)


async def test_a_bug_below_fails_the_pull_and_not_the_server(
    database: Database, engine: OllamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("half\x00done")

    monkeypatch.setattr(engine, "pull", broken)
    async with serving(database, engine) as pulls:
        failed = await last(pulls, (await pulls.begin("qwen3", "ada")).id)
    assert failed.failure is not None and "RuntimeError" in failed.failure.en
    assert PullStore(database).get(failed.id).state is PullState.FAILED


def test_a_final_state_never_changes(database: Database) -> None:
    store = PullStore(database)
    for final in (PullState.COMPLETED, PullState.FAILED, PullState.CANCELED):
        begun, new = store.begin("qwen3", "ada")
        assert new
        assert store.begin("qwen3", "bob") == (begun, False)
        assert store.end(begun.id, final)
        ended = store.get(begun.id)
        assert not any(store.end(begun.id, other) for other in PullState if other.final)
        assert not store.advance(begun)
        if final is not PullState.FAILED:  # problems are never equal
            assert store.get(begun.id) == ended
        assert store.get(begun.id).state is final
    assert store.running() == []


def test_the_database_itself_keeps_a_model_to_one_running_pull(database: Database) -> None:
    begun, _ = PullStore(database).begin("qwen3", "ada")
    rest = "model, state, status, completed_bytes, total_bytes, asked_by, created_at, updated_at"
    twin = sa.text(f"INSERT INTO pulls (id, {rest}) SELECT 'other', {rest} FROM pulls")
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(twin)
    assert [pull.id for pull in PullStore(database).newest(10)] == [begun.id]
