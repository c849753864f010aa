"""Whatever an upstream sends, in whatever pieces: an answer or a problem, soon, and no socket left."""

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from tests.unit.inference.engines.byte_server import Caller, talking
from tunesmith.inference.engines import refusals
from tunesmith.inference.engines.answer import Label
from tunesmith.inference.engines.upstream import Terms, Upstream
from tunesmith.inference.engines.watch import Patience
from tunesmith.kernel.problems import Problem

LABEL = Label("上游", "the upstream")
STARTS = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n",
    b"HTTP/1.1 503 Busy\r\n",
    b"",
]
FIELDS = [
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 50\r\n",
    b"Connection: close\r\n",
    b"Content-Type: application/json\r\n",
    b"X: " + b"a" * 3000 + b"\r\n",
    b"X:\r\n",
    b" folded\r\n",
]
BODIES = [
    b"5\r\nab\ncd\r\n",
    b"0\r\n\r\n",
    b"0\r\nX: a\r\n\r\n",
    b"data: a\n",
    b"\n",
    b"5;a=b\r\n",
    b"hello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
]


@some.composite
def answers(draw: some.DrawFn) -> list[bytes]:
    """Bytes that are nearly an answer, or none at all, in pieces."""
    parts = [
        draw(some.sampled_from(STARTS)),
        *draw(some.lists(some.sampled_from(FIELDS), max_size=4)),
        draw(some.sampled_from([b"\r\n", b"\r\n", b"\n", b""])),
        *draw(some.lists(some.sampled_from(BODIES) | some.binary(max_size=8), max_size=6)),
    ]
    said = bytearray(b"".join(parts))
    for _ in range(draw(some.integers(0, 2)) if said else 0):
        said[draw(some.integers(0, len(said) - 1))] = draw(some.integers(0, 255))
    places = sorted({0, len(said), *draw(some.lists(some.integers(0, len(said)), max_size=6))})
    return [bytes(said[start:end]) for start, end in pairwise(places)]


async def exchange(path: Path, answered: Sequence[Sequence[bytes]], *, leave: bool, ends: bool) -> None:
    told = [*answered]

    async def talk(caller: Caller) -> None:
        while True:
            await caller.request()
            await caller.say(*(told.pop(0) if told else ()))
            if ends or not told:
                return

    async with talking(talk, path=path) as server:
        client = Upstream(
            "http://engine",
            LABEL,
            partial(refusals.refused, LABEL),
            terms=Terms(patience=Patience(first_s=0.2, idle_s=0.2, total_s=0.2), connect_s=5),
            socket=path,
        )
        for _ in answered:
            asking = asyncio.create_task(once(client))
            if leave:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                asking.cancel()
            async with asyncio.timeout(10):
                await asyncio.gather(asking, return_exceptions=leave)
        connections = client._opened
        await client.close()
        await server.until(lambda server: server.open == 0 and not (connections and connections._open))


async def once(client: Upstream) -> None:
    try:
        async with client.stream("/", b"{}") as answer:
            while await answer.lines() is not None:
                answer.heard()
    except Problem:
        pass


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some.lists(answers(), min_size=1, max_size=3), some.booleans(), some.booleans())
def test_anything_may_come(answered: list[list[bytes]], leave: bool, ends: bool) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(exchange(Path(folder) / "s", answered, leave=leave, ends=ends))
