"""A tuned model where a provider keeps it: asked as it was trained, its thinking told from its answer.

Together (dedicated endpoints, ``POST /chat/completions``) and Fireworks (deployments, ``POST
/inference/v1/chat/completions``) speak the OpenAI wire. What they cannot do for a model that is only a name to us is
refused before anything is sent: raw text, log-probabilities, scores.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from tunesmith.datasets.example import Message
from tunesmith.datasets.export.conversation import conversation
from tunesmith.datasets.export.sample import Format, Sample, Strategy, Wanted
from tunesmith.datasets.export.wanted import DEFAULT_THINKING
from tunesmith.inference.engine import Delta, Done, Event, Reference, Request, Sampling, Score
from tunesmith.inference.engines import openai_wire, refusals
from tunesmith.inference.engines.answer import Label
from tunesmith.inference.engines.openai import OpenAIEngine
from tunesmith.inference.engines.openrouter import terms
from tunesmith.inference.engines.rows import ACCEPTED, RowEvent, together
from tunesmith.inference.engines.upstream import Upstream
from tunesmith.inference.switchboard import PREFIX, job_of
from tunesmith.kernel.problems import Invalid, NotFound, Problem, Unavailable, Unsupported
from tunesmith.models.model import Model
from tunesmith.settings import Settings

_AT_ONCE = 8
_OPEN, _CLOSE = "<think>", "</think>"


class Asked(Protocol):
    """How a tuned model is asked: by which name at the provider, and as it was trained."""

    @property
    def model(self) -> str: ...

    @property
    def strategy(self) -> Strategy: ...

    @property
    def system_message(self) -> str | None: ...

    @property
    def thinking_instructions(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class _Place:
    """A provider's chat interface.

    Attributes:
        name: as in ``hosted/<name>/…``.
        url, prefix: what ``/chat/completions`` follows.
        setting: the environment variable of its key.
    """

    name: str
    label: Label
    url: str
    prefix: str
    setting: str


class HostedEngine:
    """An ``Engine`` over the models of one provider; see ``together`` and ``fireworks``.

    Args:
        key: the bearer token as it is now; None where there is none.
        asked: how the model of the job with that id is asked.
            Raises: NotFound, no such job; Conflict, it is not deployed; Unavailable, it does not answer yet.
    """

    def __init__(
        self,
        place: _Place,
        settings: Settings,
        key: Callable[[], Awaitable[str | None]],
        asked: Callable[[str], Awaitable[Asked]],
    ) -> None:
        self._place, self._key, self._asked = place, key, asked
        self._held: str | None = None

        def headers() -> Mapping[str, str]:
            return {"Authorization": f"Bearer {self._held}"} if self._held else {}

        def refused(status: int, body: bytes, answered: Mapping[str, str]) -> Problem:
            return refusals.refused(place.label, status, body, answered)

        upstream = Upstream(place.url, place.label, refused, terms=terms(settings.upstream), headers=headers)
        self._engine = OpenAIEngine(upstream, prefix=place.prefix)

    @staticmethod
    def together(
        settings: Settings, key: Callable[[], Awaitable[str | None]], asked: Callable[[str], Awaitable[Asked]]
    ) -> "HostedEngine":
        """Over Together AI."""
        label = _label("Together AI", "TOGETHER_BASE_URL")
        place = _Place("together_ai", label, settings.together_url, "", "TOGETHER_API_KEY")
        return HostedEngine(place, settings, key, asked)

    @staticmethod
    def fireworks(
        settings: Settings, key: Callable[[], Awaitable[str | None]], asked: Callable[[str], Awaitable[Asked]]
    ) -> "HostedEngine":
        """Over Fireworks AI."""
        label = _label("Fireworks AI", "FIREWORKS_BASE_URL")
        place = _Place("fireworks_ai", label, settings.fireworks_url, "/inference/v1", "FIREWORKS_API_KEY")
        return HostedEngine(place, settings, key, asked)

    async def close(self) -> None:
        """Close every connection; streams still open break."""
        await self._engine.close()

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        """See ``Engine.generate``. Eight rows are open at once; the rest follow, and are refused only when sent.

        A row of the bare base is asked as the tuned row with its conversation in the same call is, so that the two
        differ in nothing but the model.

        Raises:
            Conflict: the tuned model is not deployed.
            Unsupported: raw text, log-probabilities, or a schema for a model that thinks in its answer.
            Unavailable: no key, or as the provider says.
        """
        asked = await self._ways(requests)
        for request in requests:
            _check(request, _way(request, asked))
        self._held = await self._key()
        if not self._held:
            raise self._no_key()
        rows = [self._row(row, request, _way(request, asked)) for row, request in enumerate(requests)]
        async with aclosing(together(rows, _AT_ONCE)) as events:
            async for event in events:
                yield event

    async def score(self, references: Sequence[Reference]) -> list[Score]:
        """Always refused.

        Raises:
            Unsupported: a chat interface tells no probabilities of a given text.
        """
        raise Unsupported(
            f"{self._place.label.zh.strip()} 的聊天接口不提供给定文本的概率，无法计算困惑度：请改用其他指标，或下载适配器后在本机评测",
            f"{self._place.label.en}'s chat interface tells no probabilities of a given text, so there is no perplexity: "
            "choose other metrics, or download the adapter and evaluate it on this machine",
        )

    async def _ways(self, requests: Sequence[Request]) -> "_Ways":
        """How each job's model, and each bare base beside one, is asked."""
        jobs = {adapter: job_of(adapter) for adapter in {request.model.adapter for request in requests} if adapter}
        found = {adapter: await self._asked(job_id) for adapter, job_id in jobs.items() if job_id}
        ways: _Ways = {}
        for request in requests:
            if request.model.adapter is not None:
                if request.model.adapter not in found:
                    raise NotFound(f"模型不存在：{request.model.adapter}", f"there is no model {request.model.adapter}")
                asked = found[request.model.adapter]
                way = _Way(asked.model, asked.strategy, asked.system_message, asked.thinking_instructions)
                ways[request.model, request.prompt] = way
                beside = replace(
                    way, model=request.model.base.removeprefix(f"{PREFIX}{self._place.name}/"), tuned=False
                )
                ways.setdefault((request.model.bare(), request.prompt), beside)
        for request in requests:
            base = request.model.base.removeprefix(f"{PREFIX}{self._place.name}/")
            ways.setdefault((request.model, request.prompt), _Way(base, tuned=False))
        return ways

    def _row(self, row: int, request: Request, way: "_Way") -> AsyncGenerator[RowEvent, None]:
        assert not isinstance(request.prompt, str)  # refused by then
        prompt = request.prompt
        if way.system_message and all(message.role != "system" for message in prompt):
            prompt = (Message("system", way.system_message), *prompt)
        if way.strategy.instructs:
            return self._twice(row, prompt, request.sampling, way)
        return self._once(row, prompt, request.sampling, way)

    async def _once(
        self, row: int, prompt: tuple[Message, ...], sampling: Sampling, way: "_Way"
    ) -> AsyncGenerator[RowEvent, None]:
        """One question; of a model that thinks in its answer, what follows the thinking."""
        said = AfterThinking() if way.strategy is Strategy.R1 else None
        accepted = False
        async with aclosing(self._ask(prompt, sampling, way)) as events:
            async for event in events:
                if not accepted:
                    accepted = True
                    yield ACCEPTED
                if isinstance(event, Delta):
                    text = event.text if said is None else said.feed(event.text)
                    if text:
                        yield Delta(row, text)
                    continue
                rest = said.end() if said is not None else ""
                if rest:
                    yield Delta(row, rest)
                yield replace(event, row=row)

    async def _twice(
        self, row: int, prompt: tuple[Message, ...], sampling: Sampling, way: "_Way"
    ) -> AsyncGenerator[RowEvent, None]:
        """Its thinking first, which nobody is shown, then its answer; each as long as the answer may be."""
        asked, then = _instructed(prompt, way)
        thoughts: list[str] = []
        first: Done | None = None
        async with aclosing(self._ask(asked, replace(sampling, stop=(), schema=None), way)) as events:
            async for event in events:
                if first is None and not thoughts:
                    yield ACCEPTED
                if isinstance(event, Delta):
                    thoughts.append(event.text)
                else:
                    first = event
        assert first is not None  # a stream ends with Done or a problem
        asked = (*asked, Message("assistant", "".join(thoughts)), then)
        async with aclosing(self._ask(asked, sampling, way)) as events:
            async for event in events:
                yield replace(event, row=row) if isinstance(event, Delta) else _both(row, first, event)

    async def _ask(self, prompt: tuple[Message, ...], sampling: Sampling, way: "_Way") -> AsyncGenerator[Event, None]:
        try:
            async with aclosing(self._engine.generate([Request(prompt, Model(way.model), sampling)])) as events:
                async for event in events:
                    yield event
        except NotFound as problem:
            raise self._not_there(way, problem) from problem

    def _not_there(self, way: "_Way", said: NotFound) -> Problem:
        label = self._place.label
        if way.tuned:
            return NotFound(
                f"{label.zh.strip()} 上没有模型 {way.model}：部署可能已在那里结束，请查看部署状态，必要时重新部署（{said.zh}）",
                f"{label.en} has no model {way.model}: the deployment may have been ended there; look at its status and "
                f"deploy it again if need be ({said.en})",
                **said.details,
            )
        return NotFound(
            f"{label.zh.strip()} 不提供基座模型 {way.model} 的对话，无法与它对比：请只询问微调后的模型（{said.zh}）",
            f"{label.en} does not serve the base model {way.model}, so there is nothing to compare with: ask the tuned "
            f"model alone ({said.en})",
            **said.details,
        )

    def _no_key(self) -> Unavailable:
        place = self._place
        return Unavailable(
            f"未设置 {place.label.zh.strip()} 密钥：请设置环境变量 {place.setting}，或由管理员保存密钥"
            f"（tunesmith providers set-key {place.name}）",
            f"there is no key of {place.label.en}: set {place.setting}, or have an admin store one "
            f"(tunesmith providers set-key {place.name})",
            setting=place.setting,
        )


class AfterThinking:
    """The answer in a text that thinks first, as its pieces come: what follows ``</think>``.

    A template may have written ``<think>`` already, so nothing is told before the thinking has ended. A text without
    any thinking is an answer from its beginning, which is known at its end.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._tail = ""  # the tag may be split over pieces
        self._thought = self._begun = False

    def feed(self, text: str) -> str:
        """What of the answer is known with this piece and was not before."""
        if not self._thought:
            self._pieces.append(text)
            before, closed, after = (self._tail + text).partition(_CLOSE)
            self._tail = before[-len(_CLOSE) + 1 :]
            if not closed:
                return ""
            self._thought, text = True, after
            self._pieces.clear()
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        return text

    def end(self) -> str:
        """What is left when the text is over; nothing where the thinking was cut off."""
        if self._thought:
            return ""
        whole = "".join(self._pieces)
        begins = whole.lstrip()[: len(_OPEN)]
        return "" if _OPEN.startswith(begins) else whole


@dataclass(frozen=True, slots=True)
class _Way:
    """How a row is asked; ``model`` as the provider calls it."""

    model: str
    strategy: Strategy = Strategy.FINAL_ONLY
    system_message: str | None = None
    thinking_instructions: str | None = None
    tuned: bool = True


_Ways = dict[tuple[Model, tuple[Message, ...] | str], _Way]


def _way(request: Request, ways: _Ways) -> _Way:
    return ways[request.model, request.prompt]


def _check(request: Request, way: _Way) -> None:
    """Refuse what the wire cannot do, before anything is sent."""
    openai_wire.check_sampling(request.sampling)
    if isinstance(request.prompt, str):
        raise Unsupported(
            "托管的模型只接受对话，不接受续写原文：请使用 messages",
            "a hosted model takes conversations, not raw text to continue: use messages",
            field="prompt",
        )
    if not request.prompt:
        raise Invalid("消息不能为空", "the conversation is empty", field="messages")
    if request.sampling.top_logprobs is not None:
        raise Unsupported(
            "托管的模型不提供对数概率：请去掉 logprobs",
            "a hosted model reports no log-probabilities: leave logprobs out",
            field="logprobs",
        )
    if request.sampling.schema is not None and way.strategy is Strategy.R1:
        raise Unsupported(
            "该模型先思考再回答，思考在同一段文本中，不能再要求整段文本符合 JSON schema：请去掉 schema",
            "this model thinks in the text it answers with, which therefore cannot follow a JSON schema: leave schema out",
            field="schema",
        )


def _instructed(prompt: tuple[Message, ...], way: _Way) -> tuple[tuple[Message, ...], Message]:
    """The conversation with its last user turn as it was trained, and the turn that asks for the answer then."""
    last = max((i for i, turn in enumerate(prompt) if turn.role == "user"), default=None)
    if last is None:
        raise Invalid("对话中没有 user 消息", "the conversation holds no user message", field="messages")
    wanted = Wanted(Format.OPENAI_CHAT, way.strategy, "", way.thinking_instructions or DEFAULT_THINKING)
    sample = Sample(id="messages", input=prompt[last].content, output="", thinking="")
    # system, what is asked, thinking, the second question, answer: one place says how it is trained and asked
    _, *question, _, then, _ = (Message.of(turn["role"], turn["content"]) for turn in conversation(sample, wanted))
    return (*prompt[:last], *question, *prompt[last + 1 :]), then


def _both(row: int, first: Done, second: Done) -> Done:
    """The end of a row that was asked twice: what both took, and when its answer began."""
    return replace(
        second,
        row=row,
        prompt_tokens=first.prompt_tokens + second.prompt_tokens,
        completion_tokens=first.completion_tokens + second.completion_tokens,
        first_token_s=first.seconds + second.first_token_s if second.first_token_s else 0.0,
        seconds=first.seconds + second.seconds,
        cost_usd=_sum((first.cost_usd, second.cost_usd)),
    )


def _sum(costs: Iterable[float | None]) -> float | None:
    told = [cost for cost in costs if cost is not None]
    return sum(told) if told else None


def _label(name: str, setting: str) -> Label:
    return Label(
        f"{name} ",
        name,
        f"请检查网络，以及 {setting} 是否正确",
        f"check the network, and {setting} where it is set",
    )
