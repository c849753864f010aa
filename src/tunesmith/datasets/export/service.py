"""Datasets written in the format a training wants: into a file under home, or as a download."""

import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tunesmith.datasets.access import owner_folder
from tunesmith.datasets.dataset import FOLDER, kept_files, read_manifest
from tunesmith.datasets.export.formatter import lines
from tunesmith.datasets.export.rows import file_samples, kept_samples
from tunesmith.datasets.export.sample import Sample, Wanted
from tunesmith.datasets.export.wanted import DEFAULT_SYSTEM, DEFAULT_THINKING
from tunesmith.datasets.folder import is_stale, room
from tunesmith.datasets.upload import file_name
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.files import PARTIAL, require_free, sync, written_whole
from tunesmith.kernel.home import UNPRINTABLE, Home
from tunesmith.kernel.problems import NotFound

__all__ = ["DEFAULT_SYSTEM", "DEFAULT_THINKING", "Export", "ExportService"]

_SPLITS = {"all": "all", "train": "train", "validation": "validation", "val": "validation", "test": "test"}
_LONGEST_STEM = 32  # characters of the dataset's name in that of the file
_CHUNK = 1 << 18  # bytes
_ROOM_LEFT = 64 << 20  # bytes that are left on the disk for everybody else
_LOOK_EVERY = 16 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Export:
    """A file that is complete and lies in no folder; it is gone when it is closed.

    Attributes:
        filename: what Kiln calls it: ``town -- split-train -- format-openai_chat_jsonl -- no-cot.jsonl``.
        size: in bytes.
    """

    filename: str
    size: int
    rows: int
    _file: BinaryIO

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, once; it is closed behind the last, or when the iterator is."""
        try:
            self._file.seek(0)
            while chunk := self._file.read(_CHUNK):
                yield chunk
        finally:
            self.close()

    def close(self) -> None:
        """Give up its room on the disk; twice is fine."""
        self._file.close()


class ExportService:
    """Reads samples by the names people give and writes them for whoever trains. Blocking; share between threads.

    Args:
        may_read: raises NotFound where the name is of data that the caller may not see; asked before it is opened.
    """

    def __init__(self, home: Home, may_read: Callable[[str, Caller], None]) -> None:
        self._home, self._may_read = home, may_read

    def samples(self, dataset_path: str, split_name: str, caller: Caller) -> Iterator[Sample]:
        """The samples of a file under home, or of a part of a kept dataset.

        Args:
            dataset_path: a file (``data/raw/x.jsonl``), or a kept dataset (``town``, ``data/processed/town``).
            split_name: "train", "validation" (or "val"), "test", "all". A file, a dataset that was never split, and a
                name that is of one part already (``town/test``) are "train" and "all" as a whole.

        Raises:
            NotFound: there is no such split, or the caller may not see the data.
            Invalid: the name, or the manifest of the dataset, is bad.
            NotFound, Forbidden, Invalid: while iterating; there is no such file, it may not be read, or is bad.
        """
        self._may_read(dataset_path, caller)
        part = _SPLITS.get(split_name, "")
        kept = kept_files(self._home, dataset_path)
        name, _, named = str(PurePosixPath(dataset_path)).removeprefix(f"{FOLDER}/").partition("/")
        if (kept is None or named) and part not in ("train", "all"):
            raise _no_split(split_name)
        if kept is None:
            return self._of_file(dataset_path)
        manifest = read_manifest(self._home, name)
        parts = manifest.split.examples if manifest and manifest.split else {}
        part = named or ("all" if part == "train" and not parts else part)
        if part != "all" and part not in parts:
            raise _no_split(split_name)
        return iter(()) if parts.get(part) == 0 else kept_samples(self._home, f"{name}/{part}")

    def write(self, dataset_path: str, split_name: str, wanted: Wanted, caller: Caller) -> str:
        """Write the samples into a new file of the caller's; it is whole or absent.

        Returns:
            Its name under home: ``data/formatted/<the caller's folder>/town-train-openai_chat_jsonl-1f2e3d4c.jsonl``.
            The caller and admins may read it, by every service that takes such names.

        Raises:
            NotFound, Forbidden: see ``samples``.
            Invalid: ``wanted`` does not fit together, or a row or sample is bad; each names what and where.
            Unavailable: the disk is full.
        """
        written = lines(self.samples(dataset_path, split_name, caller), wanted)
        folder = self._folder(caller.name)
        stem = file_name(f"{PurePosixPath(dataset_path).stem}.jsonl", "json").removesuffix(".jsonl")[:_LONGEST_STEM]
        split = _SPLITS.get(split_name, "all")
        path = folder / f"{stem}-{split}-{wanted.format}-{_thinks(wanted)}-{secrets.token_hex(4)}.jsonl"
        with room(), written_whole(path) as temporary, temporary.open("wb") as file:
            _fill(file, written, folder)
        return self._home.name(path)

    def open(self, samples: Iterable[Sample], wanted: Wanted, *, dataset: str, split: str) -> Export:
        """The samples as a file to send. Every one is written before this returns, so none can break the sending.

        Args:
            dataset, split: what the file's name says.

        Raises:
            Invalid: ``wanted`` does not fit together, or a sample cannot be written; its id is named.
            Unavailable: the disk is full.
        """
        written = lines(samples, wanted)
        folder = self._home.formatted
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (the Export's to close)
        try:
            with room():
                rows = _fill(file, written, folder)
        except BaseException:
            file.close()
            raise
        name = f"{dataset} -- split-{split} -- format-{wanted.format} -- {_thinks(wanted)}.jsonl"
        return Export(re.sub(r'[/\\"]', "-", UNPRINTABLE.sub("-", name)), file.tell(), rows, file)

    def _of_file(self, name: str) -> Iterator[Sample]:
        with self._home.open(name, "dataset") as file:
            yield from file_samples(file, name)

    def _folder(self, owner: str) -> Path:
        parent = self._home.formatted
        folder = self._home.path(f"{self._home.name(parent)}/{owner_folder(owner)}", "dataset")
        folder.mkdir(exist_ok=True, mode=0o700)
        sync(parent)
        for left in folder.glob(f"{PARTIAL}*"):
            if is_stale(left):
                left.unlink(missing_ok=True)
        return folder


def _fill(file: BinaryIO, written: Iterable[bytes], folder: Path) -> int:
    """Write every line; how many there were. Nothing is left in the file's buffer."""
    rows, size, look_at = 0, 0, 0
    for line in written:
        if size >= look_at:
            require_free(folder, _ROOM_LEFT)
            look_at = size + _LOOK_EVERY
        file.write(line)
        rows, size = rows + 1, size + len(line)
    file.flush()
    return rows


def _thinks(wanted: Wanted) -> str:
    return "cot" if wanted.strategy.thinks else "no-cot"


def _no_split(name: str) -> NotFound:
    shown = (name if name.isprintable() else ascii(name)[1:-1])[:80]
    return NotFound(f"数据集划分 '{shown}' 不存在", f"Dataset split with name '{shown}' not found", field="split_name")
