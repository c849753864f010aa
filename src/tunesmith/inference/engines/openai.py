"""A client of any engine that speaks the OpenAI wire: the built-in one, vLLM, SGLang, llama.cpp's server, OpenRouter."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from tunesmith.datasets.example import Message
from tunesmith.inference.engine import Delta, Done, Event, Reference, Request, Score, TokenLogprob
from tunesmith.inference.engines import openai_wire as wire
from tunesmith.inference.engines import refusals
from tunesmith.inference.engines.answer import Answer, Label, broke_off, unreadable
from tunesmith.inference.engines.rows import ACCEPTED, RowEvent, together
from tunesmith.inference.engines.upstream import Shape, Terms, Upstream
from tunesmith.kernel.problems import Invalid, Problem, Unavailable, Unsupported
from tunesmith.models.model import Model

_AT_ONCE = 256
_TOKENIZING = 16
_SCORED_AT_ONCE = 32
_BUILTIN = Label("推理引擎", "the engine")


def plain_name(model: Model) -> str:
    """The adapter's name where there is one, else the base's: vLLM's convention."""
    return model.adapter or model.base


class OpenAIEngine:
    """Generates through an OpenAI-wire server.

    Args:
        upstream: the server.
        prefix: of the paths the wire names; "" where the upstream's address has it already.
        name: what the server calls a model.
        builtin: it is Tunesmith's own worker, which validates rows beyond the first 256 ahead, takes turns between
            callers and tells its own timings.
        at_once: rows of one call open at once; the rest follow as these end.
        ends: token ids that end a completion, for a server that does not tell.
        salted: it takes ``cache_salt``, which keeps what it remembers of prompts apart by owner.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        prefix: str = "/v1",
        name: Callable[[Model], str] = plain_name,
        builtin: bool = False,
        at_once: int = _AT_ONCE,
        ends: Collection[int] = (),
        salted: bool = False,
    ) -> None:
        self._upstream, self._prefix, self._name = upstream, prefix, name
        self._builtin, self._at_once, self._ends = builtin, at_once, ends
        self._whole = builtin or salted

    @staticmethod
    def worker(socket: Path) -> "OpenAIEngine":
        """The built-in engine's process behind that unix socket."""

        def refused(status: int, body: bytes, headers: object) -> Problem:
            return wire.problem(status, body)

        upstream = Upstream("http://engine", _BUILTIN, refused, terms=Terms(foreign=False), socket=socket)
        return OpenAIEngine(upstream, builtin=True)

    async def close(self) -> None:
        """Close every connection; streams still open break."""
        await self._upstream.close()

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        """See ``Engine.generate``. Rows beyond ``at_once`` of a foreign server are refused only when they are sent."""
        self._upstream.admit()
        group = uuid.uuid4().hex if self._builtin else ""
        bodies = []
        for request in requests:
            wire.check_sampling(request.sampling)
            if not request.prompt:
                raise Invalid("消息不能为空", "the conversation is empty", field="messages")
            bodies.append(wire.completion_body(request, self._name(request.model), group=group, whole=self._whole))
        if self._builtin and len(requests) > self._at_once:
            await self._check(requests[self._at_once :])
        rows = [self._row(row, *pair) for row, pair in enumerate(zip(requests, bodies, strict=True))]
        # the usual call has one row, which needs nobody to bring it together
        async with aclosing(rows[0] if len(rows) == 1 else together(rows, self._at_once)) as events:
            async for event in events:
                if event is not ACCEPTED:
                    yield event

    async def score(self, references: Sequence[Reference]) -> list[Score]:
        """See ``Engine.score``. The end token counts when the server tells which tokens end a completion."""
        turns = asyncio.Semaphore(_TOKENIZING)

        async def tokens(reference: Reference) -> tuple[list[int], int]:
            async with turns:
                return await self._reference(reference)

        prepared = await asyncio.gather(*(tokens(reference) for reference in references))
        scores: list[Score | None] = [None] * len(references)
        by_model: dict[str, list[int]] = {}
        for index, reference in enumerate(references):
            by_model.setdefault(self._name(reference.model), []).append(index)
        group = uuid.uuid4().hex
        for model, indexes in by_model.items():
            for start in range(0, len(indexes), _SCORED_AT_ONCE):
                some = indexes[start : start + _SCORED_AT_ONCE]
                for index, score in zip(
                    some, await self._scores(model, [prepared[i] for i in some], group), strict=True
                ):
                    scores[index] = score
        return [score for score in scores if score is not None]

    async def ask(self, method: str, path: str, body: dict[str, Any] | None, shape: type[Shape]) -> Shape:
        """One call that is not streamed.

        Args:
            path: with its prefix.

        Raises:
            Problem: what the server says, or Unavailable when it does not answer.
        """
        return await self._upstream.ask(method, path, None if body is None else wire.encode(body), shape)

    async def page(self, path: str, *, within_s: float, most: int) -> bytes:
        """What a GET of ``path`` gives, at most ``most`` bytes, within so many seconds; raises as ``ask``."""
        return await self._upstream.fetch("GET", path, None, within_s=within_s, most=most)

    async def _row(self, row: int, request: Request, body: bytes) -> AsyncGenerator[RowEvent, None]:
        """One row's events, after word that the server has accepted it."""
        path = "/completions" if isinstance(request.prompt, str) else "/chat/completions"
        async with self._upstream.stream(self._prefix + path, body) as answer:
            yield ACCEPTED
            top = request.sampling.top_logprobs
            reading = _Reading(row, answer, self._upstream.label, builtin=self._builtin, top=top)
            if answer.plain_json:
                delta = reading.delta(reading.data(await answer.whole()))
                if delta is not None:
                    yield delta
            while not reading.over and (lines := await answer.lines()) is not None:
                delta = reading.delta(reading.text_of(lines))
                if delta is not None:
                    yield delta
            done = reading.done()
            answer.ended = True
            yield done

    async def _check(self, requests: Sequence[Request]) -> None:
        """Refuse now what the worker would refuse of rows that are sent later."""
        turns = asyncio.Semaphore(_TOKENIZING)

        async def one(request: Request) -> None:
            async with turns:
                raw = isinstance(request.prompt, str)
                content = request.prompt if isinstance(request.prompt, str) else _dicts(request.prompt)
                body = {"model": self._name(request.model), "prompt" if raw else "messages": content}
                found = await self.ask("POST", "/tokenize", body, wire.Tokenized)
                _require_room(len(found.tokens) + 1, found.max_model_len)

        await asyncio.gather(*(one(request) for request in requests))

    async def _reference(self, reference: Reference) -> tuple[list[int], int]:
        """Token ids of the conversation up to the completion's end token, and how many of them are prompt."""
        whole = (*reference.prompt, Message("assistant", reference.completion))
        model = self._name(reference.model)
        asked: dict[str, Any] = {"model": model, "messages": _dicts(reference.prompt)}
        head = await self.ask("POST", "/tokenize", asked | {"add_generation_prompt": True}, wire.Tokenized)
        asked["messages"] = _dicts(whole)
        full = await self.ask("POST", "/tokenize", asked | {"add_generation_prompt": False}, wire.Tokenized)
        tokens, ends = full.tokens, set(full.end_tokens or self._ends)
        # Tokens may merge across the border; what differs belongs to the completion.
        same = next((i for i, (a, b) in enumerate(zip(head.tokens, tokens)) if a != b), len(head.tokens))  # noqa: B905
        last = next((i for i in range(len(tokens) - 1, same - 1, -1) if tokens[i] in ends), len(tokens) - 1)
        _require_room(last + 1, full.max_model_len)
        return tokens[: last + 1], min(same, last + 1)

    async def _scores(self, model: str, prepared: list[tuple[list[int], int]], group: str) -> list[Score]:
        body = {
            "model": model,
            "prompt": [tokens for tokens, _ in prepared],
            "max_tokens": 0 if self._builtin else 1,
            "temperature": 0,
            "prompt_logprobs": 0,
            "user": group,
        }
        answer = await self.ask("POST", f"{self._prefix}/completions", body, wire.Scored)
        if len(answer.choices) != len(prepared):
            raise Unavailable("推理引擎的应答不完整", "the engine's answer is incomplete")
        scores = []
        for choice, (tokens, prompt) in zip(sorted(answer.choices, key=lambda c: c.index), prepared, strict=True):
            if choice.prompt_logprobs is None or len(choice.prompt_logprobs) != len(tokens):
                raise Unsupported("该引擎不提供对数概率", "this engine does not report log-probabilities of a prompt")
            first = max(prompt, 1)  # nothing precedes the first token, so it has no probability
            found = [
                (entry or {}).get(str(token))
                for token, entry in zip(tokens[first:], choice.prompt_logprobs[first:], strict=True)
            ]
            scores.append(Score(sum(token.logprob for token in found if token), len(found)))
        return scores


class _Reading:
    """What one stream has said so far. It must say itself that it is over: a clean end of the connection is no end.

    Args:
        top: how many of the likeliest tokens were asked for in each place; None where no log-probabilities were.
    """

    def __init__(self, row: int, answer: Answer, label: Label, *, builtin: bool, top: int | None) -> None:
        self._row, self._answer, self._label, self._builtin, self._top = row, answer, label, builtin, top
        self._told: list[TokenLogprob] = []
        self._clock = asyncio.get_running_loop().time
        self._first, self._pieces = 0.0, 0
        self._reason: str | None = None
        self._spoke: str | None = None
        self._usage: wire.Usage | None = None
        self._timings: wire.Timings | None = None
        self._problem: Problem | None = None
        self.over = False

    def delta(self, text: str) -> Delta | None:
        """``text`` with the log-probabilities that came with it; None where there is neither."""
        told, self._told = tuple(self._told), []
        return Delta(self._row, text, told) if text or told else None

    def text_of(self, lines: Sequence[bytes]) -> str:
        """The text in lines that came together; it leaves together too, and before the problem that ends it."""
        texts = []
        try:
            for line in lines:
                if line.startswith(b"data:"):  # else a comment, another field or nothing
                    texts.append(self.data(line[5:]))
                    if self.over:
                        break
        except Problem as problem:
            self._problem, self.over = problem, True
        return "".join(texts)

    def data(self, data: bytes) -> str:
        """The text of one frame.

        Raises:
            Problem: the frame is an error, or none of this wire's.
        """
        try:
            chunk = wire.decode_chunk(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            if data.strip() in (wire.DONE, b""):
                self.over = self.over or bool(data.strip())
                return ""
            raise unreadable(self._label) from error
        if chunk.choices and chunk.error is None:
            choice = chunk.choices[0]
            said = choice.delta
            # nearly every frame is like this: text and nothing else
            if (
                self._first
                and said is not None
                and said.content
                and choice.finish_reason is None
                and choice.logprobs is None
                and chunk.usage is None
                and chunk.timings is None
            ):
                self._pieces += 1
                return said.content
        return self._more(chunk)

    def _more(self, chunk: wire.Chunk) -> str:
        """The text of a frame that may say anything."""
        if chunk.error is not None:
            raise wire.stated(chunk.error) if self._builtin else refusals.stated(self._label, chunk.error)
        self._spoke = chunk.model or self._spoke
        self._usage, self._timings = chunk.usage or self._usage, chunk.timings or self._timings
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        self._reason = choice.finish_reason or self._reason
        said = choice.delta or choice.message
        text = (said.content if said is not None else choice.text) or ""
        if text:
            self._pieces += 1
        if self._top is not None and choice.logprobs is not None:
            try:
                self._told += wire.token_logprobs(choice.logprobs, self._top)
            except msgspec.ValidationError as error:
                raise unreadable(self._label) from error
        if not self._first and (text or (said is not None and (said.reasoning or said.reasoning_content))):
            self._first = self._clock()
            self._answer.heard()
        return text

    def done(self) -> Done:
        """How it ended.

        Raises:
            Problem: what it said was one.
            Unavailable: it said neither why it ended nor that it is over, or ended in an error.
        """
        if self._problem is not None:
            raise self._problem
        if self._reason == "error" or (self._reason is None and not self.over):
            raise broke_off(self._label)
        now, started = self._clock(), self._answer.started
        usage = self._usage or wire.Usage(0, self._pieces)  # who does not count: pieces are close to tokens
        timings = self._timings or wire.Timings()
        first_s, seconds = timings.first_token_s, timings.seconds
        return Done(
            self._row,
            wire.finish(self._reason or "stop"),
            usage.prompt_tokens,
            usage.completion_tokens,
            max(0.0, self._first - started) if first_s is None else first_s,
            now - started if seconds is None else seconds,
            usage.cost,
            self._spoke,
        )


def _dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [message.as_dict() for message in messages]


def _require_room(tokens: int, context: int) -> None:
    if tokens > context:
        raise Invalid(
            f"输入过长：共 {tokens} 个 token，模型上下文为 {context} 个",
            f"too long: {tokens} tokens, and the model's context is {context}",
            context_length=context,
        )
