"""What reads a whole dataset takes turns: each keeps a thread and a processor busy that every other path wants too."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from tunesmith.datasets.export.sample import Sample
from tunesmith.dialects.finetune.downloads import Lines, LinesOfFile

_AT_ONCE = 4
Watched = Callable[[Iterable[Sample]], Iterator[Sample]]
T = TypeVar("T")


class Turns:
    """So many at once; who comes later waits, and other paths do not."""

    def __init__(self, at_once: int = _AT_ONCE) -> None:
        self._turns = asyncio.Semaphore(at_once)

    async def run(self, work: Callable[[], T]) -> T:
        """What ``work`` gives, done in a thread when it is its turn."""
        async with self._turns:
            return await run_in_threadpool(work)

    async def file(self, request: Request, made: Callable[[Watched], LinesOfFile]) -> Lines:
        """The file as an answer.

        Args:
            made: blocking; makes it of samples that it lets pass through what it is given, where reading them ends
                when the client has left.

        Raises:
            ClientDisconnect: the client left meanwhile.
        """
        async with self.taken(request) as left:

            def watched(samples: Iterable[Sample]) -> Iterator[Sample]:
                for sample in samples:
                    if left.is_set():
                        raise ClientDisconnect
                    yield sample

            return Lines(await run_in_threadpool(made, watched))

    @asynccontextmanager
    async def taken(self, request: Request) -> AsyncIterator[threading.Event]:
        """A turn, as long as it lasts; what is set when the client leaves. Only once the body was read.

        Raises:
            ClientDisconnect: the client left while it waited.
        """
        left = threading.Event()
        watch = asyncio.create_task(_watch(request.receive, left))
        try:
            async with self._turns:
                if left.is_set():
                    raise ClientDisconnect
                yield left
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)


async def _watch(receive: Receive, left: threading.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    left.set()
