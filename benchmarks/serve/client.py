"""Asking a server for streamed answers, many at once, and when their tokens came."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

Body = Callable[[str, str, int], tuple[str, Mapping[str, Any]]]


class Wrong(Exception):
    """A server did not answer as asked; the text says how."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where a server listens, and how it is asked.

    Attributes:
        address: URL, or the path of a unix socket.
        body: path and body that ask (model, prompt, most tokens) as a stream.
    """

    address: str | Path
    body: Body


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer; seconds count from when all of them were asked.

    Attributes:
        first_s, last_s: when its first and its last text came.
        whole_s: when the stream had ended.
    """

    first_s: float
    last_s: float
    whole_s: float
    tokens: int


@dataclass(slots=True)
class Heard:
    """What came of one answer, and when."""

    status: int = 0
    blocks: list[tuple[float, bytes]] = field(default_factory=list)


def openai(extra: Mapping[str, Any]) -> Body:
    """OpenAI's chat route; ``extra`` is what this server takes besides."""

    def body(model: str, prompt: str, most: int) -> tuple[str, Mapping[str, Any]]:
        messages = [{"role": "user", "content": prompt}]
        asked = {"model": model, "messages": messages, "max_tokens": most, "temperature": 0, "stream": True, **extra}
        return "/v1/chat/completions", asked

    return body


def plain(model: str, prompt: str, most: int) -> tuple[str, Mapping[str, Any]]:
    """Tunesmith's own chat route."""
    sampling = {"temperature": 0, "top_p": 1, "repetition_penalty": 1}
    turns = [{"role": "user", "content": prompt}]
    return "/chat", {"model_name": model, "messages": turns, "max_tokens": most, "stream": True, **sampling}


def asked(door: Door, questions: Sequence[tuple[str, str]], most: int, limit_s: float) -> list[Answer]:
    """The answers to (model, prompt) pairs that are all asked at once.

    Raises:
        Wrong: one of them is no whole answer of ``most`` tokens, or they take longer than ``limit_s``.
    """
    began, heard = asyncio.run(_ask(door, questions, most, limit_s))
    return [understood(each, began, most) for each in heard]


async def _ask(
    door: Door, questions: Sequence[tuple[str, str]], most: int, limit_s: float
) -> tuple[float, list[Heard]]:
    unix = isinstance(door.address, Path)
    connector = aiohttp.UnixConnector(str(door.address)) if unix else aiohttp.TCPConnector(limit=0)
    base = "http://engine" if unix else str(door.address)
    heard = [Heard() for _ in questions]
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def one(into: Heard, model: str, prompt: str) -> None:
            path, body = door.body(model, prompt, most)
            async with session.post(base + path, json=body) as response:
                into.status = response.status
                # looked into when all is over: parsing now would take time from the servers
                async for block in response.content.iter_any():
                    into.blocks.append((time.perf_counter(), block))

        began = time.perf_counter()
        tasks = (one(into, *question) for into, question in zip(heard, questions, strict=True))
        try:
            await asyncio.wait_for(asyncio.gather(*tasks), limit_s)
        except TimeoutError as error:
            raise Wrong(f"{len(questions)} streams are not done within {limit_s:.0f} s") from error
        except aiohttp.ClientError as error:
            raise Wrong(f"the connection broke: {type(error).__name__} {error}") from error
    return began, heard


def understood(heard: Heard, began: float, most: int) -> Answer:
    """What was heard, as an answer of ``most`` tokens.

    Raises:
        Wrong: it is none.
    """
    whole = b"".join(block for _, block in heard.blocks)
    if heard.status != 200:
        raise Wrong(f"HTTP {heard.status}: {whole.decode(errors='replace')[:300]}")
    times, tokens, finish = list[float](), 0, None
    rest = b""
    for moment, block in heard.blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if not line.startswith(b"data:") or data == b"[DONE]":
                continue
            frame = json.loads(data)
            if frame.get("error"):
                raise Wrong(f"it says {str(frame['error'])[:300]}")
            choice = (frame.get("choices") or [{}])[0]
            if _text(frame, choice):
                times.append(moment)
            finish = choice.get("finish_reason") or frame.get("finish_reason") or finish
            tokens = (frame.get("usage") or {}).get("completion_tokens") or frame.get("tokens_generated") or tokens
    tokens = tokens or (most if finish == "length" else 0)
    if tokens != most or not times:
        raise Wrong(f"{tokens} tokens in {len(times)} pieces of text, not {most} (finish_reason {finish})")
    return Answer(times[0] - began, times[-1] - began, heard.blocks[-1][0] - began, tokens)


def _text(frame: Mapping[str, Any], choice: Mapping[str, Any]) -> str:
    return (choice.get("delta") or {}).get("content") or choice.get("text") or frame.get("text") or ""
