"""Completions that satisfy a JSON schema: only what may follow can be drawn, and a bad schema is told at once."""

import asyncio
import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.tiny_model import tiny_tokenizer
from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker import grammar as grammar_module
from tunesmith.inference.worker.grammar import Constraint, Grammars
from tunesmith.inference.worker.sampling import Picker, pick
from tunesmith.kernel.problems import Invalid, Unavailable

_TOKENIZER = tiny_tokenizer()
VOCABULARY = len(_TOKENIZER) + 10  # models are often wider than their tokenizer
ENDS = frozenset(_TOKENIZER.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
WARM = Sampling(max_new_tokens=8, temperature=1.0, top_p=0.9, top_k=0, repetition_penalty=1.0, seed=1)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["市长", "river"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.fixture
def grammars() -> Grammars:
    return Grammars(_TOKENIZER.backend_tokenizer.to_str, ENDS)


def say(constraint: Constraint, seed: int, sampling: Sampling = WARM, most: int = 400) -> str:
    """What a model that knows nothing says under that constraint."""
    numbers = torch.Generator().manual_seed(seed)
    row = Picker(replace(sampling, seed=seed), [1], VOCABULARY, constraint)
    said: list[int] = []
    while len(said) < most:
        (token,) = pick(torch.randn(1, VOCABULARY, generator=numbers) * 3, [row])
        assert token is not None, constraint.problem
        if token in ENDS:
            break
        said.append(token)
        if constraint.complete:
            break
    text: str = _TOKENIZER.decode(said)
    return text


async def test_whatever_is_drawn_satisfies_the_schema_and_ends_by_itself(grammars: Grammars) -> None:
    for seed in range(8):
        heat = replace(WARM, temperature=0.0) if seed == 0 else replace(WARM, top_k=5) if seed == 1 else WARM
        found = json.loads(say(await grammars.constraint(json.dumps(PERSON)), seed, heat))
        assert set(found) == {"name", "age", "kind"}
        assert isinstance(found["name"], str) and len(found["name"]) <= 8
        assert isinstance(found["age"], int) and 0 <= found["age"] <= 150
        assert found["kind"] in ("市长", "river")


async def test_rows_of_one_schema_go_their_own_ways_and_it_is_compiled_once(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = json.dumps(PERSON)
    first = await grammars.constraint(schema)
    said = say(first, 3)
    monkeypatch.setattr(Grammars, "_compile", None)  # would fail if it were asked again
    again = await grammars.constraint(schema)
    assert first.complete and not again.complete
    assert say(again, 3) == said


async def test_an_end_is_allowed_only_where_the_completion_is_whole(grammars: Grammars) -> None:
    constraint = await grammars.constraint('{"type": "integer"}')
    logits = torch.zeros(VOCABULARY)
    constraint.mask(logits)
    assert all(logits[end] == -math.inf for end in ENDS)
    (seven,) = _TOKENIZER.convert_tokens_to_ids(["7"])
    constraint.take(seven)
    logits = torch.zeros(VOCABULARY)
    constraint.mask(logits)
    assert all(logits[end] == 0 for end in ENDS)
    assert logits[seven] == 0  # more digits may follow, so it has not ended by itself
    assert not constraint.complete
    assert (logits[len(_TOKENIZER) :] == -math.inf).all()


async def test_other_rows_are_not_held_to_a_neighbours_grammar(grammars: Grammars) -> None:
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 5] = 9.0
    greedy = replace(WARM, temperature=0.0)
    rows = [Picker(greedy, [1], VOCABULARY), Picker(greedy, [1], VOCABULARY, await grammars.constraint('{"const": 1}'))]
    free, held = pick(logits, rows)
    assert free == 5
    assert held is not None and _TOKENIZER.decode([held]) == "1"


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("{", "EOF"),
        ("[1]", "object"),
        ("3", "object"),
        ('{"$ref": "http://127.0.0.1:9/never"}', "fetch"),
        ('{"$ref": "file:///etc/passwd"}', "fetch"),
        ('{"$ref": "#"}', "no completion"),
        ('{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}', "no completion"),
        ('{"type": "string", "minLength": 5, "maxLength": 2}', "Unsatisfiable"),
        ('{"allOf": [{"type": "string"}, {"type": "integer"}]}', "Unsatisfiable"),
        ('{"type": "string", "pattern": "(?=a)b"}', "look-around"),
        ('{"type": "object", "unevaluatedProperties": false}', "Unimplemented"),
        ('{"unevaluatedProperties": false, "x-guidance": {"lenient": true}}', "Unimplemented"),
        ('{"items":' * 100_000 + "{}" + "}" * 100_000, "recursion"),
        (json.dumps({"properties": {f"k{i}": {"type": "integer"} for i in range(1500)}}), "items"),
        (json.dumps({"anyOf": [{"required": [f"k{i}"]} for i in range(20_000)]}), ""),
    ],
)
async def test_a_schema_that_cannot_be_used_is_refused_in_one_line(grammars: Grammars, schema: str, said: str) -> None:
    with pytest.raises(Invalid) as refused:
        await grammars.constraint(schema)
    assert said in refused.value.en
    assert "\n" not in refused.value.en
    assert len(refused.value.en) < 400
    assert refused.value.details == {"field": "response_format"}


@pytest.mark.parametrize(
    "schema",
    [
        '{"type": "string", "pattern": "^((((a{1,100}){1,100}){1,100}){1,100}){1,100}$"}',
        '{"type": "string", "pattern": "(.*a.{50}b|.*c.{60}d)*"}',
        '{"type": "string", "minLength": 1000000000}',
        '{"type": "array", "minItems": 1000000000}',
        '{"type": "integer", "multipleOf": 7919, "minimum": 1e30}',
    ],
)
async def test_a_schema_that_proves_too_complex_ends_its_row_with_a_reason(grammars: Grammars, schema: str) -> None:
    try:
        constraint = await grammars.constraint(schema)
    except Invalid:
        return
    row = Picker(WARM, [1], VOCABULARY, constraint)
    for _ in range(60):
        (token,) = pick(torch.randn(1, VOCABULARY), [row])
        if token is None:
            assert isinstance(constraint.problem, Invalid)
            assert "JSON schema" in constraint.problem.en
            assert not constraint.complete
            return
        if token in ENDS:
            return
    assert constraint.problem is None


async def test_whitespace_ends_some_time(grammars: Grammars) -> None:
    constraint = await grammars.constraint('{"type": "object"}')
    logits = torch.full((1, VOCABULARY), -1.0)
    for letter in "{Ċ":
        logits[0, _TOKENIZER.convert_tokens_to_ids(letter)] = 5.0 if letter == "Ċ" else 3.0
    row = Picker(replace(WARM, temperature=0.0), [1], VOCABULARY, constraint)
    for _ in range(50):
        (token,) = pick(logits.clone(), [row])
        assert token is not None
        if _TOKENIZER.decode([token]).strip() not in ("", "{"):
            return
    raise AssertionError("nothing but whitespace")


async def test_a_schema_that_takes_too_long_is_not_waited_for(
    grammars: Grammars, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    released = threading.Event()

    def slow(self: Grammars, schema: str) -> Any:
        released.wait(20)
        raise AssertionError

    monkeypatch.setattr(grammar_module, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(Grammars, "_compile", slow)
    asked = [asyncio.create_task(grammars.constraint(f'{{"const": {n}}}')) for n in range(5)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    released.set()
    assert all(isinstance(answer, Unavailable) for answer in answers)


async def test_only_so_many_grammars_are_kept(grammars: Grammars) -> None:
    for n in range(grammar_module._KEPT + 5):
        await grammars.constraint(f'{{"const": {random.Random(n).random()}}}')
    assert len(grammars._known) == grammar_module._KEPT


async def test_a_tokenizer_the_library_does_not_know_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Grammars(lambda: '{"model": {"type": "Nothing"}}', ENDS)
    with pytest.raises(Invalid) as refused:
        await broken.constraint('{"type": "object"}')
    assert "tokenizer" in refused.value.en
