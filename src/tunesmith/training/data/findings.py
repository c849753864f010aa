"""What is known of a run's data before it is trained on: plain values, no torch. ``data.json`` in the run's folder."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from tunesmith.kernel.files import write_json

DATA = "data.json"
_SHORTEST = 16  # tokens of the first bin
Level = Literal["error", "warning"]
Kind = Literal["bad", "cut", "duplicate", "leak", "thought", "end", "template", "same", "contrary"]
Role = Literal["train", "replay", "validation", "test", "control"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one row, or about the file.

    Attributes:
        level: a run does not start with an "error"; a "warning" is for a person to weigh.
        part: label of the part it was found in. file: which of its files.
        line: counts from 1; None where the file as a whole is meant.
        field: path inside the row, e.g. ``messages[2].content``; empty when the row as a whole is meant.
        zh, en: the reason and, after a semicolon, the remedy.
    """

    level: Level
    kind: Kind
    part: str
    file: str
    line: int | None
    field: str
    zh: str
    en: str

    def text(self, language: str = "zh") -> str:
        """One line a person can act on: ``train.json:17: output: is empty; fill it in or remove the row``."""
        colon, reason = ("：", self.zh) if language == "zh" else (": ", self.en)
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.field + colon if self.field else ''}{reason}"


@dataclass(frozen=True, slots=True)
class Spread:
    """Numbers of tokens, one a row: all together, and quantiles."""

    total: int
    least: int
    median: int
    p90: int
    p99: int
    most: int

    @staticmethod
    def of(counts: Mapping[int, int]) -> "Spread | None":
        """The spread of numbers that occur so often; None of none."""
        rows = sum(counts.values())
        if not rows:
            return None
        numbers, upto, passed = sorted(counts), [], 0
        for number in numbers:
            passed += counts[number]
            upto.append(passed)

        def at(share: float) -> int:
            return numbers[bisect_left(upto, max(1, round(share * rows)))]

        total = sum(number * times for number, times in counts.items())
        return Spread(total, numbers[0], at(0.5), at(0.9), at(0.99), numbers[-1])


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of more tokens than the bin before, and at most ``upto``."""

    upto: int
    rows: int


def histogram(counts: Mapping[int, int], max_length: int) -> tuple[Bin, ...]:
    """Rows by their length, in bins that double; one of them ends at ``max_length``, behind which rows are cut."""
    if not counts:
        return ()
    borders = sorted({max_length, *(_SHORTEST << doubled for doubled in range(max(counts).bit_length()))})
    rows = [0] * len(borders)
    for length, times in counts.items():
        rows[bisect_left(borders, length)] += times
    filled = [index for index, number in enumerate(rows) if number]
    return tuple(Bin(borders[index], rows[index]) for index in range(filled[0], filled[-1] + 1))


@dataclass(frozen=True, slots=True)
class Part:
    """What was found in one file or split.

    Attributes:
        examples: rows that can be learned. bad: rows that cannot.
        duplicates: rows that say what an earlier row of the part says; case and white space do not count.
        alike: rows that ask what an earlier row asks, and have another answer.
        leaks: rows that ask what a row of a part before it asks.
        cut: rows longer than ``max_length``. cut_learning: those of them that lose something to be learned.
        cut_tokens: what all of them lose. cut_learned: what of that was to be learned.
        answers_lost: assistant turns of which nothing is left.
        endless: rows whose last learned token does not end an answer when the model is served.
        empty_thoughts: rows in which a thought without a word is learned.
        tokens: of each example before it is cut; of preferences, those that are chosen. learned: of each row after it.
        rejected, rejected_lengths: as ``tokens`` and ``lengths``, of rejected answers; None and empty but for
            preferences.
        same: preferences whose answers differ by case, width or white space alone.
        contrary: preferences that choose what an earlier row of the part rejects for it.
    """

    label: str
    role: Role
    examples: int
    bad: int
    duplicates: int
    alike: int
    leaks: int
    cut: int
    cut_learning: int
    cut_tokens: int
    cut_learned: int
    answers_lost: int
    endless: int
    empty_thoughts: int
    tokens: Spread | None
    learned: Spread | None
    lengths: tuple[Bin, ...]
    rejected: Spread | None = None
    rejected_lengths: tuple[Bin, ...] = ()
    same: int = 0
    contrary: int = 0

    @property
    def pairs(self) -> bool:
        """Whether its rows are preferences."""
        return self.rejected is not None


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in all the data of a run.

    Attributes:
        template_sha256: of the chat template, as adapters record it.
        ends: the tokens that end a learned answer, as text, the commonest first.
        findings: the first of each kind in each part, in the order of the parts.
    """

    base: str
    max_length: int
    template_sha256: str
    ends: tuple[str, ...]
    parts: tuple[Part, ...]
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether a run could start on this."""
        return all(finding.level != "error" for finding in self.findings) and all(part.examples for part in self.parts)

    def line(self, language: str = "zh") -> str:
        """Everything that matters in one line."""
        train = [part for part in self.parts if part.role in ("train", "replay")]
        tokens = sum(spread.total for part in train for spread in (part.tokens, part.rejected) if spread)
        learned = sum(part.learned.total for part in train if part.learned)
        pairs = sum(part.examples for part in train if part.pairs)
        examples = sum(part.examples for part in train) - pairs
        said = [_in(language, f"{pairs} 对偏好", f"{pairs} preferences")] if pairs else []
        if examples or not pairs:
            said.append(_in(language, f"{examples} 个样本", f"{examples} examples"))
        said.append(_in(language, f"{tokens} 个词元（学习 {learned} 个）", f"{tokens} tokens ({learned} learned)"))
        for name, (zh, en) in _COUNTS.items():
            if number := sum(getattr(part, name) for part in self.parts):
                said.append(_in(language, zh.format(number), en.format(number)))
        return _in(language, "，", ", ").join(said)


_COUNTS = {
    "bad": ("{} 行不能训练", "{} bad"),
    "cut": ("{} 行被截断", "{} cut"),
    "answers_lost": ("{} 个回答完全丢失", "lost answers: {}"),
    "duplicates": ("{} 行重复", "{} duplicate"),
    "leaks": ("{} 行泄漏到评测数据", "{} leaked into held-out data"),
    "same": ("{} 对回答几乎相同", "{} with nearly the same answers"),
    "contrary": ("{} 对与前面的相反", "{} contrary to an earlier one"),
    "empty_thoughts": ("{} 行学习空的 <think>", "{} with an empty <think>"),
    "endless": ("{} 行不学结束标记", "{} that do not learn to end"),
}


def write_report(folder: Path, report: Report) -> None:
    """Keep ``report`` in the folder of a run."""
    write_json(folder / DATA, report)


def read_report(folder: Path) -> Report | None:
    """The report kept in the folder of a run; None where there is none that can be read."""
    try:
        return msgspec.json.decode((folder / DATA).read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _in(language: str, zh: str, en: str) -> str:
    return zh if language == "zh" else en
