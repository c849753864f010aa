"""When text is made of tokens: at once where somebody waits for it or it decides something, else in one go with others."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.unit.inference.worker.remembering import END, LETTERS, Remembering, Stepped, decode, said, talkative
from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker import packing, scheduler, telling
from tunesmith.inference.worker.events import Ended, RowEvent, Text
from tunesmith.inference.worker.row import Row
from tunesmith.inference.worker.scheduler import Scheduler


class Clock:
    """Time that passes with every step."""

    def __init__(self, step_s: float) -> None:
        self.now, self.step_s = 1000.0, step_s

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now


class Paced(Stepped):
    """As ``Stepped``, with text at a pace, rows whose first words are noted as heard, and the steps after which they came."""

    def __init__(self, clock: Clock, pace_s: float) -> None:
        self.model = Remembering()
        self.events: list[tuple[Row, RowEvent]] = []
        self.came: list[int] = []
        self.scheduler = Scheduler(
            self.model,
            lambda ids: "".join(LETTERS[token] for token in ids),  # of an end token, too
            frozenset([END]),
            max_rows=32,
            deliver=self._take,
            pace_s=pace_s,
        )

        def before(step: object) -> None:
            clock.now += clock.step_s

        self.model.before = before

    def _take(self, events: Sequence[tuple[Row, RowEvent]]) -> None:
        for row, _ in events:
            row.heard = True
        self.events += events
        self.came += [self.model.steps] * len(events)

    def pieces(self, row: Row) -> list[tuple[int, int]]:
        """After which steps it reported text, and of how many tokens."""
        pairs = zip(self.came, self.events, strict=True)
        return [(at, event.tokens) for at, (owner, event) in pairs if owner is row and isinstance(event, Text)]


@pytest.fixture(params=["lockstep", "anew"])
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Paced:
    """Text 30 ms after the last at most, steps of 4; in lockstep, and not."""
    clock = Clock(0.004)
    monkeypatch.setattr(packing, "_GUESSED", 0)
    if request.param == "anew":
        monkeypatch.setattr(scheduler, "lockstep", lambda *given: None)
    for module in (scheduler, telling):
        monkeypatch.setattr(module, "time", clock)
    return Paced(clock, 0.03)


def test_first_words_come_at_once_and_then_some_tokens_together(bench: Paced) -> None:
    rows = [bench.row(prompt, tokens=30) for prompt in talkative(3, 30)]
    bench.finish()
    for row in rows:
        assert bench.pieces(row) == [(1, 1), (8, 7), (15, 7), (22, 7), (29, 7), (30, 1)]
    assert bench.spoke_truly(*rows) and bench.empty


def test_text_leaves_before_a_prompt_is_read(bench: Paced) -> None:
    first, late = talkative(2, 30)
    row = bench.row(first, tokens=30)
    bench.step(4)
    assert bench.pieces(row) == [(1, 1)]
    bench.row(late, tokens=30)
    came: list[list[tuple[int, int]]] = []
    bench.model.before = lambda step: came.append(bench.pieces(row))
    bench.step()
    assert came == [[(1, 1), (4, 3)]]


def test_an_end_comes_at_once_after_all_its_text(bench: Paced) -> None:
    rows = [bench.row(prompt, tokens=tokens) for prompt, tokens in zip(talkative(2, 30), (4, 30), strict=True)]
    bench.step(4)
    assert bench.pieces(rows[0]) == [(1, 1), (4, 3)]
    assert isinstance(bench.end(rows[0]), Ended)
    assert bench.pieces(rows[1]) == [(1, 1)]


def test_an_end_token_has_no_text(bench: Paced) -> None:
    prompts = [[n % END, n // END, *range(20)] for n in range(9000)]
    rows = [
        bench.row(
            next(prompt for prompt in prompts if len(said(Row(prompt, Sampling(40, 0.0, 1.0, 0, 1.0)))) == length)
        )
        for length in (5, 6)
    ]
    bench.finish()
    assert all(row.tokens[-1] == END for row in rows)
    assert bench.spoke_truly(*rows)


def test_a_failure_comes_after_all_that_was_said(bench: Paced) -> None:
    row = bench.row(talkative(1, 30)[0], tokens=30)
    bench.step(4)

    def fails(step: object) -> None:
        raise ValueError("broken")

    bench.model.before = fails
    bench.step()
    assert bench.problem(row)
    assert bench.text(row) == decode(row.tokens) and len(row.tokens) == 4


def test_a_row_that_is_set_aside_says_the_rest_when_it_is_read_again(bench: Paced) -> None:
    row = bench.row(talkative(1, 30)[0], tokens=30)
    bench.step(4)
    row.unread = True
    bench.step(2)
    row.unread = False
    bench.step()
    bench.finish()
    assert bench.spoke_truly(row)


def test_a_stop_string_ends_its_row_with_the_token_that_completes_it(bench: Paced) -> None:
    prompts = talkative(3, 30)
    spoken = said(Row(prompts[0], Sampling(30, 0.0, 1.0, 0, 1.0)))
    stop = LETTERS[spoken[5]] + LETTERS[spoken[6]]
    free = [bench.row(prompt, tokens=30) for prompt in prompts[1:]]
    row = Row(prompts[0], Sampling(30, 0.0, 1.0, 0, 1.0, stop=(stop,)))
    bench.scheduler.add(row)
    bench.step(7)
    assert row.tokens == spoken[:7] and bench.end(row).finish == "stop"
    assert bench.text(row) == decode(spoken[:5])
    assert bench.scheduler.running == 2
    bench.finish()
    assert bench.spoke_truly(*free)


def test_a_grammar_ends_its_row_with_the_token_that_completes_it(bench: Paced) -> None:
    class Short:
        """Satisfied by any four tokens."""

        taken = 0

        def mask(self, logits_V: object) -> None: ...

        def take(self, token: int) -> None:
            self.taken += 1

        @property
        def complete(self) -> bool:
            return self.taken == 4

    prompts = talkative(3, 30)
    free = [bench.row(prompt, tokens=30) for prompt in prompts[1:]]
    row = bench.row(prompts[0], tokens=30, grammar=Short())
    bench.step(4)
    assert len(row.tokens) == 4 and bench.end(row).finish == "stop"
    bench.finish()
    assert bench.spoke_truly(*free)


def test_each_token_is_told_by_itself_where_its_probability_is(bench: Paced) -> None:
    def spell(token: int) -> bytes:
        return LETTERS[token].encode()

    row = Row(talkative(1, 30)[0], Sampling(30, 0.0, 1.0, 0, 1.0, top_logprobs=1), spell=spell)
    bench.scheduler.add(row)
    bench.finish()
    told = [event for owner, event in bench.events if owner is row and isinstance(event, Text)]
    assert [piece.text for piece in told] == [LETTERS[token] for token in row.tokens]
    assert [one.text for piece in told for one in piece.logprobs] == [piece.text for piece in told]


@pytest.mark.parametrize(("step_s", "every"), [(0.029, 1), (0.016, 1), (0.014, 2), (0.5, 1)])
def test_slow_steps_are_told_as_they_come(step_s: float, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Any = Clock(step_s)
    for module in (scheduler, telling):
        monkeypatch.setattr(module, "time", clock)
    bench = Paced(clock, 0.03)
    row = bench.row(talkative(1, 30)[0], tokens=9)
    bench.finish()
    assert bench.pieces(row) == [(1, 1), *((at, every) for at in range(1 + every, 10, every))]
    assert bench.spoke_truly(row)
