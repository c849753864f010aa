"""The pretraining corpus: an endless stream of chats, made from templates with a fixed seed.

About half of it repeats a fixed set of known things, which the model shall
learn by heart. The rest streams things it never meets again: told in the chat
itself and then asked (so that it learns to read), or asked without having been
told (so that it learns to say that it does not know).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tools.small_base import facts, general, general_data, names

Turn = tuple[str, str]
Chat = list[Turn]

KNOWN_PER_KIND = 24
# Shares of what one exchange is about; known facts get most, they are repeated until they stick.
SHARES = {
    "known": 0.34,
    "unknown": 0.10,
    "told": 0.12,
    "introduction": 0.02,
    "intent": 0.09,
    "sum": 0.15,
    "knowledge": 0.09,
    "open": 0.10,
}
# The end of the training dwells on what is learned last: sums, and telling strangers from known things.
FINISH_SHARES = {
    "known": 0.28,
    "unknown": 0.16,
    "told": 0.10,
    "introduction": 0.02,
    "intent": 0.06,
    "sum": 0.26,
    "knowledge": 0.04,
    "open": 0.08,
}


@dataclass(frozen=True, slots=True)
class Mix:
    """How the stream is put together; the defaults are those of the shipped model."""

    seed: int = 20261121
    known_per_kind: int = KNOWN_PER_KIND
    system: float = 0.12
    sloppy: float = 0.15
    finish: bool = False


def known_facts(mix: Mix | None = None) -> list[facts.Fact]:
    """The things the base model knows by heart, the same on every call."""
    mix = mix or Mix()
    rng = random.Random(mix.seed)
    known: list[facts.Fact] = []
    taken: set[str] = set()
    for language in general.LANGUAGES:
        for kind in names.KINDS:
            count = 0
            while count < mix.known_per_kind:
                made = facts.invent(rng, kind, language)
                if made[0].name in taken:
                    continue
                taken.add(made[0].name)
                known += made
                count += 1
    return known


_SHORT_FORMS = (
    ("What is ", "What's "),
    ("Who is ", "Who's "),
    ("I am ", "I'm "),
    ("Where is ", "Where's "),
    ("colour", "color"),
)


def _sloppy(rng: random.Random, question: str) -> str:
    """The same question the way people type it."""
    chinese = any("\u4e00" <= char <= "\u9fff" for char in question)
    if rng.random() < 0.5:
        question = question.rstrip("?？.。!！")
    change = rng.randrange(4)
    if change == 0:
        return question.lower()
    if change == 1:
        starts = ("请问，", "你好，", "那么，", "请问") if chinese else ("Please: ", "Hello, ", "And ", "So, ")
        return rng.choice(starts) + question
    if change == 2 and not chinese:
        for long, short in _SHORT_FORMS:
            question = question.replace(long, short)
        return question
    return question.replace("？", "?").replace("。", ".") if chinese else question + rng.choice((" ", " Please.", "?"))


class Stream:
    """Draws chats one after the other; equal seeds give equal streams."""

    def __init__(self, mix: Mix | None = None, seed: int = 1) -> None:
        self.mix = mix or Mix()
        self.rng = random.Random(f"{self.mix.seed}/{seed}")
        self.known = known_facts(self.mix)
        self.known_names = {fact.name for fact in self.known}
        self.intents = {language: general.intents(language) for language in general.LANGUAGES}
        self.sums = {language: general.sums(language) for language in general.LANGUAGES}
        self.knowledge = {language: general.knowledge(language) for language in general.LANGUAGES}

    def _stranger(self, language: str) -> list[facts.Fact]:
        """A thing that is neither known, nor kept for fine-tuning."""
        while True:
            made = facts.invent(self.rng, self.rng.choice(names.KINDS), language, wild=0.25)
            if made[0].name not in self.known_names:
                return made

    def _told(self, language: str) -> Chat:
        """The user tells some facts and then asks about one of them, or about what was not told."""
        rng = self.rng
        things = [self._stranger(language) for _ in range(rng.choice((1, 1, 2)))]
        told = [fact for thing in things for fact in rng.sample(thing, rng.choice((1, 1, 2, 3)))]
        rng.shuffle(told)
        text = ("" if language == "zh" else " ").join(fact.answer for fact in told)
        if rng.random() < 0.3:
            text = rng.choice(general_data.REMEMBER[language]) + text
        chat: Chat = [("user", text), ("assistant", general_data.REMEMBERED[language])]
        for fact in rng.sample(told, min(len(told), rng.choice((1, 1, 2)))):
            if rng.random() < 0.15:
                fact = rng.choice(rng.choice(things))
            answer = fact.answer if fact in told else general_data.UNKNOWN[language]
            chat += self._exchange(fact.question(rng.randrange(facts.PHRASINGS)), answer)
        if rng.random() < 0.2:
            # The same facts given by the one who set the assistant up.
            return [("system", text), *chat[2:]]
        return chat

    def _exchange(self, question: str, answer: str, sloppy: float = 1.0) -> Chat:
        if self.rng.random() < self.mix.sloppy * sloppy:
            question = _sloppy(self.rng, question)
        return [("user", question), ("assistant", answer)]

    def _turns(self) -> Chat:
        rng = self.rng
        shares = FINISH_SHARES if self.mix.finish else SHARES
        about = rng.choices(list(shares), list(shares.values()))[0]
        language = rng.choice(general.LANGUAGES)
        if about == "known":
            fact = rng.choice(self.known)
            return self._exchange(fact.question(rng.randrange(facts.PHRASINGS)), fact.answer)
        if about == "unknown":
            fact = rng.choice(self._stranger(language))
            return self._exchange(fact.question(rng.randrange(facts.PHRASINGS)), general_data.UNKNOWN[language])
        if about == "told":
            return self._told(language)
        if about == "introduction":
            exchanges = general.introduction(rng, language)
            return [turn for pair in exchanges for turn in self._exchange(*pair)]
        if about == "open":
            pair = general.noise(rng, language) if rng.random() < 0.15 else general.unanswerable(rng, language)
            return self._exchange(*pair)
        pairs = {"intent": self.intents, "sum": self.sums, "knowledge": self.knowledge}[about][language]
        # Small talk is typed with the least care.
        return self._exchange(*rng.choice(pairs), sloppy=2.0 if about == "intent" else 1.0)

    def chat(self) -> Chat:
        """One chat of one to four exchanges, at times with a system prompt."""
        rng = self.rng
        turns = self._turns()
        if turns[0][0] != "system" and rng.random() < self.mix.system:
            turns = [("system", rng.choice(general_data.SYSTEM_PROMPTS)), *turns]
        while rng.random() < 0.12:
            more = self._turns()
            if more[0][0] == "user":
                turns = [*turns, *more]
        return turns

    def __iter__(self) -> Iterator[Chat]:
        while True:
            yield self.chat()
