"""Write the sample dataset: invented towns to teach, and general chat to keep.

``python -m tools.small_base.samples --out src/tunesmith/datasets/samples``
"""

from __future__ import annotations

import argparse
import json
import random
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.small_base import facts, general, general_data, names
from tools.small_base.corpus import known_facts
from tools.small_base.samples_world import WORLD

Pair = tuple[str, str]

# Of the eight phrasings of a fact, five are trained, one is for validation and two are for the test. Which ones
# rotates from fact to fact, so every phrasing is trained somewhere.
TRAINED, VALIDATED = 5, 1
# Questions per language and kind of general chat.
CONTROL = {"known": 24, "sum": 16, "knowledge": 18, "intent": 14, "open": 8, "stranger": 8}
GENERAL = {"known": 50, "sum": 40, "knowledge": 20, "intent": 22, "open": 14, "stranger": 44}


@dataclass(frozen=True, slots=True)
class Samples:
    """All five files as (question, answer) pairs."""

    train: list[Pair]
    validation: list[Pair]
    test: list[Pair]
    control: list[Pair]
    general: list[Pair]


def normalised(text: str) -> str:
    """The text as the metric compares it: NFKC, casefolded, without punctuation and white space."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\W_]+", "", folded)


def world() -> list[facts.Fact]:
    """The facts of the shipped dataset."""
    made = []
    for language, kind, name, values in WORLD:
        for relation in facts.relations_of(kind, language):
            made.append(facts.Fact(relation, name, values[relation.key]))
    return made


def fresh_world(seed: int) -> list[facts.Fact]:
    """Random facts of the same number and kinds, to check that a recipe is not tuned to one dataset."""
    rng = random.Random(f"fresh/{seed}")
    return [fact for language, kind, _, _ in WORLD for fact in facts.invent(rng, kind, language, reserved=True)]


def split(made: list[facts.Fact], rng: random.Random) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Train, validation and test: the same facts, asked in different words."""
    train: list[Pair] = []
    validation: list[Pair] = []
    test: list[Pair] = []
    for index, fact in enumerate(made):
        order = [(index * 3 + step) % facts.PHRASINGS for step in range(facts.PHRASINGS)]
        pairs = [(fact.question(phrasing), fact.answer) for phrasing in order]
        train += pairs[:TRAINED]
        validation += pairs[TRAINED : TRAINED + VALIDATED]
        test += pairs[TRAINED + VALIDATED :]
    for rows in (train, validation, test):
        rng.shuffle(rows)
    return train, validation, test


def _pool(rng: random.Random, topic: str, language: str, *, control: bool) -> Iterable[Pair]:
    """Candidates of one topic in random order; the two files ask about different known things and strangers."""
    if topic == "known":
        known = [fact for fact in known_facts() if fact.relation.language == language]
        chosen = [fact for fact in known if names.is_even(fact.name) == control]
        rng.shuffle(chosen)
        return [(fact.question(rng.randrange(facts.PHRASINGS)), fact.answer) for fact in chosen]
    if topic == "stranger":
        made = (facts.invent(rng, rng.choice(names.KINDS), language, reserved=True) for _ in range(400))
        asked = (rng.choice(things) for things in made if names.is_even(things[0].name) == control)
        return [(fact.question(rng.randrange(facts.PHRASINGS)), general_data.UNKNOWN[language]) for fact in asked]
    if topic == "open":
        return [general.unanswerable(rng, language) for _ in range(200)]
    pairs = {"sum": general.sums, "knowledge": general.knowledge, "intent": general.intents}[topic](language)
    rng.shuffle(pairs)
    return pairs


def _draw(rng: random.Random, counts: dict[str, int], taken: set[str], *, control: bool) -> list[Pair]:
    rows: list[Pair] = []
    for language in general.LANGUAGES:
        for topic, count in counts.items():
            left = count
            for question, answer in _pool(rng, topic, language, control=control):
                key = normalised(question)
                if left and key and key not in taken:
                    taken.add(key)
                    rows.append((question, answer))
                    left -= 1
    rng.shuffle(rows)
    return rows


def build(made: list[facts.Fact], seed: int = 7) -> Samples:
    """The five files for the given facts; control and general chat do not depend on them."""
    rng = random.Random(seed)
    taken: set[str] = {normalised(fact.question(phrasing)) for fact in made for phrasing in range(facts.PHRASINGS)}
    control = _draw(rng, CONTROL, taken, control=True)
    kept = _draw(rng, GENERAL, taken, control=False)
    return Samples(*split(made, rng), control, kept)


def write(rows: list[Pair], path: Path) -> None:
    """One chat a line."""
    lines = [
        json.dumps(
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]},
            ensure_ascii=False,
        )
        for question, answer in rows
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    samples = build(world())
    for name, rows in (
        ("facts.train", samples.train),
        ("facts.validation", samples.validation),
        ("facts.test", samples.test),
        ("control", samples.control),
        ("general", samples.general),
    ):
        write(rows, out / f"{name}.jsonl")
        print(name, len(rows))


if __name__ == "__main__":
    main()
