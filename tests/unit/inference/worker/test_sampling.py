"""Sampling: the same sets of candidates as transformers, and draws that neighbours cannot shift."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker.sampling import Picker, pick

NEUTRAL = Sampling(max_new_tokens=8, temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=3)
CPU = torch.device("cpu")


def picker(sampling: Sampling, vocabulary: int, prompt: tuple[int, ...] = (0,)) -> Picker:
    return Picker(sampling, prompt, vocabulary, CPU)


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
        replace(NEUTRAL, temperature=1.5, top_k=12, top_p=0.8, repetition_penalty=1.7),
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
    logits = torch.randn(6, 3000, generator=generator)
    settings = [
        NEUTRAL,
        replace(NEUTRAL, temperature=0.0),
        replace(NEUTRAL, top_k=2000, seed=4),
        replace(NEUTRAL, top_p=0.5, seed=5),
        replace(NEUTRAL, top_p=0.99, temperature=3.0, seed=6),
        replace(NEUTRAL, repetition_penalty=1.3, top_k=7, seed=7),
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
