"""One row: what was asked and how far it is."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker.cache import Lease
from tunesmith.inference.worker.lora import AdapterWeights
from tunesmith.inference.worker.sampling import Picker
from tunesmith.inference.worker.text import Detokenizer, StopStrings


@dataclass(slots=True, eq=False)
class Row:
    """One completion being made.

    Attributes:
        prompt: token ids, at least one.
        sampling: ``max_new_tokens`` 0 asks for nothing new (scoring).
        group: rows of one caller share a group; waiting groups take turns.
        score: report the log-probability of every prompt token.
        canceled: set by anyone, at any time; the row is dropped before the next step.
    """

    prompt: Sequence[int]
    sampling: Sampling
    adapter: AdapterWeights | None = None
    group: str = ""
    score: bool = False
    raw: bool = False  # continues text as it stands, so its beginning depends on what precedes
    canceled: bool = False
    asked: float = field(default_factory=time.monotonic)
    # The rest is the scheduler's.
    order: int = 0
    budget: int = 0
    reserved: int = 0
    lease: Lease | None = None
    picker: Picker | None = None
    text: Detokenizer | None = None
    stops: StopStrings | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    first_token: float = 0.0

    @property
    def prefilled(self) -> bool:
        """The whole prompt is in the cache; from now on it decodes."""
        return self.lease is not None and self.lease.length >= len(self.prompt)

    @property
    def adapter_key(self) -> int:
        """Equal for rows that wear the same weights; 0 for the bare base."""
        return id(self.adapter) if self.adapter is not None else 0
