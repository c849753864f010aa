"""Examples as one tensor for a model: packed in one row, or padded to a rectangle (torch)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from tunesmith.training.data.encoding import Encoded
from tunesmith.training.loop.attention import Group, grouped


@dataclass(frozen=True, slots=True)
class Laid:
    """Examples as tensors.

    Attributes:
        tokens_BT: ids; one row where packed, else a row an example, padded on the right with 0.
        positions_BT: of each token in its example; None where padded.
        groups: for attention over packed examples; None where padded.
        from_N: index into the flattened (B * T) places from which each supervised token is predicted.
        labels_N: the supervised tokens.
        of_N: which example each supervised token is of.
        length: tokens without padding.
    """

    tokens_BT: Tensor
    positions_BT: Tensor | None
    groups: tuple[Group, ...] | None
    from_N: Tensor
    labels_N: Tensor
    of_N: Tensor
    length: int


def packed(examples: Sequence[Encoded], device: torch.device) -> Laid:
    """``examples`` one after the other in one row."""
    lengths = [len(example) for example in examples]
    return _laid(examples, [0, *accumulate(lengths)][:-1], 1, sum(lengths), grouped(lengths, device), device)


def padded(examples: Sequence[Encoded], device: torch.device) -> Laid:
    """``examples`` below each other. No mask is needed: padding is on the right, where causal attention never looks."""
    width = max(len(example) for example in examples)
    starts = [row * width for row in range(len(examples))]
    return _laid(examples, starts, len(examples), width, None, device)


def _laid(
    examples: Sequence[Encoded],
    starts: Sequence[int],
    rows: int,
    width: int,
    groups: tuple[Group, ...] | None,
    device: torch.device,
) -> Laid:
    tokens = torch.zeros(rows * width, dtype=torch.int64)
    positions = torch.zeros(rows * width, dtype=torch.int64)
    of = torch.zeros(rows * width, dtype=torch.int64)
    trained = torch.zeros(rows * width, dtype=torch.uint8)
    for number, (start, example) in enumerate(zip(starts, examples, strict=True)):
        place = slice(start, start + len(example))
        tokens[place] = torch.frombuffer(example.tokens, dtype=torch.int32)
        trained[place] = torch.frombuffer(bytearray(example.trained), dtype=torch.uint8)
        positions[place] = torch.arange(len(example))
        of[place] = number
    at_N = trained.nonzero()[:, 0]
    # the place before predicts; the first of an example is never supervised, so this never leaves the example
    return Laid(
        tokens.view(rows, width).to(device),
        None if groups is None else positions[None].to(device),
        groups,
        (at_N - 1).to(device),
        tokens[at_N].to(device),
        of[at_N].to(device),
        sum(map(len, examples)),
    )
