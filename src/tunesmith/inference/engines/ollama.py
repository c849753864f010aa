"""A client of Ollama, in its own wire: the OpenAI one beside it cannot say whether a model is to think."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import partial

from tunesmith.inference.engine import Delta, Done, Event, Reference, Request, Score
from tunesmith.inference.engines import ollama_wire as wire
from tunesmith.inference.engines import refusals
from tunesmith.inference.engines.answer import Answer, Label, broke_off
from tunesmith.inference.engines.openai_wire import check_sampling
from tunesmith.inference.engines.rows import ACCEPTED, RowEvent, together
from tunesmith.inference.engines.upstream import Terms, Upstream
from tunesmith.inference.engines.watch import Patience
from tunesmith.inference.model_ids import Listed
from tunesmith.inference.ollama import OllamaStats, OllamaTotals, PullProgress, RunningModel
from tunesmith.kernel.problems import Invalid, NotFound, Problem, Unsupported

LABEL = Label(
    "Ollama ",
    "Ollama",
    "请确认 Ollama 已启动，且 OLLAMA_HOST 指向它",
    "check that Ollama runs and that OLLAMA_HOST says where",
)
_AT_ONCE = 8  # Ollama answers few at once, one by default; more would only wait in its queue instead of ours
_ASKED_WITHIN_S = 10.0
_PULLING = Patience(first_s=60.0, idle_s=300.0)


class OllamaEngine:
    """Generates through an Ollama server; an ``OllamaServer`` too.

    Args:
        upstream: the server.
        patient: the same server on the terms of a pull, which may take hours.
        at_once: rows of one call open at once; the rest follow as these end.
    """

    def __init__(self, upstream: Upstream, patient: Upstream, *, at_once: int = _AT_ONCE) -> None:
        self._upstream, self._patient, self._at_once = upstream, patient, at_once
        self._counts = _Counts()

    @staticmethod
    def at(url: str, terms: Terms, *, at_once: int = _AT_ONCE) -> "OllamaEngine":
        """The server at ``url``, asked on these terms; a pull may take as long as it needs."""
        refused = partial(refusals.refused, LABEL)
        patient = replace(terms, patience=_PULLING, in_flight=None)
        return OllamaEngine(
            Upstream(url, LABEL, refused, terms=terms), Upstream(url, LABEL, refused, terms=patient), at_once=at_once
        )

    @property
    def totals(self) -> OllamaTotals:
        """See ``OllamaServer.totals``."""
        return self._counts.totals

    async def close(self) -> None:
        """Close every connection; streams still open break."""
        await self._upstream.close()
        await self._patient.close()

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        """See ``Engine.generate``. Rows beyond ``at_once`` are refused by Ollama only when they are sent.

        Raises:
            NotFound: a model has an adapter, too; Ollama knows none of ours.
        """
        self._upstream.admit()
        bodies = []
        for request in requests:
            check_sampling(request.sampling)
            if not request.prompt:  # Ollama would only load the model
                raise Invalid("消息不能为空", "the conversation is empty", field="messages")
            if request.model.adapter is not None:
                raise _no_adapter(request.model.adapter)
            bodies.append(wire.answer_body(request))
        rows = [self._row(row, *pair) for row, pair in enumerate(zip(requests, bodies, strict=True))]
        async with aclosing(together(rows, self._at_once)) as events:
            async for event in events:
                yield event

    async def score(self, references: Sequence[Reference]) -> list[Score]:
        """Ollama tells no log-probabilities of a prompt.

        Raises:
            Unsupported: always.
        """
        raise Unsupported("Ollama 不提供输入的对数概率", "Ollama does not report log-probabilities of a prompt")

    async def models(self) -> list[Listed]:
        """See ``OllamaServer.models``."""
        return wire.listed(await self._tags(), await self.running())

    async def version(self) -> str:
        """See ``OllamaServer.version``."""
        path = "/api/version"
        return (await self._upstream.ask("GET", path, None, wire.Version, within_s=_ASKED_WITHIN_S)).version

    async def running(self) -> list[RunningModel]:
        """See ``OllamaServer.running``."""
        return wire.running(await self._upstream.ask("GET", "/api/ps", None, wire.Ps, within_s=_ASKED_WITHIN_S))

    async def stats(self) -> OllamaStats:
        """See ``OllamaServer.stats``."""
        version, tags, running = await self.version(), await self._tags(), await self.running()
        return OllamaStats(version, wire.listed(tags, running), running, self.totals)

    async def pull(self, name: str) -> AsyncGenerator[PullProgress, None]:
        """See ``OllamaServer.pull``. Lines that come together give one progress."""
        layers = wire.Layers()
        async with self._patient.stream("/api/pull", wire.pull_body(name)) as answer:
            while (lines := await answer.lines()) is not None:
                answer.heard()
                for data in lines:
                    said = wire.line(data, wire.PULL_LINE, LABEL)
                    if said is None:
                        continue
                    if said.error is not None:
                        raise wire.pull_stated(LABEL, name, said.error)
                    layers.add(said)
                yield layers.progress
        if layers.status != "success":
            raise broke_off(LABEL)

    async def _tags(self) -> wire.Tags:
        return await self._upstream.ask("GET", "/api/tags", None, wire.Tags, within_s=_ASKED_WITHIN_S)

    async def _row(self, row: int, request: Request, body: bytes) -> AsyncGenerator[RowEvent, None]:
        """One row's events, after word that Ollama has accepted it."""
        path = "/api/generate" if isinstance(request.prompt, str) else "/api/chat"
        with self._counts.one():
            async with self._upstream.stream(path, body) as answer:
                yield ACCEPTED
                reading = _Reading(row, answer, self._upstream.label)
                while not reading.over and (lines := await answer.lines()) is not None:
                    text = reading.text_of(lines)
                    if text:
                        yield Delta(row, text)
                done = reading.done()
                answer.ended = True
                self._counts.ended(done, reading.eval_s)
        yield done


class _Counts:
    """The totals as they grow; all on one event loop."""

    def __init__(self) -> None:
        self.totals = OllamaTotals()

    @contextmanager
    def one(self) -> Iterator[None]:
        """An answer is asked for until the end of the block."""
        self._add(requests=1, in_flight=1)
        failed = canceled = 0
        try:
            yield
        except (GeneratorExit, asyncio.CancelledError):
            canceled = 1
            raise
        except Exception:
            failed = 1
            raise
        finally:
            self._add(in_flight=-1, failures=failed, canceled=canceled)

    def ended(self, done: Done, eval_s: float) -> None:
        """It ended well."""
        self._add(prompt_tokens=done.prompt_tokens, completion_tokens=done.completion_tokens, eval_seconds=eval_s)

    def _add(self, **more: float) -> None:
        self.totals = replace(self.totals, **{name: getattr(self.totals, name) + by for name, by in more.items()})


class _Reading:
    """What one stream has said so far. It must say itself that it is over: a clean end of the connection is no end."""

    def __init__(self, row: int, answer: Answer, label: Label) -> None:
        self._row, self._answer, self._label = row, answer, label
        self._clock = asyncio.get_running_loop().time
        self._first, self._pieces = 0.0, 0
        self._spoke: str | None = None
        self._last: wire.Chunk | None = None
        self._problem: Problem | None = None
        self.eval_s = 0.0

    @property
    def over(self) -> bool:
        return self._last is not None or self._problem is not None

    def text_of(self, lines: Sequence[bytes]) -> str:
        """The text in lines that came together; it leaves together too, and before the problem that ends it."""
        texts = []
        try:
            for data in lines:
                chunk = wire.line(data, wire.CHUNK, self._label)
                if chunk is None:
                    continue
                if chunk.error is not None:
                    raise wire.stated(self._label, chunk.error)
                texts.append(self._text(chunk))
                if chunk.done:
                    self._last = chunk
                    break
        except Problem as problem:
            self._problem = problem
        return "".join(texts)

    def done(self) -> Done:
        """How it ended.

        Raises:
            Problem: a line was an error, or none of this wire's.
            Unavailable: it did not say that it was over.
        """
        if self._problem is not None:
            raise self._problem
        if self._last is None:
            raise broke_off(self._label)
        seconds = self._clock() - self._answer.started
        first_s = max(0.0, self._first - self._answer.started)
        tokens = self._last.eval_count or self._pieces  # who does not count: pieces are close to tokens
        self.eval_s = self._last.eval_duration / 1e9 or (seconds - first_s if tokens else 0.0)
        return Done(
            self._row,
            wire.finish(self._last.done_reason),
            self._last.prompt_eval_count,
            tokens,
            first_s,
            seconds,
            spoke=self._spoke,
        )

    def _text(self, chunk: wire.Chunk) -> str:
        self._spoke = chunk.model or self._spoke
        text = chunk.text
        if text:
            self._pieces += 1
        if text or chunk.thought:
            self._first = self._first or self._clock()
            self._answer.heard()
        return text


def _no_adapter(adapter: str) -> NotFound:
    return NotFound(
        f"Ollama 上没有适配器 {adapter}：请改用内置引擎",
        f"Ollama has no adapter {adapter}: use the built-in engine",
        adapter=adapter,
    )
