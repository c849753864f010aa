"""``/library``, an addition to the document: every base model and adapter on this machine, described and downloaded."""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from tunesmith.dialects.gpt_service import library_answers as answers
from tunesmith.dialects.gpt_service.wire import Body
from tunesmith.http.described import described
from tunesmith.http.door import caller_of
from tunesmith.inference.served import ServedModels
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.problems import Forbidden, Problem
from tunesmith.models.aliases import Aliases
from tunesmith.models.model import Adapter
from tunesmith.models.notes import LONGEST_DESCRIPTION, ModelNotes, Note
from tunesmith.models.registry import Registry
from tunesmith.models.versions import Version, Versions
from tunesmith.training.service import TrainingService

_PACKED = (".safetensors", ".json")  # nothing that could run code leaves, or comes back
_FACTS = "tunesmith.json"
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Shelf:
    """What is known of the models on this machine."""

    registry: Registry
    served: ServedModels
    versions: Versions
    aliases: Aliases
    notes: ModelNotes
    training: TrainingService


class _Zip(Response):
    """What OpenAPI says of a download."""

    media_type = "application/zip"


class DescribeRequest(Body):
    name: Annotated[str, Field(max_length=1025)]
    description: Annotated[str, Field(max_length=LONGEST_DESCRIPTION)]


def build(shelf: Shelf) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/library", tags=["models"])

    @routes.get("", **described(answers.Library))
    def library(request: Request) -> answers.Library:
        """Base models, adapters (the newest first) and what is loaded."""
        notes = shelf.notes.all()
        refs = {(each.adapter, each.fingerprint): each for each in shelf.versions.list()}
        pointing: dict[str, list[str]] = {}
        for alias in shelf.aliases.list():
            pointing.setdefault(alias.version.ref, []).append(alias.name)
        served = shelf.served.list()
        return {
            "bases": [
                {
                    "name": base.name,
                    "architecture": base.architecture,
                    "context_length": base.context_length,
                    "size_bytes": base.size_bytes,
                    **_noted(notes, base.name),
                }
                for base in shelf.registry.bases()
            ],
            "adapters": [
                _adapter(shelf, each, refs.get((each.name, each.version)), pointing, notes, caller_of(request))
                for each in shelf.registry.adapters()
            ],
            "loaded": [
                {
                    "name": each.name,
                    "base_model": each.model.base,
                    "lora_adapter": each.model.adapter,
                    "version": each.version,
                    "is_current": each.is_current,
                }
                for each in served
            ],
        }

    @routes.patch("", **described(answers.ModelDescribed))
    def describe(request: Request, body: DescribeRequest) -> answers.ModelDescribed:
        """Say something of a model; for who trained it, and for admins."""
        name = shelf.served.get(body.name).model.name
        if not _may_describe(shelf, name, caller_of(request)):
            raise Forbidden("只有训练者本人或管理员可以修改", "only who trained it, or an admin, may change this")
        shelf.notes.describe(name, body.description)
        return {"status": "success", "name": name, "description": shelf.notes.description(name)}

    @routes.get("/download", response_class=_Zip)
    def download(request: Request, name: Annotated[str, Query(min_length=1, max_length=1025)]) -> StreamingResponse:
        """An adapter as a zip of its PEFT folder: weights and JSON files, nothing else."""
        adapter = shelf.registry.adapter(name)
        # how it was made, and on what, is for who made it
        left_out = frozenset() if _may_describe(shelf, adapter.name, caller_of(request)) else frozenset({_FACTS})
        called = adapter.path.name
        disposition = f"attachment; filename=\"adapter.zip\"; filename*=UTF-8''{quote(called, safe='')}.zip"
        return StreamingResponse(
            _zipped(adapter.path, left_out), media_type=_Zip.media_type, headers={"Content-Disposition": disposition}
        )

    return routes


def _adapter(
    shelf: Shelf,
    adapter: Adapter,
    version: Version | None,
    pointing: Mapping[str, list[str]],
    notes: Mapping[str, Note],
    caller: Caller,
) -> answers.LibraryAdapter:
    run_id = version.run_id if version else None
    return {
        "name": adapter.name,
        "base_model": adapter.base,
        "rank": adapter.rank,
        "size_bytes": adapter.size_bytes,
        "created_at": datetime.fromtimestamp(adapter.created_at, UTC).isoformat(),
        "version": version.ref if version else None,
        "aliases": pointing.get(version.ref, []) if version else [],
        # a run of somebody else's is not named
        "run_id": run_id if run_id and _sees_run(shelf.training, run_id, caller) else None,
        "editable": _may_describe(shelf, adapter.name, caller),
        **_noted(notes, adapter.name),
    }


def _noted(notes: Mapping[str, Note], name: str) -> answers.Noted:
    note = notes.get(name, Note())
    last = note.usage.last_used
    return {
        "description": note.description or "",
        "usage_count": note.usage.count,
        "last_used": last.isoformat() if last else None,
    }


def _may_describe(shelf: Shelf, name: str, caller: Caller) -> bool:
    if caller.admin:
        return True
    run = shelf.training.of_output(name)
    return run is not None and caller.sees(run.owner)


def _sees_run(training: TrainingService, run_id: str, caller: Caller) -> bool:
    try:
        training.get(run_id, caller)
    except Problem:
        return False
    return True


class _Chunks:
    """What a zip file is written to: bytes wait here until they are sent."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def write(self, data: bytes) -> int:
        self._waiting += data
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is held."""

    def taken(self) -> bytes:
        """Everything written since the last call."""
        data = bytes(self._waiting)
        self._waiting.clear()
        return data


def _zipped(folder: Path, left_out: frozenset[str]) -> Iterator[bytes]:
    """The folder's weights and JSON files as a zip, a block at a time; stored, as weights do not shrink."""
    chunks = _Chunks()
    with zipfile.ZipFile(chunks, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.iterdir()):
            if file.name in left_out or file.suffix not in _PACKED or file.is_symlink() or not file.is_file():
                continue
            with file.open("rb") as source, archive.open(zipfile.ZipInfo(file.name), "w", force_zip64=True) as packed:
                while block := source.read(_BLOCK):
                    packed.write(block)
                    yield chunks.taken()
    yield chunks.taken()
