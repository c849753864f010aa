"""``/upload-dataset``, ``/format-dataset`` and ``/download-dataset``: files of examples in, files of examples out."""

import asyncio
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from tunesmith.datasets.export.service import Export, ExportService
from tunesmith.datasets.upload import FORMATS
from tunesmith.datasets.uploads import Incoming, UploadService
from tunesmith.dialects.finetune.downloads import Described, wanted
from tunesmith.dialects.finetune.openapi import example, failures, form
from tunesmith.dialects.finetune.turns import Turns, Watched
from tunesmith.dialects.finetune.wire import SAID, Answer, Body, below_home
from tunesmith.http.door import caller_of
from tunesmith.http.uploads import Sink, read_form
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.problems import Invalid

_LONGEST_NAME = 100
Path = Annotated[str, Field(min_length=1, max_length=1025)]
Word = Annotated[str, Field(min_length=1, max_length=128)]
Prompt = Annotated[Annotated[str, Field(max_length=200_000)] | None, SAID]


class Uploaded(Answer):
    """``path`` is what ``dataset_path`` means elsewhere; ``id``, ``size_bytes`` and ``samples_count`` are additions."""

    filename: str
    path: str
    id: str
    size_bytes: int
    samples_count: int


class FormatRequest(Body):
    """What to write of a dataset."""

    model_config = example(
        {
            "dataset_path": "data/raw/train.jsonl",
            "split_name": "train",
            "format_type": "openai_chat_jsonl",
            "data_strategy": "final_only",
            "system_message": "You are a helpful assistant.",
        }
    )

    dataset_path: Path
    split_name: Word = "train"
    format_type: Word
    data_strategy: Word
    system_message: Prompt = None
    thinking_instructions: Prompt = None


class Formatted(Answer):
    output_path: str


def routes(exports: ExportService, uploads: UploadService, turns: Turns) -> APIRouter:
    """The three paths."""
    router = APIRouter(tags=["datasets"])

    @router.post("/upload-dataset", response_model=Uploaded, responses=failures(409, 503), openapi_extra=_FORM)
    async def upload_dataset(request: Request) -> Uploaded:
        """Keep a file as it came, every row of it read and counted."""
        incoming = await received(request, uploads)
        kept = await incoming.finish()
        return Uploaded(
            filename=last_part(incoming.filename),
            path=kept.path,
            id=kept.id,
            size_bytes=kept.size_bytes,
            samples_count=kept.samples,
        )

    @router.post("/format-dataset", response_model=Formatted, responses=failures(403, 404, 503))
    async def format_dataset(request: Request, body: FormatRequest) -> Formatted:
        """Write a split in a format of training and keep the file under home, whole or not at all."""
        asked = wanted(body.format_type, body.data_strategy, body.system_message, body.thinking_instructions)
        caller = caller_of(request)

        def written() -> str:
            with below_home(body.dataset_path) as name:
                return exports.write(name, body.split_name, asked, caller)

        return Formatted(output_path=await turns.run(written))

    @router.get("/download-dataset", response_class=Described, responses=failures(403, 404, 503))
    async def download_dataset(
        request: Request,
        dataset_path: Annotated[str, Query(min_length=1, max_length=1025)],
        format_type: Annotated[str, Query(min_length=1, max_length=128)],
        data_strategy: Annotated[str, Query(min_length=1, max_length=128)],
        split_name: Annotated[str, Query(min_length=1, max_length=128)] = "train",
        system_message: str | None = None,
        thinking_instructions: str | None = None,
    ) -> Response:
        """A split in a format of training; the answer begins when every row was checked.

        Without ``system_message`` rows keep their own, and those that have none get ``You are a helpful assistant.``
        """
        asked = wanted(format_type, data_strategy, system_message, thinking_instructions)
        caller = caller_of(request)

        def made(watched: Watched) -> Export:
            with below_home(dataset_path) as name:
                samples = watched(exports.samples(name, split_name, caller))
                return exports.open(samples, asked, dataset=PurePosixPath(name).stem, split=split_name)

        return await turns.file(request, made)

    return router


async def received(request: Request, uploads: UploadService) -> Incoming:
    """The uploaded file, whole on disk, under a name of its own; nothing of it is checked yet."""
    caller, begun = caller_of(request), list[Incoming]()
    place = uploads.place(caller)  # before a byte of the body is read: who sends slowly holds it long

    def open_sink(filename: str) -> Sink:
        begun.append(uploads.begin(filename, caller=caller, place=place))
        return begun[0]

    try:
        sent = dict((await read_form(request, open_sink)).fields)
        incoming = begun[0]
        incoming.format = _format(incoming.filename)
        incoming.description = sent.pop("description", "")
        incoming.name = sent.pop("name", "") or await asyncio.to_thread(_new_name, uploads, incoming, caller)
        if sent:
            unknown = next(iter(sent))
            raise Invalid(f"未知字段 {unknown}", f"the field {unknown} is unknown", field=unknown, reason="unknown")
    except BaseException:  # the client leaving is one
        place.leave()
        for each in begun:
            await asyncio.shield(asyncio.to_thread(each.abort))
        raise
    return incoming


def last_part(filename: str) -> str:
    """What the client called the file, without the folders it may have named."""
    return filename.replace("\\", "/").rsplit("/", 1)[-1]


def _format(filename: str) -> str:
    """The format that the name's ending says; JSON where it says none, and then the rows have to be JSON."""
    ending = PurePosixPath(last_part(filename)).suffix.lower()
    return next((format for format, endings in FORMATS.items() if ending in endings), "json")


def _new_name(uploads: UploadService, incoming: Incoming, caller: Caller) -> str:
    """The file's own name; with its id where the caller has one of that name already."""
    shown = "".join(c if c.isprintable() else "_" for c in last_part(incoming.filename))[:_LONGEST_NAME].strip()
    taken = {each.name for each in uploads.list(caller)}
    return shown if shown and shown not in taken else f"{shown} {incoming.id}".strip()


_FORM = form(
    {"name": {"type": "string", "maxLength": 128}, "description": {"type": "string", "maxLength": 4000}},
    {"file": '{"instruction": "什么是复利？", "output": "利息再生利息。"}\n'},
)
