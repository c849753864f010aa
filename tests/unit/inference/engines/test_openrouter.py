"""OpenRouter's list of models and what is sent with every request, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tunesmith.inference.engines.openrouter import OpenRouter
from tunesmith.kernel.problems import Unavailable
from tunesmith.settings import Settings

ROWS: list[Any] = [
    {"id": "a/one", "name": "One", "canonical_slug": "a/one-2", "context_length": 4096, "pricing": {"prompt": "1e-6"}},
    {"id": 5},
    {"id": "b/two", "pricing": {"prompt": "-1", "completion": "not a price"}, "unheard": {"of": []}},
    "no model",
]


@asynccontextmanager
async def openrouter(answer: Any, key: str | None = "sk-or-key", **settings: Any) -> AsyncIterator[tuple[Any, Any]]:
    """An ``OpenRouter`` whose server answers everything with ``answer``; and the requests it saw."""
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.json_response(answer)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/v1"
    made = OpenRouter(Settings(Path("/nowhere"), openrouter_url=url, **settings), lambda: key)
    try:
        yield made, seen
    finally:
        await made.close()
        await runner.cleanup()


async def test_a_row_that_cannot_be_read_hides_no_other() -> None:
    async with openrouter({"data": ROWS}) as (made, _):
        one, two = await made.models()
    assert (one.id, one.name, one.aliases, one.context_length) == ("a/one", "One", ("a/one-2",), 4096)
    assert (one.prompt_usd, one.completion_usd) == (1e-6, None)
    assert (two.id, two.prompt_usd, two.completion_usd) == ("b/two", None, None)


async def test_a_list_that_is_none_is_unavailable() -> None:
    async with openrouter({"rows": ROWS}) as (made, _):
        with pytest.raises(Unavailable):
            await made.models()


async def test_requests_carry_the_key_and_say_who_asks() -> None:
    async with openrouter({"data": []}, public_url="https://tune.example") as (made, seen):
        await made.models()
    [request] = seen
    assert request.path == "/api/v1/models"
    assert request.headers["Authorization"] == "Bearer sk-or-key"
    assert request.headers["X-OpenRouter-Title"] == "Tunesmith"
    assert request.headers["HTTP-Referer"] == "https://tune.example"
    async with openrouter({"data": []}, key=None) as (made, seen):
        await asyncio.wait_for(made.models(), 20)
    assert not {"Authorization", "HTTP-Referer"} & set(seen[0].headers)
