"""How likely tokens were: log-softmax of the model's own logits, and never a number JSON does not have."""

import math

import pytest
import torch

from tunesmith.inference.worker.logprobs import likely


def test_the_drawn_token_and_the_likeliest_are_told_with_their_log_softmax() -> None:
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(0)) * 5
    shares = logits.log_softmax(-1)
    told = likely(logits, [3, 0, 29, 7], [0, 5, 1, 20])
    for r, (token, count) in enumerate(zip([3, 0, 29, 7], [0, 5, 1, 20], strict=True)):
        assert told[r].logprob == pytest.approx(float(shares[r, token]), abs=1e-5)
        best = shares[r].sort(descending=True)
        assert [one for one, _ in told[r].top] == best.indices[:count].tolist()
        assert [share for _, share in told[r].top] == pytest.approx(best.values[:count].tolist(), abs=1e-5)


def test_more_than_the_vocabulary_cannot_be_told() -> None:
    (told,) = likely(torch.zeros(1, 3), [1], [20])
    assert len(told.top) == 3


def test_what_cannot_be_drawn_is_told_with_a_finite_number() -> None:
    (told,) = likely(torch.tensor([[0.0, -math.inf]]), [1], [2])
    assert told.logprob == -9999.0
    assert told.top == ((0, 0.0), (1, -9999.0))
