"""Whole datasets are read a few at a time, and not for who has gone."""

import asyncio
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any, NoReturn

import pytest
from starlette.requests import ClientDisconnect, Request

from tunesmith.datasets.export.sample import Sample
from tunesmith.dialects.finetune.downloads import LinesOfFile
from tunesmith.dialects.finetune.turns import Turns, Watched


def endless() -> Iterator[Sample]:
    while True:
        yield Sample("a:1", "问", "答")


def request_of(left: asyncio.Event) -> Request:
    async def receive() -> MutableMapping[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)


async def test_so_many_work_at_once_and_the_rest_waits() -> None:
    turns, go, begun = Turns(2), threading.Event(), threading.Semaphore(0)

    def work() -> None:
        begun.release()
        assert go.wait(30)

    tasks = [asyncio.create_task(turns.run(work)) for _ in range(6)]
    for _ in range(2):
        assert await asyncio.to_thread(begun.acquire, timeout=30)
    assert not await asyncio.to_thread(begun.acquire, timeout=0.2), "a third one has begun"
    go.set()
    await asyncio.gather(*tasks)
    assert all(begun.acquire(blocking=False) for _ in range(4))


async def test_reading_ends_when_the_client_has_left() -> None:
    left, begun = asyncio.Event(), threading.Event()

    def made(watched: Watched) -> LinesOfFile:
        for _ in watched(endless()):
            begun.set()
        raise AssertionError("it has no end")

    answer = asyncio.create_task(Turns().file(request_of(left), made))
    assert await asyncio.to_thread(begun.wait, 30)
    left.set()
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(answer, 30)


async def test_who_has_left_while_waiting_gets_no_turn() -> None:
    turns, go, left = Turns(1), threading.Event(), asyncio.Event()
    held = asyncio.create_task(turns.run(lambda: go.wait(30)))

    def made(watched: Watched) -> NoReturn:
        raise AssertionError("nobody waits for it")

    answer = asyncio.create_task(turns.file(request_of(left), made))
    left.set()
    for _ in range(20):
        await asyncio.sleep(0)
    go.set()
    await held
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(answer, 30)
