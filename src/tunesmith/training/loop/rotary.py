"""Attention modules whose queries and keys are turned by their positions in one step of the gradient tape (torch).

Transformers turns them (arXiv:2104.09864) by slices, a concatenation, products and sums, each with its own pass over
the heads and its own entry on the tape, and more of both on the way back. Here it is one pass each way.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from tunesmith.training.loop.attention import grouped
from tunesmith.training.loop.native.library import Library, library_for

_RECORDING = "tunesmith_recording"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_NORMS = ("q_norm", "k_norm")
_LENGTHS = (5, 3)  # of the examples in the probe
_OFF = 2**-6  # of the largest number: a model rounds to bfloat16 three times where we do once


class _Turned(torch.autograd.Function):
    """Heads of (T, H, D), each token's turned by its angles."""

    @staticmethod
    def forward(ctx: Any, x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor, by: Library) -> Tensor:
        ctx.save_for_backward(cos_TD, sin_TD)
        ctx.by = by
        return by.turned(x_THD, cos_TD, sin_TD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        grad_THD = grads[0] if grads[0].stride(2) == 1 else grads[0].contiguous()
        return ctx.by.turned(grad_THD, *ctx.saved_tensors, back=True), None, None, None


class TurnedAttention(nn.Module):
    """Takes the place of an attention module over packed examples; its layers keep their names.

    Args:
        own: still computes all but packed examples.
        given: what it gives its attention beside queries, keys and values.
    """

    def __init__(self, own: Any, given: dict[str, Any]) -> None:
        super().__init__()
        for name, child in own.named_children():
            setattr(self, name, child)
        self._own, self._given = (own,), given  # in a tuple, or its layers would be there under two names

    def train(self, mode: bool = True) -> "TurnedAttention":
        super().train(mode)
        self._own[0].train(mode)
        return self

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Any = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        groups: Any = None,
        **others: Any,
    ) -> Any:
        (own,) = self._own
        if groups is None or not _turns(hidden_states, *position_embeddings):
            if groups is not None:
                others["groups"] = groups
            return own(
                hidden_states=hidden_states, position_embeddings=position_embeddings, attention_mask=attention_mask,
                past_key_values=past_key_values, **others,
            )  # fmt: skip
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        attend = ALL_ATTENTION_FUNCTIONS[own.config._attn_implementation]
        heads = self.heads(hidden_states, *position_embeddings)
        out_1THD, _ = attend(own, *heads, attention_mask, groups=groups, **self._given, **others)
        return self.o_proj(out_1THD.flatten(2)), None

    def heads(self, hidden_1TD: Tensor, cos_1TD: Tensor, sin_1TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (1, heads, T, D)."""
        q_THD, k_TGD, v_TGD = (
            getattr(self, name)(hidden_1TD)[0].unflatten(1, (-1, cos_1TD.shape[-1])) for name in _PROJECTIONS[:3]
        )
        if hasattr(self, "q_norm"):
            q_THD, k_TGD = self.q_norm(q_THD), self.k_norm(k_TGD)
        found = cast(Library, library_for(hidden_1TD))
        q_THD, k_TGD = (_Turned.apply(x, cos_1TD[0], sin_1TD[0], found) for x in (q_THD, k_TGD))
        q, k, v = (x[None].transpose(1, 2) for x in (q_THD, k_TGD, v_TGD))
        return q, k, v


def _turns(hidden_1TD: Tensor, cos_1TD: Tensor, sin_1TD: Tensor) -> bool:
    """Whether the library turns heads of such a model."""
    found = library_for(hidden_1TD)
    return (
        found is not None
        and found.turns
        and len(hidden_1TD) == len(cos_1TD) == 1
        and cos_1TD.dtype is sin_1TD.dtype is found.computes
    )


def turned(own: Any, computed: torch.dtype) -> TurnedAttention | None:
    """What takes the place of the module ``own`` in a model computed in that number format.

    None where it is no attention module, or computes something else.
    """
    layers, config = dict(own.named_children()), getattr(own, "config", None)
    if set(layers) not in ({*_PROJECTIONS}, {*_PROJECTIONS, *_NORMS}) or list(own.parameters(recurse=False)):
        return None
    width, dim = getattr(config, "hidden_size", None), getattr(own, "head_dim", None)
    if not isinstance(width, int) or not isinstance(dim, int) or dim % 2:
        return None
    like = next(own.parameters())
    tokens = sum(_LENGTHS)
    hidden_1TD = torch.linspace(-3, 3, tokens * width, device=like.device).sin().view(1, tokens, width).to(computed)
    angles_TD = torch.linspace(0, 9, tokens * dim // 2, device=like.device).view(tokens, -1).repeat(1, 2)
    cos_1TD, sin_1TD = angles_TD.cos()[None].to(computed), angles_TD.sin()[None].to(computed)
    if not _turns(hidden_1TD, cos_1TD, sin_1TD):
        return None
    with torch.no_grad():
        recorded = _recorded(own, hidden_1TD, cos_1TD, sin_1TD)
        if recorded is None:
            return None
        heads, given, out_1THD, wanted_1TD = recorded
        if given.pop("dropout", 0.0) or not all(isinstance(each, int | float | None) for each in given.values()):
            return None
        was_training, ours = own.training, TurnedAttention(own, given).eval()
        same = all(map(_close, ours.heads(hidden_1TD, cos_1TD, sin_1TD), heads))
        same = same and _close(ours.o_proj(out_1THD.flatten(2)), wanted_1TD)
        ours.train(was_training)
        return ours if same else None


def _recorded(
    own: Any, hidden_1TD: Tensor, cos_1TD: Tensor, sin_1TD: Tensor
) -> tuple[tuple[Tensor, ...], dict[str, Any], Tensor, Tensor] | None:
    """What the module gives its attention, as it does in training, what that gave back, and what came of it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    seen: list[tuple[tuple[Tensor, ...], dict[str, Any], Tensor]] = []

    def attend(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **given: Any) -> tuple[Tensor, None]:
        seen.append(((q, k, v), {name: value for name, value in given.items() if name != "groups"}, q.transpose(1, 2)))
        return seen[-1][2], None

    ALL_ATTENTION_FUNCTIONS[_RECORDING] = attend
    usual, was_training = own.config._attn_implementation, own.training
    own.config._attn_implementation = _RECORDING
    own.eval()
    own.training = True  # its layers stay as they are
    try:
        found = own(
            hidden_states=hidden_1TD, position_embeddings=(cos_1TD, sin_1TD), attention_mask=None,
            groups=grouped(_LENGTHS, hidden_1TD.device),
        )  # fmt: skip
    except (TypeError, ValueError, KeyError, RuntimeError, AttributeError):
        return None  # called in another way
    finally:
        own.config._attn_implementation = usual
        own.train(was_training)
        del ALL_ATTENTION_FUNCTIONS[_RECORDING]
    if len(seen) != 1 or not isinstance(found, tuple) or len(found) != 2:
        return None
    return *seen[0], found[0]


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= _OFF * other.abs().max())
