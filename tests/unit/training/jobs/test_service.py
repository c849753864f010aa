"""Jobs are settled, written, recorded, followed and told of, here and at providers, in every dialect's words."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.unit.training.hosted.worlds import World, worlds
from tests.unit.training.test_service import Bases
from tunesmith.datasets.export.sample import Strategy
from tunesmith.datasets.export.service import ExportService
from tunesmith.dialects.gpt_service import run_answers as gpt_service
from tunesmith.dialects.platform_v1 import training as platform
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound, Problem, Unavailable
from tunesmith.projects.project import SplitPart
from tunesmith.projects.service import ProjectService
from tunesmith.training import run_folder
from tunesmith.training.hosted.catalog import Catalog
from tunesmith.training.jobs.job import Job, NewJob, Status
from tunesmith.training.jobs.service import JobService
from tunesmith.training.jobs.status import said_of
from tunesmith.training.run import Recipe, State

ADA, BOB = Caller("ada"), Caller("bob")
ROWS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in (("谁是镇长？", "阿达。"), ("Who?", "Ada."), ("一加一？", "二。"))
]
HERE = NewJob(provider="LOCAL", model="tiny", parameters={}, dataset_path="data/town.jsonl")
THERE = replace(HERE, provider="TOGETHER_AI", model="scripted/model")
SAMPLE = NewJob(
    name="高级微调作业",
    provider="LOCAL",
    model="tiny",
    dataset_path="data/thought.jsonl",
    parameters={
        "learning_rate": 0.00002,
        "epochs": 3,
        "batch_size": 8,
        "lora_rank": 16,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "warmup_ratio": 0.1,
    },
    description="这是一个用于客服场景的微调作业",
    system_message="你是一个专业的客服助手，擅长解答用户问题。请保持礼貌和专业。",
    thinking_instructions="分析用户问题，考虑可能的解决方案，提供清晰的步骤指导。",
)


@dataclass
class Town:
    """A job service with everything real but the provider, the trainer and the base model."""

    world: World
    projects: ProjectService
    jobs: JobService

    def lines(self, job: Job, name: str = "train") -> list[Any]:
        path = self.world.home.root / f"runs/{job.run.id}/data/{name}.jsonl"
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]

    def task(self, owner: Caller = LOCAL, **fields: object) -> tuple[str, str]:
        project = self.projects.create_project("town", None, owner)
        asked = {"name": "answers", "instruction": "Answer.", **fields}
        return project.id, self.projects.create_task(project.id, asked, owner).id

    def look(self, job: Job) -> Job:
        return self.jobs.get(job.run.id, LOCAL)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    for world in worlds(tmp_path):
        data = world.home.root / "data"
        (data / "town.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        thought = {"input": "q", "output": "a", "reasoning": "first this"}
        (data / "thought.jsonl").write_text(json.dumps(thought) + "\n")
        catalog = Catalog({world.provider.name: world.provider}, world.here, lambda name: "a key")
        projects = ProjectService(world.database, lambda: datetime.now(UTC))
        exports = ExportService(world.home, lambda name, caller: None)
        hosted = {world.provider.name: world.executor}
        jobs = JobService(
            world.database, world.training, catalog, projects, exports, hosted, Bases(), world.home, world.clock
        )
        yield Town(world, projects, jobs)


# -- made ------------------------------------------------------------------------------------------------------------


def test_the_documents_sample_is_a_run_of_this_machine_with_a_formatted_file(town: Town) -> None:
    job = town.jobs.create(SAMPLE, ADA)
    recipe = job.run.recipe
    assert (recipe.rank, recipe.alpha, recipe.dropout, recipe.epochs, recipe.warmup_ratio) == (16, 16.0, 0.05, 3, 0.1)
    assert recipe.base_model == "tiny" and recipe.max_length == 512 and job.run.executor == "local"
    assert job.status is Status.PENDING and job.notes.strategy is Strategy.TWO_MESSAGE
    assert job.notes.system_message == SAMPLE.system_message and job.run.owner == "ada"
    [line] = town.lines(job)
    assert [turn["role"] for turn in line["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert line["messages"][0]["content"] == SAMPLE.system_message
    assert town.look(job) == replace(job, run=town.look(job).run)


def test_a_hosted_job_carries_what_was_given_and_shows_the_providers_defaults(town: Town) -> None:
    asked = replace(THERE, parameters={"epochs": 2, "lora_alpha": 16}, name="Town")
    job = town.jobs.create(asked, ADA)
    kept = town.world.store.get(job.run.id)
    assert kept is not None and kept.parameters == {"epochs": 2, "lora_alpha": 16.0} and kept.title == "Town"
    assert (job.run.recipe.epochs, job.run.recipe.learning_rate, job.run.recipe.alpha) == (2, 1e-5, 16.0)
    assert job.run.recipe.base_model == "scripted/model" and job.hosted is not None and job.hosted.job_id is None
    assert [line["messages"][1]["content"] for line in town.lines(job)] == [r["messages"][0]["content"] for r in ROWS]


WRONG: list[tuple[dict[str, Any], type[Problem], str | None]] = [
    ({"provider": "VERTEX"}, Invalid, "provider"),
    ({"parameters": {"lora_rnak": 4}}, Invalid, "parameters.lora_rnak"),
    ({"parameters": {"epochs": 10**400}}, Invalid, "parameters.epochs"),
    ({"strategy": "final_and_intermediate", "thinking_instructions": "x"}, Invalid, "data_strategy"),
    ({"strategy": "no such"}, Invalid, "data_strategy"),
    ({"strategy": "final_only", "thinking_instructions": "x"}, Invalid, "thinking_instructions"),
    ({"strategy": "two_message_cot"}, Invalid, "samples"),  # without thinking data
    ({"dataset_path": None}, Invalid, "dataset_path"),
    ({"split_id": "1" * 12}, Invalid, "dataset_path"),
    ({"dataset_path": "../../etc/passwd"}, Invalid, None),
    ({"dataset_path": "data/none.jsonl"}, NotFound, None),
    ({"split_name": "test"}, NotFound, None),
    ({"name": "a/b"}, Invalid, "name"),
    ({"name": "\ud800"}, Invalid, "name"),
    ({"description": "\0"}, Invalid, "description"),
    ({"model": "\0"}, Invalid, "model_name"),
    ({"model": ""}, Invalid, "model_name"),
    ({"model": "none", "provider": "LOCAL"}, NotFound, None),
    ({"system_message": "\udfff"}, Invalid, "system_message"),
    ({"system_message_generator": "simple_prompt_builder"}, Invalid, "system_message_generator"),
    ({"project_id": "1" * 12}, Invalid, "task_id"),
    ({"project_id": "1" * 12, "task_id": "1" * 12}, NotFound, None),
]


@pytest.mark.parametrize("asked", [HERE, THERE], ids=["here", "there"])
def test_what_cannot_be_is_refused_and_leaves_nothing(town: Town, asked: NewJob) -> None:
    for changes, kind, field in WRONG:
        wrong = replace(asked, **changes)
        for attempt in (town.jobs.create, town.jobs.check):
            with pytest.raises(kind) as refused:
                attempt(wrong, ADA)
            assert field is None or refused.value.details["field"] == field, changes
    assert town.jobs.list(LOCAL) == []
    assert [path.name for path in town.world.home.runs.iterdir() if path.name != "holders"] == []


def test_checking_records_nothing_and_says_what_would_be_recorded(town: Town) -> None:
    notes = town.jobs.check(SAMPLE, ADA)
    assert notes.strategy is Strategy.TWO_MESSAGE and notes.properties["rows"] == 1
    assert town.jobs.list(LOCAL) == []


def test_a_request_that_is_sent_again_gives_the_job_it_made(town: Town) -> None:
    job = town.jobs.create(THERE, ADA, idempotency_key="k")
    again = town.jobs.create(THERE, ADA, idempotency_key="k")
    assert again.run.id == job.run.id and len(town.jobs.list(LOCAL)) == 1
    with pytest.raises(Conflict):
        town.jobs.create(replace(THERE, name="Other"), ADA, idempotency_key="k")


def test_a_job_of_a_task_is_made_of_a_split_with_the_tasks_words(town: Town) -> None:
    project, task = town.task(thinking_instruction="Think of the town.", output_schema='{"type": "object"}')
    for number in range(6):
        fields = {"input": f"q{number}", "output": f'{{"n": {number}}}', "reasoning": "hm"}
        town.projects.add_run(project, task, fields, LOCAL)
    parts = [SplitPart(name="train", percentage=0.5), SplitPart(name="val", percentage=0.5)]
    split = town.projects.create_split(project, task, LOCAL, parts=parts, seed=1)
    asked = replace(THERE, dataset_path=None, split_id=split.id, project_id=project, task_id=task)
    asked = replace(asked, strategy="two_message_cot", validation_split="val")
    asked = replace(asked, system_message_generator="simple_prompt_builder")
    job = town.jobs.create(asked, LOCAL)
    assert job.notes.thinking_instructions == "Think of the town." and job.notes.split_id == split.id
    assert job.notes.system_message == "Answer.\n\nReturn only JSON. Do not include any non JSON text.\n"
    first = town.lines(job)[0]["messages"]
    assert first[0]["content"] == job.notes.system_message and json.loads(first[-1]["content"]).keys() == {"n"}
    assert job.run.recipe.validation == f"runs/{job.run.id}/data/validation.jsonl"
    assert len(town.lines(job)) + len(town.lines(job, "validation")) == 6
    town.world.clock.on(1)
    here = town.jobs.create(replace(asked, provider="local", model="tiny"), LOCAL)
    assert here.notes.system_message == "Answer."  # Together alone is told so
    assert [each.run.id for each in town.jobs.list(LOCAL, project_id=project, task_id=task)] == [
        here.run.id,
        job.run.id,
    ]
    assert town.jobs.get(job.run.id, LOCAL, project_id=project, task_id=task).run.id == job.run.id
    with pytest.raises(NotFound, match=f"Finetune with ID '{job.run.id}' not found"):
        town.jobs.get(job.run.id, LOCAL, project_id="2" * 12, task_id=task)
    with pytest.raises(NotFound):
        town.jobs.create(asked, BOB)


def test_an_empty_validation_split_is_told_and_an_empty_train_split_refused(town: Town) -> None:
    project, task = town.task()
    town.projects.add_run(project, task, {"input": "q", "output": "a"}, LOCAL)
    split = town.projects.create_split(project, task, LOCAL, split_type="train_val", seed=1)
    full, empty = sorted(split.contents, key=lambda name: -len(split.contents[name]))
    asked = replace(HERE, dataset_path=None, split_id=split.id, project_id=project, task_id=task)
    job = town.jobs.create(replace(asked, train_split=full, validation_split=empty), LOCAL)
    told = [en for _, en in job.notes.properties["warnings"]]
    assert "the validation split is empty; nothing will be scored" in told and job.run.recipe.validation is None
    with pytest.raises(Invalid, match="nothing to train on"):
        town.jobs.create(replace(asked, train_split=empty), LOCAL)


def test_training_rows_that_are_scored_too_are_told(town: Town) -> None:
    job = town.jobs.create(replace(HERE, validation_split="all"), ADA)
    assert job.notes.properties["warnings"][0][1].startswith("3 training rows are in the validation split too")


async def test_a_model_that_is_not_trained_there_and_a_strategy_that_is_not_its_own_are_told(town: Town) -> None:
    await town.jobs.check_model(THERE)
    with pytest.raises(NotFound, match="scripted/model"):
        await town.jobs.check_model(replace(THERE, model="togethercomputer/llama-2-7b"))
    with pytest.raises(Invalid):
        await town.jobs.check_model(replace(THERE, strategy="final_and_intermediate_r1_compatible"))


# -- followed --------------------------------------------------------------------------------------------------------


async def test_a_job_is_pending_running_completed_and_then_never_anything_else(town: Town) -> None:
    job = town.jobs.create(THERE, ADA)
    seen = [job.status]
    for _ in range(7):
        await town.world.passes(1, apart_s=15)
        seen.append(town.look(job).status)
    assert list(dict.fromkeys(seen)) == [Status.PENDING, Status.RUNNING, Status.COMPLETED]
    before = len(town.world.provider.calls)
    [again] = await town.jobs.refresh([town.look(job)], ADA)
    assert again.status is Status.COMPLETED and len(town.world.provider.calls) == before


async def test_refreshing_asks_now_records_what_it_hears_and_writes_nothing_there(town: Town) -> None:
    job = town.jobs.create(THERE, ADA)
    await town.world.passes(2)
    del town.world.provider.calls[:]
    found = [town.look(job)]
    for _ in range(3):
        found = list(await town.jobs.refresh(found, ADA))
    assert found[0].status is Status.COMPLETED and found[0].hosted and found[0].hosted.output_model
    assert set(town.world.provider.calls) == {"look", "events"}
    assert town.world.runs.get(job.run.id).state is State.COMPLETED


async def test_a_job_that_cannot_be_asked_after_is_unknown_and_its_record_stays(town: Town) -> None:
    job = town.jobs.create(THERE, ADA)
    await town.world.passes(2)
    before = town.world.runs.get(job.run.id)
    town.world.provider.refusals["look"] = [Unavailable("断开", "gone"), Forbidden("", "the key is not accepted")]
    for word in ("gone", "the key is not accepted"):
        [found] = await town.jobs.refresh([town.look(job)], ADA)
        told = said_of(found)
        assert found.status is Status.UNKNOWN and told is not None and word in told[1]
    assert town.world.runs.get(job.run.id) == before
    [found] = await town.jobs.refresh([found], ADA)
    assert found.status is Status.PENDING and said_of(found) is None


async def test_a_word_never_seen_is_unknown_and_told(town: Town) -> None:
    town.world.provider.script = ("running", "levitating", "running")
    job = town.jobs.create(THERE, ADA)
    await town.world.passes(2)
    [found] = await town.jobs.refresh([town.look(job)], ADA)
    assert found.status is Status.RUNNING
    [found] = await town.jobs.refresh([found], ADA)
    told = said_of(found)
    assert found.status is Status.UNKNOWN and told is not None and "levitating" in told[0] and "levitating" in told[1]
    [found] = await town.jobs.refresh([found], ADA)
    assert found.status is Status.RUNNING


async def test_a_refused_job_says_why_in_both_languages_and_one_that_waits_too(town: Town) -> None:
    town.world.provider.refusals["upload"] = [Unavailable("忙", "busy")]
    job = town.jobs.create(THERE, ADA)
    await town.world.passes(2)
    waits = town.look(job)
    told = said_of(waits)
    assert waits.status is Status.PENDING and told is not None and "忙" in told[0] and "busy" in told[1]
    town.world.provider.refusals["create"] = [Forbidden("余额不足", "its credit is used up", raw={"a": 1})]
    await town.world.passes(14)
    failed = town.look(job)
    assert failed.status is Status.FAILED and said_of(failed) == ("余额不足", "its credit is used up")
    assert failed.hosted is not None and failed.hosted.raw == {"a": 1}


async def test_canceling_is_told_and_what_has_ended_is_not_canceled(town: Town) -> None:
    job = town.jobs.create(THERE, ADA)
    await town.world.passes(2)
    town.jobs.cancel(job.run.id, ADA)
    await town.world.passes(1)
    assert town.look(job).status is Status.CANCELLED
    assert town.jobs.cancel(job.run.id, ADA).status is Status.CANCELLED
    town.world.provider.script = ("completed",)
    done = town.jobs.create(THERE, ADA)
    await town.world.passes(4, apart_s=15)
    with pytest.raises(Conflict):
        town.jobs.cancel(done.run.id, ADA)


def leave_checkpoint(folder: Path) -> None:
    """What a trainer leaves after its first step, as far as anybody looks at it here."""
    place = folder / run_folder.CHECKPOINTS / run_folder.checkpoint_name(1)
    place.mkdir(parents=True)
    (place / "position.json").write_text('{"metrics_bytes": 0}')
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (place / "state.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


# -- told of ---------------------------------------------------------------------------------------------------------


def test_runs_of_every_dialect_are_jobs_and_jobs_are_runs_of_every_dialect(town: Town) -> None:
    elsewhere = town.world.training.start(Recipe("tiny", "data/town.jsonl", max_length=128, rank=4), caller=ADA)
    town.world.clock.on(1)
    here = town.jobs.create(HERE, ADA)
    town.world.clock.on(1)
    there = town.jobs.create(THERE, ADA)
    assert [job.run.id for job in town.jobs.list(ADA)] == [there.run.id, here.run.id, elsewhere.id]
    found = town.jobs.get(elsewhere.id, ADA)
    assert found.notes.provider == "local" and found.notes.parameters["lora_rank"] == 4
    assert found.notes.dataset_path == "data/town.jsonl" and found.status is Status.PENDING
    runs = town.world.training.list(caller=ADA)
    shown = [gpt_service.task(run, "en", town.world.training.silent_s(run)) for run in runs]
    assert [each["base_model"] for each in shown] == ["scripted/model", "tiny", "tiny"]
    assert {each["status"] for each in shown} == {"queued"}
    assert town.world.training.idle() is False
    edited = town.jobs.edit(elsewhere.id, ADA, description="made elsewhere")
    assert town.look(edited).notes.description == "made elsewhere" and edited.notes.name == found.notes.name


def test_a_job_at_a_provider_keeps_no_trainer_of_this_machine_waiting(town: Town) -> None:
    town.jobs.create(THERE, ADA)
    assert town.world.training.idle()


async def test_a_model_that_is_at_its_provider_is_no_folder_of_this_machine(town: Town) -> None:
    town.world.provider.script = ("completed",)
    job = town.jobs.create(THERE, ADA)
    await town.world.passes(4, apart_s=15)
    run = town.look(job).run
    assert run.state is State.COMPLETED and town.world.training.published(run) is None
    shown = platform._status(run, "en", None, town.world.training.published(run))
    assert shown.status == "completed" and shown.model_path is None
    (town.world.home.root / run.output).mkdir(parents=True)  # its adapter was fetched
    assert town.world.training.published(run) == run.output


def test_the_file_of_a_job_is_nobody_elses_data_though_its_owner_goes_on_with_it(town: Town) -> None:
    job = town.jobs.create(HERE, ADA)
    with pytest.raises(NotFound):
        town.world.training.start(replace(job.run.recipe), caller=BOB)
    town.jobs.cancel(job.run.id, ADA)
    leave_checkpoint(town.world.home.runs / job.run.id)
    again = town.world.training.resume(job.run.id, ADA)
    assert again.recipe.dataset == job.run.recipe.dataset
    with pytest.raises(Conflict, match="gone on with"):
        town.jobs.delete(job.run.id, ADA)


def test_anothers_job_is_a_missing_one(town: Town) -> None:
    job = town.jobs.create(THERE, ADA)
    assert town.jobs.list(BOB) == []
    for verb in (town.jobs.get, town.jobs.cancel, town.jobs.delete, town.jobs.edit):
        with pytest.raises(NotFound, match="not found"):
            verb(job.run.id, BOB)
    with pytest.raises(NotFound):
        town.jobs.get("\0\udfff", ADA)
    assert asyncio.run(town.jobs.refresh([job], BOB)) == []


async def test_a_job_that_has_ended_may_be_deleted_unless_its_model_is_deployed(town: Town) -> None:
    town.world.provider.script = ("completed",)
    job = town.jobs.create(THERE, ADA)
    with pytest.raises(Conflict):
        town.jobs.delete(job.run.id, ADA)
    await town.world.passes(4, apart_s=15)
    town.world.store.deployed(job.run.id, {"id": "d"})
    with pytest.raises(Conflict, match="undeploy"):
        town.jobs.delete(job.run.id, ADA)
    town.world.store.deployed(job.run.id, None)
    town.jobs.delete(job.run.id, ADA)
    assert town.jobs.list(LOCAL) == [] and not (town.world.home.runs / job.run.id).exists()
    assert town.world.store.get(job.run.id) is None


async def test_an_estimate_makes_nothing_and_says_what_it_does_not_know(town: Town) -> None:
    here = await town.jobs.estimate(replace(HERE, parameters={"batch_size": 2, "epochs": 3}), ADA)
    assert here.steps == 6 and here.tokens is None and here.reason is not None and here.cost is not None
    there = await town.jobs.estimate(THERE, ADA)
    assert there.cost is not None and there.cost.amount == 0.03 and there.steps is None
    town.world.provider.refusals["estimate"] = [Unavailable("断开", "gone")]
    away = await town.jobs.estimate(replace(THERE, parameters={"batch_size": 3, "epochs": 2}), ADA)
    assert away.cost is None and away.steps == 2 and away.reason == ("断开", "gone")
    assert town.jobs.list(LOCAL) == [] and not town.world.provider.books.exists()
