"""Together AI as a provider, over a stand-in of its REST API on a real socket."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.upstreams.together_api import LLAMA, QWEN, TogetherApi, together_api
from tests.upstreams.together_words import adapter_files, tarred
from tunesmith.kernel.problems import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Problem,
    TimedOut,
    Unavailable,
    Unsupported,
)
from tunesmith.training.executors.together import Together
from tunesmith.training.hosted.provider import HostedOrder, TrainingFile
from tunesmith.training.hosted.wire import Waits
from tunesmith.training.run import State

TAG = "ts-0123456789abcdef"
WAITS = Waits(connect_s=5.0, answer_s=20.0, again_s=0.01, longest_s=0.1)
SHORT = Waits(connect_s=5.0, answer_s=2.0, again_s=0.01, tries=1)  # all but the answer that hangs come within it


@pytest.fixture
def api() -> Iterator[TogetherApi]:
    with together_api() as running:
        yield running


@pytest.fixture
async def provider(api: TogetherApi) -> AsyncIterator[Together]:
    made = Together(api.v1, lambda: api.key, waits=WAITS, again_s=0.01)
    yield made
    await made.close()


@pytest.fixture
async def hasty(api: TogetherApi) -> AsyncIterator[Together]:
    made = Together(api.v1, lambda: api.key, waits=SHORT, again_s=0.01)
    yield made
    await made.close()


def a_file(folder: Path, text: str = "你好") -> TrainingFile:
    data = (json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=False) + "\n").encode() * 4
    path = folder / f"{hashlib.sha256(data).hexdigest()[:8]}.jsonl"
    path.write_bytes(data)
    return TrainingFile(path, hashlib.sha256(data).hexdigest(), len(data), 4)


@pytest.fixture
def file(tmp_path: Path) -> TrainingFile:
    return a_file(tmp_path)


def left(folder: Path) -> list[Path]:
    """Downloads under way."""
    return list(folder.glob(".download-*"))


def order(file: TrainingFile, tag: str = TAG, **parameters: Any) -> HostedOrder:
    return HostedOrder(tag, "客服", LLAMA, parameters, file)


async def test_a_job_is_made_watched_and_its_adapter_taken_home(
    api: TogetherApi, provider: Together, file: TrainingFile, tmp_path: Path
) -> None:
    uploaded = await provider.upload(TAG, file)
    assert api.contents[uploaded] == file.path.read_bytes() and not api.leaked
    checked = await provider.upload(f"{TAG}-v", a_file(tmp_path, "验证"))
    assert await provider.find(TAG) is None
    made = await provider.create(order(file, epochs=2, lora_alpha=32.0, min_lr_ratio=0.1), uploaded, checked)
    assert (made.word, made.state) == ("pending", State.QUEUED)
    found = await provider.find(TAG)
    assert found is not None and found.id == made.id
    asked = api.asked[made.id]
    assert asked == {
        "model": LLAMA,
        "training_file": uploaded,
        "validation_file": checked,
        "n_evals": 2,
        "n_epochs": 2,
        "suffix": TAG,
        "batch_size": "max",
        "lr_scheduler": {"lr_scheduler_type": "cosine", "lr_scheduler_args": {"min_lr_ratio": 0.1, "num_cycles": 0.5}},
        "training_method": {"method": "sft", "train_on_inputs": "auto"},
        "training_type": {
            "type": "Lora",
            "lora_r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.0,
            "lora_trainable_modules": "all-linear",
        },
    }

    api.advance(
        made.id, "running", step=3, total_steps=10, progress={"estimate_available": True, "seconds_remaining": 7}
    )
    job = await provider.look(made.id)
    assert (job.state, job.progress.step, job.progress.total_steps, job.progress.seconds_left) == (
        State.RUNNING,
        3,
        10,
        7.0,
    )
    assert job.cost is not None and job.cost.amount == pytest.approx(api.spent) and job.cost.estimated
    api.advance(made.id, "completed", token_count=1234)
    job = await provider.look(made.id)
    assert (job.state, job.tokens, job.raw["id"]) == (State.COMPLETED, 1234, made.id)
    assert job.cost is not None and not job.cost.estimated
    assert job.output_model is not None and TAG in job.output_model
    events = await provider.events(made.id)
    assert [event.kind for event in events] == ["job_pending", "training_start", "job_complete"]
    assert events[1].step == 3 and events[1].at is not None

    to = tmp_path / "adapter"
    to.mkdir()
    await provider.download(made.id, to)
    assert {path.name: path.read_bytes() for path in to.iterdir()} == adapter_files()
    assert api.created["job"] == 1 and not left(tmp_path)


async def test_every_parameter_goes_where_together_reads_it(
    api: TogetherApi, provider: Together, file: TrainingFile
) -> None:
    given: dict[str, Any] = {
        "epochs": 3,
        "learning_rate": 2e-5,
        "batch_size": 8,
        "num_checkpoints": 2,
        "warmup_ratio": 0.1,
        "max_grad_norm": 0.5,
        "weight_decay": 0.01,
        "lora_rank": 4,
        "lora_dropout": 0.05,
    }
    made = await provider.create(order(file, **given), await provider.upload(TAG, file), None)
    asked = api.asked[made.id]
    sent = {"epochs": "n_epochs", "num_checkpoints": "n_checkpoints"}
    assert {name: asked[sent.get(name, name)] for name in given if "lora" not in name} == {
        name: value for name, value in given.items() if "lora" not in name
    }
    lora = asked["training_type"]
    assert (lora["lora_r"], lora["lora_alpha"], lora["lora_dropout"]) == (4, 8, 0.05)
    assert "validation_file" not in asked and "lr_scheduler" not in asked


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("pending", State.QUEUED),
        ("queued", State.QUEUED),
        ("running", State.RUNNING),
        ("compressing", State.RUNNING),
        ("uploading", State.RUNNING),
        ("cancel_requested", State.RUNNING),
        ("completed", State.COMPLETED),
        ("error", State.FAILED),
        ("user_error", State.FAILED),
        ("cancelled", State.CANCELED),
        ("levitating", None),
    ],
)
async def test_each_word_of_together_means_one_state(
    api: TogetherApi, provider: Together, file: TrainingFile, word: str, state: State | None
) -> None:
    made = await provider.create(order(file), await provider.upload(TAG, file), None)
    api.advance(made.id, word, message="out of luck")
    job = await provider.look(made.id)
    assert (job.word, job.state) == (word, state)
    assert job.message == ("out of luck" if state is State.FAILED else None)


async def test_a_file_is_uploaded_once_for_a_tag(api: TogetherApi, provider: Together, file: TrainingFile) -> None:
    first = await provider.upload(TAG, file)
    assert await provider.upload(TAG, file) == first
    assert await provider.upload("ts-other", file) == first  # Together names the file of the same bytes
    assert api.created["file"] == 1 and api.count("PUT *") == 1


async def test_an_upload_that_broke_off_is_begun_again(
    api: TogetherApi, provider: Together, file: TrainingFile
) -> None:
    api.refuse(500, at="PUT /signed/*", times=1)
    with pytest.raises(Unavailable):
        await provider.upload(TAG, file)
    with pytest.raises(Unavailable):  # Together remembers the half of it, which goes now
        await provider.upload(TAG, file)
    whole = await provider.upload(TAG, file)
    assert api.contents[whole] == file.path.read_bytes() and list(api.files) == [whole]


async def test_another_tags_upload_of_the_same_bytes_is_waited_for_until_it_is_abandoned(
    api: TogetherApi, provider: Together, file: TrainingFile
) -> None:
    api.refuse(500, at="PUT /signed/*", times=1)
    with pytest.raises(Unavailable):
        await provider.upload("ts-other", file)
    with pytest.raises(Unavailable, match="unfinished"):
        await provider.upload(TAG, file)
    (half,) = api.files.values()
    half["created_at"] -= 7 * 3600
    with pytest.raises(Unavailable, match="unfinished"):
        await provider.upload(TAG, file)
    assert await provider.upload(TAG, file) in api.contents and half["id"] not in api.files


async def test_a_file_that_nobody_said_was_whole_is_said_to_be(
    api: TogetherApi, provider: Together, file: TrainingFile
) -> None:
    known = await provider.upload(TAG, file)
    api.files[known]["processing_status"] = None
    assert await provider.upload(TAG, file) == known
    assert api.files[known]["processing_status"] == "COMPLETED" and api.created["file"] == 1


async def test_a_file_too_large_for_one_piece_is_refused_before_anything_is_asked(
    api: TogetherApi, provider: Together, file: TrainingFile
) -> None:
    with pytest.raises(Unsupported, match="5 GiB"):
        await provider.upload(TAG, replace(file, size_bytes=6 << 30))
    assert not api.requests


async def test_a_malformed_file_is_told_with_togethers_words(
    api: TogetherApi, provider: Together, file: TrainingFile
) -> None:
    api.bad_files = True
    await provider.upload(TAG, file)
    with pytest.raises(Invalid, match="line 1 has no messages"):
        await provider.upload(TAG, file)


async def test_a_file_that_changed_since_it_was_measured_is_not_sent(
    api: TogetherApi, provider: Together, file: TrainingFile
) -> None:
    file.path.write_bytes(b"{}\n")
    with pytest.raises(Invalid):
        await provider.upload(TAG, file)
    assert api.count("PUT *") == 0


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://127.0.0.1:1/x",
        "https://localhost/x",
        "https://0x7f.1/x",
        "https://[::ffff:10.0.0.1]/x",
        "http://storage.example.com/x",
        "file:///etc/passwd",
        "https://user:password@storage.example.com/x",
    ],
)
async def test_an_upload_follows_no_address_within(
    api: TogetherApi, provider: Together, file: TrainingFile, location: str
) -> None:
    api.location = location
    with pytest.raises(Unavailable) as refused:
        await provider.upload(TAG, file)
    assert location not in str(refused.value) and not isinstance(refused.value, TimedOut)


@pytest.mark.parametrize(
    "hidden", [{}, {"suffix"}, {"suffix", "model_output_name"}], ids=["suffix", "name", "training file"]
)
async def test_a_job_is_found_on_any_page_however_little_together_tells(
    api: TogetherApi, provider: Together, tmp_path: Path, hidden: set[str]
) -> None:
    ids = {}
    for number in range(5):
        tag, file = f"ts-{number}", a_file(tmp_path, f"第{number}")
        ids[tag] = (await provider.create(order(file, tag), await provider.upload(tag, file), None)).id
    api.page, api.hidden = 2, frozenset(hidden)
    for tag, job_id in ids.items():
        found = await provider.find(tag)
        assert found is not None and found.id == job_id
    assert await provider.find("ts-9") is None and await provider.find("ts") is None


@pytest.mark.parametrize("hidden", [set(), {"model_output_name"}], ids=["all told", "no name"])
async def test_a_job_with_the_same_file_is_still_not_ours(
    api: TogetherApi, provider: Together, file: TrainingFile, hidden: set[str]
) -> None:
    shared = await provider.upload(TAG, file)
    assert await provider.upload("ts-other", file) == shared
    await provider.create(order(file, "ts-other"), shared, None)
    api.hidden = frozenset(hidden)
    assert await provider.find(TAG) is None


async def test_a_list_that_lags_behind_hides_no_job(api: TogetherApi, provider: Together, file: TrainingFile) -> None:
    uploaded = await provider.upload(TAG, file)
    api.lagging = True
    made = await provider.create(order(file), uploaded, None)
    found = await provider.find(TAG)
    assert found is not None and found.id == made.id


async def test_a_list_that_cannot_be_read_to_its_end_does_not_say_that_there_is_no_job(
    api: TogetherApi, provider: Together
) -> None:
    bodies: list[Any] = [{"data": [], "next_cursor": "again"}, {"rows": []}, "<html>", {"data": [1]}]
    for body in bodies:
        api.refuse(200, body, at="GET /v1/fine-tunes")
        with pytest.raises(Unavailable):
            await provider.find(TAG)
        api.forgive()


@pytest.mark.parametrize("how", ["hang", "close"])
async def test_an_order_whose_answer_is_lost_is_found_and_not_given_twice(
    api: TogetherApi, provider: Together, hasty: Together, file: TrainingFile, how: str
) -> None:
    uploaded = await provider.upload(TAG, file)
    (api.accept_then_hang if how == "hang" else api.accept_then_close)()
    with pytest.raises(TimedOut) as lost:
        await (hasty if how == "hang" else provider).create(order(file), uploaded, None)
    assert lost.value.details["uncertain"] is True
    found = await provider.find(TAG)
    assert found is not None and api.created[f"tag:{TAG}"] == 1 and api.count("POST /v1/fine-tunes") == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, Forbidden),
        (402, Forbidden),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (422, Invalid),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
        (504, TimedOut),
    ],
)
async def test_each_refusal_means_what_it_says(
    api: TogetherApi, provider: Together, file: TrainingFile, status: int, kind: type[Problem]
) -> None:
    uploaded = await provider.upload(TAG, file)
    quoted = {"error": {"message": f"your key {api.key} is tired", "type": "x"}}
    api.refuse(status, quoted, at="POST /v1/fine-tunes", retry_after=3)
    with pytest.raises(Problem) as refused:
        await provider.create(order(file), uploaded, None)
    problem = refused.value
    assert type(problem) is kind and problem.details["upstream_status"] == status
    assert "your key *** is tired" in problem.en and "your key *** is tired" in problem.zh
    assert problem.details["raw"]["error"]["message"] == "your key *** is tired"
    assert problem.details["retry_after"] == 3.0 and api.key not in f"{problem.zh}{problem.en}{problem.details}"
    assert api.count("POST /v1/fine-tunes") == 1 and api.created["job"] == 0


async def test_a_refusal_without_words_still_says_what_it_is(api: TogetherApi, provider: Together) -> None:
    api.refuse(403, {"error": {"message": ""}})
    with pytest.raises(Forbidden, match=r"403.*not allowed"):
        await provider.look("ft-1")


async def test_reading_is_tried_again_and_a_short_wait_is_followed(api: TogetherApi, provider: Together) -> None:
    api.refuse(500, at="GET /v1/fine-tunes/ft-1", times=2)
    with pytest.raises(NotFound):
        await provider.look("ft-1")
    assert api.count("GET /v1/fine-tunes/ft-1") == 3
    api.refuse(429, at="GET /v1/fine-tunes/ft-2", retry_after=30)
    with pytest.raises(Unavailable):
        await provider.look("ft-2")
    assert api.count("GET /v1/fine-tunes/ft-2") == 1  # so long nobody waits for


async def test_a_provider_that_is_not_there_is_unavailable_and_one_without_a_key_is_never_asked(
    api: TogetherApi,
) -> None:
    nobody = Together("http://127.0.0.1:9/v1", lambda: "k", waits=SHORT)
    keyless = Together(api.v1, lambda: None, waits=SHORT)
    with pytest.raises(Unavailable):
        await nobody.look("ft-1")
    with pytest.raises(Forbidden, match="TOGETHER_API_KEY"):
        await keyless.models()
    assert not api.requests
    await asyncio.gather(nobody.close(), keyless.close())


async def test_answers_that_are_none_are_unavailable(api: TogetherApi, provider: Together) -> None:
    for body in ("", "[" * 100_000, '{"id": 1}', '{"id": "ft-2", "status": "running"}', "\xff"):
        api.refuse(200, body, at="GET /v1/fine-tunes/ft-1")
        with pytest.raises(Unavailable):
            await provider.look("ft-1")
        api.forgive()
    for hostile in ("..", "", "."):
        with pytest.raises(Invalid):
            await provider.look(hostile)
    with pytest.raises(NotFound):
        await provider.look("../files")


async def test_a_retired_model_and_an_empty_purse_make_no_job(
    api: TogetherApi, provider: Together, file: TrainingFile
) -> None:
    uploaded = await provider.upload(TAG, file)
    api.credit = False
    with pytest.raises(Forbidden, match="credit"):
        await provider.create(order(file), uploaded, None)
    assert api.count("POST /v1/fine-tunes") == 0
    api.retire(LLAMA)
    with pytest.raises(NotFound, match="not available for fine-tuning"):
        await provider.create(order(file), uploaded, None)


async def test_a_job_is_created_though_its_price_is_not_told(
    api: TogetherApi, provider: Together, file: TrainingFile
) -> None:
    api.refuse(500, at="POST /v1/fine-tunes/estimate-price")
    made = await provider.create(order(file), await provider.upload(TAG, file), None)
    assert made.state is State.QUEUED


async def test_stopping_twice_or_late_is_fine(api: TogetherApi, provider: Together, file: TrainingFile) -> None:
    made = await provider.create(order(file), await provider.upload(TAG, file), None)
    await provider.stop(made.id)
    assert (await provider.look(made.id)).word == "cancel_requested"
    api.advance(made.id, "completed")
    await provider.stop(made.id)
    with pytest.raises(NotFound):
        await provider.stop("ft-nobody")
    api.advance(made.id, "running")
    api.refuse(409, at="POST */cancel")
    with pytest.raises(Conflict):
        await provider.stop(made.id)


async def test_an_estimate_says_the_price_or_why_there_is_none(
    api: TogetherApi, provider: Together, file: TrainingFile
) -> None:
    early = await provider.estimate(order(file), None)
    assert early.cost is None and early.reason is not None and "uploaded" in early.reason[1]
    uploaded = await provider.upload(TAG, file)
    found = await provider.estimate(order(file, epochs=2), uploaded)
    assert found.cost is not None and found.tokens is not None and found.reason is None
    once = await provider.estimate(order(file, epochs=1), uploaded)
    assert once.tokens is not None and found.tokens == 2 * once.tokens and api.created["job"] == 0
    api.credit = False
    poor = await provider.estimate(order(file), uploaded)
    assert poor.cost is not None and poor.reason is not None and "credit" in poor.reason[1]
    api.files[uploaded]["processing_status"] = "PENDING"
    api.validating = True
    waiting = await provider.estimate(order(file), uploaded)
    assert waiting.cost is None and waiting.reason is not None and "still being checked" in waiting.reason[1]


async def test_models_come_live_with_what_may_be_asked_of_them(api: TogetherApi, provider: Together) -> None:
    api.page = 1
    llama, qwen = await provider.models()
    assert (llama.id, llama.name, llama.tools, qwen.tools) == (LLAMA, "Llama 3.1 8B", False, True)
    assert llama.limits["lora_rank"] == (1, 64) and llama.limits["batch_size"] == (1, 64)
    assert llama.context_length == 8192 and llama.strategies == ("final_only", "two_message_cot")
    api.refuse(404, at="GET /v1/fine-tunes/models/limits", times=1)
    assert len(await provider.models()) == 1  # listed, and not tuned all the same
    api.retire(LLAMA)
    assert [model.id for model in await provider.models()] == [QWEN]


async def test_a_tuned_model_is_deployed_once_and_undeployed_to_the_end(
    api: TogetherApi, provider: Together, file: TrainingFile
) -> None:
    made = await provider.create(order(file), await provider.upload(TAG, file), None)
    api.advance(made.id, "completed")
    output = (await provider.look(made.id)).output_model
    assert output is not None
    with pytest.raises(NotFound):
        await provider.deploy(TAG, "acme/nothing")
    assert not api.endpoints
    api.accept_then_close("POST /v2/projects/*/deployments")
    with pytest.raises(Unavailable):
        await provider.deploy(TAG, output)
    kept = await provider.deploy(TAG, output)  # goes on where the first try ended
    assert (kept.model, kept.ready, kept.word) == (f"acme/{TAG}", False, "DEPLOYMENT_STATE_PROVISIONING")
    api.make_ready(kept.id)
    again = await provider.deploy(TAG, output)
    assert (again.id, again.ready) == (kept.id, True)
    assert (api.created["endpoint"], api.created["deployment"]) == (1, 1)
    body = next(asked for asked in api.asked.values() if "inactiveTimeout" in asked)
    assert body["inactiveTimeout"] == 30 and body["config"] == "projects/proj_public/configs/cr_1"
    await provider.undeploy(kept.id)
    await provider.undeploy(kept.id)
    assert not api.endpoints and await provider.deployment(kept.id) is None


async def test_a_refused_deployment_whose_beginning_cannot_be_taken_away_may_cost_money_and_says_so(
    api: TogetherApi, provider: Together, file: TrainingFile
) -> None:
    made = await provider.create(order(file), await provider.upload(TAG, file), None)
    api.advance(made.id, "completed")
    output = (await provider.look(made.id)).output_model
    assert output is not None
    for refused in (("PATCH */endpoints/ep_*", "DELETE *"), ("GET */endpoints/ep_*",)):
        for at in refused:
            api.refuse(403, at=at)
        with pytest.raises(Unavailable, match="a part that costs money may be left"):
            await provider.deploy(TAG, output)
        assert [len(each["deployments"]) for each in api.endpoints.values()] == [1]
        api.forgive()
        found = await provider.find_deployment(TAG)
        assert found is not None
        await provider.undeploy(found.id)
        assert not api.endpoints


async def test_an_adapter_comes_home_only_from_an_archive_and_an_address_that_are_safe(
    api: TogetherApi, provider: Together, file: TrainingFile, tmp_path: Path
) -> None:
    made = await provider.create(order(file), await provider.upload(TAG, file), None)
    to = tmp_path / "adapter"
    to.mkdir()
    with pytest.raises(Invalid, match="not completed"):
        await provider.download(made.id, to)
    api.advance(made.id, "completed")
    for archive, kind in (
        (b"nothing of use", Invalid),
        (tarred({"../../evil.json": b"{}"}), Invalid),
        ("http://169.254.169.254/adapter.tar", Unavailable),
        ("/v1/finetune/download?ft_id=" + made.id + "&checkpoint=adapter", Unavailable),  # a circle
    ):
        api.archive = archive
        with pytest.raises(kind):
            await provider.download(made.id, to)
        assert not list(to.iterdir()) and not left(tmp_path)


async def test_an_adapter_packed_with_zstandard_is_unpacked(
    api: TogetherApi, provider: Together, file: TrainingFile, tmp_path: Path
) -> None:
    made = await provider.create(order(file), await provider.upload(TAG, file), None)
    api.advance(made.id, "completed")
    to = tmp_path / "adapter"
    to.mkdir()
    api.archive = tarred(adapter_files(), mode="zst")
    await provider.download(made.id, to)
    assert {path.name: path.read_bytes() for path in to.iterdir()} == adapter_files()
