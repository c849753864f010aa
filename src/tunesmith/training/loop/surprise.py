"""How surprising tokens are to a frozen output head, without ever holding all logits (torch).

A vocabulary of 150,000 makes the logits of one long example larger than the model. The head gets no gradient, so the
gradient of the hidden states is known as soon as a few rows of logits are: both are made together, a chunk of rows at
a time, and the logits are forgotten. (As Cut Cross-Entropy, arXiv:2411.09009, and Liger Kernel, arXiv:2410.10989, do.)
"""

from typing import Any

import torch
from torch import Tensor

from tunesmith.training.loop.frozen import by_fixed_point
from tunesmith.training.loop.native.library import library, library_for
from tunesmith.training.loop.native.structs import Sums

# logits held at once: 2 ** 27 of them are half a gigabyte in float32
_MOST_LOGITS = 1 << 27
# weights of the head used, and where they lie narrower than the hidden states widened, at once
_MOST_WEIGHTS = 1 << 24


class _Surprise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
        nats_N = hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)
        averages = ctx.needs_input_grad[0]
        grad_ND = hidden_ND.new_empty(hidden_ND.shape if averages else 0, dtype=torch.float32)
        rows = max(1, _MOST_LOGITS // _words(weight_VD))
        for begin in range(0, len(hidden_ND), rows):
            part = slice(begin, begin + rows)
            sums, mean_ND = _over_words(hidden_ND[part], weight_VD, bias_V, labels_N[part], averages)
            nats_N[part] = sums.total.log() + sums.most - sums.chosen
            if averages:
                # the mean of the head's weights under the model's own odds, less the label's
                torch.sub(mean_ND.div_(sums.total[:, None]), weight_VD[labels_N[part]], out=grad_ND[part])
        ctx.save_for_backward(grad_ND)
        ctx.computes = hidden_ND.dtype
        return nats_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None]:
        (grad_ND,) = ctx.saved_tensors
        return (grad_ND * grads[0][:, None]).to(ctx.computes), None, None, None


def surprise(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
    """Minus the log-probability of each label, (N,), float32, in nats.

    Args:
        hidden_ND: what the head reads. labels_N: int64.
        weight_VD: of the head, frozen; wider than it lies in memory where ``hidden_ND`` is.
    """
    nats_N: Tensor = _Surprise.apply(hidden_ND, weight_VD, bias_V, labels_N)
    return nats_N


def _over_words(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor, averages: bool
) -> tuple[Sums, Tensor]:
    """What is known of the logits; where asked for, the sum of the head's weights by the exponentials of the logits.

    A block of the vocabulary at a time: where it has a larger logit than those before it, what they gave is made
    smaller (arXiv:1805.02867).
    """
    sums = Sums.none(len(hidden_ND), hidden_ND.device)
    mean_ND = hidden_ND.new_zeros(hidden_ND.shape if averages else 0, dtype=torch.float32)
    for begin in range(0, len(weight_VD), _words(weight_VD)):
        words = slice(begin, begin + _words(weight_VD))
        weight, bias = weight_VD[words], None if bias_V is None else bias_V[words]
        logits_NV = _product(hidden_ND, weight.t(), bias)
        odds_NV, factor_N = _exponentials(logits_NV, sums, labels_N, begin, hidden_ND.dtype, averages)
        if averages:
            _product(odds_NV, weight, onto_NO=mean_ND.mul_(factor_N[:, None]))
    return sums, mean_ND


def _product(x_NK: Tensor, weight_KO: Tensor, bias_O: Tensor | None = None, onto_NO: Tensor | None = None) -> Tensor:
    """``x @ weight + bias`` in float32, whatever the head computes in; added to ``onto_NO`` where that is given."""
    found = library_for(x_NK) if x_NK.dtype is torch.bfloat16 and weight_KO.dtype is torch.bfloat16 else None
    if found is not None:
        return found.product(x_NK, weight_KO, bias_O, wide=True, onto=onto_NO)
    y_NO = by_fixed_point(x_NK, weight_KO)
    if y_NO is None:
        y_NO = (x_NK @ weight_KO.to(x_NK.dtype)).float()
    if bias_O is not None:
        y_NO.add_(bias_O)
    return y_NO if onto_NO is None else onto_NO.add_(y_NO)


def _exponentials(
    logits_NV: Tensor, sums: Sums, labels_N: Tensor, first: int, computes: torch.dtype, wanted: bool
) -> tuple[Tensor, Tensor]:
    """A block of logits as exponentials, the largest so far 1, which are taken into ``sums``.

    Args:
        logits_NV: float32, overwritten. first: the block's first word.
        computes: what the exponentials come in, where they are wanted.

    Returns:
        The exponentials; and what is to be multiplied by what came of the blocks before, (N,).
    """
    known = computes in (torch.float32, torch.bfloat16) and logits_NV.device.type == "cpu"
    found = library(computes) if known else None
    if found is not None and computes is torch.float32:
        return logits_NV, found.softmax_parts(logits_NV, sums, labels_N, first)
    if found is not None:
        odds_NV = logits_NV.new_empty(logits_NV.shape if wanted else 0, dtype=computes)
        return odds_NV, found.softmax_parts(logits_NV, sums, labels_N, first, odds_NV if wanted else None)
    at_N = labels_N - first
    here_N = (at_N >= 0) & (at_N < logits_NV.shape[1])
    chosen_N = logits_NV.gather(1, at_N.clamp(0, logits_NV.shape[1] - 1)[:, None])[:, 0]
    sums.chosen.copy_(torch.where(here_N, chosen_N, sums.chosen))
    most_N = torch.maximum(sums.most, logits_NV.amax(1))
    less_N = most_N.masked_fill(most_N == -torch.inf, 0.0)
    factor_N = (sums.most - less_N).exp_()
    sums.most.copy_(most_N)
    odds_NV = logits_NV.sub_(less_N[:, None]).exp_()
    sums.total.mul_(factor_N).add_(odds_NV.sum(1))
    return odds_NV.to(computes), factor_N


def _words(weight_VD: Tensor) -> int:
    """Of the vocabulary, in a block."""
    width: int = weight_VD.shape[1]
    return max(1, _MOST_WEIGHTS // width)
