"""How right a plan was: kept when it is made, held against the run that follows it, and told with the run.

A plan is kept by its recipe in ``runs/.plans``. The trainer of a run with that recipe writes ``plan.json`` into the run's
folder when it has ended; where nobody had made a plan, the run's own first steps after the first are one, for the time.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from tunesmith.kernel.files import write_json
from tunesmith.kernel.home import Home
from tunesmith.training import run_folder
from tunesmith.training.plan.prediction import Plan
from tunesmith.training.run import Recipe

RECORD = "plan.json"
_KEPT = 100
_FIRST = 3  # steps that tell the speed where there was no plan; the first of them does not count


@dataclass(frozen=True, slots=True)
class Foretold:
    """What a run was to take.

    Attributes:
        by: "rehearsal" or "first steps".
        memory_bytes: None where nobody said.
    """

    by: str
    seconds: float
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A prediction and what came of it.

    Attributes:
        seconds, memory_bytes: what the run took, from the trainer's start to the published adapter.
        seconds_error, memory_error: (predicted - actual) / actual.
    """

    predicted: Foretold
    seconds: float
    memory_bytes: int
    seconds_error: float
    memory_error: float | None


def keep(home: Home, recipe: Recipe, plan: Plan) -> None:
    """Keep the plan for a run with this recipe; the oldest ones go."""
    folder = home.runs / ".plans"
    folder.mkdir(exist_ok=True, mode=0o700)
    write_json(folder / f"{_name(recipe)}.json", Foretold("rehearsal", plan.seconds, plan.memory_bytes))
    for old in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        old.unlink(missing_ok=True)


def hold(folder: Path, home: Home, recipe: Recipe, started: float, ended: float, memory_bytes: int) -> Held | None:
    """Write how right the prediction for the run in ``folder`` was; None where there is none to hold it to.

    A run that was interrupted took the time of what interrupted it, and one that stopped early did not take its own:
    they are not compared.

    Args:
        started, ended: seconds since the epoch.
    """
    rows = list(run_folder.metrics(folder))
    last = run_folder.read_progress(folder)
    if any("from_step" in row for row in rows) or last.step < last.total_steps:
        return None
    predicted = _kept(home, recipe) or _from_first_steps(rows, started)
    if predicted is None:
        return None
    seconds, memory = ended - started, predicted.memory_bytes
    held = Held(
        predicted,
        seconds,
        memory_bytes,
        seconds_error=predicted.seconds / max(seconds, 1e-9) - 1,
        memory_error=None if memory is None else memory / max(memory_bytes, 1) - 1,
    )
    write_json(folder / RECORD, held)
    return held


def read(folder: Path) -> Held | None:
    """How right the prediction for the run in ``folder`` was, where that is known."""
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=Held)
    except (OSError, msgspec.MsgspecError):
        return None


def _kept(home: Home, recipe: Recipe) -> Foretold | None:
    try:
        return msgspec.json.decode((home.runs / ".plans" / f"{_name(recipe)}.json").read_bytes(), type=Foretold)
    except (OSError, msgspec.MsgspecError):
        return None


def _name(recipe: Recipe) -> str:
    return hashlib.sha256(msgspec.json.encode(asdict(recipe), order="deterministic")).hexdigest()[:32]


def _from_first_steps(rows: Sequence[dict[str, Any]], started: float) -> Foretold | None:
    steps = [row for row in rows if "event" not in row and "time" in row]
    if len(steps) <= _FIRST:
        return None
    first, last = steps[0], steps[_FIRST - 1]
    each = (last["time"] - first["time"]) / (_FIRST - 1)
    return Foretold("first steps", first["time"] - started + each * (first["total_steps"] - 1))
