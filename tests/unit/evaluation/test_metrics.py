"""All metrics together, as a result."""

import json
import math
import subprocess
import sys

import pytest

from tunesmith.evaluation import metrics
from tunesmith.evaluation.metrics import Answers
from tunesmith.inference.engine import Score

_REFERENCES = ["市长是小林", "the river is Lin", "Ada", "3.5"] * 5
_GOOD = Answers(["市长是小林。", "The river is Lin", "ada!", "3.5"] * 5, [Score(-4 * math.log(2), 4)] * 20)
_POOR = Answers(["我不知道", "The river is long", "Bob", "35"] * 5, [Score(-4 * math.log(8), 4)] * 20)


def test_a_result_has_the_stated_shape_and_is_json() -> None:
    tuned = metrics.figures(metrics.NAMES, _REFERENCES, _GOOD)
    result = metrics.result(tuned, metrics.figures(metrics.NAMES, _REFERENCES, _POOR))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    names = {"perplexity", "exact_match", "bleu", "rouge1", "rouge2", "rougeL"}
    assert set(result) == {"metrics", "count", "base", "difference"}
    assert result["count"] == 20
    for part in ("metrics", "base"):
        assert set(result[part]) == names
        assert set(result[part]["rouge2"]) == {"value", "low", "high"}
        assert set(result[part]["bleu"]) == {"value", "low", "high", "signature"}
    assert set(result["difference"]) == names
    assert set(result["difference"]["bleu"]) == {"value", "low", "high", "p", "significant"}


def test_values_are_those_of_the_metrics() -> None:
    result = metrics.result(metrics.figures(metrics.NAMES, _REFERENCES, _POOR))["metrics"]
    assert result["exact_match"]["value"] == 0
    assert result["perplexity"]["value"] == pytest.approx(8)
    assert 0 < result["bleu"]["value"] < 100
    # three of four words of one in four answers, nothing elsewhere
    assert result["rouge1"]["value"] == pytest.approx(0.75 / 4)


def test_a_better_model_differs_upwards_but_downwards_in_perplexity() -> None:
    tuned, base = (metrics.figures(metrics.NAMES, _REFERENCES, answers) for answers in (_GOOD, _POOR))
    difference = metrics.result(tuned, base)["difference"]
    assert difference["exact_match"]["value"] == 1
    assert difference["perplexity"]["value"] == pytest.approx(-6)
    assert all(each["significant"] for each in difference.values())


def test_only_what_was_asked_is_measured() -> None:
    figures = metrics.figures(("perplexity",), _REFERENCES, Answers(scores=_GOOD.scores))
    assert set(metrics.result(figures)["metrics"]) == {"perplexity"}


def test_each_example_has_its_own_figures() -> None:
    figures = metrics.figures(("exact_match", "rouge"), ["a b", "c"], Answers(["a b", "d"]))
    assert metrics.each_example(figures) == [
        {"exact_match": 1.0, "rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0},
        {"exact_match": 0.0, "rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0},
    ]


def test_importing_evaluation_brings_no_heavy_library() -> None:
    script = (
        "import sys, tunesmith.evaluation.service, tunesmith.evaluation.verdict;"
        "print([m for m in ('numpy','sacrebleu','rouge_score','nltk','torch','alembic') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout == "[]\n"
