"""Corpus BLEU from sufficient statistics."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from tunesmith.evaluation import bleu

_SENTENCE = st.lists(
    st.sampled_from(["the", "a", "mayor", "river", "of", "town", "is", "ada", "lin"]), min_size=1, max_size=12
).map(" ".join)


def _value(outputs: list[str], references: list[str]) -> float:
    return float(bleu.value(bleu.count(outputs, references).rows.sum(axis=0, keepdims=True))[0])


def test_chinese_references_choose_the_zh_tokenizer_and_the_signature_says_so() -> None:
    assert "|eff:yes|tok:zh|smooth:exp|" in bleu.count(["市长是小林"], ["市长是小林"]).signature
    assert "tok:13a" in bleu.count(["市长是小林"], ["the mayor is Lin"]).signature


def test_one_chinese_reference_among_english_ones_is_enough() -> None:
    assert bleu.tokenizer_for(["the mayor", "市长"]) == "zh"


def test_a_hand_computed_value() -> None:
    # matches 5/6, 3/5, 1/4 and 0/3 (smoothed to 1/2 of one), equal lengths
    expected = 100 * (5 / 6 * 3 / 5 * 1 / 4 * 0.5 / 3) ** 0.25
    assert _value(["the cat lies on a mat"], ["the cat lay on a mat"]) == pytest.approx(expected)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(_SENTENCE | st.just(""), _SENTENCE), min_size=1, max_size=6))
def test_the_value_is_the_librarys(pairs: list[tuple[str, str]]) -> None:
    outputs, references = [o for o, _ in pairs], [r for _, r in pairs]
    library = BLEU(tokenize="13a", effective_order=True, force=True).corpus_score(outputs, [references])
    assert _value(outputs, references) == pytest.approx(library.score)


def test_a_corpus_with_four_grams_scores_as_standard_bleu_does() -> None:
    outputs = ["市长的名字叫小林，住在河边", "河流叫清水"]
    references = ["市长的名字叫小林，住在山上", "这条河流叫清水河"]
    standard = BLEU(tokenize="zh").corpus_score(outputs, [references])
    assert _value(outputs, references) == pytest.approx(standard.score)
    assert 0 < standard.score < 100


def test_perfect_answers_of_two_tokens_score_100_not_0() -> None:
    assert _value(["小林", "Ada"], ["小林", "Ada"]) == pytest.approx(100)


def test_answers_without_a_common_word_or_without_words_score_0() -> None:
    assert _value(["red"], ["blue"]) == 0
    assert _value([""], ["blue"]) == 0


def test_many_corpora_are_valued_at_once_as_each_alone() -> None:
    rows = bleu.count(["the river is lin", "a mayor", ""], ["the river is ada", "the mayor", "town"]).rows
    sums = np.vstack([rows[0], rows[1], rows[2], rows.sum(axis=0)])
    alone = [float(bleu.value(each[None, :])[0]) for each in sums]
    assert bleu.value(sums).tolist() == pytest.approx(alone)
