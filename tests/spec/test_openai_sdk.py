"""The official ``openai`` SDK against the whole server, whose engine is the labelled fake."""

import json
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import openai
import pytest
import requests
import uvicorn
from pydantic import BaseModel
from safetensors.numpy import save_file

from tests.server import free_port, wait_until
from tunesmith import app
from tunesmith.asgi import create_app
from tunesmith.datasets.example import Message
from tunesmith.inference.chat import Chat
from tunesmith.inference.engine import Event, Reference, Request, Score
from tunesmith.inference.engines.scripted import ScriptedEngine
from tunesmith.models.aliases import Kind
from tunesmith.models.model import Model
from tunesmith.models.registry import SHIPPED
from tunesmith.settings import Settings

HI: list[Any] = [{"role": "user", "content": "hi"}]
ADAPTER = "adapters/town"


class Fake:
    """The scripted engine, which breaks off or dawdles where it is asked to."""

    def __init__(self) -> None:
        self.plain = ScriptedEngine(self._reply, context=64)
        self.broken = ScriptedEngine(fail_after=3)
        self.slow = ScriptedEngine(lambda request: "word " * 5000, delay_s=0.01, context=100_000)

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        text = _last(requests[0])
        chosen = self.broken if text == "break" else self.slow if text == "dawdle" else self.plain
        async with aclosing(chosen.generate(requests)) as events:
            async for event in events:
                yield event

    async def score(self, references: Sequence[Reference]) -> list[Score]:
        return []

    def _reply(self, request: Request) -> str | None:
        return '{"name": "Ada", "age": 36}' if request.sampling.schema else None


def write_adapter(folder: Path) -> None:
    """What an adapter looks like from outside: no engine of these tests opens it."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": SHIPPED, "r": 4}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"lora_A": np.zeros((4, 4), np.float32)}, folder / "adapter_model.safetensors")


def _last(request: Request) -> str:
    return request.prompt if isinstance(request.prompt, str) else request.prompt[-1].content


@dataclass(frozen=True, slots=True)
class Stage:
    url: str
    engine: Fake
    keys: dict[str, str]
    services: app.Services

    def client(self, key: str = "ada", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=self.keys.get(key, key), **{"max_retries": 0, **options})

    @property
    def asked(self) -> list[Request]:
        return self.engine.plain.asked


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    home = tmp_path_factory.mktemp("home")
    write_adapter(home / ADAPTER)
    engine = Fake()
    composed = app.compose(Settings(home, rate_inference=100_000, rate_other=100_000))
    services = replace(composed, chat=Chat(engine, composed.usage.used))
    services.versions.take_in()
    keys = {}
    for name, role in (("ada", "member"), ("root", "admin")):
        services.accounts.add(name, "a long enough password", role)  # type: ignore[arg-type]
        keys[name] = services.accounts.create_key(name).secret
    port = free_port()
    made = create_app(services, wants_token=True)
    server = uvicorn.Server(uvicorn.Config(made, port=port, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the server did not start", 30)
    yield Stage(f"http://127.0.0.1:{port}/v1", engine, keys, services)
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def client(stage: Stage) -> Iterator[openai.OpenAI]:
    with stage.client(default_headers={"Accept-Language": "en"}) as made:
        yield made


def test_a_chat_answer_has_what_users_read(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=SHIPPED, messages=HI, max_tokens=5, temperature=0)
    assert (answer.object, answer.model, answer.id[:9]) == ("chat.completion", SHIPPED, "chatcmpl-")
    assert answer._request_id and abs(answer.created - time.time()) < 600
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert choice.message.role == "assistant" and len((choice.message.content or "").split()) == 5
    assert (choice.message.refusal, choice.message.tool_calls) == (None, None)
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (1, 5, 6)


def test_an_answer_can_be_sent_back_as_it_came(client: openai.OpenAI, stage: Stage) -> None:
    said = client.chat.completions.create(model=SHIPPED, messages=HI, max_tokens=2).choices[0].message
    client.chat.completions.create(model=SHIPPED, messages=[*HI, said, *HI], max_tokens=2)
    assert stage.asked[-1].prompt == (
        Message("user", "hi"),
        Message("assistant", said.content or ""),
        Message("user", "hi"),
    )


def test_a_stream_says_what_the_whole_answer_does(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": SHIPPED, "messages": HI, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:-1]] == ["stop"]
    with client.chat.completions.stream(**asked) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content


def test_n_answers_are_drawn_with_seeds_of_their_own(client: openai.OpenAI, stage: Stage) -> None:
    answer = client.chat.completions.create(model=SHIPPED, messages=HI, max_tokens=8, n=3, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert [request.sampling.seed for request in stage.asked[-3:]] == [5, 6, 7]
    assert answer.usage is not None and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 24)
    greedy = client.chat.completions.create(model=SHIPPED, messages=HI, max_tokens=8, n=2, temperature=0)
    assert len({choice.message.content for choice in greedy.choices}) == 1


def test_log_probabilities_come_whole_and_streamed(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": SHIPPED, "messages": HI, "temperature": 0, "max_tokens": 3, "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    reported = client.chat.completions.create(**asked).choices[0].logprobs
    assert reported is not None and reported.content is not None and len(reported.content) == 3
    assert all(len(each.top_logprobs) == 2 and each.logprob < 0 for each in reported.content)
    chunks = client.chat.completions.create(**asked, stream=True)
    parts = [chunk.choices[0].logprobs for chunk in chunks]
    assert [each for part in parts if part for each in part.content or []] == reported.content


def test_completions_continue_one_text_or_several(client: openai.OpenAI, stage: Stage) -> None:
    answer = client.completions.create(model=SHIPPED, prompt=["one two", "three"], n=2, max_tokens=2, logprobs=1)
    assert (answer.object, len(answer.choices)) == ("text_completion", 4)
    assert [request.prompt for request in stage.asked[-4:]] == ["one two", "one two", "three", "three"]
    assert answer.usage is not None and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 8)
    shares = answer.choices[3].logprobs
    assert shares is not None and shares.text_offset is not None and shares.text_offset[0] == 0
    assert "".join(shares.tokens or []) == answer.choices[3].text
    chunks = list(client.completions.create(model=SHIPPED, prompt="x", temperature=0, max_tokens=4, stream=True))
    whole = client.completions.create(model=SHIPPED, prompt="x", temperature=0, max_tokens=4)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


class Person(BaseModel):
    name: str
    age: int


def test_a_pydantic_model_comes_back_as_one(client: openai.OpenAI, stage: Stage) -> None:
    answer = client.chat.completions.parse(model=SHIPPED, messages=HI, response_format=Person)
    assert answer.choices[0].message.parsed == Person(name="Ada", age=36)
    assert '"additionalProperties": false' in (stage.asked[-1].sampling.schema or "")


def test_fields_of_other_servers_travel_as_extra_body(client: openai.OpenAI, stage: Stage) -> None:
    extra = {"top_k": 3, "min_p": 0.2, "repetition_penalty": 1.3}
    client.chat.completions.create(model=SHIPPED, messages=HI, max_tokens=1, extra_body=extra, user="somebody")
    sampling = stage.asked[-1].sampling
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (3, 0.2, 1.3)


def test_who_asks_owns_the_row_and_the_model_is_counted(client: openai.OpenAI, stage: Stage) -> None:
    client.chat.completions.create(model=ADAPTER, messages=HI, max_tokens=1)
    assert (stage.asked[-1].owner, stage.asked[-1].model) == ("ada", Model(SHIPPED, ADAPTER))
    assert stage.services.notes.all()[ADAPTER].usage.count >= 1


async def test_the_async_client_streams_too(stage: Stage) -> None:
    async with openai.AsyncOpenAI(base_url=stage.url, api_key=stage.keys["ada"]) as client:
        stream = await client.chat.completions.create(model=SHIPPED, messages=HI, max_tokens=3, stream=True)
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert len("".join(texts).split()) == 3


def test_models_are_listed_and_found_by_names_with_slashes(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert next(iter(listed)) == SHIPPED and ADAPTER in listed
    for name in (SHIPPED, ADAPTER, "town@1"):
        model = client.models.retrieve(name)
        assert (model.id, model.object, model.owned_by) == (name, "model", "tunesmith") and model.created > 0
    assert client.models.retrieve("town@1").to_dict()["parent"] == SHIPPED
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no/such")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_an_alias_answers_as_the_version_it_points_at(client: openai.OpenAI, stage: Stage) -> None:
    [version] = stage.services.versions.list("town")
    stage.services.aliases.move("prod", version, expected=0, kind=Kind.PROMOTED)
    assert "prod" in {model.id for model in client.models.list()}
    assert client.models.retrieve("prod").to_dict()["root"] == "town@1"
    assert client.chat.completions.create(model="prod", messages=HI, max_tokens=1).model == "town@1"
    assert stage.asked[-1].model == Model(SHIPPED, ADAPTER)


def test_models_are_deleted_by_admins_and_never_under_a_client(client: openai.OpenAI, stage: Stage) -> None:
    write_adapter(stage.services.home.root / "adapters" / "old")
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete("adapters/old")
    with stage.client("root") as admin:
        with pytest.raises(openai.PermissionDeniedError):
            admin.models.delete(SHIPPED)
        [old], [town] = (stage.services.versions.list(name) for name in ("old", "town"))
        stage.services.aliases.move("kept", old, expected=0, kind=Kind.PROMOTED)
        with pytest.raises(openai.ConflictError):
            admin.models.delete("adapters/old")
        with pytest.raises(openai.ConflictError):
            admin.models.delete("kept")
        stage.services.aliases.move("kept", town, expected=1, kind=Kind.PROMOTED)
        assert admin.models.delete("adapters/old").deleted is True
        with pytest.raises(openai.NotFoundError):
            admin.models.delete("adapters/old")


@pytest.mark.parametrize("key", ["sk-none", "tsk_000000000000_" + "a" * 43])
def test_a_key_nobody_has_is_an_authentication_error(stage: Stage, key: str) -> None:
    with stage.client(key) as stranger, pytest.raises(openai.AuthenticationError) as caught:
        stranger.models.list()
    assert (caught.value.code, caught.value.type) == ("invalid_api_key", "authentication_error")


@pytest.mark.parametrize(
    "fields, status, param, code",
    [
        ({"model": "no-such"}, 404, "model", "model_not_found"),
        ({"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
        ({"temperature": 11}, 400, "temperature", "invalid_value"),
        ({"presence_penalty": 3}, 400, "presence_penalty", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools", "unsupported_parameter"),
        ({"messages": [{"role": "user", "content": "word " * 100}]}, 400, None, "context_length_exceeded"),
        ({"stream": True, "model": "no-such"}, 404, "model", "model_not_found"),
        ({"stream": True, "messages": [{"role": "user", "content": "word " * 100}]}, 400, None, "context_length_exceeded"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_the_sdks_exception(
    client: openai.OpenAI, fields: dict[str, Any], status: int, param: str | None, code: str | None
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**{"model": SHIPPED, "messages": HI, **fields})
    error = caught.value
    assert (error.status_code, error.param, error.code) == (status, param, code)
    assert error.type == "invalid_request_error" and error.message.isascii()


def test_a_failure_in_a_stream_is_an_api_error_after_what_came(client: openai.OpenAI) -> None:
    came: list[str] = []
    messages: list[Any] = [{"role": "user", "content": "break"}]
    with pytest.raises(openai.APIError) as caught:
        for chunk in client.chat.completions.create(model=SHIPPED, messages=messages, stream=True):
            came.append(chunk.choices[0].delta.content or "")
    assert len(came) == 4 and caught.value.code == "service_unavailable"


def test_a_client_that_leaves_frees_its_rows(client: openai.OpenAI, stage: Stage) -> None:
    messages: list[Any] = [{"role": "user", "content": "dawdle"}]
    stream = client.chat.completions.create(model=SHIPPED, messages=messages, stream=True, n=2)
    next(stream)
    assert stage.engine.slow.rows == 2
    stream.close()
    wait_until(lambda: stage.engine.slow.rows == 0, "rows go on for nobody", 20)


@pytest.mark.parametrize(
    "method, path, status, code",
    [
        ("GET", "/files", 404, "unknown_url"),
        ("POST", "/fine_tuning/jobs", 404, "unknown_url"),
        ("POST", "/embeddings", 404, "unknown_url"),
        ("GET", "/chat/completions", 404, "unknown_url"),
        ("GET", "/chat/completions/chatcmpl-1", 404, "unknown_url"),
        ("GET", "", 404, "unknown_url"),
        ("GET", "/nothing", 404, "unknown_url"),
        ("PUT", "/completions", 405, "method_not_allowed"),
        ("POST", "/completions", 400, "missing_required_parameter"),
    ],
)
def test_other_paths_answer_in_the_wires_shape(
    stage: Stage, method: str, path: str, status: int, code: str | None
) -> None:
    answer = requests.request(
        method, stage.url + path, headers={"Authorization": f"Bearer {stage.keys['ada']}"}, timeout=30
    )
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == code and error["message"]


def post(stage: Stage, path: str, raw: bytes, **headers: str) -> requests.Response:
    sent = {"Authorization": f"Bearer {stage.keys['ada']}", "Content-Type": "application/json", **headers}
    return requests.post(stage.url + path, data=raw, headers=sent, timeout=30)


def refusal(answer: requests.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
@pytest.mark.parametrize(
    "raw",
    [
        b"", b"null", b"[]", b'"hi"', b"{", b"{}{}", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000,
        b'{"messages": NaN, "prompt": NaN}', b'{"prompt": "\\ud800", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"prompt": "x", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"prompt": "x", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"prompt": "x", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1' + b"0" * 5000 + b"}",
        b'{"prompt": "x", "messages": [{"role": "user", "content": "x"}], "seed": 1e400}',
        b'{"prompt": "x", "messages": [{"role": "user", "content": "x"}], "tools": [{}], "stream": true}',
        b'{"prompt": "x", "messages": [{"role": "user", "content": "x"}], "stop": ["\\udfff"], "n": 1e9}',
        b'{"prompt": "x", "messages": [{"role": "\\ud800", "content": "x"}], "best_of": "\\ud800"}',
    ],
)  # fmt: skip
def test_a_body_that_is_none_is_refused_before_anybody_is_asked(stage: Stage, path: str, raw: bytes) -> None:
    before = len(stage.asked)
    answer = post(stage, path, raw)
    assert answer.status_code == 400 and refusal(answer)["message"]
    assert len(stage.asked) == before


SCHEMAS = [b"[]", b"5", b'{"a": NaN}', b'{"a": "%s"}' % (b"x" * (128 << 10))]


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_a_schema_that_is_none_is_refused_before_anybody_is_asked(stage: Stage, schema: bytes) -> None:
    before = len(stage.asked)
    raw = b'{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema", "json_schema": '
    answer = post(stage, "/chat/completions", raw + b'{"name": "x", "schema": ' + schema + b"}}}")
    assert answer.status_code == 400 and str(refusal(answer)["param"]).startswith("response_format")
    assert len(stage.asked) == before


NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    "C:\\x",
    "a\0b",
    "a\r\nX-Injected: 1",
    "\u202egnp",
    "x" * 10_000,
    "@1",
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_models_name_is_no_path(stage: Stage, name: str) -> None:
    body = {"model": name, "messages": HI}
    answer = post(stage, "/chat/completions", json.dumps(body).encode())
    assert answer.status_code == 404 and refusal(answer)["code"] == "model_not_found"
    headers = {"Authorization": f"Bearer {stage.keys['root']}"}
    quoted = quote(name, safe="")
    for method in ("GET", "DELETE"):
        answer = requests.request(method, f"{stage.url}/models/{quoted}", headers=headers, timeout=30)
        assert answer.status_code == 404 and refusal(answer)["code"] in ("model_not_found", "unknown_url")


@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/models"), ("GET", f"/models/{SHIPPED}"), ("DELETE", f"/models/{ADAPTER}"), ("POST", "/completions"),
        ("POST", "/chat/completions"), ("POST", "/files"), ("OPTIONS", "/models"), ("GET", "/nothing"), ("GET", ""),
    ],
)  # fmt: skip
def test_every_path_wants_a_key(stage: Stage, method: str, path: str) -> None:
    answer = requests.request(method, stage.url + path, timeout=30)
    assert answer.status_code == 401 and refusal(answer)["code"] == "invalid_api_key"


def test_a_page_elsewhere_cannot_ask(stage: Stage) -> None:
    answer = post(stage, "/chat/completions", b"{}", Origin="https://evil.example")
    assert answer.status_code == 403 and refusal(answer)["type"] == "permission_error"
    assert "access-control-allow-origin" not in answer.headers
