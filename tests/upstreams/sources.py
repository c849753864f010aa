"""Where a stand-in gets its text from: a real llama.cpp server, or a canned answer."""

import argparse
import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from tests.upstreams.texts import tokens

LENGTH = 16  # tokens of an answer when the caller names no number


@dataclass(frozen=True, slots=True)
class End:
    """How an answer ended: ``stop`` or ``length``, and tokens."""

    finish: str
    prompt_tokens: int
    completion_tokens: int


class Refused(Exception):
    """The source would not answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Source(Protocol):
    """Gives the text of answers."""

    def answer(
        self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> AsyncGenerator[str | End, None]:
        """Tokens, then one ``End``. ``options`` are those of the OpenAI wire (``max_tokens``, ``temperature``, ...).

        Raises:
            Refused: before the first token, for instance when the messages are too long.
        """


@dataclass(frozen=True, slots=True)
class Canned:
    """The same awkward text for everyone: ``texts.tokens(0, 16)``, or fewer, with a pause after each."""

    pause_s: float = 0.0

    async def answer(
        self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> AsyncGenerator[str | End, None]:
        wanted = int(options.get("max_tokens") or LENGTH)
        count = min(wanted, LENGTH)
        for token in tokens(0, count):
            yield token
            await asyncio.sleep(self.pause_s)
        yield End("length" if wanted < LENGTH else "stop", len(messages), count)


@dataclass(frozen=True, slots=True)
class Llama:
    """What a llama.cpp server at ``url`` says; every answer is as long as asked for."""

    url: str
    session: aiohttp.ClientSession

    async def answer(
        self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> AsyncGenerator[str | End, None]:
        fixed = {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
        body = {"max_tokens": LENGTH, **options, **fixed, "messages": list(messages)}
        finish, usage = "stop", dict[str, int]()
        async with self.session.post(self.url + "/v1/chat/completions", json=body) as answer:
            if answer.status != 200:
                raise Refused(answer.status, str((await answer.json())["error"]["message"]))
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line.removeprefix(b"data: "))
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    finish = choice["finish_reason"] or finish
                    if choice["delta"].get("content"):
                        yield choice["delta"]["content"]
        yield End(finish, usage["prompt_tokens"], usage["completion_tokens"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``source`` reads."""
    parser.add_argument("--llama", help="address of a llama.cpp server; canned text without")
    parser.add_argument("--pause-ms", type=float, default=0.0, help="after each token of canned text")


@asynccontextmanager
async def source(given: argparse.Namespace) -> AsyncIterator[Source]:
    """A llama.cpp server, or canned text when no address was given."""
    if given.llama is None:
        yield Canned(given.pause_ms / 1000)
        return
    # llama.cpp closes connections that served many requests, just when the next one is written
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
        yield Llama(given.llama, session)
