"""How surprising tokens are to a frozen output head, without ever holding all logits (torch).

A vocabulary of 150,000 makes the logits of one long example larger than the model. The head gets no gradient, so the
gradient of the hidden states is known as soon as a few rows of logits are: both are made together, a chunk of rows at
a time, and the logits are forgotten. (As Cut Cross-Entropy, arXiv:2411.09009, and Liger Kernel, arXiv:2410.10989, do.)
"""

from typing import Any

import torch
from torch import Tensor

# logits held at once: 2 ** 26 of them are a quarter of a gigabyte in float32
_MOST_LOGITS = 1 << 26
# weights of the head widened at once, where they lie narrower than the hidden states
_MOST_WEIGHTS = 1 << 24


class _Surprise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
        nats_N = hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)
        needed = ctx.needs_input_grad[0]
        grad_ND = torch.empty_like(hidden_ND) if needed else None
        rows = max(1, _MOST_LOGITS // len(weight_VD))
        for begin in range(0, len(hidden_ND), rows):
            part = slice(begin, begin + rows)
            logits_NV = _logits(hidden_ND[part], weight_VD, bias_V)
            label_N1 = labels_N[part, None]
            chosen_N1 = logits_NV.gather(1, label_N1)
            total_N1 = logits_NV.logsumexp(1, keepdim=True)
            nats_N[part] = (total_N1 - chosen_N1)[:, 0]
            if grad_ND is not None:
                logits_NV.sub_(total_N1).exp_()  # probabilities now
                logits_NV.scatter_add_(1, label_N1, logits_NV.new_full(label_N1.shape, -1.0))
                _times(logits_NV, weight_VD, grad_ND[part])
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


def _logits(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    """float32, whatever the head computes in."""
    if weight_VD.dtype == hidden_ND.dtype:
        logits_NV = (hidden_ND @ weight_VD.t()).float()
    else:
        logits_NV = hidden_ND.new_empty(len(hidden_ND), len(weight_VD), dtype=torch.float32)
        for words in _blocks(weight_VD):
            logits_NV[:, words] = hidden_ND @ weight_VD[words].to(hidden_ND.dtype).t()
    return logits_NV if bias_V is None else logits_NV.add_(bias_V.float())


def _times(share_NV: Tensor, weight_VD: Tensor, out_ND: Tensor) -> None:
    """Write ``share_NV @ weight_VD``."""
    if weight_VD.dtype == out_ND.dtype:
        torch.mm(share_NV.to(out_ND.dtype), weight_VD, out=out_ND)
        return
    out_ND.zero_()
    for words in _blocks(weight_VD):
        out_ND.addmm_(share_NV[:, words].to(out_ND.dtype), weight_VD[words].to(out_ND.dtype))


def _blocks(weight_VD: Tensor) -> list[slice]:
    words = max(1, _MOST_WEIGHTS // weight_VD.shape[1])
    return [slice(begin, begin + words) for begin in range(0, len(weight_VD), words)]
