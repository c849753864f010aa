"""Names a shell may complete, read from the home folder alone: no database, nothing made, nothing heavy imported."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tunesmith.kernel.problems import Problem

if TYPE_CHECKING:
    from tunesmith.models.registry import Registry


def datasets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Datasets kept by name."""
    return _beginning(incomplete, _folders(ctx, "data/processed"))


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of runs."""
    return _beginning(incomplete, _folders(ctx, "runs"))


def bases(ctx: typer.Context, incomplete: str) -> list[str]:
    """Base models on this machine."""
    registry = _registry(ctx)
    return _beginning(incomplete, (base.name for base in registry.bases())) if registry else []


def adapters(ctx: typer.Context, incomplete: str) -> list[str]:
    """Adapters under home."""
    registry = _registry(ctx)
    return _beginning(incomplete, (adapter.name for adapter in registry.adapters())) if registry else []


def models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Whatever can be asked a question."""
    return [*bases(ctx, incomplete), *adapters(ctx, incomplete)]


def trainers(incomplete: str) -> list[str]:
    """Where a job can be trained."""
    return _beginning(incomplete, iter(("together_ai", "fireworks_ai", "local")))


def providers(incomplete: str) -> list[str]:
    """Whose keys are kept."""
    return _beginning(incomplete, iter(("openrouter", "together_ai", "fireworks_ai")))


def strategies(incomplete: str) -> list[str]:
    """What of an example is trained on."""
    from tunesmith.datasets.export.sample import Strategy

    return _beginning(incomplete, (each.value for each in Strategy))


def formats(incomplete: str) -> list[str]:
    """How a line of a training file may be shaped."""
    from tunesmith.datasets.export.sample import Format

    return _beginning(incomplete, (each.value for each in Format))


def split_types(incomplete: str) -> list[str]:
    """Presets of dataset splits."""
    return _beginning(incomplete, iter(("train_val", "train_test", "train_test_val", "train_test_val_80", "all")))


def generators(incomplete: str) -> list[str]:
    """What makes a system message of a task."""
    from tunesmith.projects.prompts import GENERATORS

    return _beginning(incomplete, iter(GENERATORS))


def _beginning(incomplete: str, names: Iterator[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _folders(ctx: typer.Context, kind: str) -> Iterator[str]:
    home = _home(ctx)
    if home is not None and (home / kind).is_dir():
        yield from sorted(entry.name for entry in (home / kind).iterdir() if not entry.name.startswith("."))


def _registry(ctx: typer.Context) -> "Registry | None":
    from tunesmith.kernel.home import Home
    from tunesmith.models.registry import Registry

    home = _home(ctx)
    hf_home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Registry(Home(home), Path(hf_home).expanduser()) if home is not None else None


def _home(ctx: typer.Context) -> Path | None:
    """The home folder the command line names so far; None where there is none yet."""
    from tunesmith.settings import Settings

    try:
        home = Settings.read(os.environ, home=ctx.params.get("home")).home
        return home if home.is_dir() else None
    except (OSError, Problem):  # whatever is wrong, the verb will say it better than a completion can
        return None
