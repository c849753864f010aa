"""What one forward of the model is given."""

from collections.abc import Sequence
from dataclasses import dataclass

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
        keep: indexes of the tokens whose logits are wanted.
    """

    tokens: Sequence[int]
    positions: Sequence[int]
    chunks: Sequence[Chunk]
    decoding: Sequence[tuple[Lease, int]]
    segments: Sequence[Segment]
    keep: Sequence[int]
