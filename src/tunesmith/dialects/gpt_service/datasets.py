"""``/datasets`` and below, an addition to the document: what there is to train on, looked at, checked and split."""

import asyncio
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response
from typing_extensions import TypedDict

from tunesmith.datasets.dataset import Dataset
from tunesmith.datasets.example import Example
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.preferences import Preference
from tunesmith.datasets.samples import sample_files
from tunesmith.datasets.service import DatasetService
from tunesmith.datasets.upload import Entry, Upload
from tunesmith.datasets.uploads import UploadService
from tunesmith.datasets.window import Row, rows_in, window
from tunesmith.dialects.gpt_service import dataset_answers as answers
from tunesmith.dialects.gpt_service.wire import Body, Number
from tunesmith.http.described import described
from tunesmith.http.door import caller_of
from tunesmith.http.sse import unless_left
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid, NotFound
from tunesmith.training.data.examiner import Examiner, parts_of

Text = Annotated[str, Query(min_length=1, max_length=1025)]
_SAMPLE = "sample_"  # what ids of the sample data begin with
_ROLES = ("train", "validation", "test", "control", "general")


class SplitRequest(Body):
    """Shares sum to 1; a share of 0 asks for no such split."""

    train: Number = 0.8
    validation: Number = 0.1
    test: Number = 0.1
    seed: int = 42

    def ratios(self) -> dict[str, float]:
        return {"train": self.train, "validation": self.validation, "test": self.test}


class ProcessRequest(SplitRequest):
    """``name``: what the split dataset will be called."""

    name: str
    template: str | None = None
    description: Annotated[str, Field(max_length=4000)] = ""


def build(datasets: DatasetService, uploads: UploadService, examiner: Examiner, home: Home) -> APIRouter:
    """The routes; ``{dataset_id}`` is an id or a name."""
    routes = APIRouter(prefix="/datasets", tags=["datasets"])
    shelf = _Shelf(datasets, uploads, home)

    @routes.get("", **described(answers.DatasetList))
    def every_dataset(request: Request) -> answers.DatasetList:
        """Kept datasets and uploaded files, the newest first, then the sample data."""
        found = shelf.everything(caller_of(request))
        return {"datasets": found, "total_count": len(found)}

    @routes.get("/{dataset_id}", **described(answers.DatasetShown))
    def one_dataset(request: Request, dataset_id: str) -> answers.DatasetShown:
        """One of them; ``shape`` is told of uploaded files, too, null where nobody can tell it."""
        shown = shelf.one(dataset_id, caller_of(request))
        if shown["shape"] is None:
            with suppress(Invalid):  # ``rows`` and ``check`` say what is wrong with it
                shown["shape"] = window(home, shown["dataset_path"], 0, 0).shape
        return shown

    @routes.get("/{dataset_id}/rows", **described(answers.DatasetRows))
    def rows(
        request: Request, dataset_id: str, part: str = "all", offset: int = 0, limit: int = 100
    ) -> answers.DatasetRows:
        """Some rows as conversations: ``messages``, or ``chosen`` and ``rejected``, or ``problem``."""
        name, total = shelf.part(dataset_id, part, caller_of(request))
        found = window(home, name, offset, limit)
        return {
            "shape": found.shape,
            "offset": offset,
            "total_count": total,
            "rows": [_row(each) for each in found.rows],
        }

    @routes.get("/{dataset_id}/check", **described(answers.DataReport))
    async def check(
        request: Request, dataset_id: str, base_model: Text = "tunesmith-small", max_length: int | None = None
    ) -> Response:
        """What ``tunesmith datasets check --json`` says."""

        async def whole() -> Response:
            parts = await asyncio.to_thread(shelf.parts, dataset_id, caller_of(request))
            return JSONResponse(await examiner.check(parts, base_model, max_length))

        return await unless_left(request, whole())

    @routes.get("/{dataset_id}/mask", **described(answers.MaskPreview))
    async def mask(
        request: Request,
        dataset_id: str,
        base_model: Text = "tunesmith-small",
        max_length: int | None = None,
        part: str = "all",
        offset: int = 0,
        limit: int = 10,
    ) -> Response:
        """Rows as the base model's chat template renders them, in pieces: ``learned`` or not, ``cut`` off or not."""

        async def whole() -> Response:
            name, _ = await asyncio.to_thread(shelf.part, dataset_id, part, caller_of(request))
            return JSONResponse(await examiner.mask(name, base_model, max_length, offset, limit))

        return await unless_left(request, whole())

    @routes.post("/{dataset_id}/split", **described(answers.DatasetSplit))
    def split(request: Request, dataset_id: str, body: SplitRequest) -> answers.DatasetSplit:
        """Divide a kept dataset, in place of an earlier split."""
        caller = caller_of(request)
        found = datasets.find(dataset_id, caller)
        return {
            "status": "success",
            "dataset": _shown(datasets.split(found.name, body.ratios(), seed=body.seed, caller=caller)),
        }

    @routes.post("/{dataset_id}/process", **described(answers.DatasetProcessed))
    async def process(request: Request, dataset_id: str, body: ProcessRequest) -> Response:
        """Make a split dataset of an uploaded file or of another dataset; the answer comes when it is kept."""

        async def whole() -> Response:
            made = await datasets.process(
                dataset_id, body.name, body.ratios(), template=body.template, seed=body.seed,
                description=body.description, caller=caller_of(request),
            )  # fmt: skip
            told: answers.DatasetProcessed = {
                "status": "success",
                "dataset": _shown(made.dataset),
                "duplicates": made.duplicates,
                "leaks": made.leaks,
            }
            return JSONResponse(told)

        return await unless_left(request, whole())

    @routes.delete("/{dataset_id}", **described(answers.DatasetRemoved))
    def remove(request: Request, dataset_id: str) -> answers.DatasetRemoved:
        """Delete it with its files; what was trained on it stays."""
        caller = caller_of(request)
        found = datasets.find(dataset_id, caller)
        if isinstance(found, Upload):
            uploads.remove(found.id, caller)
        else:
            datasets.remove(found.name, caller)
        return {"status": "success", "id": found.id, "name": found.name}

    return routes


class _Shelf:
    """Finds what there is by id or name: datasets and uploads of the caller, and the sample data, which is everybody's."""

    def __init__(self, datasets: DatasetService, uploads: UploadService, home: Home) -> None:
        self._datasets, self._uploads, self._home = datasets, uploads, home

    def everything(self, caller: Caller) -> list[answers.DatasetShown]:
        found = [_shown(each) for each in self._datasets.everything(caller)]
        return found + list(self._samples().values())

    def one(self, dataset_id: str, caller: Caller) -> answers.DatasetShown:
        sample = self._samples().get(dataset_id) if dataset_id.startswith(_SAMPLE) else None
        return sample or _shown(self._datasets.find(dataset_id, caller))

    def part(self, dataset_id: str, part: str, caller: Caller) -> tuple[str, int]:
        """The name that reads a part of it, and how many rows that has.

        Raises:
            NotFound: there is no such dataset, or no such part of it.
        """
        sample = self._samples().get(dataset_id) if dataset_id.startswith(_SAMPLE) else None
        found = None if sample else self._datasets.find(dataset_id, caller)
        if isinstance(found, Dataset):
            rows = rows_in(found, part)
            if rows is not None:
                return f"{found.name}/{part or 'all'}", rows
        elif part in ("", "all"):
            return (found.path, found.samples) if found else (sample["dataset_path"], sample["examples"])  # type: ignore[index]
        shown = ascii(part)[:60]
        raise NotFound(f"没有划分 {shown}", f"there is no part {shown}", field="part")

    def parts(self, dataset_id: str, caller: Caller) -> tuple[tuple[str, str], ...]:
        """What is to be looked over, with the role of each."""
        sample = self._samples().get(dataset_id) if dataset_id.startswith(_SAMPLE) else None
        found = None if sample else self._datasets.find(dataset_id, caller)
        if isinstance(found, Dataset):
            return parts_of(found)
        return ((found.path if found else sample["dataset_path"], "train"),)  # type: ignore[index]

    def _samples(self) -> dict[str, answers.DatasetShown]:
        """Those that were put in place, by id."""
        found: dict[str, answers.DatasetShown] = {}
        for each in sorted(sample_files(self._home), key=lambda each: _ROLES.index(each.role)):
            if each.installed:
                text = (self._home.root / each.name).read_bytes()
                id = f"{_SAMPLE}{each.role}"
                found[id] = {
                    "id": id,
                    "kind": "sample",
                    "name": PurePosixPath(each.name).name,
                    "dataset_path": each.name,
                    "format": "jsonl",
                    "shape": "openai",
                    "examples": text.count(b"\n"),
                    "skipped": 0,
                    "splits": {},
                    "size_bytes": len(text),
                    "description": "",
                    "created_at": None,
                }
        return found


def _shown(entry: Entry) -> answers.DatasetShown:
    common: _Common = {
        "id": entry.id,
        "name": entry.name,
        "size_bytes": entry.size_bytes,
        "description": entry.description,
        "created_at": entry.created_at.isoformat(),
    }
    if isinstance(entry, Upload):
        return {
            **common,
            "kind": "upload",
            "dataset_path": entry.path,
            "format": entry.format,
            "shape": None,
            "examples": entry.samples,
            "skipped": 0,
            "splits": {},
        }
    return {
        **common,
        "kind": "dataset",
        "dataset_path": entry.name,
        "format": "jsonl",
        "shape": entry.shape,
        "examples": entry.examples,
        "skipped": entry.skipped,
        "splits": dict(entry.splits),
    }


class _Common(TypedDict):
    """What is told of datasets and uploads alike."""

    id: str
    name: str
    size_bytes: int
    description: str
    created_at: str


def _row(row: Row) -> answers.DatasetRow:
    if isinstance(row, BadRow):
        return {"line": row.source.line, "problem": {"field": row.field, "zh": row.zh, "en": row.en}}
    if isinstance(row, Preference):
        return {"line": row.source.line, "chosen": _messages(row.chosen), "rejected": _messages(row.rejected)}
    return {"line": row.source.line, "messages": _messages(row)}


def _messages(example: Example) -> list[answers.RowTurn]:
    return [{"role": message.role, "content": message.content} for message in example.messages]
