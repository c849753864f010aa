"""Shapes of the chat-gateway document."""

import math
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, cast

import msgspec
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunesmith.accounts.vault import HeldKey
from tunesmith.dialects.chat_gateway import answers
from tunesmith.http.errors import malformed_body, renamed, status_of
from tunesmith.http.sse import frame
from tunesmith.inference.conversations import Conversation, Transcript
from tunesmith.inference.engine import Delta, Done, Event, Sampling
from tunesmith.inference.gateway import Offer, Question, Speaker
from tunesmith.inference.model_ids import Listed
from tunesmith.kernel.problems import Invalid, Problem, TimedOut, Unavailable
from tunesmith.models.spending import ModelSpending

Number = Annotated[float, Field(allow_inf_nan=False)]
_LONGEST_FRAME = 2048  # characters of text in a frame
_LARGE = 16 << 10  # bytes of a last frame that the document's own loop may see in two parts, and lose
_encode = msgspec.json.Encoder().encode

UNAVAILABLE = "AI服务不可用，请检查服务配置", "the AI service is unavailable; check its configuration"
TIMED_OUT = "AI服务连接超时，请稍后重试", "the AI service did not answer in time; ask again later"


class SendRequest(BaseModel):
    """The body of ``/send``: the document's four fields, and what its users set next."""

    model_config = ConfigDict(strict=True)
    message: str
    context: str | None = None
    service: Literal["local", "openrouter"] | None = None
    model: str | None = None

    conversation_id: str | None = None
    max_tokens: int = 2048
    temperature: Number = 0.7
    top_p: Number = 1.0
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: Annotated[list[str], Field(max_length=16, fail_fast=True)] = []

    @staticmethod
    def read(content_type: str, raw: bytes) -> "SendRequest":
        """The body of a request.

        Raises:
            Invalid: it is no JSON, not this object, or says nothing; the field is named.
        """
        if content_type.partition(";")[0].strip().lower() not in ("application/json", ""):
            raise malformed_body(
                RequestValidationError([{"type": "json_invalid", "loc": (), "msg": "", "input": None}])
            )
        try:
            body = SendRequest.model_validate_json(raw.removeprefix(BOM_UTF8))  # Windows writes one (RFC 8259, 8.1)
        except ValidationError as error:
            raise malformed_body(RequestValidationError(error.errors(include_url=False))) from error
        if not body.message.strip():  # before it is recorded, and any list of models asked for
            raise Invalid("message 不能为空", "message must not be empty", field="message")
        return body

    @staticmethod
    def described() -> dict[str, Any]:
        """The body for OpenAPI."""
        schema = SendRequest.model_json_schema()
        return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}

    def question(self) -> Question:
        sampling = Sampling(
            max_new_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=0,
            repetition_penalty=1.0,
            seed=self.seed,
            stop=tuple(self.stop),
        )
        return Question(self.message, sampling, self.context, self.service, self.model, self.conversation_id)


class KeyRequest(BaseModel):
    """The body that stores a provider's key."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)
    key: Annotated[str, Field(repr=False)]


class Painter:
    """The document's error, as a chunk of a stream and as a body.

    Args:
        details: show what lies behind an error; only where people develop.
    """

    def __init__(self, *, details: bool) -> None:
        self._details = details

    def error(self, status: int, message: str, problem: Problem | None) -> dict[str, Any]:
        """The body for a status, which need not be one the document knows."""
        painted = {"error": True, "code": status, "message": renamed(message, problem, _NAMES)}
        if self._details and problem is not None and problem.details:
            painted["details"] = _details(problem)
        return painted

    def chunk(self, problem: Problem, language: str) -> dict[str, Any]:
        """What ``/send`` says of a Problem: a code of the document's, and its sentence where it has one."""
        zh = language == "zh"
        message = renamed(problem.message(language), problem, _NAMES)
        code = code_of(problem)
        if code == 504:
            message = TIMED_OUT[not zh]
        elif code == 503 and _is_plain(problem):
            message = UNAVAILABLE[not zh]
        elif code == 429 and "upstream_status" in problem.details and "retry_after" in problem.details:
            # status and headers have left by then; our own limits name their seconds themselves
            wait_s = max(1, math.ceil(problem.details["retry_after"]))
            message += f"，请在 {wait_s} 秒后重试" if zh else f"; ask again in {wait_s} s"
        painted: dict[str, Any] = {"error": True, "code": code, "message": message}
        if self._details:
            painted["details"] = _details(problem)
        return painted


_NAMES = {"messages": "message"}  # the conversation of this document is one message


def code_of(problem: Problem) -> int:
    """The document's code: 400, 401, 403, 429, 500, 503 or 504."""
    if isinstance(problem, TimedOut):
        return 504
    if isinstance(problem, Unavailable):
        failed = problem.details.get("upstream_status", 0)
        return 500 if problem.details.get("bug") or failed in (500, 501) else 503
    status = status_of(problem)
    asked_of_upstream = "upstream_status" in problem.details
    return status if status in (401, 403, 429) and not (asked_of_upstream and status == 403) else 400


def _is_plain(problem: Problem) -> bool:
    """The document's sentence says all there is to say: no setting is missing, our key opens, no upstream gave a reason."""
    details = problem.details
    return details.keys().isdisjoint(("setting", "provider", "busy")) and (
        "upstream_status" not in details or "operator" in details
    )


def _details(problem: Problem) -> str:
    facts = ", ".join(f"{name}={value}" for name, value in problem.details.items())
    return f"{type(problem).__name__}: {problem.en}" + (f" ({facts})" if facts else "")


class SendEncoder:
    """Content chunks numbered from 1, then the empty last one with ``fullResponse``."""

    def __init__(self, painter: Painter, language: str) -> None:
        self._painter, self._language = painter, language
        self._chunk = 0
        self._texts: list[str] = []
        self._speaker: Speaker | None = None
        self._done: Done | None = None

    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Who speaks, once that is known."""
        if self._speaker is None:
            return ()
        speaker = self._speaker
        said = {
            "X-Model-Resolved": speaker.model,
            "X-Model-Resolved-By": speaker.how,
            "X-Answered-By": speaker.answerer,
        }
        if speaker.how == "alias" and speaker.asked is not None:
            said["X-Model-Asked"] = speaker.asked
        if speaker.candidates:
            said["X-Model-Candidates"] = ", ".join(speaker.candidates[:10])
        # the upstream's list may hold any name: a line break in one would begin a header of its own
        return [(name.lower().encode(), value.encode("unicode_escape")) for name, value in said.items()]

    def event(self, event: Speaker | Event) -> bytes:
        if isinstance(event, Delta):
            self._texts.append(event.text)
            return b"".join(self._content(part) for part in _parts(event.text))
        if isinstance(event, Speaker):
            self._speaker = event
        else:
            self._done = event
        return b""

    def end(self) -> bytes:
        assert self._speaker is not None and self._done is not None
        last: dict[str, Any] = {"message": {"content": ""}, "chunk": self._chunk + 1, "done": True}
        whole = frame(
            last
            | {"fullResponse": "".join(self._texts), "model": self._speaker.model, "service": self._speaker.service}
            | {"usage": _usage(self._done)}
        )
        # the document's own loop splits every network read by itself: it loses a frame that comes in two reads, and
        # then ends on this one
        return whole + frame(last | {"chunk": self._chunk + 2}) if len(whole) > _LARGE else whole

    def error(self, problem: Problem) -> bytes:
        return frame(self._painter.chunk(problem, self._language))

    def _content(self, text: str) -> bytes:
        self._chunk += 1
        # by hand: a third of the time of encoding a dictionary
        return b'data: {"message":{"content":%b},"chunk":%d,"done":false}\n\n' % (_encode(text), self._chunk)


def _parts(text: str) -> Iterable[str]:
    if len(text) <= _LONGEST_FRAME:
        return (text,)
    return (text[i : i + _LONGEST_FRAME] for i in range(0, len(text), _LONGEST_FRAME))


def _usage(done: Done) -> answers.AnswerUsage:
    usage: answers.AnswerUsage = {"prompt_tokens": done.prompt_tokens, "completion_tokens": done.completion_tokens}
    return usage if done.cost_usd is None else {**usage, "cost_usd": done.cost_usd}


def offers(found: Sequence[Offer], language: str) -> answers.Offers:
    return {"services": [_offer(each, language) for each in found]}


def _offer(offer: Offer, language: str) -> answers.OfferingService:
    return {
        "service": offer.service,
        "answered_by": offer.answerer,
        "available": offer.problem is None,
        "reason": offer.problem.message(language) if offer.problem else None,
        "default_model": offer.default,
        "models": [_listed(each) for each in offer.models],
    }


def _listed(each: Listed) -> answers.OfferedModel:
    facts = {
        "context_length": each.context_length,
        "prompt_usd_per_million": _per_million(each.prompt_usd),
        "completion_usd_per_million": _per_million(each.completion_usd),
        "size_bytes": each.size_bytes,
        "modified": each.modified,
        "loaded": each.loaded or None,
    }
    known = {name: value for name, value in facts.items() if value is not None}
    return cast(answers.OfferedModel, {"id": each.id, "name": each.name or each.id, **known})


def _per_million(price: float | None) -> float | None:
    return None if price is None else round(price * 1e6, 6)


def conversation(found: Conversation) -> answers.ConversationShown:
    return {
        "conversation_id": found.id,
        "turns": found.turns,
        "created_at": found.created_at.isoformat(),
        "updated_at": found.updated_at.isoformat(),
    }


def transcript(found: Transcript) -> answers.TranscriptShown:
    turns: list[answers.TurnShown] = [
        {
            "number": turn.number,
            "message": turn.asked,
            "context": turn.context,
            "response": turn.answer,
            "state": turn.state,
            "service": turn.service,
            "model": turn.model,
            "created_at": turn.created_at.isoformat(),
            "ended_at": turn.ended_at.isoformat() if turn.ended_at else None,
        }
        for turn in found.turns
    ]
    return {**conversation(found.conversation), "messages": turns}


def spending(found: Sequence[ModelSpending]) -> answers.SpendingShown:
    return {
        "models": [
            {
                "service": each.service,
                "model": each.model,
                "answers": each.answers,
                "prompt_tokens": each.prompt_tokens,
                "completion_tokens": each.completion_tokens,
                "cost_usd": each.cost_usd,
            }
            for each in found
        ],
        "total_cost_usd": sum(each.cost_usd for each in found),
    }


def key(held: HeldKey) -> answers.KeyShown:
    """What may be told of a key; never the key."""
    return {
        "provider": held.provider,
        "source": held.source,
        "set_by": held.set_by,
        "set_at": held.set_at.isoformat() if held.set_at else None,
        "hint": held.hint,
        "opens": held.opens,
    }
