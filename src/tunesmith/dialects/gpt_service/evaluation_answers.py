"""What the paths of evaluation answer. Times are in UTC without zone."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from tunesmith.datasets.example import Role
from tunesmith.dialects.gpt_service.wire import time_of
from tunesmith.evaluation.evaluation import Evaluation, State


class EvaluationStarted(TypedDict):
    """An evaluation was recorded, or ended."""

    status: Literal["success"]
    eval_id: str
    message: str


class Figure(TypedDict):
    """A metric over all examples, and where 95 % of resamples fall; ``signature`` is sacrebleu's, for BLEU alone."""

    value: float
    low: float
    high: float
    signature: NotRequired[str]


class FigureDifference(TypedDict):
    """A metric of the tuned model minus that of the base; ``p`` is two-sided, of no difference."""

    value: float
    low: float
    high: float
    p: float
    significant: bool


class EvaluationFigures(TypedDict, total=False):
    """Figures by their names, over ``count`` examples; empty until the evaluation has completed.

    ``base`` and ``difference`` are there where the bare base was measured too.
    """

    metrics: dict[str, Figure]
    count: int
    base: dict[str, Figure]
    difference: dict[str, FigureDifference]


class _Told(TypedDict):
    eval_id: str
    status: State
    progress: float
    metrics: dict[str, float | dict[str, float]]
    details: EvaluationFigures
    sample_count: int
    created_at: str
    completed_at: str | None
    error: str | None


class EvaluationResults(_Told):
    """An evaluation as the document tells of it.

    ``progress`` is in percent. ``model_name`` is what the evaluation is called: the model's name, unless it was asked for
    otherwise. ``metrics`` are plain numbers, those of ROUGE under "rouge"; ``details`` has the intervals. ``error`` is for
    people, in their language.
    """

    model_name: str | None


class EvaluationDetails(_Told):
    """An evaluation with what was asked, and what it says in words; see ``EvaluationResults``.

    ``done`` of ``total`` rows have ended: answers and scores, of every model. ``lower_is_better`` are names of figures.
    """

    model_name: str
    base_model: str
    adapter: str | None
    label: str | None
    compare: bool
    asked_metrics: list[str]
    lower_is_better: list[str]
    max_tokens: int
    done: int
    total: int
    verdict: str | None


class EvaluationHistory(TypedDict):
    """Evaluations, newest first."""

    history: list[EvaluationDetails]
    total_count: int


class QuestionTurn(TypedDict):
    """One turn of what was asked."""

    role: Role
    content: str


class Answered(TypedDict):
    """What one model made of one question; what no metric asked for is absent.

    ``scores`` are the figures of this example alone. ``logprob`` is the natural logarithm of the probability of the
    expected answer, of ``tokens`` tokens.
    """

    scores: dict[str, float]
    output: NotRequired[str]
    finish: NotRequired[str]
    completion_tokens: NotRequired[int]
    logprob: NotRequired[float]
    tokens: NotRequired[int]


class EvaluationRow(Answered):
    """One question, what the measured model made of it, and in a comparison what the bare base did."""

    index: int
    prompt: list[QuestionTurn]
    expected: str
    base: NotRequired[Answered]


class EvaluationOutputs(TypedDict):
    """What each question brought, in the order of the questions."""

    eval_id: str
    rows: list[EvaluationRow]
    total_count: int


def results(found: Evaluation, language: str) -> EvaluationResults:
    """An evaluation as the document's results."""
    result: EvaluationFigures = found.result or {}  # type: ignore[assignment]  # as it is kept
    values = {name: each["value"] for name, each in result.get("metrics", {}).items()}
    return {
        "eval_id": found.id,
        "status": found.state,
        "progress": round(100.0 * found.done / found.total, 1) if found.total else 0.0,
        "model_name": found.label,
        "metrics": _nest_rouge(values),
        "details": result,
        "sample_count": found.questions,
        "created_at": time_of(found.created_at),
        "completed_at": time_of(found.ended_at) if found.ended_at else None,
        "error": found.failure.message(language) if found.failure else None,
    }


def _nest_rouge(values: dict[str, float]) -> dict[str, float | dict[str, float]]:
    rouge = {name: value for name, value in values.items() if name.startswith("rouge")}
    rest: dict[str, float | dict[str, float]] = {name: value for name, value in values.items() if name not in rouge}
    return {**rest, "rouge": rouge} if rouge else rest
