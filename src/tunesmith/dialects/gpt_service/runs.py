"""``/train/runs`` and beside it, additions to the document: all that is known of runs, and going on with one."""

import shlex
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Query, Request

from tunesmith.datasets.dataset import Dataset
from tunesmith.datasets.samples import SampleFile, sample_files
from tunesmith.datasets.service import DatasetService
from tunesmith.datasets.upload import Entry
from tunesmith.dialects.gpt_service import run_answers, wire
from tunesmith.dialects.gpt_service.run_answers import (
    ListedRun,
    ReadableData,
    ReadableList,
    RunCurves,
    RunInFull,
    RunList,
    RunLog,
    Setting,
    TrainingParameter,
    TrainingParameters,
    TrainingResumed,
)
from tunesmith.http.described import described
from tunesmith.http.door import caller_of
from tunesmith.http.errors import language_of
from tunesmith.kernel.home import Home
from tunesmith.models.registry import SHIPPED, Registry
from tunesmith.training import following, limits, run_folder
from tunesmith.training.data.findings import read_report
from tunesmith.training.executor import Parameter
from tunesmith.training.first_recipe import RECIPE, SUITS
from tunesmith.training.plan import accuracy
from tunesmith.training.run import Recipe, Run, State
from tunesmith.training.service import TrainingService

_MOST_POINTS = 20_000
_LOG_PIECE = 1 << 18  # bytes
# the document's names of what a recipe holds; the others are called alike
_NAMES = {
    "dataset": "dataset_path",
    "validation": "validation_path",
    "replay": "replay_path",
    "control": "control_path",
    "epochs": "num_epochs",
    "rank": "lora_r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "scheduler": "lr_scheduler_type",
    "gradient_accumulation": "gradient_accumulation_steps",
    "evaluate_every": "eval_steps",
    "keep_best": "load_best_model_at_end",
    "early_stopping": "early_stopping_patience",
}


def in_words(fields: Iterable[str]) -> dict[str, Any]:
    """Those values of a first run's recipe, as a body of ``POST /train`` calls them."""
    return {_name(field): getattr(RECIPE, field) for field in fields}


def build(service: TrainingService, registry: Registry, datasets: DatasetService, home: Home) -> APIRouter:
    """The paths; owners and refusals are those of ``/train``."""
    routes = APIRouter(prefix="/train", tags=["training"])

    @routes.get("/parameters", **described(TrainingParameters))
    def parameters(request: Request, base_model: str | None = None) -> TrainingParameters:
        """What a body of ``POST /train`` may set: ranges, and defaults that suit ``base_model``."""
        language = language_of(request.headers)
        base = registry.base(base_model) if base_model else None
        known = {name: field.default for name, field in wire.TrainRequest.model_fields.items()}
        if base is not None:
            known["max_length"] = min(1024, base.context_length)
            known |= in_words(SUITS) if base.name == SHIPPED else {}
        found = [_parameter(each, known, language) for each in limits.parameters() if _name(each.name) in known]
        return {"parameters": found, "total_count": len(found)}

    @routes.get("/datasets", **described(ReadableList))
    def readable(request: Request) -> ReadableList:
        """Names that ``dataset_path`` and its like take: kept datasets and their splits, uploads, the sample data."""
        found = [each for entry in datasets.everything(caller_of(request)) for each in _readable(entry)]
        found += [{"dataset_path": each.name, "kind": "sample", "examples": None} for each in _samples(home)]
        return {"datasets": found, "total_count": len(found)}

    @routes.get("/runs", **described(RunList))
    def listed(request: Request, limit: int = Query(100, ge=1, le=1000), state: State | None = None) -> RunList:
        """Runs, newest first, those of hosted providers among them."""
        language = language_of(request.headers)
        runs = service.list(state=state, limit=limit, caller=caller_of(request))
        return {"runs": [_listed(run, language, service.silent_s(run)) for run in runs], "total_count": len(runs)}

    @routes.get("/runs/{task_id}", **described(RunInFull))
    def one(request: Request, task_id: str) -> RunInFull:
        """All that is known of a run."""
        run, language = service.get(task_id, caller=caller_of(request)), language_of(request.headers)
        folder = home.runs / run.id
        done, held, report = run_folder.read_done(folder), accuracy.read(folder), read_report(folder)
        ended = run.state in (State.CANCELED, State.FAILED)
        return {
            **_listed(run, language, service.silent_s(run)),
            "stage": following.stage(folder) if run.state is State.RUNNING else None,
            "memory_bytes": following.memory_bytes(folder),
            "adapter": service.published(run),
            "resumable": ended and bool(run_folder.checkpoints(folder)),
            "data": report.line(language) if report else None,
            "validation_loss": done.validation_loss if done else None,
            "best_step": done.best_step if done else None,
            "control": {"before": done.control_before, "after": done.control_after} if done else None,
            "figures": dict(done.figures) if done else {},
            "took_seconds": held.seconds if held else None,
            "predicted_seconds": held.predicted.seconds if held else None,
            "request": request_of(run),
            "command": command_of(run.recipe),
        }

    @routes.get("/metrics/{task_id}", **described(RunCurves))
    def metrics(
        request: Request,
        task_id: str,
        after: int = Query(0, ge=0),
        limit: int = Query(_MOST_POINTS, ge=1, le=100_000),
    ) -> RunCurves:
        """The points of the curves after step ``after``, column by column; ``more`` says to ask again."""
        run = service.get(task_id, caller=caller_of(request))
        found = following.curves(home.runs / run.id, after, limit)
        return {
            "task_id": run.id,
            "status": run.state,
            "training": found.training,
            "validation": found.validation,
            "more": found.more,
        }

    @routes.get("/log/{task_id}", **described(RunLog))
    def log(request: Request, task_id: str, after: int | None = Query(None, ge=0)) -> RunLog:
        """The log from byte ``after``, without it the log's end; ``end`` is where the next piece begins."""
        run = service.get(task_id, caller=caller_of(request))
        piece = following.log(home.runs / run.id, after, _LOG_PIECE)
        return {
            "task_id": run.id,
            "status": run.state,
            "text": piece.text,
            "start": piece.start,
            "end": piece.end,
            "size": piece.size,
        }

    @routes.post("/resume/{task_id}", **described(TrainingResumed))
    def resume(request: Request, task_id: str) -> TrainingResumed:
        """Go on with a canceled or failed run from its last checkpoint, as a new run."""
        run = service.resume(task_id, caller=caller_of(request))
        return {"status": "success", "task_id": run.id, "message": "已从检查点继续训练", "resumed_from": task_id}

    return routes


def request_of(run: Run) -> dict[str, Setting]:
    """The body of ``POST /train`` that makes this run again, without a place for the adapter: that one is taken."""
    recipe = run.recipe
    known = wire.TrainRequest.model_fields
    body = {_name(field): getattr(recipe, field) for field in recipe.__dataclass_fields__ if _name(field) in known}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in body.items()}


def command_of(recipe: Recipe) -> str:
    """The command line that makes a run with this recipe; what is as usual for the command is left out."""
    usual = Recipe("", "")
    words = ["tunesmith", "train", recipe.dataset, "--base", recipe.base_model]
    for field in ("epochs", "batch_size", "learning_rate", "rank", "alpha", "dropout", "max_length"):
        words += [f"--{field.replace('_', '-')}", _number(getattr(recipe, field))]
    for field in ("warmup_ratio", "weight_decay", "seed"):  # the command has others for the shipped model
        if getattr(recipe, field) != getattr(usual, field) or recipe.base_model == SHIPPED:
            words += [f"--{field.replace('_', '-')}", _number(getattr(recipe, field))]
    for field in _OPTIONS:
        value = getattr(recipe, field)
        if value is not None and value != getattr(usual, field):
            words += [f"--{field.replace('_', '-')}", _number(value)]
    if recipe.target_modules:
        words += ["--target-modules", ",".join(recipe.target_modules)]
    if recipe.dataset_format:
        words += ["--format", recipe.dataset_format]
    flags = {"use_dora": "--dora", "use_rslora": "--rslora", "keep_best": "--keep-best", "skip_bad": "--skip-bad"}
    words += [flag for field, flag in flags.items() if getattr(recipe, field)]
    return shlex.join(words)


_OPTIONS = (
    "validation", "replay", "replay_share", "control", "objective", "dpo_beta", "gradient_accumulation", "scheduler",
    "evaluate_every", "early_stopping", "quantization",
)  # fmt: skip


def _listed(run: Run, language: str, seconds_silent: float | None) -> ListedRun:
    return {
        **run_answers.task(run, language, seconds_silent),
        "executor": run.executor,
        "owner": run.owner,
        "cancel_requested": run.cancel_requested,
        "objective": run.recipe.objective,
    }


def _readable(entry: Entry) -> list[ReadableData]:
    if not isinstance(entry, Dataset):
        return [{"dataset_path": entry.path, "kind": "upload", "examples": entry.samples}]
    splits: list[ReadableData] = [
        {"dataset_path": f"{entry.name}/{split}", "kind": "split", "examples": count}
        for split, count in entry.splits.items()
    ]
    return [{"dataset_path": entry.name, "kind": "dataset", "examples": entry.examples}, *splits]


def _samples(home: Home) -> list[SampleFile]:
    return [each for each in sample_files(home) if each.installed]


def _parameter(each: Parameter, defaults: dict[str, Any], language: str) -> TrainingParameter:
    name = _name(each.name)
    default = defaults[name]
    return {
        "name": name,
        "kind": each.kind,
        "default": list(default) if isinstance(default, tuple) else default,
        "minimum": each.minimum,
        "maximum": each.maximum,
        "choices": list(each.choices),
        "description": each.description_zh if language == "zh" and each.description_zh else each.description,
    }


def _name(field: str) -> str:
    return _NAMES.get(field, field)


def _number(value: object) -> str:
    """As short as says the same: 32 for 32.0."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)
