"""Attention over packed examples: none sees another (torch, transformers).

Examples lie one after the other in one row. Attention alone takes them apart: those of about equal length are laid
side by side and attended to in one causal call; what pads the shorter ones stands behind their last token, where
causal attention never looks. So nothing is masked, and the fast kernels of every device are used. On a processor the
compiled library goes through the examples where they lie, where it computes in their number format.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from tunesmith.training.loop.native.library import Library, attends, library_for

IMPLEMENTATION = "tunesmith_packed"
_WASTE = 0.2  # of a group's places may be padding
_FREE = 32  # places of padding cost less than another call


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring examples attended to in one call.

    Attributes:
        begin: of the first, in the row. lengths: of each; they lie without gaps.
        places: (count * width,) index into the row for each place; None where nothing is padded.
        real: index of the places that hold a token, in the row's order; None likewise.
    """

    begin: int
    lengths: tuple[int, ...]
    places: Tensor | None
    real: Tensor | None

    @property
    def width(self) -> int:
        return max(self.lengths)

    @property
    def end(self) -> int:
        return self.begin + sum(self.lengths)


def grouped(lengths: Sequence[int], device: torch.device) -> tuple[Group, ...]:
    """Examples of these lengths, in their order in the row, cut into groups of about equal length."""
    groups: list[Group] = []
    begin, first = 0, 0
    for last in range(1, len(lengths) + 1):
        if last < len(lengths) and _together(lengths[first : last + 1]):
            continue
        chosen = tuple(lengths[first:last])
        groups.append(_group(begin, chosen, device))
        begin, first = begin + sum(chosen), last
    return tuple(groups)


def _together(lengths: Sequence[int]) -> bool:
    padding = max(lengths) * len(lengths) - sum(lengths)
    return padding <= max(_FREE, _WASTE * sum(lengths))


def _group(begin: int, lengths: tuple[int, ...], device: torch.device) -> Group:
    width = max(lengths)
    if min(lengths) == width:
        return Group(begin, lengths, None, None)
    starts = [0, *accumulate(lengths)][:-1]
    places = torch.tensor(
        [start + min(at, length - 1) for start, length in zip(starts, lengths, strict=True) for at in range(width)]
    )
    real = torch.tensor([row * width + at for row, length in enumerate(lengths) for at in range(length)])
    return Group(begin, lengths, places.to(device), real.to(device))


def register() -> None:
    """Make the attention known to transformers; a model asks for it by name."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, _forward)
    AttentionMaskInterface.register(IMPLEMENTATION, lambda *_, **__: None)


def _forward(
    module: Any,
    q_1HTD: Tensor,
    k_1HTD: Tensor,
    v_1HTD: Tensor,
    mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    groups: Sequence[Group] | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    if groups is None or softcap is not None or mask is not None:
        raise NotImplementedError("only packed examples without a cap on their scores")
    found = None if dropout else _library_for(q_1HTD, k_1HTD, v_1HTD)
    if found is not None:
        lengths_E = torch.tensor([length for group in groups for length in group.lengths])
        scale = q_1HTD.shape[-1] ** -0.5 if scaling is None else scaling
        heads = (x[0].transpose(0, 1) for x in (q_1HTD, k_1HTD, v_1HTD))
        out_THD: Tensor = _Compiled.apply(*heads, lengths_E, scale, sliding_window or 0, found)
        return out_THD[None], None
    parts = []
    for group in groups:
        q, k, v = (_taken_apart(x, group) for x in (q_1HTD, k_1HTD, v_1HTD))
        window_TT = _window(group.width, sliding_window, q.device)
        out = functional.scaled_dot_product_attention(
            q, k, v, window_TT, dropout, is_causal=window_TT is None and group.width > 1, scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )  # fmt: skip
        rows_ND = out.transpose(1, 2).flatten(0, 1)
        parts.append(rows_ND if group.real is None else rows_ND.index_select(0, group.real))
    return torch.cat(parts)[None], None


def _library_for(q_1HTD: Tensor, k_1HTD: Tensor, v_1HTD: Tensor) -> Library | None:
    """The compiled library where it attends to such tensors."""
    dim = q_1HTD.shape[-1]
    if not attends(dim) or k_1HTD.shape[-1] != dim or v_1HTD.shape[-1] != dim:
        return None
    return library_for(q_1HTD) if q_1HTD.dtype == k_1HTD.dtype == v_1HTD.dtype else None


class _Compiled(torch.autograd.Function):
    """Attention by the compiled library: examples where they lie, nothing padded or moved."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        q_THD, k_TGD, v_TGD, lengths_E, scale, window, found = given
        q_THD, k_TGD, v_TGD = map(_by_rows, (q_THD, k_TGD, v_TGD))
        out_THD, shares_HT2 = found.attention(q_THD, k_TGD, v_TGD, lengths_E, scale, window)
        ctx.save_for_backward(q_THD, k_TGD, v_TGD, out_THD, shares_HT2, lengths_E)
        ctx.others = scale, window, found
        return cast(Tensor, out_THD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale, window, found = ctx.others
        dq_THD, dk_TGD, dv_TGD = found.attention_back(_by_rows(grads[0]), *ctx.saved_tensors, scale, window)
        return dq_THD, dk_TGD, dv_TGD, None, None, None, None


def _by_rows(x_THD: Tensor) -> Tensor:
    """``x`` with the numbers of a head beside each other."""
    return x_THD if x_THD.stride(2) == 1 else x_THD.contiguous()


def _taken_apart(x_1HTD: Tensor, group: Group) -> Tensor:
    """(count, heads, width, D): the group's examples side by side."""
    x_HTD = x_1HTD[0, :, group.begin : group.end]
    if group.places is not None:
        x_HTD = x_HTD.index_select(1, group.places)
    return x_HTD.unflatten(1, (len(group.lengths), group.width)).transpose(0, 1)


def _window(width: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    """Which tokens a token sees where the model looks back only so far; None where it sees all before it."""
    if sliding_window is None or width <= sliding_window:
        return None
    at = torch.arange(width, device=device)
    back_TT = at[:, None] - at[None]
    return (back_TT >= 0) & (back_TT < sliding_window)
