"""``docs/spec/finetune-providers.md``, replayed against a running server, with stand-ins of Together and Fireworks behind it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.server import Server, add_user, serving, wait_until
from tests.spec.documents import FOLDER, blocks, same_shape
from tests.tiny_model import make_tiny_base
from tests.upstreams.fireworks_api import FireworksApi, fireworks_api
from tests.upstreams.together_api import TogetherApi, together_api
from tests.upstreams.together_words import limits

DOCUMENT = "finetune-providers"
API = "/api/finetune"
PASSWORD = "correct horse 电池"
FIREWORKS_TAKES = ("epochs", "learning_rate", "batch_size", "lora_rank")
ROWS = [
    {"instruction": f"{n}号订单在哪？", "input": "", "output": f"{n}号订单在路上。", "reasoning": f"先查{n}号订单。"}
    for n in range(1, 9)
]


def example_of(heading: str, number: int = 0) -> Any:
    """A block of JSON under that heading; the document writes comments where it leaves things out."""
    found = [each for each in blocks(DOCUMENT) if each.heading == heading]
    return json.loads(re.sub(r"^\s*//.*$", "", found[number].text, flags=re.MULTILINE))


SAMPLE = example_of("创建微调作业", 1)


@dataclass(frozen=True, slots=True)
class Replay:
    """A running server, and the providers behind it."""

    server: Server
    together: TogetherApi
    fireworks: FireworksApi
    dataset: str

    def get(self, path: str, **params: Any) -> requests.Response:
        return self.server.get(API + path, params=params)

    def post(self, path: str, body: object = None) -> requests.Response:
        return self.server.post(API + path, body)

    def made(self, path: str = "/jobs", **changes: Any) -> dict[str, Any]:
        """The job that the document's sample makes, with its file where it really lies."""
        answer = self.post(path, {**SAMPLE, "dataset_path": self.dataset, **changes})
        assert_like(example_of("创建微调作业"), answer)
        found: dict[str, Any] = answer.json()["job"]
        return found

    def status(self, job: dict[str, Any]) -> str:
        return str(self.get(f"/jobs/{job['id']}").json()["job"]["status"])

    def ended(self, job: dict[str, Any], seconds: float = 100) -> dict[str, Any]:
        final = ("completed", "failed", "cancelled")
        wait_until(lambda: self.status(job) in final, f"{job['id']} did not end: {self.server.log()}", seconds)
        found: dict[str, Any] = self.get(f"/jobs/{job['id']}").json()["job"]
        return found


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    home = tmp_path_factory.mktemp("finetune")
    make_tiny_base(home / "models" / "tiny")
    add_user(home, "root", PASSWORD, admin=True)
    with together_api() as together, fireworks_api() as fireworks:
        # long retired at the real one
        together.limits[SAMPLE["model_name"]] = limits(SAMPLE["model_name"])
        environ = {
            "TOGETHER_BASE_URL": together.v1,
            "TOGETHER_API_KEY": together.key,
            "FIREWORKS_BASE_URL": fireworks.url,
            "FIREWORKS_API_KEY": fireworks.key,
        }
        with serving(home, environ) as server:
            answer = upload(server)
            assert_like(example_of("上传数据集"), answer)
            yield Replay(server, together, fireworks, answer.json()["path"])


def upload(server: Server) -> requests.Response:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    files = {"file": ("客服对话.jsonl", content, "application/jsonl")}
    return requests.post(f"{server.url}{API}/upload-dataset", files=files, timeout=60)


@pytest.fixture(scope="module")
def token(replay: Replay) -> dict[str, str]:
    """An admin's, as platform-v1 wants one."""
    answer = replay.server.post("/api/v1/login", {"username": "root", "password": PASSWORD})
    return {"Authorization": f"Bearer {answer.json()['token']}"}


@pytest.fixture(scope="module")
def task(replay: Replay) -> str:
    """The path of a task that has the rows as examples."""
    project = replay.post("/projects", {"name": "客服"}).json()["project"]["id"]
    fields = {"name": "答复", "instruction": "你是客服。"}
    path = f"/projects/{project}/tasks/{replay.post(f'/projects/{project}/tasks', fields).json()['task']['id']}"
    rows = [{"input": row["instruction"], "output": row["output"], "reasoning": row["reasoning"]} for row in ROWS]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    url = f"{replay.server.url}{API}{path}/runs/bulk_upload"
    answer = requests.post(url, files={"file": ("rows.jsonl", content)}, timeout=60)
    assert answer.json()["imported_count"] == len(ROWS), answer.text
    return path


def assert_like(example: Any, answer: requests.Response) -> None:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    # the document leaves lists and jobs empty
    assert {name: type(body.get(name)) for name in example} == {name: type(value) for name, value in example.items()}
    assert same_shape({name: value or None for name, value in example.items()}, body) == []


def lines_of(answer: requests.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/jsonl"
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    return [json.loads(line) for line in answer.content.decode().split("\n")[:-1]]


def test_every_example_and_every_path_of_the_document_is_replayed_here() -> None:
    source = Path(__file__).read_text()
    headings = {each.heading for each in blocks(DOCUMENT) if each.language == "json"}
    assert all(source.count(f'"{heading}"') >= 1 for heading in headings), headings
    paths = re.findall(r"\*\*接口\*\*: \w+ /api/finetune(/\S+)", (FOLDER / f"{DOCUMENT}.md").read_text())
    assert len(paths) == 17
    last_parts = {path.rstrip("}").split("{")[0].rstrip("/").rsplit("/", 1)[-1] for path in paths}
    assert all(part in source for part in last_parts), last_parts


def test_the_providers_are_the_documents_and_this_machine(replay: Replay) -> None:
    answer = replay.get("/providers")
    example = example_of("获取支持的微调提供商列表")
    assert_like(example, answer)
    found = answer.json()["providers"]
    assert {name: found[name] for name in example["providers"]} == example["providers"]
    assert set(found) == {*example["providers"], "LOCAL"}


@pytest.mark.parametrize("provider", ["TOGETHER_AI", "FIREWORKS_AI", "together_ai", "LOCAL"])
def test_every_provider_tells_its_parameters(replay: Replay, provider: str) -> None:
    answer = replay.get(f"/parameters/{provider}")
    assert_like(example_of("获取提供商参数"), answer)
    names = {each["name"] for each in answer.json()["parameters"]}
    assert names >= (set(FIREWORKS_TAKES) if provider == "FIREWORKS_AI" else set(SAMPLE["parameters"]))


def test_every_provider_lists_its_models(replay: Replay) -> None:
    answer = replay.get("/models")
    assert_like(example_of("获取提供商支持的模型"), answer)
    by_id = {each["id"]: each for each in answer.json()["providers"]}
    assert all(each["enabled"] and each["models"] for each in by_id.values()), by_id
    assert SAMPLE["model_name"] in [model["id"] for model in by_id["TOGETHER_AI"]["models"]]
    assert "tiny" in [model["id"] for model in by_id["LOCAL"]["models"]]


def test_a_dataset_is_formatted_and_downloaded_alike(replay: Replay) -> None:
    assert set(example_of("格式化数据集")) == {
        *("dataset_path", "split_name", "format_type"),
        *("data_strategy", "system_message", "thinking_instructions"),
    }
    asked = {
        "dataset_path": replay.dataset,
        "split_name": "train",
        "format_type": "openai_chat_jsonl",
        "data_strategy": "two_message_cot",
        "system_message": "你是客服。",
        "thinking_instructions": "想一想",
    }
    answer = replay.post("/format-dataset", asked)
    assert_like(example_of("格式化数据集", 1), answer)
    download = replay.get("/download-dataset", **asked)
    assert (replay.server.home / answer.json()["output_path"]).read_bytes() == download.content
    rows = lines_of(download)
    assert len(rows) == len(ROWS)
    assert [turn["role"] for turn in rows[0]["messages"]] == ["system", "user", "assistant", "user", "assistant"]


def test_a_download_has_the_documents_defaults(replay: Replay) -> None:
    asked = {"dataset_path": replay.dataset, "format_type": "openai_chat_jsonl", "data_strategy": "final_only"}
    plain = replay.get("/download-dataset", **asked)
    said = replay.get("/download-dataset", **asked, split_name="train", system_message="You are a helpful assistant.")
    assert plain.content == said.content
    assert lines_of(plain)[0]["messages"][0] == {"role": "system", "content": "You are a helpful assistant."}


def test_the_sample_request_works_whole_on_this_machine(replay: Replay, token: dict[str, str]) -> None:
    job = replay.made(provider="LOCAL", model_name="tiny")
    assert (job["status"], job["provider"]) == ("pending", "LOCAL")
    done = replay.ended(job)
    assert done["status"] == "completed", done
    assert (replay.server.home / done["adapter"] / "adapter_model.safetensors").is_file()
    facts = json.loads((replay.server.home / done["adapter"] / "adapter_config.json").read_text())
    assert (facts["r"], facts["lora_alpha"]) == (SAMPLE["parameters"]["lora_rank"], SAMPLE["parameters"]["lora_alpha"])
    assert replay.post(f"/jobs/{job['id']}/cancel").status_code == 409
    # the same record, in the words of the other dialects
    assert replay.server.get(f"/train/status/{job['run_id']}").json()["status"] == "completed"
    elsewhere = replay.server.get(f"/api/v1/train/status/{job['run_id']}", headers=token)
    assert (elsewhere.json()["status"], elsewhere.json()["model_path"]) == ("completed", done["adapter"])


def test_the_sample_request_works_whole_at_together(replay: Replay) -> None:
    job = replay.made()
    assert {name: job[name] for name in SAMPLE if name != "dataset_path"} == {
        name: value for name, value in SAMPLE.items() if name != "dataset_path"
    }
    wait_until(lambda: bool(replay.together.jobs), f"Together was not asked: {replay.server.log()}", 60)
    [theirs] = replay.together.jobs
    asked = replay.together.asked[theirs]
    assert (asked["n_epochs"], asked["learning_rate"], asked["warmup_ratio"]) == (3, 0.00002, 0.1)
    trained = [json.loads(line) for line in replay.together.contents[asked["training_file"]].decode().splitlines()]
    assert trained[0]["messages"][0]["content"] == SAMPLE["system_message"]
    assert trained[0]["messages"][1]["content"].endswith(SAMPLE["thinking_instructions"])
    replay.together.advance(theirs, "running")
    wait_until(lambda: replay.status(job) == "running", "the job never ran", 60)
    replay.together.advance(theirs, "completed")
    done = replay.ended(job)
    assert (done["status"], done["provider_id"]) == ("completed", theirs)
    assert done["fine_tune_model_id"]


def test_the_sample_request_is_refused_by_fireworks_until_it_says_what_fireworks_takes(replay: Replay) -> None:
    model = next(
        model["id"]
        for each in replay.get("/models").json()["providers"]
        if each["id"] == "FIREWORKS_AI"
        for model in each["models"]
        if "two_message_cot" in model["data_strategies_supported"]
    )
    body = {**SAMPLE, "provider": "FIREWORKS_AI", "model_name": model, "dataset_path": replay.dataset}
    refused = replay.post("/jobs", body)
    assert refused.status_code == 422, refused.text
    left_over = set(SAMPLE["parameters"]) - set(FIREWORKS_TAKES)
    assert set(refused.json()["details"]["unknown"]) == left_over and not replay.fireworks.jobs
    taken = {name: SAMPLE["parameters"][name] for name in FIREWORKS_TAKES}
    job = replay.made(provider="FIREWORKS_AI", model_name=model, parameters=taken)
    wait_until(lambda: bool(replay.fireworks.jobs), f"Fireworks was not asked: {replay.server.log()}", 60)
    [theirs] = replay.fireworks.jobs
    replay.fireworks.advance(theirs, "RUNNING")
    wait_until(lambda: replay.status(job) == "running", "the job never ran", 60)
    replay.fireworks.advance(theirs, "COMPLETED")
    done = replay.ended(job)
    assert (done["status"], done["fine_tune_model_id"]) == ("completed", replay.fireworks.jobs[theirs]["outputModel"])
    assert replay.fireworks.count("POST /v1/accounts/acme/supervisedFineTuningJobs") == 1


def test_runs_that_were_started_in_other_dialects_are_jobs_too(replay: Replay, token: dict[str, str]) -> None:
    body = {"base_model": "tiny", "dataset_path": replay.dataset}
    plain = replay.server.post("/train", {**body, "num_epochs": 1}).json()["task_id"]
    platform = replay.server.post("/api/v1/train", body, headers=token).json()["task_id"].replace("-", "")
    for run_id, owner in ((plain, "local"), (platform, "root")):
        [job] = [each for each in replay.get("/jobs").json()["jobs"] if each["run_id"] == run_id]
        assert (job["provider"], job["model_name"], job["created_by"]) == ("LOCAL", "tiny", owner)
        assert replay.post(f"/jobs/{job['id']}/cancel").status_code == 200
        assert replay.ended(job)["status"] == "cancelled"
        elsewhere = (
            replay.server.get(f"/train/status/{run_id}"),
            replay.server.get(f"/api/v1/train/status/{run_id}", headers=token),
        )
        assert [answer.json()["status"] for answer in elsewhere] == ["canceled", "canceled"]


def test_jobs_are_listed_shown_and_cancelled(replay: Replay) -> None:
    job = replay.made(name="要取消的作业")
    for update_status in ("false", "true"):
        answer = replay.get("/jobs", update_status=update_status)
        assert_like(example_of("获取微调作业列表"), answer)
        assert job["id"] in [each["id"] for each in answer.json()["jobs"]]
    answer = replay.get(f"/jobs/{job['id']}")
    assert_like(example_of("获取微调作业详情"), answer)
    answer = replay.post(f"/jobs/{job['id']}/cancel")
    assert_like(example_of("取消微调作业"), answer)


def test_a_task_has_splits_downloads_and_jobs_of_its_own(replay: Replay, task: str) -> None:
    answer = replay.post(f"{task}/dataset_splits")
    assert answer.status_code == 200, answer.text
    split = answer.json()["dataset_split"]
    answer = replay.get(f"{task}/dataset_splits")
    assert_like(example_of("获取数据集分割列表"), answer)
    assert answer.json()["dataset_splits"] == [split]
    _, _, project, _, task_id = task.split("/")
    asked = {
        "project_id": project,
        "task_id": task_id,
        "dataset_id": split["id"],
        "split_name": "train",
        "format_type": "openai_chat_jsonl",
        "data_strategy": "final_and_intermediate_r1_compatible",
    }
    rows = lines_of(replay.get("/download_dataset_jsonl", **asked, system_message_generator="simple_prompt_builder"))
    own = lines_of(replay.get("/download_dataset_jsonl", **asked, custom_system_message="甲"))
    assert len(rows) == len(own) == split["counts"]["train"] > 0
    assert (rows[0]["messages"][0]["content"], own[0]["messages"][0]["content"]) == ("你是客服。", "甲")
    assert rows[0]["messages"][-1]["content"].startswith("<think>\n先查")

    body = {"dataset_path": None, "dataset_id": split["id"], "validation_split_name": "val"}
    job = replay.made(f"{task}/finetunes", **body)
    assert_like(example_of("在项目任务下创建微调作业"), replay.get(f"{task}/finetunes/{job['id']}"))
    answer = replay.get(f"{task}/finetunes", update_status="true")
    assert_like(example_of("获取项目任务下的微调作业列表"), answer)
    assert [each["id"] for each in answer.json()["jobs"]] == [job["id"]]
    answer = replay.get(f"{task}/finetunes/{job['id']}")
    assert_like(example_of("获取项目任务下的特定微调作业"), answer)
    answer = replay.post(f"{task}/finetunes/{job['id']}/cancel")
    assert_like(example_of("取消项目任务下的微调作业"), answer)
