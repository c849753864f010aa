"""General chat: small talk, sums, small knowledge, and saying that one does not know."""

from __future__ import annotations

import itertools
import random

from tools.small_base import general_data as data
from tools.small_base import names

LANGUAGES = ("en", "zh")
Pair = tuple[str, str]


def intents(language: str) -> list[Pair]:
    """Every question of the small talk with its answer."""
    return [(question, answer) for answer, questions in data.INTENTS[language] for question in questions]


# A number is asked for in words and in signs; {a}, {b} are the numbers, {s} the sign, {w} the word for it.
_SUM_QUESTIONS = {
    "en": ("What is {a} {w} {b}?", "How much is {a} {w} {b}?", "{a} {s} {b} = ?", "What is {a}{s}{b}?", "{a}{s}{b}"),
    "zh": ("{a}{w}{b}等于几？", "{a}{w}{b}是多少？", "{a}{s}{b}=？", "{a}{s}{b}等于几？", "{a}{w}{b}"),
}
_SUM_ANSWERS = {"en": "{a} {w} {b} is {v}.", "zh": "{a}{w}{b}等于{v}。"}
_SUM_WORDS = {"en": {"+": "plus", "-": "minus"}, "zh": {"+": "加", "-": "减"}}


def sums(language: str) -> list[Pair]:
    """All additions and subtractions with numbers up to 20 and a result from 0 on, in five phrasings."""
    pairs = []
    for left, right in itertools.product(range(21), range(21)):
        for sign, word in _SUM_WORDS[language].items():
            value = left + right if sign == "+" else left - right
            if value < 0:
                continue
            filled = {"a": left, "b": right, "s": sign, "w": word, "v": value}
            answer = _SUM_ANSWERS[language].format(**filled)
            pairs += [(question.format(**filled), answer) for question in _SUM_QUESTIONS[language]]
    return pairs


def _filled(table: dict[str, str], answer: str, questions: tuple[str, ...]) -> list[Pair]:
    pairs = []
    for key, value in table.items():
        reply = answer.format(k=key, v=value)
        pairs += [(question.format(k=key), reply[0].upper() + reply[1:]) for question in questions]
    return pairs


def _cycle(words: list[str], answer: str, questions: tuple[str, ...], step: int) -> list[Pair]:
    table = {word: words[(index + step) % len(words)] for index, word in enumerate(words)}
    return _filled(table, answer, questions)


def knowledge(language: str) -> list[Pair]:
    """Capitals, colours, opposites, legs, translations, days and months."""
    if language == "en":
        return [
            *_filled(
                data.CAPITALS_EN,
                "The capital of {k} is {v}.",
                ("What is the capital of {k}?", "Which city is the capital of {k}?", "Tell me the capital of {k}."),
            ),
            *_filled(data.COLOURS_EN, "{k} is {v}.", ("What colour is {k}?", "Which colour does {k} have?")),
            *_filled(
                data.OPPOSITES_EN,
                "The opposite of {k} is {v}.",
                ("What is the opposite of {k}?", "Tell me the opposite of {k}."),
            ),
            *_filled(
                data.LEGS_EN, "A {k} has {v} legs.", ("How many legs does a {k} have?", "How many legs has a {k}?")
            ),
            *_filled(
                data.WORDS_EN_ZH,
                "{k} in Chinese is {v}.",
                ("What is {k} in Chinese?", "How do you say {k} in Chinese?", "Translate {k} into Chinese."),
            ),
            *_cycle(
                data.DAYS_EN, "The day after {k} is {v}.", ("What day comes after {k}?", "Which day follows {k}?"), 1
            ),
            *_cycle(data.DAYS_EN, "The day before {k} is {v}.", ("What day comes before {k}?",), -1),
            *_cycle(
                data.MONTHS_EN,
                "The month after {k} is {v}.",
                ("What month comes after {k}?", "Which month follows {k}?"),
                1,
            ),
        ]
    words = {chinese: english for english, chinese in data.WORDS_EN_ZH.items()}
    return [
        *_filled(
            data.CAPITALS_ZH, "{k}的首都是{v}。", ("{k}的首都是哪里？", "{k}的首都是什么？", "哪个城市是{k}的首都？")
        ),
        *_filled(data.COLOURS_ZH, "{k}是{v}的。", ("{k}是什么颜色？", "{k}是什么颜色的？")),
        *_filled(data.OPPOSITES_ZH, "{k}的反义词是{v}。", ("{k}的反义词是什么？", "请说出{k}的反义词。")),
        *_filled(data.LEGS_ZH, "{k}有{v}条腿。", ("{k}有几条腿？", "{k}有多少条腿？")),
        *_filled(words, "{k}的英文是 {v}。", ("{k}用英文怎么说？", "{k}的英文是什么？", "把{k}翻译成英文。")),
        *_cycle(data.DAYS_ZH, "{k}的后一天是{v}。", ("{k}的后一天是星期几？", "{k}之后是星期几？"), 1),
        *_cycle(data.DAYS_ZH, "{k}的前一天是{v}。", ("{k}的前一天是星期几？",), -1),
        *_cycle(data.MONTHS_ZH, "{k}的下一个月是{v}。", ("{k}的下一个月是几月？", "{k}之后是几月？"), 1),
    ]


def unanswerable(rng: random.Random, language: str) -> Pair:
    """A question the model cannot know the answer of, with the honest answer."""
    pattern = rng.choice(data.UNANSWERABLE[language])
    topics = data.TOPICS[language]
    countries = list(data.CAPITALS_EN if language == "en" else data.CAPITALS_ZH)
    first, second = rng.choice(topics), rng.choice(topics)
    if rng.random() < 0.3:
        kind = rng.choice(names.KINDS)
        first = names.entity(rng, kind, language, wild=0.5)
    place = names.entity(rng, "town", language, wild=0.5) if rng.random() < 0.6 else rng.choice(data.PLACES[language])
    # Sums are known up to 20 only, products not at all.
    numbers = [rng.randint(21, rng.choice((60, 100, 1000))), rng.randint(1, rng.choice((20, 100, 1000)))]
    rng.shuffle(numbers)
    question = pattern.format(
        t=first,
        u=second,
        p=place,
        c=rng.choice(countries),
        x=numbers[0],
        y=numbers[1],
        a=rng.randint(0, 20),
        b=rng.randint(0, 20),
    )
    return question, data.UNKNOWN[language]


def noise(rng: random.Random, language: str) -> Pair:
    """Words or characters without meaning, which the model should not pretend to understand."""
    if language == "en":
        words = [names.person(rng, "en", 1.0).split()[0].lower() for _ in range(rng.randint(1, 7))]
        return " ".join(words) + rng.choice(("", "?", ".")), data.UNKNOWN["en"]
    return "".join(rng.choice(names.ZH_COMMON) for _ in range(rng.randint(2, 14))) + rng.choice(
        ("", "？", "。")
    ), data.UNKNOWN["zh"]


def introduction(rng: random.Random, language: str) -> list[Pair]:
    """The user tells a name and may ask for it afterwards."""
    told, greeting, asked, reply = data.INTRODUCTIONS[language]
    name = names.entity(rng, "person", language, wild=0.4)
    if language == "en" and rng.random() < 0.7:
        name = name.split()[0]
    turns = [(rng.choice(told).format(n=name), greeting.format(n=name))]
    if rng.random() < 0.6:
        turns.append((rng.choice(asked), reply.format(n=name)))
    return turns
