"""``/train`` and below: start, watch, cancel."""

import asyncio
import re
import uuid
from pathlib import PurePosixPath
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Request
from pydantic import ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from tunesmith.datasets.service import DatasetService
from tunesmith.dialects.platform_v1.catalog import Catalog
from tunesmith.dialects.platform_v1.openapi import BASE, KEY, NAME, PLACE, example, failures, links, ranged, written
from tunesmith.dialects.platform_v1.wire import (
    WHOLE,
    Answer,
    Body,
    Filled,
    Number,
    Time,
    name_under_home,
    say,
    time,
)
from tunesmith.http.door import caller_of
from tunesmith.http.errors import language_of
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.problems import Invalid, NotFound, Problem, Unavailable
from tunesmith.models.model import BaseModel
from tunesmith.training.run import Recipe, Run, State
from tunesmith.training.service import TrainingService

OUTPUT = "./models/checkpoints"  # the document's default
_STOPPED_WITHIN_S = 20.0
_ID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)


_STARTED = links(training_status=("task_id", "task_id"), cancel_training=("task_id", "task_id"))
# checked by the service
Key = Annotated[Annotated[str, written(KEY, 255)] | None, Header(alias="Idempotency-Key")]


class _Strict(Body):
    """Unknown fields are refused: a mistyped one would cost hours of training with a default."""

    model_config = ConfigDict(strict=True, protected_namespaces=(), extra="forbid")


class Config(_Strict):
    learning_rate: Annotated[Number, ranged("learning_rate", but="low")] = 3e-5
    batch_size: Annotated[int, ranged("batch_size"), WHOLE] = 8
    num_epochs: Annotated[int, ranged("epochs"), WHOLE] = 3
    output_dir: Annotated[
        Annotated[Filled, written(PLACE, 1000)] | None,
        Field(description=f"默认为 {OUTPUT} 下的新文件夹 / by default a new folder in {OUTPUT}"),
    ] = None
    quantization: Literal["int8", "int4"] | None = None
    max_length: Annotated[int, ranged("max_length"), WHOLE] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63), WHOLE] = 42


class LoraConfig(_Strict):
    r: Annotated[int, ranged("rank"), WHOLE] = 8
    lora_alpha: Annotated[Number, ranged("alpha", but="low")] = 16.0
    lora_dropout: Annotated[Number, ranged("dropout", but="high")] = 0.05


class TrainRequest(_Strict):
    """A recipe. ``base_model``, ``config.max_length`` and ``config.seed`` are additions to the document."""

    model_config = example(
        {
            "dataset_path": "/data/processed/sample",
            "config": {
                "learning_rate": 3e-5,
                "batch_size": 16,
                "num_epochs": 3,
                "output_dir": "./models/my_model",
            },
            "lora_config": {"r": 16, "lora_alpha": 32},
        }
    )

    dataset_path: Annotated[Filled, written(NAME, 1024)]
    base_model: Annotated[Filled, written(BASE, 1000)] | None = None
    config: Config | None = None
    lora_config: LoraConfig | None = None

    def recipe(self, base: BaseModel, validation: str | None) -> Recipe:
        """The recipe for ``base``; the length nobody named is what fits it, 1024 at most."""
        config, lora = self.config or Config(), self.lora_config or LoraConfig()
        return Recipe(
            base_model=base.name,
            dataset=name_under_home(self.dataset_path),
            validation=validation,
            epochs=config.num_epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            rank=lora.r,
            alpha=lora.lora_alpha,
            dropout=lora.lora_dropout,
            quantization=config.quantization,
            seed=config.seed,
            max_length=min(1024, base.context_length) if config.max_length is None else config.max_length,
        )


class Started(Answer):
    task_id: str
    status: Literal["started"] = "started"
    message: str
    created_at: Time


class Status(Answer):
    """``progress`` in percent; ``error`` says why a run failed; ``seconds_silent`` for how long its trainer has shown no
    sign of life, where that is unusual."""

    task_id: str
    status: Literal["queued", "running", "completed", "failed", "canceled"]
    progress: float
    metrics: dict[str, float | None]
    created_at: Time
    started_at: Time | None
    updated_at: Time
    seconds_silent: float | None
    completed_at: Time | None
    model_path: str | None
    error: str | None


class Canceled(Answer):
    task_id: str
    status: Literal["canceled"] = "canceled"
    message: str
    canceled_at: Time


def routes(service: TrainingService, datasets: DatasetService, catalog: Catalog) -> APIRouter:
    """The three paths."""
    router = APIRouter(prefix="/train", tags=["training"])

    @router.post("", response_model=Started, responses={**_STARTED, **failures(403, 404, 409, 503)})
    def start_training(request: Request, body: TrainRequest, idempotency_key: Key = None) -> Started:
        """Record a LoRA run and answer at once; it starts when the machine is free.

        With ``Idempotency-Key`` a repeated request gives the run that the first one made.
        """
        caller = caller_of(request)

        def recipe() -> Recipe:
            name = name_under_home(body.dataset_path)
            return body.recipe(catalog.base_for(body.base_model), _validation(datasets, name, caller))

        try:
            run = service.start(
                recipe,
                output=_output(body.config.output_dir if body.config else None),
                caller=caller,
                idempotency_key=idempotency_key,
                asked=body.model_dump(),
            )
        except Invalid as problem:
            raise _as_written(problem) from None
        return Started(
            task_id=_shown(run),
            message=say(request, "训练任务已启动", "training started"),
            created_at=time(run.created_at),
        )

    @router.get("/status/{task_id}", response_model=Status, responses=failures(404))
    def training_status(request: Request, task_id: str) -> Status:
        """Where a run stands."""
        run = service.get(_id(task_id), caller=caller_of(request))
        return _status(run, language_of(request.headers), service.silent_s(run), service.published(run))

    @router.post("/cancel/{task_id}", response_model=Canceled, responses=failures(403, 404, 409, 503))
    async def cancel_training(request: Request, task_id: str) -> Canceled:
        """Stop a run and answer once it has stopped; canceling twice is fine."""
        run = await _stopped(service, _id(task_id), caller_of(request))
        return Canceled(
            task_id=_shown(run),
            message=say(request, "训练任务已取消", "training canceled"),
            canceled_at=time(run.ended_at or run.created_at),
        )

    return router


def _as_written(problem: Invalid) -> Invalid:
    """``problem`` with the one name that means something else in other bodies: elsewhere it is ``wire`` that renames."""
    if problem.details.get("field") != "max_length":
        return problem
    zh, en = (text.replace("max_length", "config.max_length", 1) for text in (problem.zh, problem.en))
    return Invalid(zh, en, **{**problem.details, "field": "config.max_length"})


def _output(named: str | None) -> str:
    """Where the adapter is published; the document's default, said or unsaid, gives every run a folder of its own."""
    name = name_under_home(named or OUTPUT)
    own = PurePosixPath(name) == PurePosixPath(OUTPUT)
    return f"{name}/{'{dataset}/' if own else ''}final"


async def _stopped(service: TrainingService, run_id: str, caller: Caller) -> Run:
    run = await run_in_threadpool(service.cancel, run_id, caller=caller)
    end = asyncio.get_running_loop().time() + _STOPPED_WITHIN_S
    while not run.state.final:
        if asyncio.get_running_loop().time() > end:
            raise Unavailable(
                "已请求取消，训练进程尚未停止；请稍后查询状态",
                "canceling was asked for, but the trainer has not stopped yet; ask for the status later",
                retry_after=5,
            )
        await asyncio.sleep(0.1)
        run = await run_in_threadpool(service.get, run_id, caller=caller)
    # it may have completed before the trainer heard of it: that is the Conflict of any ended run
    return run if run.state is State.CANCELED else await run_in_threadpool(service.cancel, run_id, caller=caller)


def _validation(datasets: DatasetService, name: str, caller: Caller) -> str | None:
    """The validation split of a kept dataset, when it has one; scored during training."""
    stem = name.removeprefix("./").removeprefix("data/processed/").rstrip("/")
    try:
        kept = datasets.get(stem, caller=caller)
    except Problem:
        return None  # no kept dataset, but perhaps a file; who may not see it is told by the check of the recipe
    return f"{kept.name}/validation" if kept.splits.get("validation") else None


def _status(run: Run, language: str, seconds_silent: float | None, published: str | None) -> Status:
    progress = run.progress
    values = {"train_loss": progress.loss, "learning_rate": progress.learning_rate, "epoch": progress.epoch}
    done = run.state is State.COMPLETED
    return Status(
        task_id=_shown(run),
        status=run.state.value,
        progress=100.0 if done else round(progress.fraction * 100, 1),
        metrics=values if progress.step else {},
        created_at=time(run.created_at),
        started_at=time(run.started_at) if run.started_at else None,
        updated_at=time(run.updated_at or run.created_at),
        seconds_silent=seconds_silent,
        completed_at=time(run.ended_at) if run.ended_at else None,
        model_path=published,
        error=run.reason(language),
    )


def _shown(run: Run) -> str:
    return str(uuid.UUID(run.id))


def _id(text: str) -> str:
    if not _ID.fullmatch(text):
        raise NotFound("任务不存在", "there is no such run")
    return uuid.UUID(text).hex
