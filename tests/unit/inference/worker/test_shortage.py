"""Short of memory, or of readers: rows leave their place and come back where they were; nothing is said twice."""

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.inference.worker.remembering import END, Stepped, adapter, decode, said
from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker.row import Row
from tunesmith.inference.worker.step import Step

chance = random.Random(4)
SYSTEM = [chance.randrange(END) for _ in range(60)]
SAYS = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"


def prompts(count: int) -> list[list[int]]:
    return [[n, *(chance.randrange(END) for _ in range(20 + n))] for n in range(count)]


def talkative(count: int) -> list[list[int]]:
    """Prompts that are soon too long for the smallest arena, and answered at length."""
    found = ([n, *SYSTEM * 4] for n in range(END))
    return [prompt for prompt in found if len(said(Row(prompt, Sampling(40, 0.0, 1.0, 0, 1.0)))) == 40][:count]


def fits(
    tokens: int, error: Callable[[], BaseException] = lambda: RuntimeError(SAYS), failed: list[int] | None = None
) -> Callable[[Step], None]:
    """Memory for steps of so many tokens; the sizes of the others are noted in ``failed``."""

    def check(step: Step) -> None:
        if len(step.tokens) > tokens:
            if failed is not None:
                failed.append(len(step.tokens))
            raise error()

    return check


@pytest.mark.parametrize("error", [MemoryError, lambda: RuntimeError(SAYS), lambda: torch.OutOfMemoryError("CUDA out of memory")])  # fmt: skip
def test_a_batch_too_large_for_the_memory_shrinks_and_every_row_still_says_all(
    error: Callable[[], BaseException],
) -> None:
    bench = Stepped()
    rows = [bench.row(prompt, tokens=20) for prompt in prompts(16)]
    bench.step(4)
    assert bench.scheduler.running == 14  # some places are for other callers
    failed: list[int] = []
    bench.model.before = fits(3, error, failed)
    bench.step()
    tries = len(failed)
    bench.step(10)
    assert len(failed) < tries + 5  # what did not fit is not tried again at every step
    assert 1 <= bench.scheduler.running <= 3
    assert rows[0].lease is not None  # the oldest survive
    spoken = len(rows[0].tokens)
    bench.step()
    assert len(rows[0].tokens) > spoken
    bench.model.before = fits(70, error)
    bench.finish()
    assert bench.spoke_truly(*rows)
    assert bench.empty


def test_what_is_only_kept_goes_before_any_row() -> None:
    bench = Stepped()
    bench.row([9, *SYSTEM], tokens=2)
    bench.finish()
    rows = [bench.row(prompt, tokens=20) for prompt in prompts(4)]
    bench.step()
    assert bench.scheduler.retained > 0

    def once(step: Step) -> None:
        bench.model.before = lambda step: None
        raise MemoryError

    bench.model.before = once
    bench.step()
    assert bench.scheduler.retained == 0 and bench.scheduler.running == 4
    bench.finish()
    assert bench.spoke_truly(*rows)


def test_a_row_that_does_not_fit_alone_is_told_so_and_the_others_live() -> None:
    bench = Stepped()
    bench.model.before = fits(40)
    small = [bench.row(prompt[:15], tokens=5) for prompt in prompts(3)]
    large = bench.row(SYSTEM * 10, tokens=5)
    late = bench.row(SYSTEM[:20], tokens=5)
    bench.finish()
    assert "does not fit even alone" in bench.problem(large)
    assert bench.spoke_truly(*small, late)
    assert bench.empty


def test_a_long_prompt_is_read_in_smaller_pieces_where_memory_is_short() -> None:
    bench = Stepped()
    bench.model.before = fits(100)
    row = bench.row(SYSTEM * 10, tokens=5)
    bench.finish()
    assert bench.spoke_truly(row)


def test_more_rows_are_tried_again_after_a_while() -> None:
    bench = Stepped()
    bench.model.before = fits(2)
    for prompt in prompts(6):
        bench.row(prompt[:2], tokens=3)
    bench.finish()
    bench.model.before = lambda step: None
    rows = [bench.row([n, n], tokens=400) for n in range(8)]
    most = 0
    while not bench.scheduler.idle:
        bench.step()
        most = max(most, bench.scheduler.running)
    assert most >= 4
    assert bench.spoke_truly(*rows)


def test_no_memory_for_a_place_lets_the_row_wait_or_refuses_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Stepped()
    first = bench.row(SYSTEM, tokens=10)
    bench.step()
    lease = bench.model.cache.lease

    def fails(tokens: int) -> object:
        raise MemoryError

    monkeypatch.setattr(bench.model.cache, "lease", fails)
    second = bench.row([1, *SYSTEM], tokens=10)
    bench.step(3)
    assert (bench.scheduler.running, bench.scheduler.waiting) == (1, 1)
    monkeypatch.setattr(bench.model.cache, "lease", lease)
    bench.finish()
    assert bench.spoke_truly(first, second)
    monkeypatch.setattr(bench.model.cache, "lease", fails)
    third = bench.row([2, *SYSTEM], tokens=10)
    bench.step()
    assert "does not fit even alone" in bench.problem(third)
    assert bench.scheduler.idle and bench.empty


def test_an_arena_that_cannot_grow_keeps_what_its_rows_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Stepped()
    rows = [bench.row(prompt, tokens=40) for prompt in talkative(2)]
    bench.step(3)
    zeros, calls = torch.zeros, 0

    def fails(*size: object, **how: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls in (2, 3):  # the first are values of a layer whose keys have grown already
            raise MemoryError
        return zeros(*size, **how)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr("tunesmith.inference.worker.cache.torch.zeros", fails)
    rows += [bench.row(prompt, tokens=40) for prompt in talkative(5)[2:]]
    bench.finish()
    assert calls > 3
    assert bench.spoke_truly(*rows)
    assert bench.empty


def test_a_row_nobody_reads_gives_its_place_to_others_and_goes_on_when_read() -> None:
    bench = Stepped(max_rows=2)
    slow, other = bench.row(SYSTEM, tokens=50), bench.row(SYSTEM[1:], tokens=50)
    bench.step(10)
    slow.unread = True
    third = bench.row([3, *SYSTEM], tokens=50, group="b")
    bench.step()
    spoken = len(slow.tokens)
    assert slow.lease is None and third.lease is not None
    bench.finish()
    assert bench.spoke_truly(other, third)
    assert len(slow.tokens) == spoken and bench.scheduler.waiting == 1
    assert bench.model.cache.allocated == 0  # it holds no memory but what is kept
    before = bench.model.computed
    slow.unread = False
    bench.step()
    assert bench.model.computed - before == 1  # nothing is read twice
    bench.finish()
    assert bench.spoke_truly(slow)


def test_a_row_nobody_reads_can_be_canceled() -> None:
    bench = Stepped()
    row = bench.row(SYSTEM, tokens=50)
    bench.step(3)
    row.unread = True
    bench.step()
    assert bench.scheduler.idle and bench.scheduler.waiting == 1
    row.canceled = True
    bench.step()
    assert bench.scheduler.waiting == 0 and bench.empty


def test_what_was_guessed_right_moves_along_when_another_row_ends_in_that_step() -> None:
    bench = Stepped()
    short, long = bench.row(SYSTEM[:20], tokens=2), bench.row(SYSTEM[1:20], tokens=20)
    bench.step()

    class Knows:
        def guess(self, most: int, *given: object, **more: object) -> list[int]:
            return said(long)[len(long.tokens) :][: min(most, 3)]

        def gain(self, count: int) -> float:
            return count

        def learn(self, guessed: int, right: int) -> None:
            assert right == guessed

        def add(self, tokens: object) -> None: ...

    assert len(said(long)) > 6
    short.drafter, long.drafter = None, Knows()  # type: ignore[assignment]
    bench.finish()
    assert bench.model.steps < len(said(long))
    assert bench.spoke_truly(short, long)


def test_200_rows_canceled_at_once_are_gone_within_a_step() -> None:
    bench = Stepped(max_rows=64)
    some = [(prompts(90) * 3)[n][:20] for n in range(201)]
    rows = [bench.row(prompt, tokens=50, group=str(n % 7)) for n, prompt in enumerate(some)]
    bench.step(3)
    survivor = rows.pop(5)
    for row in rows:
        row.canceled = True
    bench.step()
    assert (bench.scheduler.running, bench.scheduler.waiting) == (1, 0)
    bench.finish()
    assert bench.spoke_truly(survivor)
    assert bench.empty


def test_300_versions_of_an_adapter_come_and_go_under_load_and_each_row_wears_its_own() -> None:
    bench = Stepped(max_rows=8)
    rows, beside = [], []
    for version in range(1, 301):
        current = adapter(version % 7 + 1)  # a new version every time, though seven are all they say
        rows.append(bench.row(SYSTEM[: 20 + version % 5], current, tokens=1 + version % 6, group=str(version % 3)))
        if version % 10 == 0:
            beside.append(bench.row(SYSTEM[:30], tokens=9))
        bench.step(2)
    bench.finish()
    assert bench.spoke_truly(*rows, *beside)
    assert all(bench.end(row).cached_tokens == 0 for row in rows)
    bench.scheduler.tidy()
    assert bench.empty


@st.composite
def loads(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """What happens before each step: (kind, which, how much)."""
    kinds = st.sampled_from(["ask", "ask", "ask", "same", "next", "cancel", "unread", "read", "short", "wide", "step"])
    return draw(st.lists(st.tuples(kinds, st.integers(0, 999), st.integers(1, 20)), min_size=10, max_size=50))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(load=loads())
def test_whatever_comes_leaves_or_runs_short_every_row_says_what_it_would_alone(
    load: list[tuple[str, int, int]],
) -> None:
    bench = Stepped(max_rows=6, limit=12 * 2048)
    versions = [None, adapter(1), adapter(2)]
    rows: list[Row] = []
    for kind, which, size in load:
        known = rows[which % len(rows)] if rows else None
        if kind == "ask" or known is None:
            prompt = [which % 5] * (which % 3) + SYSTEM[: 1 + size * 2]
            rows.append(bench.row(prompt, versions[which % 3], tokens=size, group=str(which % 4), owner=str(which % 2)))
        elif kind == "same":
            rows.append(bench.row(known.prompt, known.adapter, tokens=size, owner=known.owner))
        elif kind == "next":
            prompt = [*known.prompt, *known.tokens, which % 90]
            rows.append(bench.row(prompt, known.adapter, tokens=size, owner=known.owner))
        elif kind == "cancel":
            known.canceled = True
        elif kind in ("unread", "read"):
            known.unread = kind == "unread"
        elif kind in ("short", "wide"):
            bench.model.before = fits(70) if kind == "short" else lambda step: None
        bench.step()
        retained = bench.scheduler.retained
        assert (
            retained <= bench.model.cache.limit // 4 and retained + bench.scheduler._reserved <= bench.model.cache.limit
        )
    for row in rows:
        row.unread = False
    bench.step()
    bench.finish()
    assert bench.spoke_truly(*(row for row in rows if not row.canceled))
    for row in rows:  # whoever was canceled has said nothing wrong until then
        assert row.tokens == said(row)[: len(row.tokens)]
        assert decode(row.tokens).startswith(bench.text(row))
    assert bench.empty
