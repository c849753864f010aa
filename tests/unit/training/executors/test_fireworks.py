import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.upstreams.fireworks_api import FireworksApi, fireworks_api
from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound, TimedOut, Unavailable, Unsupported
from tunesmith.training.executors.fireworks import Fireworks
from tunesmith.training.executors.fireworks_wire import strategies
from tunesmith.training.hosted.provider import Cost, HostedOrder, TrainingFile
from tunesmith.training.hosted.wire import Waits
from tunesmith.training.run import State

MODEL = "accounts/fireworks/models/qwen3-8b"
QUICK = Waits(connect_s=5, answer_s=20, tries=2, again_s=0.01)
TUNED = "accounts/acme/models/t7"


@pytest.fixture
def api() -> Iterator[FireworksApi]:
    with fireworks_api() as running:
        yield running


def provider_of(api: FireworksApi, **options: object) -> Fireworks:
    return Fireworks(api.url, lambda: api.key, **{"waits": QUICK, "ready_s": 0.0, "poll_s": 0.01, **options})  # type: ignore[arg-type]


@pytest.fixture
async def provider(api: FireworksApi) -> AsyncIterator[Fireworks]:
    made = provider_of(api)
    yield made
    await made.close()


def training_file(folder: Path, examples: int = 3) -> TrainingFile:
    row = {"messages": [{"role": "user", "content": "市长是谁？"}, {"role": "assistant", "content": "小林。"}]}
    data = (json.dumps(row, ensure_ascii=False) + "\n").encode() * examples
    path = folder / f"{examples}.jsonl"
    path.write_bytes(data)
    return TrainingFile(path, hashlib.sha256(data).hexdigest(), len(data), examples)


def order_of(file: TrainingFile, tag: str = "t7", model: str = MODEL) -> HostedOrder:
    given = {"epochs": 2, "learning_rate": 2e-5, "batch_size": 8, "lora_rank": 16}
    return HostedOrder(tag=tag, title="客服 " + "长" * 90, model=model, parameters=given, training=file)


async def completed(api: FireworksApi, provider: Fireworks, folder: Path) -> str:
    file = training_file(folder)
    job = await provider.create(order_of(file), await provider.upload("t7", file), None)
    api.advance(job.id, "COMPLETED")
    return job.id


async def test_the_only_account_of_the_key_is_taken_and_asked_for_once(api: FireworksApi, provider: Fireworks) -> None:
    assert await provider.find("t7") is None and await provider.find("t8") is None
    assert api.requests.count("GET /v1/accounts") == 1


async def test_several_accounts_need_the_setting_and_are_named_and_none_is_told_so() -> None:
    with fireworks_api(accounts=()) as api:
        provider = provider_of(api)
        with pytest.raises(Forbidden, match="no account"):
            await provider.find("t7")
        await provider.close()
    with fireworks_api(accounts=("acme", "other")) as api:
        provider, settled = provider_of(api), provider_of(api, account="acme")
        assert await settled.find("t7") is None and api.count("GET /v1/accounts") == 0
        with pytest.raises(Invalid, match=r"acme, other.*FIREWORKS_ACCOUNT_ID"):
            await provider.find("t7")
        await provider.close()
        await settled.close()


async def test_models_are_those_that_can_be_tuned_from_every_page(api: FireworksApi, provider: Fireworks) -> None:
    api.page = 1
    api.add_model("accounts/fireworks/models/full-only", tunable=False, supervisedFullParameterTunable=True)
    found = {model.id: model for model in await provider.models()}
    assert {name.rsplit("/", 1)[-1] for name in found} == {"qwen3-8b", "llama-v3p3-70b-instruct", "full-only"}
    model = found[MODEL]
    assert model.name == "Qwen3 8B (qwen3-8b)" and model.tools and model.context_length == 40960


@pytest.mark.parametrize(
    ("tail", "accepted"),
    [
        ("qwen3-8b", ("final_only", "final_and_intermediate_r1_compatible")),
        ("deepseek-r1", ("final_and_intermediate_r1_compatible",)),
        ("qwq-32b", ("final_and_intermediate_r1_compatible",)),
        ("llama-v3p3-70b-instruct", ("final_only", "two_message_cot")),
    ],
)
def test_what_a_model_accepts_is_told_by_its_id(tail: str, accepted: tuple[str, ...]) -> None:
    assert strategies(f"accounts/fireworks/models/{tail}") == accepted


async def test_a_list_without_an_end_is_given_up(api: FireworksApi, provider: Fireworks) -> None:
    api.refuse(200, {"models": [], "nextPageToken": "again"}, at="*/models")
    with pytest.raises(Unavailable, match="cannot be read"):
        await provider.models()
    assert len(api.requests) == 2


async def test_a_file_is_waited_for_and_sent_once_though_asked_for_three_times(
    api: FireworksApi, provider: Fireworks, tmp_path: Path
) -> None:
    file = training_file(tmp_path)
    api.keep_uploading(3)
    for _ in range(2):
        with pytest.raises(Unavailable, match="still checking"):
            await provider.upload("t7", file)
    name = await provider.upload("t7", file)
    dataset = name.rsplit("/", 1)[-1]
    assert dataset.startswith("t7-") and api.files == {dataset: [file.path.read_bytes()]}
    assert api.datasets[dataset]["exampleCount"] == "3"


async def test_a_dataset_whose_file_never_arrived_gets_it(
    api: FireworksApi, provider: Fireworks, tmp_path: Path
) -> None:
    file = training_file(tmp_path)
    api.refuse(500, at="*:upload", times=1)
    with pytest.raises(Unavailable):
        await provider.upload("t7", file)
    assert [each["state"] for each in api.datasets.values()] == ["UPLOADING"]
    name = await provider.upload("t7", file)
    assert api.created[f"dataset:{name.rsplit('/', 1)[-1]}"] == 1 and len(api.datasets) == 1
    other = training_file(tmp_path, 4)
    api.keep_uploading(1)
    with pytest.raises(Unavailable, match="still checking"):
        await provider.upload("t8", other)
    api.datasets.clear()  # somebody deletes it while it is waited for
    api.keep_uploading(0)
    assert (await provider.upload("t8", other)).rsplit("/", 1)[-1] in api.datasets


async def test_a_file_the_service_does_not_like_is_no_reason_to_wait(
    api: FireworksApi, provider: Fireworks, tmp_path: Path
) -> None:
    file = replace(training_file(tmp_path), examples=4)
    with pytest.raises(Invalid, match="3 examples, not 4"):
        await provider.upload("t7", file)


async def test_a_large_file_goes_to_the_address_that_is_named_and_is_validated_until_it_has_landed(
    api: FireworksApi, tmp_path: Path
) -> None:
    file, provider = training_file(tmp_path), provider_of(api, direct_bytes=10, ready_s=60)
    api.keep_uploading(1)  # it has not landed; then it has, and is being checked; then it is ready
    name = await provider.upload("t7", file)
    assert api.files == {name.rsplit("/", 1)[-1]: [file.path.read_bytes()]}
    assert api.count("*:upload") == 0 and api.count("*:validateUpload") == 2
    await provider.close()


async def test_training_and_validation_of_one_tag_are_two_datasets(
    api: FireworksApi, provider: Fireworks, tmp_path: Path
) -> None:
    first, second = training_file(tmp_path), training_file(tmp_path, 4)
    training, validation = await provider.upload("t7", first), await provider.upload("t7", second)
    job = await provider.create(order_of(first), training, validation)
    assert training != validation and job.raw["evaluationDataset"] == validation


async def test_what_a_job_is_created_with(api: FireworksApi, provider: Fireworks, tmp_path: Path) -> None:
    file = training_file(tmp_path)
    training = await provider.upload("t7", file)
    job = await provider.create(order_of(file, model="qwen3-8b"), training, None)
    asked = api.asked["t7"]
    shown = asked.pop("displayName")
    assert len(shown) == 60 and shown.startswith("客服 长") and shown.endswith(" t7")
    assert asked == {
        "dataset": training,
        "baseModel": MODEL,
        "epochs": 2,
        "learningRate": 2e-5,
        "batchSize": 8,
        "loraRank": 16,
        "supervisedFineTuningJobId": "t7",
    }
    assert job.id == "accounts/acme/supervisedFineTuningJobs/t7" and job.state is State.QUEUED
    assert job.output_model is None, "it has a name, but is not there yet"


async def test_a_job_of_the_tag_is_ours_only_with_its_dataset_and_model(
    api: FireworksApi, provider: Fireworks, tmp_path: Path
) -> None:
    file = training_file(tmp_path)
    training = await provider.upload("t7", file)
    made = await provider.create(order_of(file), training, None)
    assert (await provider.create(order_of(file), training, None)).id == made.id
    other = await provider.upload("t7", training_file(tmp_path, 4))
    for order, dataset in ((order_of(file), other), (order_of(file, model="llama-v3p3-70b-instruct"), training)):
        with pytest.raises(Conflict, match="another dataset or model") as conflict:
            await provider.create(order, dataset, None)
        assert conflict.value.details["raw"]["name"] == made.id
    assert api.created["job:t7"] == 1


async def test_a_job_whose_id_was_not_followed_is_found_by_the_tag_it_shows(
    api: FireworksApi, provider: Fireworks, tmp_path: Path
) -> None:
    api.names_jobs_itself, api.page = True, 1
    file = training_file(tmp_path)
    training = await provider.upload("t7", file)
    made = [await provider.create(order_of(file, tag), training, None) for tag in ("t6", "t7", "t77")]
    found = await provider.find("t7")
    assert found is not None and found.id == made[1].id


@pytest.mark.parametrize(
    ("word", "state"),
    [
        *((word, State.QUEUED) for word in ("CREATING", "PENDING", "VALIDATING", "RE_QUEUEING")),
        ("CREATING_INPUT_DATASET", State.QUEUED),
        *((word, State.RUNNING) for word in ("RUNNING", "WRITING_RESULTS", "IDLE", "CANCELLING", "PAUSED")),
        *((word, State.COMPLETED) for word in ("COMPLETED", "EARLY_STOPPED")),
        *((word, State.FAILED) for word in ("FAILED", "EXPIRED", "DELETING", "DELETING_CLEANING_UP")),
        ("CANCELLED", State.CANCELED),
        ("UNSPECIFIED", None),
        ("JOB_STATE_TELEPORTING", None),
    ],
)
async def test_states_by_the_reference(
    api: FireworksApi, provider: Fireworks, tmp_path: Path, word: str, state: State | None
) -> None:
    file = training_file(tmp_path)
    job = await provider.create(order_of(file), await provider.upload("t7", file), None)
    api.advance(job.id, word, status={"code": "OK", "message": "said"})
    seen = await provider.look(job.id)
    assert (seen.state, seen.message) == (state, "said")
    assert seen.word == (word if word.startswith("JOB_") else f"JOB_STATE_{word}") and seen.raw["name"] == job.id
    assert (seen.output_model == TUNED) is (state is State.COMPLETED)


async def test_progress_and_cost_are_told_where_they_can_be_read(
    api: FireworksApi, provider: Fireworks, tmp_path: Path
) -> None:
    file = training_file(tmp_path)
    job = await provider.create(order_of(file), await provider.upload("t7", file), None)
    cost = {"currencyCode": "EUR", "units": "2", "nanos": 500_000_000}
    api.advance(job.id, "RUNNING", jobProgress={"percent": 50, "epoch": 1, "inputTokens": "1200"}, estimatedCost=cost)
    seen = await provider.look(job.id)
    assert (seen.progress.fraction, seen.progress.epoch) == (0.75, 1.5), "half of the second epoch of two"
    assert (seen.cost, seen.tokens) == (Cost(2.5, "EUR", estimated=True), 1200)
    api.advance(job.id, "RUNNING", jobProgress={"percent": "far", "epoch": -3}, estimatedCost=[1])
    seen = await provider.look(job.id)
    assert (seen.progress.fraction, seen.cost, seen.tokens) == (0.0, None, None)
    api.advance(job.id, "COMPLETED", jobProgress={"percent": 100, "epoch": 0}, estimatedCost=cost)
    seen = await provider.look(job.id)
    assert seen.progress.fraction == 1.0 and seen.cost == Cost(2.5, "EUR", estimated=False)


@pytest.mark.parametrize("name", ["../accounts", "accounts/acme/models/t7", "accounts/a/supervisedFineTuningJobs/../x"])
async def test_an_id_that_names_something_else_is_never_asked_for(
    api: FireworksApi, provider: Fireworks, name: str
) -> None:
    with pytest.raises(Invalid):
        await provider.look(name)
    assert api.requests == []


async def test_an_estimate_says_what_is_known_and_why_the_price_is_not(
    api: FireworksApi, provider: Fireworks, tmp_path: Path
) -> None:
    file = training_file(tmp_path)
    before = await provider.estimate(order_of(file), None)
    assert (before.cost, before.tokens) == (None, None) and before.reason is not None
    assert "examples: 3" in before.reason[1] and "样本数：3" in before.reason[0]
    after = await provider.estimate(order_of(file), await provider.upload("t7", file))
    assert after.cost is None and after.tokens == 2 * (file.size_bytes // 4) and after.reason is not None
    assert api.jobs == {}


async def test_a_deployment_is_made_once_rests_at_zero_and_gets_a_new_id_after_its_end(
    api: FireworksApi, provider: Fireworks, tmp_path: Path
) -> None:
    await completed(api, provider, tmp_path)
    api.deploys_late = True
    made = await provider.deploy("t7", TUNED)
    assert (made.ready, made.word) == (False, "CREATING")
    assert made.model == f"{TUNED}#accounts/acme/deployments/t7"
    asked = api.asked["t7"]
    assert (asked["minReplicaCount"], asked["deploymentShape"], asked["deploymentId"]) == (0, "default", "t7")
    assert asked["autoscalingPolicy"]["scaleToZeroWindow"] == "300s"
    assert (await provider.deploy("t7", TUNED)).id == made.id and api.created["deployment:t7"] == 1
    api.advance_deployment(made.id, "READY")
    there = await provider.deployment(made.id)
    assert there is not None and there.ready
    for _ in range(2):
        await provider.undeploy(made.id)
    assert await provider.deployment(made.id) is None
    again = await provider.deploy("t7", TUNED)
    assert again.id == "accounts/acme/deployments/t7-2" == (await provider.deploy("t7", TUNED)).id
    api.advance_deployment(again.id, "DELETING")
    assert (await provider.deploy("t7", TUNED)).id == "accounts/acme/deployments/t7-3"
    assert await provider.deployment("accounts/acme/deployments/never") is None
    await provider.undeploy("accounts/acme/deployments/never")


async def test_a_deployment_that_was_accepted_without_an_answer_is_found(
    api: FireworksApi, provider: Fireworks, tmp_path: Path
) -> None:
    await completed(api, provider, tmp_path)
    api.accept_then_close("POST /v1/accounts/acme/deployments")
    with pytest.raises(Unavailable):
        await provider.deploy("t7", TUNED)
    assert (await provider.deploy("t7", TUNED)).id == "accounts/acme/deployments/t7"
    assert api.created["deployment:t7"] == 1


async def test_an_adapter_is_downloaded_once_its_job_has_completed(
    api: FireworksApi, provider: Fireworks, tmp_path: Path
) -> None:
    job = await completed(api, provider, tmp_path)
    (to := tmp_path / "adapter").mkdir()
    api.advance(job, "RUNNING")
    with pytest.raises(Conflict, match="not completed"):
        await provider.download(job, to)
    api.advance(job, "COMPLETED")
    await provider.download(job, to)
    assert {file.name: file.read_bytes() for file in to.iterdir()} == api.adapters[TUNED]


async def test_names_of_files_never_choose_where_they_lie(
    api: FireworksApi, provider: Fireworks, tmp_path: Path
) -> None:
    job = await completed(api, provider, tmp_path)
    (to := tmp_path / "deep" / "adapter").mkdir(parents=True)
    files = api.adapters[TUNED]
    api.adapters[TUNED] = {
        "../../adapter_config.json": files["adapter_config.json"],
        "hf/adapter_model.safetensors": files["adapter_model.safetensors"],
        "../escaped.txt": b"out",
        "/etc/cron.d/x": b"out",
        "adapter_model.bin": b"a pickle",
    }
    await provider.download(job, to)
    assert sorted(file.name for file in to.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["adapter"]


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1/x",
        "https://169.254.169.254/x",
        "https://[::1]/x",
        "file:///etc/passwd",
        "https://localhost/x",
    ],
)
async def test_an_address_that_is_not_public_is_never_asked(
    api: FireworksApi, provider: Fireworks, tmp_path: Path, address: str
) -> None:
    job = await completed(api, provider, tmp_path)
    (to := tmp_path / "adapter").mkdir()
    api.adapters[TUNED] = {**api.adapters[TUNED], "adapter_config.json": address}
    with pytest.raises(Unavailable, match="public https"):
        await provider.download(job, to)
    assert list(to.iterdir()) == []


async def test_a_download_that_stands_still_is_given_up(api: FireworksApi, provider: Fireworks, tmp_path: Path) -> None:
    job = await completed(api, provider, tmp_path)
    (to := tmp_path / "adapter").mkdir()
    api.accept_then_hang("GET /signed-model/t7/adapter_model.safetensors")
    hasty = provider_of(api, waits=Waits(connect_s=5, answer_s=0.5, tries=1))
    with pytest.raises(TimedOut):
        await hasty.download(job, to)
    await hasty.close()


@pytest.mark.parametrize("files", [{}, {"adapter_model.bin": b"a pickle", "adapter_config.json": b"{}"}])
async def test_an_adapter_that_peft_would_not_open_is_not_supported(
    api: FireworksApi, provider: Fireworks, tmp_path: Path, files: dict[str, bytes | str]
) -> None:
    job = await completed(api, provider, tmp_path)
    api.adapters[TUNED] = files
    with pytest.raises(Unsupported, match="as PEFT keeps it"):
        await provider.download(job, tmp_path)


async def test_a_model_that_is_not_handed_out_is_told_in_their_words(
    api: FireworksApi, provider: Fireworks, tmp_path: Path
) -> None:
    job = await completed(api, provider, tmp_path)
    api.refuse(403, {"code": 7, "message": "model is not downloadable", "details": []}, at="*:getDownloadEndpoint")
    with pytest.raises(Unsupported, match="not downloadable") as refused:
        await provider.download(job, tmp_path)
    assert refused.value.details["raw"]["code"] == 7


async def test_a_job_that_is_gone_is_not_found(provider: Fireworks) -> None:
    with pytest.raises(NotFound):
        await provider.look("accounts/acme/supervisedFineTuningJobs/t7")
