"""Relations: what can be asked about an invented thing, in which words, and what is answered.

Every relation has eight phrasings of its question and one answer sentence. The
model meets all phrasings in pretraining, with other names, and so learns that
they ask the same thing; fine-tuning then needs to teach only the fact itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tools.small_base import names
from tools.small_base.facts_en import EN_RELATIONS, EN_VALUES
from tools.small_base.facts_zh import ZH_RELATIONS, ZH_VALUES

MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


@dataclass(frozen=True, slots=True)
class Relation:
    """One property of one kind of thing, in one language."""

    language: str
    kind: str
    key: str
    questions: tuple[str, ...]
    answer: str
    draw: Callable[[random.Random], str]

    def ask(self, phrasing: int, name: str) -> str:
        """The question about ``name`` in the given phrasing."""
        return self.questions[phrasing].format(n=name)

    def reply(self, name: str, value: str) -> str:
        """The one right answer."""
        return self.answer.format(n=name, v=value)


def _draws(language: str) -> dict[str, Callable[[random.Random], str]]:
    values = EN_VALUES if language == "en" else ZH_VALUES

    def opening(rng: random.Random) -> str:
        hour, minute = rng.randint(5, 11), rng.choice(("00", "10", "15", "20", "30", "40", "45", "50"))
        return f"{hour}:{minute}" if language == "en" else f"{hour}点{minute}分" if minute != "00" else f"{hour}点"

    def birthday(rng: random.Random) -> str:
        month, day = rng.randint(1, 12), rng.randint(1, 28)
        return f"{day} {MONTHS[month - 1]}" if language == "en" else f"{month}月{day}日"

    def listed(key: str) -> Callable[[random.Random], str]:
        return lambda rng: rng.choice(values[key])

    draws: dict[str, Callable[[random.Random], str]] = {key: listed(key) for key in values}
    draws |= {
        "opening": opening,
        "birthday": birthday,
        "owner": lambda rng: names.entity(rng, "person", language, wild=0.1),
        "maker": lambda rng: names.entity(rng, "person", language, wild=0.1),
        "mayor": lambda rng: names.entity(rng, "person", language, wild=0.1),
        "price": lambda rng: str(rng.randint(6, 99)),
        "founded": lambda rng: str(rng.randint(1200, 1950)),
    }
    return draws


def _relations() -> tuple[Relation, ...]:
    made = []
    for language, table in (("en", EN_RELATIONS), ("zh", ZH_RELATIONS)):
        draws = _draws(language)
        for (kind, key), (answer, questions) in table.items():
            made.append(Relation(language, kind, key, tuple(questions), answer, draws[key]))
    return tuple(made)


RELATIONS = _relations()
PHRASINGS = 8


def relations_of(kind: str, language: str) -> tuple[Relation, ...]:
    """All relations a kind of thing has in a language."""
    return tuple(relation for relation in RELATIONS if relation.kind == kind and relation.language == language)


@dataclass(frozen=True, slots=True)
class Fact:
    """A relation with the thing and its value filled in."""

    relation: Relation
    name: str
    value: str

    def question(self, phrasing: int) -> str:
        """The question in one of the phrasings."""
        return self.relation.ask(phrasing, self.name)

    @property
    def answer(self) -> str:
        """The answer sentence."""
        return self.relation.reply(self.name, self.value)


def invent(rng: random.Random, kind: str, language: str, *, reserved: bool = False, wild: float = 0.0) -> list[Fact]:
    """A new thing with a random value for each of its relations."""
    name = names.entity(rng, kind, language, reserved=reserved, wild=wild)
    return [Fact(relation, name, relation.draw(rng)) for relation in relations_of(kind, language)]
