"""Shapes of the compare-chat document."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from tunesmith.datasets.example import Message
from tunesmith.http.errors import renamed
from tunesmith.http.sse import DONE, frame
from tunesmith.inference.chat import BASE, MAX_MESSAGES
from tunesmith.inference.engine import Delta, Event, Sampling
from tunesmith.kernel.problems import Problem

Number = Annotated[float, Field(allow_inf_nan=False)]


class Turn(BaseModel):
    """One message, as OpenAI writes it."""

    model_config = ConfigDict(strict=True)
    role: Literal["user", "assistant", "system"]
    content: str


class Options(BaseModel):
    """Generation parameters; ``num_predict`` is most tokens to generate."""

    model_config = ConfigDict(strict=True)
    temperature: Number = 0.7
    num_predict: int = 512
    top_p: Number = 0.9
    repeat_penalty: Number = 1.1
    top_k: int = 0
    seed: int | None = None
    stop: Annotated[list[str], Field(max_length=16, fail_fast=True)] = []

    def sampling(self) -> Sampling:
        return Sampling(
            max_new_tokens=self.num_predict,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repeat_penalty,
            seed=self.seed,
            stop=tuple(self.stop),
        )


class ChatRequest(BaseModel):
    """The body of both chat paths."""

    model_config = ConfigDict(strict=True)
    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    stream: bool = False
    compare: bool = False
    options: Options | None = None

    def conversation(self) -> list[Message]:
        return [Message(turn.role, turn.content) for turn in self.messages]

    def sampling(self) -> Sampling:
        return (self.options or Options()).sampling()


_NAMES = {"max_tokens": "num_predict", "repetition_penalty": "repeat_penalty"}


class BothSides(TypedDict):
    role: Literal["assistant"]
    content: str
    base_content: str
    lora_content: str


class Compared(TypedDict):
    """Answers of the bare base and of the tuned model; the same one where the model has no adapter."""

    code: Literal[0]
    message: BothSides
    base: str
    lora: str


class Written(TypedDict):
    content: str


class AnswerEvent(TypedDict):
    """One event of a stream, which ends with ``[DONE]``: text of one answer, or of one ``source`` of two; ``done`` where a
    source has ended, or with an ``error``."""

    message: NotRequired[Written]
    response: NotRequired[str]
    source: NotRequired[Literal["base", "lora"]]
    content: NotRequired[str]
    done: NotRequired[Literal[True]]
    error: NotRequired[str]


def answer(base: str, lora: str) -> Compared:
    """The non-streaming success body."""
    message: BothSides = {"role": "assistant", "content": lora, "base_content": base, "lora_content": lora}
    return {"code": 0, "message": message, "base": base, "lora": lora}


def error(status: int, message: str, problem: Problem | None) -> dict[str, Any]:
    """The error body; whatever is wrong with ``messages`` has the document's one sentence."""
    field = str(problem.details.get("field", "")) if problem else ""
    if status == 400 and field.split("[")[0].split(".")[0] == "messages":
        message = "Missing or invalid messages"
    return {"code": status, "msg": renamed(message, problem, _NAMES)}


class AnswerEncoder:
    """One answer, streamed: ``message.content`` and ``response`` carry the same text."""

    def __init__(self, language: str) -> None:
        self._language = language

    def event(self, event: Event) -> bytes:
        if isinstance(event, Delta):
            return frame({"message": {"content": event.text}, "response": event.text})
        return b""

    def end(self) -> bytes:
        return DONE

    def error(self, problem: Problem) -> bytes:
        return frame({"error": problem.message(self._language), "done": True})


class CompareEncoder(AnswerEncoder):
    """Two answers, streamed side by side, each frame naming its source."""

    def event(self, event: Event) -> bytes:
        source = "base" if event.row == BASE else "lora"
        if isinstance(event, Delta):
            return frame({"source": source, "content": event.text})
        return frame({"source": source, "done": True})
