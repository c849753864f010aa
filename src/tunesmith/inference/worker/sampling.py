"""Drawing the next token of every row, each by its own settings and from its own random numbers."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from tunesmith.inference.engine import Sampling

_GREEDY_BELOW = 1e-5  # dividing by less only overflows; the most likely token wins either way
_CANDIDATES = 1024  # a nucleus is looked for among so many tokens before all are sorted


class Picker:
    """One row's settings, what it has seen, and its random numbers.

    Args:
        prompt: token ids the repetition penalty counts as seen.
        vocabulary: width of the logits.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocabulary: int, device: torch.device) -> None:
        self.temperature = sampling.temperature
        self.top_p = sampling.top_p
        self.top_k = min(sampling.top_k, vocabulary) if sampling.top_k > 0 else 0
        self.penalty = sampling.repetition_penalty
        self.greedy = sampling.temperature < _GREEDY_BELOW or self.top_k == 1
        self.seen: Tensor | None = None
        if self.penalty != 1.0:
            self.seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
            self.seen[torch.tensor(prompt, dtype=torch.long, device=device)] = True
        # Its own generator: what neighbours draw cannot shift it.
        self._numbers = random.Random(sampling.seed)

    def uniform(self) -> float:
        """The row's next number in [0, 1)."""
        return self._numbers.random()

    def chose(self, token: int) -> None:
        """Note that the row now holds ``token``."""
        if self.seen is not None:
            self.seen[token] = True


def pick(logits_RV: Tensor, rows: Sequence[Picker]) -> list[int | None]:
    """One token id a row; None for a row whose logits are not finite.

    Args:
        logits_RV: float32 logits, (rows, vocabulary); changed in place.
    """
    for r, row in enumerate(rows):
        if row.seen is not None:
            scores = logits_RV[r]
            damped = torch.where(scores > 0, scores / row.penalty, scores * row.penalty)
            logits_RV[r] = torch.where(row.seen, damped, scores)
    best_R, ids_R = logits_RV.max(-1)
    finite, ids = best_R.isfinite().tolist(), ids_R.tolist()
    chosen: list[int | None] = [token if ok else None for token, ok in zip(ids, finite, strict=True)]
    whole = [r for r, row in enumerate(rows) if finite[r] and not row.greedy and _untruncated(row)]
    if whole:
        drawn = _draw(_scaled(logits_RV, rows, whole).softmax(-1), [rows[r].uniform() for r in whole])
        for r, token in zip(whole, drawn, strict=True):
            chosen[r] = token
    cut = [r for r, row in enumerate(rows) if finite[r] and not row.greedy and not _untruncated(row)]
    if cut:
        for r, token in zip(cut, _truncated(_scaled(logits_RV, rows, cut), [rows[r] for r in cut]), strict=True):
            chosen[r] = token
    for row, picked in zip(rows, chosen, strict=True):
        if picked is not None:
            row.chose(picked)
    return chosen


def _untruncated(row: Picker) -> bool:
    return row.top_k == 0 and row.top_p >= 1.0


def _scaled(logits_RV: Tensor, rows: Sequence[Picker], wanted: list[int]) -> Tensor:
    heat = torch.tensor([rows[r].temperature for r in wanted], device=logits_RV.device)
    some_RV = logits_RV if len(wanted) == len(logits_RV) else logits_RV[wanted]
    return some_RV / heat[:, None]


def _truncated(logits_RV: Tensor, rows: Sequence[Picker]) -> list[int]:
    """Top-k, then top-p of what is left, in that order, as transformers does.

    Candidates are ranked by falling probability, so a row's draw is the same whether it was ranked among
    ``_CANDIDATES`` or among all.
    """
    vocabulary = logits_RV.shape[-1]
    numbers = [row.uniform() for row in rows]
    count = min(vocabulary, max(_CANDIDATES, *(row.top_k for row in rows), 0))
    total_R = logits_RV.logsumexp(-1)
    top_RC, ids_RC = logits_RV.topk(count, dim=-1)
    ranks = _draw(_nucleus(top_RC, total_R, rows), numbers)
    picked: list[int] = ids_RC.gather(1, torch.tensor(ranks, device=ids_RC.device)[:, None])[:, 0].tolist()
    if count < vocabulary:
        covered = (top_RC - total_R[:, None]).exp().sum(-1).tolist()
        for r, row in enumerate(rows):
            if row.top_k == 0 and covered[r] < row.top_p:  # a flat distribution: its nucleus is wider
                all_V, order_V = logits_RV[r].sort(descending=True)
                rank = _draw(_nucleus(all_V[None], total_R[r, None], [row]), [numbers[r]])[0]
                picked[r] = int(order_V[rank])
    return picked


def _nucleus(ranked_RC: Tensor, total_R: Tensor, rows: Sequence[Picker]) -> Tensor:
    """Probabilities of the candidates, 0 for those that top-k and top-p leave out.

    Args:
        ranked_RC: logits in falling order. total_R: logsumexp of all logits of the row, ranked or not.
    """
    device, width = ranked_RC.device, ranked_RC.shape[-1]
    top_p = torch.tensor([row.top_p for row in rows], device=device)
    if any(row.top_k for row in rows):
        top_k = torch.tensor([row.top_k or width for row in rows], device=device)
        limited = torch.tensor([row.top_k > 0 for row in rows], device=device)
        out = torch.arange(width, device=device)[None] >= top_k[:, None]
        ranked_RC = ranked_RC.masked_fill(out, -torch.inf)
        total_R = torch.where(limited, ranked_RC.logsumexp(-1), total_R)
    shares_RC = (ranked_RC - total_R[:, None]).exp()
    before_RC = shares_RC.cumsum(-1) - shares_RC
    before_RC[:, 0] = 0  # rounding must not drop the most likely one
    return shares_RC.masked_fill(before_RC >= top_p[:, None], 0)


def _draw(weights_RC: Tensor, numbers: Sequence[float]) -> list[int]:
    """Index drawn for each row with probability proportional to its weight, by inverse cumulative sum."""
    heaps_RC = weights_RC.double().cumsum(-1)
    total_R1 = heaps_RC[:, -1:]
    at_R1 = torch.tensor(numbers, dtype=torch.float64, device=weights_RC.device)[:, None] * total_R1
    below_R1 = torch.nextafter(total_R1, torch.zeros_like(total_R1))  # never past the last weight there is
    index: list[int] = torch.searchsorted(heaps_RC, torch.minimum(at_R1, below_R1), right=True)[:, 0].tolist()
    return index
