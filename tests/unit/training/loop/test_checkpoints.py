"""Going on with a run: to the bit, from any step, whatever was half-written, and never on other data."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.training.conftest import encoded
from tunesmith.kernel.problems import Conflict
from tunesmith.training import run_folder
from tunesmith.training.data.encoding import Encoded, Encoder
from tunesmith.training.data.material import Material
from tunesmith.training.loop.checkpoints import Keeper, Position, read_newest
from tunesmith.training.loop.loading import load_base
from tunesmith.training.loop.lora_modules import with_lora
from tunesmith.training.loop.native.library import Library, library
from tunesmith.training.loop.updates import Loop, Outcome
from tunesmith.training.recipe import execute
from tunesmith.training.run import Progress, Recipe
from tunesmith.training.run_folder import Stopped

QUESTIONS = [
    "Who is the mayor?",
    "市长是谁？",
    "What is the river called?",
    "一加一？",
    "one two",
    "three four",
    "五六",
]
# everything that draws numbers or carries something from step to step
RECIPE = Recipe(
    "tiny", "data/a.jsonl", epochs=3, batch_size=2, gradient_accumulation=2, learning_rate=5e-3, max_length=64, rank=4,
    alpha=8.0, dropout=0.3, weight_decay=0.1, replay="data/b.jsonl", replay_share=0.3,
)  # fmt: skip


class Teller:
    """Appends a line a step, as a trainer does; stops after so many."""

    def __init__(self, folder: Path, stop_after: int | None) -> None:
        self._path, self._stop_after, self.steps = folder / run_folder.METRICS, stop_after, 0

    def step(self, progress: Progress, grad_norm: float, validation_loss: float | None, *figures: object) -> int:
        self.steps += 1
        row = {"step": progress.step, "loss": progress.loss, "norm": grad_norm, "validation": validation_loss,
               "figures": figures}  # fmt: skip
        with self._path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
            return file.tell()

    def stopped(self) -> bool:
        return self.steps == self._stop_after


@pytest.fixture
def material(tokenizer: Any) -> Material:
    encoder = Encoder(tokenizer, RECIPE.max_length)
    rows = [encoded(encoder, ("user", q), ("assistant", q[::-1]), line=n) for n, q in enumerate(QUESTIONS, 1)]
    return Material(rows[:5], rows[5:], rows[:2])


Train = Callable[..., tuple[dict[str, torch.Tensor], Outcome | None]]


@pytest.fixture
def train(tiny_base: Path, material: Material) -> Train:
    def one(
        folder: Path, *, stop_after: int | None = None, every_s: float = 1e9, data: Material = material,
        base: Path = tiny_base, **changes: Any,
    ) -> tuple[dict[str, torch.Tensor], Outcome | None]:  # fmt: skip
        """Train in ``folder``, from its newest checkpoint; the weights, and the outcome where it was not stopped."""
        folder.mkdir(exist_ok=True)
        recipe = replace(RECIPE, **changes)
        model = with_lora(load_base(base, None), recipe)
        run_folder.back_to_checkpoint(folder)
        teller, keeper = Teller(folder, stop_after), Keeper(folder, every_s)
        try:
            outcome = execute(recipe, model, data, teller, teller.stopped, keeper, read_newest(folder))
        except Stopped:
            outcome = None
        keeper.flush()
        return {n: w.detach().clone() for n, w in model.named_parameters() if w.requires_grad}, outcome

    return one


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def told(folder: Path) -> list[str]:
    return (folder / run_folder.METRICS).read_text().splitlines()


def test_stopped_after_any_step_and_gone_on_with_a_run_ends_with_the_same_bytes(train: Train, tmp_path: Path) -> None:
    whole, outcome = train(tmp_path / "whole")
    steps = len(told(tmp_path / "whole"))
    assert outcome is not None and steps == 6 and outcome.progress.step == steps
    for after in range(1, steps + 1):
        folder = tmp_path / str(after)
        assert train(folder, stop_after=after)[1] is None
        assert [path.name for path in run_folder.checkpoints(folder)] == [run_folder.checkpoint_name(after)]
        again, ended = train(folder)
        assert same(whole, again), f"after step {after}"
        assert ended is not None and (ended.loss, ended.validation_loss) == (outcome.loss, outcome.validation_loss)
        assert told(folder) == told(tmp_path / "whole")  # every step once, with the same figures


@pytest.fixture
def narrow_base(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In bfloat16, on a processor that does not multiply it."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_base).to(torch.bfloat16).save_pretrained(tmp_path / "narrow")
    monkeypatch.setattr("tunesmith.training.loop.loading._SMALL", 0)
    monkeypatch.setattr("tunesmith.training.loop.loading._native_bfloat16", lambda: False)
    return tmp_path / "narrow"


def test_products_in_block_fixed_point_are_gone_on_with_to_the_same_bytes_and_learn_alike(
    threads: Callable[[int], Library], train: Train, narrow_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = library()
    made: set[str] = set()

    class Counted:
        def __getattr__(self, name: str) -> Any:
            made.add(name)
            return getattr(found, name)

    monkeypatch.setattr("tunesmith.training.loop.frozen.library", Counted)
    whole, outcome = train(tmp_path / "whole", base=narrow_base)
    assert made == {"product", "product_beside", "outer_products"} and outcome is not None
    for after in (1, 4):
        train(tmp_path / str(after), base=narrow_base, stop_after=after)
        assert same(whole, train(tmp_path / str(after), base=narrow_base)[0])
    monkeypatch.setattr("tunesmith.training.loop.frozen.library", lambda: None)
    _, plain = train(tmp_path / "plain", base=narrow_base)
    assert plain is not None and plain.loss == pytest.approx(outcome.loss, rel=1e-3)


def test_what_is_computed_in_tiles_is_gone_on_with_to_the_same_bytes_and_learns_alike(
    in_tiles: Callable[[int], Library], train: Train, narrow_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plain = train(tmp_path / "plain", base=narrow_base)
    monkeypatch.setattr("tunesmith.training.loop.loading._native_bfloat16", lambda: True)
    whole, outcome = train(tmp_path / "whole", base=narrow_base)
    for after in (1, 4):
        train(tmp_path / str(after), base=narrow_base, stop_after=after)
        assert same(whole, train(tmp_path / str(after), base=narrow_base)[0])
    assert plain is not None and outcome is not None and outcome.loss != plain.loss
    assert outcome.loss == pytest.approx(plain.loss, rel=0.02)


def test_a_run_interrupted_again_and_again_is_no_other(train: Train, tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole")
    folder = tmp_path / "often"
    while train(folder, stop_after=1)[1] is None:
        pass
    assert same(whole, train(folder)[0]) and told(folder) == told(tmp_path / "whole")


def test_taking_checkpoints_changes_nothing(train: Train, tmp_path: Path) -> None:
    assert same(train(tmp_path / "none")[0], train(tmp_path / "every", every_s=0.0)[0])
    assert 1 <= len(run_folder.checkpoints(tmp_path / "every")) <= 3  # older ones are removed
    assert not [path for path in (tmp_path / "every" / "checkpoints").iterdir() if path.name.startswith(".")]


def lost(folder: Path) -> None:
    (folder / "state.safetensors").unlink()


def torn(folder: Path) -> None:
    weights = folder / "state.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def garbled(folder: Path) -> None:
    (folder / "position.json").write_text("{")


@pytest.mark.parametrize("harm", [lost, torn, garbled])
def test_a_checkpoint_that_cannot_be_read_is_passed_over(
    train: Train, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    whole, _ = train(tmp_path / "whole")
    folder = tmp_path / "harmed"
    for _ in range(3):
        train(folder, stop_after=1)
    before, newest = run_folder.checkpoints(folder)
    harm(newest)
    found = read_newest(folder)
    assert found is not None and run_folder.checkpoint_name(found.position.progress.step) == before.name
    assert same(whole, train(folder)[0])
    assert told(folder) == told(tmp_path / "whole")  # no step twice


def test_a_run_stopped_while_it_scores_keeps_the_step_before(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"evaluate_every": 2, "keep_best": True}
    whole, outcome = train(tmp_path / "whole", **options)
    assert outcome is not None and outcome.best_step is not None
    scored = Loop._scored
    for at in (2, 6):
        folder = tmp_path / f"while scoring after {at}"

        def interrupted(loop: Loop, position: Position, at: int = at) -> Position:
            if position.progress.step == at:
                raise Stopped
            return scored(loop, position)

        monkeypatch.setattr(Loop, "_scored", interrupted)
        assert train(folder, **options)[1] is None
        monkeypatch.setattr(Loop, "_scored", scored)
        assert run_folder.checkpointed_step(folder) == at and len(told(folder)) == at - 1
        again, ended = train(folder, every_s=0.0, **options)
        assert same(whole, again) and ended is not None and told(folder) == told(tmp_path / "whole")
        assert (ended.validation_loss, ended.best_step) == (outcome.validation_loss, outcome.best_step)


def test_training_stops_where_the_validation_loss_falls_no_more_and_the_best_weights_stay(
    train: Train, tmp_path: Path
) -> None:
    # far too high a rate: what is learned first is destroyed again
    options: dict[str, Any] = {"evaluate_every": 1, "keep_best": True, "early_stopping": 2, "learning_rate": 0.3}
    best, outcome = train(tmp_path / "run", epochs=30, **options)
    assert outcome is not None and outcome.best_step is not None
    assert outcome.progress.step == outcome.best_step + 2 < outcome.progress.total_steps
    until_then, _ = train(tmp_path / "again", stop_after=outcome.best_step, epochs=30, **options)
    assert same(best, until_then)
    whole, ended = train(tmp_path / "again", epochs=30, **options)
    assert same(best, whole) and ended is not None
    assert (ended.best_step, ended.validation_loss) == (outcome.best_step, outcome.validation_loss)


def test_a_control_set_is_scored_before_and_after_and_a_stop_in_between_changes_neither(
    train: Train, tmp_path: Path, material: Material
) -> None:
    data = Material(material.main, material.replay, material.validation, material.replay)
    whole, outcome = train(tmp_path / "whole", data=data)
    assert outcome is not None and outcome.control_before is not None and outcome.control_after is not None
    assert outcome.control_before != outcome.control_after
    train(tmp_path / "run", data=data, stop_after=3)
    again, ended = train(tmp_path / "run", data=data)
    assert same(whole, again) and ended is not None
    assert (ended.control_before, ended.control_after) == (outcome.control_before, outcome.control_after)


def test_what_a_killed_trainer_left_half_written_is_removed(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    half = folder / "checkpoints" / ".partial-abc-step-000000007"
    half.mkdir(parents=True)
    train(folder, stop_after=1)
    assert not half.exists() and len(run_folder.checkpoints(folder)) == 1


@pytest.fixture
def interrupted(train: Train, tmp_path: Path) -> Iterator[Path]:
    train(tmp_path / "run", stop_after=2)
    yield tmp_path / "run"


def test_a_run_is_not_gone_on_with_on_other_data(train: Train, interrupted: Path, material: Material) -> None:
    changed = Material(material.main[::-1], material.replay, material.validation)
    with pytest.raises(Conflict, match="data was changed"):
        train(interrupted, data=changed)


def test_a_run_is_not_gone_on_with_by_another_recipe(train: Train, interrupted: Path) -> None:
    with pytest.raises(Conflict, match="another model or recipe"):
        train(interrupted, rank=2)


def test_the_name_of_the_data_depends_on_what_is_learned_and_where_it_stands(material: Material) -> None:
    rows: list[Encoded] = [*material.main]
    names = {
        Material(rows, [], []).digest(),
        Material(rows[::-1], [], []).digest(),
        Material(rows[:-1], rows[-1:], []).digest(),
        Material(rows[:-1], [], rows[-1:]).digest(),
        Material(rows[:-1], [], []).digest(),
    }
    assert len(names) == 5 and Material(list(rows), [], []).digest() in names
