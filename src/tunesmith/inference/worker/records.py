"""What transformers said of a model, kept in a file, so that it need not be imported to say it again.

A record holds no weights: where each of them lies in the checkpoint, the few numbers that the block reads off
transformers' modules, and the logits that the model must give. Those are compared whenever it is loaded, so a record
that is wrong is noticed like a kernel that is. It is of use for the very files it was made of, by the versions that made
it; a damaged one is none.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec
import structlog

from tunesmith.kernel.files import written_whole

_EDITION = 1
_CODE = (
    *("attention.py", "block.py", "loading.py", "recording.py", "records.py", "rehearsal.py", "surveys.py"),
    *("templates.py", "tokens.py", "words.py"),
)
_MOST_BYTES = 64 << 20
_MOST_FILE_BYTES = 64 << 20  # files this small are read whole to be told apart
_KEPT = 64
_READ = (".json", ".safetensors", ".jinja", ".model", ".txt", ".tiktoken")  # of these suffixes are a model's files
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "jinja2", "tunesmith")

Attribute: TypeAlias = int | float | str
log = structlog.get_logger(__name__)


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rotary embedding: its inverse frequencies (float32), and what cosines and sines are multiplied by."""

    frequencies: bytes
    scaling: float


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Attributes:
    shapes: heads, width of a key and of a value, of each layer.
    windows: each layer's sliding window.
    expected: float32, see ``Survey``.
    heads: of queries, and of keys and values.
    tied: the output head is the embedding.
    weights: of each parameter, the file it lies in and its name there.
    attributes: of each module, what the block reads off it.
    activation: "silu" or "gelu".
    rotations: by kind of layer; "" where all have the same.
    """

    architecture: str
    vocabulary: int
    context: int
    shapes: list[tuple[int, int, int]]
    windows: list[int | None]
    expected: bytes
    heads: tuple[int, int]
    tied: bool
    weights: dict[str, tuple[str, str]]
    attributes: dict[str, dict[str, Attribute]]
    activation: str
    rotations: dict[str, Rotation]


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What transformers makes of the files of a tokenizer.

    Attributes:
        tokenizer: of the tokenizers library, as JSON.
        template: for chats; None where there is none.
        special: names of special tokens and what they are.
        ends: tokens that end a completion.
    """

    tokenizer: str
    template: str | None
    special: dict[str, str]
    ends: list[int]


Kind = TypeVar("Kind", Record, Words)


class Records:
    """A model's records.

    Args:
        model: the model's folder.

    Attributes:
        folder: where they are kept, beside those of other models.
    """

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self._model = folder, model
        self._identity = _identity(model)

    def read(self, name: str, kind: type[Kind]) -> Kind | None:
        """What was written under ``name`` for these very files; None where there is none."""
        path = self._path(name)
        try:
            if path.stat().st_size > _MOST_BYTES:
                return None
            found = path.read_bytes()
            if hashlib.sha256(found[32:]).digest() != found[:32]:
                return None
            return msgspec.msgpack.decode(memoryview(found)[32:], type=kind)
        except (OSError, msgspec.MsgspecError):
            return None

    def write(self, name: str, record: Record | Words) -> None:
        """Keep ``record`` under ``name``; not if the model has changed since this object was made. A full disk is no failure."""
        body = msgspec.msgpack.encode(record)
        try:
            if _identity(self._model) != self._identity:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            with written_whole(self._path(name)) as temporary:
                temporary.write_bytes(hashlib.sha256(body).digest() + body)
            self._forget_old()
        except OSError as error:
            log.warning("a model's record cannot be kept", error=str(error))

    def give_up(self, name: str) -> None:
        """Remember that these files have no such record, or a wrong one: nobody need try again."""
        with contextlib.suppress(OSError):
            self._path(name).unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._path(name).with_suffix(".none").touch()

    def given_up(self, name: str) -> bool:
        """See ``give_up``."""
        return self._path(name).with_suffix(".none").exists()

    def _path(self, name: str) -> Path:
        return self.folder / f"{self._identity}-{name}.record"

    def _forget_old(self) -> None:
        found = sorted(self.folder.glob("*-*.*"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in found[_KEPT:]:
            path.unlink(missing_ok=True)


def _identity(model: Path) -> str:
    """A digest that other files, other versions or other code would not have.

    Large files are told apart by what the system says of them: a digest of all weights would take longer than loading.
    """
    digest = hashlib.sha256(f"{_EDITION}".encode())
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):
            digest.update(f"\n{name} {version(name)}".encode())
    for path in (*(Path(__file__).with_name(name) for name in _CODE), *_files(model)):
        about = path.stat()
        said: Any = (path.name, about.st_size)
        if about.st_size > _MOST_FILE_BYTES:
            said += (about.st_mtime_ns, about.st_ctime_ns, about.st_ino, about.st_dev)
        else:
            said += (hashlib.sha256(path.read_bytes()).hexdigest(),)
        digest.update(repr(said).encode())
    return digest.hexdigest()[:40]


def _files(model: Path) -> Iterator[Path]:
    """What loading may read, in one order."""
    for folder in (model, model / "additional_chat_templates"):
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))
            yield from (folder / name for name in names if name.endswith(_READ))
