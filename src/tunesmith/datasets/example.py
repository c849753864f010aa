"""One training conversation, whatever shape its file had.

These values are msgspec structs, not dataclasses: a file makes millions of them, and each costs a fifth.
"""

from typing import Literal, cast, get_args

import msgspec

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)


class Message(msgspec.Struct, frozen=True, gc=False):
    """One turn of a conversation."""

    role: Role
    content: str

    @staticmethod
    def of(role: str, content: str) -> "Message":
        """The message, with ``role`` checked by the caller to be one of ROLES."""
        return Message(cast(Role, role), content)

    def as_dict(self) -> dict[str, str]:
        """The wire form shared by every dialect and chat template."""
        return {"role": self.role, "content": self.content}


class Source(msgspec.Struct, frozen=True, gc=False):
    """Where a row came from, for messages a person can act on; lines count from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Example(msgspec.Struct, frozen=True, gc=False):
    """One training conversation; at least one turn is the assistant's."""

    messages: tuple[Message, ...]
    source: Source

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Everything before the last assistant turn: what evaluation asks."""
        return self.messages[: self._last_assistant()]

    @property
    def completion(self) -> str:
        """The last assistant turn: what evaluation expects."""
        return self.messages[self._last_assistant()].content

    def _last_assistant(self) -> int:
        return max(i for i, message in enumerate(self.messages) if message.role == "assistant")
