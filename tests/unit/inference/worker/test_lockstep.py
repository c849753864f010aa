"""Rows that go on together: what their steps hold is made once, and made anew whenever anything else has happened."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_model import make_tiny_base
from tests.unit.inference.worker.conftest import every_way
from tests.unit.inference.worker.remembering import END, Stepped, adapter, decode, said, talkative
from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker import block, packing, scheduler
from tunesmith.inference.worker.events import RowEvent
from tunesmith.inference.worker.model import LanguageModel
from tunesmith.inference.worker.row import Row
from tunesmith.inference.worker.scheduler import Scheduler
from tunesmith.inference.worker.step import Predictions, Step

GREEDY = Sampling(max_new_tokens=40, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)


@pytest.fixture(autouse=True)
def no_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows make guesses, and are not in lockstep then."""
    monkeypatch.setattr(packing, "_GUESSED", 0)


def lasting(bench: Stepped) -> list[bool]:
    """Of each step from now on, whether its rows were in lockstep."""
    found: list[bool] = []
    bench.model.before = lambda step: found.append(step.lasting is not None)
    return found


def test_the_same_rows_go_on_with_one_step_that_is_moved_on() -> None:
    bench = Stepped()
    steps: list[Step] = []
    bench.model.before = steps.append
    rows = [bench.row(prompt, tokens=12) for prompt in talkative(4, 12)]
    bench.finish()
    # prompts, the first tokens beside each other, lockstep, the ends
    assert [step.lasting is not None for step in steps] == [False, False, *[True] * 9, False]
    assert len({id(step) for step in steps[2:11]}) == 1
    assert bench.spoke_truly(*rows) and bench.empty


@pytest.mark.parametrize(("rows", "together"), [(3, False), (4, True)])
def test_rows_that_may_guess_are_looked_at_anew_each_step(
    rows: int, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "_GUESSED", 4)
    bench = Stepped()
    found = lasting(bench)
    for prompt in talkative(rows, 12):
        bench.row(prompt, tokens=12)
    bench.finish()
    assert any(found) == together


@pytest.mark.parametrize("worn", [None, adapter(3)])
def test_a_row_that_comes_ends_or_leaves_is_not_overlooked(worn: Any) -> None:
    bench = Stepped()
    found = lasting(bench)
    prompts = talkative(6, 60)
    rows = [bench.row(prompt, tokens=60) for prompt in prompts[:4]]
    bench.step(6)
    assert found[-3:] == [True] * 3
    late = bench.row(prompts[4], worn, tokens=60)
    bench.step()
    assert late.tokens and not found[-1]
    bench.step(4)
    assert found[-3:] == [True] * 3
    rows[1].canceled = True
    spoken = len(rows[1].tokens)
    bench.step()
    assert not found[-1] and bench.scheduler.running == 4 and len(rows[1].tokens) == spoken
    bench.step(3)
    rows[2].unread = True
    spoken = len(rows[2].tokens)
    bench.step(3)
    assert rows[2].lease is None and len(rows[2].tokens) == spoken
    rows[2].unread = False
    bench.step(3)
    short = bench.row(prompts[5], worn, tokens=4)
    bench.finish()
    assert bench.spoke_truly(rows[0], *rows[2:], late, short) and bench.empty


def test_a_row_ends_with_its_end_token_and_the_others_go_on() -> None:
    bench = Stepped()
    found = lasting(bench)
    prompts = [[n % END, n // END, *range(20)] for n in range(9000)]
    ending = next(prompt for prompt in prompts if len(said(Row(prompt, GREEDY))) == 9)
    rows = [bench.row(prompt, tokens=40) for prompt in (ending, *talkative(3, 40))]
    bench.step(9)
    assert found[-1]
    assert (rows[0].tokens[-1], bench.end(rows[0]).finish, bench.scheduler.running) == (END, "stop", 3)
    bench.finish()
    assert bench.spoke_truly(*rows) and bench.empty


def test_rows_grow_into_larger_arenas() -> None:
    bench = Stepped(limit=1 << 22)
    found = lasting(bench)
    prompts = talkative(2, 60, length=230) + talkative(1, 60)
    rows = [bench.row(prompt, tokens=60) for prompt in prompts]
    bench.finish()
    assert sum(found) > 50
    assert bench.spoke_truly(*rows) and bench.empty


def test_a_step_that_does_not_fit_is_done_again() -> None:
    bench = Stepped()
    prompts = talkative(5, 30)
    kept = bench.row(prompts[4], tokens=3)
    bench.finish()
    rows = [bench.row(prompt, tokens=30) for prompt in prompts[:4]]
    bench.step(5)
    failed: list[Step] = []

    def once(step: Step) -> None:
        if len(failed) < 2 and step.lasting is not None:
            failed.append(step)
            raise MemoryError

    bench.model.before = once
    bench.finish()
    assert len(failed) == 2  # what was kept has left; then the younger half of the rows
    assert bench.spoke_truly(kept, *rows) and bench.empty


def test_logits_that_are_not_finite_end_their_row_alone() -> None:
    bench = Stepped()
    worn = adapter(2)
    rows = [bench.row(prompt, tokens=30) for prompt in talkative(3, 30)]
    spoilt = bench.row(talkative(4, 12)[3], worn, tokens=30)
    bench.step(5)
    spoken = list(spoilt.tokens)
    bench.model.spoilt.add(worn)
    bench.step()
    assert bench.problem(spoilt)
    assert spoilt.tokens == spoken and bench.scheduler.running == 3
    bench.finish()
    assert bench.spoke_truly(*rows) and bench.empty


def test_a_step_that_fails_ends_its_rows_and_the_next_ones_live() -> None:
    bench = Stepped()
    rows = [bench.row(prompt, tokens=30) for prompt in talkative(3, 30)]
    bench.step(5)

    def fails(step: Step) -> None:
        raise ValueError("broken")

    bench.model.before = fails
    bench.step()
    assert all(bench.problem(row) for row in rows) and bench.empty
    bench.model.before = lambda step: None
    rows = [bench.row(prompt, tokens=30) for prompt in talkative(3, 30)]
    bench.finish()
    assert bench.spoke_truly(*rows) and bench.empty


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_between_them_rows_say_what_they_would_alone(seed: int) -> None:
    chance = random.Random(seed)
    bench = Stepped(max_rows=24, limit=30 * 2048)
    found = lasting(bench)
    versions = [None, None, adapter(1), adapter(2)]
    rows: list[Row] = []
    for _ in range(300):
        if chance.random() < 0.12:
            prompt = [chance.randrange(END) for _ in range(chance.choice([3, 20, 120, 250]))]
            more = {"group": str(chance.randrange(3)), "tokens": chance.choice([2, 30, 90])}
            rows.append(bench.row(prompt, chance.choice(versions), **more))
        if rows and chance.random() < 0.03:
            chance.choice(rows).canceled = True
        if rows and chance.random() < 0.05:
            row = chance.choice(rows)
            row.unread = not row.unread
        bench.step()
    for row in rows:
        row.unread = False
    bench.step()
    bench.finish()
    assert sum(found) > len(found) // 4
    assert bench.spoke_truly(*(row for row in rows if not row.canceled))
    for row in rows:
        assert row.tokens == said(row)[: len(row.tokens)]
        assert decode(row.tokens).startswith(bench.text(row))
    assert bench.empty


def test_tokens_are_counted_as_in_other_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def counts() -> dict[str, tuple[int, int, int]]:
        bench = Stepped()
        for n, prompt in enumerate(talkative(6, 20)):
            bench.row(prompt, adapter(n) if n % 2 else None, tokens=20 - n)
        bench.finish()
        return {
            name: (one.generation_tokens, sum(one.inter_token.counts), sum(one.first_token.counts))
            for name, one in bench.scheduler.measures.series
        }

    together = counts()
    monkeypatch.setattr(scheduler, "lockstep", lambda *given: None)
    assert together == counts()
    assert together[""] == (54, 51, 3)


@every_way
@pytest.mark.parametrize("heat", [0.0, 0.8])
def test_rows_of_a_model_say_the_same_in_lockstep_as_one_by_one(
    computed_by: str, heat: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "_TABLE", 512)  # rotations of the last positions are in no table
    model = LanguageModel(make_tiny_base(tmp_path / "tiny", context=1024), cache_bytes=64 << 20)
    steps: Counter[bool] = Counter()
    forward = model.forward

    def counted(step: Step) -> Predictions:
        steps[step.lasting is not None] += 1
        return forward(step)

    monkeypatch.setattr(model, "forward", counted)

    def spoken(*asked: tuple[int, int]) -> list[list[int]]:
        events: list[tuple[Row, RowEvent]] = []
        stepped = Scheduler(model, lambda ids: "x" * len(ids), frozenset(), max_rows=8, deliver=events.extend)
        rows = [
            Row([5 + (7 * i * n) % 90 for i in range(length)], replace(GREEDY, temperature=heat, seed=n))
            for n, length in asked
        ]
        with torch.inference_mode():
            for row in rows:
                stepped.add(row)
                stepped.step()
                stepped.step()
            while not stepped.idle:
                stepped.step()
        return [row.tokens for row in rows]

    # over the borders of arenas and tables of rotations
    asked = [(1, 10), (2, 240), (3, 250), (4, 490), (5, 500)]
    together = spoken(*asked)
    assert steps[True] > 20
    with monkeypatch.context() as patch:
        patch.setattr(packing, "_GUESSED", 1 << 20)
        for one, tokens in zip(asked, together, strict=True):
            assert spoken(one) == [tokens]
