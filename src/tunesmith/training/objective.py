"""The loss: how surprising the supervised tokens are, computed at no other position (torch)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tunesmith.training.encoding import Encoded

# logits held at once: 2 ** 27 of them are half a gigabyte in float32, and the backward pass needs as much again
_MOST_LOGITS = 1 << 27


@dataclass(frozen=True, slots=True)
class Padded:
    """A batch as tensors.

    Attributes:
        tokens_BT: ids, padded on the right with 0.
        from_N: index into the flattened (B * T) positions from which each supervised token is predicted.
        labels_N: the supervised tokens.
        length: tokens without padding.
    """

    tokens_BT: Tensor
    from_N: Tensor
    labels_N: Tensor
    length: int


def padded(batch: list[Encoded], device: torch.device) -> Padded:
    """``batch`` as tensors on ``device``."""
    width = max(len(example) for example in batch)
    tokens_BT = torch.zeros((len(batch), width), dtype=torch.int64)
    trained_BT = torch.zeros((len(batch), width), dtype=torch.uint8)
    for row, example in enumerate(batch):
        tokens_BT[row, : len(example)] = torch.frombuffer(example.tokens, dtype=torch.int32)
        trained_BT[row, : len(example)] = torch.frombuffer(bytearray(example.trained), dtype=torch.uint8)
    at_N = trained_BT.flatten().nonzero()[:, 0]
    labels_N = tokens_BT.flatten()[at_N]
    # the position before predicts; the first of a row is never supervised, so this never leaves the row
    return Padded(tokens_BT.to(device), (at_N - 1).to(device), labels_N.to(device), sum(map(len, batch)))


class Objective:
    """Sums the loss of a causal language model over supervised tokens.

    The body runs over all positions, the output head over those that predict a supervised token: on short answers
    that saves most of the head, which in a small model is much of the work. No attention mask is passed: padding is
    on the right, so with causal attention no real token ever sees it.
    """

    def __init__(self, model: Any) -> None:
        core = model.get_base_model()
        self._vocabulary = int(core.get_output_embeddings().weight.shape[0])
        self._core = core
        body, head = core.base_model, core.get_output_embeddings()
        # some models scale or cap their logits after the head: then only their own forward is right
        self._logits_NV = self._by_parts(body, head) if _same(core, body, head) else self._whole

    def __call__(self, batch: Padded) -> Tensor:
        """The summed loss of the batch's supervised tokens, float32, in nats."""
        return self._logits_NV(batch)

    def _by_parts(self, body: Any, head: Any) -> Callable[[Padded], Tensor]:
        rows = max(1, _MOST_LOGITS // self._vocabulary)

        def surprise(hidden_ND: Tensor, labels_N: Tensor) -> Tensor:
            return functional.cross_entropy(head(hidden_ND).float(), labels_N, reduction="sum")

        def loss(batch: Padded) -> Tensor:
            hidden_BTD = body(input_ids=batch.tokens_BT, use_cache=False).last_hidden_state
            # two-dimensional and contiguous: a frozen head meets torch's slow path with anything else
            hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, batch.from_N)
            if len(hidden_ND) <= rows:
                return surprise(hidden_ND, batch.labels_N)
            total = hidden_ND.new_zeros((), dtype=torch.float32)
            for hidden, labels in zip(hidden_ND.split(rows), batch.labels_N.split(rows), strict=True):
                total = total + checkpoint(surprise, hidden, labels, use_reentrant=False)
            return total

        return loss

    def _whole(self, batch: Padded) -> Tensor:
        logits_BTV = self._core(input_ids=batch.tokens_BT, use_cache=False).logits
        logits_NV = logits_BTV.flatten(0, 1).index_select(0, batch.from_N)
        return functional.cross_entropy(logits_NV.float(), batch.labels_N, reduction="sum")


def _same(core: Any, body: Any, head: Any) -> bool:
    """Whether the head on the body's last hidden state gives the model's own logits."""
    was_training = core.training
    core.eval()
    tokens_BT = torch.arange(4, device=core.device).remainder(head.weight.shape[0])[None]
    with torch.no_grad():
        hidden_BTD = body(input_ids=tokens_BT, use_cache=False).last_hidden_state
        parts_BTV = head(hidden_BTD.contiguous())
        whole_BTV = core(input_ids=tokens_BT, use_cache=False).logits
    core.train(was_training)
    return bool(torch.allclose(parts_BTV.float(), whole_BTV.float(), rtol=1e-2, atol=1e-3))
