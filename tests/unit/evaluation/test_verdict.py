"""Plain sentences about a comparison."""

from typing import Any

from tunesmith.evaluation.verdict import verdict


def _difference(value: float, low: float, high: float, significant: bool) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "p": 0.001 if significant else 0.4, "significant": significant}


def _figure(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def test_a_clear_win_is_said_with_its_numbers_in_both_languages() -> None:
    found = verdict(
        {
            "count": 120,
            "metrics": {"exact_match": _figure(0.97)},
            "base": {"exact_match": _figure(0.02)},
            "difference": {"exact_match": _difference(0.95, 0.91, 0.99, True)},
        }
    )
    assert found.en == (
        "tuned is better on exact_match: 0.97 against 0.02, difference 0.95 [0.91, 0.99], significant (120 questions)."
    )
    assert found.message() == (
        "微调后 exact_match 更好：微调 0.97，基座 0.02，相差 0.95 [0.91, 0.99]，显著（120 题）。"
    )


def test_a_lower_perplexity_is_better_and_a_loss_is_not_hidden() -> None:
    found = verdict(
        {
            "count": 1,
            "metrics": {"perplexity": _figure(2), "bleu": _figure(10), "rougeL": _figure(0.5), "rouge1": _figure(0.5)},
            "base": {"perplexity": _figure(8), "bleu": _figure(30), "rougeL": _figure(0.49), "rouge1": _figure(0.5)},
            "difference": {
                "perplexity": _difference(-6, -7, -5, True),
                "bleu": _difference(-20, -25, -15, True),
                "rougeL": _difference(0.01, -0.001, 0.03, False),
                "rouge1": _difference(0, -0.01, 0.01, False),
            },
        }
    )
    assert found.en == (
        "tuned and base cannot be told apart on rougeL: 0.50 against 0.49, difference 0.01 [0.00, 0.03], "
        "not significant (1 question). "
        "Also: better on perplexity; worse on bleu; no significant difference on rouge1."
    )
    assert "bleu 变差" in found.zh
    assert "不显著" in found.zh


def test_a_model_alone_is_stated_with_its_interval() -> None:
    found = verdict({"count": 3, "metrics": {"perplexity": _figure(123456.7), "exact_match": _figure(0.5)}})
    assert found.en == "exact_match 0.50 [0.40, 0.60], perplexity 1.23e+05 [1.23e+05, 1.23e+05] (3 questions)."
