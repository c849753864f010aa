"""What an Ollama server has, holds in memory and fetches."""

import asyncio
import json
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from tests.unit.inference.engines.serving import Handler, serving
from tests.unit.inference.engines.test_ollama import answers, ask, end, heard, line, ollama, says
from tunesmith.inference.engines.ollama import LABEL, OllamaEngine
from tunesmith.inference.engines.refusals import refused
from tunesmith.inference.engines.upstream import Terms, Upstream
from tunesmith.inference.engines.watch import Patience
from tunesmith.inference.model_ids import Listed
from tunesmith.inference.ollama import OllamaStats, OllamaTotals, PullProgress, RunningModel
from tunesmith.kernel.problems import Invalid, NotFound, Problem, TimedOut, Unavailable

TAGS = [
    {
        "name": "qwen3:8b",
        "model": "qwen3:8b",
        "modified_at": "2026-08-21T10:00:00.123456789+08:00",
        "size": 5_000_000_000,
        "digest": "0" * 64,
        "details": {"family": "qwen3"},
        "capabilities": ["completion", "tools", "thinking"],
    },
    {"name": "nomic-embed-text:latest", "model": "nomic-embed-text:latest", "size": 3, "capabilities": ["embedding"]},
    {"name": "gpt-oss:120b-cloud", "model": "gpt-oss:120b-cloud", "size": 384, "remote_host": "https://ollama.com:443"},
    {"name": "old:latest", "size": 7},  # before there were capabilities, and a second name
]
PS = [
    {
        "name": "qwen3:8b",
        "model": "qwen3:8b",
        "size": 6_000,
        "size_vram": 4_000,
        "expires_at": "2026-08-21T10:05:00Z",
        "context_length": 4096,
    }
]


def has(tags: Any = TAGS, ps: Any = PS) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        known = {"/api/tags": {"models": tags}, "/api/ps": {"models": ps}, "/api/version": {"version": "0.12.3"}}
        if request.method == "GET" and request.path in known:
            return web.json_response(known[request.path])
        return await says(line("a"), end(prompt_eval_count=1, eval_count=1, eval_duration=10**9))(request)

    return handler


def progress(status: str, digest: str | None = None, total: int = 0, completed: int = 0, **more: Any) -> bytes:
    """A line of /api/pull, which leaves out what is 0."""
    fields = {"status": status, "digest": digest, "total": total, "completed": completed, **more}
    return json.dumps({name: value for name, value in fields.items() if value}).encode() + b"\n"


WHOLE = (
    progress("pulling manifest"),
    progress("pulling aaaaaaaaaaaa", "sha256:aa", 100),
    progress("pulling aaaaaaaaaaaa", "sha256:aa", 100, 60),
    progress("pulling aaaaaaaaaaaa", "sha256:aa", 100, 100),
    progress("pulling bbbbbbbbbbbb", "sha256:bb", 10, 10),
    progress("verifying sha256 digest"),
    progress("writing manifest"),
    progress("success"),
)


async def pulled(engine: OllamaEngine, name: str = "qwen3:8b") -> list[PullProgress]:
    async with aclosing(engine.pull(name)) as frames:
        return [frame async for frame in frames]


async def test_models_are_those_that_chat_here_with_what_is_known_of_them() -> None:
    async with ollama(has()) as engine:
        assert await engine.models() == [
            Listed(
                "qwen3:8b",
                name="qwen3:8b",
                context_length=4096,
                size_bytes=5_000_000_000,
                modified="2026-08-21T10:00:00.123456789+08:00",
                loaded=True,
            ),
            Listed("old:latest", name="old:latest", size_bytes=7),
        ]


async def test_a_server_without_models_may_say_so_by_null() -> None:
    async with ollama(has(None, None)) as engine:
        assert (await engine.models(), await engine.running()) == ([], [])


async def test_stats_say_what_is_there_and_what_was_asked() -> None:
    async with ollama(has()) as engine:
        await heard(engine, ask())
        stats = await engine.stats()
        assert stats == OllamaStats(
            "0.12.3",
            await engine.models(),
            [RunningModel("qwen3:8b", 6_000, 4_000, "2026-08-21T10:05:00Z", 4096)],
            OllamaTotals(requests=1, prompt_tokens=1, completion_tokens=1, eval_seconds=1.0),
        )


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"models": 7}', b'{"models": [{"size": "big"}]}'])
async def test_a_list_that_is_none_is_unavailable(body: bytes) -> None:
    async with ollama(answers(200, body)) as engine:
        with pytest.raises(Unavailable):
            await engine.models()
        with pytest.raises(Unavailable):
            await engine.version()


async def test_a_pull_sums_its_layers_up_and_asks_for_no_insecure_way() -> None:
    seen: list[tuple[str, str, Any]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.method, request.path, await request.json()))
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in WHOLE:
            await response.write(piece)
            await asyncio.sleep(0.02)
        return response

    async with ollama(handler) as engine:
        frames = await pulled(engine)
    assert seen == [("POST", "/api/pull", {"model": "qwen3:8b", "stream": True})]
    assert frames[0].total_bytes in (0, 100)
    assert frames[-1] == PullProgress("success", 110, 110)
    assert PullProgress("pulling aaaaaaaaaaaa", 60, 100) in frames


async def test_lines_of_a_pull_that_come_together_give_one_progress() -> None:
    async with ollama(says(b"".join(WHOLE))) as engine:
        assert await pulled(engine) == [PullProgress("success", 110, 110)]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("pull model manifest: file does not exist", NotFound),
        ("pull model manifest: Error: model not found", NotFound),
        ("max retries exceeded: Get https://registry.ollama.ai: dial tcp: no such host", Unavailable),
        ("write /models/blobs: no space left on device", Unavailable),
    ],
)
async def test_an_error_ends_a_pull_with_what_ollama_says(text: str, kind: type[Problem]) -> None:
    async with ollama(says(WHOLE[0], json.dumps({"error": text}).encode() + b"\n")) as engine:
        with pytest.raises(Problem) as refused:
            await pulled(engine, "qwen9")
    assert type(refused.value) is kind
    assert text in refused.value.zh
    assert refused.value.details["upstream_status"] in (404, 500)


async def test_a_name_ollama_does_not_take_is_invalid() -> None:
    async with ollama(answers(400, b'{"error":"invalid model name"}')) as engine:
        with pytest.raises(Invalid):
            await pulled(engine)


async def test_a_pull_that_does_not_end_in_success_has_broken_off() -> None:
    for pieces in (WHOLE[:-1], (), (*WHOLE, progress("removing unused layers"))):
        async with ollama(says(*pieces)) as engine:
            with pytest.raises(Unavailable) as broken:
                await pulled(engine)
        assert "upstream_status" not in broken.value.details


async def test_leaving_a_pull_hangs_up() -> None:
    left = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            await response.write(WHOLE[0])
            await asyncio.sleep(600)
        finally:
            left.set()
        return response

    async with ollama(handler) as engine:
        frames = engine.pull("qwen3")
        assert (await anext(frames)).status == "pulling manifest"
        await frames.aclose()
        async with asyncio.timeout(10):
            await left.wait()


async def test_a_pull_is_not_counted_among_the_answers_and_not_held_to_their_limits() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in WHOLE:
            await response.write(piece)
            await asyncio.sleep(0.05)
        return response

    hasty = Terms(patience=Patience(first_s=0.1, idle_s=0.1, total_s=0.1), in_flight=0)
    async with ollama(handler, hasty) as engine:
        assert (await pulled(engine))[-1].status == "success"
        assert engine.totals == OllamaTotals()


async def test_a_pull_may_take_any_time_once_it_has_begun_but_not_fall_silent() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(8):
            await response.write(WHOLE[1])
            await asyncio.sleep(0.1)
        await asyncio.sleep(600)
        return response

    terms = Terms(patience=Patience(first_s=0.5, idle_s=0.4))
    frames: list[PullProgress] = []
    async with serving(handler) as url:
        upstream = Upstream(url, LABEL, partial(refused, LABEL), terms=terms)
        engine = OllamaEngine(upstream, upstream)
        with pytest.raises(TimedOut) as late:
            async with aclosing(engine.pull("qwen3")) as pull:
                async for frame in pull:
                    frames.append(frame)
        await engine.close()
    assert len(frames) == 8
    assert late.value.details["waited_for"] == "idle"
