"""What one forward of the model is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tunesmith.inference.worker.attention import Chunk
from tunesmith.inference.worker.cache import Lease
from tunesmith.inference.worker.lora import Segment


@dataclass(frozen=True, slots=True)
class Step:
    """The tokens of one forward, in order.

    Attributes:
        tokens, positions: one a token.
        chunks: tokens that continue a prompt.
        decoding: (lease, index of its token) of each row that decodes.
        segments: which of the tokens wear an adapter.
        keep: indexes, rising, of the tokens whose predictions are wanted.
        logits: all that is predicted is wanted, not the likeliest token alone.
        lasting: of a step that comes again, where whoever computes it may leave what it will need then. Each time it has
            other tokens and positions, in the same arrays of 32 bits; there are those of ``decoding`` alone, in its order,
            and no lease moves meanwhile.
    """

    tokens: Sequence[int]
    positions: Sequence[int]
    chunks: Sequence[Chunk]
    decoding: Sequence[tuple[Lease, int]]
    segments: Sequence[Segment]
    keep: Sequence[int]
    logits: bool = True
    lasting: dict[object, Any] | None = None


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a forward says may follow each of the tokens ``keep``.

    Attributes:
        logits: float32, (kept, vocabulary); (0, vocabulary) where nobody wanted them and ``likeliest`` is there.
        likeliest: the likeliest token of each, the first of equal ones; None where its logits are not finite. None
            altogether where it is left to be found in the logits.
    """

    logits: Tensor
    likeliest: Sequence[int | None] | None = None

    def at(self, kept: list[int]) -> "Predictions":
        """Those for some of the tokens ``keep``."""
        count = len(self.logits) if self.likeliest is None else len(self.likeliest)
        if kept == list(range(count)):
            return self
        logits = self.logits[kept] if len(self.logits) else self.logits
        return Predictions(logits, None if self.likeliest is None else [self.likeliest[k] for k in kept])
