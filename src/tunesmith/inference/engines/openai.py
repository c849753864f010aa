"""A client of any engine that speaks the OpenAI wire: the built-in one, vLLM, SGLang, llama.cpp's server, OpenRouter."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from tunesmith.datasets.example import Message
from tunesmith.inference.engine import Delta, Done, Event, Reference, Request, Score
from tunesmith.inference.engines import openai_wire as wire
from tunesmith.inference.engines.sse import data_lines
from tunesmith.kernel.problems import Invalid, Problem, Unavailable, Unsupported
from tunesmith.models.model import Model

_IN_FLIGHT = 256
_TOKENIZING = 16
_SCORED_AT_ONCE = 32
_LONGEST_ERROR = 1 << 16
_AGAIN_S = 0.2

Shape = TypeVar("Shape")


def plain_name(model: Model) -> str:
    """The adapter's name where there is one, else the base's: vLLM's convention."""
    return model.adapter or model.base


class OpenAIEngine:
    """Generates through an OpenAI-wire server.

    Args:
        url: where it listens, without ``/v1``; any host will do when ``socket`` is given.
        socket: unix socket to reach it by.
        api_key: sent as a bearer token.
        name: what the server calls a model.
        builtin: it is Tunesmith's own worker, which validates rows beyond the first 256 ahead, takes turns between
            callers and tells its own timings.
        in_flight: streams open at once; the rest follow as these end.
    """

    def __init__(
        self,
        url: str = "http://engine",
        *,
        socket: Path | None = None,
        api_key: str | None = None,
        name: Callable[[Model], str] = plain_name,
        builtin: bool = False,
        in_flight: int = _IN_FLIGHT,
    ) -> None:
        self._url, self._socket, self._name = url.rstrip("/"), socket, name
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._builtin, self._limit = builtin, in_flight
        self._opened: aiohttp.ClientSession | None = None
        self._closed = False

    async def close(self) -> None:
        """Close every connection; streams still open break."""
        self._closed = True
        if self._opened is not None:
            await self._opened.close()

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        """See ``Engine.generate``. Rows beyond ``in_flight`` of a foreign server are refused only when they are sent."""
        group = uuid.uuid4().hex
        bodies = []
        for request in requests:
            wire.check_sampling(request.sampling)
            if not request.prompt:
                raise Invalid("消息不能为空", "the conversation is empty", field="messages")
            bodies.append(wire.completion_body(request, self._name(request.model), group=group, whole=self._builtin))
        if self._builtin and len(requests) > self._limit:
            await self._check(requests[self._limit :])
        feed = _Feed(self._limit, len(requests))
        tasks = [
            asyncio.create_task(self._row(feed, row, request, body))
            for row, (request, body) in enumerate(zip(requests, bodies, strict=True))
        ]
        try:
            async with aclosing(feed.events()) as events:
                async for event in events:
                    yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

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

        Raises:
            Problem: what the server says, or Unavailable when it does not answer.
        """
        data = wire.encode(body) if body is not None else None
        try:
            async with await self._sent(method, path, data) as response:
                raw = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _unreachable(error) from error
        if response.status != 200:
            raise wire.problem(response.status, raw)
        try:
            return msgspec.json.decode(raw, type=shape)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Unavailable("推理引擎的应答无法解析", "the engine's answer cannot be read") from error

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise Unavailable("推理引擎已关闭", "the engine has been closed")
        if self._opened is None:  # made on first use: a session belongs to the running loop
            connector = (
                aiohttp.UnixConnector(str(self._socket), limit=0) if self._socket else aiohttp.TCPConnector(limit=0)
            )
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=None if self._builtin else 300)
            self._opened = aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=1 << 16)
        return self._opened

    async def _sent(self, method: str, path: str, data: bytes | None) -> aiohttp.ClientResponse:
        """The answer's beginning.

        A unix socket whose queue is full turns a caller away, and asyncio finds out only when it writes: nothing was
        answered then, so the request is sent once more.
        """
        url = self._url + path
        try:
            return await self._session.request(method, url, data=data, headers=self._headers)
        except aiohttp.ClientConnectorError:
            raise  # nobody listens
        except aiohttp.ClientOSError:
            if self._socket is None:
                raise
            await asyncio.sleep(_AGAIN_S)
        return await self._session.request(method, url, data=data, headers=self._headers)

    async def _row(self, feed: "_Feed", row: int, request: Request, body: bytes) -> None:
        """Stream one row into ``feed``."""
        path = "/v1/completions" if isinstance(request.prompt, str) else "/v1/chat/completions"
        async with feed.turns:
            started = time.monotonic()
            try:
                async with await self._sent("POST", path, body) as response:
                    try:
                        if response.status != 200:
                            raise wire.problem(response.status, await response.content.read(_LONGEST_ERROR))
                        feed.accepted()
                        await _read(feed, row, response, started)
                    except BaseException:
                        response.close()  # the server must see at once that nobody listens
                        raise
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                feed.broken(_unreachable(error))
            except Problem as problem:
                feed.broken(problem)

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
        tokens, ends = full.tokens, set(full.end_tokens)
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
        answer = await self.ask("POST", "/v1/completions", body, wire.Scored)
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


class _Feed:
    """Where the rows of one call meet: events in the order they came, or the first failure.

    Nothing is given out before every row that may be open at once has been accepted.
    """

    def __init__(self, limit: int, rows: int) -> None:
        self.turns = asyncio.Semaphore(limit)
        self._queue: asyncio.Queue[Event | Problem] = asyncio.Queue()
        self._to_accept, self._left = min(limit, rows), rows
        self._accepted = asyncio.Event()
        self._problem: Problem | None = None

    def accepted(self) -> None:
        self._to_accept -= 1
        if self._to_accept == 0:
            self._accepted.set()

    def put(self, event: Event) -> None:
        self._queue.put_nowait(event)

    def broken(self, problem: Problem) -> None:
        self._problem = self._problem or problem
        self._queue.put_nowait(problem)
        self._accepted.set()

    async def events(self) -> AsyncGenerator[Event, None]:
        if not self._left:
            return
        await self._accepted.wait()
        if self._to_accept > 0 and self._problem is not None:
            raise self._problem
        while self._left:
            item = await self._queue.get()
            if isinstance(item, Problem):
                raise item
            if isinstance(item, Done):
                self._left -= 1
            yield item


async def _read(feed: _Feed, row: int, response: aiohttp.ClientResponse, started: float) -> None:
    """Turn one stream into events; it must say that it is over."""
    first, pieces = 0.0, 0
    reason: str | None = None
    usage: wire.Usage | None = None
    timings: wire.Timings | None = None
    async with aclosing(data_lines(response.content.iter_any())) as lines:
        async for data in lines:
            if data == wire.DONE:
                break
            chunk = wire.parse_chunk(data)
            if chunk.error is not None:
                raise wire.stated(chunk.error)
            for choice in chunk.choices[:1]:
                text = choice.text if choice.delta is None else choice.delta.content
                if text:
                    first = first or time.monotonic()
                    pieces += 1
                    feed.put(Delta(row, text))
                reason = choice.finish_reason or reason
            usage, timings = chunk.usage or usage, chunk.timings or timings
    if reason is None:
        raise Unavailable("推理引擎的应答中断，请重试", "the engine's answer broke off; ask again")
    usage = usage or wire.Usage(0, pieces)  # an engine that does not count: pieces are close to tokens
    timings = timings or wire.Timings(max(0.0, first - started), time.monotonic() - started)
    feed.put(
        Done(
            row,
            wire.finish(reason),
            usage.prompt_tokens,
            usage.completion_tokens,
            timings.first_token_s,
            timings.seconds,
        )
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


def _unreachable(error: BaseException) -> Unavailable:
    reason = str(error) or type(error).__name__
    return Unavailable(
        f"推理引擎没有应答，请稍后重试（{reason}）", f"the engine is not answering, ask again later ({reason})"
    )
