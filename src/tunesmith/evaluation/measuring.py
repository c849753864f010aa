"""Asking the engine, some questions of all models at a time: answers, then scores, then the figures."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from tunesmith.evaluation import metrics, perplexity
from tunesmith.evaluation.evaluation import Evaluation, Question
from tunesmith.evaluation.metrics import Answers, Figure, Result
from tunesmith.inference.engine import Delta, Done, Engine, Reference, Request, Score
from tunesmith.kernel.problems import Unavailable
from tunesmith.models.model import Model

# questions put to every model in one call of the engine: what is in flight does not grow with the evaluation
_ASKED_AT_ONCE = 256

Told = Callable[[int], Awaitable[None]]
Outputs = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Said:
    """What one model did, in the order of the questions; a part no metric needs is empty."""

    texts: list[str] = field(default_factory=list)
    ends: list[Done] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)


async def measure(
    engine: Engine, evaluation: Evaluation, questions: Sequence[Question], told: Told
) -> tuple[Result, Outputs]:
    """Ask every model every question and compute the figures.

    Args:
        told: awaited with the number of rows that ended since it was last awaited.

    Returns:
        The result (see ``metrics.result``) and the outputs (see ``outputs``).

    Raises:
        Problem: whatever the engine raised; Unavailable also where it left a row without an end or canceled it,
            or gave a score no model can give.
    """
    models = (evaluation.model.bare(), evaluation.model) if evaluation.compare else (evaluation.model,)
    answered = await _answers(engine, evaluation, questions, models, told)
    scored = await _scores(engine, evaluation, questions, models, told)
    said = [_Said(*a, s) for a, s in zip(answered, scored, strict=True)]
    # numbers take seconds on long texts; the loop has other callers
    return await asyncio.to_thread(_outcome, evaluation, questions, said)


async def _answers(
    engine: Engine, evaluation: Evaluation, questions: Sequence[Question], models: Sequence[Model], told: Told
) -> list[tuple[list[str], list[Done]]]:
    """For each model its texts and their ends; base and tuned share the engine's calls."""
    if not metrics.NEEDS_ANSWERS & set(evaluation.metrics):
        return [([], []) for _ in models]
    answered: list[tuple[list[str], list[Done]]] = [([], []) for _ in models]
    for start in range(0, len(questions), _ASKED_AT_ONCE):
        some = questions[start : start + _ASKED_AT_ONCE]
        requests = [Request(q.prompt, model, evaluation.sampling) for model in models for q in some]
        said, ended = await _answered(engine, requests, told)
        for row in range(len(requests)):
            if row not in ended or ended[row].finish == "canceled":
                raise _cut_short(start + row % len(some))
        for place, (texts, ends) in enumerate(answered):
            rows = range(place * len(some), (place + 1) * len(some))
            texts.extend(said[row] for row in rows)
            ends.extend(ended[row] for row in rows)
    return answered


async def _answered(engine: Engine, requests: Sequence[Request], told: Told) -> tuple[list[str], dict[int, Done]]:
    """The text of each row, and the ends by row, from one call of the engine."""
    parts: list[list[str]] = [[] for _ in requests]
    ends: dict[int, Done] = {}
    async with aclosing(engine.generate(requests)) as events:
        async for event in events:
            if isinstance(event, Delta):
                parts[event.row].append(event.text)
            else:
                ends[event.row] = event
                await told(1)
    return ["".join(each) for each in parts], ends


async def _scores(
    engine: Engine, evaluation: Evaluation, questions: Sequence[Question], models: Sequence[Model], told: Told
) -> list[list[Score]]:
    """For each model the scores of the references; base and tuned share the engine's calls."""
    if not metrics.NEEDS_SCORES & set(evaluation.metrics):
        return [[] for _ in models]
    scores: list[list[Score]] = [[] for _ in models]
    for start in range(0, len(questions), _ASKED_AT_ONCE):
        some = questions[start : start + _ASKED_AT_ONCE]
        together = await engine.score([Reference(q.prompt, q.expected, model) for model in models for q in some])
        if len(together) != len(some) * len(models):
            raise _cut_short(start)
        for row, score in enumerate(together):
            if perplexity.impossible(score):
                raise _impossible(start + row % len(some), score)
        for place, of_model in enumerate(scores):
            of_model.extend(together[place * len(some) : (place + 1) * len(some)])
        await told(len(together))
    return scores


def _outcome(evaluation: Evaluation, questions: Sequence[Question], said: Sequence[_Said]) -> tuple[Result, Outputs]:
    references = [question.expected for question in questions]
    figures = [metrics.figures(evaluation.metrics, references, Answers(s.texts, s.scores)) for s in said]
    base = figures[0] if evaluation.compare else None
    return metrics.result(figures[-1], base), outputs(questions, said, figures)


def outputs(questions: Sequence[Question], said: Sequence[_Said], figures: Sequence[dict[str, Figure]]) -> Outputs:
    """One JSON object a question.

    Returns:
        ``{"index", "prompt": [{"role", "content"}], "expected", "output", "finish", "completion_tokens", "logprob",
        "tokens", "scores": {figure: value of this example}}``: the measured model's; a comparison adds ``"base"``
        with what the bare base did, from "output" on. Keys that no metric asked for are absent.
    """
    of_models = [_each(s, f) for s, f in zip(said, figures, strict=True)]
    rows: Outputs = []
    for index, question in enumerate(questions):
        asked = {"index": index, "prompt": [m.as_dict() for m in question.prompt], "expected": question.expected}
        row = asked | of_models[-1][index]
        if len(of_models) > 1:
            row["base"] = of_models[0][index]
        rows.append(row)
    return rows


def _each(said: _Said, figures: dict[str, Figure]) -> Outputs:
    rows: Outputs = [{"scores": scores} for scores in metrics.each_example(figures)]
    for row, text, end in zip(rows, said.texts, said.ends, strict=False):
        row |= {"output": text, "finish": end.finish, "completion_tokens": end.completion_tokens}
    for row, score in zip(rows, said.scores, strict=False):
        row |= {"logprob": score.logprob, "tokens": score.tokens}
    return rows


def _cut_short(question: int) -> Unavailable:
    return Unavailable(
        f"推理引擎没有完成 test_data[{question}]，请重试",
        f"the engine ended without finishing test_data[{question}]; try again",
        field=f"test_data[{question}]",
    )


def _impossible(question: int, score: Score) -> Unavailable:
    said = f"logprob {score.logprob}, tokens {score.tokens}"
    return Unavailable(
        f"推理引擎给 test_data[{question}] 的概率无效（{said}），模型可能已损坏，请检查适配器后重试",
        f"the engine's probability of test_data[{question}] is impossible ({said}); the model may be damaged, "
        "check the adapter and try again",
        field=f"test_data[{question}]",
    )
