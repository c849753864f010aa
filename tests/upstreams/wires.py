"""Two wires, one vocabulary: what a token, a comment, an end and an error are in each."""

import json
from dataclasses import dataclass
from typing import Any, Protocol


class Wire(Protocol):
    """How a stream of tokens is written."""

    @property
    def content_type(self) -> str: ...

    def token(self, text: str) -> bytes:
        """One token."""

    def around(self) -> tuple[bytes, bytes]:
        """The bytes of a token before its text, and those after it."""

    def comment(self) -> bytes:
        """A sign of life that is no token."""

    def finish(self, count: int) -> bytes:
        """The end of an answer of ``count`` tokens, with everything a client waits for."""

    def error(self, code: int, message: str) -> bytes:
        """An error in the middle of a stream."""

    def refusal(self, code: int, message: str) -> bytes:
        """An error instead of a stream: a JSON body."""

    def whole(self, text: str, count: int) -> bytes:
        """A whole answer: a JSON body."""


@dataclass(frozen=True, slots=True)
class OpenAI:
    """Server-sent events of ``chat.completion.chunk``, with OpenRouter's comments and usage."""

    model: str
    content_type: str = "text/event-stream"

    def token(self, text: str) -> bytes:
        return _event(self._chunk(text))

    def around(self) -> tuple[bytes, bytes]:
        head, _, tail = self.token("TEXT").partition(b"TEXT")
        return head, tail

    def comment(self) -> bytes:
        return b": OPENROUTER PROCESSING\n\n"

    def finish(self, count: int) -> bytes:
        usage = {**self._chunk("", "stop"), "choices": [], "usage": _usage(count)}
        return _event(self._chunk("", "stop")) + _event(usage) + b"data: [DONE]\n\n"

    def error(self, code: int, message: str) -> bytes:
        error = {"code": code, "message": message, "metadata": {"error_type": "provider_unavailable"}}
        return _event({**self._chunk("", "error"), "error": error})

    def refusal(self, code: int, message: str) -> bytes:
        return _json({"error": {"code": code, "message": message, "metadata": {"provider_name": "Misbehaving"}}})

    def whole(self, text: str, count: int) -> bytes:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "native_finish_reason": "stop"}
        body = {**self._chunk(""), "object": "chat.completion", "choices": [choice], "usage": _usage(count)}
        return _json(body)

    def _chunk(self, text: str, finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}
        return {
            "id": "gen-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": self.model,
            "choices": [choice],
        }


@dataclass(frozen=True, slots=True)
class Ollama:
    """Lines of JSON, as ``POST /api/chat`` writes them."""

    model: str
    content_type: str = "application/x-ndjson"

    def token(self, text: str) -> bytes:
        return _json(self._line(text)) + b"\n"

    def around(self) -> tuple[bytes, bytes]:
        head, _, tail = self.token("TEXT").partition(b"TEXT")
        return head, tail

    def comment(self) -> bytes:
        return b"\n"

    def finish(self, count: int) -> bytes:
        return _json(self._end("", count)) + b"\n"

    def error(self, code: int, message: str) -> bytes:
        return _json({"error": message}) + b"\n"

    def refusal(self, code: int, message: str) -> bytes:
        return _json({"error": message})

    def whole(self, text: str, count: int) -> bytes:
        return _json(self._end(text, count))

    def _line(self, text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text}
        return {"model": self.model, "created_at": "2026-01-01T00:00:00Z", "message": message, "done": False}

    def _end(self, text: str, count: int) -> dict[str, Any]:
        took = {"total_duration": 3_000_000, "load_duration": 1_000_000}
        read = {"prompt_eval_count": 7, "prompt_eval_duration": 1_000_000}
        said = {"eval_count": count, "eval_duration": 1_000_000}
        return {**self._line(text), "done": True, "done_reason": "stop", **took, **read, **said}


def _usage(count: int) -> dict[str, Any]:
    return {"prompt_tokens": 7, "completion_tokens": count, "total_tokens": 7 + count, "cost": 0.000014}


def _event(body: object) -> bytes:
    return b"data: " + _json(body) + b"\n\n"


def _json(body: object) -> bytes:
    # Ollama and OpenRouter both write text as UTF-8, not as escapes
    return _ENCODER.encode(body).encode()


_ENCODER = json.JSONEncoder(ensure_ascii=False)
