"""What has been read is not read again, by whom it may be known, and the answers are what they would have been."""

import random
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.inference.worker.remembering import END, Stepped, adapter, said
from tunesmith.inference.worker.packing import Share, pack, share_out
from tunesmith.inference.worker.scheduler import PREFILL_BUDGET

chance = random.Random(3)
SYSTEM = [chance.randrange(END) for _ in range(300)]
QUESTION = [chance.randrange(END) for _ in range(30)]


def test_rows_of_one_prompt_share_one_reading() -> None:
    bench = Stepped()
    prompt = SYSTEM + QUESTION
    rows = [bench.row(prompt, tokens=1) for _ in range(8)]
    bench.finish()
    assert bench.spoke_truly(*rows)
    assert bench.model.computed == len(prompt) + 7
    assert [bench.end(row).cached_tokens for row in rows] == [0] + [len(prompt) - 1] * 7


def test_rows_with_one_system_prompt_wait_for_the_first_and_read_the_rest_themselves() -> None:
    bench = Stepped()
    rows = [bench.row([*SYSTEM, n, *QUESTION], tokens=4) for n in range(5)]
    bench.finish()
    assert bench.spoke_truly(*rows)
    read = len(SYSTEM) + 5 * (1 + len(QUESTION))
    assert read <= bench.model.computed <= read + sum(len(row.tokens) for row in rows)


def test_rows_follow_a_prompt_that_takes_several_steps_to_read() -> None:
    bench = Stepped()
    long = [chance.randrange(END) for _ in range(3 * PREFILL_BUDGET)]
    rows = [bench.row([*long, n], tokens=1) for n in range(3)]
    rows.append(bench.row(long[:700], tokens=1))
    bench.finish()
    assert bench.spoke_truly(*rows)
    assert bench.model.computed <= len(long) + 3 + 1
    assert bench.model.steps <= 6


def test_the_next_turn_of_a_conversation_reads_only_what_is_new() -> None:
    bench = Stepped()
    turn = bench.row(SYSTEM, tokens=6)
    bench.finish()
    before = bench.model.computed
    more = bench.row([*SYSTEM, *turn.tokens, *QUESTION], tokens=1)
    bench.finish()
    assert bench.spoke_truly(turn, more)
    # the last token of an answer is never an input, so it was not read
    assert bench.model.computed - before == len(QUESTION) + 1
    assert bench.end(more).cached_tokens == len(SYSTEM) + len(turn.tokens) - 1


def test_both_rows_of_a_compare_find_their_own_on_the_next_turn() -> None:
    bench = Stepped()
    worn = adapter(1)
    first = [bench.row(SYSTEM, which, tokens=3) for which in (None, worn)]
    bench.finish()
    before = bench.model.computed
    second = [bench.row([*SYSTEM, *row.tokens, 5, 6], row.adapter, tokens=1) for row in first]
    bench.finish()
    assert bench.spoke_truly(*first, *second)
    assert bench.model.computed - before == 2 * 3
    assert first[0].tokens != first[1].tokens


def test_nothing_is_shared_between_owners_not_even_while_it_is_read() -> None:
    bench = Stepped()
    ada, lin = bench.row(SYSTEM, tokens=1, owner="ada"), bench.row(SYSTEM, tokens=1, owner="lin")
    bench.step()
    assert lin.leader is None
    bench.finish()
    assert bench.spoke_truly(ada, lin)
    assert bench.model.computed == 2 * len(SYSTEM)
    for owner in ("", "bob", "ada "):
        late = bench.row(SYSTEM, tokens=1, owner=owner)
        bench.finish()
        assert bench.end(late).cached_tokens == 0
    again = bench.row(SYSTEM, tokens=1, owner="ada")
    bench.finish()
    assert bench.end(again).cached_tokens > 0


def test_a_new_version_of_an_adapter_begins_with_nothing_of_the_old() -> None:
    bench = Stepped()
    old, new = adapter(1), adapter(2)
    assert old.name == new.name
    rows = [bench.row(SYSTEM, old, tokens=3), bench.row(SYSTEM, new, tokens=3)]
    bench.finish()
    rows += [bench.row(SYSTEM, new, tokens=5), bench.row(SYSTEM, old, tokens=5), bench.row(SYSTEM, None, tokens=5)]
    bench.finish()
    assert bench.spoke_truly(*rows)
    assert [bench.end(row).cached_tokens > 0 for row in rows] == [False, False, True, True, False]


def test_a_leader_that_is_canceled_leaves_its_followers_to_themselves() -> None:
    bench = Stepped()
    long = [chance.randrange(END) for _ in range(2 * PREFILL_BUDGET)]
    leader, *others = [bench.row([*long, n], tokens=2) for n in range(4)]
    bench.step()
    assert all(row.leader is leader for row in others)
    leader.canceled = True
    bench.step()
    assert bench.scheduler.retained == 0  # nothing has been drawn yet that would show it to be sound
    bench.finish()
    assert bench.spoke_truly(*others)
    assert bench.empty


def test_a_row_waits_for_no_leader_that_comes_after_it() -> None:
    bench = Stepped()
    many = [bench.row([n] * 2 + SYSTEM * 2, group="evaluation") for n in range(6)]
    bench.step()
    question = bench.row(many[5].prompt, group="chat", tokens=1)  # its leader is the last of the evaluation
    bench.step(4)
    assert bench.end(question).completion_tokens == 1
    assert not many[5].tokens
    bench.finish()
    assert bench.spoke_truly(question, *many)


def test_rows_that_fail_leave_nothing() -> None:
    bench = Stepped()
    sick = adapter(1)
    bench.model.spoilt.add(sick)
    row = bench.row(SYSTEM, sick)
    bench.finish()
    assert "not finite" in bench.problem(row)
    assert bench.scheduler.retained == 0
    bench.model.spoilt.clear()
    well = bench.row(SYSTEM, sick)
    bench.finish()
    assert bench.spoke_truly(well) and bench.end(well).cached_tokens == 0


def test_scored_rows_are_read_in_full_and_leave_nothing() -> None:
    bench = Stepped()
    first = bench.row(SYSTEM, tokens=1)
    bench.finish()
    scored = bench.row(SYSTEM, tokens=1, score=True)
    bench.finish()
    assert len(bench.end(scored).logprobs) == len(SYSTEM) - 1
    assert bench.end(first).cached_tokens == bench.end(scored).cached_tokens == 0


def test_what_is_kept_makes_room_for_rows_that_run() -> None:
    bench = Stepped(limit=8 * 2048)  # eight rows of the smallest arena
    for n in range(20):
        bench.row([n, *QUESTION], tokens=3)
    bench.finish()
    kept = bench.scheduler.retained
    assert 0 < kept <= 2 * 2048
    rows = [bench.row([n, n, *QUESTION], tokens=20, group=str(n)) for n in range(8)]
    bench.step()
    assert bench.scheduler.running == 8 and bench.scheduler.retained == 0
    bench.finish()
    assert bench.spoke_truly(*rows)


def test_guesses_are_part_of_a_step_only_while_they_are_nearly_free() -> None:
    bench = Stepped(max_rows=64)
    rows = [bench.row([n, 1, 2, 3, 1, 2, 3, 1, 2], tokens=12) for n in range(3)]
    bench.step(2)
    shares = share_out(bench.scheduler._running, prefill=512, scored=16)
    step, wanted = pack(bench.model.cache, shares)
    assert len(step.tokens) == sum(1 + len(share.guess) for share in shares) <= 16
    assert [want.end - want.begin for want in wanted] == [1 + len(share.guess) for share in shares]
    bench.finish()
    assert bench.spoke_truly(*rows)
    many = [bench.row([n, 1, 2, 3, 1, 2, 3, 1, 2], tokens=12) for n in range(30)]
    bench.step(2)
    assert share_out(bench.scheduler._running, prefill=512, scored=16) == [Share(row, 1) for row in many]
    bench.finish()
    assert bench.spoke_truly(*many)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, False),
        ({"temperature": 0.7}, True),
        ({"presence_penalty": 0.5}, True),
        ({"top_logprobs": 0}, True),
        ({"temperature": 0.7, "top_k": 1}, False),
    ],
)
def test_logits_are_asked_for_only_where_the_likeliest_token_does_not_do(change: dict[str, Any], wanted: bool) -> None:
    bench = Stepped()
    greedy, other = bench.row([1, 2, 3], tokens=9), bench.row([2, 2, 3], tokens=9)
    other.sampling = replace(other.sampling, **change)
    asked: list[bool] = []
    bench.model.before = lambda step: asked.append(step.logits)
    bench.finish()
    assert asked[0] == wanted
    assert bench.spoke_truly(greedy)


def test_prompts_that_are_scored_ask_for_logits() -> None:
    bench = Stepped()
    bench.row([1, 2, 3], tokens=0, score=True)
    asked: list[bool] = []
    bench.model.before = lambda step: asked.append(step.logits)
    bench.finish()
    assert asked == [True]


def test_the_remembering_model_tells_apart_what_must_not_be_mixed() -> None:
    bench = Stepped()
    rows = [bench.row([1, 2, 3], which) for which in (None, adapter(1), adapter(2))]
    assert len({tuple(said(row)) for row in rows}) == 3
