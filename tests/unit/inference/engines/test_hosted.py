"""Tuned models at a provider, asked over real sockets: as they were trained, their thinking told from their answer."""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.unit.inference.engines.serving import serving
from tests.upstreams.fireworks_api import fireworks_api
from tests.upstreams.together_api import together_api
from tunesmith.datasets.example import Message
from tunesmith.datasets.export.sample import Strategy
from tunesmith.evaluation.service import EvaluationRequest, EvaluationService, Question
from tunesmith.inference.chat import Chat
from tunesmith.inference.collect import collect
from tunesmith.inference.engine import Delta, Done, Event, Reference, Request, Sampling
from tunesmith.inference.engines.hosted import AfterThinking, HostedEngine
from tunesmith.inference.engines.scripted import ScriptedEngine
from tunesmith.inference.switchboard import HostedNames, Switchboard, tuned_model
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, NotFound, Unavailable, Unsupported
from tunesmith.models.model import Model
from tunesmith.settings import Settings

PLAIN = Sampling(max_new_tokens=16, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
TUNED = tuned_model("job-1", "together_ai", "Qwen/Qwen2.5-14B-Instruct")
QUESTION = (Message("user", "我的订单还没发货"),)
Said = Callable[[dict[str, Any]], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Asked:
    model: str = "acme/qwen-tuned"
    strategy: Strategy = Strategy.FINAL_ONLY
    system_message: str | None = None
    thinking_instructions: str | None = None


def echo(body: dict[str, Any]) -> Sequence[str]:
    return [body["model"], ": ", body["messages"][-1]["content"]]


@asynccontextmanager
async def provider(
    said: Said = echo, asked: Asked = Asked(), key: str | None = "sk-hosted", kind: str = "together"
) -> AsyncIterator[tuple[HostedEngine, list[tuple[str, str, dict[str, Any]]]]]:
    """An engine whose provider streams what ``said`` makes of a body; and path, authorization and body of each call."""
    seen: list[tuple[str, str, dict[str, Any]]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        seen.append((request.path, request.headers.get("Authorization", ""), body))
        if body["model"].startswith("absent/"):
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in said(body):
            await response.write(frame({"choices": [{"index": 0, "delta": {"content": piece}}]}))
            await asyncio.sleep(0)
        usage = {"prompt_tokens": 10, "completion_tokens": 3}
        await response.write(frame({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def how(job_id: str) -> Asked:
        if job_id != "job-1":
            raise Conflict("未部署", "not deployed")
        return asked

    async with serving(handler) as url:
        settings = Settings(Path("/nowhere"), together_url=f"{url}/v1", fireworks_url=url)
        engine = (HostedEngine.together if kind == "together" else HostedEngine.fireworks)(
            settings, answering(key), how
        )
        try:
            yield engine, seen
        finally:
            await engine.close()


def answering(value: Any) -> Callable[..., Any]:
    async def given(*_: object) -> Any:
        return value

    return given


def frame(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


async def events_of(engine: HostedEngine | Switchboard, *requests: Request) -> list[Event]:
    async with aclosing(engine.generate(requests)) as events:
        return [event async for event in events]


def text_of(events: Sequence[Event], row: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.row == row)


async def test_a_tuned_model_answers_by_its_own_name_at_the_provider_with_our_key() -> None:
    async with provider() as (engine, seen):
        events = await events_of(engine, Request(QUESTION, TUNED, PLAIN))
    assert text_of(events) == "acme/qwen-tuned: 我的订单还没发货"
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.finish, done.prompt_tokens, done.completion_tokens) == ("stop", 10, 3)
    [(path, authorization, body)] = seen
    assert (path, authorization) == ("/v1/chat/completions", "Bearer sk-hosted")
    assert body["messages"] == [{"role": "user", "content": "我的订单还没发货"}]


async def test_fireworks_is_asked_below_its_own_path() -> None:
    async with provider(kind="fireworks") as (engine, seen):
        model = tuned_model("job-1", "fireworks_ai", "accounts/fireworks/models/qwen3-8b")
        assert text_of(await events_of(engine, Request(QUESTION, model, PLAIN)))
        await events_of(engine, Request(QUESTION, model.bare(), PLAIN))
    assert {path for path, _, _ in seen} == {"/inference/v1/chat/completions"}
    assert seen[1][2]["model"] == "accounts/fireworks/models/qwen3-8b"


async def test_the_system_message_of_the_training_is_sent_where_the_caller_gives_none() -> None:
    trained = Asked(system_message="你是客服。")
    own = (Message("system", "Be brief."), *QUESTION)
    async with provider(asked=trained) as (engine, seen):
        await events_of(engine, Request(QUESTION, TUNED, PLAIN))
        await events_of(engine, Request(own, TUNED, PLAIN))
    assert seen[0][2]["messages"][0] == {"role": "system", "content": "你是客服。"}
    assert seen[1][2]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert len(seen[1][2]["messages"]) == 2


async def test_base_and_tuned_are_compared_over_one_port_and_asked_alike() -> None:
    async with provider(asked=Asked(system_message="你是客服。")) as (engine, seen):
        answers = await collect(
            Chat(Switchboard(ScriptedEngine(), {"together_ai": engine})).compare(QUESTION, TUNED, PLAIN), rows=2
        )
    assert [answer.text.partition(":")[0] for answer in answers] == ["Qwen/Qwen2.5-14B-Instruct", "acme/qwen-tuned"]
    bodies = [{**body, "model": ""} for _, _, body in seen]
    assert len(bodies) == 2 and bodies[0] == bodies[1]


async def test_a_hosted_model_is_evaluated_against_its_base_over_the_same_port(tmp_path: Path) -> None:
    def said(body: dict[str, Any]) -> Sequence[str]:
        return ["four"] if body["model"] == "acme/qwen-tuned" else ["five"]

    home = Home(tmp_path / "home")
    database = Database(f"sqlite:///{home.root}/tunesmith.db")
    database.migrate()
    async with provider(said) as (engine, _):
        service = EvaluationService(database, home, Switchboard(ScriptedEngine(), {"together_ai": engine}))
        questions = tuple(Question((Message("user", f"2 + 2, {i}"),), "four") for i in range(3))
        begun = service.start(EvaluationRequest(TUNED, questions, ("exact_match",), PLAIN, compare=True))
        done = await service.execute(begun.id)
        rows = service.outputs(begun.id)
        await service.close()
    database.close()
    assert done.result is not None, done.failure
    assert [(row["output"], row["base"]["output"]) for row in rows] == [("four", "five")] * 3


async def test_a_base_that_the_provider_does_not_serve_is_named() -> None:
    async with provider() as (engine, _):
        with pytest.raises(NotFound, match="does not serve the base model absent/base"):
            await events_of(engine, Request(QUESTION, tuned_model("job-1", "together_ai", "absent/base").bare(), PLAIN))
    async with provider(asked=Asked(model="absent/tuned")) as (engine, _):
        with pytest.raises(NotFound, match="deployment may have been ended"):
            await events_of(engine, Request(QUESTION, TUNED, PLAIN))


def every_split(text: str) -> list[list[str]]:
    return [[text[:i], text[i:j], text[j:]] for i in range(len(text) + 1) for j in range(i, len(text) + 1)]


@pytest.mark.parametrize(
    ("whole", "answer"),
    [
        ("<think>\n先道歉\n</think>\n\n抱歉。", "抱歉。"),
        ("a</think>b</think>", "b</think>"),  # the template wrote the first tag
        ("no tag <b", "no tag <b"),
        ("<think>cut off", ""),
        ("<thi", ""),
        ("</think>", ""),
    ],
)
def test_thinking_is_told_from_the_answer_wherever_its_tags_are_split(whole: str, answer: str) -> None:
    for pieces in every_split(whole):
        said = AfterThinking()
        assert "".join([said.feed(piece) for piece in pieces]) + said.end() == answer, pieces


def test_an_answer_flows_once_the_thinking_has_ended() -> None:
    said = AfterThinking()
    assert [said.feed(piece) for piece in ("<think>x</th", "ink>", "\n\n", " one", " two")] == [
        "",
        "",
        "",
        "one",
        " two",
    ]


async def test_a_model_that_thinks_in_its_answer_shows_the_answer_alone() -> None:
    pieces = ["<thi", "nk>\n想", "\n</thin", "k>\n", "\n抱", "歉。"]
    async with provider(lambda body: pieces, Asked(strategy=Strategy.R1)) as (engine, _):
        events = await events_of(engine, Request(QUESTION, TUNED, PLAIN))
    assert text_of(events) == "抱歉。"
    assert isinstance(events[-1], Done)


async def test_a_model_trained_in_two_messages_is_asked_twice() -> None:
    def said(body: dict[str, Any]) -> Sequence[str]:
        return ["先", "道歉"] if len(body["messages"]) == 2 else ["抱歉，", "请提供订单号。"]

    trained = Asked(strategy=Strategy.TWO_MESSAGE, system_message="你是客服。", thinking_instructions="想一想")
    async with provider(said, trained) as (engine, seen):
        events = await events_of(engine, Request(QUESTION, TUNED, replace(PLAIN, stop=("道",))))
    assert text_of(events) == "抱歉，请提供订单号。"
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.prompt_tokens, done.completion_tokens) == (20, 6)
    assert done.seconds >= done.first_token_s > 0
    first, second = seen[0][2], seen[1][2]
    wrapped = "The input is:\n<user_input>\n我的订单还没发货\n</user_input>\n\n想一想"
    assert [turn["content"] for turn in first["messages"]] == ["你是客服。", wrapped]
    assert second["messages"] == [
        *first["messages"],
        {"role": "assistant", "content": "先道歉"},
        {"role": "user", "content": "Considering the above, return a final result."},
    ]
    assert "stop" not in first and second["stop"] == ["道"]  # the caller's words end the answer, not the thinking


async def test_earlier_turns_stay_as_they_were_and_old_instructions_stand_in_a_system_message() -> None:
    talk = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "2 + 2"))
    trained = Asked(strategy=Strategy.TWO_MESSAGE_LEGACY, thinking_instructions="think")
    async with provider(asked=trained) as (engine, seen):
        await events_of(engine, Request(talk, TUNED, PLAIN))
    asked = [(turn["role"], turn["content"]) for turn in seen[0][2]["messages"]]
    assert asked == [("user", "Hi"), ("assistant", "Hello"), ("user", "2 + 2"), ("system", "think")]
    assert len(seen[1][2]["messages"]) == 6


async def test_the_stand_in_of_together_answers_a_base_that_it_serves_and_says_which_it_does_not() -> None:
    with together_api() as api:
        settings = Settings(Path("/nowhere"), together_url=api.v1)
        engine = HostedEngine.together(settings, answering(api.key), answering(Asked(model="acme/none")))
        base = next(iter(api.limits))
        model = tuned_model("job-1", "together_ai", base)
        assert (
            text_of(await events_of(engine, Request(QUESTION, model.bare(), PLAIN))) == f"{base}: {QUESTION[0].content}"
        )
        with pytest.raises(NotFound, match="acme/none"):
            await events_of(engine, Request(QUESTION, model, PLAIN))
        await engine.close()


async def test_the_stand_in_of_fireworks_answers_a_model_that_is_deployed_there() -> None:
    with fireworks_api() as api:
        tuned = f"accounts/{api.account}/models/tuned"
        api.add_model(tuned, tunable=False)
        session = aiohttp.ClientSession(api.url, headers={"Authorization": f"Bearer {api.key}"})
        async with session, session.post("/v1/accounts/acme/deployments", json={"baseModel": tuned}) as made:
            assert made.status == 200, await made.text()
        settings = Settings(Path("/nowhere"), fireworks_url=api.url)
        engine = HostedEngine.fireworks(settings, answering(api.key), answering(Asked(model=tuned)))
        model = tuned_model("job-1", "fireworks_ai", "accounts/fireworks/models/qwen3-8b")
        assert text_of(await events_of(engine, Request(QUESTION, model, PLAIN))) == f"tuned: {QUESTION[0].content}"
        with pytest.raises(NotFound, match="does not serve the base model accounts/fireworks/models/qwen3-8b"):
            await events_of(engine, Request(QUESTION, model.bare(), PLAIN))
        await engine.close()


async def test_leaving_while_the_model_thinks_ends_the_question_at_the_provider() -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            await response.write(frame({"choices": [{"index": 0, "delta": {"content": "hm"}}]}))
            begun.set()
            await asyncio.Event().wait()
        finally:
            left.set()
        return response

    trained = Asked(strategy=Strategy.TWO_MESSAGE, thinking_instructions="think")
    async with serving(handler) as url:
        engine = HostedEngine.together(
            Settings(Path("/nowhere"), together_url=url), answering("sk-hosted"), answering(trained)
        )
        asking = asyncio.create_task(events_of(engine, Request(QUESTION, TUNED, PLAIN)))
        await asyncio.wait_for(begun.wait(), 60)
        asking.cancel()
        await asyncio.wait({asking})
        await asyncio.wait_for(left.wait(), 60)
        await engine.close()


async def test_more_rows_than_are_open_at_once_all_end() -> None:
    trained = Asked(strategy=Strategy.TWO_MESSAGE, thinking_instructions="think")
    async with provider(asked=trained) as (engine, seen):
        rows = [Request((Message("user", f"question {i}"),), TUNED, PLAIN) for i in range(20)]
        events = await events_of(engine, *rows)
    assert sorted(event.row for event in events if isinstance(event, Done)) == list(range(20))
    assert len(seen) == 40


@pytest.mark.parametrize(
    ("request_", "strategy"),
    [
        (Request("Once upon a time", TUNED, PLAIN), Strategy.FINAL_ONLY),
        (Request(QUESTION, TUNED, replace(PLAIN, top_logprobs=2)), Strategy.FINAL_ONLY),
        (Request(QUESTION, TUNED, replace(PLAIN, schema='{"type": "object"}')), Strategy.R1),
    ],
)
async def test_what_the_wire_cannot_do_is_refused_before_anything_is_sent(
    request_: Request, strategy: Strategy
) -> None:
    async with provider(asked=Asked(strategy=strategy)) as (engine, seen):
        with pytest.raises(Unsupported) as refused:
            await events_of(engine, request_)
        with pytest.raises(Unsupported, match="perplexity"):
            await Switchboard(ScriptedEngine(), {"together_ai": engine}).score([Reference(QUESTION, "yes", TUNED)])
    assert refused.value.details["field"] in ("prompt", "logprobs", "schema")
    assert not seen


async def test_a_schema_reaches_a_model_that_answers_at_once() -> None:
    async with provider() as (engine, seen):
        await events_of(engine, Request(QUESTION, TUNED, replace(PLAIN, schema='{"type": "object"}')))
    assert seen[0][2]["response_format"]["json_schema"]["schema"] == {"type": "object"}


async def test_without_a_key_nothing_is_sent_and_the_setting_is_named() -> None:
    async with provider(key=None) as (engine, seen):
        with pytest.raises(Unavailable, match="TOGETHER_API_KEY") as refused:
            await events_of(engine, Request(QUESTION, TUNED, PLAIN))
    assert "set-key together_ai" in refused.value.zh
    assert not seen


async def test_a_model_that_is_not_deployed_is_refused_as_its_job_says() -> None:
    async with provider() as (engine, seen):
        with pytest.raises(Conflict):
            await events_of(engine, Request(QUESTION, tuned_model("job-2", "together_ai", "b"), PLAIN))
    assert not seen


async def test_rows_of_this_machine_and_of_a_provider_are_asked_in_one_call() -> None:
    async with provider() as (engine, seen):
        board = Switchboard(ScriptedEngine(), {"together_ai": engine})
        rows = [Request(QUESTION, Model("tunesmith-small"), PLAIN), Request(QUESTION, TUNED, PLAIN)]
        events = await events_of(board, *rows)
        alone = board.generate(rows[:1])
        assert inspect.isasyncgen(alone) and alone.ag_code is ScriptedEngine.generate.__code__  # nothing between
        await alone.aclose()
    assert sorted(event.row for event in events if isinstance(event, Done)) == [0, 1]
    assert text_of(events, 1).startswith("acme/qwen-tuned")
    assert not text_of(events, 0).startswith("acme")
    assert len(seen) == 1


def test_a_hosted_name_means_the_model_of_its_job_and_nothing_else_does() -> None:
    jobs = {"job-1": ("together_ai", "Qwen/Qwen2.5-14B-Instruct")}
    names = HostedNames(jobs.get, lambda: ["job-1"])
    assert names.find("hosted/job-1") == TUNED
    assert TUNED.name == "hosted/job-1" and TUNED.bare().adapter is None
    assert names.list() == ["hosted/job-1"]
    for other in ("hosted/job-2", "hosted/", "job-1", "hosted/../job-1", "hosted/together_ai/Qwen", "adapters/town"):
        assert names.find(other) is None, other
