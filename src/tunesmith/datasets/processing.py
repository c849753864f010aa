"""Processing: an upload or a dataset becomes a dataset that is split, as JSON Lines and Parquet, whole or not at all.

A worker fills ``data/processed/.processing-<hex>``, whose lock we hold; it becomes the dataset's folder by one rename.
Killed before that, there is a folder nobody holds, and ``reconcile`` deletes it; killed after it, a dataset without its
record, which ``reconcile`` adopts. Canceled, it ends between two of its steps and never within one: a step is a thread,
which goes on whoever waits for it, and what it made must be whole or gone.
"""

import asyncio
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec, TypeVar

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
from tunesmith.datasets.folder import is_free, lock, missing, room, size_of, taken
from tunesmith.datasets.reading import retold
from tunesmith.datasets.split import check_ratios
from tunesmith.datasets.template import Template
from tunesmith.datasets.upload import Entry, Upload
from tunesmith.datasets.worker import tasks
from tunesmith.datasets.worker.tasks import Given
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.clock import Clock
from tunesmith.kernel.files import require_free, sync, write_json
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Problem

UNFINISHED = ".processing-"
_ROOM_A_BYTE = 3  # the conversations once, their splits, and these as tables
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processed:
    """What processing gave.

    Attributes:
        splits: split name to its number of rows.
        duplicates: rows that say exactly what another row says; they are kept.
        leaks: rows whose prompt also stands in an earlier split. Prompts are compared by the 64-bit marks they were
            dealt by, so this finds a fault of the dealing and none of the marks; that the files hold the very rows
            dealt to them is checked apart, by reading them again.
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
    """Carries out orders.

    Args:
        save: records a dataset.
    """

    def __init__(self, home: Home, worker: Worker, clock: Clock, save: Callable[[Dataset], None]) -> None:
        self._home, self._worker, self._clock, self._save = home, worker, clock, save

    async def carry_out(self, order: Order, on_progress: OnProgress | None) -> tuple[Manifest, tasks.Processed]:
        """Publish the folder and record it.

        Raises:
            Problem: see DatasetService.process. Nothing is left behind then.
            asyncio.CancelledError: canceled; the dataset is published and recorded, or nothing of it is left.
        """
        shares = check_ratios(order.ratios)
        if order.template is not None:
            Template.parse(order.template)
        check_description(order.description)
        folder = self._home.datasets / check_name(order.output_name, "output_name")
        prepared: list[tuple[Path, int]] = []
        try:
            await _to_its_end(lambda: prepared.append(self._prepare(order, folder)))
            unfinished, _ = prepared[0]
            files = await asyncio.to_thread(self._files, order.source)
            task = tasks.Process(files, str(unfinished), shares, order.seed, order.template)
            made = await self._made(task, on_progress)
            manifest = self._manifest(order, shares, made, files[0].format)
            return await _to_its_end(self._publish, unfinished, folder, manifest), made
        finally:
            for unfinished, descriptor in prepared:
                await _to_its_end(_clean, unfinished, descriptor)

    async def _made(self, task: tasks.Process, on_progress: OnProgress | None) -> tasks.Processed:
        """What the worker answers; its messages call files by their names under home."""
        try:
            return await self._worker.perform(task, tasks.Processed, on_progress)
        except Problem as problem:
            raise retold(problem, {given.path: given.label for given in task.files}, "dataset_id") from None

    def _publish(self, unfinished: Path, folder: Path, manifest: Manifest) -> Manifest:
        manifest = _publish(unfinished, folder, manifest)
        try:
            self._save(manifest.dataset())
        except BaseException:
            folder.rename(unfinished)  # what is not recorded would be neither listed nor free
            raise
        return manifest

    def _prepare(self, order: Order, folder: Path) -> tuple[Path, int]:
        """The folder to fill, and the descriptor that holds its lock."""
        if not is_free(folder):
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
            self._home.open(source.path, "dataset_id").close()  # refused here by its name, and not in a child
            return (Given(str(self._home.path(source.path, "dataset_id")), source.path, source.format),)
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
            unfinished.rename(folder)  # replaces an empty folder, refuses anything else
        except OSError:
            if os.path.lexists(folder):
                raise taken(folder.name, "output_name") from None
            raise
        sync(folder.parent)
    return manifest


async def _to_its_end(step: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """What ``step`` gives, run in a thread. Canceled meanwhile, this waits until the thread is done, then says so."""
    running = asyncio.ensure_future(asyncio.to_thread(step, *given, **named))
    canceled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            canceled = error
    if canceled is not None:
        running.exception()  # a failure nobody waits for any more
        raise canceled
    return running.result()


def _clean(unfinished: Path, descriptor: int) -> None:
    shutil.rmtree(unfinished, ignore_errors=True)
    os.close(descriptor)
