"""Whether an exported model says what ours says: the question, its answer, and the process that finds out.

Both answer the same questions greedily. Where two answers part, our model is asked how much it preferred its own token
(in nats): a difference no larger than the rounding of the exported weights explains is counted apart.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec

from tunesmith.kernel.problems import Problem
from tunesmith.models.export import children

Form = Literal["peft", "merged", "gguf", "ollama"]
FORMS: tuple[Form, ...] = ("peft", "merged", "gguf", "ollama")
END = -1  # stands for whichever token ended an answer


class Bound(msgspec.Struct, frozen=True):
    """How far rounding alone takes two answers apart, in nats.

    Attributes:
        margin: by which our model prefers its own token where another one won.
        drift: see Parity.
    """

    margin: float
    drift: float


# by what the exported weights were rounded to: about twice what was measured (docs/decisions/0013-export.md)
BOUNDS = {"f32": Bound(0.01, 0.001), "f16": Bound(0.05, 0.005), "bf16": Bound(0.4, 0.05), "q8_0": Bound(0.5, 0.1)}


# an adapter that moves answers by less than this part of what rounding may has little to lose, and is not looked for
_FAINT = 50


class Check(msgspec.Struct, frozen=True):
    """What is asked of both.

    Attributes:
        dataset: what the questions are from, for the report.
        questions: conversations up to the assistant's turn, as a chat template takes them.
        max_tokens: most tokens of an answer.
        threads: of the CPU.
    """

    dataset: str
    questions: list[list[dict[str, str]]]
    max_tokens: int = 64
    threads: int = 1


class Reason(msgspec.Struct, frozen=True):
    """Why there is no comparison."""

    zh: str
    en: str


class Task(msgspec.Struct, frozen=True):
    """One check, as its process gets it.

    Attributes:
        base, adapter: folders of what we answer with.
        adapter_name: what messages call it.
        folder: what was exported.
        model, lora: names of GGUF files in it.
        type: one of BOUNDS: what the exported weights were rounded to.
    """

    form: Form
    base: str
    adapter: str
    adapter_name: str
    folder: str
    type: str
    check: Check
    model: str = ""
    lora: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """What one side said to one question.

    Attributes:
        prompt: the question's tokens.
        tokens: of the answer; END last if it ended by itself.
        scores: log-probability of each of ``tokens``, or of the first of them.
    """

    prompt: list[int]
    tokens: list[int]
    scores: list[float] = []


class Difference(msgspec.Struct, frozen=True):
    """Where two answers part.

    Attributes:
        row: index of the question.
        token: index in the answer.
        ours, theirs: the texts from there on, cut.
        margin: nats by which our model prefers its own token there.
    """

    row: int
    token: int
    ours: str
    theirs: str
    margin: float
    explained: bool


class Parity(msgspec.Struct, frozen=True):
    """The outcome of a check, as ``parity.json`` keeps it.

    Attributes:
        state: ``same``; ``rounding``: every difference is explained by it; ``different``; ``failed``: the export could
            not be asked; ``not_done``: nothing could be compared, and the export may be as good as any.
        against: what read the export.
        rows: questions compared.
        prompts_equal: of them, those whose question became the same tokens.
        identical: of them, those answered with the same tokens.
        explained: of the others, those that rounding explains.
        drift: nats by which the two differ on average in the log-probability of a token, as far as answers are alike;
            where the adapter is missing this is large even if no answer changes.
        effect: nats by which our model with the adapter and without it differ in the same way: what can be lost.
        margin_bound, drift_bound: nats up to which rounding explains them.
        first: the first unexplained difference, else the first of all.
    """

    state: Literal["same", "rounding", "different", "failed", "not_done"]
    against: str = ""
    dataset: str = ""
    rows: int = 0
    prompts_equal: int = 0
    identical: int = 0
    explained: int = 0
    max_tokens: int = 0
    weights: str = ""
    drift: float = 0.0
    effect: float = 0.0
    margin_bound: float = 0.0
    drift_bound: float = 0.0
    first: Difference | None = None
    reason: Reason | None = None

    @property
    def alarming(self) -> bool:
        """Whether the export should not be trusted as it is."""
        return self.state in ("different", "failed")


def checked(task: Task) -> Parity:
    """The outcome of the check, found in a process of its own; never raises for what goes wrong there."""
    missing = _missing(task.form)
    if missing is not None:
        return Parity("not_done", dataset=task.check.dataset, weights=task.type, reason=missing)
    if not task.check.questions:
        return not_done("数据集中没有问题", "the dataset holds no questions")
    try:
        return children.asked("tunesmith.models.export.checking", task, Parity, threads=task.check.threads)
    except Problem as problem:
        reason = Reason(problem.zh, problem.en)
        return Parity("failed", dataset=task.check.dataset, weights=task.type, reason=reason)


def not_done(zh: str, en: str) -> Parity:
    """There was no check, and why."""
    return Parity("not_done", reason=Reason(zh, en))


def compared(
    ours: Sequence[Answer],
    theirs: Sequence[Answer],
    bare: Sequence[Sequence[float]],
    *,
    bound: Bound,
    margin: Callable[[int, int], float],
    text: Callable[[Sequence[int]], str],
) -> Parity:
    """The figures of a check; the caller adds what it knows besides.

    Args:
        bare: log-probabilities of our answers' tokens in our model without the adapter.
        bound: what rounding explains.
        margin: by how much our model prefers its own token, of the answer to that question at that place.
        text: of tokens.
    """
    differences: list[Difference] = []
    for row, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        if mine.tokens == other.tokens:
            continue
        place = _parting(mine.tokens, other.tokens)
        preferred = margin(row, place)
        explained = mine.prompt == other.prompt and preferred <= bound.margin
        said, heard = (_cut(text, answer.tokens[place:]) for answer in (mine, other))
        differences.append(Difference(row, place, said, heard, preferred, explained))
    unexplained = [found for found in differences if not found.explained]
    equal = sum(mine.prompt == other.prompt for mine, other in zip(ours, theirs, strict=True))
    drift, effect = _drift(ours, theirs, bare)
    lost = drift > bound.drift or (drift > effect / 2 and drift > bound.drift / _FAINT)
    alike = not unexplained and equal == len(ours) and not lost
    return Parity(
        "different" if not alike else "rounding" if differences else "same",
        rows=len(ours),
        prompts_equal=equal,
        identical=len(ours) - len(differences),
        explained=len(differences) - len(unexplained),
        drift=drift,
        effect=effect,
        margin_bound=bound.margin,
        drift_bound=bound.drift,
        first=next(iter(unexplained or differences), None),
    )


def keep(parity: Parity, folder: Path) -> None:
    """Write ``parity.json`` into ``folder``."""
    encoded = msgspec.json.format(msgspec.json.encode(parity), indent=2)
    (folder / "parity.json").write_bytes(encoded + b"\n")


def _missing(form: Form) -> Reason | None:
    if form in ("peft", "merged") or find_spec("xllamacpp") is not None:
        return None
    return Reason(
        "没有 llama.cpp，未比较：pip install 'tunesmith[export]' 后重新导出",
        "there is no llama.cpp here to compare with: pip install 'tunesmith[export]' and export again",
    )


def _drift(ours: Sequence[Answer], theirs: Sequence[Answer], bare: Sequence[Sequence[float]]) -> tuple[float, float]:
    """``Parity.drift`` and ``Parity.effect``, over the same tokens."""
    apart: list[float] = []
    moved: list[float] = []
    for mine, other, plain in zip(ours, theirs, bare, strict=True):
        if mine.prompt == other.prompt:
            alike = min(_parting(mine.tokens, other.tokens), len(mine.scores), len(other.scores))
            apart += [abs(a - b) for a, b in zip(mine.scores[:alike], other.scores[:alike], strict=True)]
            moved += [abs(a - b) for a, b in zip(mine.scores[:alike], plain[:alike], strict=True)]
    count = len(apart) or 1
    return sum(apart) / count, sum(moved) / count


def _parting(mine: Sequence[int], other: Sequence[int]) -> int:
    same = (place for place, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b)
    return next(same, min(len(mine), len(other)))


def _cut(text: Callable[[Sequence[int]], str], tokens: Sequence[int]) -> str:
    said = text([token for token in tokens[:24] if token != END])
    return said + ("<end>" if END in tokens[:24] else "")
