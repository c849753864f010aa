"""What the gpt-service dialect answers, compared with what it says of itself in OpenAPI."""

import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.numpy

from tests.described import Described, of_this_version
from tests.page.furnished import make_talkative_adapter
from tests.unit.training.plan.test_plan import drawn
from tunesmith.app import Services, compose
from tunesmith.asgi import create_app
from tunesmith.evaluation.service import EvaluationService
from tunesmith.inference.engines.scripted import ScriptedEngine
from tunesmith.kernel.files import write_json
from tunesmith.settings import Settings
from tunesmith.training import run_folder
from tunesmith.training.data.findings import Part, Report, write_report
from tunesmith.training.loop.checkpoint_files import POSITION, TENSORS
from tunesmith.training.plan.accuracy import RECORD, Foretold, Held
from tunesmith.training.plan.planning import Planner
from tunesmith.training.run import Progress, Run, State
from tunesmith.training.store import RunStore

ADAPTER, ROWS = "adapters/loud", "rows.jsonl"
BODY = {"base_model": "tunesmith-small", "dataset_path": ROWS}
QUESTIONS = {"model_name": ADAPTER, "dataset_path": ROWS, "compare": True}


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks a server and compares each answer with its description.

    Attributes:
        named: ids that paths hold in braces, by what they are of.
        asked: what was asked for, as the description writes it.
    """

    client: httpx.AsyncClient
    services: Services
    described: Described
    named: dict[str, str]

    async def __call__(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.client.request(method, path.format(**self.named), json=body)
        assert answer.status_code == 200, (method, path, answer.text)
        found = answer.json()
        assert self.described.findings(method, answer.request.url.path, found) == []
        return found


@pytest.fixture
async def ask(tmp_path: Path) -> AsyncIterator[Asker]:
    services = compose(Settings.read({}, home=tmp_path))
    rows = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]}
        for n in range(30)
    ]
    (tmp_path / ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    services.datasets.add("town", tmp_path / ROWS)
    services.datasets.split("town", {"train": 0.5, "test": 0.5})
    make_talkative_adapter(tmp_path, ADAPTER)
    transport = httpx.ASGITransport(create_app(services, wants_token=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
        yield Asker(client, services, of_this_version(), {})
    await services.close()


async def test_runs_are_as_described_in_every_state(ask: Asker) -> None:
    run = (await ask("POST", "/train", BODY))["task_id"]
    for state in (State.RUNNING, State.COMPLETED, State.FAILED):
        ask.named[state] = put(ask.services, run, state)
    canceled = (await ask("POST", "/train", {**BODY, "seed": 1}))["task_id"]
    ask.named.update(queued=run, canceled=canceled)
    await ask("POST", "/train/cancel/{canceled}")
    await ask("GET", "/train/history")
    assert {each["status"] for each in (await ask("GET", "/train/runs"))["runs"]} == set(State)
    for state in State:
        await ask("GET", f"/train/status/{{{state}}}")
        await ask("GET", f"/train/runs/{{{state}}}")
        await ask("GET", f"/train/metrics/{{{state}}}")
        await ask("GET", f"/train/log/{{{state}}}")
    await ask("POST", "/train/resume/{failed}")


async def test_a_run_in_full_holds_something_in_every_field(ask: Asker) -> None:
    """Else the test above would compare null with what may be null."""
    run = (await ask("POST", "/train", BODY))["task_id"]
    running, completed, failed = (
        put(ask.services, run, each) for each in (State.RUNNING, State.COMPLETED, State.FAILED)
    )
    found = [await ask("GET", f"/train/runs/{each}") for each in (running, completed, failed)]
    empty = [name for name in found[0] if all(each[name] in (None, {}, []) for each in found)]
    assert empty == []
    assert all(found[0]["request"][name] == value for name, value in BODY.items()) and found[2]["resumable"]


async def test_what_a_run_may_be_of_is_as_described(ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def rehearsed(self: Planner, recipe: object, measure: bool) -> object:
        return drawn(7_000_000_000)

    monkeypatch.setattr(Planner, "_rehearsed", rehearsed)
    assert (await ask("POST", "/train/plan", BODY))["remedies"]
    assert not (await ask("GET", "/samples"))["installed"]
    installed = await ask("POST", "/samples")
    await ask("POST", "/train/plan", installed["train"])
    kinds = {each["kind"] for each in (await ask("GET", "/train/datasets"))["datasets"]}
    assert kinds == {"dataset", "split", "sample"}
    for query in ("", "?base_model=tunesmith-small"):
        assert (await ask("GET", f"/train/parameters{query}"))["parameters"]


async def test_evaluations_are_as_described_before_and_after_they_are_done(
    ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EvaluationService, "run_soon", lambda self, evaluation: None)
    monkeypatch.setattr(ask.services.evaluation, "_engine", ScriptedEngine(lambda request: "a1"))
    ask.named["whole"] = (await ask("POST", "/evaluate/dataset", QUESTIONS))["eval_id"]
    one = {"test_data": [{"input": "q", "expected": "a"}], "model_name": ADAPTER, "metrics": ["perplexity"]}
    ask.named["scored"] = (await ask("POST", "/evaluate", one))["eval_id"]
    ask.named["waiting"] = (await ask("POST", "/evaluate", one))["eval_id"]
    ask.named["canceled"] = (await ask("POST", "/evaluate", one))["eval_id"]
    await ask("POST", "/evaluate/cancel/{canceled}")
    for name in ("whole", "scored"):
        assert (await ask.services.evaluation.execute(ask.named[name])).state is State.COMPLETED
    for name in ask.named:
        for path in ("results", "details", "outputs"):
            await ask("GET", f"/evaluate/{path}/{{{name}}}")
    assert len((await ask("GET", "/evaluate/history"))["history"]) == len(ask.named)
    whole = await ask("GET", "/evaluate/results/{whole}")
    assert set(whole["details"]) == {"metrics", "count", "base", "difference"} and "rouge" in whole["metrics"]
    assert "base" in (await ask("GET", "/evaluate/outputs/{whole}"))["rows"][0]


def test_every_answer_says_of_what_shape_it_is() -> None:
    assert of_this_version().undescribed("/") == []


def test_what_is_undeclared_missing_or_of_another_kind_is_found() -> None:
    described = of_this_version()
    good = {"status": "success", "task_id": "1", "message": "m"}
    assert described.findings("POST", "/train", good) == []
    assert described.findings("POST", "/train/cancel/1", good) == []
    for bad in ({**good, "more": 1}, {"status": "success", "task_id": "1"}, {**good, "task_id": 1}, [good], None):
        assert described.findings("POST", "/train", bad), bad
    listed = {"datasets": [{"dataset_path": "a", "kind": "split", "examples": None}], "total_count": 1}
    assert described.findings("GET", "/train/datasets", listed) == []
    listed["datasets"][0]["kind"] = "other"
    [found] = described.findings("GET", "/train/datasets", listed)
    assert "datasets/0/kind" in found
    assert described.findings("GET", "/no/such/path", good)


def put(services: Services, like: str, state: State) -> str:
    """A run as ``like`` was asked for, in that state with all that its trainer may have left; its id."""
    store, moment = RunStore(services.database), datetime.now(UTC)
    progress = Progress(3, 4, 1.5, 2.5, 1e-5, 100.0, 7.5)
    run: Run = replace(
        store.get(like), id=f"{state}-{like}", output=f"adapters/{state}", state=state, progress=progress,
        started_at=moment, ended_at=moment if state.final else None, error="why" if state is State.FAILED else None,
    )  # fmt: skip
    store.add(run)
    folder = services.home.runs / run.id
    folder.mkdir()
    steps = [{"step": 1, "loss": 2.5, "time": 1.0}, {"step": 2, "loss": 2.0, "time": 2.0, "rewards/margins": 0.5}]
    scored = {"event": "validation", "step": 2, "loss": 2.25}
    stage = {"event": "stage", "stage": "training"}
    (folder / run_folder.METRICS).write_text("".join(json.dumps(row) + "\n" for row in [*steps, scored, stage]))
    (folder / run_folder.LOG).write_text("loading\n")
    if state is State.RUNNING:
        (folder / run_folder.TRAINER).touch()
        os.utime(folder / run_folder.TRAINER, (0, 0))  # its trainer has been silent for long
    elif state is State.COMPLETED:
        outcome = {"adapter": run.output, "validation_loss": 2.25, "best_step": 2, "figures": {"rewards/margins": 0.5}}
        done = run_folder.Done(state, progress=progress, control_before=1.0, control_after=1.5, **outcome)
        run_folder.write_done(folder, done)
        write_json(folder / RECORD, Held(Foretold("rehearsal", 10.0, 1 << 30), 12.0, 1 << 30, -0.2, 0.0))
        counts = dict.fromkeys((each.name for each in fields(Part) if each.type in ("int", int)), 0)
        part = Part(
            **{**counts, "label": ROWS, "role": "train", "examples": 30, "tokens": None, "learned": None, "lengths": ()}
        )
        write_report(folder, Report("tunesmith-small", 128, "", (), (part,), ()))
    elif state is State.FAILED:
        checkpoint = folder / run_folder.CHECKPOINTS / run_folder.checkpoint_name(2)
        checkpoint.mkdir(parents=True)
        (checkpoint / POSITION).write_text('{"metrics_bytes": 0}')
        (checkpoint / TENSORS).write_bytes(safetensors.numpy.save({}))
    return run.id
