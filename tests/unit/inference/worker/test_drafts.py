"""Guesses from what was said before: they change how fast an answer comes and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker.drafts import Drafter, StepTimes, accept, propose
from tunesmith.inference.worker.sampling import Picker, pick
from tunesmith.inference.worker.step import Predictions

VOCABULARY = 12
GREEDY = Sampling(max_new_tokens=8, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=3)
WARM = replace(GREEDY, temperature=1.0, top_p=0.9, repetition_penalty=1.2, frequency_penalty=0.3)


def guess(text: str, most: int = 4) -> str:
    return "".join(map(chr, propose(np.array([ord(letter) for letter in text], dtype=np.int64), most)))


def test_what_followed_the_last_time_is_proposed() -> None:
    assert guess("def add(a, b): return a + b; def add(") == "a, b"
    assert guess("xyz1 xyz2 xyz") == "2 xy"  # the latest of several
    assert guess("abcd-ab|bcd") == "-ab|"  # three tokens that agree say more than two
    assert guess("nothing here?") == ""
    assert guess("") == guess("a") == guess("ab") == ""


def test_a_text_that_goes_round_in_circles_is_followed_round() -> None:
    assert guess("ababab", 7) == "abababa"
    assert guess("aaaa", 3) == "aaa"


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 6))
def test_a_proposal_follows_an_earlier_occurrence_of_the_last_two_tokens(tokens: list[int], most: int) -> None:
    found = propose(np.array(tokens, dtype=np.int64), most)
    followers = {tokens[i + 2] for i in range(len(tokens) - 2) if tokens[i : i + 2] == tokens[-2:]}
    assert len(found) == (most if followers else 0)
    assert not found or found[0] in followers


def model_of(seed: int) -> Callable[[Sequence[int]], torch.Tensor]:
    """Logits that depend on the last two tokens, as a small language model's would."""
    table = torch.randn(VOCABULARY, VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2
    return lambda tokens: table[tokens[-2], tokens[-1]].clone()


@given(st.integers(0, 10_000), st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=5), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_rows_say_the_same_with_any_guesses_as_without(seed: int, wild: list[list[int]]) -> None:
    model = model_of(seed)
    for sampling in (GREEDY, WARM, replace(WARM, top_p=1.0, min_p=0.05)):
        prompts = [[r + 1, 2] for r in range(len(wild))]
        plain = [Picker(replace(sampling, seed=seed + r), prompt, VOCABULARY) for r, prompt in enumerate(prompts)]
        expected = [list(prompt) for prompt in prompts]
        for _ in range(12):
            for r, row in enumerate(plain):
                (token,) = pick(model(expected[r])[None], [row])
                assert token is not None
                expected[r].append(token)
        rows = [Picker(replace(sampling, seed=seed + r), prompt, VOCABULARY) for r, prompt in enumerate(prompts)]
        said = [list(prompt) for prompt in prompts]
        while min(map(len, said)) < 12:
            logits, guesses = [], []
            for r, tokens in enumerate(said):
                # half of the guesses come from what really follows, so that some come true
                future = expected[r][len(tokens) : len(tokens) + 2] + wild[r]
                guesses.append((len(logits), future))
                logits += [model(tokens + future[:i]) for i in range(len(future) + 1)]
            for r, drawn in enumerate(accept(Predictions(torch.stack(logits)), guesses, rows)):
                assert 1 <= len(drawn) <= len(guesses[r][1]) + 1
                said[r] += [token for token in drawn if token is not None]
        for r, tokens in enumerate(said):
            assert tokens[:12] == expected[r][:12]


def test_a_row_whose_logits_are_no_numbers_gives_none_and_draws_no_more() -> None:
    logits = torch.zeros(4, 3)
    logits[:, 1] = 1.0
    logits[1] = torch.nan
    rows = [Picker(GREEDY, [0], 3) for _ in range(2)]
    assert accept(Predictions(logits), [(0, [1, 1]), (3, [])], rows) == [[1, None], [1]]


def times_of(**seconds: float) -> StepTimes:
    """A machine whose steps take so long; ``t3`` are steps of three tokens."""
    times = StepTimes()
    for name, took in seconds.items():
        for _ in range(40):
            times.saw(int(name[1:]), took)
    return times


CIRCLE = [1, 2, 3] * 8


def test_guesses_are_as_long_as_they_come_true() -> None:
    times = times_of(**{f"t{n}": 0.8 + 0.2 * n for n in range(1, 20)})
    drafter = Drafter(CIRCLE)
    for _ in range(10):
        drafter.learn(8, 8)
    assert len(drafter.guess(100, times)) == 8
    assert len(drafter.guess(3, times)) == 3
    assert drafter.guess(0, times) == []
    for _ in range(20):
        drafter.learn(8, 1)
    assert 0 < len(drafter.guess(100, times)) < 8
    for _ in range(20):
        drafter.learn(2, 0)
    assert drafter.guess(100, times) == []
    pause = 0
    while not drafter.guess(100, times):  # what follows may be more like what came before
        pause += 1
        assert pause < 1000
    assert pause > 10


def test_where_two_tokens_take_twice_as_long_nothing_is_guessed_and_where_they_are_free_much_is() -> None:
    slow = times_of(**{f"t{n}": float(n) for n in range(1, 20)})
    free = times_of(**{f"t{n}": 1.0 for n in range(1, 20)})
    drafter = Drafter(CIRCLE)
    for _ in range(10):
        drafter.learn(4, 3)
        assert drafter.guess(8, slow) == []
    assert len(drafter.guess(8, free)) == 8


def test_a_step_of_many_rows_guesses_less_for_each() -> None:
    times = times_of(**{f"t{n}": 1.0 + 0.1 * n for n in range(1, 40)})
    alone, beside = Drafter(CIRCLE), Drafter(CIRCLE)
    assert len(alone.guess(8, times)) > len(beside.guess(8, times, tokens=12, said=12.0))


def test_sizes_that_were_not_seen_lately_are_tried_and_a_first_time_does_not_count() -> None:
    times = StepTimes()
    assert times.of(1) == times.of(9)
    times.saw(1, 9.0)
    times.saw(1, 1.0)
    assert times.of(1) == times.of(9) == 1.0
    times.saw(9, 50.0)  # makes ready
    assert times.of(9) == 1.0
    times.saw(9, 3.0)
    assert (times.of(8), times.of(9), times.of(12)) == (1.0, 3.0, 3.0)
    for _ in range(2000):
        times.saw(1, 1.0)
    assert times.of(9) == 1.0


def test_a_drafter_looks_at_what_was_said_too() -> None:
    said: list[int] = []
    drafter = Drafter([9], said)
    for token in [5, 6, 7, 8, 5, 6]:
        assert drafter.guess(2, StepTimes()) == []
        said.append(token)
    assert drafter.guess(2, StepTimes()) == [7, 8]
    said += [7, 8, 1, 5, 6]
    assert drafter.guess(3, StepTimes())[:2] == [7, 8]


@pytest.mark.parametrize("size", [0, 1, 2])
def test_a_short_prompt_gives_no_guess(size: int) -> None:
    assert Drafter(list(range(size))).guess(4, StepTimes()) == []
