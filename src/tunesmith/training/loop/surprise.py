"""How surprising tokens are to a frozen output head, without ever holding all logits (torch).

A vocabulary of 150,000 makes the logits of one long example larger than the model. The head gets no gradient, so the
gradient of the hidden states is known as soon as a few rows of logits are: both are made together, a chunk of rows at
a time, and the logits are forgotten. (As Cut Cross-Entropy, arXiv:2411.09009, and Liger Kernel, arXiv:2410.10989, do.)
"""

from typing import Any

import torch
from torch import Tensor

from tunesmith.training.loop.frozen import by_fixed_point
from tunesmith.training.loop.native.library import library_for

# logits held at once: 2 ** 27 of them are half a gigabyte in float32
_MOST_LOGITS = 1 << 27
# weights of the head used, and where they lie narrower than the hidden states widened, at once
_MOST_WEIGHTS = 1 << 24


class _Surprise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
        nats_N = hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)
        grad_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        rows = max(1, _MOST_LOGITS // len(weight_VD))
        for begin in range(0, len(hidden_ND), rows):
            part = slice(begin, begin + rows)
            blocks = _logits(hidden_ND[part], weight_VD, bias_V)
            most_N = torch.stack([block.amax(1) for block in blocks]).amax(0)
            chosen_N = _chosen(blocks, labels_N[part])
            total_N = sum((_exponentials(block, most_N) for block in blocks), torch.zeros_like(chosen_N))
            nats_N[part] = total_N.log() + most_N - chosen_N
            if grad_ND is not None:
                # the mean of the head's weights under the model's own odds, less the label's
                _mean(blocks, total_N, weight_VD, out_ND=grad_ND[part])
                grad_ND[part] -= weight_VD[labels_N[part]]
        if grad_ND is not None:
            ctx.save_for_backward(grad_ND)
        return nats_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        (grad_ND,) = ctx.saved_tensors
        return grad_ND * grads[0][:, None].to(grad_ND.dtype), None, None, None


def surprise(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
    """Minus the log-probability of each label, (N,), float32, in nats.

    Args:
        hidden_ND: what the head reads. labels_N: int64.
        weight_VD: of the head, frozen; wider than it lies in memory where ``hidden_ND`` is.
    """
    nats_N: Tensor = _Surprise.apply(hidden_ND, weight_VD, bias_V, labels_N)
    return nats_N


def _logits(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> list[Tensor]:
    """float32, whatever the head computes in; by blocks of the vocabulary."""
    blocks = []
    for words in _blocks(weight_VD):
        weight = weight_VD[words]
        found_NV = by_fixed_point(hidden_ND, weight.t())
        block_NV = (hidden_ND @ weight.to(hidden_ND.dtype).t()).float() if found_NV is None else found_NV
        blocks.append(block_NV if bias_V is None else block_NV.add_(bias_V[words].float()))
    return blocks


def _exponentials(block_NV: Tensor, most_N: Tensor) -> Tensor:
    """Turns a block of logits into their exponentials, the largest logit's 1; the sum of each row."""
    found = library_for(block_NV)
    if found is not None:
        return found.softmax_parts(block_NV, most_N)
    return block_NV.sub_(most_N[:, None]).exp_().sum(1)


def _chosen(blocks: list[Tensor], labels_N: Tensor) -> Tensor:
    """The logit of each label."""
    width = blocks[0].shape[1]
    chosen_N = blocks[0].new_empty(len(labels_N))
    for number, block_NV in enumerate(blocks):
        here_M = (labels_N // width == number).nonzero()[:, 0]
        chosen_N[here_M] = block_NV[here_M, labels_N[here_M] - number * width]
    return chosen_N


def _mean(odds: list[Tensor], total_N: Tensor, weight_VD: Tensor, *, out_ND: Tensor) -> None:
    out_ND.zero_()
    for block_NV, words in zip(odds, _blocks(weight_VD), strict=True):
        narrow_NV = block_NV.div_(total_N[:, None]) if out_ND.dtype is not torch.float32 else block_NV
        found_ND = by_fixed_point(block_NV, weight_VD[words]) if out_ND.dtype is torch.float32 else None
        if found_ND is not None:
            out_ND.add_(found_ND)
        else:
            out_ND.addmm_(narrow_NV.to(out_ND.dtype), weight_VD[words].to(out_ND.dtype))
    if out_ND.dtype is torch.float32:
        out_ND.div_(total_N[:, None])


def _blocks(weight_VD: Tensor) -> list[slice]:
    """Blocks of the vocabulary, each as wide as the first but the last."""
    words = max(1, _MOST_WEIGHTS // weight_VD.shape[1])
    return [slice(begin, begin + words) for begin in range(0, len(weight_VD), words)]
