"""Ollama's own wire as a client sees it: what is sent, what comes back, and what its errors mean.

Facts from Ollama's server/routes.go and api/types.go (August 2026). Null stands for an empty list here and there, and
numbers that are 0 are left out.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from tunesmith.inference.engine import FinishReason, Request
from tunesmith.inference.engines import refusals
from tunesmith.inference.engines.answer import Label, unreadable
from tunesmith.inference.engines.openai_wire import encode
from tunesmith.inference.engines.upstream import Shape
from tunesmith.inference.model_ids import Listed
from tunesmith.inference.ollama import PullProgress, RunningModel
from tunesmith.kernel.home import UNPRINTABLE
from tunesmith.kernel.problems import NotFound, Problem

_NO_MODEL = re.compile(r"\bmodel\b.{1,300}\bnot found\b", re.DOTALL)
_TOO_LONG = re.compile(r"\bexceeds the\b.{0,30}\bcontext\b")
_NOTHING_TO_PULL = ("file does not exist", "not found")
_LONGEST_STATUS = 200


class Said(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None


class Chunk(msgspec.Struct):
    """One line of an answer: ``message`` from /api/chat, ``response`` and ``thinking`` from /api/generate.

    A line that only reports an error has just ``error``.
    """

    model: str | None = None
    message: Said | None = None
    response: str | None = None
    thinking: str | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int = 0
    eval_count: int = 0
    eval_duration: int = 0  # nanoseconds
    error: Any = None

    @property
    def text(self) -> str:
        """What it adds to the answer."""
        return (self.message.content if self.message is not None else self.response) or ""

    @property
    def thought(self) -> str | None:
        """What it adds to the thinking before the answer."""
        return self.message.thinking if self.message is not None else self.thinking


class PullLine(msgspec.Struct):
    status: str = ""
    digest: str | None = None
    total: int = 0
    completed: int = 0
    error: Any = None


class Tag(msgspec.Struct):
    model: str = ""
    name: str = ""
    modified_at: str | None = None
    size: int | None = None
    capabilities: list[str] | None = None
    remote_host: str | None = None

    @property
    def chats_here(self) -> bool:
        """It answers, and on that machine: no embedding model, none that is another's service."""
        return not self.remote_host and (not self.capabilities or "completion" in self.capabilities)


class Tags(msgspec.Struct):
    models: list[Tag] | None = None


class Loaded(msgspec.Struct):
    model: str = ""
    name: str = ""
    size: int = 0
    size_vram: int = 0
    expires_at: str | None = None
    context_length: int | None = None


class Ps(msgspec.Struct):
    models: list[Loaded] | None = None


class Version(msgspec.Struct):
    version: str


def answer_body(request: Request) -> bytes:
    """The body that asks for a stream: of /api/generate for raw text, of /api/chat for a conversation.

    Nothing in it is decided when a model is loaded: such a setting would load the model anew.

    Raises:
        Invalid: a text is no valid Unicode.
    """
    sampling = request.sampling
    options: dict[str, Any] = {
        "num_predict": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "repeat_penalty": sampling.repetition_penalty,  # 1 as well: Ollama's own default is another
    }
    if sampling.top_k:  # 0 ends the runner of some versions
        options["top_k"] = sampling.top_k
    if sampling.seed is not None:
        options["seed"] = sampling.seed
    if sampling.stop:
        options["stop"] = list(sampling.stop)
    for name in ("min_p", "presence_penalty", "frequency_penalty"):
        if getattr(sampling, name):
            options[name] = getattr(sampling, name)
    body: dict[str, Any] = {
        "model": request.model.base,
        "stream": True,
        "think": False,
        "truncate": False,  # or Ollama drops what does not fit, and says nothing
        "options": options,
    }
    if sampling.schema is not None:
        body["format"] = msgspec.Raw(sampling.schema.encode())
    if isinstance(request.prompt, str):
        return encode(body | {"prompt": request.prompt, "raw": True})
    return encode(body | {"messages": [message.as_dict() for message in request.prompt]})


def pull_body(name: str) -> bytes:
    """The body that fetches a model, only from where its certificate is good.

    Raises:
        Invalid: the name is no valid Unicode.
    """
    return encode({"model": name, "stream": True})


def line(data: bytes, decoder: "msgspec.json.Decoder[Shape]", label: Label) -> Shape | None:
    """One line; None for an empty one.

    Raises:
        Unavailable: it is not what the wire promises.
    """
    if not data.strip():
        return None
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise unreadable(label) from error


def finish(reason: str | None) -> FinishReason:
    """Our word for Ollama's."""
    return "length" if reason == "length" else "stop"


def stated(label: Label, error: Any) -> Problem:
    """What an error line inside an answer means; it has no status of its own."""
    if isinstance(error, dict):
        return refusals.stated(label, error)
    text = error if isinstance(error, str) else ""
    status = 404 if _NO_MODEL.search(text) else 400 if _TOO_LONG.search(text) else 500
    return refusals.stated(label, {"message": text, "code": status})


def pull_stated(label: Label, name: str, error: Any) -> Problem:
    """What an error line means that ends a pull."""
    text = UNPRINTABLE.sub(" ", error)[:500] if isinstance(error, str) else ""
    if any(words in text for words in _NOTHING_TO_PULL):
        return NotFound(
            f"没有可下载的模型 {name}，请核对名称与标签（{label.zh.strip()}：{text}）",
            f"there is no model {name} to pull: check its name and tag ({label.en}: {text})",
            model=name,
            upstream_status=404,
        )
    return stated(label, error)


def listed(tags: Tags, running: Sequence[RunningModel]) -> list[Listed]:
    """The models that can chat, in Ollama's order."""
    loaded = {model.name: model for model in running}
    models = []
    for tag in tags.models or ():
        model_id = tag.model or tag.name
        if not model_id or not tag.chats_here:
            continue
        own = loaded.get(model_id)
        models.append(
            Listed(
                model_id,
                name=tag.name,
                context_length=own.context_length if own else None,
                size_bytes=tag.size,
                modified=tag.modified_at,
                loaded=own is not None,
            )
        )
    return models


def running(ps: Ps) -> list[RunningModel]:
    """What is in memory."""
    return [
        RunningModel(each.model or each.name, each.size, each.size_vram, each.expires_at, each.context_length)
        for each in ps.models or ()
    ]


class Layers:
    """The layers of one pull, summed up; each tells of itself alone."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int]] = {}
        self.status = ""

    def add(self, said: PullLine) -> None:
        """One more line."""
        self.status = UNPRINTABLE.sub(" ", said.status)[:_LONGEST_STATUS]
        if said.digest:
            self._layers[said.digest] = max(0, said.completed), max(0, said.total)

    @property
    def progress(self) -> PullProgress:
        """As it stands."""
        return PullProgress(
            self.status,
            sum(completed for completed, _ in self._layers.values()),
            sum(total for _, total in self._layers.values()),
        )


CHUNK = msgspec.json.Decoder(Chunk)
PULL_LINE = msgspec.json.Decoder(PullLine)
