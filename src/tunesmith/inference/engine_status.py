"""What the engine processes of this machine are seen to be."""

from dataclasses import dataclass
from typing import Literal

EngineState = Literal["starting", "ready", "stopping", "crashed"]


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """One engine process, as ``doctor`` and the health routes show it.

    Attributes:
        rows: rows asked for and not yet ended, waiting ones included.
        rss: resident bytes of the process.
    """

    base: str
    state: EngineState
    device: str
    pid: int | None
    rows: int
    adapters: tuple[str, ...]
    rss: int


@dataclass(frozen=True, slots=True)
class EnginePage:
    """What one engine tells of its counts.

    Attributes:
        text: in Prometheus' format; None where it did not answer.
        crashes: in a row, without an answer between.
    """

    base: str
    text: bytes | None
    rows: int
    rss: int
    crashes: int
