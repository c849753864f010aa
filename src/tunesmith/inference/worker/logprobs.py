"""How likely a row's tokens were: of the model's own distribution, before temperature, penalties, limits and masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_LEAST = -9999.0  # JSON has no infinity; vLLM and OpenAI say this instead


@dataclass(frozen=True, slots=True)
class Likely:
    """The log-probability of one token, and of the likeliest ones in its place.

    Attributes:
        top: (token id, log-probability), most likely first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def likely(logits_RV: Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[Likely]:
    """What to report of the token each row drew.

    Args:
        logits_RV: as the model made them, (rows, vocabulary), float32.
        tokens: the id each row drew.
        counts: how many of the likeliest tokens each row asks for; 0 for none.
    """
    total_R1 = logits_RV.logsumexp(-1, keepdim=True)
    own_R1 = logits_RV.gather(1, torch.tensor(tokens, device=logits_RV.device)[:, None]) - total_R1
    own: list[float] = own_R1.clamp_min(_LEAST)[:, 0].tolist()
    most = min(max(counts), logits_RV.shape[-1])
    if not most:
        return [Likely(one) for one in own]
    top_RN, ids_RN = logits_RV.topk(most, dim=-1)
    shares, ids = (top_RN - total_R1).clamp_min(_LEAST).tolist(), ids_RN.tolist()
    return [
        Likely(one, tuple(zip(ids[r][:count], shares[r][:count], strict=True)))
        for r, (one, count) in enumerate(zip(own, counts, strict=True))
    ]
