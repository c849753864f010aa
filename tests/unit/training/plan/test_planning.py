"""Rehearsals in real child processes on a tiny real model: they measure, leave nothing behind and end with who asks."""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.server import wait_until
from tests.unit.training.plan.test_plan import drawn
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid, Unavailable
from tunesmith.models.registry import Registry
from tunesmith.settings import Settings
from tunesmith.training import run_folder
from tunesmith.training.plan import planning
from tunesmith.training.plan.accuracy import read
from tunesmith.training.plan.planning import Planner
from tunesmith.training.plan.prediction import Plan
from tunesmith.training.plan.rehearsal import weights_of
from tunesmith.training.plan.room import Room
from tunesmith.training.run import Recipe
from tunesmith.training.run_folder import Order

RECIPE = Recipe("tiny", "data/a.jsonl", epochs=2, batch_size=4, max_length=64, rank=4, alpha=8.0)


@pytest.fixture
def home(tmp_path: Path, tiny_base: Path) -> Home:
    home = Home(tmp_path / "home")
    shutil.copytree(tiny_base, home.root / "models" / "tiny")
    write(
        home, [("Who is the mayor? " * (1 + n % 3), "Ada is the mayor of the town. " * (1 + n % 9)) for n in range(30)]
    )
    return home


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made now."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def write(home: Home, talks: list[tuple[str, str]]) -> None:
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in talks]
    (home.root / "data").mkdir(exist_ok=True)
    (home.root / "data" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def planner(home: Home, busy: bool = False) -> Planner:
    settings = replace(Settings.read({}, home=home.root), threads=1)
    return Planner(home, Registry(home, None), settings, lambda recipe, output, caller: recipe, lambda: busy)


def empty(folder: Path) -> bool:
    return not list(folder.iterdir())


def rehearsals() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "tunesmith.training.plan.rehearsal" in child.cmdline():
                found.append(child)
    return found


async def test_a_plan_is_measured_leaves_nothing_behind_and_is_held_against_its_run(
    home: Home, temporary: Path
) -> None:
    before = {path for path in home.root.rglob("*") if path.is_file()}
    plan = await planner(home).plan(RECIPE)
    assert plan.measured and plan.fits and plan.why is None
    assert (plan.examples, plan.updates_per_epoch, plan.steps) == (30, 8, 16)
    assert 0 < plan.supervised < plan.tokens and plan.tokens_per_second > 0
    assert 0 < plan.cut < 1 and 0 < plan.cut_tokens < 1
    after = {path for path in home.root.rglob("*") if path.is_file()}
    assert {path.parent for path in after - before} == {home.runs / ".plans"}
    assert rehearsals() == [] and empty(temporary)

    folder = home.runs / "a"
    folder.mkdir()
    order = Order("a", str(home.root), "adapters/a", str(home.root / "models/tiny"), RECIPE, 1)
    run_folder.write_order(folder, order)
    trainer = [sys.executable, "-m", "tunesmith.training.trainer", "--run-dir", str(folder)]
    await asyncio.to_thread(subprocess.run, trainer, check=True, capture_output=True)
    held = read(folder)
    assert held is not None and held.predicted.by == "rehearsal" and held.predicted.seconds == plan.seconds
    assert abs(held.memory_error or 9) < 0.25  # of some 400 MB, nearly all of it torch
    assert held.seconds > 0


async def test_a_machine_that_is_taken_gets_an_estimate_that_says_so(home: Home) -> None:
    with (home.root / "data" / "a.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]}\n')
    plan = await planner(home, busy=True).plan(replace(RECIPE, skip_bad=True))
    assert not plan.measured and "taken by another run" in (plan.note("en") or "")
    assert (plan.examples, plan.skipped, plan.steps) == (30, 1, 16) and plan.memory_bytes > 0 and plan.train_s > 0
    assert not (home.runs / ".plans").exists()


async def test_while_another_process_rehearses_on_this_home_nothing_is_measured(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[bool] = []

    async def rehearsed(self: Planner, recipe: Recipe, measure: bool) -> Plan:
        measured.append(measure)
        return drawn(1 << 40)

    monkeypatch.setattr(Planner, "_rehearsed", rehearsed)
    descriptor = os.open(home.runs, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        await planner(home).plan(RECIPE)
    finally:
        os.close(descriptor)
    await planner(home).plan(RECIPE)
    assert measured == [False, True]


async def test_a_base_too_large_for_the_machine_is_not_even_loaded(home: Home) -> None:
    header = json.dumps({"model.layers.0.mlp.up_proj.weight": {"dtype": "BF16", "shape": [2_000_000, 1_000_000]}})
    size = len(header).to_bytes(8, "little")
    (home.root / "models/tiny/model-00002.safetensors").write_bytes(size + header.encode())
    plan = await planner(home).plan(RECIPE)
    assert not plan.fits and not plan.measured and "base model alone" in (plan.note("en") or "")
    assert plan.remedies == ()


async def test_too_little_memory_ends_the_rehearsal_and_says_so(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "room", lambda folder: Room("cpu", 4_000_000, 1 << 40))
    with pytest.raises(Unavailable, match="too few to read the data"):
        await planner(home).plan(RECIPE)


async def test_bad_data_is_refused_as_the_trainer_would(home: Home, temporary: Path) -> None:
    write(home, [("q", "a"), ("q", "")])
    with pytest.raises(Invalid, match=r"a\.jsonl"):
        await planner(home).plan(RECIPE)
    assert empty(temporary)


async def test_who_leaves_takes_the_rehearsal_with_them(home: Home, temporary: Path) -> None:
    asking = asyncio.create_task(planner(home).plan(RECIPE))
    await asyncio.to_thread(wait_until, rehearsals, "no rehearsal was begun", 30)
    [child] = rehearsals()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not child.is_running() and empty(temporary)


def test_a_rehearsal_whose_asker_was_killed_ends_by_itself(home: Home, tmp_path: Path) -> None:
    order = Order("", str(home.root), "", str(home.root / "models/tiny"), RECIPE, 1)
    asked: dict[str, Any] = {"order": json.loads(_json(order)), "folder": str(tmp_path), "measure": True}
    child = subprocess.Popen(planning.COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdin and child.stdout
    child.stdin.write(json.dumps(asked | {"memory_bytes": 1 << 40}).encode() + b"\n")
    child.stdin.flush()
    assert b'"looked"' in child.stdout.readline()  # it is in the midst of its work
    child.stdin.close()
    began = time.monotonic()
    assert child.wait(30) == 1 and time.monotonic() - began < 20
    child.stdout.close()
    assert child.stderr is not None
    child.stderr.close()


def test_the_shapes_of_a_base_are_read_from_its_files_alone(tiny_base: Path) -> None:
    from tunesmith.training.loop.loading import load_base
    from tunesmith.training.loop.lora_modules import with_lora

    found, model = weights_of(tiny_base), load_base(tiny_base, None)
    assert found.count == sum(weight.numel() for weight in model.parameters())
    for modules in ((), ("q_proj", "v_proj")):
        recipe = replace(RECIPE, target_modules=modules)
        wearing = with_lora(load_base(tiny_base, None), recipe)
        assert found.adapter(recipe) == sum(w.numel() for w in wearing.parameters() if w.requires_grad)


def _json(order: Order) -> bytes:
    import msgspec

    return msgspec.json.encode(order)
