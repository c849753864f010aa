"""The client against upstreams that behave in every way upstreams do."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.unit.inference.engines.serving import Handler, answers, says, serving
from tunesmith.datasets.example import Message
from tunesmith.inference.engine import Delta, Done, Event, Reference, Request, Sampling, TokenLogprob
from tunesmith.inference.engines import refusals
from tunesmith.inference.engines.answer import Label
from tunesmith.inference.engines.openai import OpenAIEngine
from tunesmith.inference.engines.upstream import Terms, Upstream
from tunesmith.inference.engines.watch import Patience
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Problem, TimedOut, TooMany, Unavailable, Unsupported
from tunesmith.models.model import Model

PLAIN = Sampling(max_new_tokens=8, temperature=0.5, top_p=0.9, top_k=0, repetition_penalty=1.0)


LABEL = Label("引擎", "the server")
FOREIGN = Terms()


@asynccontextmanager
async def upstream(
    handler: Handler, *, key: str = "", terms: Terms = FOREIGN, **options: Any
) -> AsyncIterator[OpenAIEngine]:
    """An engine whose server answers everything with ``handler``."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with serving(handler) as url:
        refused = partial(refusals.refused, LABEL)
        engine = OpenAIEngine(Upstream(url + "/", LABEL, refused, headers=lambda: headers, terms=terms), **options)
        try:
            yield engine
        finally:
            await engine.close()


@asynccontextmanager
async def worker(handler: Handler, tmp_path: Path) -> AsyncIterator[OpenAIEngine]:
    """A client of the built-in engine whose process answers everything with ``handler``."""
    async with serving(handler, socket=tmp_path / "engine.sock"):
        engine = OpenAIEngine.worker(tmp_path / "engine.sock")
        try:
            yield engine
        finally:
            await engine.close()


def ask(text: str = "hello", sampling: Sampling = PLAIN, model: Model = Model("m")) -> Request:  # noqa: B008
    return Request((Message("user", text),), model, sampling)


async def heard(engine: OpenAIEngine, *requests: Request) -> list[Event]:
    async with aclosing(engine.generate(requests)) as events:
        return [event async for event in events]


def frame(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    delta = {"content": text} if text is not None else {}
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}], **more}).encode() + b"\n\n"


async def test_pieces_that_break_anywhere_give_the_same_answer() -> None:
    stream = b": ping\r\n\r\n" + frame("你") + frame("", None) + frame("好\n") + frame(None, "stop")
    stream += b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\ndata: [DONE]\n\n'
    for size in (1, 2, 7, 64, len(stream)):
        pieces = [stream[i : i + size] for i in range(0, len(stream), size)]
        async with upstream(says(*pieces)) as engine:
            *deltas, done = await heard(engine, ask())
        # what comes together leaves together
        assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)) == "你好\n"
        assert all(isinstance(delta, Delta) and delta.text for delta in deltas)
        assert isinstance(done, Done)
        assert (done.finish, done.prompt_tokens, done.completion_tokens) == ("stop", 3, 2)
        assert 0 < done.first_token_s <= done.seconds


async def test_the_engines_own_timings_are_kept() -> None:
    last = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1},"timings":{"first_token_s":0.25,"seconds":0.5}}\n\n'
    async with upstream(says(frame("a", "length"), last, b"data: [DONE]\n\n")) as engine:
        done = (await heard(engine, ask()))[-1]
    assert done == Done(0, "length", 1, 1, 0.25, 0.5)


async def test_llama_cpp_has_other_timings_under_that_name() -> None:
    last = frame(None, "stop", timings={"prompt_n": 9, "prompt_ms": 12.5, "predicted_n": 1, "predicted_ms": 4.5})
    async with upstream(says(frame("a"), last, b"data: [DONE]\n\n")) as engine:
        delta, done = await heard(engine, ask())
    assert isinstance(done, Done)
    assert (delta, done.finish) == (Delta(0, "a"), "stop")
    assert 0 < done.first_token_s <= done.seconds


async def test_a_stream_without_marker_of_its_end_is_cut_and_not_short() -> None:
    for pieces in ((frame("a"),), (frame("a"), frame("b", "error"), b"data: [DONE]\n\n"), ()):
        async with upstream(says(*pieces)) as engine:
            with pytest.raises(Unavailable):
                await heard(engine, ask())


async def test_a_stream_may_say_only_that_it_is_over_or_only_why() -> None:
    for pieces, finish in (((b"data: [DONE]\n\n",), "stop"), ((frame(None, "length"),), "length")):
        async with upstream(says(frame("a"), *pieces)) as engine:
            delta, done = await heard(engine, ask())
        assert isinstance(done, Done)
        assert (delta, done.finish, done.completion_tokens) == (Delta(0, "a"), finish, 1)


async def test_a_connection_cut_midway_is_unavailable() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(frame("a"))
        assert request.transport is not None
        request.transport.abort()
        return response

    async with upstream(handler) as engine:
        with pytest.raises(Unavailable):
            await heard(engine, ask())


async def test_a_socket_nobody_listens_on_is_unavailable(tmp_path: Path) -> None:
    engine = OpenAIEngine.worker(tmp_path / "none.sock")
    with pytest.raises(Unavailable) as refused:
        await heard(engine, ask())
    assert refused.value.zh.startswith("推理引擎没有应答，请稍后重试（Cannot connect to unix socket")
    assert refused.value.en.startswith("the engine is not answering, ask again later (Cannot connect to unix socket")
    await engine.close()
    with pytest.raises(Unavailable):  # and after closing, too
        await heard(engine, ask())


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, Unavailable),
        (404, NotFound),
        (409, Conflict),
        (413, Invalid),
        (422, Invalid),
        (429, TooMany),
        (500, Unavailable),
        (501, Unsupported),
        (503, Unavailable),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"what went wrong","type":"x"}}',
        b'{"error":"what went wrong"}',
        b'{"detail":"what went wrong"}',
        b'{"message":"what went wrong"}',
        b"what went wrong",
    ],
)
async def test_an_error_answer_becomes_the_problem_it_means(
    status: int, kind: type[Problem], body: bytes, tmp_path: Path
) -> None:
    async with worker(answers(status, body), tmp_path) as engine:
        with pytest.raises(kind) as refused:
            await heard(engine, ask())
    assert type(refused.value) is kind
    assert "what went wrong" in refused.value.en


@pytest.mark.parametrize(
    "piece",
    [
        b'data: {"error":{"message":"out of memory","code":500}}\n\n',
        b'data: {"error":{"message":"out of memory","message_zh":"\xe5\x86\x85\xe5\xad\x98","type":"Unavailable"}}\n\n',
        b"data: not json out of memory\n\n",
        b'data: {"choices": 7}\n\n',
        b"data: \xff\xfe\n\n",
    ],
)
@pytest.mark.parametrize("together", [False, True])
async def test_an_error_or_nonsense_in_a_stream_ends_it_after_what_came_before(
    piece: bytes, together: bool, tmp_path: Path
) -> None:
    pieces = (frame("a"), piece, frame("b", "stop"), b"data: [DONE]\n\n")
    handler = says(b"".join(pieces)) if together else says(*pieces)
    async with upstream(handler) as foreign, worker(handler, tmp_path) as builtin:
        for engine in (foreign, builtin):
            said = []
            with pytest.raises(Unavailable):
                async with aclosing(engine.generate([ask()])) as events:
                    async for event in events:
                        said.append(event)
            assert said == [Delta(0, "a")]


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (b'{"error":{"code":502,"message":"lost"},"choices":[{"delta":{"content":""},"finish_reason":"error"}]}', 502, Unavailable),
        (b'{"error":{"message":"lost","error_type":"rate_limit_exceeded","http_status":429},"choices":[]}', 429, TooMany),
        (b'{"error":{"object":"error","message":"lost","type":"BadRequestError","param":null,"code":400}}', 400, Invalid),
    ],
)  # fmt: skip
async def test_an_error_in_the_middle_keeps_its_code(error: bytes, code: int, kind: type[Problem]) -> None:
    async with upstream(says(frame("a"), b"data: " + error + b"\n\n")) as engine:
        with pytest.raises(kind) as refused:
            await heard(engine, ask())
    assert type(refused.value) is kind
    assert refused.value.details == {"upstream_status": code}
    assert refused.value.en == f"the server refused the request: {code} lost"


async def test_what_the_built_in_engine_states_is_told_as_it_stands(tmp_path: Path) -> None:
    error = '{"error":{"message":"gone","message_zh":"没了","type":"NotFound","param":"model"}}'
    async with worker(says(frame("a"), b"data: " + error.encode() + b"\n\n"), tmp_path) as engine:
        with pytest.raises(NotFound) as refused:
            await heard(engine, ask())
    assert (refused.value.zh, refused.value.en, refused.value.details) == ("没了", "gone", {"field": "model"})


async def test_an_answer_that_is_no_stream_is_taken_as_it_is() -> None:
    def whole(body: dict[str, Any]) -> Handler:
        return answers(200, json.dumps(body).encode(), "application/json")

    choice = {"message": {"role": "assistant", "content": "all of it"}, "finish_reason": "stop"}
    async with upstream(whole({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})) as engine:
        delta, done = await heard(engine, ask())
    assert delta == Delta(0, "all of it")
    assert isinstance(done, Done)
    assert (done.finish, done.prompt_tokens, done.completion_tokens) == ("stop", 3, 4)
    async with upstream(whole({"error": {"code": 429, "message": "slow down"}, "choices": []})) as engine:
        with pytest.raises(TooMany):
            await heard(engine, ask())


@pytest.mark.parametrize("field", ["content", "reasoning", "reasoning_content"])
async def test_thinking_counts_as_a_first_token(field: str) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: " + json.dumps({"choices": [{"delta": {field: "hm"}}]}).encode() + b"\n\n")
        await asyncio.sleep(1.5)
        await response.write(frame("a", "stop"))
        return response

    async with upstream(handler, terms=Terms(patience=Patience(first_s=1, idle_s=60, total_s=60))) as engine:
        *said, done = await heard(engine, ask())
    assert said[-1] == Delta(0, "a")
    assert isinstance(done, Done)
    assert done.first_token_s < 1


async def test_what_is_no_token_is_no_first_token() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(b": PROCESSING\n\n" + frame("") + frame())
            await asyncio.sleep(0.05)

    async with upstream(handler, terms=Terms(patience=Patience(first_s=0.3, idle_s=60, total_s=60))) as engine:
        with pytest.raises(TimedOut) as late:
            await heard(engine, ask())
    assert late.value.details == {"waited_for": "first token"}


async def test_what_was_charged_and_who_spoke_is_told() -> None:
    last = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"cost":0.25},"model":"big/model"}\n\n'
    async with upstream(says(frame("a", "stop"), last)) as engine:
        done = (await heard(engine, ask()))[-1]
    assert isinstance(done, Done)
    assert (done.cost_usd, done.spoke) == (0.25, "big/model")


async def test_a_line_without_end_is_given_up() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: ")
        while True:
            await response.write(b"x" * (1 << 16))

    async with upstream(handler) as engine:
        with pytest.raises(Unavailable):
            await heard(engine, ask())


async def test_nothing_is_said_before_every_row_is_accepted() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if b"bad" in await request.read():
            await asyncio.sleep(0.05)
            return web.Response(status=400, body=b'{"error":{"message":"bad row"}}')
        return await says(frame("a", "stop"), b"data: [DONE]\n\n")(request)

    said = []
    async with upstream(handler) as engine:
        with pytest.raises(Invalid):
            async with aclosing(engine.generate([ask("good"), ask("bad"), ask("good")])) as events:
                async for event in events:
                    said.append(event)
    assert said == []


async def test_no_more_streams_are_open_than_allowed_and_all_rows_end() -> None:
    open_now, most = 0, 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.01)
        answer = await says(frame("a", "stop"), b"data: [DONE]\n\n")(request)
        open_now -= 1
        return answer

    async with upstream(handler, at_once=3) as engine:
        events = await heard(engine, *(ask(str(n)) for n in range(10)))
    assert sorted(event.row for event in events if isinstance(event, Done)) == list(range(10))
    assert most == 3


async def test_closing_the_generator_closes_every_upstream_stream_at_once() -> None:
    left = asyncio.Event()
    gone = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal gone
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            await response.write(frame("a"))
            await asyncio.sleep(600)
        finally:
            gone += 1
            if gone == 3:
                left.set()
        return response

    async with upstream(handler) as engine:
        events = engine.generate([ask(str(n)) for n in range(3)])
        await anext(events)
        await events.aclose()
        async with asyncio.timeout(10):
            await left.wait()


async def test_neutral_settings_stay_unsaid_to_foreign_engines_and_the_key_is_sent() -> None:
    seen: list[tuple[str, dict[str, Any], str | None]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.path, await request.json(), request.headers.get("Authorization")))
        return await says(frame("a", "stop"), b"data: [DONE]\n\n")(request)

    warm = Sampling(8, 0.5, 0.9, 40, 1.2, seed=3, stop=("END",))
    async with upstream(handler, key="secret") as engine:
        await heard(engine, ask(model=Model("m", "adapters/a")), Request("raw", Model("m"), warm))
    plain, full = sorted(seen, key=lambda one: one[0])
    assert plain[0] == "/v1/chat/completions"
    assert not {"top_k", "repetition_penalty", "seed", "stop", "user"} & set(plain[1])
    assert plain[1]["model"] == "adapters/a"
    assert full[0] == "/v1/completions"
    assert {key: full[1][key] for key in ("top_k", "repetition_penalty", "seed", "stop", "prompt")} == {
        "top_k": 40,
        "repetition_penalty": 1.2,
        "seed": 3,
        "stop": ["END"],
        "prompt": "raw",
    }
    assert {authorization for _, _, authorization in seen} == {"Bearer secret"}


async def test_what_few_engines_know_is_said_only_where_it_is_asked_for_and_the_owner_to_our_own_alone(
    tmp_path: Path,
) -> None:
    seen: list[dict[str, Any]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(await request.json())
        return await says(frame("a", "stop"), b"data: [DONE]\n\n")(request)

    schema = '{"type": "object", "title": "谢"}'
    full = replace(PLAIN, min_p=0.1, presence_penalty=1.0, frequency_penalty=-0.5, schema=schema, top_logprobs=3)
    messages = (Message("user", "hello"),)
    async with upstream(handler) as foreign, worker(handler, tmp_path) as builtin:
        for engine in (foreign, builtin):
            for sampling in (PLAIN, full):
                await heard(engine, Request(messages, Model("m"), sampling, owner="ada"))
        await heard(foreign, Request("raw", Model("m"), full))
    unsaid = {"min_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "response_format"}
    assert not (unsaid | {"cache_salt"}) & set(seen[0])
    assert "cache_salt" not in seen[1]
    assert [body["cache_salt"] for body in seen[2:4]] == ["ada", "ada"]
    for body in (seen[1], seen[3]):
        assert (body["min_p"], body["presence_penalty"], body["frequency_penalty"]) == (0.1, 1.0, -0.5)
        assert (body["logprobs"], body["top_logprobs"]) == (True, 3)
        form = body["response_format"]
        assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", json.loads(schema))
    assert (seen[4]["logprobs"], "top_logprobs" in seen[4]) == (3, False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_p", 1.5),
        ("min_p", float("nan")),
        ("presence_penalty", 3.0),
        ("frequency_penalty", float("-inf")),
        ("top_logprobs", 21),
        ("top_logprobs", -1),
        ("schema", "{"),
        ("schema", "[1]"),
        ("schema", '{"a": "\ud800"}'),
        ("schema", '{"a":' * 100_000),
        ("schema", '{"a": "' + "x" * 200_000 + '"}'),
    ],
)
async def test_settings_no_engine_can_follow_are_refused_before_they_are_sent(field: str, value: Any) -> None:
    async with upstream(answers(500, b"")) as engine:
        with pytest.raises(Invalid) as refused:
            await heard(engine, ask(sampling=replace(PLAIN, **{field: value})))
    assert refused.value.details == {"field": field}
    assert len(refused.value.en) < 200


def choice(text: str | None, logprobs: Any, finish: str | None = None, **more: Any) -> bytes:
    delta = {"content": text} if text is not None else {}
    body = {"choices": [{"delta": delta, "finish_reason": finish, "logprobs": logprobs}], **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


TOLD = replace(PLAIN, top_logprobs=2)


async def test_log_probabilities_come_with_the_delta_they_came_with() -> None:
    top = [{"token": "好", "logprob": -0.5, "bytes": [229, 165, 189]}, {"token": "b", "logprob": -1, "bytes": None}]
    first = {"content": [{"token": "\ufffd", "logprob": -2.5, "bytes": [228], "top_logprobs": []}]}
    second = {"content": [{"token": "好", "logprob": -0.5, "bytes": [229, 165, 189], "top_logprobs": [*top, top[1]]}]}
    pieces = [choice("", first), choice("你好", second), choice(None, None, "stop"), b"data: [DONE]\n\n"]
    async with upstream(says(*pieces)) as engine:
        *deltas, done = await heard(engine, ask(sampling=TOLD))
        assert isinstance(done, Done)
        told = [token for delta in deltas if isinstance(delta, Delta) for token in delta.logprobs]
        likeliest = (TokenLogprob("好", -0.5, "好".encode()), TokenLogprob("b", -1.0))
        assert told == [TokenLogprob("\ufffd", -2.5, b"\xe4"), TokenLogprob("好", -0.5, "好".encode(), likeliest)]
        assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)) == "你好"
        # whoever did not ask is not told
        assert all(isinstance(event, Done) or not event.logprobs for event in await heard(engine, ask()))


async def test_raw_completions_columns_mean_the_same() -> None:
    columns = {
        "tokens": ["a", "b"],
        "token_logprobs": [None, -2.0],
        "top_logprobs": [None, {"b": -2.0, "c": -0.1, "d": -1.0}],
        "text_offset": [0, 1],
    }
    body = {"choices": [{"text": "ab", "finish_reason": "length", "logprobs": columns}]}
    async with upstream(says(b"data: " + json.dumps(body).encode() + b"\n\n")) as engine:
        delta, done = await heard(engine, Request("raw", Model("m"), TOLD))
    top = (TokenLogprob("c", -0.1), TokenLogprob("d", -1.0))
    assert delta == Delta(0, "ab", (TokenLogprob("a", 0.0), TokenLogprob("b", -2.0, top=top)))
    assert isinstance(done, Done)


@pytest.mark.parametrize("nonsense", [7, [], {"content": 7}, {"tokens": [1]}, {"content": [{"token": "a"}]}])
async def test_log_probabilities_of_no_known_shape_end_the_answer_only_where_they_were_asked_for(nonsense: Any) -> None:
    async with upstream(says(choice("a", nonsense, "stop"), b"data: [DONE]\n\n")) as engine:
        assert (await heard(engine, ask()))[0] == Delta(0, "a")
        with pytest.raises(Unavailable):
            await heard(engine, ask(sampling=TOLD))


async def test_text_that_is_no_unicode_is_refused_before_it_is_sent() -> None:
    async with upstream(answers(500, b"")) as engine:
        with pytest.raises(Invalid):
            await heard(engine, ask("half \ud83d"))


async def test_an_engine_without_prompt_logprobs_cannot_score() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/tokenize":
            return web.json_response({"tokens": [1, 2, 3], "max_model_len": 99})
        return web.json_response({"choices": [{"index": 0, "text": ""}]})

    async with upstream(handler) as engine:
        with pytest.raises(Unsupported):
            await engine.score([Reference((Message("user", "a"),), "b", Model("m"))])


async def test_a_score_covers_the_completion_and_its_end_token_only(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if request.path == "/tokenize":
            # the prompt is 1 2 3; the answer 4 5, its end token 9, and a line break that belongs to nobody
            tokens = [1, 2, 3] if body["add_generation_prompt"] else [1, 2, 3, 4, 5, 9, 8]
            return web.json_response({"tokens": tokens, "max_model_len": 99, "end_tokens": [9]})
        shares = [[None, *({str(t): {"logprob": -t / 10}} for t in prompt[1:])] for prompt in body["prompt"]]
        choices = [{"index": i, "prompt_logprobs": one} for i, one in enumerate(shares)]
        return web.json_response({"choices": choices[::-1]})

    async with worker(handler, tmp_path) as engine:
        scores = await engine.score([Reference((Message("user", "a"),), "b", Model("m"))] * 40)
    assert len(scores) == 40
    assert {score.tokens for score in scores} == {3}
    assert all(score.logprob == pytest.approx(-1.8) for score in scores)


async def test_a_socket_whose_queue_was_full_for_a_moment_is_tried_again(tmp_path: Path) -> None:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", says(frame("a", "stop"), b"data: [DONE]\n\n"))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen(1)
        engine = OpenAIEngine.worker(tmp_path / "s")
        rows = asyncio.create_task(heard(engine, *(ask(str(n)) for n in range(40))))
        await asyncio.sleep(0.05)  # nobody accepts yet: all but two were turned away
        listening.listen(128)
        await web.SockSite(runner, listening).start()
        events = await rows
        await engine.close()
        await runner.cleanup()
    assert sorted(event.row for event in events if isinstance(event, Done)) == list(range(40))
