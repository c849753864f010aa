"""What models, generation, data, aliases, chat and the OpenAI wire answer, compared with what OpenAPI says of them."""

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.described import EVENTS, of_this_version
from tests.spec.test_described import ADAPTER, ROWS, Asker, ask
from tunesmith.dialects.chat_gateway.wire import offers
from tunesmith.dialects.gpt_service import wire
from tunesmith.inference.engine import Request
from tunesmith.inference.engines.scripted import ScriptedEngine
from tunesmith.inference.gateway import Offer
from tunesmith.inference.model_ids import Listed
from tunesmith.inference.ollama import OllamaStats, OllamaTotals, RunningModel
from tunesmith.inference.pull_store import Pull, PullState
from tunesmith.inference.supervisor import Supervisor
from tunesmith.kernel.problems import Unavailable
from tunesmith.models.spending import Spent

__all__ = ["ask"]
pytestmark = pytest.mark.timeout(300)  # processes load tokenizers, on a machine that is busy

GONE = Unavailable("不在", "gone")
PAIRS = b'{"prompt": "q", "chosen": "good", "rejected": "bad"}\n{"prompt": "q", "chosen": "good"}\n'
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine is started; where "break" is asked, an answer breaks off."""
    whole, broken = ScriptedEngine(), ScriptedEngine(fail_after=2)

    def engine(requests: Sequence[Request]) -> ScriptedEngine:
        prompt = requests[0].prompt
        return broken if (prompt if isinstance(prompt, str) else prompt[-1].content) == "break" else whole

    async def nothing(self: Supervisor, *args: object, **options: object) -> None:
        pass

    monkeypatch.setattr(Supervisor, "generate", lambda self, requests: engine(requests).generate(requests))
    monkeypatch.setattr(Supervisor, "score", lambda self, references: whole.score(references))
    for name in ("prepare", "stop", "unload_adapter"):
        monkeypatch.setattr(Supervisor, name, nothing)


async def streamed(ask: Asker, path: str, body: dict[str, Any]) -> list[Any]:
    """Each event of a stream, compared with its description."""
    answer = await ask.client.post(path, json=body)
    assert answer.headers["content-type"].startswith(EVENTS), answer.text
    texts = [part.removeprefix("data: ") for part in answer.text.split("\n\n") if part]
    found = [json.loads(text) for text in texts if text != "[DONE]"]
    for each in found:
        assert ask.described.findings("POST", path, each, EVENTS) == [], each
    return found


async def test_models_are_as_described_by_whatever_name(ask: Asker) -> None:
    await ask("GET", "/")
    await ask("GET", "/health")
    await ask("POST", "/models/load", {"model_name": "mine", "model_path": "tunesmith-small", "lora_adapter": ADAPTER})
    await ask("POST", "/aliases/prod", {"adapter": ADAPTER, "force": True})
    await ask("POST", "/models/switch?model_name=prod")
    listed = await ask("GET", "/models")
    assert any("version" in each for each in listed["models"]) and any(
        "version" not in each for each in listed["models"]
    )
    for name in ("mine", "prod", ADAPTER, "tunesmith-small"):
        await ask("GET", f"/models/{name}")
        await ask("GET", f"/v1/models/{name}")
    await ask("GET", "/v1/models")
    await ask("PATCH", "/library", {"name": ADAPTER, "description": "loud"})
    library = await ask("GET", "/library")
    assert library["adapters"][0]["version"] and library["loaded"] and library["bases"]
    await ask("POST", "/models/unload?model_name=mine")
    await ask("POST", "/models/unload?model_name=prod")
    await ask("DELETE", "/aliases/prod")
    await ask("DELETE", f"/v1/models/{ADAPTER}")


async def test_answers_of_models_are_as_described_whole_and_streamed(ask: Asker) -> None:
    await ask("POST", "/aliases/prod", {"adapter": ADAPTER, "force": True})
    for name in ("tunesmith-small", "prod"):
        said = await ask("POST", "/generate", {"model_name": name, "prompt": "hello"})
        assert ("model_version" in said) == (name == "prod")
        await ask("POST", "/chat", {"model_name": name, "messages": HELLO})
        await ask("POST", "/batch", {"model_name": name, "prompts": ["a", "b"]})
        *_, last = await streamed(ask, "/generate/stream", {"model_name": name, "prompt": "hello"})
        assert last["done"] and ("model_version" in last) == (name == "prod")
    await streamed(ask, "/chat", {"messages": HELLO, "stream": True})
    assert "error" in (await streamed(ask, "/generate/stream", {"prompt": "break"}))[-1]


@pytest.mark.parametrize(
    ("path", "asked", "shares"),
    [
        ("/v1/chat/completions", {"messages": HELLO}, {"logprobs": True, "top_logprobs": 2}),
        ("/v1/completions", {"prompt": "hello"}, {"logprobs": 2}),
    ],
)
async def test_the_openai_wire_is_as_described(
    ask: Asker, path: str, asked: dict[str, Any], shares: dict[str, Any]
) -> None:
    for more in ({}, {"n": 2, **shares}):
        assert (await ask("POST", path, {**asked, **more}))["usage"]["completion_tokens"] > 0
        for usage in (False, True):
            body = {**asked, **more, "stream": True, "stream_options": {"include_usage": usage}}
            *_, last = await streamed(ask, path, body)
            assert (last.get("usage") is not None) == usage
    broken = {"messages": [{"role": "user", "content": "break"}]} if "messages" in asked else {"prompt": "break"}
    assert "error" in (await streamed(ask, path, {**broken, "stream": True}))[-1]


async def test_aliases_are_as_described_through_every_move(ask: Asker) -> None:
    compared = await ask("POST", "/aliases/prod", {"adapter": ADAPTER, "test": "town/test", "metrics": ["exact_match"]})
    assert compared["moved"] and compared["report"]["sets"][0]["role"] == "test"
    again = await ask("POST", "/aliases/prod", {"adapter": ADAPTER, "force": True})
    assert again["moved"] is False and again["report"] is None
    other = shutil.copytree(ask.services.home.root / ADAPTER, ask.services.home.root / "adapters/other")
    config = other / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    moved = {"adapter": "adapters/other", "test": "town/test", "metrics": ["bleu"], "force": True}
    after = await ask("POST", "/aliases/prod", moved)
    assert after["report"]["before"] and "difference" in after["report"]["sets"][0]["result"]
    await ask("POST", "/aliases/prod/rollback")
    assert (await ask("GET", "/aliases"))["total_count"] == 1
    history = (await ask("GET", "/aliases/prod"))["history"]
    assert [each["kind"] for each in history] == ["rolled_back", "forced", "promoted"]
    await ask("DELETE", "/aliases/prod")


async def test_data_is_as_described_from_every_side(ask: Asker) -> None:
    for name, content in ((ROWS, (ask.services.home.root / ROWS).read_bytes()), ("pairs.jsonl", PAIRS)):
        kept = await ask.client.post("/api/finetune/upload-dataset", files={"file": (name, content)})
        assert ask.described.findings("POST", "/api/finetune/upload-dataset", kept.json()) == []
        ask.named[name] = kept.json()["id"]
    await ask("POST", "/samples")
    listed = (await ask("GET", "/datasets"))["datasets"]
    assert {each["kind"] for each in listed} == {"dataset", "upload", "sample"}
    for each in listed:
        await ask("GET", f"/datasets/{each['id']}")
    upload = ask.named[ROWS]
    await ask("GET", f"/datasets/{upload}/rows?limit=2")
    good, bad = (await ask("GET", f"/datasets/{ask.named['pairs.jsonl']}/rows"))["rows"]
    assert good["rejected"] and bad["problem"]
    shares = {"train": 0.8, "validation": 0.1, "test": 0.1}
    await ask("POST", f"/datasets/{upload}/process", {"name": "village", **shares})
    await ask("POST", "/datasets/town/split", shares)
    await ask("DELETE", f"/datasets/{upload}")


async def test_what_a_model_would_make_of_data_is_as_described(ask: Asker) -> None:
    assert (await ask("GET", "/datasets/town/mask?part=test&limit=2"))["preview"]
    kept = await ask.client.post("/api/finetune/upload-dataset", files={"file": ("pairs.jsonl", PAIRS)})
    report = await ask("GET", f"/datasets/{kept.json()['id']}/check")
    assert report["parts"][0]["rejected"] and report["findings"]


async def test_the_chat_gateway_is_as_described(ask: Asker) -> None:
    asked = {"message": "hello", "conversation_id": "one", "context": "be short"}
    assert (await streamed(ask, "/api/chat/send", asked))[-1]["fullResponse"]
    assert "error" in (await streamed(ask, "/api/chat/send", {"message": "break", "conversation_id": "one"}))[-1]
    assert (await ask("GET", "/api/chat/conversations"))["conversations"]
    states = [each["state"] for each in (await ask("GET", "/api/chat/conversations/one"))["messages"]]
    assert states == ["completed", "failed"]
    await ask("DELETE", "/api/chat/conversations/one")
    ask.services.usage.spent(Spent("local", "openrouter", "a/b", 5, 6, 0.5))
    assert (await ask("GET", "/api/chat/usage"))["models"]
    assert (await ask("PUT", "/api/chat/keys/openrouter", {"key": "sk-or-v1-" + "a" * 40}))["keys"][0]["hint"]
    await ask("GET", "/api/chat/keys")
    await ask("DELETE", "/api/chat/keys/openrouter")


def test_what_is_offered_elsewhere_is_as_described() -> None:
    full = Listed("a/b", "B", (), 4096, 1e-6, 2e-6, 1 << 30, "2026-01-01", True)
    found = [Offer("openrouter", "openrouter", (full, Listed("c")), "c"), Offer("local", "ollama", problem=GONE)]
    assert of_this_version().findings("GET", "/api/chat/models", offers(found, "en")) == []


def test_what_ollama_does_is_as_described() -> None:
    described, moment = of_this_version(), datetime.now(UTC)
    listed = [Listed("a", size_bytes=3, modified="2026-01-01", loaded=True), Listed("b")]
    assert described.findings("GET", "/ollama/models", wire.ollama_models(listed)) == []
    running = [RunningModel("a", 3, 2, "2026-01-01", 4096), RunningModel("b", 3, 2)]
    for totals in (OllamaTotals(), OllamaTotals(3, 1, 1, 1, 50, 60, 2.5)):
        stats = OllamaStats("0.9.0", listed, running, totals)
        assert described.findings("GET", "/ollama/stats", wire.ollama_stats(stats)) == []
    for state in PullState:
        failure = GONE if state is PullState.FAILED else None
        ended = moment if state.final else None
        pull = wire.pull(
            Pull(
                id="1", model="a", asked_by="ada", created_at=moment, updated_at=moment, state=state, failure=failure,
                ended_at=ended,
            ),
            "en",
        )  # fmt: skip
        assert described.findings("GET", "/ollama/pulls/1", pull) == []
        assert described.findings("GET", "/ollama/pulls", {"pulls": [pull]}) == []
        assert described.findings("POST", "/ollama/pull", {**pull, "done": state.final}, EVENTS) == []
