"""Completions over HTTP: whole answers, and streams whose rows die with their clients."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker import wire
from tunesmith.inference.worker.events import Ended, Failed, Mailbox, RowEvent, Text, collect
from tunesmith.kernel.problems import Invalid

if TYPE_CHECKING:  # these import torch
    from tunesmith.inference.worker.core import Core
    from tunesmith.inference.worker.row import Row

_LONG_TEXT = 20_000  # characters; longer ones are tokenized beside the loop, not on it
_MANY_TURNS = 200
_encode = msgspec.json.Encoder().encode


class Generation:
    """Answers the two completion calls of one loaded engine, and tokenizes for them."""

    def __init__(self, core: "Core") -> None:
        self._core = core

    async def render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> list[int]:
        """See ``Tokens.render``; long conversations do not hold up the loop."""
        render = self._core.tokens.render
        if len(messages) > _MANY_TURNS or sum(len(message["content"]) for message in messages) > _LONG_TEXT:
            return await asyncio.to_thread(render, messages, add_generation_prompt=add_generation_prompt)
        return render(messages, add_generation_prompt=add_generation_prompt)

    async def encode(self, text: str, *, special: bool) -> list[int]:
        """See ``Tokens.encode``; long texts do not hold up the loop."""
        encode = self._core.tokens.encode
        if len(text) > _LONG_TEXT:
            return await asyncio.to_thread(encode, text, special=special)
        return encode(text, special=special)

    async def chat(self, request: web.Request, body: wire.ChatBody) -> web.StreamResponse:
        """``/v1/chat/completions``."""
        if not body.messages:
            raise Invalid("messages 不能为空", "messages must not be empty", field="messages")
        messages = [msgspec.to_builtins(message) for message in body.messages]
        prompt = await self.render(messages, add_generation_prompt=body.add_generation_prompt)
        row = self._row(body, prompt, body.sampling(self._core.model.context), raw=False)
        shape = Shape("chat.completion", body)
        if body.stream:
            return await self._stream(request, shape, row)
        async with self._core.running([row]) as mail:
            text, ended = await collect(mail[0])
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": ended.finish}
        return shape.whole([choice], len(row.prompt), [ended])

    async def complete(self, request: web.Request, body: wire.CompletionBody) -> web.StreamResponse:
        """``/v1/completions``, also of many prompts at once and with log-probabilities of the prompts."""
        score = body.prompt_logprobs is not None
        sampling = body.sampling(16, least_tokens=0)
        if body.stream and (score or not sampling.max_new_tokens):
            raise Invalid("流式请求不支持 prompt_logprobs 与 max_tokens=0", "not available in a stream", field="stream")
        rows = []
        for prompt in body.prompts():
            ids = await self.encode(prompt, special=True) if isinstance(prompt, str) else prompt
            rows.append(self._row(body, ids, sampling, raw=isinstance(prompt, str), score=score))
        shape = Shape("text_completion", body)
        if body.stream:
            if len(rows) != 1:
                raise Invalid("流式请求只支持一个 prompt", "a stream takes one prompt", field="prompt")
            return await self._stream(request, shape, rows[0])
        async with self._core.running(rows) as mail:
            done = [await collect(mailbox) for mailbox in mail]
        choices = []
        for index, (row, (text, ended)) in enumerate(zip(rows, done, strict=True)):
            choice: dict[str, object] = {"index": index, "text": text, "finish_reason": ended.finish}
            if score:
                shares = zip(row.prompt[1:], ended.logprobs, strict=True)
                choice["prompt_logprobs"] = [None, *({str(token): {"logprob": share}} for token, share in shares)]
            choices.append(choice)
        return shape.whole(choices, sum(len(row.prompt) for row in rows), [ended for _, ended in done])

    def _row(
        self, body: wire.SamplingFields, prompt: list[int], sampling: Sampling, *, raw: bool, score: bool = False
    ) -> "Row":
        from tunesmith.inference.worker.row import Row

        if not prompt:
            raise Invalid("提示不能为空", "the prompt must hold at least one token", field="prompt")
        if max(prompt) >= self._core.model.vocabulary:
            raise Invalid("prompt 含有词表之外的 token", "the prompt holds ids outside the vocabulary", field="prompt")
        row = Row(prompt, sampling, self._core.adapter(body.model), body.user or "", score=score, raw=raw)
        self._core.scheduler.check(row)  # now: the rest of a request that will be refused is not worth tokenizing
        return row

    async def _stream(self, request: web.Request, shape: "Shape", row: "Row") -> web.StreamResponse:
        async with AsyncExitStack() as stack:
            (mailbox,) = await stack.enter_async_context(self._core.running([row]))
            # Accepted: the status leaves now, so that a caller with many rows knows that all of them will run.
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
            await response.prepare(request)
            await _pump(response, shape, mailbox, len(row.prompt))
            await response.write_eof()
        return response


async def _pump(response: web.StreamResponse, shape: "Shape", mailbox: Mailbox, prompt_tokens: int) -> None:
    """Write a row's events until it ends; what is ready together leaves in one write."""
    over = False
    while not over:
        frames = []
        for event in _merged(await mailbox.take()):
            if isinstance(event, Failed):
                over = True
                frames.append(b"data: " + wire.error(event.problem)[1] + b"\n\n")
            elif isinstance(event, Ended):
                over = True
                frames += shape.last(event, prompt_tokens)
            else:
                frames.append(shape.piece(event.text))
        await response.write(b"".join(frames))


def _merged(events: list[RowEvent]) -> list[RowEvent]:
    """Texts that waited together become one."""
    texts = [event.text for event in events if isinstance(event, Text)]
    rest: list[RowEvent] = [event for event in events if not isinstance(event, Text)]
    return [Text("".join(texts)), *rest] if texts else rest


class Shape:
    """The bodies of one request's answer."""

    def __init__(self, kind: str, body: wire.SamplingFields) -> None:
        self._chat = kind == "chat.completion"
        self._kind = kind
        self._id = ("chatcmpl-" if self._chat else "cmpl-") + uuid.uuid4().hex
        self._model, self._created = body.model, int(time.time())
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._first = True

    def whole(self, choices: list[dict[str, object]], prompt_tokens: int, ended: Sequence[Ended]) -> web.Response:
        """An answer that is not streamed."""
        body = {
            "id": self._id,
            "object": self._kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
            "usage": wire.usage(prompt_tokens, ended),
            "timings": wire.timings(ended),
        }
        return web.Response(body=_encode(body), content_type="application/json")

    def piece(self, text: str) -> bytes:
        """A frame with more text."""
        if not self._chat:
            return self._frame(wire.StreamChoice(text=text))
        role = "assistant" if self._first else None
        self._first = False
        return self._frame(wire.StreamChoice(delta=wire.ChatDelta(role=role, content=text)))

    def last(self, ended: Ended, prompt_tokens: int) -> list[bytes]:
        """The closing frames: why it ended, what it used if asked for, and the marker that nothing follows."""
        empty = {"delta": wire.ChatDelta()} if self._chat else {"text": ""}
        frames = [self._frame(wire.StreamChoice(finish_reason=ended.finish, **empty))]
        if self._usage:
            chunk = self._chunk([])
            chunk.usage, chunk.timings = wire.usage(prompt_tokens, [ended]), wire.timings([ended])
            frames.append(b"data: " + _encode(chunk) + b"\n\n")
        return [*frames, b"data: [DONE]\n\n"]

    def _frame(self, choice: wire.StreamChoice) -> bytes:
        return b"data: " + _encode(self._chunk([choice])) + b"\n\n"

    def _chunk(self, choices: list[wire.StreamChoice]) -> wire.Chunk:
        kind = "chat.completion.chunk" if self._chat else self._kind
        return wire.Chunk(self._id, kind, self._created, self._model, choices)
