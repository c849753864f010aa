"""ROUGE-1, ROUGE-2 and ROUGE-L F1 by rouge-score, with a tokenizer that does not lose Chinese."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from tunesmith.evaluation.characters import is_word_alone

if TYPE_CHECKING:
    from tunesmith.evaluation.bootstrap import Matrix

KINDS = ("rouge1", "rouge2", "rougeL")
# the longest common subsequence costs the product of both lengths in Python: 512 by 512 is about 40 ms
MAX_TOKENS = 512


def tokens(text: str) -> list[str]:
    """Words of ``text`` after NFKC and case folding: runs of letters, digits and their marks; each Han character and
    kana is a word by itself. Punctuation, symbols and spaces are no words. No stemming."""
    words: list[str] = []
    open_word = False
    for char in unicodedata.normalize("NFKC", text).casefold():
        if is_word_alone(char):
            words.append(char)
            open_word = False
        elif unicodedata.category(char)[0] not in "LNM":
            open_word = False
        elif open_word:
            words[-1] += char
        else:
            words.append(char)
            open_word = True
    return words


class _Tokenizer:
    """What rouge-score asks of a tokenizer. Only the first MAX_TOKENS words of a text are scored."""

    def tokenize(self, text: str) -> list[str]:
        return list(islice(tokens(text), MAX_TOKENS))


def scores(outputs: Sequence[str], references: Sequence[str]) -> Matrix:
    """F1 of each answer against its reference.

    Returns:
        (N, 3) float64 in [0, 1], columns as in KINDS. As the library has it, a text without words scores 0, and so
        does a text of one word in ROUGE-2, having no pair of words.
    """
    import numpy as np
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(KINDS), tokenizer=_Tokenizer())
    rows = np.zeros((len(outputs), len(KINDS)))
    for row, (output, reference) in enumerate(zip(outputs, references, strict=True)):
        score = scorer.score(reference, output)
        rows[row] = [score[kind].fmeasure for kind in KINDS]
    return rows
