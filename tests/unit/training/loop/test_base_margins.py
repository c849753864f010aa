"""The base's view of preferences: measured once, shared among processes, and never taken from anything else."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.server import free_port
from tests.unit.training.loop.test_preference import RECIPE, pairs, preferred  # noqa: F401  (a fixture)
from tunesmith.training import run_folder
from tunesmith.training.data.encoding import Encoder
from tunesmith.training.data.material import Material
from tunesmith.training.data.pairs import EncodedPair, encode_pairs
from tunesmith.training.loop.base_margins import BaseMargins
from tunesmith.training.loop.checkpoint_files import BASE_MARGINS
from tunesmith.training.loop.checkpoints import Keeper, read_newest
from tunesmith.training.loop.loading import load_base
from tunesmith.training.loop.lora_modules import with_lora
from tunesmith.training.loop.objective import Surprise
from tunesmith.training.loop.preference import Preference
from tunesmith.training.loop.ranks import Ranks, joined
from tunesmith.training.recipe import execute
from tunesmith.training.run import Progress
from tunesmith.training.run_folder import Stopped, go_on_from

SHORT = replace(RECIPE, epochs=6, batch_size=2, dropout=0.3)  # 12 steps
MARGINS = [0.1, -2.5, 3e-7, 41.0]


class Killed(BaseException):
    """Nothing after it is done, as after kill -9."""


class Teller:
    """Is killed when it is told of a step."""

    def __init__(self, at: int) -> None:
        self._at = at

    def step(self, progress: Progress, *told: Mapping[str, float] | float | None) -> int:
        if progress.step == self._at:
            raise Killed
        return 0


Train = Callable[..., bytes]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs were measured, each time."""
    found: list[int] = []
    measure = Preference._measured

    def counted(self: Preference, examples: list[EncodedPair], stopped: Any, ranks: Ranks) -> list[float]:
        found.append(len(examples))
        return measure(self, examples, stopped, ranks)

    monkeypatch.setattr(Preference, "_measured", counted)
    return found


@pytest.fixture
def train(tiny_base: Path, pairs: list[EncodedPair]) -> Train:  # noqa: F811
    def one(folder: Path, *, killed_at: int = 0, of: str = "it", data: Material | None = None) -> bytes:
        """Train in ``folder`` from its newest checkpoint; the weights, empty where it was killed."""
        folder.mkdir(exist_ok=True)
        model, keeper = with_lora(load_base(tiny_base, None), SHORT), Keeper(folder, 0.0)
        material = data or Material(pairs, [], pairs[:1])
        try:
            execute(
                SHORT, model, material, Teller(killed_at), lambda: False, keeper, read_newest(folder),
                margins=BaseMargins(folder, of),
            )  # fmt: skip
        except Killed:
            keeper.flush()  # as far as it had come
            return b""
        keeper.flush()
        return b"".join(weight.detach().numpy().tobytes() for weight in model.parameters() if weight.requires_grad)

    return one


def test_a_killed_run_reads_what_was_measured_and_ends_with_the_same_bytes(
    train: Train, tmp_path: Path, measured: list[int]
) -> None:
    whole = train(tmp_path / "whole")
    assert measured == [5]
    folder = tmp_path / "killed"
    for at in (1, 4, 9):
        assert train(folder, killed_at=at) == b""
    assert run_folder.checkpointed_step(folder) > 0  # it did go on
    assert train(folder) == whole and measured == [5, 5]
    new = tmp_path / "resumed"
    go_on_from(folder, new)
    assert train(new) == whole and measured == [5, 5]


def cut_short(content: bytes) -> bytes:
    return content[:-4]


def one_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def emptied(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("harm", [cut_short, one_bit, emptied])
def test_a_damaged_file_is_measured_again_and_nothing_else_comes_out(
    train: Train, tmp_path: Path, measured: list[int], harm: Callable[[bytes], bytes]
) -> None:
    train(tmp_path, killed_at=3)
    kept = tmp_path / run_folder.CHECKPOINTS / BASE_MARGINS
    right = kept.read_bytes()
    kept.write_bytes(harm(right))
    train(tmp_path, killed_at=8)
    assert measured == [5, 5] and kept.read_bytes() == right


def test_margins_are_kept_to_the_bit_and_are_of_one_thing_only(tmp_path: Path) -> None:
    kept = BaseMargins(tmp_path, ["base", "data", {"b": 1, "a": 2}])
    assert kept.read(4) is None
    kept.write(MARGINS)
    again = BaseMargins(tmp_path, ["base", "data", {"a": 2, "b": 1}])
    assert again.read(4) == torch.tensor(MARGINS).tolist() and again.read(3) is None
    assert BaseMargins(tmp_path, ["base", "other data", {"a": 2, "b": 1}]).read(4) is None
    assert [path.name for path in (tmp_path / run_folder.CHECKPOINTS).iterdir()] == [BASE_MARGINS]


def test_whoever_is_asked_to_stop_stops_measuring_and_keeps_nothing(
    tiny_base: Path, tmp_path: Path, pairs: list[EncodedPair]  # noqa: F811
) -> None:  # fmt: skip
    surprise = Surprise(load_base(tiny_base, None))
    kept = BaseMargins(tmp_path, "it")
    with pytest.raises(Stopped):
        Preference(surprise, 0.1).measure_base(pairs, lambda: True, kept=kept)
    assert kept.read(4) is None


def many(tokenizer: Any) -> list[EncodedPair]:
    """More tokens than go through the model at once, several times."""
    rows = [preferred(f"{n} " * (1 + n % 7), "The mayor is Ada. " * (1 + n % 5), "Go away!") for n in range(120)]
    return encode_pairs(rows, Encoder(tokenizer, 64), "pairs")


def beside(rank: int, base: Path, examples: list[EncodedPair], folder: Path) -> None:
    """One of two processes: measures, or reads what the first has kept, and tells the margins and its work."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    surprise = Surprise(load_base(base, None))
    score, passes = surprise.__class__.__call__, []

    def counted(self: Surprise, laid: Any) -> torch.Tensor:
        passes.append(1)
        return score(self, laid)

    Surprise.__call__ = counted  # type: ignore[method-assign]
    with joined() as ranks:
        for turn in ("measured", "read"):
            preference = Preference(surprise, 0.1)
            preference.measure_base(examples, ranks=ranks, kept=BaseMargins(folder, "it") if ranks.first else None)
            found = [preference._base[id(pair)] for pair in examples]
            torch.save((found, len(passes)), folder / f"{turn}-{rank}")


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of later Pythons, for the threads of this one
def test_two_processes_measure_a_share_each_and_both_know_all(
    tiny_base: Path, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = many(tokenizer)
    surprise = Surprise(load_base(tiny_base, None))
    parts, alone = len(surprise.parts(examples)), Preference(surprise, 0.1)
    alone.measure_base(examples)
    expected = [alone._base[id(pair)] for pair in examples]
    assert parts > 3
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    started = multiprocessing.get_context("fork")
    both = [started.Process(target=beside, args=(rank, tiny_base, examples, tmp_path)) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(100)
        process.kill()
    assert [process.exitcode for process in both] == [0, 0]
    for rank in (0, 1):
        found, passes = torch.load(tmp_path / f"measured-{rank}")
        assert found == expected and passes == len(range(rank, parts, 2))
        assert torch.load(tmp_path / f"read-{rank}") == (expected, passes)  # no pass more
