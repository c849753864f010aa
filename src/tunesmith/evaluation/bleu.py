"""Corpus BLEU by sacreBLEU, kept as sufficient statistics so that resamples of the corpus cost no counting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.evaluation.characters import has_han

if TYPE_CHECKING:
    from tunesmith.evaluation.bootstrap import Matrix, Vector

_ORDERS = 4


@dataclass(frozen=True, slots=True)
class BleuCounts:
    """What BLEU needs of each example.

    Attributes:
        rows: (N, 10) float64: length of the answer, length of the reference, matched n-grams of order 1 to 4, n-grams
            of order 1 to 4 in the answer. Sums of rows are the statistics of a corpus.
        signature: sacreBLEU's, e.g. ``nrefs:1|case:mixed|eff:yes|tok:zh|smooth:exp|version:2.6.0``.
    """

    rows: Matrix
    signature: str


def tokenizer_for(references: Sequence[str]) -> str:
    """sacreBLEU's ``zh`` tokenizer where any reference holds Han characters (it splits the rest as 13a does), else
    ``13a``. Answers have no say, so that two models are measured alike."""
    return "zh" if any(map(has_han, references)) else "13a"


def count(outputs: Sequence[str], references: Sequence[str]) -> BleuCounts:
    """Statistics of each answer against its one reference.

    Effective order is on: a corpus without any 4-gram (answers of one to three tokens) is scored by the orders it
    has instead of zero. Wherever the standard figure is defined the two agree.
    """
    import numpy as np
    from sacrebleu.metrics.bleu import BLEU

    # force: answers may well end in " ."; that is no reason to print a warning
    metric = BLEU(tokenize=tokenizer_for(references), effective_order=True, force=True)
    rows = np.zeros((len(outputs), 2 + 2 * _ORDERS))
    for row, (output, reference) in enumerate(zip(outputs, references, strict=True)):
        score = metric.sentence_score(output, [reference])
        rows[row] = (score.sys_len, score.ref_len, *score.counts, *score.totals)
    signature = str(metric.get_signature())
    _forget_lines()
    return BleuCounts(rows, signature)


def value(totals: Matrix) -> Vector:
    """BLEU, 0 to 100, of each corpus.

    Args:
        totals: (R, 10), sums of ``BleuCounts.rows``.

    Returns:
        (R,) float64; equal to ``sacrebleu.metrics.BLEU.compute_bleu`` with ``smooth_method="exp"`` and effective
        order, for all rows at once.
    """
    import numpy as np

    answer, reference = totals[:, 0], totals[:, 1]
    matched, present = totals[:, 2 : 2 + _ORDERS], totals[:, 2 + _ORDERS :]
    exists = present > 0
    unmatched = exists & (matched == 0)
    # exponential smoothing: the k-th order without a match counts as 1 / 2^k matches
    counted = np.where(unmatched, 0.5 ** np.cumsum(unmatched, axis=1), matched)
    precision = np.where(exists, counted, 1.0) / np.where(exists, present, 1.0)
    mean_log = np.log(precision).sum(axis=1) / np.maximum(exists.sum(axis=1), 1)
    brevity = np.exp(np.minimum(0.0, 1.0 - reference / np.maximum(answer, 1.0)))
    result: Any = np.where(matched.any(axis=1), 100.0 * brevity * np.exp(mean_log), 0.0)
    return result  # type: ignore[no-any-return]


def _forget_lines() -> None:
    """sacreBLEU keeps up to 65,536 tokenized lines a tokenizer for ever; a server cannot afford that."""
    from sacrebleu.tokenizers import tokenizer_13a, tokenizer_re, tokenizer_zh

    for tokenizer in (tokenizer_13a.Tokenizer13a, tokenizer_re.TokenizerRegexp, tokenizer_zh.TokenizerZh):
        tokenizer.__call__.cache_clear()
