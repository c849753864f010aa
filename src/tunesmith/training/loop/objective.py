"""What a model makes of supervised tokens: how surprising each is, computed at no other position (torch)."""

import re
from collections.abc import Sequence, Sized
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from tunesmith.training.data.encoding import Encoded
from tunesmith.training.loop import attention
from tunesmith.training.loop.batches import packs, rectangles
from tunesmith.training.loop.layout import Laid, packed, padded
from tunesmith.training.loop.surprise import surprise

# Tokens that go through the model at once. Enough for full speed of the matrix units; what is kept for the gradient
# grows with it. A constant: were it chosen by the free memory, the bytes of an adapter would depend on the weather.
_TOKENS = {"cpu": 1024, "cuda": 8192}
_ROPE_OF_LENGTH = re.compile(r"'(rope_)?type': '(longrope|dynamic)'")
_Some = TypeVar("_Some", bound=Sized)
_PROBE = (5, 3)  # lengths of the examples that show whether a model can be packed


class Surprise:
    """Scores supervised tokens of a causal language model.

    Examples are packed, with nothing between them to pay for, where the model's attention can keep them apart; else
    they are padded. The body runs over all positions, the output head over those that predict a supervised token: on
    short answers that saves most of the head, which in a small model is much of the work.
    """

    def __init__(self, model: Any) -> None:
        attention.register()
        self._core, self._body, head = model, model.base_model, model.get_output_embeddings()
        frozen = getattr(head, "base_layer", head)
        self._weight_VD, self._bias_V = frozen.weight, getattr(frozen, "bias", None)
        self._device = self._weight_VD.device
        was_training, self._usual = model.training, model.config._attn_implementation
        model.eval()
        # some models scale or cap their logits after the head: then only their own forward is right
        self._by_parts = _same(model, self._body, self._weight_VD, self._bias_V)
        self.packs = self._can_pack()
        if self.packs:
            model.config._attn_implementation = attention.IMPLEMENTATION
        model.train(was_training)

    @property
    def device(self) -> torch.device:
        """Where the numbers are made."""
        return torch.device(self._device)

    @property
    def tokens(self) -> int:
        """Tokens that go through the model at once; more only where one example has more."""
        return _TOKENS.get(self._device.type, _TOKENS["cuda"])

    def parts(self, examples: Sequence[_Some]) -> list[list[_Some]]:
        """``examples`` as they go through the model together; each part needs about as much memory as the others."""
        return packs(examples, self.tokens) if self.packs else rectangles(examples, self.tokens)

    def laid(self, examples: Sequence[Encoded]) -> Laid:
        """One of the parts as tensors."""
        return (packed if self.packs else padded)(examples, self._device)

    def __call__(self, laid: Laid) -> Tensor:
        """Minus the log-probability of each supervised token, (N,), float32, in nats."""
        options: dict[str, Any] = {"input_ids": laid.tokens_BT, "use_cache": False}
        if laid.groups is not None:
            options |= {"position_ids": laid.positions_BT, "groups": laid.groups}
        if self._by_parts:
            hidden_BTD = self._body(**options).last_hidden_state
            hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, laid.from_N)
            return surprise(hidden_ND, self._weight_VD, self._bias_V, laid.labels_N)
        logits_NV = self._core(**options).logits.flatten(0, 1).index_select(0, laid.from_N)
        return functional.cross_entropy(logits_NV.float(), laid.labels_N, reduction="none")

    def release(self) -> None:
        """Give the model back the attention it came with."""
        self._core.config._attn_implementation = self._usual

    def _can_pack(self) -> bool:
        """Whether packed examples come out as they do alone."""
        if _ROPE_OF_LENGTH.search(str(self._core.config.to_dict())):
            return False  # positions are turned by the longest in a row: a short example would depend on its neighbours
        tokens = torch.arange(1, 1 + sum(_PROBE), device=self._device).remainder(len(self._weight_VD))
        groups = attention.grouped(_PROBE, self._device)
        positions = torch.cat([torch.arange(length, device=self._device) for length in _PROBE])
        try:
            with torch.no_grad():
                alone = [self._body(input_ids=part[None], use_cache=False).last_hidden_state
                         for part in tokens.split(_PROBE)]  # fmt: skip
                self._core.config._attn_implementation = attention.IMPLEMENTATION
                together = self._body(
                    input_ids=tokens[None], position_ids=positions[None], groups=groups, use_cache=False
                ).last_hidden_state
        except (NotImplementedError, TypeError, ValueError, KeyError, RuntimeError, AttributeError):
            return False  # attention of its own, or one that does not take our word for what belongs together
        finally:
            self._core.config._attn_implementation = self._usual
        return _close(together, torch.cat(alone, dim=1))


class Likelihood:
    """Makes the supervised tokens likely: their mean surprise is the loss."""

    figures: tuple[str, ...] = ()

    def __init__(self, surprise: Surprise) -> None:
        self._surprise = surprise

    def weight(self, examples: Sequence[Encoded]) -> int:
        """The supervised tokens."""
        return sum(example.supervised for example in examples)

    def parts(self, examples: Sequence[Encoded]) -> list[list[Encoded]]:
        """As ``Surprise.parts``."""
        return self._surprise.parts(examples)

    def loss(self, part: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """The summed surprise of one part, and no figures."""
        loss = self._surprise(self._surprise.laid(part)).sum()
        return loss, loss.new_zeros(0, 2)


def _same(core: Any, body: Any, weight_VD: Tensor, bias_V: Tensor | None) -> bool:
    """Whether the head on the body's last hidden state gives the model's own logits."""
    tokens_BT = torch.arange(4, device=weight_VD.device).remainder(len(weight_VD))[None]
    with torch.no_grad():
        hidden_BTD = getattr(body(input_ids=tokens_BT, use_cache=False), "last_hidden_state", None)
        if hidden_BTD is None:
            return False  # several models in one: what it calls its base is the whole
        bias = None if bias_V is None else bias_V.to(hidden_BTD.dtype)
        parts_BTV = functional.linear(hidden_BTD, weight_VD.to(hidden_BTD.dtype), bias)
        return _close(parts_BTV, core(input_ids=tokens_BT, use_cache=False).logits)


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether two ways to compute the same differ by rounding only, against the largest number there is."""
    steps = 64 if other.dtype is torch.float32 else 4
    most = steps * torch.finfo(other.dtype).eps * float(other.abs().max())
    return one.shape == other.shape and bool(((one.float() - other.float()).abs() <= max(most, 1e-6)).all())
