"""Data looked over, and shown as the model sees it, by a child process: the server holds no tokenizer."""

import sys
from typing import Any, Literal

import msgspec

from tunesmith.datasets.children import Children
from tunesmith.datasets.dataset import Dataset
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid
from tunesmith.models.model import BaseModel
from tunesmith.models.registry import Registry
from tunesmith.training.run import Recipe

MOST_SHOWN = 20  # examples of one preview
_LONGEST = 1 << 20  # tokens


class Look(msgspec.Struct, frozen=True):
    """What the child is asked.

    Attributes:
        parts: names under home, or of kept datasets, and the role of each.
        shown: rows of the first part to be shown as the model sees them: from, and how many; None looks all data over.
    """

    home: str
    parts: tuple[tuple[str, str], ...]
    base: str
    base_path: str
    max_length: int
    shown: tuple[int, int] | None = None


class Examiner:
    """Looks data over as a run would read it; two child processes at once at most, ended with whoever asked."""

    def __init__(self, home: Home, registry: Registry) -> None:
        self._home, self._registry = home, registry
        self._children = Children(2, (sys.executable, "-P", "-m", "tunesmith.training.data.examining"))

    async def check(self, parts: tuple[tuple[str, str], ...], base: str, max_length: int | None) -> dict[str, Any]:
        """What ``datasets check --json`` says.

        Args:
            parts: names of datasets and the role of each, what is trained on first.

        Raises:
            NotFound, Invalid: the base model or the data cannot be used at all. Findings are in the answer.
        """
        look = self._look(parts, base, max_length)
        return await self._children.perform(look, dict[str, Any])

    async def mask(self, part: str, base: str, max_length: int | None, offset: int, limit: int) -> dict[str, Any]:
        """``preview``: the rows rendered by the base's chat template, with what is learned and what is cut off marked.

        Rows that cannot be learned are left out; ``check`` says why.

        Raises:
            As ``check``.
        """
        if offset < 0 or not 1 <= limit <= MOST_SHOWN:
            raise Invalid(
                f"offset 应不小于 0，limit 应在 1 与 {MOST_SHOWN} 之间",
                f"offset must be at least 0 and limit between 1 and {MOST_SHOWN}",
                field="limit" if offset >= 0 else "offset",
            )
        look = self._look(((part, "train"),), base, max_length)
        return await self._children.perform(msgspec.structs.replace(look, shown=(offset, limit)), dict[str, Any])

    def _look(self, parts: tuple[tuple[str, str], ...], base: str, max_length: int | None) -> Look:
        found: BaseModel = self._registry.base(base)
        if max_length is not None and not 1 <= max_length <= _LONGEST:
            raise Invalid(
                f"max_length 应在 1 与 {_LONGEST} 之间",
                f"max_length must be between 1 and {_LONGEST}",
                field="max_length",
            )
        most = max_length or min(Recipe(base, parts[0][0]).max_length, found.context_length)
        return Look(str(self._home.root), parts, found.name, str(found.path), most)


Role = Literal["train", "validation", "test"]


def parts_of(dataset: Dataset) -> tuple[tuple[str, str], ...]:
    """The splits of a kept dataset, each with its role; all of it where it was not split."""
    roles: tuple[Role, ...] = ("train", "validation", "test")
    return tuple((f"{dataset.name}/{role}", role) for role in roles if role in dataset.splits) or (
        (dataset.name, "train"),
    )
