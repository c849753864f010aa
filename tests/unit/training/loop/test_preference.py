"""Preference tuning on a tiny real model: the textbook's loss, and a model that comes to prefer what it is shown."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.unit.training.conftest import encoded, talk
from tests.unit.training.test_recipe import Told, never
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.preferences import Preference as Preferred
from tunesmith.kernel.problems import Invalid
from tunesmith.training import limits
from tunesmith.training.data.encoding import Encoded, Encoder
from tunesmith.training.data.material import Material
from tunesmith.training.data.pairs import EncodedPair, encode_pair, encode_pairs
from tunesmith.training.figures import ACCURACIES, MARGINS, NLL
from tunesmith.training.loop.batches import Plan
from tunesmith.training.loop.loading import load_base
from tunesmith.training.loop.lora_modules import lora_layers, with_lora
from tunesmith.training.loop.objective import Surprise
from tunesmith.training.loop.preference import Preference
from tunesmith.training.recipe import execute
from tunesmith.training.run import Recipe

RECIPE = Recipe(
    "tiny", "d", objective="dpo", epochs=15, batch_size=4, learning_rate=5e-3, max_length=64, rank=4, dropout=0.0
)


def preferred(question: str, chosen: str, rejected: str) -> Preferred:
    return Preferred(*(talk(("user", question), ("assistant", answer)) for answer in (chosen, rejected)))


@pytest.fixture
def pairs(tokenizer: Any) -> list[EncodedPair]:
    encoder = Encoder(tokenizer, 64)
    asked = ("Who is the mayor?", "市长是谁？", "And the river?", "Who are you, and what do you want here?")
    rows = [preferred(q, f"I think it is {n}, dear.", "Go away!") for n, q in enumerate(asked)]
    return encode_pairs(rows, encoder, "pairs")


def log_probability(model: Any, pair: EncodedPair, which: str) -> torch.Tensor:
    """Of the supervised tokens of one answer, the plain way."""
    example = getattr(pair, which)
    said = functional.log_softmax(model(input_ids=torch.tensor([list(example.tokens)])).logits[0].float(), -1)
    return torch.stack([said[at - 1, t] for at, t in enumerate(example.tokens) if example.trained[at]]).sum()


def test_the_loss_is_the_papers(tiny_base: Path, pairs: list[EncodedPair]) -> None:
    model = with_lora(load_base(tiny_base, None), RECIPE).eval()
    base = load_base(tiny_base, None).eval()
    surprise = Surprise(model)
    objective = Preference(surprise, beta=0.3)
    objective.measure_base(pairs)
    first = objective.loss(pairs)[0].detach()
    torch.testing.assert_close(first, len(pairs) * torch.tensor(2.0).log())  # the model still is the base
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for layer in lora_layers(model).values():
            torch.nn.init.normal_(layer.lora_B, std=0.05)
    ours, sums = objective.loss(pairs)
    grads = torch.autograd.grad(ours, [p for p in model.parameters() if p.requires_grad])
    surprise.release()
    expected = torch.zeros(())
    rewards = []
    for pair in pairs:
        chosen, rejected = (
            0.3 * (log_probability(model, pair, which) - log_probability(base, pair, which).detach())
            for which in ("chosen", "rejected")
        )
        expected = expected - functional.logsigmoid(chosen - rejected)
        rewards.append((chosen.detach(), rejected.detach()))
    chosen_P, rejected_P = (torch.stack(side) for side in zip(*rewards, strict=True))
    right, margin = (chosen_P > rejected_P).float().mean(), (chosen_P - rejected_P).mean()  # as TRL has them
    assert not sums.requires_grad and 0 < right < 1
    torch.testing.assert_close((sums[:, 0] / sums[:, 1])[:2], torch.stack([right, margin]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    wanted = torch.autograd.grad(expected, [p for p in model.parameters() if p.requires_grad])
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_what_is_preferred_becomes_likelier_and_the_rest_less(tiny_base: Path, pairs: list[EncodedPair]) -> None:
    def margins(model: Any) -> list[float]:
        with torch.no_grad():
            return [
                float(log_probability(model.eval(), pair, "chosen") - log_probability(model, pair, "rejected"))
                for pair in pairs
            ]

    model, told = with_lora(load_base(tiny_base, None), RECIPE), Told()
    before = margins(model)
    outcome = execute(RECIPE, model, Material(pairs, [], pairs[:2]), told, never)
    assert all(after > was + 5 for after, was in zip(margins(model), before, strict=True))
    assert told.losses[0] == pytest.approx(0.6931, abs=1e-3) and outcome.loss < 0.1
    assert outcome.validation_loss is not None and outcome.validation_loss < 0.2
    steps, scorings = zip(*told.figures, strict=True)
    assert all(step.keys() == {ACCURACIES, MARGINS} for step in steps) and steps[0][MARGINS] == pytest.approx(
        0, abs=1e-4
    )
    assert steps[-1][ACCURACIES] == 1 and steps[-1][MARGINS] > 2
    assert all(scoring.keys() == {ACCURACIES, MARGINS} for scoring in scorings)  # an epoch is a step here
    wanted = sum(after - was for after, was in zip(margins(model)[:2], before[:2], strict=True)) / 2 * RECIPE.dpo_beta
    assert scorings[-1][MARGINS] == pytest.approx(wanted, rel=1e-3) and scorings[-1][ACCURACIES] == 1
    assert outcome.figures == {**steps[-1], **{f"eval_{name}": mean for name, mean in scorings[-1].items()}}


def test_the_best_weights_are_told_of_with_their_own_figures(tiny_base: Path, pairs: list[EncodedPair]) -> None:
    recipe = replace(RECIPE, epochs=4, learning_rate=0.3, keep_best=True)  # far too high: it gets worse again
    told = Told()
    swapped = [EncodedPair(pair.rejected, pair.chosen) for pair in pairs]
    outcome = execute(recipe, with_lora(load_base(tiny_base, None), recipe), Material(pairs, [], swapped), told, never)
    assert outcome.best_step is not None and outcome.best_step < 4
    best = told.figures[outcome.best_step - 1][1]
    assert best != told.figures[-1][1] and outcome.figures[f"eval_{MARGINS}"] == best[MARGINS]


def test_only_what_the_answers_do_not_share_is_scored(tokenizer: Any) -> None:
    pair = encode_pair(preferred("Hi?", "The mayor is Ada.", "The mayor is Lin."), Encoder(tokenizer, 64))
    assert isinstance(pair, EncodedPair)
    first = next(at for at, (a, b) in enumerate(zip(pair.chosen.tokens, pair.rejected.tokens, strict=False)) if a != b)
    assert pair.chosen.trained.find(1) == first == pair.rejected.trained.find(1)
    assert len(pair) == len(pair.chosen) + len(pair.rejected) == len(pair.tokens) == len(pair.trained)


def test_answers_that_are_cut_to_the_same_are_no_pair(tokenizer: Any) -> None:
    row = preferred("Hi?", "The mayor is Ada. " * 9 + "Yes", "The mayor is Ada. " * 9 + "No")
    found = encode_pair(row, Encoder(tokenizer, 32))
    assert isinstance(found, BadRow) and "within max_length" in found.en
    with pytest.raises(Invalid, match="within max_length"):
        encode_pairs([row], Encoder(tokenizer, 32), "pairs")


@pytest.fixture
def general(tokenizer: Any) -> list[Encoded]:
    """One short, one many times as long."""
    encoder = Encoder(tokenizer, 64)
    return [encoded(encoder, ("user", "one?"), ("assistant", said)) for said in ("two", "three four five " * 5)]


def test_a_general_example_counts_as_a_pair_does_however_long_it_is(
    tiny_base: Path, pairs: list[EncodedPair], general: list[Encoded]
) -> None:
    model = with_lora(load_base(tiny_base, None), RECIPE).eval()
    surprise = Surprise(model)
    objective = Preference(surprise, beta=0.3)
    objective.measure_base([*pairs, *general])
    mixed = [general[0], *pairs, general[1]]
    loss, sums = objective.loss(mixed)
    surprise.release()
    means = []
    for example in general:
        labels = [t if learned else -100 for t, learned in zip(example.tokens, example.trained, strict=True)]
        tokens = torch.tensor([list(example.tokens)])
        means.append(model(input_ids=tokens, labels=torch.tensor([labels])).loss)
    expected = len(pairs) * torch.tensor(2.0).log() + sum(means)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sums[2, 0] / sums[2, 1], sum(means) / 2, rtol=1e-4, atol=1e-4)
    assert objective.weight(mixed) == 6 and sums[0, 1] == sums[1, 1] == 4


def test_general_examples_are_learned_beside_the_pairs(
    tiny_base: Path, pairs: list[EncodedPair], general: list[Encoded]
) -> None:
    recipe = replace(RECIPE, replay="data/general.jsonl", replay_share=0.4)
    limits.check(recipe, 4096)
    told, plain = Told(), Told()
    outcome = execute(
        recipe, with_lora(load_base(tiny_base, None), recipe), Material(pairs, general, [], general), told, never
    )
    without = execute(
        RECIPE, with_lora(load_base(tiny_base, None), RECIPE), Material(pairs, [], [], general), plain, never
    )
    assert outcome.figures[NLL] < 1 and outcome.figures[ACCURACIES] == 1 and NLL not in without.figures
    assert outcome.control_after is not None and without.control_after is not None
    assert outcome.control_after < without.control_after / 2


def test_general_examples_share_batches_with_pairs_whose_answers_are_as_long(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer, 64)
    asked = ["one " * n for n in range(1, 25)]
    pairs = encode_pairs([preferred(question, "two three", "four five") for question in asked], encoder, "pairs")
    general = [encoded(encoder, ("user", question), ("assistant", "six seven")) for question in asked]
    batches = [batch for update in Plan(pairs, general, 0.5, 8, 1, 1).epoch() for batch in update]
    assert len(batches) == 6
    assert all({type(example) for example in batch} == {EncodedPair, Encoded} for batch in batches)
