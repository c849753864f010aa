"""Questions put to the engine slice by slice."""

from datetime import UTC, datetime

import pytest

from tests.unit.evaluation.answering import AnsweringEngine
from tests.unit.evaluation.test_service import GREEDY, TUNED, ask
from tunesmith.evaluation import measuring
from tunesmith.evaluation.evaluation import Evaluation
from tunesmith.evaluation.metrics import Result

FACTS = {f"q{n}": f"a{n}" for n in range(300)}
EVALUATION = Evaluation(
    id="one",
    model=TUNED,
    metrics=("exact_match", "perplexity"),
    sampling=GREEDY,
    compare=True,
    questions=300,
    total=1200,
    created_at=datetime(2025, 1, 1, tzinfo=UTC),
)


async def _measured(engine: AnsweringEngine) -> tuple[Result, measuring.Outputs, int]:
    rows: list[int] = []

    async def told(count: int) -> None:
        rows.append(count)

    result, outputs = await measuring.measure(engine, EVALUATION, ask(FACTS), told)
    return result, outputs, sum(rows)


async def test_many_questions_are_answered_in_slices_with_both_models_in_each() -> None:
    engine = AnsweringEngine(FACTS, {"q299": "a299"})
    result, outputs, rows = await _measured(engine)
    assert [len(call) for call in engine.generated] == [512, 88]
    assert all({row.model for row in call} == {TUNED, TUNED.bare()} for call in engine.generated)
    assert (engine.closed, engine.most_active, rows) == (2, 1, 1200)
    assert [row["output"] for row in outputs] == list(FACTS.values())
    assert [row["base"]["output"] for row in outputs] == ["I do not know."] * 299 + ["a299"]
    assert result["metrics"]["exact_match"]["value"] == 1


async def test_slices_bring_what_one_call_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    base = {f"q{n}": f"a{n}" for n in range(0, 300, 7)}
    sliced = await _measured(AnsweringEngine(FACTS, base))
    monkeypatch.setattr(measuring, "_ASKED_AT_ONCE", 1000)
    whole = AnsweringEngine(FACTS, base)
    assert await _measured(whole) == sliced
    assert [len(call) for call in whole.generated] == [600]
