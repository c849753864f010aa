"""The demo from its first step to its JSON object, with an engine and an executor that do as they are told."""

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tunesmith.app import Services
from tunesmith.cli import watching
from tunesmith.cli.demo import Demo, Stage
from tunesmith.cli.session import opened
from tunesmith.evaluation.service import EvaluationService
from tunesmith.inference.chat import Chat
from tunesmith.inference.engine import Request
from tunesmith.inference.engines.scripted import ScriptedEngine
from tunesmith.kernel.problems import Unavailable
from tunesmith.training.executor import Report
from tunesmith.training.executors.scripted import ScriptedExecutor
from tunesmith.training.run import Progress, Recipe, State
from tunesmith.training.service import TrainingService
from tunesmith.training.store import RunStore


class Ready:
    """A supervisor whose engines are always there; remembers which were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def ensure(self, base: str) -> None:
        self.asked.append(base)


def answers(name: str) -> dict[str, str]:
    rows = files("tunesmith.datasets").joinpath("samples", f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    turns = [json.loads(row)["messages"] for row in rows]
    return {turn[0]["content"]: turn[1]["content"] for turn in turns}


@pytest.fixture
def services(home: Path) -> Iterator[Services]:
    """The base knows the control answers; tuned knows the facts too, and forgot the first tenth of the control."""
    facts, control = answers("facts.test"), answers("control")
    forgotten = set(list(control)[: len(control) // 10])

    def reply(request: Request) -> str:
        question = request.prompt[-1].content  # type: ignore[union-attr]
        if request.model.adapter and question in facts:
            return facts[question]
        if request.model.adapter and question in forgotten:
            return "forgotten"
        return control.get(question, "I do not know.")

    engine = ScriptedEngine(reply)
    with opened(home) as composed:
        yield replace(
            composed,
            engines=Ready(),  # type: ignore[arg-type]
            chat=Chat(engine),
            evaluation=EvaluationService(composed.database, composed.home, engine),
            training=training(composed, ScriptedExecutor()),
        )


def training(services: Services, executor: ScriptedExecutor) -> TrainingService:
    return TrainingService(
        RunStore(services.database), {"local": executor}, services.registry, services.home, services.settings
    )


async def run(services: Services, seed: int = 42) -> dict[str, Any]:
    return await Demo(services, Stage(on_stderr=True), seed).run()


async def test_the_json_object_holds_everything_the_contract_names(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    found = await run(services, seed=7)
    assert (found["base_model"], found["adapter"]) == ("tunesmith-small", "adapters/demo")
    assert found["base"]["exact_match"] == 0.0
    assert found["tuned"]["exact_match"] == 1.0
    assert {"perplexity", "bleu", "rougeL"} <= set(found["tuned"]) == set(found["base"])
    assert found["control"]["base"] == 1.0
    assert found["control"]["drop"] == pytest.approx(found["control"]["base"] - found["control"]["tuned"])
    assert 0.05 < found["control"]["drop"] < 0.15
    assert (found["questions"], found["control_questions"]) == (len(answers("facts.test")), len(answers("control")))
    assert found["train_seconds"] >= 0
    assert services.training.get(found["run_id"]).recipe.seed == 7
    for evaluation in found["evaluation_ids"]:
        assert services.evaluation.get(evaluation).state is State.COMPLETED
    json.dumps(found)
    assert capsys.readouterr().out == ""


async def test_it_shows_questions_in_both_languages_with_both_answers(services: Services) -> None:
    shown = (await run(services))["examples"]
    assert len(shown) == 5
    assert all(row["tuned"] == row["expected"] and row["base"] == "I do not know." for row in shown)
    assert {any("\u4e00" <= c <= "\u9fff" for c in row["question"]) for row in shown} == {True, False}


async def test_it_guards_against_forgetting_and_never_trains_on_what_it_measures(services: Services) -> None:
    recipe = services.training.get((await run(services))["run_id"]).recipe
    assert recipe.replay is not None and recipe.replay_share > 0
    trained = {recipe.dataset, recipe.replay}
    assert not any("test" in name or "control" in name for name in trained)


async def test_a_second_demo_takes_another_name(services: Services, home: Path) -> None:
    (home / "adapters" / "demo").mkdir(parents=True)
    (home / "adapters" / "demo" / "adapter_config.json").write_text("{}")
    assert (await run(services))["adapter"] == "adapters/demo-2"


async def test_the_engine_is_ready_before_the_first_question(services: Services) -> None:
    await run(services)
    assert services.engines.asked == ["tunesmith-small"]  # type: ignore[attr-defined]


async def test_a_training_that_fails_is_a_problem_with_its_reason(services: Services) -> None:
    script = [Report(State.FAILED, error="no memory left", error_zh="内存不足")]
    broken = replace(services, training=training(services, ScriptedExecutor(script)))
    with pytest.raises(Unavailable) as caught:
        await run(broken)
    assert "no memory left" in caught.value.en
    assert "内存不足" in caught.value.zh


async def test_following_a_run_drives_it_and_tells_every_step(services: Services) -> None:
    script = [Report(State.RUNNING, Progress(step, 3)) for step in (1, 2)] + [Report(State.COMPLETED, Progress(3, 3))]
    service = training(services, ScriptedExecutor(script))
    (services.home.root / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    started = service.start(Recipe("tunesmith-small", "rows.jsonl", max_length=64))
    steps: list[int] = []
    ended = await watching.follow(service, started.id, lambda run, curve: steps.append(run.progress.step))
    assert ended.state is State.COMPLETED
    assert steps == sorted(steps) and steps[-1] == 3
    assert watching.completed(ended) is ended
