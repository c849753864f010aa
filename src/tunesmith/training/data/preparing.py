"""From the names in a recipe to tokens: every row is read, examined and encoded before the first step. No torch."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.preferences import read_preferences
from tunesmith.datasets.reading import read_examples
from tunesmith.kernel.home import Home
from tunesmith.training import run_folder
from tunesmith.training.data.doctor import Doctor, end_tokens
from tunesmith.training.data.encoding import Encoded, Encoder, encode_all
from tunesmith.training.data.findings import Role, write_report
from tunesmith.training.data.material import Material
from tunesmith.training.data.pairs import EncodedPair, encode_pairs
from tunesmith.training.run_folder import Order, Stopped

_Row = TypeVar("_Row")
_log = logging.getLogger("tunesmith.trainer")


def prepared(home: Home, order: Order, tokenizer: Any, folder: Path, stopped: Callable[[], bool]) -> Material:
    """What ``order`` is executed on; what the doctor found in it lies in ``folder`` then, and rows left out, too.

    Raises:
        Stopped: ``stopped()`` was true.
        Problem: data is missing, or rows cannot be learned and none may be left out.
    """
    return _Preparation(home, order, tokenizer, folder, stopped).material()


class _Preparation:
    def __init__(self, home: Home, order: Order, tokenizer: Any, folder: Path, stopped: Callable[[], bool]) -> None:
        self._home, self._recipe, self._folder, self._stopped = home, order.recipe, folder, stopped
        self._encoder = Encoder(tokenizer, self._recipe.max_length)
        ends = end_tokens(tokenizer, Path(order.base_path))
        self._doctor = Doctor(self._encoder, self._recipe.base_model, self._recipe.max_length, ends)
        # what a trainer before this one left out is left out again
        (folder / run_folder.SKIPPED).unlink(missing_ok=True)

    def material(self) -> Material:
        recipe = self._recipe
        material = Material(
            main=self._learned("train", recipe.dataset, recipe.dataset_format),
            replay=self._examples("replay", recipe.replay) if recipe.replay and recipe.replay_share else [],
            validation=self._learned("validation", recipe.validation) if recipe.validation else [],
            control=self._examples("control", recipe.control) if recipe.control else [],
        )
        report = self._doctor.report()
        write_report(self._folder, report)
        _log.info("data: %s", report.line("en"))
        return material

    def _learned(self, role: Role, name: str, kind: str | None = None) -> list[Encoded] | list[EncodedPair]:
        if self._recipe.objective != "dpo":
            return self._examples(role, name, kind)
        on_bad, examined = self._quarantine(), self._doctor.part(name, role)
        rows = read_preferences(self._home, name, format=kind, on_bad=on_bad)
        encoded = encode_pairs(self._stoppable(rows), self._encoder, name, on_bad, examined.look_pair)
        examined.bad = on_bad.count if on_bad else 0
        _log.info("%s: %d preferences, %d left out", name, len(encoded), examined.bad)
        return encoded

    def _examples(self, role: Role, name: str, kind: str | None = None) -> list[Encoded]:
        on_bad, examined = self._quarantine(), self._doctor.part(name, role)
        examples = read_examples(self._home, name, format=kind, on_bad=on_bad)
        encoded = encode_all(self._stoppable(examples), self._encoder, name, on_bad, examined.look)
        examined.bad = on_bad.count if on_bad else 0
        _log.info("%s: %d examples, %d left out", name, len(encoded), examined.bad)
        return encoded

    def _stoppable(self, rows: Iterator[_Row]) -> Iterator[_Row]:
        for row in rows:
            if self._stopped():
                raise Stopped
            yield row

    def _quarantine(self) -> "_Quarantine | None":
        return _Quarantine(self._folder / run_folder.SKIPPED) if self._recipe.skip_bad else None


class _Quarantine:
    """Keeps what was left out, with the reasons."""

    def __init__(self, path: Path) -> None:
        self._path, self.count = path, 0

    def __call__(self, bad: BadRow) -> None:
        self.count += 1
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(bad) + b"\n")
