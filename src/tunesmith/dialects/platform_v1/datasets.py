"""``/datasets`` and below: list, upload, process."""

import asyncio
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from tunesmith.datasets.children import OnProgress
from tunesmith.datasets.service import DatasetService
from tunesmith.datasets.upload import Entry, Upload
from tunesmith.datasets.uploads import Incoming, UploadService
from tunesmith.dialects.platform_v1.openapi import DATASET, LINES, STREAM, TEMPLATE, TITLE, example, failures, written
from tunesmith.dialects.platform_v1.progress import answered
from tunesmith.dialects.platform_v1.wire import WHOLE, Answer, Body, Filled, Number, Time, megabytes, now, say, time
from tunesmith.http.door import caller_of
from tunesmith.http.uploads import Sink, read_form
from tunesmith.kernel.problems import Invalid


class ListedDataset(Answer):
    """``samples_count`` is counted, not guessed."""

    id: str
    name: str
    path: str
    created_at: Time
    size_mb: float
    samples_count: int
    description: str


class DatasetList(Answer):
    datasets: list[ListedDataset]
    count: int
    timestamp: Time


class Uploaded(Answer):
    id: str
    name: str
    path: str
    uploaded_at: Time
    size_mb: float
    samples_count: int
    description: str
    message: str


class ProcessRequest(Body):
    """``seed`` is an addition to the document: one seed always divides alike."""

    model_config = example(
        {
            "dataset_id": "dataset_3",
            "output_name": "finance_processed",
            "train_ratio": 0.8,
            "val_ratio": 0.1,
            "test_ratio": 0.1,
            "template": "### 指令:\n{instruction}\n\n### 回答:\n{response}",
        }
    )

    dataset_id: Annotated[str, Field(min_length=1, max_length=128)]
    output_name: Annotated[Filled, written(DATASET, 64)]
    train_ratio: Annotated[Number, Field(ge=0, le=1)] = 0.8
    val_ratio: Annotated[Number, Field(ge=0, le=1)] = 0.1
    test_ratio: Annotated[Number, Field(ge=0, le=1)] = 0.1
    template: Annotated[str, Field(max_length=20_000), written(TEMPLATE)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63), WHOLE] = 42

    def ratios(self) -> dict[str, float]:
        return {"train": self.train_ratio, "validation": self.val_ratio, "test": self.test_ratio}


class Processed(Answer):
    """``duplicates``: examples that stand there more than once; ``leaks``: prompts found in two splits."""

    task_id: str
    status: Literal["completed"] = "completed"
    dataset_id: str
    output_path: str
    splits: dict[str, int]
    duplicates: int
    leaks: int
    message: str
    processed_at: Time


def routes(service: DatasetService, uploads: UploadService) -> APIRouter:
    """The three paths."""
    router = APIRouter(prefix="/datasets", tags=["datasets"])

    @router.get("", response_model=DatasetList, responses=failures())
    def list_datasets(request: Request) -> DatasetList:
        """Uploads and processed datasets, the newest first."""
        found = [_listed(each) for each in service.everything(caller_of(request))]
        return DatasetList(datasets=found, count=len(found), timestamp=now())

    @router.post(
        "/upload", response_model=Uploaded, responses={**STREAM, **failures(403, 409, 503)}, openapi_extra=_FORM
    )
    async def upload_dataset(request: Request) -> Uploaded | Response:
        """Keep a file as it came, every row of it read and counted."""
        incoming = await _received(request, uploads)

        async def finish(on_progress: OnProgress | None) -> Uploaded:
            kept = await incoming.finish(on_progress)
            return Uploaded(
                id=kept.id,
                name=kept.name,
                path=kept.path,
                uploaded_at=time(kept.created_at),
                size_mb=megabytes(kept.size_bytes),
                samples_count=kept.samples,
                description=kept.description,
                message=say(request, "数据集上传成功", "dataset uploaded"),
            )

        return await answered(request, finish)

    @router.post("/process", response_model=Processed, responses={**STREAM, **failures(403, 404, 409, 503)})
    async def process_dataset(request: Request, body: ProcessRequest) -> Processed | Response:
        """Turn a dataset into conversations, split them, and keep them as JSON Lines and Parquet."""
        caller = caller_of(request)

        async def work(on_progress: OnProgress | None) -> Processed:
            done = await service.process(
                body.dataset_id,
                body.output_name,
                body.ratios(),
                template=body.template,
                seed=body.seed,
                caller=caller,
                on_progress=on_progress,
            )
            return Processed(
                task_id=str(uuid.uuid4()),
                dataset_id=body.dataset_id,
                output_path=done.dataset.path,
                splits={name: done.splits.get(name, 0) for name in body.ratios()},
                duplicates=done.duplicates,
                leaks=done.leaks,
                message=say(request, "数据集处理完成", "dataset processed"),
                processed_at=time(done.dataset.created_at),
            )

        return await answered(request, work)

    return router


async def _received(request: Request, uploads: UploadService) -> Incoming:
    """The upload, whole on disk, its fields as the form says; nothing of it is checked yet."""
    caller, begun = caller_of(request), list[Incoming]()
    place = uploads.place(caller)  # before a byte of the body is read: who sends slowly holds it long

    def open_sink(filename: str) -> Sink:
        begun.append(uploads.begin(filename, caller=caller, place=place))
        return begun[0]

    try:
        form = await read_form(request, open_sink)
        incoming, fields = begun[0], dict(form.fields)
        if "name" not in fields:
            raise Invalid("缺少字段 name", "the field name is missing", field="name", reason="required")
        incoming.name = fields.pop("name")
        incoming.description = fields.pop("description", "")
        incoming.format = fields.pop("format", "json")
        if fields:
            unknown = next(iter(fields))
            raise Invalid(f"未知字段 {unknown}", f"the field {unknown} is unknown", field=unknown, reason="unknown")
    except BaseException:  # the client leaving is one
        place.leave()
        for each in begun:
            await asyncio.shield(asyncio.to_thread(each.abort))
        raise
    return incoming


def _listed(entry: Entry) -> ListedDataset:
    return ListedDataset(
        id=entry.id,
        name=entry.name,
        path=entry.path,
        created_at=time(entry.created_at),
        size_mb=megabytes(entry.size_bytes),
        samples_count=entry.samples if isinstance(entry, Upload) else entry.examples,
        description=entry.description,
    )


# read by http/uploads.py and not by the framework, so described by hand
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "name"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "name": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": TITLE},
                        "description": {"type": "string", "maxLength": 4000, "pattern": LINES},
                        "format": {"type": "string", "enum": ["json", "csv"], "default": "json"},
                    },
                },
                "example": {
                    "file": '[{"instruction": "什么是复利？", "input": "", "output": "利息再生利息。"}]',
                    "name": "金融领域数据集",
                    "description": "金融领域专业问答数据集",
                    "format": "json",
                },
            }
        },
    }
}
