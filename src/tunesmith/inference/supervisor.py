"""Every base model behind one engine: a process for each, started when asked for, ended when told."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from tunesmith.inference.adapters import LoadedAdapters, plain
from tunesmith.inference.engine import Done, Event, Reference, Request, Score
from tunesmith.inference.engine_status import EnginePage, EngineState, EngineStatus
from tunesmith.inference.merge import merged
from tunesmith.inference.sockets import remove_dead_sockets, socket_folder
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Problem, Unavailable
from tunesmith.models.model import Adapter, BaseModel, Model
from tunesmith.settings import Settings

if TYPE_CHECKING:
    from tunesmith.inference.process import RunningEngine

log = structlog.get_logger(__name__)
_REAP_S = 1.0  # a cut connection is noticed a moment before the process is known to have ended
_LONGEST_BACKOFF_S = 60.0
_LARGEST_PAGE = 4 << 20  # bytes of an engine's metrics


class Shelf(Protocol):
    """Where base models and adapters are looked up."""

    def base(self, name: str) -> BaseModel: ...

    def adapter(self, name: str) -> Adapter: ...

    def check(self, model: Model) -> None: ...


@dataclass(slots=True)
class _Seat:
    """What is known of one base model's engine."""

    base: str
    process: "RunningEngine | None" = None
    starting: "asyncio.Task[RunningEngine] | None" = None
    adapters: LoadedAdapters | None = None
    rows: int = 0
    stopping: bool = False
    crashes: int = 0  # in a row, without an answer between
    crashed_at: float = 0.0
    used_at: float = 0.0
    empty: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, rows: int) -> None:
        """Note ``rows`` more (or fewer) rows in flight."""
        self.rows += rows
        self.used_at = time.monotonic()
        if self.rows:
            self.empty.clear()
        else:
            self.empty.set()


class Supervisor:
    """An ``Engine`` over this machine's base models.

    Args:
        registry: finds base models and adapters by name.
        home: engine logs and sockets go to its ``engines`` folder.
    """

    def __init__(self, registry: Shelf, home: Home, settings: Settings) -> None:
        self._registry, self._settings = registry, settings
        self._folder = home.engines
        self._seats: dict[str, _Seat] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        for folder in {self._folder, socket_folder(self._folder)}:
            remove_dead_sockets(folder)

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        """See ``Engine.generate``. Rows of several base models run side by side."""
        rows_by_base: dict[str, list[int]] = {}
        for row, request in enumerate(requests):
            rows_by_base.setdefault(request.model.base, []).append(row)
        parts = [self._on_one(base, rows, requests) for base, rows in rows_by_base.items()]
        async with aclosing(merged(parts)) as events:
            async for event in events:
                yield event

    async def score(self, references: Sequence[Reference]) -> list[Score]:
        """See ``Engine.score``."""
        found: dict[int, Score] = {}
        by_base: dict[str, list[int]] = {}
        for index, reference in enumerate(references):
            by_base.setdefault(reference.model.base, []).append(index)
        for base, indexes in by_base.items():
            some = [references[index] for index in indexes]
            async with self._using(base, [reference.model for reference in some]) as use:
                renamed = [replace(r, model=m) for r, m in zip(some, use.models, strict=True)]
                scores = await use.process.client.score(renamed)
            found |= dict(zip(indexes, scores, strict=True))
        return [found[index] for index in range(len(references))]

    async def ensure(self, base: str) -> None:
        """Have the engine of ``base`` running and ready.

        Raises:
            NotFound: no such base model. Conflict: it is being stopped.
            Unavailable: it cannot be started, or crashed too often just now.
        """
        await self._ready(await asyncio.to_thread(self._registry.base, base))

    async def prepare(self, model: Model) -> None:
        """Have the engine of the model's base ready and its adapter, if any, loaded: a broken one is found now.

        Raises:
            as ``ensure``, and Invalid or Unsupported when the adapter cannot be worn.
        """
        async with self._using(model.base, [model]):
            return

    async def stop(self, base: str, *, wait_s: float) -> None:
        """End the engine of ``base`` when its rows have ended; requests that come meanwhile are refused (Conflict).

        One that does not run is fine.

        Raises:
            Conflict: rows were still running after ``wait_s``; the engine goes on.
        """
        seat = self._seats.get(base) or self._seats.get(base.removeprefix("models/"))
        if seat is None or (seat.process is None and seat.starting is None):
            return
        seat.stopping = True
        try:
            if seat.starting is not None:
                with contextlib.suppress(Problem):
                    await asyncio.shield(seat.starting)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await seat.empty.wait()
            if seat.rows:
                raise Conflict(
                    f"模型 {base} 仍有 {seat.rows} 个请求在运行，未卸载",
                    f"{base} still runs {seat.rows} rows and was not unloaded",
                    base=base,
                    rows=seat.rows,
                )
            await self._end(seat)
        finally:
            seat.stopping = False

    async def unload_adapter(self, model: Model) -> None:
        """Let the engine forget an adapter, at once or when the rows that wear it have ended. Twice is fine."""
        for seat in self._seats.values():
            if seat.adapters is not None and model.adapter and seat.base == model.base.removeprefix("models/"):
                await seat.adapters.forget(model.adapter)

    async def close(self) -> None:
        """End every engine now; callers in flight get Unavailable."""
        self._closed = True
        for seat in self._seats.values():
            if seat.starting is not None:
                seat.starting.cancel()
                await asyncio.wait([seat.starting])
        await asyncio.gather(*(self._end(seat) for seat in self._seats.values()))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def status(self) -> list[EngineStatus]:
        """Every engine that runs, starts, or crashed and has not been asked for since."""
        return [
            EngineStatus(
                base=seat.base,
                state=_state(seat),
                device=seat.process.health.device if seat.process else "",
                pid=seat.process.pid if seat.process else None,
                rows=seat.rows,
                adapters=seat.adapters.names() if seat.adapters else (),
                rss=seat.process.rss() if seat.process else 0,
            )
            for seat in self._seats.values()
            if seat.process or seat.starting or seat.crashes
        ]

    async def pages(self, *, within_s: float) -> list[EnginePage]:
        """The metrics of every engine that ``status`` shows; one that does not answer in time tells nothing."""
        seats = [seat for seat in self._seats.values() if seat.process or seat.starting or seat.crashes]
        return list(await asyncio.gather(*(_page(seat, within_s) for seat in seats)))

    async def _on_one(self, base: str, rows: Sequence[int], requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        """The rows of one base model, numbered as in the whole call."""
        async with self._using(base, [requests[row].model for row in rows]) as use:
            renamed = [replace(requests[row], model=m) for row, m in zip(rows, use.models, strict=True)]
            async with aclosing(use.process.client.generate(renamed)) as events:
                async for event in events:
                    if isinstance(event, Done):
                        use.one_ended()
                    yield replace(event, row=rows[event.row])

    @asynccontextmanager
    async def _using(self, name: str, models: Sequence[Model]) -> AsyncIterator["_Use"]:
        """A ready engine wearing all adapters of ``models``, one row for each of them counted as in flight."""
        base, adapters = await asyncio.to_thread(self._look_up, name, set(models))
        process = await self._ready(base)
        seat = self._seats[base.name]
        loaded = seat.adapters
        if loaded is None or seat.process is not process:  # ended while we waited for its start
            raise Unavailable(f"模型 {base.name} 刚刚被卸载，请重试", f"{base.name} was just unloaded; ask again")
        use = _Use(seat, process, len(models))
        wearing: dict[str, str] = {}
        try:
            with _explained():
                for key, adapter in adapters.items():
                    wearing[key] = await loaded.take(adapter)
                use.models = [Model(base.name, wearing[m.adapter] if m.adapter else None) for m in models]
                yield use
            seat.crashes = 0
        except Unavailable:
            await asyncio.wait([process.exited], timeout=_REAP_S if seat.process is process else 0)
            if not process.alive and not seat.stopping and not self._closed:
                raise process.fate() from None
            raise
        finally:
            for worn in wearing.values():
                loaded.give_back(worn)
            use.all_ended()

    def _look_up(self, name: str, models: set[Model]) -> tuple[BaseModel, dict[str, Adapter]]:
        adapters = {}
        for model in models:
            if model.adapter is not None:
                self._registry.check(model)
                adapters[model.adapter] = self._registry.adapter(model.adapter)
        return self._registry.base(name), adapters

    async def _ready(self, base: BaseModel) -> "RunningEngine":
        seat = self._seats.setdefault(base.name, _Seat(base.name))
        if self._closed:
            raise Unavailable("服务正在关闭", "the server is shutting down")
        if seat.stopping:
            raise Conflict(f"模型 {base.name} 正在卸载", f"{base.name} is being unloaded", base=base.name)
        if seat.process is not None and seat.process.alive:
            return seat.process
        if seat.starting is None:
            _refuse_while_backing_off(seat)
            seat.starting = asyncio.create_task(self._start(seat, base))
            # A failure nobody waits for any more is not an unhandled one.
            seat.starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(seat.starting)

    async def _start(self, seat: _Seat, base: BaseModel) -> "RunningEngine":
        began = time.monotonic()
        try:
            process = await _started(base, self._folder, self._settings)
        except Unavailable:
            _note_crash(seat)
            raise
        finally:
            seat.starting = None
        log.info("engine ready", base=base.name, pid=process.pid, seconds=round(time.monotonic() - began, 2))
        seat.process, seat.adapters = process, LoadedAdapters(process.adapters)
        seat.count(0)
        task = asyncio.create_task(self._watch(seat, process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return process

    async def _watch(self, seat: _Seat, process: "RunningEngine") -> None:
        """Notice that a process ended, and end one that nobody has used for long."""
        idle_s = self._settings.engine_idle_s
        while process.alive:
            await asyncio.wait([process.exited], timeout=min(5.0, idle_s / 4) if idle_s else None)
            unused = time.monotonic() - seat.used_at
            if process.alive and idle_s and not seat.rows and unused > idle_s and seat.process is process:
                log.info("engine idle", base=seat.base, seconds=round(unused))
                await self._end(seat)
        if seat.process is process:  # nobody asked for its end
            _note_crash(seat)
            log.error("engine crashed", base=seat.base, pid=process.pid, exit=process.exited.result())
            seat.process = seat.adapters = None
            await process.kill()

    async def _end(self, seat: _Seat) -> None:
        process, seat.process, seat.adapters = seat.process, None, None
        if process is not None:
            await process.end()


@dataclass(slots=True)
class _Use:
    """A running call's hold on an engine."""

    seat: _Seat
    process: "RunningEngine"
    left: int
    models: list[Model] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seat.count(self.left)

    def one_ended(self) -> None:
        self.left -= 1
        self.seat.count(-1)

    def all_ended(self) -> None:
        self.seat.count(-self.left)
        self.left = 0


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """The engine knows adapters by name and version; people know the name."""
    try:
        yield
    except Problem as problem:
        problem.zh, problem.en = plain(problem.zh), plain(problem.en)
        raise


def _note_crash(seat: _Seat) -> None:
    seat.crashes += 1
    seat.crashed_at = time.monotonic()


def _refuse_while_backing_off(seat: _Seat) -> None:
    """One crash is forgiven at once; after more in a row the next start has to wait, longer each time."""
    if seat.crashes < 2:
        return
    left = seat.crashed_at + min(_LONGEST_BACKOFF_S, 2.0 ** (seat.crashes - 1)) - time.monotonic()
    if left > 0:
        raise Unavailable(
            f"模型 {seat.base} 的引擎连续崩溃 {seat.crashes} 次，{left:.0f} 秒后可重试；请查看主目录 engines 下的日志",
            f"the engine of {seat.base} crashed {seat.crashes} times in a row; ask again in {left:.0f} s "
            "and see its log in the engines folder",
            base=seat.base,
            retry_after_s=round(left, 1),
        )


def _state(seat: _Seat) -> EngineState:
    if seat.process is None:
        return "starting" if seat.starting else "crashed"
    return "stopping" if seat.stopping else "ready"


async def _started(base: BaseModel, folder: Path, settings: Settings) -> "RunningEngine":
    # the HTTP client takes a tenth of a second to import, which a server that starts need not spend
    if settings.engine == "vllm":
        from tunesmith.inference import vllm

        return await vllm.start(base, folder, settings)
    from tunesmith.inference.process import EngineProcess

    return await EngineProcess.start(base, folder, settings)


async def _page(seat: _Seat, within_s: float) -> EnginePage:
    process, text = seat.process, None
    if process is not None:
        with contextlib.suppress(Problem):
            text = await process.client.page("/metrics", within_s=within_s, most=_LARGEST_PAGE)
    return EnginePage(seat.base, text, seat.rows, process.rss() if process else 0, seat.crashes)
