"""What every provider of hosted fine-tuning keeps to, each against its stand-in on a real socket; the fake one as well."""

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.contract.provider_kinds import KINDS, Kind, on_a_wire, url_of
from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound, Problem, TimedOut, Unavailable
from tunesmith.training.hosted.parameters import check_parameters
from tunesmith.training.hosted.provider import HostedJob, HostedOrder, Provider, TrainingFile
from tunesmith.training.hosted.wire import Waits
from tunesmith.training.run import State

QUICK = Waits(connect_s=5, answer_s=20, tries=2, again_s=0.01)
HASTY = replace(QUICK, answer_s=0.5, tries=1)
TAG = "tune-7f3a"


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def api(kind: Kind) -> Iterator[Any]:
    with kind.stand_in() as running:
        yield running


@pytest.fixture
async def provider(kind: Kind, api: Any) -> AsyncIterator[Provider]:
    made = kind.provider(api, lambda: api.key, QUICK)
    yield made
    await made.close()


@pytest.fixture
def file(tmp_path: Path) -> TrainingFile:
    row = {"messages": [{"role": "user", "content": "市长是谁？"}, {"role": "assistant", "content": "小林。"}]}
    data = (json.dumps(row, ensure_ascii=False) + "\n").encode() * 3
    (tmp_path / "train.jsonl").write_bytes(data)
    return TrainingFile(tmp_path / "train.jsonl", hashlib.sha256(data).hexdigest(), len(data), 3)


def order_of(kind: Kind, file: TrainingFile, tag: str = TAG) -> HostedOrder:
    return HostedOrder(tag=tag, title="客服", model=kind.model, parameters={"epochs": 2}, training=file)


async def created(kind: Kind, provider: Provider, file: TrainingFile, tag: str = TAG) -> HostedJob:
    return await provider.create(order_of(kind, file, tag), await provider.upload(tag, file), None)


def writes(api: Any) -> list[str]:
    return [request for request in api.requests if not request.startswith("GET ")]


async def test_a_file_that_is_uploaded_twice_is_one(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile
) -> None:
    first = await provider.upload(TAG, file)
    assert await provider.upload(TAG, file) == first and kind.sent(api) == 1


async def test_a_job_is_created_looked_at_found_by_its_tag_and_stopped(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile
) -> None:
    assert await provider.find(TAG) is None
    other = await created(kind, provider, file, f"{TAG}0")
    job = await created(kind, provider, file)
    assert job.state is State.QUEUED and job.raw and len(api.jobs) == 2
    found = await provider.find(TAG)
    assert found is not None and found.id == job.id != other.id
    for state, word in kind.words.items():
        api.advance(job.id, word)
        seen = await provider.look(job.id)
        assert (seen.id, seen.state) == (job.id, state) and seen.word.endswith(word)
        assert seen.output_model or state is not State.COMPLETED
    assert (await provider.look(other.id)).state is State.QUEUED
    await provider.stop(other.id)
    await provider.stop(job.id)
    assert (await provider.look(job.id)).state is State.COMPLETED, "what has ended stays as it ended"


async def test_a_stopped_job_ends_and_may_be_stopped_again(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile
) -> None:
    job = await created(kind, provider, file)
    for _ in range(2):
        await provider.stop(job.id)
    assert (await provider.look(job.id)).state in (State.RUNNING, State.CANCELED)


@pytest.mark.parametrize("how", ["accept_then_hang", "accept_then_close"])
async def test_a_job_that_was_accepted_without_an_answer_is_found_and_is_the_only_one(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile, how: str
) -> None:
    uploaded = await provider.upload(TAG, file)
    hasty = kind.provider(api, lambda: api.key, HASTY)
    getattr(api, how)()
    with pytest.raises(TimedOut) as unanswered:
        await hasty.create(order_of(kind, file), uploaded, None)
    await hasty.close()
    assert unanswered.value.details["uncertain"] is True
    found = await provider.find(TAG)
    assert found is not None and len(api.jobs) == 1


@on_a_wire
@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (400, Invalid),
        (401, Forbidden),
        (402, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (422, Invalid),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
async def test_a_refusal_is_told_in_their_words_with_the_raw_answer_and_never_the_key(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile, status: int, problem: type[Problem]
) -> None:
    job = await created(kind, provider, file)
    body = {"code": 7, "message": f"model was retired 已下线 (key {api.key})", "details": ["more"]}
    api.refuse(status, body)
    with pytest.raises(problem) as refused:
        await provider.look(job.id)
    raised = refused.value
    assert isinstance(raised, Unavailable) is (status >= 429)
    assert raised.details["raw"]["details"] == ["more"] and raised.details["upstream_status"] == status
    assert "model was retired 已下线" in raised.en and "model was retired 已下线" in raised.zh
    assert api.key not in json.dumps([raised.zh, raised.en, raised.details], default=str, ensure_ascii=False)


@on_a_wire
async def test_a_refusal_without_a_word_still_says_what_it_means(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile
) -> None:
    job = await created(kind, provider, file)
    api.refuse(403, {"code": 7, "message": "", "details": []})
    with pytest.raises(Forbidden, match=r"403.*not allowed") as refused:
        await provider.look(job.id)
    assert "不允许" in refused.value.zh and refused.value.details["raw"]["code"] == 7


@on_a_wire
async def test_how_long_to_wait_is_told(kind: Kind, api: Any, provider: Provider, file: TrainingFile) -> None:
    job = await created(kind, provider, file)
    api.refuse(429, retry_after=37)
    with pytest.raises(Unavailable) as refused:
        await provider.look(job.id)
    assert refused.value.details["retry_after"] == 37


@on_a_wire
async def test_a_look_is_tried_again_and_a_creation_is_not(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile
) -> None:
    job = await created(kind, provider, file)
    api.refuse(500, times=1)
    assert (await provider.look(job.id)).id == job.id
    uploaded = await provider.upload(f"{TAG}0", file)
    tried = api.requests.count(kind.create)
    api.refuse(500, at=kind.create)
    with pytest.raises(Unavailable) as refused:
        await provider.create(order_of(kind, file, f"{TAG}0"), uploaded, None)
    assert refused.value.details["uncertain"] is True
    assert api.requests.count(kind.create) == tried + 1 and len(api.jobs) == 1


@on_a_wire
@pytest.mark.parametrize(
    "body", ["<html>502 Bad Gateway</html>", "[]", "null", "", '{"x": "' + "x" * (17 << 20) + '"}']
)
async def test_an_answer_that_cannot_be_read_is_no_state(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile, body: str
) -> None:
    job = await created(kind, provider, file)
    api.refuse(200, body)
    with pytest.raises(Unavailable):
        await provider.look(job.id)


async def test_a_state_never_seen_is_none_and_one_that_goes_back_is_told_as_it_is(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile
) -> None:
    job = await created(kind, provider, file)
    api.advance(job.id, "JOB_TELEPORTING")
    seen = await provider.look(job.id)
    assert (seen.word, seen.state) == ("JOB_TELEPORTING", None)
    for state in (State.RUNNING, State.QUEUED):
        api.advance(job.id, kind.words[state])
        assert (await provider.look(job.id)).state is state


async def test_what_only_reads_writes_nothing(kind: Kind, api: Any, provider: Provider, file: TrainingFile) -> None:
    job = await created(kind, provider, file)
    before = writes(api)
    await provider.models()
    await provider.find(TAG)
    await provider.look(job.id)
    for event in await provider.events(job.id):
        assert event.message is not None
    assert writes(api) == before


@on_a_wire
async def test_every_page_of_the_models_is_read_and_the_one_to_tune_is_among_them(
    kind: Kind, api: Any, provider: Provider
) -> None:
    api.page = 1
    models = await provider.models()
    assert kind.model in {model.id for model in models} and len(models) == len({model.id for model in models}) > 1
    assert all(model.strategies and model.name for model in models)


async def test_an_estimate_creates_nothing_and_says_why_it_does_not_know(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile
) -> None:
    for uploaded in (None, await provider.upload(TAG, file)):
        estimate = await provider.estimate(order_of(kind, file), uploaded)
        assert estimate.cost is not None or all(estimate.reason or ())
        assert estimate.cost is not None or estimate.reason is not None
    assert len(api.jobs) == 0


async def test_a_tuned_model_is_deployed_once_and_undeployed_more_than_once(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile
) -> None:
    job = await created(kind, provider, file)
    api.advance(job.id, kind.words[State.COMPLETED])
    output = (await provider.look(job.id)).output_model
    assert output is not None
    for _ in range(2):  # after its end there may be another
        deployed = await provider.deploy(TAG, output)
        assert (await provider.deploy(TAG, output)).id == deployed.id and deployed.model
        there = await provider.deployment(deployed.id)
        assert there is not None and (there.id, there.model) == (deployed.id, deployed.model)
        for _ in range(2):
            await provider.undeploy(deployed.id)
        assert await provider.deployment(deployed.id) is None and kind.paid(api) == 0


async def completed(kind: Kind, api: Any, provider: Provider, file: TrainingFile) -> str:
    """The tuned model's id at the provider."""
    job = await created(kind, provider, file)
    api.advance(job.id, kind.words[State.COMPLETED])
    output = (await provider.look(job.id)).output_model
    assert output is not None
    return output


async def test_a_deployment_is_found_by_its_tag_while_it_is_there_and_looking_for_it_makes_none(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile
) -> None:
    output = await completed(kind, api, provider, file)
    before = writes(api)
    assert await provider.find_deployment(TAG) is None and writes(api) == before
    other = await provider.deploy(f"{TAG}0", output)
    assert await provider.find_deployment(TAG) is None
    made = await provider.deploy(TAG, output)
    before = writes(api)
    found = await provider.find_deployment(TAG)
    assert found is not None and found.id == made.id != other.id and writes(api) == before
    await provider.undeploy(made.id)
    assert await provider.find_deployment(TAG) is None and kind.paid(api) == 1
    again = await provider.deploy(TAG, output)
    found = await provider.find_deployment(TAG)
    assert found is not None and found.id == again.id


async def test_a_deployment_whose_answer_was_lost_at_any_step_is_found_and_is_the_only_one(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile
) -> None:
    output = await completed(kind, api, provider, file)
    for step in kind.deploying:
        api.accept_then_close(at=step)
        with pytest.raises(Unavailable):
            await provider.deploy(TAG, output)
        begun = await provider.find_deployment(TAG)
        assert begun is not None
        made = await provider.deploy(TAG, output)
        assert made.id == begun.id and kind.paid(api) == 1
        await provider.undeploy(begun.id)
        assert kind.paid(api) == 0


async def test_a_deployment_that_is_refused_at_any_step_leaves_nothing_that_is_paid_for(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile
) -> None:
    output = await completed(kind, api, provider, file)
    for step in kind.deploying:
        api.refuse(403, at=step, times=1)
        with pytest.raises(Forbidden):
            await provider.deploy(TAG, output)
        assert kind.paid(api) == 0 and await provider.find_deployment(TAG) is None, step


@on_a_wire
async def test_the_adapter_of_a_completed_job_is_downloaded_as_peft_keeps_it(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile, tmp_path: Path
) -> None:
    job = await created(kind, provider, file)
    api.advance(job.id, kind.words[State.COMPLETED])
    (to := tmp_path / "adapter").mkdir()
    await provider.download(job.id, to)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {each.name for each in to.iterdir()}
    assert json.loads((to / "adapter_config.json").read_text())["peft_type"] == "LORA"
    assert {each.name for each in to.parent.iterdir()} == {"adapter", "train.jsonl"}, "nothing is left beside it"


@on_a_wire
async def test_nobody_is_asked_without_a_key_and_a_wrong_one_is_no_secret_told(kind: Kind, api: Any) -> None:
    keyless = kind.provider(api, lambda: None, QUICK)
    with pytest.raises(Forbidden, match="_API_KEY"):
        await keyless.find(TAG)
    assert api.requests == []
    wrong = kind.provider(api, lambda: "sk-wrong-one", QUICK)
    with pytest.raises(Forbidden) as refused:
        await wrong.find(TAG)
    assert "sk-wrong-one" not in f"{refused.value.zh}{refused.value.en}{refused.value.details}"
    await keyless.close()
    await wrong.close()


@on_a_wire
async def test_a_provider_that_is_not_there_is_unavailable(kind: Kind) -> None:
    provider = kind.provider(url_of("http://127.0.0.1:1"), lambda: "key", QUICK)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await provider.find(TAG)
    await provider.close()


async def test_parameters_have_kilns_names_and_are_what_a_job_takes(
    kind: Kind, api: Any, provider: Provider, file: TrainingFile
) -> None:
    known = provider.parameters()
    assert {"epochs", "learning_rate", "batch_size", "lora_rank"} <= {each.name for each in known}
    assert all(each.description and each.description_zh for each in known)
    given = check_parameters(known, {"epochs": 2, "learning_rate": 2e-5, "batch_size": 8, "lora_rank": 16})
    order = replace(order_of(kind, file), parameters=given)
    job = await provider.create(order, await provider.upload(TAG, file), None)
    (asked,) = (body for asked_id, body in api.asked.items() if asked_id == job.id.rsplit("/", 1)[-1])
    assert "2e-05" in str(asked) and "16" in str(asked)
