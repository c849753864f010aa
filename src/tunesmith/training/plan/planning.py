"""Plans for whoever asks: a rehearsal in a child process where the machine is free for one, else an estimate."""

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Protocol

import msgspec
import structlog

from tunesmith.datasets.worker.tasks import Failed, problem_of
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Unavailable
from tunesmith.models.model import BaseModel
from tunesmith.settings import Settings
from tunesmith.training.plan import accuracy
from tunesmith.training.plan.forecast import Drawing
from tunesmith.training.plan.prediction import Measured, Plan
from tunesmith.training.plan.rehearsal import TOO_MUCH, Asked, Loaded, Looked, Paced, Said, Stepped, said_of
from tunesmith.training.plan.room import room
from tunesmith.training.run import Recipe, State
from tunesmith.training.run_folder import Order
from tunesmith.training.service import TrainingService
from tunesmith.training.surroundings import environment

COMMAND = (sys.executable, "-P", "-m", "tunesmith.training.plan.rehearsal")
_GIVEN = 0.9  # of the free memory a rehearsal may take
_LONGEST_LINE = 16 << 20
_MOST_TOLD = 8 << 10  # bytes of what a child that broke had to say
_BUSY = (
    "机器正被另一个任务或试跑占用，未实测",
    "the machine is taken by another run or rehearsal; nothing was measured",
)
_TOO_LARGE = ("基座模型本身就放不下，未实测", "the base model alone does not fit; nothing was measured")
_ENDED = ("试跑用尽内存，已提前结束", "the rehearsal ran out of memory and was ended")
_log = structlog.get_logger(__name__)


class Bases(Protocol):
    """Where base models are found by name."""

    def base(self, name: str) -> BaseModel: ...


class Planner:
    """Says what a run will take.

    Args:
        check: gives the recipe as it would be recorded; raises what starting such a run would.
        busy: whether a run has this machine now.
    """

    def __init__(
        self,
        home: Home,
        registry: Bases,
        settings: Settings,
        check: Callable[[Recipe, str | None, Caller], Recipe],
        busy: Callable[[], bool],
    ) -> None:
        self._home, self._registry, self._settings = home, registry, settings
        self._check, self._busy = check, busy
        self._turn = asyncio.Lock()

    @staticmethod
    def of(training: TrainingService, home: Home, registry: Bases, settings: Settings) -> "Planner":
        """Plans for the runs that ``training`` would start on this machine."""

        def check(recipe: Recipe, output: str | None, caller: Caller) -> Recipe:
            return training.checked(recipe, output=output, caller=caller)

        def busy() -> bool:
            return any(run.executor == "local" for run in training.list(state=State.RUNNING))

        return Planner(home, registry, settings, check, busy)

    async def plan(self, recipe: Recipe, *, output: str | None = None, caller: Caller = LOCAL) -> Plan:
        """What training by ``recipe`` would take; nothing is recorded but the plan itself, for the run to be held to.

        Canceling who waits ends the rehearsal at once.

        Raises:
            Problem: as starting the run would, or as the trainer would find the data.
            Unavailable: the rehearsal ended without an answer.
        """
        recipe = await asyncio.to_thread(self._check, recipe, output, caller)
        async with self._turn:
            with self._alone() as alone:
                measure = alone and not await asyncio.to_thread(self._busy)
                plan = await self._rehearsed(recipe, measure)
        if plan.measured:
            await asyncio.to_thread(accuracy.keep, self._home, recipe, plan)
        return plan

    async def _rehearsed(self, recipe: Recipe, measure: bool) -> Plan:
        free = await asyncio.to_thread(room, self._home.root)
        base = await asyncio.to_thread(self._registry.base, recipe.base_model)
        with tempfile.TemporaryDirectory(prefix="tunesmith-plan-") as folder:
            order = Order("", str(self._home.root), "", str(base.path), recipe, self._settings.threads)
            asked = Asked(order, folder, measure, int(free.memory_bytes * _GIVEN))
            said = [each async for each in self._said(asked)]
        looked = next(each for each in said if isinstance(each, Looked))
        loaded = next((each for each in said if isinstance(each, Loaded)), None)
        if loaded is not None and loaded.free_bytes:
            free = replace(free, device=loaded.device, memory_bytes=loaded.free_bytes)
        measured = _measured(said)
        drawing = Drawing(recipe, looked.counted, looked.weights, free, measured, cores=_cores(self._settings))
        if measured is None:
            why = _TOO_LARGE if measure and loaded is None else _ENDED if measure else _BUSY
            drawing = replace(drawing, why=why, at_least=asked.memory_bytes if measure else 0)
        return drawing.plan()

    async def _said(self, asked: Asked) -> AsyncIterator[Said]:
        """What a child says, until it ends; it ends with whoever asks."""
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,
            env=environment(self._settings),
        )
        assert process.stdin and process.stdout and process.stderr
        complaint = asyncio.create_task(process.stderr.read())
        looked = False
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(msgspec.json.encode(asked) + b"\n")  # left open: the child ends when it is closed
                await process.stdin.drain()
            async for line in process.stdout:
                said: Said = said_of(line)
                if isinstance(said, Failed):
                    raise problem_of(said)
                looked = looked or isinstance(said, Looked)
                yield said
            await process.wait()
        finally:
            # its own session, so its own group: its children go with it
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())
            told = (await complaint)[-_MOST_TOLD:].decode(errors="replace")
        # killed: by the kernel, for its memory; whatever it had found until then stands
        full = process.returncode in (TOO_MUCH, -signal.SIGKILL)
        if full and not looked:
            raise Unavailable(
                f"可用内存 {asked.memory_bytes / 1e6:.0f} MB 不足以读取数据，请先释放内存",
                f"{asked.memory_bytes / 1e6:.0f} MB of free memory are too few to read the data; free some first",
            )
        if not full and (process.returncode or not looked):
            _log.error("a rehearsal broke", exit=process.returncode, stderr=told)
            raise Unavailable(
                "试跑进程意外退出，请重试；若再次发生，请查看日志",
                "the rehearsal ended unexpectedly; ask again, and look into the log",
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process rehearses on this home folder; true keeps it so."""
        descriptor = os.open(self._home.runs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        try:
            yield alone
        finally:
            os.close(descriptor)


def _measured(said: list[Said]) -> Measured | None:
    """All that a rehearsal found; None where it did not come to its end."""
    loaded = [each for each in said if isinstance(each, Loaded)]
    steps = [each.step for each in said if isinstance(each, Stepped)]
    paces = [each for each in said if isinstance(each, Paced)]
    if not (loaded and steps and paces):
        return None
    return Measured(
        prepare_s=loaded[0].prepare_s,
        loaded_bytes=loaded[0].peak_bytes,
        trained=loaded[0].trained,
        bytes_each=loaded[0].bytes_each,
        parts=loaded[0].parts,
        small=steps[0],
        large=steps[1] if len(steps) > 1 else None,
        pace=paces[0].pace,
        paced=paces[0].paced,
        steps=paces[0].steps,
        peak_bytes=paces[0].peak_bytes,
    )


def _cores(settings: Settings) -> int:
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(here, settings.threads) if settings.threads else here
