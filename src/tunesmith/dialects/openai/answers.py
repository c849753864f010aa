"""What goes out on the OpenAI wire: whole answers, and streams of chunks."""

import codecs
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from tunesmith.dialects.openai import wire
from tunesmith.dialects.openai.shapes import Finish, Usage
from tunesmith.http.errors import status_of
from tunesmith.http.sse import DONE, frame
from tunesmith.inference.engine import Delta, Done, Event, FinishReason, TokenLogprob
from tunesmith.kernel.clock import utc_now
from tunesmith.kernel.problems import Problem

_LEAST = -9999.0  # what the wire writes for a token that could not have come; JSON knows no infinity
_encode = msgspec.json.Encoder().encode


class Report(Protocol):
    """One row's log-probabilities, as they come, in the shape of its call."""

    def __call__(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Call:
    """What tells the answers of the two calls apart.

    Attributes:
        whole, chunk: values of ``object``.
        said: what a choice says, from its text.
        piece: JSON around a text in a chunk.
        opening: JSON of a row's first chunk, before any text; empty where there is none.
        closing: JSON of its last.
    """

    id_prefix: str
    whole: str
    chunk: str
    said: Callable[[str], dict[str, Any]]
    report: Callable[[], Report]
    piece: tuple[bytes, bytes]
    opening: bytes
    closing: bytes


@dataclass(frozen=True, slots=True)
class Heading:
    """What every part of one answer repeats.

    Attributes:
        model: who speaks.
        choices: rows of each prompt.
    """

    call: Call
    id: str
    created: int
    model: str
    choices: int

    @staticmethod
    def of(call: Call, model: str, choices: int) -> "Heading":
        """A new answer's."""
        return Heading(call, f"{call.id_prefix}{uuid.uuid4().hex}", int(utc_now().timestamp()), model, choices)

    def fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": None,
            "system_fingerprint": None,
        }


async def whole(events: AsyncGenerator[Event, None], heading: Heading, rows: int) -> bytes:
    """The body that carries the answers of rows 0 .. rows-1.

    Raises:
        Problem: what the engine raises.
    """
    call = heading.call
    texts: list[list[str]] = [[] for _ in range(rows)]
    shares: list[list[TokenLogprob]] = [[] for _ in range(rows)]
    ends: dict[int, Done] = {}
    async with aclosing(events) as stream:
        async for event in stream:
            if isinstance(event, Delta):
                texts[event.row].append(event.text)
                shares[event.row] += event.logprobs
            else:
                ends[event.row] = event
    choices = [
        {
            "index": row,
            **call.said("".join(texts[row])),
            "logprobs": call.report()(shares[row]) if shares[row] else None,
            "finish_reason": _finish(ends[row].finish),
        }
        for row in range(rows)
    ]
    return _encode({**heading.fields(call.whole), "choices": choices, "usage": _usage(ends, heading.choices)})


class StreamEncoder:
    """Chunks of every row, the one that ends a row, what was used where that is asked for, and ``[DONE]``.

    A chunk costs little more than its text: all else is encoded once for each row.

    Args:
        usage: end with a chunk that tells what was used; every other then says ``"usage": null``.
        language: of what goes wrong.
    """

    def __init__(self, heading: Heading, *, usage: bool, language: str) -> None:
        self._heading, self._usage, self._language = heading, usage, language
        self._head = b"data: " + _encode(heading.fields(heading.call.chunk))[:-1] + b',"choices":[{"index":'
        self._tail = b'}],"usage":null}\n\n' if usage else b"}]}\n\n"
        self._under_way = b',"logprobs":null,"finish_reason":null' + self._tail
        self._rows: dict[int, _Row] = {}
        self._ends: dict[int, Done] = {}

    def event(self, event: Event) -> bytes:
        row = self._rows.get(event.row)
        opening = b""
        if row is None:
            row, opening = self._begin(event.row)
        if isinstance(event, Done):
            self._ends[event.row] = event
            finish = b',"logprobs":null,"finish_reason":' + _encode(_finish(event.finish))
            return opening + row.head + self._heading.call.closing + finish + self._tail
        text = row.piece + _encode(event.text) + row.after
        if not event.logprobs:
            return opening + text + self._under_way
        shares = _encode(row.report(event.logprobs))
        return opening + text + b',"logprobs":' + shares + b',"finish_reason":null' + self._tail

    def end(self) -> bytes:
        if not self._usage:
            return DONE
        fields = self._heading.fields(self._heading.call.chunk)
        return frame({**fields, "choices": [], "usage": _usage(self._ends, self._heading.choices)}) + DONE

    def error(self, problem: Problem) -> bytes:
        return frame(wire.error(status_of(problem), problem.message(self._language), problem))

    def _begin(self, number: int) -> tuple["_Row", bytes]:
        call = self._heading.call
        head = self._head + b"%d," % number
        row = self._rows[number] = _Row(head, head + call.piece[0], call.piece[1], call.report())
        return row, head + call.opening + self._under_way if call.opening else b""


@dataclass(frozen=True, slots=True)
class _Row:
    """What the chunks of one row repeat."""

    head: bytes
    piece: bytes
    after: bytes
    report: Report


def _finish(reason: FinishReason) -> Finish:
    """The wire knows no "canceled": such an answer was cut off, too."""
    return "stop" if reason == "stop" else "length"


def _usage(ends: Mapping[int, Done], choices: int) -> Usage:
    """A prompt counts once, however often it was answered."""
    prompt = sum(done.prompt_tokens for row, done in ends.items() if row % choices == 0)
    completion = sum(done.completion_tokens for done in ends.values())
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": None, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _message(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text, "refusal": None, "annotations": []}}


def _text(text: str) -> dict[str, Any]:
    return {"text": text}


def _chat_report(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    content = [_Token(*_share(each), [_Top(*_share(top)) for top in each.top]) for each in tokens]
    return {"content": content, "refusal": None}


class _Top(msgspec.Struct, gc=False):
    token: str
    logprob: float
    bytes: list[int] | None


class _Token(_Top, gc=False):
    top_logprobs: list[_Top]


def _share(each: TokenLogprob) -> tuple[str, float, list[int] | None]:
    raw = list(each.raw) if each.raw or not each.text else None
    return each.text, max(each.logprob, _LEAST), raw


class _TextReport:
    """Log-probabilities as ``/completions`` lists them; ``text_offset`` counts characters of the row's text."""

    def __init__(self) -> None:
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        offsets = []
        for each in tokens:
            offsets.append(self._offset)
            # a token may end inside a character, which then counts with the token that ends it
            self._offset += len(self._decoder.decode(each.raw) if each.raw else each.text)
        # several may look alike, as halves of characters do: the likeliest, which stands first, is told
        likeliest = [{one.text: max(one.logprob, _LEAST) for one in (each, *reversed(each.top))} for each in tokens]
        return {
            "tokens": [each.text for each in tokens],
            "token_logprobs": [max(each.logprob, _LEAST) for each in tokens],
            "top_logprobs": likeliest if any(each.top for each in tokens) else None,
            "text_offset": offsets,
        }


CHAT = Call(
    id_prefix="chatcmpl-",
    whole="chat.completion",
    chunk="chat.completion.chunk",
    said=_message,
    report=lambda: _chat_report,
    piece=(b'"delta":{"content":', b"}"),
    opening=b'"delta":{"role":"assistant","content":"","refusal":null}',
    closing=b'"delta":{}',
)
TEXT = Call(
    id_prefix="cmpl-",
    whole="text_completion",
    chunk="text_completion",
    said=_text,
    report=_TextReport,
    piece=(b'"text":', b""),
    opening=b"",
    closing=b'"text":""',
)
