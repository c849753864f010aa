"""An evaluation: what was asked of which model, where it stands, what came of it. Plain values."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from tunesmith.datasets.example import Message
from tunesmith.evaluation.metrics import NAMES
from tunesmith.inference.chat import check_sampling
from tunesmith.inference.engine import Sampling
from tunesmith.kernel.problems import Invalid, Problem
from tunesmith.models.model import Model
from tunesmith.training.run import State

__all__ = ["MOST_QUESTIONS", "Evaluation", "EvaluationRequest", "Failure", "Question", "State", "checked"]

# a 95 % interval of 10,000 right-or-wrong answers is at most 2 points wide: more only takes longer
MOST_QUESTIONS = 10_000


@dataclass(frozen=True, slots=True)
class Question:
    """One example: what the model is asked, and the completion its author wants."""

    prompt: tuple[Message, ...]
    expected: str


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What to measure.

    Attributes:
        metrics: of ``metrics.NAMES``; "rouge" measures ROUGE-1, -2 and -L.
        sampling: how answers are drawn; perplexity needs none.
        compare: measure the bare base on the same questions too.
        label: what a person calls it; shown, never used as a name.
    """

    model: Model
    questions: tuple[Question, ...]
    metrics: tuple[str, ...]
    sampling: Sampling
    compare: bool = False
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an evaluation failed, for people, in both languages."""

    zh: str
    en: str

    @staticmethod
    def of(problem: Problem) -> "Failure":
        return Failure(problem.zh, problem.en)

    def message(self, language: str = "zh") -> str:
        """The reason in ``language``: "zh" or anything else for English."""
        return self.zh if language == "zh" else self.en


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The record of one evaluation.

    Attributes:
        questions: how many there are; they themselves lie in its folder.
        done, total: rows (answers to generate and references to score, of every model) finished, and in all.
        attempts: how often it was started; more than once where a server was killed meanwhile.
        result: see ``metrics.result``; only when completed.
        failure: only when failed.
    """

    id: str
    model: Model
    metrics: tuple[str, ...]
    sampling: Sampling
    compare: bool
    questions: int
    total: int
    created_at: datetime
    owner: str = "local"
    label: str | None = None
    state: State = State.QUEUED
    done: int = 0
    attempts: int = 0
    result: dict[str, Any] | None = None
    failure: Failure | None = None
    ended_at: datetime | None = None

    @property
    def error(self) -> str | None:
        """The reason of the failure in Chinese; ``failure`` holds both languages."""
        return self.failure.zh if self.failure else None


def checked(request: EvaluationRequest) -> EvaluationRequest:
    """``request`` with each metric named once.

    Raises:
        Invalid: no or an unknown metric; no or more than ``MOST_QUESTIONS`` questions; a question without prompt or
            expected answer (``field`` names it as ``test_data[3].expected``); text that is not Unicode; a sampling
            value out of range (see ``chat.check_sampling``); a comparison of a model that wears no adapter.
    """
    if not request.metrics:
        raise Invalid("metrics 不能为空", "metrics must name at least one metric", field="metrics", known=list(NAMES))
    for place, name in enumerate(request.metrics):
        if name not in NAMES:
            raise Invalid(
                f"未知的评估指标 {name[:64]!r}，可用：{'、'.join(NAMES)}",
                f"unknown metric {name[:64]!r}; known are {', '.join(NAMES)}",
                field=f"metrics[{place}]",
                known=list(NAMES),
            )
    if not request.questions:
        raise Invalid("test_data 不能为空", "test_data must hold at least one example", field="test_data")
    if len(request.questions) > MOST_QUESTIONS:
        raise _too_many(len(request.questions))
    for place, question in enumerate(request.questions):
        _check_question(question, f"test_data[{place}]")
    check_sampling(request.sampling)
    if request.compare and request.model.adapter is None:
        raise Invalid(
            f"无法比较：模型 {request.model.base} 没有适配器，请指定一个适配器",
            f"nothing to compare: {request.model.base} wears no adapter; name one",
            field="compare",
        )
    return replace(request, metrics=tuple(dict.fromkeys(request.metrics)))


def _too_many(questions: int) -> Invalid:
    return Invalid(
        f"test_data 最多 {MOST_QUESTIONS} 题，得到 {questions} 题；请随机抽取其中一部分后重新提交",
        f"test_data takes up to {MOST_QUESTIONS} questions, got {questions}; submit a random sample of them",
        field="test_data",
        limit=MOST_QUESTIONS,
    )


def _check_question(question: Question, field: str) -> None:
    if not question.prompt or not question.prompt[-1].content.strip():
        raise Invalid(f"{field}.input 不能为空", f"{field}.input must not be empty", field=f"{field}.input")
    if not question.expected.strip():
        raise Invalid(
            f"{field}.expected 不能为空：每个指标都要与它比较",
            f"{field}.expected must not be empty: every metric compares with it",
            field=f"{field}.expected",
        )
    for name, text in (("expected", question.expected), *(("input", m.content) for m in question.prompt)):
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON can smuggle in half a character
            raise Invalid(
                f"{field}.{name} 含有无效字符", f"{field}.{name} holds a lone surrogate", field=f"{field}.{name}"
            ) from error
