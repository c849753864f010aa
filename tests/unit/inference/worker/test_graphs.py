"""Recorded decode steps give what the same steps give one kernel at a time, and are left alone where they cannot.

A stand-in records here (``taping.py``); with a GPU the tests marked ``cuda`` record for real.
"""

import gc
import random
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from tests.unit.inference.worker.taping import Cuda, Refused, Tape, Taping
from tests.unit.inference.worker.test_lora import write_adapter
from tunesmith.inference.worker import graphs, weights
from tunesmith.inference.worker import model as models
from tunesmith.inference.worker.attention import Chunk
from tunesmith.inference.worker.cache import Cache, LayerShape, Lease
from tunesmith.inference.worker.graphs import Graphs
from tunesmith.inference.worker.lora import Segment
from tunesmith.inference.worker.model import LanguageModel
from tunesmith.inference.worker.native import library as native
from tunesmith.inference.worker.step import Step


@pytest.fixture(autouse=True)
def through_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (native, weights):
        monkeypatch.setattr(module, "library", lambda: None)
    monkeypatch.setattr(graphs, "_PAUSE", 0)


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=pytest.mark.cuda)])
def recording(request: pytest.FixtureRequest, base: Path, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    if request.param == "stand-in":
        monkeypatch.setattr(models, "recorder", lambda device: Taping())
    return LanguageModel(base, cache_bytes=64 << 20)


@pytest.fixture
def plain(base: Path) -> LanguageModel:
    return LanguageModel(base, cache_bytes=64 << 20, eager=True)


@pytest.fixture(autouse=True)
def no_gradients() -> Any:
    with torch.inference_mode():
        yield


def known(model: LanguageModel) -> Graphs:
    assert model._graphs is not None
    return model._graphs


class Rows:
    """The same rows in several models at once."""

    def __init__(self, *all_of: LanguageModel) -> None:
        self.models = all_of
        self.leases: dict[int, list[Lease]] = {}
        self.worn: dict[int, str] = {}
        self._come = 0

    def come(self, tokens: int, worn: str = "") -> int:
        """A new row that has read so many tokens."""
        self._come += 1
        name = self._come
        self.leases[name] = [model.cache.lease(tokens) for model in self.models]
        self.worn[name] = worn
        ids = [(name + 3 * i) % 250 for i in range(tokens)]
        for model, lease in zip(self.models, self.leases[name], strict=True):
            segments = [Segment(0, tokens, ADAPTERS[model][worn])] if worn else []
            model.forward(Step(ids, [*range(tokens)], [Chunk(lease, 0, tokens, 0)], [], segments, [tokens - 1]))
            lease.length = tokens
        return name

    def leave(self, name: int) -> None:
        for model, lease in zip(self.models, self.leases.pop(name), strict=True):
            model.cache.release(lease)

    def step(self, token: int = 7, of: Sequence[int] | None = None) -> list[Tensor]:
        """All rows, those that wear the same side by side, move by one token; each model's logits."""
        names = sorted(self.leases if of is None else of, key=lambda name: self.worn[name])
        found = []
        for n, model in enumerate(self.models):
            leases = [self.leases[name][n] for name in names]
            for lease in leases:
                model.cache.reserve(lease, lease.length + 1)
            tokens = [(token + 11 * name) % 250 for name in names]
            segments: list[Segment] = []
            for at, name in enumerate(names):
                if not self.worn[name]:
                    continue
                begin = at
                adapter = ADAPTERS[model][self.worn[name]]
                if segments and segments[-1].adapter is adapter:
                    begin = segments.pop().begin
                segments.append(Segment(begin, at + 1, adapter))
            decoding = [(lease, at) for at, lease in enumerate(leases)]
            step = Step(tokens, [lease.length for lease in leases], [], decoding, segments, range(len(names)))
            found.append(model.forward(step).logits)
            for lease in leases:
                lease.length += 1
        return found


ADAPTERS: weakref.WeakKeyDictionary[LanguageModel, dict[str, Any]] = weakref.WeakKeyDictionary()


def read(adapters: Sequence[Path], *all_of: LanguageModel) -> None:
    for model in all_of:
        ADAPTERS[model] = {f"a{n}": model.lora.read(f"a{n}", folder) for n, folder in enumerate(adapters)}


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one.cpu(), other.cpu(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("settled", [True, False])
def test_rows_that_come_grow_and_leave_get_the_logits_they_get_without_graphs(
    recording: LanguageModel, plain: LanguageModel, base: Path, adapters: list[Path], tmp_path: Path, settled: bool
) -> None:
    dora = write_adapter(base, tmp_path / "dora", r=4, target_modules=["q_proj", "down_proj"], use_dora=True)
    read([*adapters, dora], recording, plain)
    if not settled:  # the memory moves whenever their number doubles or halves
        recording.cache = Cache(
            [LayerShape(2, 16, 16)] * 2, 512, limit=64 << 20, dtype=recording.dtype, device=recording.device
        )
    chance, rows = random.Random(3), Rows(recording, plain)
    replayed = 0
    for n in range(150):
        for name in [name for name, (lease, _) in rows.leases.items() if lease.length > 500]:
            rows.leave(name)
        if len(rows.leases) < 9 and (not rows.leases or chance.random() < 0.2):
            rows.come(chance.choice([3, 40, 250, 256, 300]), chance.choice(["", "", "a0", "a0", "a1", "a2"]))
        elif len(rows.leases) > 1 and chance.random() < 0.15:
            rows.leave(chance.choice(list(rows.leases)))
        before = known(recording).recorded
        for _ in range(3):
            found, right = rows.step(token=n)
            assert same(found, right)
        replayed += known(recording).recorded == before
    assert known(recording).on
    assert known(recording).recorded > 20
    assert replayed > 20  # in all three steps what was recorded earlier, or nothing


def test_a_row_alone_crosses_every_length(recording: LanguageModel, plain: LanguageModel) -> None:
    rows = Rows(recording, plain)
    rows.come(250)
    for n in range(20):  # from an arena of 256 tokens to one of 512
        found, right = rows.step(token=n)
        assert same(found, right)
    assert known(recording).recorded == 3  # one proved them


def test_padding_changes_nothing(recording: LanguageModel) -> None:
    rows = Rows(recording)
    for tokens in (5, 17, 9):
        rows.come(tokens)
    arena = recording.cache.arenas[0]
    rows.step()
    rows.step()
    assert known(recording).recorded == 2
    (alone,) = rows.step()
    for lease, *_ in rows.leases.values():
        lease.length -= 1
    before = [tensor.clone() for tensor in (*arena.keys, *arena.values)]
    for tensor in (*arena.keys, *arena.values):
        tensor[3:] = float("nan")  # worse than what ever lies there
    (beside,) = rows.step()
    assert torch.equal(alone, beside)
    for tensor, was in zip((*arena.keys, *arena.values), before, strict=True):
        assert torch.equal(tensor[:3], was[:3])
        assert bool(tensor[3:, :, 1:].isnan().all())  # it wrote at the beginning of a free slot alone
        assert bool(tensor[4:].isnan().all())


def test_logits_belong_to_who_asked_for_them(recording: LanguageModel) -> None:
    rows = Rows(recording)
    rows.come(5)
    rows.step()
    (first,) = rows.step()
    before = first.clone()
    (second,) = rows.step()
    assert torch.equal(first, before) and not torch.equal(second, before)
    second.fill_(0)  # as whoever draws may do
    (third,) = rows.step()
    assert bool(third.any())


@pytest.mark.parametrize("part", ["chunk", "kept", "paused"])
def test_other_steps_run_as_they_did(recording: LanguageModel, plain: LanguageModel, part: str) -> None:
    rows = Rows(recording, plain)
    one, two = rows.come(5), rows.come(9)
    for n in range(4):
        if part == "paused":
            found, right = rows.step(token=n, of=[one])
        else:
            both = []
            for at, model in enumerate(rows.models):
                first, second = rows.leases[one][at], rows.leases[two][at]
                ids = [4, 9, 8] if part == "chunk" else [4, 9]
                places = [first.length, second.length, second.length + 1][: len(ids)]
                chunks = [Chunk(second, 1, 3, second.length)] if part == "chunk" else []
                decoding = [(first, 0)] if part == "chunk" else [(first, 0), (second, 1)]
                both.append(model.forward(Step(ids, places, chunks, decoding, [], [1])).logits)
                first.length += 1
                second.length += len(ids) - 1
            found, right = both
        assert same(found, right)
    assert known(recording).recorded == 1


def test_a_limited_number_of_graphs_is_kept(
    recording: LanguageModel, plain: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_KEPT", 3)
    rows = Rows(recording, plain)
    for _ in range(9):
        rows.come(5)
        for n in range(3):
            found, right = rows.step(token=n)
            assert same(found, right)
    assert known(recording).recorded == 5  # 2 rows, which proved them, 1, 4, 8 and 16
    assert len(known(recording)) == 3


def test_between_recordings_steps_pass_however_many_kinds_there_are(
    recording: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_PAUSE", 10)
    rows = Rows(recording)
    for tokens in (5, 300):
        rows.come(tokens)
        rows.step()
    before, recorded = known(recording).recorded, []
    for _ in range(12):
        rows.step()
        rows.step(of=[1])
        recorded.append(known(recording).recorded - before)
    assert recorded[:5] == [1] * 5
    assert recorded[-1] == 2


@pytest.mark.parametrize("when", ["loading", "later"])
def test_a_machine_that_cannot_record_says_so_once_and_runs_without(
    base: Path, plain: LanguageModel, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    failing = Taping([Refused("operation not permitted when stream is capturing")])
    monkeypatch.setattr(models, "recorder", lambda device: failing if when == "loading" else Taping())
    with capture_logs() as said:
        model = LanguageModel(base, cache_bytes=64 << 20)
        assert known(model).on == (when == "later")
        known(model)._record = failing
        rows = Rows(model, plain)
        rows.come(5)
        for n in range(5):
            found, right = rows.step(token=n)
            assert same(found, right)
    told = [line for line in said if line["event"] == "no CUDA graphs"]
    assert len(told) == 1 and "not permitted" in told[0]["reason"]
    assert not known(model).on and len(known(model)) == 0


def test_memory_that_runs_out_while_recording_costs_the_graphs_there_are(
    recording: LanguageModel, plain: LanguageModel
) -> None:
    rows = Rows(recording, plain)
    rows.come(5)
    usual, known(recording)._record = known(recording)._record, Taping([torch.OutOfMemoryError("full")])
    for n in range(2):
        found, right = rows.step(token=n)
        assert same(found, right)
    assert known(recording).on and len(known(recording)) == 0
    known(recording)._record = usual
    for n in range(3):
        found, right = rows.step(token=n)
        assert same(found, right)
    assert len(known(recording)) == 1


def test_graphs_that_compute_something_else_are_found_when_the_model_is_loaded(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Idle(Tape):
        def replay(self) -> None:
            pass

    def idle(run: Any) -> Tape:
        run()
        return Idle()

    monkeypatch.setattr(models, "recorder", lambda device: idle)
    with capture_logs() as said:
        model = LanguageModel(base, cache_bytes=64 << 20)
    assert not known(model).on
    assert [line["reason"] for line in said if line["event"] == "no CUDA graphs"] == [
        "a recorded step gives other results"
    ]


def test_an_adapter_is_not_kept_by_its_graphs(
    recording: LanguageModel, plain: LanguageModel, adapters: list[Path]
) -> None:
    for n in range(3):  # names may come again, and so may addresses
        read([adapters[n % 2]], recording, plain)
        rows = Rows(recording, plain)
        name = rows.come(5, "a0")
        for token in range(4):
            found, right = rows.step(token=token)
            assert same(found, right)
        rows.leave(name)
        gone = [weakref.ref(ADAPTERS[model].pop("a0")) for model in (recording, plain)]
        gc.collect()
        assert [one() for one in gone] == [None, None]
    assert known(recording).recorded == 4


def test_what_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order alone; whether CUDA does it is for the tests marked ``cuda``."""
    cuda = Cuda(monkeypatch)
    record = graphs.recorder(torch.device("cuda"))
    assert record is not None and graphs.recorder(torch.device("cpu")) is None
    first = record(cuda.work)
    assert cuda.asked == [
        "side waits for usual",
        "side",
        "usual waits for side",
        "side, recording thread_local",
    ]
    second = record(cuda.work)
    assert [pool for _, pool in cuda.graphs] == [1, 1]
    cuda.graphs.clear()
    del first, second
    gc.collect()
    third = record(cuda.work)
    assert [pool for _, pool in cuda.graphs] == [2]
    assert third is not None

    def fails() -> None:
        if "recording" in cuda.stream:
            raise Refused("operation not permitted when stream is capturing")

    with pytest.raises(Refused):
        record(fails)
    assert cuda.stream == "usual"
