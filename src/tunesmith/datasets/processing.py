"""Processing: an upload or a dataset becomes a dataset that is split, as JSON Lines and Parquet, whole or not at all.

A worker fills ``data/processed/.processing-<hex>``, whose lock we hold; it becomes the dataset's folder by one rename.
Killed before that, there is a folder nobody holds, and ``reconcile`` deletes it; killed after it, a dataset without its
record, which ``reconcile`` adopts.
"""

import asyncio
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.datasets.children import OnProgress, Worker
from tunesmith.datasets.dataset import (
    MANIFEST,
    OWN_FOLDER,
    Dataset,
    Manifest,
    Split,
    check_description,
    check_name,
    new_id,
    read_manifest,
    whole_files,
)
from tunesmith.datasets.folder import lock, missing, room, size_of, taken
from tunesmith.datasets.split import check_ratios
from tunesmith.datasets.template import Template
from tunesmith.datasets.upload import Entry, Upload
from tunesmith.datasets.worker import tasks
from tunesmith.datasets.worker.tasks import Given
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.clock import Clock
from tunesmith.kernel.files import require_free, sync, write_json
from tunesmith.kernel.home import Home

UNFINISHED = ".processing-"
_ROOM_A_BYTE = 3  # the conversations once, their splits, and these as tables


@dataclass(frozen=True, slots=True)
class Processed:
    """What processing gave.

    Attributes:
        splits: split name to its number of rows.
        duplicates: rows that say exactly what another row says; they are kept.
        leaks: rows whose prompt stands in two splits, as counted in the written files.
    """

    dataset: Dataset
    splits: Mapping[str, int]
    duplicates: int
    leaks: int


@dataclass(frozen=True, slots=True)
class Order:
    """What processing is asked for; see DatasetService.process."""

    source: Entry
    output_name: str
    ratios: Mapping[str, float]
    template: str | None
    seed: int
    description: str
    caller: Caller


class Processing:
    """Carries out orders."""

    def __init__(self, home: Home, worker: Worker, clock: Clock) -> None:
        self._home, self._worker, self._clock = home, worker, clock

    async def carry_out(self, order: Order, on_progress: OnProgress | None) -> tuple[Manifest, tasks.Processed]:
        """Publish the folder; its record is the caller's to write.

        Raises:
            Problem: see DatasetService.process. Nothing is left behind then, nor when this is canceled.
        """
        shares = check_ratios(order.ratios)
        if order.template is not None:
            Template.parse(order.template)
        check_description(order.description)
        folder = self._home.datasets / check_name(order.output_name, "output_name")
        unfinished, descriptor = await asyncio.to_thread(self._prepare, order, folder)
        try:
            files = await asyncio.to_thread(self._files, order.source)
            task = tasks.Process(files, str(unfinished), shares, order.seed, order.template)
            made = await self._worker.perform(task, tasks.Processed, on_progress)
            manifest = self._manifest(order, shares, made, files[0].format)
            return await asyncio.shield(asyncio.to_thread(_publish, unfinished, folder, manifest)), made
        finally:
            await asyncio.shield(asyncio.to_thread(_clean, unfinished, descriptor))

    def _prepare(self, order: Order, folder: Path) -> tuple[Path, int]:
        """The folder to fill, and the descriptor that holds its lock."""
        if folder.exists():
            raise taken(order.output_name, "output_name")
        with room():
            require_free(self._home.datasets, _ROOM_A_BYTE * order.source.size_bytes)
            while True:
                unfinished = self._home.datasets / f"{UNFINISHED}{secrets.token_hex(6)}"
                unfinished.mkdir()
                descriptor = os.open(unfinished, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                lock(descriptor)
                if unfinished.exists():  # or somebody's reconcile came between the lines
                    return unfinished, descriptor
                os.close(descriptor)

    def _files(self, source: Entry) -> tuple[Given, ...]:
        if isinstance(source, Upload):
            path = self._home.path(source.path, "dataset_id")
            return (Given(str(path), path.name, source.format),)
        manifest = read_manifest(self._home, source.name)
        if manifest is None:
            raise missing(source.name)
        return tuple(
            Given(str(self._home.path(file, "dataset_id")), file, "jsonl", "openai") for file in whole_files(manifest)
        )

    def _manifest(self, order: Order, shares: dict[str, float], made: tasks.Processed, format: str) -> Manifest:
        return Manifest(
            id=new_id(),
            name=order.output_name,
            owner=order.caller.name,
            description=order.description,
            shape=made.shape,
            format=format,
            source=order.source.path,
            examples=sum(made.splits.values()),
            skipped=0,
            size_bytes=0,
            sha256=made.sha256,
            created_at=self._clock(),
            split=Split(OWN_FOLDER, order.seed, shares, made.splits),
        )


def _publish(unfinished: Path, folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest and rename the folder; its files are on the disk already."""
    manifest = replace(manifest, size_bytes=size_of(unfinished))
    with room():
        write_json(unfinished / MANIFEST, manifest)
        sync(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if folder.exists():
                raise taken(folder.name, "output_name") from None
            raise
        sync(folder.parent)
    return manifest


def _clean(unfinished: Path, descriptor: int) -> None:
    shutil.rmtree(unfinished, ignore_errors=True)
    os.close(descriptor)
