"""The stand-in of Together satisfies the official client, version 3.1.1."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import together

from tests.upstreams.together_api import LLAMA, QWEN, TogetherApi, together_api
from tests.upstreams.together_words import PROJECT

ROW = '{"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "您好"}]}\n'


@pytest.fixture
def api() -> Iterator[TogetherApi]:
    with together_api() as running:
        yield running


@pytest.fixture
def client(api: TogetherApi) -> Iterator[together.Together]:
    with together.Together(base_url=api.url, api_key=api.key, max_retries=0, project_id=PROJECT["id"]) as made:
        yield made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text(ROW * 3, encoding="utf-8")
    return path


def test_the_official_client_trains_and_deploys_a_model(
    api: TogetherApi, client: together.Together, data: Path
) -> None:
    file = client.files.upload(data, purpose="fine-tune", check=True)
    assert api.contents[file.id] == data.read_bytes() and not api.leaked
    assert [each.id for each in client.files.list().data] == [file.id]
    assert client.files.upload(data, purpose="fine-tune").id == file.id  # the same bytes are there already

    limits = client.fine_tuning.model_limits(model_name=LLAMA)
    assert limits.lora_training.max_rank == 64 and not limits.supports_tools
    price = client.fine_tuning.estimate_price(training_file=file.id, model=LLAMA, n_epochs=2)
    assert price.estimation_available is True and price.estimated_total_price
    job = client.fine_tuning.create(training_file=file.id, model=LLAMA, suffix="ts-1", n_epochs=2, lora=True)
    assert job.status == "pending" and api.created == {"file": 1, "job": 1, "tag:ts-1": 1}
    assert api.spent == pytest.approx(price.estimated_total_price) and job.total_price == round(api.spent * 1e9)
    assert api.asked[job.id]["training_type"]["lora_r"] == 16
    assert [(each.id, each.suffix) for each in client.fine_tuning.list().data] == [(job.id, "ts-1")]

    api.advance(job.id, "running", step=1, total_steps=2)
    assert client.fine_tuning.retrieve(job.id).status == "running"
    api.advance(job.id, "completed")
    done = client.fine_tuning.retrieve(job.id)
    assert done.status == "completed" and "ts-1" in (done.x_model_output_name or "")
    events = client.fine_tuning.list_events(job.id).data
    assert [each.type for each in events] == ["job_pending", "training_start", "job_complete"]
    assert client.fine_tuning.list_checkpoints(job.id).data[0].checkpoint == "adapter"
    assert client.fine_tuning.content(ft_id=job.id, checkpoint="adapter").read()[:2] == b"\x1f\x8b"

    assert [each.name for each in client.models.list_supported(product="PRODUCT_FINE_TUNING").data] == [LLAMA, QWEN]
    model = next(each for each in client.models.list() if each.id == done.api_model_object_id)
    config = client.models.configs.list(reference_model_id=model.base_model_id or "").data[0]
    endpoint = client.endpoints.create(name="ts-1")
    made = client.endpoints.deployments.create(
        endpoint.id,
        name="ts-1",
        model=f"projects/{PROJECT['id']}/models/{model.id}",
        config=f"projects/{config.project_id}/configs/{config.id}",
        autoscaling={"min_replicas": 1, "max_replicas": 1},
    )
    client.endpoints.update(endpoint.id, traffic_split=[{"deployment_id": made.id, "weight": 1.0}])
    api.make_ready(endpoint.id)
    assert client.endpoints.retrieve(endpoint.id).deployments[0].state == "DEPLOYMENT_STATE_READY"
    answer = client.chat.completions.create(model=endpoint.name, messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message is not None and answer.choices[0].message.content == "acme/ts-1: hi"


def test_the_official_client_stops_a_job_and_reads_refusals(
    api: TogetherApi, client: together.Together, data: Path
) -> None:
    file = client.files.upload(data)
    job = client.fine_tuning.create(training_file=file.id, model=QWEN)
    assert client.fine_tuning.cancel(job.id).status == "cancel_requested"
    api.advance(job.id, "cancelled")
    assert client.fine_tuning.cancel(job.id).status == "cancelled"
    api.advance(job.id, "completed")
    with pytest.raises(together.ConflictError):
        client.fine_tuning.cancel(job.id)
    api.retire(QWEN)
    with pytest.raises(together.NotFoundError):
        client.fine_tuning.create(training_file=file.id, model=QWEN)
    api.refuse(429, retry_after=3)
    with pytest.raises(together.RateLimitError) as refused:
        client.fine_tuning.list()
    assert refused.value.response.headers["Retry-After"] == "3"
    api.forgive()
    stranger = client.with_options(api_key="wrong")
    with pytest.raises(together.AuthenticationError):
        stranger.files.list()
