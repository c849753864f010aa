"""``/projects/{project_id}/tasks/{task_id}/runs``: the examples of a task, and files of them; an addition to the document."""

import asyncio
import json
import tempfile
from collections.abc import Mapping
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from tunesmith.datasets.uploads import UploadService
from tunesmith.dialects.finetune.datasets import last_part
from tunesmith.dialects.finetune.openapi import example, failures, form
from tunesmith.dialects.finetune.wire import Answer, Body, Deleted, Number, Time, time
from tunesmith.http.door import caller_of
from tunesmith.http.uploads import read_form
from tunesmith.kernel.files import require_free
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid
from tunesmith.projects.project import TaskRun
from tunesmith.projects.service import ProjectService

Text = Annotated[str, Field(max_length=8 << 20)]
_ROOM_LEFT = 64 << 20  # bytes a file leaves on the disk for everybody else
_LOOK_EVERY = 16 << 20
Messages = Annotated[list[dict[str, Any]], Field(max_length=10_000)]


class RunFields(Body):
    """An example; ``repaired`` is the answer that replaced ``output``."""

    input: Text | None = None
    output: Text | None = None
    repaired: Text | None = None
    repair_instructions: Text | None = None
    reasoning: Text | None = None
    chain_of_thought: Text | None = None
    rating: Number | None = None
    rating_type: Literal["five_star", "pass_fail", "pass_fail_critical"] | None = None
    tags: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=1000)] | None = None
    parent_id: Annotated[str, Field(max_length=64)] | None = None
    trace: Messages | None = None
    tools: Messages | None = None

    def fields(self) -> dict[str, Any]:
        """What was given, by the service's names."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class RunRequest(RunFields):
    model_config = example({"input": "我的订单还没发货", "output": "抱歉，请提供订单号。", "reasoning": "先道歉"})

    input: Text
    output: Text


class RunShown(Answer):
    """``final`` is the answer that counts, ``thinking`` what was thought before it."""

    v: int = 1
    model_type: Literal["task_run"] = "task_run"
    id: str
    task_id: str
    input: str
    output: str
    repaired: str | None
    repair_instructions: str | None
    final: str
    reasoning: str | None
    chain_of_thought: str | None
    thinking: str | None
    rating: float | None
    rating_type: str | None
    tags: list[str]
    parent_id: str | None
    trace: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    created_at: Time


class RunAnswer(Answer):
    run: RunShown


class RunList(Answer):
    runs: list[RunShown]


class Imported(Answer):
    """Kiln's four fields; all rows of the file are taken, or none."""

    success: Literal[True] = True
    filename: str
    imported_count: int
    imported_conversation_count: int | None


def routes(service: ProjectService, uploads: UploadService, home: Home, max_upload_bytes: int) -> APIRouter:
    """The paths."""
    router = APIRouter(tags=["examples"])
    _list(router, service)
    _one(router, service)

    @router.post(f"{_RUNS}/bulk_upload", response_model=Imported, responses=failures(404, 503), openapi_extra=_FORM)
    async def import_runs(request: Request, project_id: str, task_id: str) -> Imported:
        """Every row of a CSV or JSONL file as an example."""
        caller = caller_of(request)
        await run_in_threadpool(service.task, project_id, task_id, caller)
        place = uploads.place(caller)  # before a byte of the body is read: who sends slowly holds it long
        spool: _Spool | None = None
        try:
            spool = await asyncio.to_thread(_Spool, home, max_upload_bytes)
            sent = await read_form(request, lambda _: spool)
            splits = _splits(sent.fields)
            name = last_part(sent.filename)
            await asyncio.to_thread(spool.file.seek, 0)
            done = await asyncio.to_thread(
                service.import_file, project_id, task_id, spool.file, name, caller, splits=splits
            )
        finally:
            place.leave()
            if spool is not None:
                await asyncio.shield(asyncio.to_thread(spool.file.close))
        return Imported(
            filename=name,
            imported_count=done.runs,
            imported_conversation_count=done.conversations,
        )

    return router


def _list(router: APIRouter, service: ProjectService) -> None:
    @router.get(_RUNS, response_model=RunList, responses=failures(404))
    def list_runs(
        request: Request,
        project_id: str,
        task_id: str,
        filter_id: Annotated[str, Query(min_length=1, max_length=4096)] = "all",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        offset: Annotated[int, Query(ge=0, le=1 << 40)] = 0,
    ) -> RunList:
        """The examples of a task that pass a filter."""
        found = service.runs(project_id, task_id, caller_of(request), filter=filter_id, limit=limit, offset=offset)
        return RunList(runs=[_run(each) for each in found])

    @router.post(_RUNS, response_model=RunAnswer, responses=failures(404))
    def add_run(request: Request, project_id: str, task_id: str, body: RunRequest) -> RunAnswer:
        """A new example."""
        return RunAnswer(run=_run(service.add_run(project_id, task_id, body.fields(), caller_of(request))))


def _one(router: APIRouter, service: ProjectService) -> None:
    @router.get(_RUN, response_model=RunAnswer, responses=failures(404))
    def get_run(request: Request, project_id: str, task_id: str, run_id: str) -> RunAnswer:
        """One example."""
        return RunAnswer(run=_run(service.run(project_id, task_id, run_id, caller_of(request))))

    @router.patch(_RUN, response_model=RunAnswer, responses=failures(404))
    def edit_run(request: Request, project_id: str, task_id: str, run_id: str, body: RunFields) -> RunAnswer:
        """What is given changes, what is left out stays."""
        found = service.edit_run(project_id, task_id, run_id, body.fields(), caller_of(request))
        return RunAnswer(run=_run(found))

    @router.delete(_RUN, response_model=Deleted, responses=failures(404, 409))
    def delete_run(request: Request, project_id: str, task_id: str, run_id: str) -> Deleted:
        """Forget an example; a split that names it can no longer be exported."""
        service.delete_run(project_id, task_id, run_id, caller_of(request))
        return Deleted(id=run_id)


_RUNS = "/projects/{project_id}/tasks/{task_id}/runs"
_RUN = f"{_RUNS}/{{run_id}}"
_FORM = form(
    {"splits": {"type": "string", "description": "JSON: how large a share of the rows gets which tag"}},
    {"file": "input,output\n订单在哪？,请提供订单号。\n", "splits": '{"fine_tune_train": 0.8, "fine_tune_val": 0.2}'},
)


class _Spool:
    """A file without a name, on the disk that has room for it."""

    def __init__(self, home: Home, limit: int) -> None:
        self._folder, self._limit, self._came, self._look_at = home.uploads, limit, 0, 0
        self.file: BinaryIO = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - the route closes it

    def write(self, data: bytes) -> None:
        self._came += len(data)
        if self._came > self._limit:
            shown = f"{self._limit / (1 << 20):.0f} MB"
            raise Invalid(f"文件超过上限 {shown}", f"the file is over the limit of {shown}", field="file")
        if self._came >= self._look_at:
            self._look_at = self._came + _LOOK_EVERY
            require_free(self._folder, _ROOM_LEFT)
        self.file.write(data)


def _splits(fields: Mapping[str, str]) -> dict[str, float] | None:
    """The shares that the form's ``splits`` says; whether they are sound the service checks."""
    unknown = next((name for name in fields if name != "splits"), None)
    if unknown is not None:
        raise Invalid(f"未知字段 {unknown}", f"the field {unknown} is unknown", field=unknown, reason="unknown")
    if not fields.get("splits", "").strip():
        return None
    try:
        found = json.loads(fields["splits"])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(type(share) in (int, float) for share in found.values()):
        raise Invalid(
            'splits 应为 JSON 对象，如 {"train": 0.8, "val": 0.2}',
            'splits must be a JSON object such as {"train": 0.8, "val": 0.2}',
            field="splits",
            reason="type",
        )
    return {str(tag): float(min(share, 10)) for tag, share in found.items()}


def _run(found: TaskRun) -> RunShown:
    return RunShown(
        id=found.id,
        task_id=found.task_id,
        input=found.input,
        output=found.output,
        repaired=found.repaired,
        repair_instructions=found.repair_instructions,
        final=found.final,
        reasoning=found.reasoning,
        chain_of_thought=found.chain_of_thought,
        thinking=found.thinking,
        rating=found.rating,
        rating_type=found.rating_type,
        tags=list(found.tags),
        parent_id=found.parent_id,
        trace=[dict(each) for each in found.trace],
        tools=[dict(each) for each in found.tools],
        created_at=time(found.created_at),
    )
