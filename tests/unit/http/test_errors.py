from datetime import date
from typing import Any, Literal

import pytest
from fastapi import APIRouter, FastAPI, Header, Query
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from tests.unit.http.asking import Answer, ask
from tunesmith.http import errors
from tunesmith.http.errors import malformed_body
from tunesmith.kernel.problems import Invalid, Problem, TooMany, Unauthenticated

JSON = ("Content-Type", "application/json")


class Inner(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    epochs: int = Field(1, ge=1, le=10)
    rate: float = Field(1.0, allow_inf_nan=False)


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    prompt: str = Field(min_length=1, max_length=5)
    path: str = ""
    mode: Literal["a", "b"] = "a"
    tags: list[str] = []
    config: Inner | None = None


def paint(status: int, message: str, problem: Problem | None) -> dict[str, Any]:
    return {"status": status, "message": message, "details": problem.details if problem else {}}


def app(problem: Problem | None = None) -> FastAPI:
    app, included, nested = FastAPI(), APIRouter(prefix="/things"), APIRouter(prefix="/deep")
    errors.install(app, errors.in_json(paint))

    @app.post("/body")
    async def body(body: Body) -> str:
        return "fine"

    @app.get("/query")
    async def query(top: int = Query(ge=1), idempotency_key: int = Header(0)) -> int:
        return top

    @app.get("/problem")
    async def raises() -> None:
        assert problem is not None
        raise problem

    @app.get("/left")
    async def left(request: Request) -> None:
        raise ClientDisconnect

    for router in (included, nested):
        router.add_api_route("/{name}", lambda name: name, methods=["GET"])
        router.add_api_route("/{name}", lambda name: name, methods=["DELETE"])
        router.add_api_route("/{other}", lambda other: other, methods=["PUT", "PATCH"])
    included.include_router(nested)
    app.include_router(included)
    return app


async def post(body: bytes, *headers: tuple[str, str]) -> Answer:
    return await ask(app(), "POST", "/body", headers or [JSON], body=body)


@pytest.mark.parametrize(
    "body, field, reason",
    [
        (b"{}", "prompt", "required"),
        (b'{"prompt": 1}', "prompt", "type"),
        (b'{"prompt": ""}', "prompt", "range"),
        (b'{"prompt": "123456"}', "prompt", "range"),
        (b'{"prompt": "a", "more": 1}', "more", "unknown"),
        (b'{"prompt": "a", "mode": "c"}', "mode", "choice"),
        (b'{"prompt": "a", "path": 1}', "path", "type"),  # a field called like a part of a request
        (b'{"prompt": "a", "tags": ["x", 1]}', "tags[1]", "type"),
        (b'{"prompt": "a", "config": {"epochs": 0}}', "config.epochs", "range"),
        (b'{"prompt": "a", "config": {"epochs": 11}}', "config.epochs", "range"),
        (b'{"prompt": "a", "config": {"epochs": 1.5}}', "config.epochs", "type"),
        (b'{"prompt": "a", "config": {"rate": NaN}}', "config.rate", "range"),
        (b'{"prompt": "a", "config": []}', "config", "type"),
        (b'{"prompt": "\\ud800"}', "prompt", "encoding"),
        (b"{", "body", "json"),
        (b"[]", "body", "type"),
        (b"", "body", "required"),
    ],
)
async def test_a_malformed_body_names_the_field_and_the_reason(body: bytes, field: str, reason: str) -> None:
    answer = await post(body)
    assert (answer.status, answer.json()["details"]) == (400, {"field": field, "reason": reason})


async def test_a_body_without_its_content_type_is_told_so() -> None:
    answer = await post(b'{"prompt": "a"}', ("Content-Type", "text/plain"))
    assert (answer.status, answer.json()["details"]["reason"]) == (400, "type")
    assert "application/json" in answer.json()["message"]


async def test_queries_and_headers_are_named_as_the_caller_wrote_them() -> None:
    for path, headers, details in (
        ("/query", [], {"field": "top", "reason": "required"}),
        ("/query?top=0", [], {"field": "top", "reason": "range"}),
        ("/query?top=x", [], {"field": "top", "reason": "type"}),
        ("/query?top=1", [("Idempotency-Key", "x")], {"field": "idempotency-key", "reason": "type"}),
    ):
        assert (await ask(app(), path=path, headers=headers)).json()["details"] == details


@pytest.mark.parametrize("written", ["yesterday", "2026-13-01", "2026-01-31T12:00:00"])
def test_what_is_no_date_is_told_in_the_language_of_the_rest(written: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(date).validate_python(written)
    found = [{**error, "loc": ("query", "since")} for error in caught.value.errors()]
    problem = malformed_body(RequestValidationError(found))
    assert problem.zh == "字段 since 无效：应为日期，如 2026-01-31"
    assert problem.details == {"field": "since", "reason": "format"}


async def test_half_a_character_is_answered_all_the_same() -> None:
    answer = await post(b'{"prompt": "a", "\\ud800": 1}')
    assert (answer.status, answer.json()["details"]) == (400, {"field": "body", "reason": "encoding"})
    answer = await ask(app(Invalid("坏 \ud800", "bad \ud800", field="\ud800")), path="/problem")
    assert answer.json() == {"status": 400, "message": "坏 \\ud800", "details": {"field": "?"}}


@pytest.mark.parametrize(
    "method, path, allow",
    [
        ("POST", "/things/a", "GET, PUT, PATCH, DELETE, HEAD"),
        ("POST", "/things/deep/a", "GET, PUT, PATCH, DELETE, HEAD"),
        ("OPTIONS", "/things/a", "GET, PUT, PATCH, DELETE, HEAD"),
        ("TRACE", "/things/a", "GET, PUT, PATCH, DELETE, HEAD"),
        ("GET", "/body", "POST"),
        ("HEAD", "/body", "POST"),
        ("OPTIONS", "/body", "POST"),
        ("DELETE", "/query", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_all_the_right_ones(method: str, path: str, allow: str) -> None:
    answer = await ask(app(), method, path)
    assert (answer.status, answer["allow"], answer.json()["status"]) == (405, allow, 405)


async def test_head_is_answered_wherever_get_is() -> None:
    assert (await ask(app(), "HEAD", "/things/a")).status == 200
    assert (await ask(app(), "HEAD", "/nowhere")).status == 404


@pytest.mark.parametrize("after, sent", [(7, "7"), (0.2, "1"), (0, "1"), (59.01, "60")])
async def test_whoever_must_wait_is_told_how_long_in_whole_seconds(after: float, sent: str) -> None:
    answer = await ask(app(TooMany("多", "many", retry_after=after)), path="/problem")
    assert (answer.status, answer["retry-after"]) == (429, sent)


async def test_a_401_names_the_scheme_and_no_other_status_does() -> None:
    answer = await ask(app(Unauthenticated("谁", "who")), path="/problem")
    assert (answer.status, answer["www-authenticate"]) == (401, "Bearer")
    answer = await ask(app(Invalid("坏", "bad")), path="/problem")
    assert answer.status == 400 and not {"www-authenticate", "retry-after"} & answer.names


async def test_a_client_that_left_is_no_bug() -> None:
    with capture_logs() as lines:
        answer = await ask(app(), path="/left")
    assert (answer.status, lines) == (0, [])


async def test_a_bug_after_the_first_bytes_leaves_the_answer_unfinished() -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ZeroDivisionError

    inner = FastAPI()
    errors.install(inner, errors.in_json(paint))
    inner.mount("/x", breaks)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/x/y", "root_path": "", "query_string": b"", "headers": []}
    with capture_logs() as lines:
        await inner(scope, receive, send)
    assert [line["event"] for line in lines] == ["bug"]
    assert len(sent) == 2 and sent[-1]["more_body"]  # the server sees that no end came, and closes


async def test_a_bug_is_logged_by_its_route_never_by_the_host_header() -> None:
    inner = FastAPI()
    errors.install(inner, errors.in_json(paint))

    @inner.get("/bug")
    async def bug() -> None:
        raise ZeroDivisionError("secret")

    with capture_logs() as lines:
        answer = await ask(inner, path="/bug?token=secret", host="x/health?")
    assert [(line["method"], line["path"]) for line in lines] == [("GET", "/bug")]
    assert answer.status == 500 and b"secret" not in answer.body and "secret" not in str(lines[0]["path"])


@pytest.mark.parametrize(
    "field, message, told",
    [
        ("dataset", "dataset 不存在：data/raw/dataset.json", "dataset_path 不存在：data/raw/dataset.json"),
        ("dataset", "dataset does not exist: dataset", "dataset_path does not exist: dataset"),
        ("dataset", "data/dataset/a.json holds no usable example", "data/dataset/a.json holds no usable example"),
        ("dataset", "my-dataset holds no usable example", "my-dataset holds no usable example"),
        ("dataset", "there is no file 'dataset'", "there is no file 'dataset'"),
        (
            "quantization",
            "quantization int4 needs bitsandbytes: pip install 'tunesmith[quantization]'",
            "config.quantization int4 needs bitsandbytes: pip install 'tunesmith[quantization]'",
        ),
        (
            "quantization",
            "quantization=int4 需要 bitsandbytes，请先安装：pip install 'tunesmith[quantization]'",
            "config.quantization=int4 需要 bitsandbytes，请先安装：pip install 'tunesmith[quantization]'",
        ),
        ("epochs", "epochs is not valid", "epochs is not valid"),  # the caller calls it so too
    ],
)
def test_only_the_field_itself_is_renamed_and_not_what_is_called_alike(field: str, message: str, told: str) -> None:
    names = {"dataset": "dataset_path", "quantization": "config.quantization"}
    assert errors.renamed(message, Invalid(message, message, field=field), names) == told
