"""What is said of a run while it trains."""

from datetime import UTC, datetime

import pytest

from tunesmith.cli.watching import Curve, _facts
from tunesmith.training.run import Progress, Recipe, Run, State


def test_preferences_are_told_of_by_accuracy_and_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress(step=3, total_steps=9, loss=0.5)
    run = Run(
        id="a", recipe=Recipe("tiny", "d"), output="adapters/a", executor="local", created_at=datetime.now(UTC),
        state=State.RUNNING, progress=progress,
    )  # fmt: skip
    curve = Curve()
    monkeypatch.setenv("TUNESMITH_LANG", "en")
    curve.take({"step": 1, "loss": 0.69})
    assert "reward" not in _facts(run, curve)
    curve.take({"step": 2, "loss": 0.6, "rewards/accuracies": 0.75, "rewards/margins": 1.234})
    curve.take(
        {"event": "validation", "validation_loss": 0.6, "rewards/accuracies": 0.5, "rewards/margins": -0.1, "step": 2}
    )
    curve.take({"step": 3, "loss": 2.1, "nll_loss": 2.1})  # of general examples alone: the last rewards stand
    assert "reward accuracy 75%, margin 1.23" in _facts(run, curve)
    assert "validation: reward accuracy 50%, margin -0.10" in _facts(run, curve)
    assert curve.losses == [0.69, 0.6, 2.1]
    monkeypatch.setenv("TUNESMITH_LANG", "zh")
    assert "奖励准确率 75%，差距 1.23" in _facts(run, curve)
