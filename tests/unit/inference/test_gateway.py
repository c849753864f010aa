"""Who answers, and what is kept of it: real records and lists, scripted engines."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tunesmith.datasets.example import Message
from tunesmith.inference.chat import Chat
from tunesmith.inference.conversations import Begun, Conversations, Turn
from tunesmith.inference.engine import Delta, Event, Request, Sampling
from tunesmith.inference.engines.scripted import ScriptedEngine
from tunesmith.inference.gateway import Builtin, Gateway, Question, Remote, Service, Speaker
from tunesmith.inference.model_ids import Listed
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.db import Database
from tunesmith.kernel.live_list import LiveList
from tunesmith.kernel.problems import Invalid, NotFound, Problem, Unavailable
from tunesmith.models.model import Model
from tunesmith.models.spending import Spent

ADA = Caller("ada")
SAMPLING = Sampling(max_new_tokens=64, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
DEFAULT = "mistralai/mistral-7b-instruct"
HOSTED = [Listed(DEFAULT), Listed("a/big"), Listed("a/both"), Listed("b/both")]
OURS = {"small": Model("small"), "mine": Model("small", "adapters/mine")}


class Down:
    """An upstream whose list can be switched off."""

    def __init__(self, *names: str) -> None:
        self.listed: Sequence[Listed] = [Listed(name) for name in names]
        self.problem: Problem | None = None
        self.asked = 0

    async def __call__(self) -> Sequence[Listed]:
        self.asked += 1
        if self.problem is not None:
            raise self.problem
        return self.listed


@dataclass
class Stage:
    """A gateway with everything behind it in reach; ``key`` and ``spent`` are what it asks and tells."""

    builtin: ScriptedEngine
    ollama: ScriptedEngine
    openrouter: ScriptedEngine
    installed: Down
    hosted: Down
    kept: Conversations
    key: str | Problem | None = "sk-or-key"
    spent: list[Spent] = field(default_factory=list)
    lists: list[LiveList[Listed]] = field(default_factory=list)
    now: float = 0.0

    def gateway(self, *, ollama: bool = True, ollama_default: str | None = None, kept: Any = None) -> Gateway:
        async def find(name: str | None) -> tuple[str, Model]:
            if name is None:
                return "small", OURS["small"]
            if name not in OURS:
                raise NotFound("没有", "none")
            return name, OURS[name]

        async def names() -> Sequence[str]:
            return list(OURS)

        async def key() -> str | None:
            if isinstance(self.key, Problem):
                raise self.key
            return self.key

        local, hosted = (
            LiveList(each, fresh_s=60, wait_s=5, clock=lambda: self.now) for each in (self.installed, self.hosted)
        )
        self.lists += [local, hosted]
        return Gateway(
            Builtin(Chat(self.builtin), find, names),
            Remote(Chat(self.ollama), local, ollama_default) if ollama else None,
            Remote(Chat(self.openrouter), hosted, DEFAULT),
            kept or self.kept,
            key,
            self.spent.append,
        )


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("empty") / "tunesmith.db"
    made = Database(f"sqlite:///{file}")
    made.migrate()
    made.close()
    return file.read_bytes()


@pytest.fixture
def kept(tmp_path: Path, empty_database: bytes) -> Iterator[Conversations]:
    (tmp_path / "tunesmith.db").write_bytes(empty_database)
    opened = Database(f"sqlite:///{tmp_path}/tunesmith.db")
    yield Conversations(opened)
    opened.close()


def saying(text: str) -> ScriptedEngine:
    return ScriptedEngine(lambda request: text)


@pytest.fixture
async def stage(kept: Conversations) -> AsyncIterator[Stage]:
    made = Stage(
        saying("I am ours"), saying("I am Ollama"), saying("I am hosted"), Down("qwen:7b", "llama:8b"), Down(), kept
    )
    made.hosted.listed = HOSTED
    yield made
    for each in made.lists:
        await each.close()


async def heard(gateway: Gateway, question: Question, caller: Caller = ADA) -> tuple[Speaker, str]:
    """Who spoke, and what they said."""
    events = [event async for event in gateway.answer(caller, question)]
    speaker, *rest = events
    assert isinstance(speaker, Speaker)
    return speaker, "".join(event.text for event in rest if isinstance(event, Delta))


def asking(model: str | None = None, service: Service | None = None, **fields: str | None) -> Question:
    return Question(fields.pop("message", None) or "hello", SAMPLING, service=service, model=model, **fields)


@pytest.mark.parametrize(
    "key, ollama, service, spoken",
    [
        ("k", True, None, ("openrouter", "openrouter", DEFAULT, "I am hosted")),
        (None, True, None, ("local", "ollama", "qwen:7b", "I am Ollama")),
        (None, False, None, ("local", "builtin", "small", "I am ours")),
        ("k", True, "local", ("local", "ollama", "qwen:7b", "I am Ollama")),
        ("k", False, "local", ("local", "builtin", "small", "I am ours")),
        ("k", False, "openrouter", ("openrouter", "openrouter", DEFAULT, "I am hosted")),
    ],
)
async def test_who_answers_a_question_that_names_no_model(
    stage: Stage, key: str | None, ollama: bool, service: Service | None, spoken: tuple[str, str, str, str]
) -> None:
    stage.key = key
    speaker, text = await heard(stage.gateway(ollama=ollama), asking(service=service))
    assert (speaker.service, speaker.answerer, speaker.model, text) == spoken


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
async def test_a_blank_name_is_no_name(stage: Stage, blank: str) -> None:
    for service in ("local", "openrouter"):
        named, _ = await heard(stage.gateway(), asking(blank, service))
        assert named == (await heard(stage.gateway(), asking(None, service)))[0]
        assert named.asked is None


@pytest.mark.parametrize(
    "name, ollama, spoken",
    [
        ("mine", True, ("builtin", "mine", "asked")),
        (" mine ", True, ("builtin", "mine", "asked")),
        ("small", False, ("builtin", "small", "asked")),
        ("llama", True, ("ollama", "llama:8b", "listed")),
        ("QWEN:7B", True, ("ollama", "qwen:7b", "listed")),
        ("nobody", True, ("ollama", "qwen:7b", "default")),
        ("nobody", False, ("builtin", "small", "default")),
    ],
)
async def test_a_local_name_is_ours_first_then_ollamas(
    stage: Stage, name: str, ollama: bool, spoken: tuple[str, str, str]
) -> None:
    speaker, _ = await heard(stage.gateway(ollama=ollama), asking(name, "local"))
    assert (speaker.answerer, speaker.model, speaker.how) == spoken
    assert speaker.asked == name.strip()
    engine = stage.builtin if spoken[0] == "builtin" else stage.ollama
    [request] = engine.asked
    assert request.model == (OURS[spoken[1]] if spoken[0] == "builtin" else Model(spoken[1]))


async def test_ours_are_asked_though_ollama_is_down(stage: Stage) -> None:
    stage.installed.problem = Unavailable("没有应答", "down")
    assert (await heard(stage.gateway(), asking("mine", "local")))[1] == "I am ours"
    assert stage.installed.asked == 0
    with pytest.raises(Unavailable, match="down"):
        await heard(stage.gateway(), asking("llama", "local"))


async def test_a_model_pulled_a_moment_ago_is_found(stage: Stage) -> None:
    gateway = stage.gateway()
    await heard(gateway, asking("llama", "local"))
    stage.installed.listed = [Listed("qwen:7b"), Listed("new:1b")]
    stage.now = 5.0
    assert (await heard(gateway, asking("new", "local")))[0].model == "new:1b"


async def test_names_nobody_knows_do_not_each_ask_ollama_anew(stage: Stage) -> None:
    gateway = stage.gateway()
    for number in range(20):
        assert (await heard(gateway, asking(f"nobody-{number}", "local")))[0].how == "default"
    assert stage.installed.asked == 1


async def test_an_ollama_without_models_says_how_to_get_one(stage: Stage) -> None:
    stage.installed.listed = []
    with pytest.raises(NotFound, match="pull"):
        await heard(stage.gateway(), asking(service="local"))
    assert stage.ollama.asked == []


@pytest.mark.parametrize(
    "name, model, how, candidates",
    [
        ("x/never-heard-of", "x/never-heard-of", "asked", ()),
        ("big", "a/big", "listed", ()),
        ("A/BIG", "a/big", "listed", ()),
        ("claude-3-haiku", "anthropic/claude-3-haiku", "document", ()),
        ("nobody", DEFAULT, "default", ()),
        ("both", DEFAULT, "default", ("a/both", "b/both")),
    ],
)
async def test_a_hosted_name_is_made_whole(
    stage: Stage, name: str, model: str, how: str, candidates: tuple[str, ...]
) -> None:
    speaker, _ = await heard(stage.gateway(), asking(name, "openrouter"))
    assert (speaker.model, speaker.how, speaker.candidates, speaker.asked) == (model, how, candidates, name)
    assert [request.model for request in stage.openrouter.asked] == [Model(model)]


async def test_a_full_name_waits_for_no_list(stage: Stage) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def hanging() -> Sequence[Listed]:
        asked.set()
        await never.wait()
        return []

    stage.hosted = hanging  # type: ignore[assignment]
    gateway = stage.gateway()
    async with asyncio.timeout(4):  # a list is waited for five seconds
        assert (await heard(gateway, asking("a/big", "openrouter")))[0].model == "a/big"


async def test_a_list_that_cannot_be_had_leaves_the_default(stage: Stage) -> None:
    stage.hosted.problem = Unavailable("没有应答", "down")
    speaker, _ = await heard(stage.gateway(), asking("big", "openrouter"))
    assert (speaker.model, speaker.how) == (DEFAULT, "default")


async def test_without_a_key_nothing_is_asked_of_openrouter(stage: Stage) -> None:
    stage.key = None
    with pytest.raises(Unavailable, match="OPENROUTER_API_KEY") as refused:
        await heard(stage.gateway(), asking("a/big", "openrouter", conversation="c1"))
    assert refused.value.details == {"setting": "OPENROUTER_API_KEY"}
    assert (stage.hosted.asked, stage.openrouter.asked) == (0, [])
    [turn] = turns(stage)
    assert (turn.state, turn.service, turn.model) == ("failed", None, None)


@pytest.mark.parametrize("name", ["a\nb", "x" * 201, "a/\ud800"])
@pytest.mark.parametrize("service", ["local", "openrouter"])
async def test_a_name_that_cannot_be_one_is_refused_before_anybody_is_asked(
    stage: Stage, name: str, service: Service
) -> None:
    with pytest.raises(Invalid):
        await heard(stage.gateway(), asking(name, service))
    assert stage.builtin.asked == stage.ollama.asked == stage.openrouter.asked == []


async def test_what_an_answer_of_others_cost_is_told_once_with_who_asked(stage: Stage) -> None:
    gateway = stage.gateway()
    await heard(gateway, asking("a/big", "openrouter"), Caller("eve"))
    await heard(gateway, asking("llama", "local"))
    await heard(gateway, asking("mine", "local"))
    found = [(each.owner, each.service, each.model, each.completion_tokens) for each in stage.spent]
    assert found == [("eve", "openrouter", "a/big", 3), ("ada", "ollama", "llama:8b", 3)]


async def test_an_answer_that_breaks_off_or_is_left_is_not_counted(stage: Stage) -> None:
    stage.openrouter = ScriptedEngine(fail_after=2)
    gateway = stage.gateway()
    with pytest.raises(Unavailable):
        await heard(gateway, asking("a/big", "openrouter"))
    async with aclosing(gateway.answer(ADA, asking("llama", "local"))) as events:
        await anext(events)
        await anext(events)
    assert stage.spent == [] and stage.ollama.rows == 0


def turns(stage: Stage, owner: str = "ada") -> Sequence[Turn]:
    return stage.kept.get(owner, "c1").turns


async def test_a_question_is_kept_before_anybody_is_asked_and_its_answer_after(stage: Stage) -> None:
    at_asking: list[str] = []

    def reply(request: Request) -> str:
        at_asking.extend(turn.state for turn in turns(stage))
        return "I am hosted"

    stage.openrouter = ScriptedEngine(reply)
    await heard(stage.gateway(), asking("a/big", "openrouter", conversation="c1", context="ships"))
    assert at_asking == ["running"]
    [turn] = turns(stage)
    assert (turn.asked, turn.context, turn.answer, turn.state) == ("hello", "ships", "I am hosted", "completed")
    assert (turn.service, turn.model) == ("openrouter", "a/big")


async def test_a_question_without_a_conversation_keeps_nothing(stage: Stage) -> None:
    await heard(stage.gateway(), asking("a/big", "openrouter"))
    assert stage.kept.list("ada") == []


async def test_the_model_is_told_context_history_and_question_in_this_order(stage: Stage) -> None:
    gateway = stage.gateway()
    for message in ("one", "two"):
        await heard(gateway, asking("a/big", "openrouter", conversation="c1", context="about ships", message=message))
    await heard(gateway, asking("mine", "local", conversation="c1", context=" \n", message="three"))
    history = [
        Message("user", "one"),
        Message("assistant", "I am hosted"),
        Message("user", "two"),
        Message("assistant", "I am hosted"),
    ]
    assert [each.prompt for each in stage.openrouter.asked] == [
        (Message("system", "about ships"), Message("user", "one")),
        (Message("system", "about ships"), *history[:2], Message("user", "two")),
    ]
    assert [each.prompt for each in stage.builtin.asked] == [(*history, Message("user", "three"))]


async def test_another_callers_conversation_of_that_name_is_another(stage: Stage) -> None:
    gateway = stage.gateway()
    await heard(gateway, asking("a/big", "openrouter", conversation="c1", message="secret"))
    await heard(gateway, asking("a/big", "openrouter", conversation="c1"), Caller("eve"))
    assert stage.openrouter.asked[1].prompt == (Message("user", "hello"),)
    assert [turn.asked for turn in turns(stage, "eve")] == ["hello"]


async def test_an_answer_that_breaks_off_is_kept_as_failed_as_far_as_it_came(stage: Stage) -> None:
    stage.openrouter = ScriptedEngine(lambda request: "one two three", fail_after=2)
    with pytest.raises(Unavailable):
        await heard(stage.gateway(), asking("a/big", "openrouter", conversation="c1"))
    [turn] = turns(stage)
    assert (turn.answer, turn.state, turn.model) == ("one two ", "failed", "a/big")


async def leave_by_closing(stage: Stage, until: Callable[[Event | Speaker], bool]) -> None:
    async with aclosing(stage.gateway().answer(ADA, asking("a/big", "openrouter", conversation="c1"))) as events:
        async for event in events:
            if until(event):
                break


async def leave_by_cancelling(stage: Stage, until: Callable[[Event | Speaker], bool]) -> None:
    there = asyncio.Event()

    async def read() -> None:
        async with aclosing(stage.gateway().answer(ADA, asking("a/big", "openrouter", conversation="c1"))) as events:
            async for event in events:
                if until(event):
                    there.set()

    reading = asyncio.create_task(read())
    await there.wait()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


@pytest.mark.parametrize("leave", [leave_by_closing, leave_by_cancelling])
@pytest.mark.parametrize("when", [Speaker, Delta])
async def test_an_answer_that_is_left_is_kept_as_canceled_and_the_engine_let_go(
    stage: Stage, leave: Callable[..., object], when: type[object]
) -> None:
    stage.openrouter = ScriptedEngine(lambda request: "one two three", delay_s=0.05)
    await leave(stage, lambda event: isinstance(event, when))  # type: ignore[misc]
    [turn] = turns(stage)
    assert (turn.state, stage.openrouter.rows) == ("canceled", 0)
    assert "one two three".startswith(turn.answer) and turn.answer != "one two three"


async def test_offers_name_every_answerer_and_why_one_cannot_be_asked(stage: Stage) -> None:
    stage.installed.problem = Unavailable("没有应答", "down")
    stage.key = None
    ours, ollama, hosted = await stage.gateway(ollama_default="qwen").offers()
    assert (ours.answerer, ours.default, ours.problem) == ("builtin", "small", None)
    assert [each.id for each in ours.models] == ["small", "mine"]
    assert (ollama.default, ollama.models, ollama.problem) == ("qwen", (), stage.installed.problem)
    assert hosted.problem is not None and hosted.problem.details == {"setting": "OPENROUTER_API_KEY"}
    assert (hosted.models, hosted.default, stage.hosted.asked) == ((), DEFAULT, 0), "nothing leaves without a key"

    stage.installed.problem, stage.key = None, "k"
    _, ollama, hosted = await stage.gateway().offers()
    assert (ollama.default, ollama.problem) == ("qwen:7b", None)
    assert (hosted.default, hosted.problem) == (DEFAULT, None)
    assert [each.answerer for each in await stage.gateway(ollama=False).offers()] == ["builtin", "openrouter"]


async def test_a_stored_key_that_does_not_open_leaves_the_other_offers_standing(stage: Stage) -> None:
    stage.key = Unavailable("打不开", "does not open", provider="openrouter")
    *others, hosted = await stage.gateway().offers()
    assert [each.problem for each in others] == [None, None]
    assert (hosted.problem, stage.hosted.asked) == (stage.key, 0)


async def test_a_question_whose_client_leaves_while_it_is_recorded_has_ended(stage: Stage) -> None:
    """A write that waits for the database goes on in its thread, whoever leaves."""
    begin, recording, may_go_on = stage.kept.begin, threading.Event(), threading.Event()

    class Slow:
        end = stage.kept.end

        def begin(self, *asked: Any) -> Begun:
            recording.set()
            assert may_go_on.wait(10)
            return begin(*asked)

    gateway = stage.gateway(kept=Slow())
    answering = asyncio.create_task(heard(gateway, asking(conversation="c1")))
    assert await asyncio.to_thread(recording.wait, 10)
    answering.cancel()
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await answering
    [turn] = turns(stage)
    assert (turn.state, turn.answer, stage.openrouter.rows) == ("canceled", "", 0)


async def test_an_ollama_model_is_asked_for_by_name_or_none(stage: Stage) -> None:
    gateway = stage.gateway()
    assert (await gateway.ollama_model(None), await gateway.ollama_model("llama")) == ("qwen:7b", "llama:8b")
    with pytest.raises(NotFound, match="GET /ollama/models"):
        await gateway.ollama_model("nobody")
    assert await gateway.ollama_model("  ") == "qwen:7b"
    for ask in (gateway.ollama_model("evil.example/x/y"), stage.gateway(ollama=False).ollama_model(None)):
        with pytest.raises((Invalid, Unavailable)):
            await ask
    with pytest.raises(Unavailable, match="OLLAMA_HOST"):
        stage.gateway(ollama=False).ollama_chat()


async def test_an_ollama_model_that_is_not_clear_is_told_what_there_is(stage: Stage) -> None:
    stage.installed.listed = [Listed("qwen:4b"), Listed("qwen:8b")]
    with pytest.raises(NotFound, match="qwen:4b, qwen:8b") as caught:
        await stage.gateway().ollama_model("qwen")
    assert "qwen:4b, qwen:8b" in caught.value.zh


async def test_a_closed_gateway_asks_for_no_more_lists(stage: Stage) -> None:
    gateway = stage.gateway()
    await gateway.close()
    await heard(gateway, asking("nobody", "openrouter"))
    assert stage.hosted.asked == 0
