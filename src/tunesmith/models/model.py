"""The value every generation, evaluation and run speaks about."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

MAX_RANK = 256  # of a LoRA adapter that is trained or served


@dataclass(frozen=True, slots=True)
class Model:
    """A base model, optionally wearing a LoRA adapter.

    Attributes:
        base: name of the base model, e.g. ``tunesmith-small`` or ``Qwen/Qwen2.5-0.5B-Instruct``.
        adapter: name of the adapter under the home folder, e.g. ``adapters/town``; None for the bare base.
    """

    base: str
    adapter: str | None = None

    @property
    def name(self) -> str:
        """What a wire calls it: the adapter's name, or the base's where it wears none."""
        return self.adapter or self.base

    def bare(self) -> "Model":
        """The same base without an adapter."""
        return replace(self, adapter=None)


def model_id(name: str) -> str:
    """The id in a URL of the model that wires call ``name``: always the same, 12 hexadecimal digits of SHA-256."""
    return "model_" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model on this machine.

    Attributes:
        path: folder with config.json, tokenizer files and safetensors.
        size_bytes: bytes of its weight files.
        context_length: most positions (prompt and completion together) it can attend to.
    """

    name: str
    path: Path
    architecture: str
    size_bytes: int
    context_length: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """A complete PEFT LoRA folder under the home folder.

    Attributes:
        name: its path below home in POSIX form; this is its identity on every wire.
        base: name of the base model it was trained on.
        version: changes whenever its files change, so that caches can tell two adapters of one name apart.
    """

    name: str
    path: Path
    base: str
    rank: int
    size_bytes: int
    created_at: float
    version: str
