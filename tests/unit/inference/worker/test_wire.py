"""What a request may say: every value has its limits, and whoever breaks one is told which."""

from typing import Any

import msgspec
import pytest

from tunesmith.inference.engine import TokenLogprob
from tunesmith.inference.worker import wire
from tunesmith.kernel.problems import Invalid

ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
RAW: dict[str, Any] = {"model": "m", "prompt": "hello"}


def chat(**fields: Any) -> wire.ChatBody:
    return wire.parse(msgspec.json.encode(ASK | fields), wire.ChatBody)


def raw(**fields: Any) -> wire.CompletionBody:
    return wire.parse(msgspec.json.encode(RAW | fields), wire.CompletionBody)


def refused(given: str, shape: type[wire.SamplingFields] = wire.ChatBody) -> Invalid:
    """The problem with a body that says ``given`` besides what it must."""
    start = msgspec.json.encode(ASK if shape is wire.ChatBody else RAW).decode()
    with pytest.raises(Invalid) as problem:
        body = wire.parse((start[:-1] + "," + given + "}").encode(), shape)
        body.choices(body.sampling(16))
    return problem.value


@pytest.mark.parametrize("value", ["-1", "0", "1" + "0" * 12, "1e400", "true", "1.5", '"8"'])
def test_max_tokens_is_a_sensible_number(value: str) -> None:
    problem = refused(f'"max_tokens": {value}')
    assert problem.details == {"field": "max_tokens"}
    assert "max_tokens" in problem.en
    assert "max_tokens" in problem.zh


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("temperature", ["-0.1", "101", "1e400", "true", '"hot"']),
        ("top_p", ["0", "-1", "1.1", "true"]),
        ("top_k", ["-2", "99999999999", "true", "1.5"]),
        ("repetition_penalty", ["0", "-1", "1e400", "false"]),
        ("min_p", ["-0.1", "1.1", "1e400", "true"]),
        ("presence_penalty", ["-2.1", "2.1", "1e400", "true"]),
        ("frequency_penalty", ["-2.1", "2.1", "-1e400", "true"]),
        ("seed", ["true", "1.5", '"1"']),
        ("n", ["0", "-1", "129", "1000000000000", "true", "1.5"]),
        ("best_of", ["0", "2", "1000000000000"]),
        ("stop", ['[""]', "[" + '"a",' * 16 + '"a"]', '"' + "x" * 1001 + '"', "[1]", "7"]),
        ("top_logprobs", ["3"]),
        ("response_format", ['{"type":"lark"}', '{"type":"json_schema"}', "7"]),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, values: list[str]) -> None:
    for value in values:
        problem = refused(f'"{field}": {value}')
        named = problem.details["field"]
        assert named == field or (field, named) in {
            ("top_logprobs", "logprobs"),
            ("response_format", "response_format.json_schema.schema"),
        }


def test_numbers_that_json_does_not_have_are_refused() -> None:
    for value in ("NaN", "Infinity", "-Infinity"):
        assert "malformed" in refused(f'"temperature": {value}').en


def test_ten_thousand_stop_strings_are_refused() -> None:
    assert refused('"stop": [' + ",".join(f'"s{n}"' for n in range(10_000)) + "]").details == {"field": "stop"}


@pytest.mark.parametrize(
    "schema",
    ['{"a":' * 200_000 + "1" + "}" * 200_000, '{"enum": ["' + "x" * 10_000_000 + '"]}', '{"a": "\\ud800"}', '{"a": }'],
)
def test_a_hostile_schema_is_refused_or_left_to_the_compiler(schema: str) -> None:
    given = '"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": ' + schema + "}}"
    start = msgspec.json.encode(ASK).decode()[:-1]
    try:
        body = wire.parse(f"{start}, {given}}}".encode(), wire.ChatBody)
        found = body.sampling(16).schema
    except Invalid:
        return
    assert found is not None and len(found) <= 128 << 10


def test_what_is_asked_for_arrives() -> None:
    schema = '{"type":"object", "title":"谢"}'
    body = chat(
        temperature=0.5,
        min_p=0.1,
        presence_penalty=-2,
        frequency_penalty=1.5,
        logprobs=True,
        top_logprobs=20,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": msgspec.Raw(schema.encode())}},
    ).sampling(16)
    assert (body.min_p, body.presence_penalty, body.frequency_penalty) == (0.1, -2, 1.5)
    assert body.top_logprobs == 20
    assert body.schema == schema
    assert chat(response_format={"type": "json_object"}).sampling(16).schema == '{"type":"object"}'
    assert chat(response_format={"type": "text"}).sampling(16).schema is None
    assert chat(logprobs=True).sampling(16).top_logprobs == 0
    assert chat(logprobs=False).sampling(16).top_logprobs is None
    assert raw(logprobs=0).sampling(16).top_logprobs == 0
    assert raw(logprobs=5).sampling(16).top_logprobs == 5
    plain = chat().sampling(16)
    assert (plain.min_p, plain.presence_penalty, plain.frequency_penalty) == (0, 0, 0)
    assert (plain.schema, plain.top_logprobs) == (None, None)
    assert refused('"logprobs": 21', wire.CompletionBody).details == {"field": "logprobs"}


def test_answers_to_one_prompt_are_drawn_with_seeds_of_their_own() -> None:
    def seeds(**fields: Any) -> list[int | None]:
        body = chat(**fields)
        return [draw.seed for draw in body.choices(body.sampling(16))]

    assert seeds(seed=7, n=3) == [7, 8, 9]
    assert seeds(seed=-7, n=3) == [-7, -8, -9]
    assert seeds(n=3) == [None] * 3
    assert seeds(seed=7) == seeds(seed=7, n=1, best_of=1) == [7]
    assert len(seeds(n=128)) == 128
    highest = (1 << 63) - 1
    assert seeds(seed=highest, n=2) == [highest, 0]


def test_raw_completion_tells_log_probabilities_in_columns() -> None:
    top = (TokenLogprob("a", -0.1), TokenLogprob("\ufffd", -1.0), TokenLogprob("\ufffd", -2.0))
    tokens = [TokenLogprob("a", -0.1, b"a", top), TokenLogprob("bc", -3.0, b"bc", (TokenLogprob("d", -0.5),))]
    assert wire.completion_logprobs(tokens, 4) == {
        "tokens": ["a", "bc"],
        "token_logprobs": [-0.1, -3.0],
        "top_logprobs": [{"a": -0.1, "\ufffd": -1.0}, {"d": -0.5, "bc": -3.0}],
        "text_offset": [4, 5],
    }
