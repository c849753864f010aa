"""Datasets kept by name: added, split, listed and removed, without ever being seen half done.

The folder of a dataset is the truth and is published whole; the database row is written after it, and ``reconcile``
brings the two together again after a crash in between.
"""

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec
import structlog

from tunesmith.datasets.access import check_may_read
from tunesmith.datasets.children import Children, OnProgress, Worker
from tunesmith.datasets.dataset import (
    ALL,
    MANIFEST,
    QUARANTINE,
    SPLIT_PREFIX,
    Dataset,
    Manifest,
    Split,
    check_description,
    check_name,
    is_id,
    new_id,
    read_manifest,
)
from tunesmith.datasets.example import Example
from tunesmith.datasets.folder import (
    absent,
    alone,
    is_free,
    is_held,
    is_stale,
    lost_files,
    missing,
    room,
    size_of,
    sweep_splits,
    taken,
)
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.processing import UNFINISHED, Order, Processed, Processing
from tunesmith.datasets.reading import accepted, open_path, parse, read_examples
from tunesmith.datasets.rows import refused
from tunesmith.datasets.split import Borders, borders, check_ratios, encode_example, place
from tunesmith.datasets.store import DatasetStore
from tunesmith.datasets.upload import Entry
from tunesmith.datasets.upload_store import UploadStore
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.db import Database
from tunesmith.kernel.files import PARTIAL, folder_published_whole, require_free, write_json
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Invalid, Problem

log = structlog.get_logger(__name__)
_REMOVED = ".removed-"
_MOST_PREVIEWED = 1000


class DatasetService:
    """Keeps datasets under ``data/processed``. Blocking but for ``process``; share between threads.

    Whoever asks is shown their own datasets, an admin all; another's is answered like a missing one.

    Args:
        worker: processes files; one shared with UploadService keeps few children at once.
    """

    def __init__(self, database: Database, home: Home, clock: Clock = utc_now, worker: Worker | None = None) -> None:
        self._store, self._uploads = DatasetStore(database), UploadStore(database)
        self._home, self._clock = home, clock
        self._processing = Processing(home, worker or Children(), clock, self._store.save)

    def add(
        self,
        name: str,
        source: Path,
        *,
        shape: str | None = None,
        format: str | None = None,
        skip_bad: bool = False,
        caller: Caller = LOCAL,
        description: str = "",
        label: str | None = None,
    ) -> Dataset:
        """Read ``source`` and keep its examples as ``name``.

        Args:
            shape, format: None tells them from the file.
            skip_bad: bad rows are left out and kept in quarantine.jsonl; else one of them refuses the file.
            label: what messages call the file; None for its own name.

        Raises:
            Conflict: there is a dataset of that name, whoever owns it.
            Invalid: the name, the description, the file or its rows are bad, or no row is good.
            NotFound, Forbidden: the file is not there, or may not be read.
            Unavailable: the disk is full. In every case nothing is kept.
        """
        folder = self._home.datasets / check_name(name)
        check_description(description)
        if not is_free(folder):
            raise taken(name)
        called = label or source.name
        with open_path(source) as file, room():
            require_free(self._home.datasets, os.fstat(file.fileno()).st_size)
            try:
                with folder_published_whole(folder) as unfinished:
                    parsed = parse(file, called, shape=shape, format=format)
                    examples, skipped, sha256 = _keep(parsed.rows, unfinished, called, skip_bad=skip_bad)
                    manifest = Manifest(
                        id=new_id(),
                        name=name,
                        owner=caller.name,
                        description=description,
                        shape=parsed.shape,
                        format=parsed.format,
                        source=called,
                        examples=examples,
                        skipped=skipped,
                        size_bytes=size_of(unfinished),
                        sha256=sha256,
                        created_at=self._clock(),
                    )
                    write_json(unfinished / MANIFEST, manifest)
            except FileExistsError:
                raise taken(name) from None
        self._store.save(manifest.dataset())
        return manifest.dataset()

    def get(self, name: str, caller: Caller = LOCAL) -> Dataset:
        """The dataset called ``name``.

        Raises:
            NotFound: there is none. Invalid: nothing can be called so.
        """
        found = self._store.get(check_name(name))
        if found is None:
            manifest = self._manifest(name, caller)  # published this moment, or its record was lost in a crash
            if lost_files(self._home, manifest):
                raise missing(name)
            found = manifest.dataset()
            self._store.save(found)
        if not caller.sees(found.owner):
            raise missing(name)
        return found

    def preview(self, name: str, n: int = 5, caller: Caller = LOCAL) -> list[Example]:
        """The first ``n`` examples, at most 1000.

        Raises:
            NotFound: there is no such dataset. Invalid: ``n`` is not in [1, 1000].
        """
        if not 1 <= n <= _MOST_PREVIEWED:
            zh = f"预览条数应在 1 与 {_MOST_PREVIEWED} 之间"
            en = f"between 1 and {_MOST_PREVIEWED} examples can be previewed"
            raise Invalid(zh, en, field="n")
        self._manifest(name, caller)
        return list(islice(read_examples(self._home, f"{name}/all"), n))

    def list(self, caller: Caller = LOCAL) -> list[Dataset]:
        """Every dataset the caller may see, the newest first."""
        return self._store.list(caller.only)

    def find(self, dataset_id: str, caller: Caller = LOCAL) -> Entry:
        """The dataset or the upload with that id or that name; to an admin a name means their own before others'.

        Raises:
            NotFound: there is neither.
        """
        by_id = is_id(dataset_id)
        found: Entry | None = self._store.with_id(dataset_id) or self._uploads.with_id(dataset_id) if by_id else None
        if found is None and dataset_id.isprintable():
            found = self._named(dataset_id, caller)
        if found is None or not caller.sees(found.owner):
            raise absent(dataset_id)
        return found

    def _named(self, name: str, caller: Caller) -> Entry | None:
        """What the caller means by a name: their own dataset or upload before anybody else's."""
        kept = self._store.get(name)
        if kept is not None and kept.owner == caller.name:
            return kept
        own = self._uploads.named(name, caller.name)
        if own is not None or not caller.admin:
            return own
        return kept or self._uploads.named(name, None)

    def everything(self, caller: Caller = LOCAL) -> Sequence[Entry]:
        """Every dataset and every upload the caller may see, the newest first."""
        entries: list[Entry] = [*self._store.list(caller.only), *self._uploads.list(caller.only)]
        return sorted(entries, key=lambda entry: entry.created_at, reverse=True)

    def check_may_read(self, name: str, caller: Caller) -> None:
        """Refuse the name of what is another's, in whatever spelling: see ``access.check_may_read``.

        Raises:
            NotFound: it is another's, or the server's own. Invalid: not a name.
        """
        check_may_read(self._home, self._uploads, name, caller)

    async def process(
        self,
        dataset_id: str,
        output_name: str,
        ratios: Mapping[str, float],
        *,
        template: str | None = None,
        seed: int = 42,
        description: str = "",
        caller: Caller = LOCAL,
        on_progress: OnProgress | None = None,
    ) -> Processed:
        """Make the dataset ``output_name``, split at once, of an upload or of another dataset.

        Rows whose prompts read alike (Unicode NFKC, case and white space aside) never fall into two splits; sizes are
        exact otherwise, and the same rows, seed and ratios give the same splits wherever the rows stood. Exact
        duplicates are kept and counted.

        Args:
            dataset_id: what ``find`` takes.
            ratios: split name to share; they sum to 1, and a share of 0 asks for no such split.
            template: see ``template``; None takes the conversations as they are.

        Raises:
            NotFound: there is no such dataset or upload.
            Conflict: there is a dataset ``output_name``, whoever owns it.
            Invalid: a name, the ratios, the template, the file or its rows are bad, or there are too few prompts.
            Unavailable: the disk is full, or the worker broke. In every case nothing is kept.
            asyncio.CancelledError: nothing is kept, unless it was just being published; then it is kept and recorded.
        """
        source = await asyncio.to_thread(self.find, dataset_id, caller)
        order = Order(source, output_name, ratios, template, seed, description, caller)
        manifest, made = await self._processing.carry_out(order, on_progress)
        return Processed(manifest.dataset(), made.splits, made.duplicates, made.leaks)

    def split(self, name: str, ratios: Mapping[str, float], *, seed: int = 42, caller: Caller = LOCAL) -> Dataset:
        """Divide the examples into ``train``, ``validation`` and ``test``, in place of an earlier split.

        Args:
            ratios: split name to share; they sum to 1, and a share of 0 asks for no such split.

        Raises:
            NotFound: there is no such dataset.
            Invalid: the ratios are bad, or there are fewer different examples than splits.
            Conflict: the dataset was processed, and is its split.
            Unavailable: the disk is full. The earlier split then stands.
        """
        shares = check_ratios(ratios)
        self._manifest(name, caller)
        folder = self._home.datasets / name
        with alone(folder, name), room():
            manifest = self._manifest(name, caller)
            if manifest.processed:
                zh = f"数据集 {name} 是处理时划分好的；请用其他比例重新处理，另取名称"
                en = f"the dataset {name} was split when it was processed; process it again under another name"
                raise Conflict(zh, en, field="name", name=name)
            require_free(folder, (folder / ALL).stat().st_size)
            where = borders(lambda: (place(line, seed) for line in _lines(folder / ALL)), shares)
            made = f"{SPLIT_PREFIX}{secrets.token_hex(4)}"
            with folder_published_whole(folder / made) as unfinished:
                counts = _divide(folder / ALL, unfinished, where, seed)
            # readers follow the manifest: one rename moves them from all of the old split to all of the new
            size = size_of(folder, but=manifest.split.folder if manifest.split else None)
            manifest = replace(manifest, split=Split(made, seed, shares, counts), size_bytes=size)
            write_json(folder / MANIFEST, manifest)
            self._store.save(manifest.dataset())
            sweep_splits(folder, manifest)
        return manifest.dataset()

    def remove(self, name: str, caller: Caller = LOCAL) -> None:
        """Forget the dataset and delete its files.

        Raises:
            NotFound: there is none.
        """
        folder = self._home.datasets / check_name(name)
        if not caller.admin:
            self.get(name, caller)  # who owns a damaged one nobody can tell: an admin removes it
        if (folder / MANIFEST).is_file():  # damaged or not; a folder without one is not ours to delete
            with alone(folder, name):
                gone = folder.with_name(f"{_REMOVED}{secrets.token_hex(6)}-{name}")
                folder.rename(gone)  # from here on it is removed, whatever happens to us
        elif self._store.get(name) is None:
            raise missing(name)
        else:
            gone = folder
        self._store.delete(name)
        shutil.rmtree(gone, ignore_errors=True)

    def reconcile(self) -> None:
        """Bring records and folders together; called once at start.

        A complete folder without a record is recorded, a record that differs is corrected from the folder, a record
        without a folder is deleted, and what a crash left half done is deleted, as are empty folders and those with
        nothing but a manifest. A folder whose files are not all there, or that we did not make, is left alone.
        """
        for folder in sorted(self._home.datasets.iterdir()):
            if (
                folder.name.startswith(_REMOVED)
                or (folder.name.startswith(PARTIAL) and is_stale(folder))
                or (folder.name.startswith(UNFINISHED) and not is_held(folder))
            ):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            if folder.name.startswith("."):
                continue  # somebody is filling it
            with contextlib.suppress(OSError):
                folder.rmdir()  # only an empty one
                continue
            try:
                with alone(folder, folder.name, wait=False):
                    self._reconcile(folder, self._manifest(folder.name))
            except Problem:
                continue  # no dataset, or damaged, or in the hands of somebody who keeps its record right
            except OSError as error:
                log.warning("a dataset cannot be looked at", dataset=folder.name, error=str(error))
        for dataset in self._store.list():
            if not (self._home.datasets / dataset.name / MANIFEST).is_file():
                self._store.delete(dataset.name)

    def _reconcile(self, folder: Path, manifest: Manifest) -> None:
        """Bring the record of a dataset, whose folder the caller holds, to what the folder says."""
        if lost := lost_files(self._home, manifest):
            log.warning("files of a dataset are gone", dataset=manifest.name, files=lost)
            if [file.name for file in folder.iterdir()] == [MANIFEST]:
                shutil.rmtree(folder)
            return
        if self._store.get(manifest.name) != manifest.dataset():
            self._store.save(manifest.dataset())
        sweep_splits(folder, manifest)

    def _manifest(self, name: str, caller: Caller = LOCAL) -> Manifest:
        manifest = read_manifest(self._home, name)
        if manifest is None or not caller.sees(manifest.owner):
            raise missing(name)
        return manifest


def _keep(rows: Iterator[Example | BadRow], folder: Path, label: str, *, skip_bad: bool) -> tuple[int, int, str]:
    """Write the good rows to all.jsonl and the bad ones to quarantine.jsonl; counts of both, and SHA-256 of the good."""
    digest, examples, skipped = hashlib.sha256(), 0, 0
    with (folder / ALL).open("wb", buffering=1 << 20) as kept, (folder / QUARANTINE).open("wb") as quarantine:

        def set_aside(row: BadRow) -> None:
            nonlocal skipped
            skipped += 1
            quarantine.write(_quarantined(row))

        for example in accepted(rows, label, set_aside if skip_bad else None):
            line = encode_example(example) + b"\n"
            digest.update(line)
            kept.write(line)
            examples += 1
    if not examples:
        raise refused(label, None, f"{skipped} 行全部不能使用", f"none of its {skipped} rows can be used")
    if not skipped:
        (folder / QUARANTINE).unlink()
    return examples, skipped, digest.hexdigest()


def _quarantined(row: BadRow) -> bytes:
    source = row.source
    reason = {"file": source.file, "line": source.line, "field": row.field, "zh": row.zh, "en": row.en}
    try:
        return msgspec.json.encode({**reason, "row": row.row}, enc_hook=repr) + b"\n"
    except (TypeError, ValueError, RecursionError):  # what JSON cannot hold, such as a lone surrogate
        return msgspec.json.encode({**reason, "row": ascii(row.row)}) + b"\n"


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from (line.rstrip(b"\n") for line in file)


def _divide(source: Path, folder: Path, where: Borders, seed: int) -> dict[str, int]:
    files: dict[str, BinaryIO] = {}
    counts = dict.fromkeys(where.names, 0)
    try:
        for name in where.names:
            files[name] = (folder / f"{name}.jsonl").open("wb", buffering=1 << 20)
        for line in _lines(source):
            name = where.split_of(place(line, seed))
            files[name].write(line + b"\n")
            counts[name] += 1
    finally:
        for file in files.values():
            file.close()
    return counts
