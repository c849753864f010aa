"""One row: what was asked and how far it is."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker.cache import Lease
from tunesmith.inference.worker.drafts import Drafter
from tunesmith.inference.worker.grammar import Constraint
from tunesmith.inference.worker.lora import AdapterWeights
from tunesmith.inference.worker.prefixes import Ids
from tunesmith.inference.worker.sampling import Picker
from tunesmith.inference.worker.text import Spell, Transcript


@dataclass(slots=True, eq=False)
class Row:
    """One completion being made.

    A row that loses its place (memory ran out, or nobody reads it) keeps all but its lease, and later reads its prompt
    and its own tokens again: nothing is drawn or shown twice.

    Attributes:
        prompt: token ids, at least one.
        sampling: ``max_new_tokens`` 0 asks for nothing new (scoring).
        group: rows of one caller share a group; waiting groups take turns.
        score: report the log-probability of every prompt token.
        owner: whose it is; what is kept of a prompt serves the same owner alone.
        grammar: what the completion has to satisfy.
        spell: the bytes of a token, where log-probabilities are to be told.
        canceled: set by anyone, at any time; the row is dropped before the next step.
        unread: set by anyone, at any time: its reader is far behind, so it gives its place to others until it is not.
    """

    prompt: Sequence[int]
    sampling: Sampling
    adapter: AdapterWeights | None = None
    group: str = ""
    score: bool = False
    raw: bool = False  # continues text as it stands, so its beginning depends on what precedes
    owner: str = ""
    grammar: Constraint | None = None
    spell: Spell | None = None
    canceled: bool = False
    unread: bool = False
    heard: bool = False  # the outbox's
    asked: float = field(default_factory=time.monotonic)
    # The rest is the scheduler's.
    order: int = 0
    budget: int = 0
    reserved: int = 0
    ids: Ids | None = None  # the prompt, to be compared with others
    cached: int = -1  # prompt tokens that were not computed for it; -1 before its first start
    leader: "Row | None" = None  # it reads the first ``shared`` tokens of this prompt, too, and is ahead
    shared: int = 0
    lease: Lease | None = None
    picker: Picker | None = None
    text: Transcript | None = None
    drafter: Drafter | None = None
    tokens: list[int] = field(default_factory=list)
    told: int = 0  # of ``tokens``, whose text has been made
    patient: bool = False  # nothing depends on that text but its reader
    logprobs: list[float] = field(default_factory=list)
    first_token: float = 0.0

    @property
    def prefilled(self) -> bool:
        """The whole prompt is in the cache; from now on it decodes."""
        return self.lease is not None and self.lease.length >= len(self.prompt)

    @property
    def length(self) -> int:
        """Tokens of prompt and completion so far."""
        return len(self.prompt) + len(self.tokens)

    @property
    def left(self) -> int:
        """Tokens there are that the cache does not hold yet."""
        held = self.lease.length if self.lease is not None else 0
        return len(self.prompt) + len(self.tokens) - held  # asked several times a step: ``length`` would be a call more

    @property
    def adapter_key(self) -> int:
        """Equal for rows that wear the same weights; 0 for the bare base."""
        return id(self.adapter) if self.adapter is not None else 0

    def upcoming(self, count: int) -> Sequence[int]:
        """The first ``count`` tokens that the cache does not hold yet."""
        start = self.lease.length if self.lease is not None else 0
        prompt = len(self.prompt)
        if start + count <= prompt:
            return self.prompt[start : start + count]
        if start >= prompt:
            return self.tokens[start - prompt : start - prompt + count]
        return [*self.prompt[start:], *self.tokens[: start + count - prompt]]
