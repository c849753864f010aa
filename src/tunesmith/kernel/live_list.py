"""What a server of others offers, asked now and then: requests seldom wait for it, and never each ask anew."""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from tunesmith.kernel.problems import Problem, Unavailable

_FIRST_AGAIN_S, _LONGEST_AGAIN_S = 1.0, 30.0
_log = structlog.get_logger()
Listed = TypeVar("Listed")


class LiveList(Generic[Listed]):
    """The last list an upstream gave, and at most one question for a newer one. Belongs to one event loop.

    After a failure the old list stays, and the upstream is left alone for 1, 2, 4 ... seconds, at most 30 and at most
    ``fresh_s``.

    Args:
        fetch: asks the upstream once; raises a Problem when it does not answer, within a time of its own.
        fresh_s: a list so old is asked for again.
        wait_s: longest wait of `get` while there is no list at all.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Sequence[Listed]]],
        *,
        fresh_s: float,
        wait_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch, self._fresh_s, self._wait_s, self._clock = fetch, fresh_s, wait_s, clock
        self._listed: tuple[Listed, ...] = ()
        self._fetched_at: float | None = None
        self._problem: Problem | None = None
        self._failures = 0
        self._ask_at = float("-inf")  # nobody is asked before, but by `fresh`
        self._running: asyncio.Task[Problem | None] | None = None
        self._tasks: set[asyncio.Task[Problem | None]] = set()  # forgotten ones too, until they have ended
        self._generation = 0  # how often it was forgotten
        self._closed = False

    @property
    def problem(self) -> Problem | None:
        """Why the last question failed; None after one that did not."""
        return self._problem

    @property
    def age_s(self) -> float | None:
        """Seconds since the list came; None while there is none."""
        return None if self._fetched_at is None else self._clock() - self._fetched_at

    async def get(self, *, wait: bool = True) -> Sequence[Listed]:
        """The list as it is known, at once; an old one is asked for again meanwhile.

        Args:
            wait: while there is none yet, wait for the first one, at most ``wait_s``.

        Returns:
            Nothing where the upstream has not answered; `problem` says why.
        """
        age = self.age_s
        if age is not None:
            if age >= self._fresh_s:
                self._ask_unless_it_just_failed()
            return self._listed
        deadline = asyncio.get_running_loop().time() + self._wait_s
        while (task := self._ask_unless_it_just_failed()) is not None and wait:
            generation = self._generation
            # asyncio.wait leaves the task running for the others, whoever is cancelled or tired of waiting
            await asyncio.wait({task}, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
            if generation == self._generation:
                break
        return self._listed

    async def fresh(self) -> Sequence[Listed]:
        """The list from a question that ends after this call; joins the one that is under way.

        Raises:
            Problem: the upstream's. Unavailable: this list is closed.
        """
        while not self._closed:
            generation, task = self._generation, self._running or self._ask()
            await asyncio.wait({task})
            if generation != self._generation:
                continue
            if task.cancelled():
                break
            problem = task.result()
            if problem is not None:
                raise problem.with_traceback(None)  # many may raise it: their tracebacks must not add up
            return self._listed
        raise Unavailable("模型列表查询已停止", "the list of models is not asked for any more")

    def forget(self) -> None:
        """Drop the list and whatever is under way: the next who asks gets a newer one."""
        self._listed, self._fetched_at = (), None
        self._problem, self._failures, self._ask_at = None, 0, float("-inf")
        self._generation += 1
        task, self._running = self._running, None
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Stop asking, and return once nothing is under way; the list stays as it is."""
        self._closed = True
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _ask_unless_it_just_failed(self) -> "asyncio.Task[Problem | None] | None":
        if self._running is not None:
            return self._running
        return None if self._closed or self._clock() < self._ask_at else self._ask()

    def _ask(self) -> "asyncio.Task[Problem | None]":
        # a context of its own: what is logged of it belongs to no single request
        task = asyncio.get_running_loop().create_task(self._refresh(), context=contextvars.Context())
        self._running = task
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: "asyncio.Task[Problem | None]") -> None:
        self._tasks.discard(task)
        if self._running is task:
            self._running = None

    async def _refresh(self) -> Problem | None:
        """Ask once and keep what came of it, unless it was forgotten meanwhile."""
        listed: tuple[Listed, ...] = ()
        problem: Problem | None = None
        try:
            listed = tuple(await self._fetch())
        except Problem as error:
            problem = error.with_traceback(None)  # it is kept, what it passed through need not be
        except Exception:
            _log.exception("the list of models could not be read")
            problem = Unavailable("模型列表无法读取", "the list of models could not be read")
        if self._running is not asyncio.current_task():
            return problem
        if problem is None:
            self._listed, self._fetched_at, self._failures = listed, self._clock(), 0
        else:
            again_s = _FIRST_AGAIN_S * 2.0 ** min(self._failures, 10)
            self._failures += 1
            self._ask_at = self._clock() + min(again_s, self._fresh_s, _LONGEST_AGAIN_S)
        self._problem = problem
        return problem
