"""Datasets kept by name: added, split, listed and removed, without ever being seen half done.

The folder of a dataset is the truth and is published whole; the database row is written after it, and ``reconcile``
brings the two together again after a crash in between.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from tunesmith.datasets.dataset import (
    ALL,
    MANIFEST,
    QUARANTINE,
    SPLIT_PREFIX,
    Dataset,
    Manifest,
    Split,
    check_name,
    read_manifest,
)
from tunesmith.datasets.example import Example
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.reading import accepted, open_path, parse, read_examples
from tunesmith.datasets.rows import refused
from tunesmith.datasets.split import Borders, borders, check_ratios, encode_example, place
from tunesmith.datasets.store import DatasetStore
from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.db import Database
from tunesmith.kernel.files import PARTIAL, folder_published_whole, require_free, write_json
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Problem, Unavailable

_REMOVED = ".removed-"
_STALE_S = 3600.0  # a temporary folder nothing was written to for so long is nobody's any more
_MOST_PREVIEWED = 1000


class DatasetService:
    """Keeps datasets under ``home/datasets``. Blocking; share between threads."""

    def __init__(self, database: Database, home: Home, clock: Clock = utc_now) -> None:
        self._store, self._home, self._clock = DatasetStore(database), home, clock

    def add(
        self,
        name: str,
        source: Path,
        *,
        shape: str | None = None,
        format: str | None = None,
        skip_bad: bool = False,
        owner: str = "local",
        label: str | None = None,
    ) -> Dataset:
        """Read ``source`` and keep its examples as ``name``.

        Args:
            shape, format: None tells them from the file.
            skip_bad: bad rows are left out and kept in quarantine.jsonl; else one of them refuses the file.
            label: what messages call the file; None for its own name.

        Raises:
            Conflict: there is a dataset of that name.
            Invalid: the name, the file or its rows are bad, or no row is good.
            NotFound, Forbidden: the file is not there, or may not be read.
            Unavailable: the disk is full. In every case nothing is kept.
        """
        folder = self._home.datasets / check_name(name)
        if folder.exists():
            raise _taken(name)
        called = label or source.name
        with open_path(source) as file, _room():
            require_free(self._home.datasets, os.fstat(file.fileno()).st_size)
            try:
                with folder_published_whole(folder) as unfinished:
                    parsed = parse(file, called, shape=shape, format=format)
                    examples, skipped, sha256 = _keep(parsed.rows, unfinished, called, skip_bad=skip_bad)
                    found = (parsed.shape, parsed.format, called, examples, skipped, sha256)
                    manifest = Manifest(name, owner, *found, created_at=self._clock())
                    write_json(unfinished / MANIFEST, manifest)
            except FileExistsError:
                raise _taken(name) from None
        self._store.save(manifest.dataset())
        return manifest.dataset()

    def get(self, name: str) -> Dataset:
        """The dataset called ``name``.

        Raises:
            NotFound: there is none. Invalid: nothing can be called so.
        """
        found = self._store.get(check_name(name))
        if found is None:
            found = self._manifest(name).dataset()  # published this moment, or its record was lost in a crash
            self._store.save(found)
        return found

    def preview(self, name: str, n: int = 5) -> list[Example]:
        """The first ``n`` examples, at most 1000.

        Raises:
            NotFound: there is no such dataset. Invalid: ``n`` is not in [1, 1000].
        """
        if not 1 <= n <= _MOST_PREVIEWED:
            zh, en = (
                f"预览条数应在 1 与 {_MOST_PREVIEWED} 之间",
                f"between 1 and {_MOST_PREVIEWED} examples can be previewed",
            )
            raise Invalid(zh, en, field="n")
        self._manifest(name)
        return list(islice(read_examples(self._home, f"{name}/all"), n))

    def list(self) -> list[Dataset]:
        """Every dataset, the newest first."""
        return self._store.list()

    def split(self, name: str, ratios: Mapping[str, float], *, seed: int = 42) -> Dataset:
        """Divide the examples into ``train``, ``validation`` and ``test``, in place of an earlier split.

        Args:
            ratios: split name to share; they sum to 1, and a share of 0 asks for no such split.

        Raises:
            NotFound: there is no such dataset.
            Invalid: the ratios are bad, or there are fewer different examples than splits.
            Unavailable: the disk is full. The earlier split then stands.
        """
        shares = check_ratios(ratios)
        self._manifest(name)
        folder = self._home.datasets / name
        with _alone(folder, name), _room():
            manifest = self._manifest(name)
            require_free(folder, (folder / ALL).stat().st_size)
            where = borders(lambda: (place(line, seed) for line in _lines(folder / ALL)), shares)
            made = f"{SPLIT_PREFIX}{secrets.token_hex(4)}"
            with folder_published_whole(folder / made) as unfinished:
                counts = _divide(folder / ALL, unfinished, where, seed)
            # readers follow the manifest: one rename moves them from all of the old split to all of the new
            manifest = replace(manifest, split=Split(made, seed, shares, counts))
            write_json(folder / MANIFEST, manifest)
            self._store.save(manifest.dataset())
            _sweep_splits(folder, manifest)
        return manifest.dataset()

    def remove(self, name: str) -> None:
        """Forget the dataset and delete its files.

        Raises:
            NotFound: there is none.
        """
        folder = self._home.datasets / check_name(name)
        if (folder / MANIFEST).is_file():  # damaged or not; a folder without one is not ours to delete
            with _alone(folder, name):
                gone = folder.with_name(f"{_REMOVED}{secrets.token_hex(6)}-{name}")
                folder.rename(gone)  # from here on it is removed, whatever happens to us
        elif self._store.get(name) is None:
            raise _missing(name)
        else:
            gone = folder
        self._store.delete(name)
        shutil.rmtree(gone, ignore_errors=True)

    def reconcile(self) -> None:
        """Bring records and folders together; called once at start.

        A complete folder without a record is recorded, a record that differs is corrected from the folder, a record
        without a folder is deleted, and what a crash left half done is deleted. Folders we did not make are left alone.
        """
        standing = set()
        for folder in sorted(self._home.datasets.iterdir()):
            if folder.name.startswith(_REMOVED) or (folder.name.startswith(PARTIAL) and _stale(folder)):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                standing.add(self._manifest(folder.name).name)
                with _alone(folder, folder.name, wait=False):
                    manifest = self._manifest(folder.name)
                    if self._store.get(manifest.name) != manifest.dataset():
                        self._store.save(manifest.dataset())
                    _sweep_splits(folder, manifest)
            except Problem:
                continue  # no dataset, or damaged, or in the hands of somebody who keeps its record right
        for dataset in self._store.list():
            if dataset.name not in standing and not (self._home.datasets / dataset.name / MANIFEST).is_file():
                self._store.delete(dataset.name)

    def _manifest(self, name: str) -> Manifest:
        manifest = read_manifest(self._home, name)
        if manifest is None:
            raise _missing(name)
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
        for line in file:
            yield line.rstrip(b"\n")


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


def _sweep_splits(folder: Path, manifest: Manifest) -> None:
    """Delete splits the manifest no longer names, finished or not; the caller holds the folder."""
    current = manifest.split.folder if manifest.split else None
    for other in folder.iterdir():
        ours = other.name.startswith((SPLIT_PREFIX, PARTIAL))
        if ours and other.name != current and other.is_dir() and not other.is_symlink():
            shutil.rmtree(other, ignore_errors=True)


@contextmanager
def _alone(folder: Path, name: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the folder of a dataset: others who change it wait, in this process and in any other.

    Raises:
        NotFound: it was removed while we waited.
        Conflict: somebody else holds it, and we would not wait.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        raise _missing(name) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"数据集 {name} 正在被修改", f"the dataset {name} is being changed", name=name) from None
        if not folder.exists() or not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise _missing(name)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _room() -> Iterator[None]:
    """A full disk becomes a Problem."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable("磁盘空间不足，数据集未保存", "the disk is full; nothing was kept") from None
        raise


def _stale(folder: Path) -> bool:
    newest = max((path.lstat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)
    return time.time() - newest > _STALE_S


def _taken(name: str) -> Conflict:
    return Conflict(f"数据集 {name} 已存在", f"there is already a dataset {name}", field="name", name=name)


def _missing(name: str) -> NotFound:
    return NotFound(f"数据集不存在：{name}", f"there is no dataset {name}", field="name", name=name)
