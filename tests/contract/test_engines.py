"""One suite over every engine: the shipped fake, the real one in a process of its own, vLLM, and the client of Ollama.

No Ollama is there, but a fake in its wire over a real llama.cpp server; no vLLM, but a stand-in over our own worker.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

import pytest
import pytest_asyncio

from tests.tiny_model import CONTEXT, make_tiny_adapter, make_tiny_base
from tests.upstreams import tiny_gguf
from tests.upstreams.running import llama, ollama_skin, vllm_command
from tunesmith.datasets.example import Message
from tunesmith.inference.engine import Delta, Done, Engine, Event, Reference, Request, Sampling
from tunesmith.inference.engines.ollama import OllamaEngine
from tunesmith.inference.engines.scripted import ScriptedEngine
from tunesmith.inference.engines.upstream import Terms
from tunesmith.inference.supervisor import Supervisor
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid, NotFound, Problem, Unsupported
from tunesmith.models.model import Model
from tunesmith.models.registry import Registry
from tunesmith.settings import Settings, VllmSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

BASE = Model("tiny")
TUNED = Model("tiny", "adapters/one")
GREEDY = Sampling(max_new_tokens=24, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
WARM = replace(GREEDY, temperature=0.9, top_p=0.95, top_k=50, repetition_penalty=1.1, seed=7)


class Rows(Protocol):
    def __call__(self) -> int: ...


@dataclass(frozen=True)
class Subject:
    """An engine under test, how many rows it says are in flight, and what it cannot do.

    Attributes:
        models: a base, and an adapter of it where the engine knows ours.
        scores: it reports log-probabilities.
        looks_ahead: it refuses a row that does not fit before anything is said, however many come before.
    """

    engine: Engine
    rows: Rows
    models: tuple[Model, ...] = (BASE, TUNED)
    context: int = CONTEXT
    scores: bool = True
    looks_ahead: bool = True


@pytest_asyncio.fixture(params=["scripted", "supervised", "vllm", "ollama"], loop_scope="module", scope="module")
async def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Subject]:
    if request.param == "scripted":
        fake = ScriptedEngine(models=[BASE, TUNED], context=CONTEXT, delay_s=0.001)
        yield Subject(fake, lambda: fake.rows)
        return
    if request.param == "ollama":
        with llama(tmp_path_factory.mktemp("llama")) as model, ollama_skin(llama_url=model.url) as skin:
            client = OllamaEngine.at(skin.url, Terms())
            yield Subject(
                client,
                lambda: client.totals.in_flight,
                models=(BASE,),
                context=tiny_gguf.CONTEXT,
                scores=False,
                looks_ahead=False,
            )
            await client.close()
        return
    root = tmp_path_factory.mktemp("home")
    base = make_tiny_base(root / "models" / "tiny")
    make_tiny_adapter(base, root / "adapters" / "one", seed=1)
    home = Home(root)
    settings = Settings(root, threads=1, engine_start_s=60)
    if request.param == "vllm":
        settings = replace(settings, engine="vllm", vllm=VllmSettings(command=(str(vllm_command(root)),)))
    supervisor = Supervisor(Registry(home), home, settings)
    yield Subject(supervisor, lambda: sum(status.rows for status in supervisor.status()))
    await supervisor.close()


def ask(text: str, model: Model = BASE, sampling: Sampling = GREEDY) -> Request:
    return Request((Message("user", text),), model, sampling)


async def heard(engine: Engine, *requests: Request) -> list[Event]:
    async with aclosing(engine.generate(requests)) as events:
        return [event async for event in events]


def text_of(events: list[Event], row: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.row == row)


def done_of(events: list[Event], row: int = 0) -> Done:
    (done,) = [event for event in events if isinstance(event, Done) and event.row == row]
    return done


async def refuses_to_score(subject: Subject, reference: Reference) -> bool:
    """An engine that reports no log-probabilities has to say so; nothing more can be asked of it."""
    if subject.scores:
        return False
    with pytest.raises(Unsupported):
        await subject.engine.score([reference])
    return True


async def test_every_row_speaks_and_then_ends_exactly_once(subject: Subject) -> None:
    events = await heard(subject.engine, ask("hello"), ask("hello", subject.models[-1]), ask("你好"))
    for row in range(3):
        own = [event for event in events if event.row == row]
        assert isinstance(own[-1], Done)
        assert all(isinstance(event, Delta) and event.text for event in own[:-1])
        assert own[-1].prompt_tokens > 0
        assert 0 < own[-1].completion_tokens <= GREEDY.max_new_tokens
        assert 0 < own[-1].first_token_s <= own[-1].seconds
    assert (text_of(events, 0) != text_of(events, 1)) == (len(subject.models) > 1)


async def test_greedy_answers_repeat(subject: Subject) -> None:
    once = await heard(subject.engine, ask("what is the capital of the town?"))
    assert text_of(once) == text_of(await heard(subject.engine, ask("what is the capital of the town?")))


async def test_a_seed_repeats_sampled_answers_and_another_seed_does_not(subject: Subject) -> None:
    same = await heard(subject.engine, ask("tell me", sampling=WARM), ask("tell me", sampling=WARM))
    assert text_of(same, 0) == text_of(same, 1)
    other = await heard(subject.engine, ask("tell me", sampling=replace(WARM, seed=8)))
    assert text_of(other) != text_of(same)


async def test_the_answer_ends_at_max_new_tokens(subject: Subject) -> None:
    whole = await heard(subject.engine, ask("hello"))
    short = await heard(subject.engine, ask("hello", sampling=replace(GREEDY, max_new_tokens=2)))
    done = done_of(short)
    assert (done.finish, done.completion_tokens) == ("length", 2)
    assert text_of(whole).startswith(text_of(short).rstrip("\ufffd"))


async def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(subject: Subject) -> None:
    whole = text_of(await heard(subject.engine, ask("hello")))
    middle = len(whole) // 2
    stop = whole[middle : middle + 3]
    events = await heard(subject.engine, ask("hello", sampling=replace(GREEDY, stop=("never said", stop))))
    assert text_of(events) == whole[: whole.index(stop)]
    assert done_of(events).finish == "stop"


async def test_raw_text_is_continued(subject: Subject) -> None:
    events = await heard(subject.engine, Request("the river is", BASE, GREEDY))
    assert text_of(events)
    assert done_of(events).completion_tokens > 0


@pytest.mark.parametrize("model", [Model("nowhere"), Model("tiny", "adapters/none")])
async def test_an_unknown_model_is_not_found(subject: Subject, model: Model) -> None:
    with pytest.raises(NotFound):
        await heard(subject.engine, ask("hello", model))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": math.nan},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -3},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.inf},
        {"max_new_tokens": 0},
        {"stop": ("",)},
    ],
)
async def test_sampling_that_cannot_be_is_refused_with_its_field(subject: Subject, wrong: dict[str, object]) -> None:
    with pytest.raises(Invalid) as refused:
        await heard(subject.engine, ask("hello", sampling=replace(GREEDY, **wrong)))  # type: ignore[arg-type]
    assert refused.value.details["field"] == next(iter(wrong))


async def test_an_empty_conversation_is_refused(subject: Subject) -> None:
    with pytest.raises(Invalid):
        await heard(subject.engine, Request((), BASE, GREEDY))


async def test_one_row_too_long_refuses_all_before_anything_is_said(subject: Subject) -> None:
    said: list[Event] = []
    with pytest.raises(Invalid) as refused:
        async with aclosing(subject.engine.generate([ask("hello"), ask("word " * 2 * subject.context)])) as events:
            async for event in events:
                said.append(event)
    assert said == []
    assert refused.value.details.get("context_length", subject.context) == subject.context
    assert str(subject.context) in refused.value.en
    assert str(subject.context) in refused.value.zh


async def test_closing_the_generator_frees_the_rows(subject: Subject) -> None:
    long = replace(GREEDY, max_new_tokens=400)
    events = subject.engine.generate([ask(f"hello {n}", sampling=long) for n in range(8)])
    await anext(events)
    assert subject.rows() > 0
    await events.aclose()
    assert subject.rows() == 0
    assert done_of(await heard(subject.engine, ask("hello")))


async def test_three_hundred_rows_in_one_call_all_end(subject: Subject) -> None:
    few = replace(GREEDY, max_new_tokens=3)
    models = subject.models
    events = await heard(subject.engine, *(ask(f"number {n}", models[n % len(models)], few) for n in range(300)))
    assert sorted(event.row for event in events if isinstance(event, Done)) == list(range(300))
    assert subject.rows() == 0


async def test_a_row_that_does_not_fit_refuses_even_three_hundred(subject: Subject) -> None:
    few = replace(GREEDY, max_new_tokens=3)
    rows = [*(ask(f"number {n}", sampling=few) for n in range(300)), ask("word " * 2 * subject.context, sampling=few)]
    with pytest.raises(Invalid):
        async with aclosing(subject.engine.generate(rows)) as events:
            async for _ in events:
                assert not subject.looks_ahead, "something was said before"


async def test_callers_at_the_same_time_do_not_mix(subject: Subject) -> None:
    alone = [text_of(await heard(subject.engine, ask(f"river {n}"))) for n in range(4)]
    together = await asyncio.gather(*(heard(subject.engine, ask(f"river {n}")) for n in range(4)))
    assert [text_of(events) for events in together] == alone


async def test_scores_come_in_order_and_count_the_end_token(subject: Subject) -> None:
    prompt = (Message("user", "who is the mayor?"),)
    references = [Reference(prompt, "Ada", BASE), Reference(prompt, "Ada " * 20, BASE), Reference(prompt, "Ada", TUNED)]
    if await refuses_to_score(subject, references[0]):
        return
    scores = await subject.engine.score(references)
    assert all(score.logprob < 0 and score.tokens >= 2 for score in scores)
    assert scores[1].tokens > scores[0].tokens == scores[2].tokens
    assert scores[0].logprob != scores[2].logprob
    assert [(await subject.engine.score([reference]))[0].tokens for reference in references] == [
        s.tokens for s in scores
    ]


async def test_a_reference_too_long_is_refused(subject: Subject) -> None:
    long = Reference((Message("user", "hello"),), "word " * 2 * CONTEXT, BASE)
    if not await refuses_to_score(subject, long):
        with pytest.raises(Invalid):
            await subject.engine.score([long])


async def test_a_reference_of_an_unknown_model_is_not_found(subject: Subject) -> None:
    unknown = Reference((Message("user", "hello"),), "word", Model("tiny", "adapters/none"))
    if not await refuses_to_score(subject, unknown):
        with pytest.raises(NotFound):
            await subject.engine.score([unknown])


async def test_every_refusal_speaks_both_languages(subject: Subject) -> None:
    for request in (ask("hello", Model("nowhere")), ask("word " * 2 * subject.context), Request((), BASE, GREEDY)):
        with pytest.raises(Problem) as refused:
            await heard(subject.engine, request)
        assert any("\u4e00" <= letter <= "\u9fff" for letter in refused.value.zh)
        assert refused.value.en.isascii()
