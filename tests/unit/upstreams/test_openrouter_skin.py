"""The OpenRouter-compatible fake satisfies OpenAI's own client, over a real llama.cpp and over canned text."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests

from tests.unit.upstreams.speaking import frames, said, speaking
from tests.upstreams.openrouter_models import AWKWARD, DOCUMENTED
from tests.upstreams.running import Upstream, openrouter_skin
from tests.upstreams.texts import text

MODEL = "mistralai/mistral-7b-instruct"
CHAT = "/api/v1/chat/completions"
QUESTION: Any = [{"role": "user", "content": "你好 hello"}]
BEARER = {"Authorization": "Bearer sk-or-test"}


@pytest.fixture(scope="module", params=["llama", "canned"])
def running(request: pytest.FixtureRequest) -> Iterator[Upstream]:
    url = request.getfixturevalue("llama").url if request.param == "llama" else None
    with openrouter_skin(llama_url=url, models=["nobody/moderated"]) as upstream:
        yield upstream


@pytest.fixture
def skin(running: Upstream) -> Upstream:
    running.reset()
    return running


@pytest.fixture
def client(skin: Upstream) -> Iterator[openai.OpenAI]:
    headers = {"HTTP-Referer": "https://example.org", "X-OpenRouter-Title": "Tests"}
    base = skin.url + "/api/v1"
    with openai.OpenAI(base_url=base, api_key="sk-or-test", max_retries=0, default_headers=headers) as made:
        yield made


def post(skin: Upstream, model: str, headers: dict[str, str] = BEARER, **more: Any) -> requests.Response:
    body = {"model": model, "messages": QUESTION, "stream": True, **more}
    return requests.post(skin.url + CHAT, json=body, headers=headers, timeout=30)


def test_the_official_client_streams_and_gets_usage_once_at_the_end(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True, max_tokens=12, temperature=0)
    )
    *others, last = chunks
    assert last.choices == [] and last.usage is not None and last.usage.completion_tokens == 12
    assert last.usage.cost > 0  # type: ignore[attr-defined]
    assert all(chunk.usage is None and chunk.model == MODEL for chunk in others)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in others)
    assert others[-1].choices[0].finish_reason == "length"


def test_the_official_client_gets_the_same_text_without_a_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True, temperature=0)
    text = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    assert whole.choices[0].message.content == text != ""
    assert whole.usage is not None and whole.usage.total_tokens > 0


def test_the_official_client_lists_the_models(client: openai.OpenAI) -> None:
    listed = list(client.models.list())
    assert {model.id for model in listed} >= {*DOCUMENTED, *AWKWARD}
    assert all(isinstance(model.pricing["prompt"], str) for model in listed)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "raised"),
    [
        ("err/400", openai.BadRequestError),
        ("err/402", openai.APIStatusError),
        ("err/403", openai.PermissionDeniedError),
        ("err/404", openai.NotFoundError),
        ("err/408", openai.APIStatusError),
        ("err/429", openai.RateLimitError),
        ("err/429-new", openai.RateLimitError),
        ("err/500", openai.InternalServerError),
        ("err/502", openai.InternalServerError),
        ("err/503-new", openai.InternalServerError),
        ("err/504", openai.InternalServerError),
        ("err/529", openai.InternalServerError),
        ("nobody/knows", openai.BadRequestError),
    ],
)
def test_refusals_are_the_errors_of_the_official_client(
    client: openai.OpenAI, model: str, raised: type[openai.APIStatusError]
) -> None:
    with pytest.raises(raised) as refused:
        client.chat.completions.create(model=model, messages=QUESTION, stream=True)
    wanted = int("".join(letter for letter in model if letter.isdigit()) or 400)
    assert refused.value.status_code == wanted
    assert refused.value.response.headers.get("retry-after") == ("7" if wanted in (429, 503) else None)
    error: Any = refused.value.body
    if model.endswith("-new"):
        assert "code" not in error and error["http_status"] == wanted and error["availability"]["retryable"]
    else:
        assert error["code"] == wanted


def test_an_unlisted_model_is_told_in_openrouters_words(skin: Upstream) -> None:
    assert post(skin, "mistral-7b-instruct").json()["error"]["message"] == "mistral-7b-instruct is not a valid model ID"
    assert post(skin, "err/200").status_code == 200 and post(skin, "err/200").json()["error"]


def test_only_the_configured_key_enters(skin: Upstream) -> None:
    assert post(skin, MODEL, {}).json()["error"] == {
        "code": 401,
        "message": "No auth credentials found",
        "metadata": {"provider_name": "Nobody", "error_type": "unmapped"},
    }
    assert post(skin, MODEL, {"Authorization": "Bearer sk-or-other"}).status_code == 401
    assert requests.get(skin.url + "/api/v1/key", headers=BEARER, timeout=30).json()["data"]["limit_remaining"] == 9.5
    assert requests.get(skin.url + "/api/v1/key", timeout=30).status_code == 401


def test_the_stream_begins_with_comments_and_carries_a_generation_id(skin: Upstream) -> None:
    answer = post(skin, MODEL)
    assert answer.content.startswith(b": OPENROUTER PROCESSING\n\n" * 2 + b"data: {")
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert answer.headers["X-Generation-Id"] == frames("openai", answer.content)[0]["id"]
    assert answer.headers["Content-Type"] == "text/event-stream"


@pytest.mark.parametrize("model", ["mid/502", "mid/502-empty", "mid/502-done", "mid/server_error"])
def test_streams_break_in_the_middle_as_openrouter_breaks_them(
    client: openai.OpenAI, skin: Upstream, model: str
) -> None:
    with pytest.raises(openai.APIError, match="disconnected"):
        list(client.chat.completions.create(model=model, messages=QUESTION, stream=True))
    body = post(skin, model).content
    *spoken, last = frames("openai", body)
    assert "".join(frame["choices"][0]["delta"]["content"] for frame in spoken)
    assert last["error"]["code"] == ("server_error" if model == "mid/server_error" else 502)
    assert (last["choices"] == []) == model.endswith("-empty")
    assert (b"[DONE]" in body) == model.endswith("-done")
    whole = post(skin, model, stream=False)
    assert whole.status_code == 200 and whole.json()["error"] and not whole.json()["choices"][0]["message"]["content"]


def test_a_model_that_reasons_does_so_first(skin: Upstream) -> None:
    deltas = [
        frame["choices"][0]["delta"] for frame in frames("openai", post(skin, "z/think").content) if frame["choices"]
    ]
    thoughts = [bool(delta.get("reasoning")) for delta in deltas]
    assert thoughts[0] and thoughts == sorted(thoughts, reverse=True)
    assert said("openai", post(skin, "z/think", temperature=0).content) == said(
        "openai", post(skin, MODEL, temperature=0).content
    )


def test_it_tells_what_it_was_asked(client: openai.OpenAI, skin: Upstream) -> None:
    client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0.5)
    post(skin, MODEL, {})
    mine, bare = skin.report()["requests"]
    assert mine["headers"]["authorization"] == "Bearer sk-or-test"
    assert mine["headers"]["http-referer"] == "https://example.org"
    assert mine["headers"]["x-openrouter-title"] == "Tests"
    assert (mine["path"], mine["body"]["temperature"], mine["body"]["messages"]) == (CHAT, 0.5, QUESTION)
    assert "authorization" not in bare["headers"]
    assert skin.report()["done"] == 2


def test_the_list_can_change_and_fail(client: openai.OpenAI, skin: Upstream) -> None:
    skin.tell("/models", {"models": ["only/this"]})
    assert [model.id for model in client.models.list()] == ["only/this"]
    skin.tell("/models", {})
    skin.tell("/fail", {"path": "/api/v1/models", "status": 503})
    with pytest.raises(openai.InternalServerError):
        client.models.list()
    assert len(list(client.models.list())) > len(DOCUMENTED)


def test_a_hang_up_is_noticed() -> None:
    with openrouter_skin(pause_ms=1000) as skin:
        with speaking(skin.url) as peer:
            peer.ask(CHAT, {"model": MODEL, "messages": QUESTION, "stream": True}, headers=BEARER)
            peer.until(b'"content"')
            assert skin.report()["open"] == 1
        report = skin.until(lambda report: report["open"] == 0)
        assert (report["gone_count"]["all"], report["done"]) == (1, 0)


def test_canned_text_is_known_beforehand() -> None:
    with openrouter_skin(key="another") as skin:
        assert said("openai", post(skin, MODEL, {"Authorization": "Bearer another"}).content) == text(0, 16)
