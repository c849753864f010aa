"""Completions over HTTP: whole answers, and streams whose rows die with their clients."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker import wire
from tunesmith.inference.worker.events import Ended, Failed, Mailbox, Text, collect_all, joined
from tunesmith.kernel.problems import Invalid, Problem

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
        draws = body.choices(body.sampling(self._core.model.context))
        prompt = await self.render(messages, add_generation_prompt=body.add_generation_prompt)
        rows = await self._rows(body, prompt, draws, raw=False)
        shape = Shape("chat.completion", body)
        if body.stream:
            return await self._stream(request, shape, rows)
        async with self._core.running(rows) as mail:
            done = await collect_all(mail)
        choices = [shape.choice(index, said, ended) for index, (said, ended) in enumerate(done)]
        return shape.whole(choices, len(prompt), [ended for _, ended in done])

    async def complete(self, request: web.Request, body: wire.CompletionBody) -> web.StreamResponse:
        """``/v1/completions``, also of many prompts at once and with log-probabilities of the prompts."""
        score = body.prompt_logprobs is not None
        sampling = body.sampling(16, least_tokens=0)
        draws, prompts = body.choices(sampling), body.prompts()
        if body.stream and (score or not sampling.max_new_tokens):
            raise Invalid("流式请求不支持 prompt_logprobs 与 max_tokens=0", "not available in a stream", field="stream")
        if len(prompts) * len(draws) > wire.MAX_PROMPTS or (score and len(draws) > 1):
            raise Invalid("n 过大", f"n times the prompts is at most {wire.MAX_PROMPTS}, and 1 for scores", field="n")
        rows: list[Row] = []
        lengths = []
        for prompt in prompts:
            ids = await self.encode(prompt, special=True) if isinstance(prompt, str) else prompt
            lengths.append(len(ids))
            rows += await self._rows(body, ids, draws, raw=isinstance(prompt, str), score=score)
        shape = Shape("text_completion", body)
        if body.stream:
            if len(prompts) != 1:
                raise Invalid("流式请求只支持一个 prompt", "a stream takes one prompt", field="prompt")
            return await self._stream(request, shape, rows)
        async with self._core.running(rows) as mail:
            done = await collect_all(mail)
        choices = [shape.choice(index, said, ended) for index, (said, ended) in enumerate(done)]
        if score:
            for choice, row, (_, ended) in zip(choices, rows, done, strict=True):
                shares = zip(row.prompt[1:], ended.logprobs, strict=True)
                choice["prompt_logprobs"] = [None, *({str(token): {"logprob": share}} for token, share in shares)]
        return shape.whole(choices, sum(lengths), [ended for _, ended in done])

    async def _rows(
        self,
        body: wire.SamplingFields,
        prompt: list[int],
        draws: Sequence[Sampling],
        *,
        raw: bool,
        score: bool = False,
    ) -> list["Row"]:
        """The answers to one prompt: rows that differ only in what they draw."""
        from tunesmith.inference.worker.row import Row

        if not prompt:
            raise Invalid("提示不能为空", "the prompt must hold at least one token", field="prompt")
        if max(prompt) >= self._core.model.vocabulary:
            raise Invalid("prompt 含有词表之外的 token", "the prompt holds ids outside the vocabulary", field="prompt")
        adapter, tokens = self._core.adapter(body.model), self._core.tokens
        rows: list[Row] = []
        for sampling in draws:
            row = Row(
                prompt,
                sampling,
                adapter,
                body.user or "",
                score=score,
                raw=raw,
                owner=body.cache_salt or "",
                spell=None if sampling.top_logprobs is None else tokens.spell,
            )
            if not rows:  # now: the rest of a request that will be refused is not worth tokenizing
                self._core.scheduler.check(row)
            if sampling.schema is not None:
                row.grammar = await tokens.grammars.constraint(sampling.schema)
            rows.append(row)
        return rows

    async def _stream(self, request: web.Request, shape: "Shape", rows: Sequence["Row"]) -> web.StreamResponse:
        async with AsyncExitStack() as stack:
            mail = await stack.enter_async_context(self._core.running(rows))
            # Accepted: the status leaves now, so that a caller with many rows knows that all of them will run.
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
            await response.prepare(request)
            await _pump(response, shape, mail, len(rows[0].prompt))
            await response.write_eof()
        return response


async def _pump(response: web.StreamResponse, shape: "Shape", mail: Sequence[Mailbox], prompt_tokens: int) -> None:
    """Write the rows' events until all have ended or one has failed."""
    try:
        if len(mail) == 1:  # the usual call: no task
            ended = [await _speak(response, shape, 0, mail[0])]
        else:
            async with asyncio.TaskGroup() as group:
                rows = [group.create_task(_speak(response, shape, *pair)) for pair in enumerate(mail)]
            ended = [row.result() for row in rows]
    except Problem as problem:
        await response.write(shape.failed(problem))
    except ExceptionGroup as failures:
        problems = [failure for failure in failures.exceptions if isinstance(failure, Problem)]
        if not problems:
            raise failures.exceptions[0] from None
        await response.write(shape.failed(problems[0]))
    else:
        await response.write(shape.end(ended, prompt_tokens))


async def _speak(response: web.StreamResponse, shape: "Shape", index: int, mailbox: Mailbox) -> Ended:
    """Write one row's events until it ends; what is ready together leaves in one write.

    Raises:
        Problem: the row failed; what it had said is written.
    """
    while True:
        events = await mailbox.take()
        said = joined([event for event in events if isinstance(event, Text)])
        last = events[-1]
        frames = shape.piece(index, said) if said.text or said.logprobs else b""
        if isinstance(last, Ended):
            frames += shape.ending(index, last)
        if frames:
            await response.write(frames)
        if isinstance(last, Failed):
            raise last.problem
        if isinstance(last, Ended):
            return last


class Shape:
    """The bodies of one request's answer."""

    def __init__(self, kind: str, body: wire.SamplingFields) -> None:
        self._chat = kind == "chat.completion"
        self._kind = kind
        self._id = ("chatcmpl-" if self._chat else "cmpl-") + uuid.uuid4().hex
        self._model, self._created = body.model, int(time.time())
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._tells, self._draws = body.most_likely is not None, body.n or 1
        self._begun: set[int] = set()
        self._offsets: dict[int, int] = {}

    def whole(self, choices: list[dict[str, object]], prompt_tokens: int, ended: Sequence[Ended]) -> web.Response:
        """An answer that is not streamed."""
        body = {
            "id": self._id,
            "object": self._kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
            "usage": wire.usage(prompt_tokens, ended, self._draws),
            "timings": wire.timings(ended),
        }
        return web.Response(body=_encode(body), content_type="application/json")

    def choice(self, index: int, said: Text, ended: Ended) -> dict[str, object]:
        """One answer of those that are not streamed."""
        choice: dict[str, object] = {"index": index}
        choice |= {"message": {"role": "assistant", "content": said.text}} if self._chat else {"text": said.text}
        if self._tells:
            choice["logprobs"] = self._logprobs(index, said)
        return choice | {"finish_reason": ended.finish}

    def piece(self, index: int, said: Text) -> bytes:
        """A frame with more text of one answer."""
        choice = wire.StreamChoice(index)
        if self._chat:
            role = "assistant" if index not in self._begun else None
            self._begun.add(index)
            choice.delta = wire.ChatDelta(role=role, content=said.text)
        else:
            choice.text = said.text
        if self._tells:
            choice.logprobs = self._logprobs(index, said)
        return self._frame(choice)

    def ending(self, index: int, ended: Ended) -> bytes:
        """The frame that says why one answer ended."""
        empty = {"delta": wire.ChatDelta()} if self._chat else {"text": ""}
        return self._frame(wire.StreamChoice(index, finish_reason=ended.finish, **empty))

    def end(self, ended: Sequence[Ended], prompt_tokens: int) -> bytes:
        """The closing frames: what was used if asked for, and the marker that nothing follows."""
        used = b""
        if self._usage:
            chunk = self._chunk([])
            chunk.usage, chunk.timings = wire.usage(prompt_tokens, ended, self._draws), wire.timings(ended)
            used = b"data: " + _encode(chunk) + b"\n\n"
        return used + b"data: [DONE]\n\n"

    def failed(self, problem: Problem) -> bytes:
        """The frame that ends a stream because of ``problem``."""
        return b"data: " + wire.error(problem)[1] + b"\n\n"

    def _logprobs(self, index: int, said: Text) -> dict[str, Any]:
        if self._chat:
            return wire.chat_logprobs(said.logprobs)
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + sum(len(token.text) for token in said.logprobs)
        return wire.completion_logprobs(said.logprobs, offset)

    def _frame(self, choice: wire.StreamChoice) -> bytes:
        return b"data: " + _encode(self._chunk([choice])) + b"\n\n"

    def _chunk(self, choices: list[wire.StreamChoice]) -> wire.Chunk:
        kind = "chat.completion.chunk" if self._chat else self._kind
        return wire.Chunk(self._id, kind, self._created, self._model, choices)
