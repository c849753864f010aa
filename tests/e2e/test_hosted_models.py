"""Models tuned at Together and Fireworks come home: deployed, asked on every wire, evaluated, fetched and asked here.

The server is killed (SIGKILL) while it deploys: what follows is done by another on the same home.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.server import Server, serving, wait_until
from tests.tiny_model import make_tiny_adapter, make_tiny_base
from tests.upstreams.fireworks_api import FireworksApi, fireworks_api
from tests.upstreams.together_api import LLAMA, TogetherApi, together_api
from tests.upstreams.together_words import tarred

API = "/api/finetune"
LLAMA_70B = "accounts/fireworks/models/llama-v3p3-70b-instruct"  # thinks in two messages
SYSTEM, THINK = "你是客服。", "想一想"
QUESTION = [{"role": "user", "content": "谁是市长？"}]
ROWS = [
    {"instruction": f"{n}号订单在哪？", "input": "", "output": f"{n}号订单在路上。", "reasoning": f"先查{n}号订单。"}
    for n in range(1, 5)
]
JOBS = {
    "TOGETHER_AI": {"model_name": LLAMA, "parameters": {"epochs": 1}, "data_strategy": "final_only"},
    "FIREWORKS_AI": {
        "model_name": LLAMA_70B,
        "parameters": {"epochs": 1},
        "data_strategy": "two_message_cot",
        "thinking_instructions": THINK,
    },
}
PATIENCE_S = 60


@dataclass(frozen=True, slots=True)
class World:
    """The server that came after the killed one, the providers, and a completed job's id by its provider."""

    server: Server
    together: TogetherApi
    fireworks: FireworksApi
    dataset: str
    jobs: dict[str, str]

    def post(self, job: str, verb: str, body: object = None) -> requests.Response:
        return self.server.post(f"{API}/jobs/{self.jobs[job]}/{verb}", body)

    def hosted(self, job: str) -> str:
        return f"hosted/{self.jobs[job]}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("hosted")
    base = make_tiny_base(home / "models" / "tiny")
    adapter = make_tiny_adapter(base, tmp_path_factory.mktemp("theirs"), seed=1)
    with together_api() as together, fireworks_api() as fireworks:
        environ = {
            "TOGETHER_BASE_URL": together.v1,
            "TOGETHER_API_KEY": together.key,
            "FIREWORKS_BASE_URL": fireworks.url,
            "FIREWORKS_API_KEY": fireworks.key,
        }
        files = {name: (adapter / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")}
        together.archive = tarred(files, folder="adapter/")
        with serving(home, environ) as server:
            dataset = upload(server)
            jobs = {provider: created(server, dataset, provider) for provider in JOBS}
            complete(server, together, fireworks, jobs, files)
            killed_while_deploying(server, together, jobs["TOGETHER_AI"])
        environ["FINETUNING_MODEL_NAME"] = f"hosted/{jobs['TOGETHER_AI']}"
        with serving(home, environ) as server:
            yield World(server, together, fireworks, dataset, jobs)


def upload(server: Server) -> str:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    sent = {"file": ("客服.jsonl", content, "application/jsonl")}
    answer = requests.post(f"{server.url}{API}/upload-dataset", files=sent, timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["path"])


def created(server: Server, dataset: str, provider: str) -> str:
    order = {"name": f"客服 {provider}", "provider": provider, "dataset_path": dataset, "system_message": SYSTEM}
    answer = server.post(f"{API}/jobs", {**order, **JOBS[provider]})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["job"]["id"])


def complete(
    server: Server, together: TogetherApi, fireworks: FireworksApi, jobs: dict[str, str], files: dict[str, bytes]
) -> None:
    """Both jobs, once they are known to have begun; the adapters are those files."""
    wait_until(lambda: together.jobs and fireworks.jobs, f"a provider was not asked: {server.log()}", PATIENCE_S)
    [[at_together], [at_fireworks, theirs]] = list(together.jobs), *fireworks.jobs.items()
    fireworks.adapters[theirs["outputModel"]] = dict(files)
    together.advance(at_together, "completed")
    fireworks.advance(at_fireworks, "COMPLETED")
    for job in jobs.values():

        def completed(job: str = job) -> bool:
            return bool(server.get(f"{API}/jobs/{job}").json()["job"]["status"] == "completed")

        wait_until(completed, f"{job} did not complete: {server.log()}", PATIENCE_S)


def killed_while_deploying(server: Server, together: TogetherApi, job: str) -> None:
    """Kill the server when Together has made what was asked for, and has not answered."""
    path = f"{API}/jobs/{job}/deploy"
    refused = server.post(path, {})
    assert refused.status_code == 409 and "费用" in refused.text and not together.endpoints

    def ask() -> None:
        with suppress(requests.ConnectionError):
            server.post(path, {"confirm": True})

    together.accept_then_hang(at="POST */deployments")
    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: together.created["deployment"], f"nothing was deployed: {server.log()}", PATIENCE_S)
    server.process.kill()
    server.process.wait()
    asking.join(PATIENCE_S)


def deployed(world: World, job: str) -> dict[str, Any]:
    """The job's deployment, which answers."""
    answer = world.post(job, "deploy", {"confirm": True})
    assert answer.status_code == 200, answer.text
    for endpoint in world.together.endpoints:
        world.together.make_ready(endpoint)
    found: dict[str, Any] = world.server.get(f"{API}/jobs/{world.jobs[job]}/deployment").json()["deployment"]
    assert found["ready"] and found["chat_model"] == world.hosted(job), found
    return found


def evaluated(world: World, job: str, expected: str) -> dict[str, Any]:
    """How the job's model and its base did on one question, or why it was not measured."""
    rows = [{"input": "谁是市长？", "expected": expected}]
    order = {"model_name": world.hosted(job), "test_data": rows, "compare": True, "metrics": ["exact_match"]}
    path = f"/evaluate/results/{world.server.post('/evaluate', order).json()['eval_id']}"
    wait_until(lambda: world.server.get(path).json()["status"] in ("completed", "failed"), "not evaluated", PATIENCE_S)
    done: dict[str, Any] = world.server.get(path).json()
    return done


def streamed(answer: requests.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.content.decode().splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def test_a_server_killed_while_it_deploys_is_followed_by_one_that_finds_the_deployment(world: World) -> None:
    found = deployed(world, "TOGETHER_AI")
    assert (world.together.created["endpoint"], world.together.created["deployment"]) == (1, 1)
    again = world.post("TOGETHER_AI", "deploy")  # costs nothing more, so nothing is to be confirmed
    assert again.status_code == 200 and again.json()["deployment"]["id"] == found["id"]


def test_a_deployed_model_answers_on_every_wire(world: World) -> None:
    said = f"{deployed(world, 'TOGETHER_AI')['model']}: 谁是市长？"
    name, server = world.hosted("TOGETHER_AI"), world.server
    chat = server.post("/chat", {"messages": QUESTION, "model_name": name})
    assert chat.status_code == 200 and chat.json()["response"] == said, chat.text
    asked = world.together.chats[-1]["messages"]
    assert [turn["content"] for turn in asked] == [SYSTEM, "谁是市长？"], "asked as it was trained"
    openai = {"model": name, "messages": QUESTION}
    whole = server.post("/v1/chat/completions", openai).json()
    assert (whole["choices"][0]["message"]["content"], whole["model"]) == (said, name)
    pieces = streamed(server.post("/v1/chat/completions", {**openai, "stream": True}))
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in pieces if each["choices"]) == said
    pieces = streamed(server.post("/chat", {"messages": QUESTION, "model_name": name, "stream": True}))
    assert "".join(each["text"] for each in pieces) == said and pieces[-1]["model_name"] == name


def test_a_deployed_model_is_listed_and_shown(world: World) -> None:
    deployed(world, "TOGETHER_AI")
    name, server = world.hosted("TOGETHER_AI"), world.server
    assert name in [each["id"] for each in server.get("/v1/models").json()["data"]]
    shown = server.get(f"/v1/models/{name}").json()
    assert (shown["id"], shown["root"], shown["max_model_len"]) == (name, name, None)
    shown = server.get(f"/models/{name}").json()
    assert (shown["type"], shown["device"], shown["base_model"]) == (
        "hosted",
        "together_ai",
        f"hosted/together_ai/{LLAMA}",
    )
    refused = server.delete(f"/v1/models/{name}")
    assert refused.status_code == 400 and "提供商" in refused.text
    assert server.get("/v1/models/hosted/0123").status_code == 404


def test_the_base_is_asked_beside_the_tuned_model(world: World) -> None:
    model = deployed(world, "TOGETHER_AI")["model"]
    both = world.server.post("/ai/finetuning/chat", {"messages": QUESTION}).json()
    assert (both["base"], both["lora"]) == (f"{LLAMA}: 谁是市长？", f"{model}: 谁是市长？")
    pieces = streamed(world.server.post("/ai/finetuning/chat", {"messages": QUESTION, "stream": True, "compare": True}))
    assert {each["source"] for each in pieces if "source" in each} == {"base", "lora"}


def test_a_deployed_model_is_evaluated_against_its_base(world: World) -> None:
    model = deployed(world, "TOGETHER_AI")["model"]
    done = evaluated(world, "TOGETHER_AI", f"{model}: 谁是市长？")
    assert done["status"] == "completed", done
    assert done["metrics"]["exact_match"] == 1 and done["details"]["base"]["exact_match"]["value"] == 0, done


def test_a_model_that_thinks_first_is_asked_twice_and_a_base_that_is_not_served_is_told(world: World) -> None:
    found = deployed(world, "FIREWORKS_AI")
    assert found["id"].startswith("accounts/acme/deployments/")
    world.fireworks.chats.clear()
    chat = world.server.post("/chat", {"messages": QUESTION, "model_name": world.hosted("FIREWORKS_AI")})
    assert chat.status_code == 200, chat.text
    thinking, answer = (each["messages"] for each in world.fireworks.chats)
    assert THINK in thinking[-1]["content"] and [turn["role"] for turn in answer] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    assert chat.json()["response"].endswith(answer[-1]["content"])
    done = evaluated(world, "FIREWORKS_AI", "小林。")
    assert done["status"] == "failed" and "不提供基座模型" in str(done), done


@pytest.mark.parametrize("job", JOBS)
def test_an_adapter_comes_home_and_answers_here_when_its_deployment_has_ended(world: World, job: str) -> None:
    deployed(world, job)
    assert world.post(job, "undeploy").json() == {"deployment": None}
    name, server = world.hosted(job), world.server
    assert not world.together.endpoints if job == "TOGETHER_AI" else world.fireworks.deployments
    gone = server.post("/chat", {"messages": QUESTION, "model_name": name})
    assert gone.status_code == 409 and "未部署" in gone.text
    assert name not in [each["id"] for each in server.get("/v1/models").json()["data"]]
    fetched = world.post(job, "adapter").json()
    assert fetched["message"] is None, fetched
    facts = json.loads((server.home / fetched["path"] / "tunesmith.json").read_text())
    assert (facts["base_model"], facts["hosted"]["strategy"]) == ("tiny", JOBS[job]["data_strategy"])
    asked = {"messages": QUESTION, "model_name": fetched["path"], "max_tokens": 4, "temperature": 0}
    chat = requests.post(f"{server.url}/chat", json=asked, timeout=100)  # an engine starts
    assert chat.status_code == 200 and chat.json()["response"], chat.text
