"""Sampling: the same sets of candidates as transformers, and draws that neighbours cannot shift."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker import sampling as sampling_module
from tunesmith.inference.worker.sampling import Picker, pick

NEUTRAL = Sampling(max_new_tokens=8, temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=3)


def picker(sampling: Sampling, vocabulary: int, prompt: tuple[int, ...] = (0,)) -> Picker:
    return Picker(sampling, prompt, vocabulary)


def drawn(logits: torch.Tensor, sampling: Sampling, times: int, prompt: tuple[int, ...] = (0,)) -> Counter[int | None]:
    rows = [picker(replace(sampling, seed=seed), logits.shape[0], prompt) for seed in range(times)]
    return Counter(pick(logits.repeat(times, 1), rows))


@pytest.mark.parametrize(
    "sampling",
    [
        NEUTRAL,
        replace(NEUTRAL, temperature=0.6),
        replace(NEUTRAL, top_k=5),
        replace(NEUTRAL, top_p=0.7),
        replace(NEUTRAL, min_p=0.1),
        replace(NEUTRAL, temperature=1.5, top_k=12, top_p=0.8, repetition_penalty=1.7),
        replace(NEUTRAL, temperature=1.5, top_k=20, top_p=0.95, min_p=0.2),
    ],
)
def test_tokens_are_drawn_as_often_as_transformers_would(sampling: Sampling) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(32, generator=generator) * 2
    prompt = (1, 5, 9)
    scores = logits[None].clone()
    ids = torch.tensor([prompt])
    scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(ids, scores)
    scores = TemperatureLogitsWarper(sampling.temperature)(ids, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(ids, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(ids, scores)
    scores = MinPLogitsWarper(sampling.min_p)(ids, scores)
    expected = scores.softmax(-1)[0]
    times = 4000
    counts = drawn(logits, sampling, times, prompt)
    for token in range(32):
        share = counts[token] / times
        if expected[token] == 0:
            assert share == 0
        else:
            assert abs(share - expected[token].item()) < 0.035


def test_a_nucleus_wider_than_the_candidates_is_still_whole() -> None:
    flat = torch.zeros(5000)
    flat[:10] = 0.01
    counts = drawn(flat, replace(NEUTRAL, top_p=0.9), 600)
    assert len(counts) > 400
    assert max(token for token in counts if token is not None) > 2000


def test_a_row_draws_the_same_beside_any_neighbours() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(8, 3000, generator=generator)
    settings = [
        NEUTRAL,
        replace(NEUTRAL, temperature=0.0),
        replace(NEUTRAL, top_k=2000, seed=4),
        replace(NEUTRAL, top_p=0.5, seed=5),
        replace(NEUTRAL, top_p=0.99, temperature=3.0, seed=6),
        replace(NEUTRAL, repetition_penalty=1.3, top_k=7, seed=7),
        replace(NEUTRAL, min_p=0.05, temperature=2.0, seed=8),
        replace(NEUTRAL, min_p=0.01, top_p=0.95, presence_penalty=1.5, frequency_penalty=-0.5, top_logprobs=2, seed=9),
    ]
    together = [picker(sampling, 3000) for sampling in settings]
    alone = [picker(sampling, 3000) for sampling in settings]
    for _ in range(5):
        chosen = pick(logits.clone(), together)
        assert chosen == [pick(logits[r : r + 1].clone(), [row])[0] for r, row in enumerate(alone)]


def test_a_seed_repeats_and_no_seed_does_not() -> None:
    logits = torch.zeros(1, 1000)

    def draws(seed: int | None) -> list[int | None]:
        row = picker(replace(NEUTRAL, seed=seed), 1000)
        return [pick(logits.clone(), [row])[0] for _ in range(8)]

    assert draws(11) == draws(11) != draws(12)
    assert draws(None) != draws(None)


@pytest.mark.parametrize(
    "sampling", [replace(NEUTRAL, temperature=0.0), replace(NEUTRAL, temperature=1e-30, top_p=0.5)]
)
def test_no_temperature_takes_the_most_likely(sampling: Sampling) -> None:
    logits = torch.tensor([[0.0, 3.0, 2.9, -1.0]])
    assert pick(logits, [picker(sampling, 4)]) == [1]


def test_the_repetition_penalty_counts_the_completion_too() -> None:
    row = picker(replace(NEUTRAL, temperature=0.0, repetition_penalty=2.0), 4, prompt=(3,))
    logits = torch.tensor([[2.0, 3.0, 1.0, 3.5]])
    assert [pick(logits.clone(), [row])[0] for _ in range(3)] == [1, 0, 3]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_give_no_token_and_neighbours_theirs(broken: float) -> None:
    logits = torch.tensor([[0.0, broken, 1.0], [0.0, 1.0, 2.0]])
    for sampling in (NEUTRAL, replace(NEUTRAL, temperature=0.0), replace(NEUTRAL, top_p=0.5)):
        rows = [picker(sampling, 3), picker(replace(sampling, temperature=0.0), 3)]
        assert pick(logits.clone(), rows) == [None, 2]


@given(
    st.integers(0, 1000),
    st.floats(0.2, 4.0),
    st.sampled_from([0, 1, 3, 40, 200]),
    st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_the_same_tokens_can_be_drawn_as_after_transformers_warpers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = torch.randn(1, 200, generator=torch.Generator().manual_seed(seed)) * 3
    ids = torch.zeros(1, 1, dtype=torch.long)
    scores = TemperatureLogitsWarper(temperature)(ids, logits)
    for limit in (TopKLogitsWarper(top_k) if top_k else None, TopPLogitsWarper(top_p), MinPLogitsWarper(min_p)):
        scores = limit(ids, scores) if limit is not None else scores
    heat = replace(NEUTRAL, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    likely = scores.softmax(-1)[0]
    for number in (0.0, 0.2, 0.5, 0.9, 0.999999):
        row = picker(heat, 200)
        row.uniform = lambda number=number: number  # type: ignore[method-assign, misc]
        (token,) = pick(logits.clone(), [row])
        assert token is not None
        assert likely[token] > 0
        if number == 0.999999 and not row.greedy and (top_k or top_p < 1):  # ranked: the least likely comes last
            least = likely[likely > 1e-5].min()
            assert likely[token] <= least * 1.0001


def penalized(logits: torch.Tensor, sampling: Sampling, prompt: list[int], said: list[int]) -> torch.Tensor:
    """The formula of OpenAI's documentation after transformers' repetition penalty, token by token."""
    seen = torch.tensor([prompt + said])
    scores: torch.Tensor = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(seen, logits[None])[0]
    for token, count in Counter(said).items():
        scores[token] -= count * sampling.frequency_penalty + sampling.presence_penalty
    return scores


def test_penalties_are_taken_from_what_each_row_holds() -> None:
    generator = torch.Generator().manual_seed(5)
    greedy = replace(NEUTRAL, temperature=0.0)
    asked = [
        replace(greedy, presence_penalty=0.7),
        replace(greedy, frequency_penalty=0.4),
        greedy,
        replace(greedy, presence_penalty=-0.3, frequency_penalty=0.9, repetition_penalty=1.4),
        replace(greedy, repetition_penalty=0.8),
    ]
    prompts = [[1, 2, 2], [3], [4], [5, 6], [7, 1]]
    rows = [picker(sampling, 12, tuple(prompt)) for sampling, prompt in zip(asked, prompts, strict=True)]
    said: list[list[int]] = [[] for _ in rows]
    for _ in range(40):
        logits = torch.randn(len(rows), 12, generator=generator)
        expected = [int(penalized(logits[r].clone(), asked[r], prompts[r], said[r]).argmax()) for r in range(len(rows))]
        chosen = pick(logits.clone(), rows)
        assert chosen == expected
        for r, token in enumerate(expected):
            said[r].append(token)


def test_presence_and_frequency_leave_the_prompt_alone() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.5]])
    for sampling in (replace(NEUTRAL, presence_penalty=2.0), replace(NEUTRAL, frequency_penalty=2.0)):
        row = picker(replace(sampling, temperature=0.0), 3, prompt=(0, 0, 0))
        assert [pick(logits.clone(), [row])[0] for _ in range(3)] == [0, 1, 2]


def test_rows_that_ask_for_nothing_cost_one_look_at_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: object) -> None:
        raise AssertionError

    for name in ("_penalize", "_report", "_scaled", "_truncated", "_draw"):
        monkeypatch.setattr(sampling_module, name, never)
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [float("nan"), 0.0]])
    rows = [picker(replace(NEUTRAL, temperature=0.0), 2) for _ in range(3)]
    assert pick(logits, rows) == [1, 0, None]
    assert torch.equal(logits[:2], torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


ROWS = st.tuples(st.sampled_from([0.0, 0.8]), st.sampled_from([0.0, 0.9]), st.sampled_from([None, 2]))


@given(st.lists(ROWS, min_size=1, max_size=5), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_rows_draw_the_same_where_the_likeliest_tokens_are_known_already(
    asked: list[tuple[float, float, int | None]], seed: int
) -> None:
    logits = torch.randn(len(asked), 20, generator=torch.Generator().manual_seed(seed))
    logits[seed % len(asked)] *= float("nan") if seed % 3 == 0 else 1.0
    known = sampling_module._best(logits)
    kinds = [
        replace(NEUTRAL, temperature=heat, presence_penalty=penalty, top_logprobs=told, seed=r)
        for r, (heat, penalty, told) in enumerate(asked)
    ]
    alone, helped = ([picker(one, 20) for one in kinds] for _ in range(2))
    for _ in range(6):
        assert pick(logits.clone(), alone) == pick(logits.clone(), helped, known)


def test_log_probabilities_are_of_the_distribution_before_everything_else() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(6)) * 3
    warped = {"temperature": 3.0, "top_k": 2, "min_p": 0.5, "repetition_penalty": 2.0}
    rows = [
        picker(replace(NEUTRAL, top_logprobs=3, presence_penalty=2.0, **warped), 50, prompt=(int(logits[0].argmax()),)),
        picker(replace(NEUTRAL, temperature=0.0), 50),
        picker(replace(NEUTRAL, top_logprobs=0), 50),
    ]
    shares = logits.log_softmax(-1)
    chosen = pick(logits.clone(), rows)
    assert rows[1].likely is None
    for r in (0, 2):
        told, token = rows[r].likely, chosen[r]
        assert told is not None and token is not None
        assert told.logprob == pytest.approx(float(shares[r, token]), abs=1e-5)
    assert rows[2].likely is not None and rows[2].likely.top == ()
    assert rows[0].likely is not None
    best = shares[0].topk(3)
    assert [token for token, _ in rows[0].likely.top] == best.indices.tolist()
    assert [share for _, share in rows[0].likely.top] == pytest.approx(best.values.tolist(), abs=1e-5)
    pick(torch.full((3, 50), float("nan")), rows)
    assert rows[0].likely is None
