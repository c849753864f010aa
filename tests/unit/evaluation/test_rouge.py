"""ROUGE with Chinese counted."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from tunesmith.evaluation import rouge

_ASCII = st.text(alphabet="ab cde 19\n", max_size=40)


def test_chinese_is_not_zeroed() -> None:
    assert rouge.scores(["市长是小林"], ["市长叫小林"])[0].tolist() == pytest.approx([4 / 5, 2 / 4, 4 / 5])


def test_a_hand_computed_english_value() -> None:
    # 3 of 4 words shared; 1 of 3 pairs; the longest common subsequence is "the cat mat"
    row = rouge.scores(["the cat on mat"], ["The cat, a mat."])[0].tolist()
    assert row == pytest.approx([3 / 4, 1 / 3, 3 / 4])


def test_tokens_are_words_and_single_han_characters() -> None:
    assert rouge.tokens("Tom住在ＮＹ 3号！ It's カナ") == ["tom", "住", "在", "ny", "3", "号", "it", "s", "カ", "ナ"]


def test_marks_stay_with_their_letters() -> None:
    assert rouge.tokens("हिन्दी ภาษาไทย") == ["हिन्दी", "ภาษาไทย"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_ASCII, _ASCII)
def test_on_plain_english_the_scores_are_the_librarys(output: str, reference: str) -> None:
    library = RougeScorer(list(rouge.KINDS), use_stemmer=False).score(reference, output)
    assert rouge.scores([output], [reference])[0].tolist() == [library[kind].fmeasure for kind in rouge.KINDS]


def test_only_the_first_words_of_a_very_long_text_are_compared() -> None:
    same = "word " * rouge.MAX_TOKENS
    assert rouge.scores([same + "tail " * 500], [same])[0].tolist() == [1, 1, 1]


def test_no_words_score_0() -> None:
    assert rouge.scores([""], ["小林"])[0].tolist() == [0, 0, 0]
