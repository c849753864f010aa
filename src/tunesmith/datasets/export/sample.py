"""What the formatter reads: one example with all that any strategy may want of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tunesmith.datasets.example import Message


class Format(StrEnum):
    """How a line of the file is shaped (Kiln's ``format_type``)."""

    OPENAI_CHAT = "openai_chat_jsonl"
    OPENAI_CHAT_JSON_SCHEMA = "openai_chat_json_schema_jsonl"
    OPENAI_CHAT_TOOLCALL = "openai_chat_toolcall_jsonl"
    HUGGINGFACE = "huggingface_chat_template_jsonl"
    HUGGINGFACE_TOOLCALL = "huggingface_chat_template_toolcall_jsonl"
    VERTEX_GEMINI = "vertex_gemini"


class Strategy(StrEnum):
    """What of an example is trained on (Kiln's ``data_strategy``)."""

    FINAL_ONLY = "final_only"
    TWO_MESSAGE = "two_message_cot"
    TWO_MESSAGE_LEGACY = "final_and_intermediate"  # instructions in a second system message; exported, not trained
    R1 = "final_and_intermediate_r1_compatible"

    @property
    def thinks(self) -> bool:
        """Whether it needs thinking data."""
        return self is not Strategy.FINAL_ONLY

    @property
    def instructs(self) -> bool:
        """Whether it wants thinking instructions."""
        return self in (Strategy.TWO_MESSAGE, Strategy.TWO_MESSAGE_LEGACY)


@dataclass(frozen=True, slots=True)
class Sample:
    """One example, whatever it came from: a task's run or a row of a file.

    Attributes:
        id: what a refusal names: the run's id, or ``file.jsonl:17``.
        input: what is asked, verbatim; of a conversation the last user turn.
        output: the final answer, the repaired one where there is one.
        thinking: reasoning or chain of thought; None where there is none, "" where it is blank.
        system: its own system message; what the caller asks for wins.
        earlier: turns before ``input``, without a system message.
        trace: the conversation of tool calls and tool results between question and answer, as OpenAI messages.
        tools: definitions of the tools it was made with, as OpenAI writes them.
    """

    id: str
    input: str
    output: str
    thinking: str | None = None
    system: str | None = None
    earlier: tuple[Message, ...] = ()
    trace: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """How samples are to be written.

    Attributes:
        system: message 0 of every example; None leaves each sample its own, and those without any the default.
        thinking_instructions: present exactly when ``strategy.instructs``.
    """

    format: Format
    strategy: Strategy = Strategy.FINAL_ONLY
    system: str | None = None
    thinking_instructions: str | None = None
