"""Where a run may go from where it is."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.kernel.problems import Conflict
from tunesmith.training.run import Progress, Recipe, Run, State

RUN = Run(
    id="r", recipe=Recipe("b", "d"), output="adapters/a", executor="local", created_at=datetime(2026, 1, 1, tzinfo=UTC)
)
states = st.sampled_from(State)


@given(st.lists(states, max_size=12))
def test_a_final_state_never_changes_whatever_is_reported_later(reports: list[State]) -> None:
    run, seen = RUN, [RUN.state]
    for state in reports:
        try:
            run = run.to(state)
        except Conflict:
            assert run.state is seen[-1]
            continue
        seen.append(run.state)
    finals = [i for i, state in enumerate(seen) if state.final]
    assert len(finals) <= 1 and all(i == len(seen) - 1 for i in finals)
    # nothing completes that never ran, and nothing returns to the queue
    assert State.COMPLETED not in seen or State.RUNNING in seen
    first_run = seen.index(State.RUNNING) if State.RUNNING in seen else len(seen)
    assert State.QUEUED not in seen[first_run:]


@given(states, states)
def test_a_refused_move_names_the_run_and_both_states(one: State, other: State) -> None:
    from dataclasses import replace

    try:
        moved = replace(RUN, state=one).to(other)
    except Conflict as problem:
        assert "r" in problem.en and one in problem.en and other in problem.en and problem.details["state"] == one
    else:
        assert moved.state is other


def test_fraction_is_of_steps_and_never_over_one() -> None:
    assert Progress().fraction == 0.0
    assert Progress(5, 20).fraction == 0.25
    assert Progress(30, 20).fraction == 1.0


def test_a_reason_comes_in_both_languages_and_falls_back_to_the_one_there_is() -> None:
    failed = RUN.to(State.FAILED, error="out of disk", error_zh="磁盘已满")
    assert failed.reason("zh") == "磁盘已满" and failed.reason("en") == "out of disk"
    assert RUN.to(State.FAILED, error="out of disk").reason("zh") == "out of disk"
    assert RUN.reason("zh") is None


def test_fields_change_with_the_state() -> None:
    with pytest.raises(TypeError):
        RUN.to(State.RUNNING, no_such_field=1)
    assert RUN.to(State.RUNNING, handle="h").handle == "h"
