"""What may be asked on the OpenAI wire, its defaults, and how it says what is wrong."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from tunesmith.datasets.example import Message
from tunesmith.dialects.openai import wire
from tunesmith.inference.engine import Sampling
from tunesmith.kernel.problems import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Problem,
    TimedOut,
    TooMany,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

HI = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> wire.ChatBody:
    return wire.ChatBody.model_validate_json(json.dumps({"model": "m", "messages": HI, **fields}))


def text(**fields: Any) -> wire.TextBody:
    return wire.TextBody.model_validate_json(json.dumps({"model": "m", "prompt": "hi", **fields}))


def refused(body: wire.ChatBody | wire.TextBody) -> Problem:
    with pytest.raises(Problem) as caught:
        body.prompts()
        body.sampling()
    return caught.value


def test_the_defaults_are_openais() -> None:
    assert chat().sampling() == Sampling(4096, 1.0, 1.0, 0, 1.0)
    assert text().sampling() == Sampling(16, 1.0, 1.0, 0, 1.0)
    assert (chat().choices, chat().stream, chat().wants_usage) == (1, None, False)


def test_null_is_the_same_as_nothing() -> None:
    named = [name for name in wire.ChatBody.model_fields if name != "messages"]
    assert chat(**dict.fromkeys([*named, *wire._UNSERVED])).sampling() == chat().sampling()


def test_every_field_reaches_the_engine() -> None:
    asked = chat(
        max_completion_tokens=7, max_tokens=9, temperature=0, top_p=0.5, seed=-3, stop="x", presence_penalty=1,
        frequency_penalty=-1, top_k=5, min_p=0.1, repetition_penalty=1.2, logprobs=True, top_logprobs=2,
    )  # fmt: skip
    assert asked.sampling() == Sampling(7, 0.0, 0.5, 5, 1.2, -3, ("x",), 0.1, 1.0, -1.0, None, 2)
    assert chat(max_tokens=9, logprobs=True, top_k=-1, stop=["a", "b"]).sampling() == Sampling(
        9, 1.0, 1.0, 0, 1.0, stop=("a", "b"), top_logprobs=0
    )
    assert text(logprobs=3, max_tokens=2).sampling() == Sampling(2, 1.0, 1.0, 0, 1.0, top_logprobs=3)
    assert text(prompt=["a", "b"]).prompts() == ["a", "b"] and text().prompts() == ["hi"]


def test_a_response_format_becomes_the_schema_an_engine_holds_to() -> None:
    schema = {"type": "object", "properties": {"n": {"const": 1 << 80}}}
    asked = chat(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    )
    assert json.loads(asked.sampling().schema or "") == schema
    assert chat(response_format={"type": "json_object"}).sampling().schema == '{"type":"object"}'
    assert chat(response_format={"type": "text"}).sampling().schema is None


def test_messages_are_text_whatever_form_they_come_in() -> None:
    asked = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "system", "content": ""},
            {"role": "user", "name": "ada", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": None, "annotations": [], "tool_calls": None},
        ]
    )
    assert asked.prompts() == [
        [Message("system", "be brief"), Message("system", ""), Message("user", "ab"), Message("assistant", "c")]
    ]


IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}
CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    "message, param, code",
    [
        ({"role": "tool", "content": "1", "tool_call_id": "1"}, "messages[0].role", "unsupported_value"),
        ({"role": "assistant", "tool_calls": CALLS}, "messages[0].tool_calls", "unsupported_parameter"),
        ({"role": "assistant", "function_call": {}, "content": None}, "messages[0].content", "missing_required_parameter"),
        ({"role": "robot", "content": "1"}, "messages[0].role", "invalid_value"),
        ({"role": "user"}, "messages[0].content", "missing_required_parameter"),
        ({"role": "user", "content": 5}, "messages[0].content", "invalid_type"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}, "messages[0].content[1].type", "unsupported_value"),
        ({"role": "user", "content": ["a"]}, "messages[0].content[0]", "invalid_type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0]", "invalid_type"),
    ],
)  # fmt: skip
def test_a_message_no_model_can_be_shown_is_named(message: dict[str, Any], param: str, code: str) -> None:
    problem = refused(chat(messages=[message]))
    said = wire.error(400, problem.en, problem)["error"]
    assert (said["param"], said["code"], said["type"]) == (param, code, "invalid_request_error")
    assert param in problem.en and param in problem.zh


ASKED_FOR: dict[str, Any] = {
    "tools": CALLS, "tool_choice": "required", "functions": [{"name": "f"}], "function_call": {"name": "f"},
    "audio": {"voice": "x"}, "modalities": ["text", "audio"], "logit_bias": {"5": 1}, "prediction": {"type": "content"},
    "web_search_options": {}, "moderation": {"model": "x"}, "best_of": 3, "echo": True, "suffix": "end",
    "allowed_token_ids": [1], "bad_words": ["x"], "chat_template": "x", "continue_final_message": True,
    "guided_choice": ["a"], "guided_grammar": "x", "guided_json": {}, "guided_regex": "x", "ignore_eos": True,
    "min_tokens": 3, "prompt_logprobs": 0, "stop_token_ids": [1], "structured_outputs": {}, "use_beam_search": True,
}  # fmt: skip


def test_what_would_change_the_answer_and_cannot_be_done_is_refused_by_name() -> None:
    assert set(ASKED_FOR) == set(wire._UNSERVED)
    for name, value in ASKED_FOR.items():
        for body in (chat(**{name: value}), text(**{name: value})):
            problem = refused(body)
            assert isinstance(problem, Unsupported)
            assert wire.error(400, problem.zh, problem)["error"]["param"] == name


def test_what_asks_for_nothing_or_changes_nothing_is_let_through() -> None:
    nothing = {name: values[0] for name, values in wire._UNSERVED.items() if values}
    harmless = {"user": "u", "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "unheard_of": 1}
    assert chat(**nothing | harmless | {"tool_choice": "auto"}).sampling() == chat().sampling()
    assert text(n=2, best_of=2).sampling() == text().sampling()


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
    ],
)
def test_fields_that_need_each_other_say_so(fields: dict[str, Any], param: str) -> None:
    problem = refused(chat(**fields))
    assert wire.error(400, problem.en, problem)["error"]["param"] == param


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 0}, {"max_tokens": "5"}, {"max_completion_tokens": -1}, {"n": 0}, {"n": 129}, {"n": 1.5},
        {"temperature": "1"}, {"seed": 1 << 63}, {"top_logprobs": 21}, {"stop": 5}, {"stop": ["a"] * 17}, {"stop": [5]},
        {"messages": []}, {"messages": "hi"}, {"messages": [HI]}, {"response_format": {"type": "grammar"}},
        {"logprobs": 3}, {"stream": "yes"}, {"stream_options": []}, {"model": 5}, {"top_k": -2},
    ],
)  # fmt: skip
def test_values_of_another_kind_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        chat(**fields)


@pytest.mark.parametrize("prompt", [[], [[1, 2]], [1, 2], 5, None])
def test_a_prompt_is_text(prompt: Any) -> None:
    with pytest.raises(ValidationError):
        text(prompt=prompt)


@pytest.mark.parametrize(
    "problem, status, kind, param, code",
    [
        (Invalid("x", "x", field="max_new_tokens"), 400, "invalid_request_error", "max_tokens", "invalid_value"),
        (Invalid("x", "x", field="num_return_sequences"), 400, "invalid_request_error", "n", "invalid_value"),
        (Invalid("x", "x", field="body", reason="json"), 400, "invalid_request_error", None, "invalid_value"),
        (Invalid("x", "x", context_length=5), 400, "invalid_request_error", None, "context_length_exceeded"),
        (Unauthenticated("x", "x"), 401, "authentication_error", None, "invalid_api_key"),
        (Forbidden("x", "x"), 403, "permission_error", None, None),
        (NotFound("x", "x"), 404, "invalid_request_error", "model", "model_not_found"),
        (NotFound("x", "x", field="lora_adapter"), 404, "invalid_request_error", "model", "model_not_found"),
        (Conflict("x", "x"), 409, "conflict_error", None, "conflict"),
        (TooMany("x", "x"), 429, "rate_limit_error", None, "rate_limit_exceeded"),
        (Unavailable("x", "x"), 503, "server_error", None, "service_unavailable"),
        (TimedOut("x", "x"), 504, "server_error", None, "timeout"),
        (None, 404, "invalid_request_error", None, "unknown_url"),
        (None, 413, "invalid_request_error", None, "request_too_large"),
        (None, 500, "server_error", None, "internal_error"),
    ],
)
def test_every_failure_has_the_wires_four_fields(
    problem: Problem | None, status: int, kind: str, param: str | None, code: str | None
) -> None:
    assert wire.error(status, "said", problem) == {
        "error": {"message": "said", "type": kind, "param": param, "code": code}
    }


def test_a_message_names_the_field_as_the_caller_wrote_it() -> None:
    problem = Invalid("x", "num_return_sequences must be in 1 .. 4", field="num_return_sequences")
    assert wire.error(400, problem.en, problem)["error"]["message"] == "n must be in 1 .. 4"
