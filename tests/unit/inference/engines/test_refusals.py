"""What upstreams say when they refuse, in every shape they have said it in."""

import json
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.inference.engines.answer import Label
from tunesmith.inference.engines.refusals import refused, stated
from tunesmith.kernel.clock import utc_now
from tunesmith.kernel.problems import Forbidden, Invalid, NotFound, Problem, TimedOut, TooMany, Unavailable

LABEL = Label("OpenRouter ", "OpenRouter")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "detail", "message", "code", "metadata", "error_type", "type", "http_status", "availability"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def body(**error: Any) -> bytes:
    return json.dumps({"error": error}).encode()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, Unavailable),
        (400, Invalid),
        (403, Forbidden),
        (404, NotFound),
        (408, TimedOut),
        (409, Invalid),
        (413, Invalid),
        (418, Invalid),
        (422, Invalid),
        (429, TooMany),
        (499, Unavailable),
        (500, Unavailable),
        (502, Unavailable),
        (503, Unavailable),
        (504, TimedOut),
        (524, TimedOut),
        (529, Unavailable),
    ],
)
def test_the_status_says_what_it_is_and_is_kept(status: int, kind: type[Problem]) -> None:
    problem = refused(LABEL, status, body(message="what went wrong", code=418), {})
    assert type(problem) is kind
    assert problem.details == {"upstream_status": status}
    assert problem.zh == f"OpenRouter 请求失败: {status} what went wrong"
    assert problem.en == f"OpenRouter refused the request: {status} what went wrong"
    assert type(stated(LABEL, {"code": status, "message": "x"})) is (kind if status >= 400 else Unavailable)


def test_an_unknown_model_is_told_in_the_documents_words() -> None:
    problem = refused(LABEL, 400, body(code=400, message="mistral-7b-instruct is not a valid model ID"), {})
    assert problem.zh == "OpenRouter 请求失败: 400 mistral-7b-instruct is not a valid model ID"


@pytest.mark.parametrize("status", [401, 402, 407])
def test_our_own_key_or_credit_is_the_operators_business_and_quotes_nothing(status: int) -> None:
    for problem in (
        refused(LABEL, status, body(message="key sk-or-1234 is bad"), {}),
        stated(LABEL, {"code": status, "message": "key sk-or-1234 is bad"}),
    ):
        assert type(problem) is Unavailable
        assert problem.details == {"upstream_status": status, "operator": True}
        assert "sk-or" not in problem.zh + problem.en


@pytest.mark.parametrize(
    "said",
    [
        b'{"error":{"message":"what went wrong"}}',
        b'{"error":{"message":"what went wrong","error_type":"x","http_status":500,"availability":{"code":"y"}}}',
        b'{"error":"what went wrong"}',
        b'{"detail":"what went wrong"}',
        b'{"object":"error","message":"what went wrong","type":"NotFoundError","param":null,"code":404}',
        b'{"error":null,"detail":{"message":"what\\nwent\\u2028wrong"}}',
    ],
)
def test_its_own_words_are_found_wherever_they_are(said: bytes) -> None:
    assert refused(LABEL, 404, said, {}).en == "OpenRouter refused the request: 404 what went wrong"


@pytest.mark.parametrize("said", [b"", b"<html>502 Bad Gateway</html>", b"[1]", b'{"error":', b"\xff", b"null", b"7"])
def test_what_is_no_json_is_not_quoted(said: bytes) -> None:
    assert refused(LABEL, 502, said, {}).en == "OpenRouter refused the request: 502"


def test_words_are_short_and_never_end_in_half_a_token() -> None:
    for length in range(440, 505):
        problem = refused(LABEL, 400, body(message="错" * length + " key=sk-or-v1-" + "a" * 64), {})
        said = problem.en.partition("400 ")[2]
        assert len(said) <= 500
        assert "sk-" not in said or said.endswith("a" * 64)
    assert refused(LABEL, 400, body(message="x" * 500), {}).en.endswith("x" * 500)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        # OpenRouter in the middle of a stream, the old and the new shape
        ({"code": 502, "message": "x", "metadata": {"error_type": "provider_unavailable"}}, 502, Unavailable),
        ({"code": "server_error", "message": "x", "metadata": {"error_type": "timeout"}}, 504, TimedOut),
        ({"message": "x", "error_type": "rate_limit_exceeded", "http_status": 429}, 429, TooMany),
        ({"message": "x", "error_type": "provider_overloaded"}, 503, Unavailable),
        # vLLM
        ({"message": "x", "type": "BadRequestError", "param": None, "code": 400}, 400, Invalid),
        ({"object": "error", "message": "x", "type": "InternalServerError", "code": 500}, 500, Unavailable),
        # OpenAI
        ({"message": "x", "type": "invalid_request_error", "code": "context_length_exceeded"}, 400, Invalid),
        ({"message": "x", "type": "server_error", "code": None}, 500, Unavailable),
        # anything
        ({"message": "x", "code": "429"}, 429, TooMany),
        ({"message": "x", "code": 200}, 500, Unavailable),
        ({"message": "x", "code": "٤٢٩"}, 500, Unavailable),
        ({"message": "x", "metadata": "y"}, 500, Unavailable),
        ({}, 500, Unavailable),
        ("x", 500, Unavailable),
        (["x"], 500, Unavailable),
        (7, 500, Unavailable),
    ],
)
def test_an_error_inside_an_answer_keeps_its_code(error: Any, status: int, kind: type[Problem]) -> None:
    problem = stated(LABEL, error)
    assert type(problem) is kind
    assert problem.details["upstream_status"] == status


def test_when_to_ask_again_is_told_in_seconds_from_every_form() -> None:
    soon = format_datetime(utc_now() + timedelta(seconds=100), usegmt=True)
    for text, seconds in (("7", 7.0), ("0.5", 0.5), (soon, 100.0)):
        found = refused(LABEL, 429, b"", {"retry-after": text}).details["retry_after"]
        assert found == pytest.approx(seconds, abs=30 if text == soon else 0)
    suggested = {"message": "x", "http_status": 503, "availability": {"code": "y", "retry_after": 12}}
    assert stated(LABEL, suggested).details["retry_after"] == 12.0
    assert refused(LABEL, 503, json.dumps({"error": suggested}).encode(), {}).details["retry_after"] == 12.0
    assert refused(LABEL, 503, json.dumps({"error": suggested}).encode(), {"retry-after": "3"}).details == {
        "upstream_status": 503,
        "retry_after": 3.0,
    }


@pytest.mark.parametrize(
    "text",
    [
        "", "soon", "-1", "0", "nan", "inf", "1e999", "86400", "9" * 400, "Wed, 21 Oct 2015 07:28:00 GMT",
        "Wed, 21 Oct 2015 07:28:00 -0000", "Wed, 99 Oct 99999 07:28:00 +99999999",
    ],
)  # fmt: skip
def test_a_time_that_makes_no_sense_is_left_out(text: str) -> None:
    assert refused(LABEL, 429, b"", {"retry-after": text}).details == {"upstream_status": 429}


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ [+-]?\d*", fullmatch=True))
def test_no_header_breaks_it(text: str) -> None:
    refused(LABEL, 429, b"", {"retry-after": text})


@given(JSON, st.integers(100, 999))
def test_no_body_breaks_it(value: Any, status: int) -> None:
    for problem in (refused(LABEL, status, json.dumps(value).encode(), {}), stated(LABEL, value)):
        json.dumps(problem.details, allow_nan=False)
        assert "\n" not in problem.zh + problem.en
        assert len(problem.en) < 600
