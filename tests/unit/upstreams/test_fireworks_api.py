"""The official client takes the stand-in for Fireworks: that is what makes it one."""

from collections.abc import Iterator

import pytest
from fireworks import APIConnectionError, AuthenticationError, Fireworks, NotFoundError
from fireworks import ConflictError as ClientConflict
from fireworks import PermissionDeniedError as ClientForbidden
from fireworks._exceptions import BadRequestError, RateLimitError

from tests.upstreams.fireworks_api import FireworksApi, fireworks_api

ROWS = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n' * 3
MODEL = "accounts/fireworks/models/qwen3-8b"


@pytest.fixture
def api() -> Iterator[FireworksApi]:
    with fireworks_api() as running:
        yield running


@pytest.fixture
def client(api: FireworksApi) -> Iterator[Fireworks]:
    with Fireworks(
        api_key=api.key,
        account_id=api.account,
        base_url=api.url,
        max_retries=0,
        timeout=20,
        _strict_response_validation=True,
    ) as made:
        yield made


def uploaded(client: Fireworks, name: str = "town") -> str:
    client.datasets.create(dataset_id=name, dataset={"example_count": "3", "user_uploaded": {}})
    client.datasets.upload(name, file=("train.jsonl", ROWS))
    found = client.datasets.get(name)
    assert found.state == "READY" and found.name is not None
    return found.name


def test_accounts_and_every_page_of_models_are_listed(api: FireworksApi, client: Fireworks) -> None:
    assert [account.name for account in client.accounts.list()] == ["accounts/acme"]
    assert client.accounts.get(account_id="acme").email
    api.page = 1
    names = [model.name for model in client.models.list(account_id="fireworks", page_size=200)]
    assert len(names) == len(set(names)) == 3 and MODEL in names
    assert client.models.get("qwen3-8b", account_id="fireworks").tunable


def test_a_dataset_is_created_uploaded_listed_validated_and_deleted(api: FireworksApi, client: Fireworks) -> None:
    api.keep_uploading(1)
    made = client.datasets.create(dataset_id="town", dataset={"example_count": "3", "user_uploaded": {}})
    assert made.state == "UPLOADING"
    assert client.datasets.upload("town", file=("train.jsonl", ROWS)).bytes == len(ROWS)
    assert [client.datasets.get("town").state for _ in range(2)] == ["UPLOADING", "READY"]
    assert [each.name for each in client.datasets.list()] == ["accounts/acme/datasets/town"]
    client.datasets.validate_upload("town", body={})
    with pytest.raises(ClientConflict):
        client.datasets.create(dataset_id="town", dataset={"example_count": "3"})
    with pytest.raises(BadRequestError, match="start with a letter"):
        client.datasets.create(dataset_id="1town", dataset={"example_count": "3"})
    with pytest.raises(BadRequestError, match="example_count"):
        client.datasets.create(dataset_id="other", dataset={"user_uploaded": {}})
    client.datasets.delete("town")
    with pytest.raises(NotFoundError):
        client.datasets.get("town")
    assert api.files["town"] == [ROWS] and api.created["dataset:town"] == 1


def test_a_job_is_created_once_moves_when_told_and_is_cancelled_resumed_and_deleted(
    api: FireworksApi, client: Fireworks
) -> None:
    jobs = client.supervised_fine_tuning_jobs
    dataset = uploaded(client)
    made = jobs.create(
        dataset=dataset,
        base_model=MODEL,
        supervised_fine_tuning_job_id="town-job",
        display_name="Town",
        epochs=2,
        learning_rate=1e-4,
        batch_size=8,
        lora_rank=16,
    )
    assert made.name == "accounts/acme/supervisedFineTuningJobs/town-job" and made.state == "JOB_STATE_CREATING"
    with pytest.raises(ClientConflict):
        jobs.create(dataset=dataset, base_model=MODEL, supervised_fine_tuning_job_id="town-job")
    api.advance("town-job", "RUNNING", jobProgress={"percent": 40, "epoch": 1, "inputTokens": 900})
    seen = jobs.get("town-job")
    assert seen.state == "JOB_STATE_RUNNING" and seen.job_progress is not None and seen.job_progress.percent == 40
    assert seen.estimated_cost is not None and seen.estimated_cost.units == "1"
    assert [each.name for each in jobs.list()] == [made.name]
    jobs.cancel("town-job", body={})
    assert jobs.get("town-job").state == "JOB_STATE_CANCELLED"
    with pytest.raises(BadRequestError, match="terminal"):
        jobs.cancel("town-job", body={})
    assert jobs.resume("town-job", body={}).state == "JOB_STATE_PENDING"
    jobs.delete("town-job")
    assert list(jobs.list()) == [] and api.created["job:town-job"] == 1


def test_a_tuned_model_is_deployed_loaded_asked_downloaded_and_undeployed(api: FireworksApi, client: Fireworks) -> None:
    client.supervised_fine_tuning_jobs.create(
        dataset=uploaded(client), base_model=MODEL, supervised_fine_tuning_job_id="town-job"
    )
    api.advance("town-job", "COMPLETED")
    model = "accounts/acme/models/town-job"
    deployed = client.deployments.create(
        base_model=model,
        deployment_id="town",
        deployment_shape="default",
        min_replica_count=0,
        autoscaling_policy={"scale_to_zero_window": "300s"},
    )
    assert deployed.state == "READY" and [each.base_model for each in client.deployments.list()] == [model]
    chat = Fireworks(api_key=api.key, base_url=api.url + "/inference", max_retries=0)
    with chat:
        answer = chat.chat.completions.create(
            model=f"{model}#{deployed.name}", messages=[{"role": "user", "content": "你好"}]
        )
        assert answer.choices[0].message.content == "town-job: 你好"
        frames = chat.chat.completions.create(
            model=f"{model}#{deployed.name}", messages=[{"role": "user", "content": "你好"}], stream=True
        )
        assert "".join(frame.choices[0].delta.content or "" for frame in frames) == "town-job: 你好"
    assert deployed.name is not None
    lora = client.lora.load(model=model, deployment=deployed.name)
    assert lora.state == "DEPLOYED" and lora.name is not None
    assert [each.name for each in client.lora.list()] == [lora.name]
    client.lora.unload(lora.name.rsplit("/", 1)[-1])
    assert list(client.lora.list()) == []
    urls = client.models.get_download_endpoint("town-job").filename_to_signed_urls
    assert urls is not None and set(urls) == {"adapter_config.json", "adapter_model.safetensors"}
    with pytest.raises(BadRequestError, match="in use"):
        client.deployments.delete("town")
    client.deployments.delete("town", ignore_checks=True)
    assert client.deployments.get("town").state == "DELETED" and list(client.deployments.list()) == []


def test_what_it_refuses_is_what_the_client_raises(api: FireworksApi, client: Fireworks) -> None:
    with (
        Fireworks(api_key="wrong", account_id="acme", base_url=api.url, max_retries=0) as other,
        pytest.raises(AuthenticationError),
    ):
        other.datasets.get("town")
    with pytest.raises(ClientForbidden) as forbidden:
        client.datasets.get("town", account_id="another")
    assert forbidden.value.body == {"code": 7, "message": "", "details": []}
    api.refuse(429, times=1, retry_after=7)
    with pytest.raises(RateLimitError) as limited:
        client.datasets.get("town")
    assert limited.value.response.headers["Retry-After"] == "7"
    api.accept_then_close("POST /v1/accounts/acme/datasets")
    with pytest.raises(APIConnectionError):
        client.datasets.create(dataset_id="town", dataset={"example_count": "3"})
    api.accept_then_hang("POST /v1/accounts/acme/datasets")
    with pytest.raises(APIConnectionError):
        client.datasets.create(dataset_id="hung", dataset={"example_count": "3"}, timeout=0.3)
    assert set(api.datasets) == {"town", "hung"}
