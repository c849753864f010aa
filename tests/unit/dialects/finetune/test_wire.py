"""The finetune document's error body and statuses, its file names in headers, and its two names of one field."""

from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.testclient import TestClient

from tunesmith.dialects.finetune import wire
from tunesmith.dialects.finetune.downloads import attachment
from tunesmith.dialects.finetune.jobs import JobRequest
from tunesmith.dialects.finetune.routes import kind_of
from tunesmith.http import errors
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
)

ENGLISH = {"Accept-Language": "en"}


def client_of(problem: Problem | None = None) -> TestClient:
    """An application whose ``/fails`` fails with the problem, and whose ``/body`` reads a body."""
    app = FastAPI()
    errors.install(app, wire.respond)
    app.add_exception_handler(RequestValidationError, wire.malformed)

    @app.get("/fails")
    def fails() -> None:
        assert problem is not None
        raise problem

    @app.post("/body")
    def body(request: Request, body: JobRequest) -> None: ...

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("problem", "status", "kind", "param", "code"),
    [
        (Invalid("x", "x", field="format_type"), 400, "invalid_request_error", "format_type", "invalid_value"),
        (Invalid("x", "x", field="strategy"), 400, "invalid_request_error", "data_strategy", "invalid_value"),
        (Invalid("x", "x", field="provider"), 400, "invalid_request_error", "provider", "invalid_value"),
        (Invalid("x", "x", field="provider", reason="type"), 422, "invalid_request_error", "provider", "invalid_type"),
        (Invalid("x", "x", field="samples", sample="a:3"), 422, "invalid_request_error", "samples", "invalid_value"),
        (Invalid("x", "x"), 422, "invalid_request_error", None, "invalid_value"),
        (Unauthenticated("x", "x"), 401, "authentication_error", None, "invalid_api_key"),
        (Forbidden("x", "x", field="dataset"), 403, "permission_error", "dataset_path", None),
        (NotFound("x", "x"), 404, "invalid_request_error", None, "not_found"),
        (Conflict("x", "x"), 409, "conflict_error", None, "conflict"),
        (TooMany("x", "x"), 429, "rate_limit_error", None, "rate_limit_exceeded"),
        (Unavailable("x", "x"), 503, "server_error", None, "service_unavailable"),
        (TimedOut("x", "x"), 504, "server_error", None, "timeout"),
    ],
)
def test_every_problem_has_kilns_body_and_openais_and_a_status(
    problem: Problem, status: int, kind: str, param: str | None, code: str | None
) -> None:
    answer = client_of(problem).get("/fails")
    assert answer.status_code == status
    body = answer.json()
    assert body["message"] == "x"
    assert body["error"] == {"message": "x", "type": kind, "param": param, "code": code}
    assert ("error_messages" in body) == ("source_errors" in body) == (status == 422)


def test_a_message_is_in_the_clients_language_and_calls_fields_as_the_document_does() -> None:
    client = client_of(Invalid("strategy 不对", "strategy will not do", field="strategy", sample="17"))
    assert client.get("/fails").json()["message"] == "data_strategy 不对"
    english = client.get("/fails", headers=ENGLISH).json()
    assert english["message"] == "data_strategy will not do"
    assert english["details"] == {"field": "data_strategy", "sample": "17"}


def test_what_a_provider_said_is_kept_as_far_as_json_holds_it() -> None:
    client = client_of(Unavailable("x", "x", raw={"loss": float("nan"), "at": (1, 2)}, retry_after=3))
    answer = client.get("/fails")
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["details"]["raw"] == {"loss": "nan", "at": [1, 2]}


def test_a_malformed_body_lists_every_field_at_fault_as_kiln_does() -> None:
    answer = client_of().post("/body", json={"name": 7, "parameters": {"epochs": [1]}, "modelname": "x"})
    body: dict[str, Any] = answer.json()
    assert answer.status_code == 422
    assert {tuple(each["loc"][:2]) for each in body["source_errors"]} == {
        ("body", "name"),
        ("body", "parameters"),
        ("body", "modelname"),
    }
    assert len(body["error_messages"]) == len(body["source_errors"])
    assert body["error_messages"][0].startswith("Name: ")


@pytest.mark.parametrize(
    "sent", ["{", "[1]", "", '"x"', '{"parameters": {"a": NaN}}', '{"name": "\\ud800"}', "[" * 2000]
)
def test_what_is_no_json_object_is_refused_and_never_a_bug(sent: str) -> None:
    answer = client_of().post("/body", content=sent, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("filename", "ascii_only"),
    [
        ("town -- split-train -- format-x -- cot.jsonl", True),
        ("客服 -- split-train.jsonl", False),
        ('a"b\\c/d\r\nSet-Cookie: x.jsonl', False),
        ("100%.jsonl", False),
        ("\u202egpj.jsonl", False),
        ("😀" * 50 + ".jsonl", False),
    ],
)
def test_a_file_name_comes_through_a_header_whole_or_made_harmless(filename: str, ascii_only: bool) -> None:
    header = attachment(filename)
    assert header.isascii() and header.isprintable()
    plain, _, extended = header.removeprefix('attachment; filename="').partition('"')
    assert plain.endswith(".jsonl") and len(plain) == len(filename)
    assert bool(extended) == (not ascii_only)
    found = unquote(extended.removeprefix("; filename*=UTF-8''"), errors="strict") if extended else plain
    harmful = set('/\\"\r\n\u202e')
    assert found == "".join("_" if c in harmful else c for c in filename)


BODY = {"model_name": "m", "dataset_path": "data/a.jsonl"}


def test_the_documents_names_and_kilns_make_one_order() -> None:
    ours = JobRequest.model_validate(
        {
            "model_name": "m",
            "dataset_id": "123456789012",
            "split_name": "t",
            "system_message": "s",
            "thinking_instructions": "i",
        }
    ).order("1", "2", None)
    kilns = JobRequest.model_validate(
        {
            "base_model_id": "m",
            "dataset_split_id": "123456789012",
            "train_split_name": "t",
            "custom_system_message": "s",
            "custom_thinking_instructions": "i",
        }
    ).order("1", "2", None)
    assert ours == kilns
    assert (ours.model, ours.split_id, ours.train_split, ours.system_message) == ("m", "123456789012", "t", "s")


def test_what_a_form_leaves_empty_was_not_said_and_the_provider_is_the_documents() -> None:
    order = JobRequest.model_validate({**BODY, "system_message": " ", "data_strategy": "", "provider": ""}).order(
        None, None, "data/a.jsonl"
    )
    assert (order.system_message, order.strategy, order.provider) == (None, None, "TOGETHER_AI")
    assert (order.split_name, order.train_split, order.dataset_path) == ("train", "train", "data/a.jsonl")


def test_parameters_keep_their_types_and_null_is_not_said() -> None:
    given = {"a": True, "b": 1, "c": 1.0, "d": "1", "e": None}
    order = JobRequest.model_validate({**BODY, "parameters": given}).order(None, None, "x")
    assert {name: type(value) for name, value in order.parameters.items()} == {
        "a": bool,
        "b": int,
        "c": float,
        "d": str,
    }


@pytest.mark.parametrize(
    ("changes", "path", "field"),
    [
        ({"base_model_id": "other"}, "x", "model_name"),
        ({"model_name": None}, "x", "model_name"),
        ({}, None, "dataset_path"),
        ({"dataset_id": "1"}, "x", "dataset_path"),
        ({"dataset_id": "1", "dataset_split_id": "2"}, None, "dataset_id"),
        ({"system_message": "a", "custom_system_message": "b"}, "x", "system_message"),
    ],
)
def test_a_field_that_is_missing_or_said_twice_is_named(changes: dict[str, Any], path: str | None, field: str) -> None:
    body = JobRequest.model_validate({**BODY, **changes})
    with pytest.raises(Invalid) as refused:
        body.order(None, None, path)
    assert refused.value.details["field"] == field


def test_an_absolute_path_that_is_not_there_is_refused_as_one() -> None:
    def missing(path: str) -> None:
        with wire.below_home(path) as name:
            assert not name.startswith("/")
            raise NotFound("x", "x", field="dataset")

    with pytest.raises(Invalid) as refused:
        missing("/etc/passwd")
    assert refused.value.details["field"] == "dataset_path"
    with pytest.raises(NotFound):
        missing("data/none.jsonl")


def test_making_a_job_counts_as_training_and_all_else_does_not() -> None:
    assert kind_of("POST", "/jobs") == kind_of("POST", "/projects/1/tasks/2/finetunes") == "training"
    others = [("GET", "/jobs"), ("POST", "/jobs/1/cancel"), ("POST", "/jobs/estimate"), ("GET", "/finetunes")]
    assert {kind_of(*each) for each in others} == {"other"}
