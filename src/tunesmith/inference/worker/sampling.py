"""Drawing the next token of every row, each by its own settings and from its own random numbers."""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker.grammar import Constraint
from tunesmith.inference.worker.logprobs import Likely, likely

_GREEDY_BELOW = 1e-5  # dividing by less only overflows; the most likely token wins either way
_CANDIDATES = (64, 1024)  # a nucleus is looked for among so many tokens, then so many, before all are sorted
_ALONE = 1 << 19  # logits; waking other threads for fewer takes longer than the work, and much longer on a busy machine
_BLOCK = 64  # what is looked for in a whole vocabulary is looked for among blocks first: a tenth of the time


class Seen:
    """The tokens that a row's penalties look at, and how often its completion holds each.

    Args:
        prompt: token ids that count as seen without being part of the completion.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        known = dict.fromkeys(prompt)
        self._at = {token: at for at, token in enumerate(known)}
        self._ids = np.fromiter(known, dtype=np.int64, count=len(known))
        self._counts = np.zeros(len(known), dtype=np.float32)

    def add(self, token: int) -> None:
        """The completion goes on with ``token``."""
        at = self._at.setdefault(token, len(self._at))
        if at == len(self._ids):
            more = max(16, at)
            self._ids = np.concatenate([self._ids, np.zeros(more, dtype=np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(more, dtype=np.float32)])
        self._ids[at] = token
        self._counts[at] += 1

    @property
    def ids(self) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """Each token once."""
        return self._ids[: len(self._at)]

    @property
    def counts(self) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        """How often the completion holds each of ``ids``."""
        return self._counts[: len(self._at)]


class Picker:
    """One row's settings, what it has seen, and its random numbers.

    Args:
        prompt: token ids the repetition penalty counts as seen.
        vocabulary: width of the logits.
        grammar: what the completion has to satisfy.

    Attributes:
        likely: what is to be reported of the token drawn last, where the row asks for that.
    """

    def __init__(
        self, sampling: Sampling, prompt: Sequence[int], vocabulary: int, grammar: Constraint | None = None
    ) -> None:
        self.temperature = sampling.temperature
        self.top_p = sampling.top_p
        self.top_k = min(sampling.top_k, vocabulary) if sampling.top_k > 0 else 0
        self.min_p = sampling.min_p
        self.greedy = sampling.temperature < _GREEDY_BELOW or self.top_k == 1
        self.penalties = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty)
        self.seen: Seen | None = None
        if self.penalties != (1.0, 0.0, 0.0):
            self.seen = Seen(prompt if sampling.repetition_penalty != 1.0 else ())
        self.grammar = grammar
        self.top_logprobs = sampling.top_logprobs
        self.likely: Likely | None = None
        # nothing is to be done for it but to take the most likely token
        self.plain = self.greedy and self.seen is None and grammar is None and self.top_logprobs is None
        # Its own generator: what neighbours draw cannot shift it.
        self._numbers = random.Random(sampling.seed)

    def uniform(self) -> float:
        """The row's next number in [0, 1)."""
        return self._numbers.random()

    def chose(self, token: int) -> None:
        """Note that the row now holds ``token``."""
        if self.seen is not None:
            self.seen.add(token)
        if self.grammar is not None:
            self.grammar.take(token)


def pick(logits_RV: Tensor, rows: Sequence[Picker], likeliest: Sequence[int | None] | None = None) -> list[int | None]:
    """One token id a row; None for a row whose logits are not finite, or whose grammar has failed.

    Args:
        logits_RV: float32 logits, (rows, vocabulary); changed in place. Not looked at where all rows are ``plain`` and
            ``likeliest`` is given.
        likeliest: what ``_best`` would find in the logits; None where nobody has looked.
    """
    if all(row.plain for row in rows):
        return _best(logits_RV) if likeliest is None else list(likeliest)
    with _threads_for(logits_RV):
        return _pick(logits_RV, rows, likeliest)


def _pick(logits_RV: Tensor, rows: Sequence[Picker], likeliest: Sequence[int | None] | None) -> list[int | None]:
    telling = [r for r, row in enumerate(rows) if row.top_logprobs is not None]
    raw_RV = logits_RV[telling] if telling else None  # a copy: the rest is done in place
    for r, row in enumerate(rows):
        if row.grammar is not None:
            row.grammar.mask(logits_RV[r])
    _penalize(logits_RV, rows)
    chosen = _best(logits_RV) if likeliest is None else _best_changed(logits_RV, rows, likeliest)
    warm = [r for r, row in enumerate(rows) if not row.greedy and chosen[r] is not None]
    whole = [r for r in warm if _untruncated(rows[r])]
    if whole:
        scaled_RV = _likely_enough(_scaled(logits_RV, rows, whole), [rows[r] for r in whole])
        drawn = _draw(scaled_RV.softmax(-1), [rows[r].uniform() for r in whole])
        for r, token in zip(whole, drawn, strict=True):
            chosen[r] = token
    cut = [r for r in warm if not _untruncated(rows[r])]
    if cut:
        for r, token in zip(cut, _truncated(_scaled(logits_RV, rows, cut), [rows[r] for r in cut]), strict=True):
            chosen[r] = token
    for row, picked in zip(rows, chosen, strict=True):
        if picked is not None:
            row.chose(picked)
    if raw_RV is not None:
        _report(raw_RV, [rows[r] for r in telling], [chosen[r] for r in telling])
    return chosen


@contextmanager
def _threads_for(logits_RV: Tensor) -> Iterator[None]:
    """Do without torch's other threads where there is little to do."""
    threads = torch.get_num_threads()
    if threads == 1 or logits_RV.numel() > _ALONE or logits_RV.device.type != "cpu":
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _best(logits_RV: Tensor) -> list[int | None]:
    """The most likely token of each row; None where the logits are not finite."""
    if logits_RV.device.type == "cpu":  # numpy's is many times as fast, and wakes no thread
        numbers_RV = logits_RV.numpy()
        at_R = numbers_RV.argmax(-1)
        finite_R = np.isfinite(numbers_RV[np.arange(len(at_R)), at_R])
        likely: list[int | None] = at_R.tolist()
        return likely if finite_R.all() else [token if ok else None for token, ok in zip(likely, finite_R, strict=True)]
    if logits_RV.shape[-1] % _BLOCK:
        best_R, ids_R = logits_RV.max(-1)
    else:
        blocks_RBW = logits_RV.unflatten(-1, (-1, _BLOCK))
        best_R, block_R = blocks_RBW.amax(-1).max(-1)
        ids_R = block_R * _BLOCK + _of_block(blocks_RBW, block_R).argmax(-1)
    finite, ids = best_R.isfinite().tolist(), ids_R.tolist()
    return [token if ok else None for token, ok in zip(ids, finite, strict=True)]


def _best_changed(logits_RV: Tensor, rows: Sequence[Picker], likeliest: Sequence[int | None]) -> list[int | None]:
    """The most likely token of each row, which is that of the model where the row changes no logits."""
    chosen = list(likeliest)
    changed = [r for r, row in enumerate(rows) if row.grammar is not None or row.seen is not None]
    if changed:
        for r, token in zip(changed, _best(logits_RV[changed]), strict=True):
            chosen[r] = token
    return chosen


def _of_block(blocks_RBW: Tensor, block_R: Tensor) -> Tensor:
    """Each row's own block, (rows, width)."""
    return blocks_RBW[torch.arange(len(block_R), device=block_R.device), block_R]


def _report(raw_RV: Tensor, rows: Sequence[Picker], chosen: Sequence[int | None]) -> None:
    """Leave with every row how likely the token was that it drew."""
    told = likely(raw_RV, [token or 0 for token in chosen], [row.top_logprobs or 0 for row in rows])
    for row, token, one in zip(rows, chosen, told, strict=True):
        row.likely = None if token is None else one


def _penalize(logits_RV: Tensor, rows: Sequence[Picker]) -> None:
    """Repetition (CTRL), then frequency and presence (OpenAI), in vLLM's order, only at the tokens that rows hold."""
    marked = [(r, row.seen, row.penalties) for r, row in enumerate(rows) if row.seen is not None and len(row.seen.ids)]
    if not marked:
        return
    device = logits_RV.device
    sizes = torch.tensor([len(seen.ids) for _, seen, _ in marked])
    row_N = torch.tensor([r for r, _, _ in marked]).repeat_interleave(sizes).to(device)
    repetition_N, presence_N, frequency_N = (
        torch.tensor(of_row, dtype=torch.float32).repeat_interleave(sizes).to(device)
        for of_row in zip(*(penalties for _, _, penalties in marked), strict=True)
    )
    ids_N = torch.from_numpy(np.concatenate([seen.ids for _, seen, _ in marked])).to(device)
    counts_N = torch.from_numpy(np.concatenate([seen.counts for _, seen, _ in marked])).to(device)
    scores_N = logits_RV[row_N, ids_N]
    scores_N = torch.where(scores_N > 0, scores_N / repetition_N, scores_N * repetition_N)
    logits_RV[row_N, ids_N] = scores_N - frequency_N * counts_N - presence_N * (counts_N > 0)


def _untruncated(row: Picker) -> bool:
    return row.top_k == 0 and row.top_p >= 1.0


def _scaled(logits_RV: Tensor, rows: Sequence[Picker], wanted: list[int]) -> Tensor:
    heat = torch.tensor([rows[r].temperature for r in wanted], device=logits_RV.device)
    some_RV = logits_RV if len(wanted) == len(logits_RV) else logits_RV[wanted]
    return some_RV / heat[:, None]


def _likely_enough(scaled_RC: Tensor, rows: Sequence[Picker]) -> Tensor:
    """Logits without those that are less likely than min-p of the most likely one.

    It is the last of the limits, as in transformers; what the others leave out does not change the ratio of two
    probabilities, so nothing has to be normalized again.
    """
    if not any(row.min_p for row in rows):
        return scaled_RC
    least = [math.log(row.min_p) if row.min_p else -math.inf for row in rows]
    floor_R1 = scaled_RC.amax(-1, keepdim=True) + torch.tensor(least, device=scaled_RC.device)[:, None]
    return scaled_RC.masked_fill(scaled_RC < floor_R1, -torch.inf)


def _truncated(logits_RV: Tensor, rows: Sequence[Picker]) -> list[int]:
    """Top-k, then top-p of what is left, then min-p, in that order, as transformers does.

    How many candidates are ranked depends on the row alone, so its draw does, too, even where tokens are equally likely.
    """
    numbers = [row.uniform() for row in rows]
    picked = [0] * len(rows)
    limits: dict[int, list[int]] = {}
    for r, row in enumerate(rows):
        limits.setdefault(row.top_k, []).append(r)
    for top_k, members in limits.items():
        some_RV = logits_RV if len(members) == len(rows) else logits_RV[members]
        total_R = None if top_k else some_RV.logsumexp(-1)
        left = list(range(len(members)))
        for count in (top_k,) if top_k else (*_CANDIDATES, logits_RV.shape[-1]):
            if not left:
                break
            asked = [rows[members[i]] for i in left]
            left_RV = some_RV if len(left) == len(some_RV) else some_RV[left]
            ranks, ids, whole = _ranked(left_RV, total_R if total_R is None else total_R[left], asked, count)
            drawn = _draw(ranks, [numbers[members[i]] for i in left])
            for at, i in enumerate(left):
                picked[members[i]] = int(ids[at, drawn[at]])
            left = [i for i, found in zip(left, whole, strict=True) if not found]
    return picked


def _ranked(
    logits_RV: Tensor, total_R: Tensor | None, rows: Sequence[Picker], count: int
) -> tuple[Tensor, Tensor, list[bool]]:
    """Probabilities of the ``count`` likeliest tokens, 0 for those that top-p and min-p leave out, and their ids; and
    for each row whether nothing but these can be drawn.

    Args:
        total_R: logsumexp of all logits; None where nothing but the candidates counts (top-k).
    """
    vocabulary = logits_RV.shape[-1]
    if count >= vocabulary:
        ranked_RC, ids_RC = logits_RV.sort(stable=True, dim=-1, descending=True)
    else:
        ranked_RC, ids_RC = logits_RV.topk(count, dim=-1)
    limited = total_R is None
    shares_RC = (ranked_RC - (ranked_RC.logsumexp(-1) if total_R is None else total_R)[:, None]).exp()
    heaps_RC = shares_RC.cumsum(-1)
    before_RC = heaps_RC - shares_RC
    before_RC[:, 0] = 0  # rounding must not drop the most likely one
    top_p = torch.tensor([row.top_p for row in rows], device=logits_RV.device)
    whole = [limited or count >= vocabulary or found for found in (heaps_RC[:, -1] >= top_p).tolist()]
    out_RC = (before_RC >= top_p[:, None]) | _likely_enough(ranked_RC, rows).isneginf()
    out_RC[:, 0] = False
    return shares_RC.masked_fill(out_RC, 0), ids_RC, whole


def _draw(weights_RC: Tensor, numbers: Sequence[float]) -> list[int]:
    """Index drawn for each row with probability proportional to its weight, by inverse cumulative sum."""
    at_R1 = torch.tensor(numbers, dtype=torch.float64, device=weights_RC.device)[:, None]
    if weights_RC.shape[-1] % _BLOCK:
        drawn: list[int] = _found(weights_RC, at_R1, of_total=True)[0][:, 0].tolist()
        return drawn
    blocks_RBW = weights_RC.unflatten(-1, (-1, _BLOCK))
    block_R1, rest_R1 = _found(blocks_RBW.sum(-1, dtype=torch.float64), at_R1, of_total=True)
    inside_R1, _ = _found(_of_block(blocks_RBW, block_R1[:, 0]), rest_R1, of_total=False)
    index: list[int] = (block_R1 * _BLOCK + inside_R1)[:, 0].tolist()
    return index


def _found(weights_RC: Tensor, at_R1: Tensor, *, of_total: bool) -> tuple[Tensor, Tensor]:
    """Where ``at`` falls among weights laid end to end, never at one that is 0, and how far into that weight.

    Args:
        of_total: ``at`` is a share of all weights together.
    """
    heaps_RC = weights_RC.double().cumsum(-1)
    total_R1 = heaps_RC[:, -1:]
    below_R1 = torch.nextafter(total_R1, torch.zeros_like(total_R1))  # never past the last weight there is
    at_R1 = torch.minimum(at_R1 * total_R1 if of_total else at_R1, below_R1)
    index_R1 = torch.searchsorted(heaps_RC, at_R1, right=True)
    before_R1 = torch.where(index_R1 > 0, heaps_RC.gather(1, (index_R1 - 1).clamp_min(0)), 0.0)
    return index_R1, at_R1 - before_R1
