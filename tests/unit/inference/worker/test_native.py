"""The compiled library by itself: its products, its threads, and what happens where it cannot be used."""

import ctypes
import os
import platform
import shutil
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from tests.unit.inference.worker.narrow_memory import room_for
from tests.unit.inference.worker.narrow_vectors import narrow_vectors
from tests.unit.inference.worker.products import packed
from tunesmith.inference.worker import weights
from tunesmith.inference.worker.attention import Chunk
from tunesmith.inference.worker.model import LanguageModel
from tunesmith.inference.worker.native import library as native
from tunesmith.inference.worker.native.library import Kind, Library
from tunesmith.inference.worker.precision import Precision
from tunesmith.inference.worker.step import Step
from tunesmith.inference.worker.weights import Panels, pack
from tunesmith.kernel.compiled import PROCESSORS

COMPILERS = ("cc", "gcc", "clang")
BLOCK = 256  # inputs with one scale, to weights of 8 bits; see product.h
TILES = tuple(kind for kind in Kind if kind.tiled)
without_tiles = pytest.mark.skipif(not native.tiles(), reason="no tiles are multiplied here")
KINDS = [pytest.param(kind, marks=[without_tiles] * (kind in TILES), id=kind.name) for kind in Kind]
EIGHT_BITS = [each for each in KINDS if each.values[0] in (Kind.INT8, Kind.INT8_TILES)]
# outputs and inputs: whole panels and broken ones, whole blocks of inputs and broken ones
SHAPES = [(16, 8), (1, 1), (33, 257), (70, 96), (47, 530), (96, 256)]


@pytest.fixture(scope="module")
def threads() -> Iterator[Callable[[int], Library]]:
    """Libraries with so many threads of their own, each made once."""
    made: dict[int, Library] = {}

    def of(count: int) -> Library:
        if count not in made:
            made[count] = Library(native._loaded(), count)
        return made[count]

    yield of
    made.clear()


def some_weights(dtype: torch.dtype, outputs: int, inputs: int) -> torch.Tensor:
    if dtype == torch.int8:
        return torch.randint(-127, 128, (outputs, inputs)).to(torch.int8)
    return torch.randn(outputs, inputs).to(dtype)


def largest_near(x: torch.Tensor) -> torch.Tensor:
    """For each input the largest magnitude of its block."""
    return torch.cat([some.abs().amax(1, keepdim=True).expand_as(some) for some in x.split(BLOCK, dim=1)], dim=1)


def test_the_kernels_are_there_wherever_they_can_be_compiled() -> None:
    compiler = os.environ.get("CC") or any(map(shutil.which, COMPILERS))
    compiled = bool(compiler) and platform.machine().lower() in ("x86_64", "amd64")
    usable = torch.backends.cpu.get_cpu_capability() in PROCESSORS
    assert native.library() is not None or not (compiled and usable), "python hatch_build.py compiles them"


def test_tiles_are_used_wherever_the_processor_has_them() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    if native.library() is None or not {"amx_bf16", "amx_int8", "avx512_bf16"} <= set(flags):
        pytest.skip("no library, or the processor has no tiles")
    assert native.tiles(), "the compiler knows no tiles, or the system grants none"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("biased", [False, True])
def test_products_of_all_kinds_are_exact(
    threads: Callable[[int], Library], kind: Kind, outputs: int, inputs: int, biased: bool
) -> None:
    torch.manual_seed(outputs + inputs)
    weight, x = some_weights(kind.dtype, outputs, inputs), torch.randn(40, inputs)
    bias = torch.randn(outputs) if biased else None
    scale = torch.rand(outputs).add_(0.01) if kind.dtype == torch.int8 else None
    wide = weight.double() if scale is None else weight.double() * scale.double()[:, None]
    taken = (x.bfloat16() if kind.dtype == torch.bfloat16 and kind.tiled else x).double()
    right = torch.nn.functional.linear(taken, wide, None if bias is None else bias.double())
    most = torch.nn.functional.linear(taken.abs(), wide.abs(), None if bias is None else bias.abs().double())
    alone = packed(threads(1), weight, bias, scale, kind)
    shared = packed(threads(3), weight, bias, scale, kind)
    every = alone(x)
    assert every.shape == right.shape and alone(x[:0]).shape == (0, outputs)
    allowed = most * (inputs + 2) * 2.0**-24  # float32's rounding, and no more
    if kind.dtype == torch.int8:  # inputs keep 15 bits of the largest of their block
        allowed += torch.nn.functional.linear(largest_near(x).double(), wide.abs()) / (2 * 32767)
    assert bool(((every - right).abs() <= allowed).all())
    for rows in range(1, 41):
        assert torch.equal(alone(x[:rows]), every[:rows])
        assert torch.equal(shared(x[40 - rows :]), every[40 - rows :])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)  # not multiplied by tiles
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_products_have_the_same_bits_with_avx512_and_avx2(
    threads: Callable[[int], Library], dtype: torch.dtype, outputs: int, inputs: int
) -> None:
    torch.manual_seed(outputs)
    weight, bias, x = some_weights(dtype, outputs, inputs), torch.randn(outputs), torch.randn(40, inputs)
    x[5, 0] = float("nan")
    product = packed(threads(2), weight, bias, None)
    every = range(1, 41)
    wide = [product(x[:rows]) for rows in every]
    with narrow_vectors():
        for rows, right in zip(every, wide, strict=True):
            assert torch.equal(product(x[:rows]).nan_to_num(nan=12345.0), right.nan_to_num(nan=12345.0))
            assert bool(right[5:6].isnan().all())


@without_tiles
@pytest.mark.parametrize("outputs", [15, 48])
@pytest.mark.parametrize("inputs", [31, 33, 64, 260, 700, 5000])
def test_tiles_of_eight_bits_give_what_is_computed_without_them_to_the_bit(
    threads: Callable[[int], Library], outputs: int, inputs: int
) -> None:
    torch.manual_seed(inputs)
    weight, scale, bias = torch.randint(-128, 128, (outputs, inputs)).to(torch.int8), torch.rand(outputs), None
    x = torch.randn(70, inputs) * torch.rand(inputs).pow(8) * 1000
    x[3], x[4, 5], x[5, inputs - 1], x[6, 0] = 7.0, float("nan"), float("-inf"), 1e30
    x[7], x[8] = 0.0, 1e-32
    plain = packed(threads(1), weight, bias, scale, Kind.INT8)
    tiles = packed(threads(2), weight, bias, scale, Kind.INT8_TILES)
    for rows in (1, 2, 9, 15, 16, 17, 33, 70):
        found, right = tiles(x[70 - rows :]), plain(x[70 - rows :])
        assert torch.equal(found.view(torch.int32), right.view(torch.int32))
    assert torch.equal(tiles(x).nan_to_num(nan=0.5), plain(x).nan_to_num(nan=0.5))


@without_tiles
@pytest.mark.parametrize("kind", TILES)
def test_tiles_of_more_rows_than_are_multiplied_at_once(threads: Callable[[int], Library], kind: Kind) -> None:
    torch.manual_seed(11)
    weight, x = some_weights(kind.dtype, 50, 6000), torch.randn(1300, 6000)
    product = packed(threads(2), weight, kind=kind)
    every = product(x)
    right = torch.nn.functional.linear(x.bfloat16().double(), weight.double())
    assert torch.linalg.vector_norm(every - right) < 3e-3 * torch.linalg.vector_norm(right)
    for first, rows in ((0, 1), (95, 40), (127, 2), (700, 600), (1299, 1)):
        assert torch.equal(product(x[first : first + rows]), every[first : first + rows])


@without_tiles
@pytest.mark.parametrize("kind", TILES)
def test_torch_finds_its_own_tiles_as_it_left_them(threads: Callable[[int], Library], kind: Kind) -> None:
    torch.manual_seed(12)
    a, b = torch.randn(40, 96).bfloat16(), torch.randn(50, 96).bfloat16()
    right = torch.nn.functional.linear(a, b)
    weight, x = some_weights(kind.dtype, 50, 96), torch.randn(5, 96)
    product = packed(threads(1), weight, kind=kind)
    ours = product(x)
    for _ in range(3):
        assert torch.equal(torch.nn.functional.linear(a, b), right)
        assert torch.equal(product(x), ours)


@without_tiles
def test_inputs_of_tiles_are_rounded_to_the_nearest_and_ties_to_even(threads: Callable[[int], Library]) -> None:
    bits = torch.arange(0x3F7F7FFF, 0x3F838002, 0x3FFF).to(torch.int32)
    bits = torch.cat((bits, torch.arange(0x3F808000 - 2, 0x3F808003), torch.arange(0x3F818000 - 2, 0x3F818003)))
    x = bits.to(torch.int32).view(torch.float32)[:, None]
    product = packed(threads(1), torch.ones(1, 1).bfloat16(), kind=Kind.BFLOAT16_TILES)
    assert torch.equal(product(x), x.bfloat16().float()) and torch.equal(product(-x), -x.bfloat16().float())
    ends = torch.tensor([float("inf"), float("-inf"), 3.4e38, 0.0])[:, None]
    assert torch.equal(product(ends), ends.bfloat16().float())
    assert bool(product(torch.full((1, 1), float("nan"))).isnan().all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inputs", [55, 70])  # a tile is filled up with fewer than half of its inputs, and with more
def test_numbers_that_are_none_stay_in_their_row_and_their_output(
    threads: Callable[[int], Library], kind: Kind, inputs: int
) -> None:
    torch.manual_seed(1)
    weight, bias = some_weights(kind.dtype, 40, inputs), torch.randn(40)
    scale = torch.rand(40) if kind.dtype == torch.int8 else None
    x = torch.randn(21, inputs)
    right = packed(threads(2), weight, bias, scale, kind)(x)
    spoilt = x.clone()
    spoilt[4, 3], spoilt[17, inputs - 1] = float("nan"), float("inf")
    found = packed(threads(2), weight, bias, scale, kind)(spoilt)
    others = [row for row in range(21) if row not in (4, 17)]
    assert torch.equal(found[others], right[others])
    assert bool(found[4].isnan().all()) and not bool(found[17].isfinite().all())
    if kind.dtype != torch.int8:
        weight[7, 5] = float("nan")
        found = packed(threads(2), weight, bias, scale, kind)(x)
        assert bool(found[:, 7].isnan().all())
        assert torch.equal(found[:, [*range(7), *range(8, 40)]], right[:, [*range(7), *range(8, 40)]])


@pytest.mark.parametrize("kind", EIGHT_BITS)
@pytest.mark.parametrize("inputs", [1, 3, 256, 257, 512, 4864])
@pytest.mark.parametrize("sign", [1, -1])
def test_eight_bits_at_their_ends_go_over_nothing(
    threads: Callable[[int], Library], kind: Kind, inputs: int, sign: int
) -> None:
    outputs = torch.tensor([127.0, -127.0, -128.0, 0.0, 1.0]).repeat(5)  # in both halves of a panel
    product = packed(threads(1), outputs[:, None].repeat(1, inputs).to(torch.int8), kind=kind)
    found = product(torch.full((7, inputs), sign * 4.0))
    assert torch.allclose(found, (sign * 4.0 * inputs) * outputs.expand(7, -1), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_each_weight_is_found_where_it_was_put(threads: Callable[[int], Library], kind: Kind) -> None:
    torch.manual_seed(7)
    weight = some_weights(kind.dtype, 37, 263)
    found = packed(threads(2), weight, kind=kind)(torch.eye(263))
    assert torch.allclose(found.t(), weight.float(), rtol=1e-6)


def test_an_input_far_above_the_others_costs_those_of_its_block_alone(threads: Callable[[int], Library]) -> None:
    torch.manual_seed(8)
    product = packed(threads(1), some_weights(torch.int8, 20, 3 * BLOCK))
    far, others = torch.zeros(1, 3 * BLOCK), torch.randn(1, 3 * BLOCK)
    far[0, BLOCK + 9], others[0, BLOCK : 2 * BLOCK] = 1e4, 0
    found = product(far + others) - product(far)
    assert torch.allclose(found, product(others), rtol=1e-3, atol=1.0)  # float32's rounding beside numbers of 1e6


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-31, 1e-20, 1e30, 3e38])
def test_eight_bits_take_inputs_of_any_size(threads: Callable[[int], Library], size: float) -> None:
    x = torch.tensor([[size, -size / 2, 0.0, size / 3]])
    found = packed(threads(1), torch.eye(4).to(torch.int8))(x)
    assert bool(found.isfinite().all())
    assert torch.allclose(found, x, rtol=0, atol=max(size * 2.0**-15, 1e-30))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_number_of_16_bits_is_widened_as_torch_widens_it(
    threads: Callable[[int], Library], dtype: torch.dtype
) -> None:
    every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
    found = packed(threads(1), every[:, None])(torch.ones(1, 1))[0]
    assert torch.equal(found.nan_to_num(nan=12345.0), every.float().nan_to_num(nan=12345.0))
    assert torch.equal(found.isnan(), every.isnan())


@pytest.mark.parametrize("count", range(1, 9))
def test_any_number_of_threads_does_all_of_many_short_products(threads: Callable[[int], Library], count: int) -> None:
    """More of them than the machine has cores, at work, asleep, and on their way from one to the other."""
    torch.manual_seed(count)
    weight, x = torch.randn(16 * 40, 8), torch.randn(20, 8)
    product = packed(threads(count), weight)
    right = product(x)
    assert torch.allclose(right, x @ weight.t(), atol=1e-5)
    end, runs = time.monotonic() + 0.12, 0
    while time.monotonic() < end:
        rows = runs % 20 + 1
        assert torch.equal(product(x[:rows]), right[:rows])
        runs += 1
        if runs % 50 == 0:
            time.sleep(0.0001 * (runs % 7))
    assert runs > 0


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_each_item_of_a_run_is_done_once_by_a_thread_of_its_own(count: int) -> None:
    functions = native._loaded()
    functions.pool_new.restype = ctypes.c_void_p
    pool = ctypes.c_void_p(functions.pool_new(count))
    done = [0] * 64
    at_work: dict[int, int] = {}
    met = []

    def one(context: int, item: int, thread: int) -> None:
        if at_work.setdefault(thread, item) != item or not 0 <= thread < count:
            met.append(thread)
        done[item] += 1
        del at_work[thread]

    called = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)(one)
    for run in range(300):
        items = (run * 37) % 65
        done[:] = [0] * 64
        functions.pool_run(pool, called, None, items)
        assert done == [1] * items + [0] * (64 - items)
        if run % 60 == 0:
            time.sleep(0.001)  # long enough for all to sleep
    functions.pool_free(pool)
    assert met == []


def test_callers_of_several_threads_take_turns(threads: Callable[[int], Library]) -> None:
    torch.manual_seed(5)
    weight, x = torch.randn(16 * 30, 64), torch.randn(24, 64)
    product = packed(threads(3), weight)
    right, wrong = product(x), []

    def ask(rows: int) -> None:
        for _ in range(40):
            if not torch.equal(product(x[:rows]), right[:rows]):
                wrong.append(rows)

    callers = [threading.Thread(target=ask, args=(rows,)) for rows in (1, 7, 18, 24)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_threads_end_with_their_library() -> None:
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        pytest.skip("threads are counted in /proc")
    before = {task.name for task in tasks.iterdir()}

    def others() -> int:
        return len({task.name for task in tasks.iterdir()} - before)

    libraries = [Library(native._loaded(), 5) for _ in range(9)]
    assert others() >= 36
    libraries.clear()
    while others() >= 4:  # the system shows a thread for a moment after it has ended
        time.sleep(0.001)


def test_a_product_without_memory_says_so_and_the_next_is_right(threads: Callable[[int], Library]) -> None:
    rows = 1 << 20
    weight, x = torch.ones(1, 1), torch.ones(rows, 1)
    library = threads(1)
    product = packed(library, weight)
    y = torch.empty(rows, 1)
    with room_for(32 << 20), pytest.raises(MemoryError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", lambda *size: y)  # the results' memory is not the library's
        product(x)
    assert torch.equal(product(x[:5]), x[:5])
    assert torch.equal(product(x), x)


def with_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the library be looked for in ``folder``, a copy of where it is."""
    here = Path(native.__file__).parent
    folder.mkdir()
    for file in (*here.glob("*.[ch]"), here / "kernels.so"):
        if file.exists():
            shutil.copy(file, folder)
    monkeypatch.setattr(native, "__file__", str(folder / "library.py"))
    return folder


def remove(folder: Path) -> None:
    (folder / "kernels.so").unlink()


def change_a_source(folder: Path) -> None:
    with (folder / "step.h").open("a") as file:
        file.write("\n")


def break_it(folder: Path) -> None:
    (folder / "kernels.so").unlink()
    (folder / "kernels.so").write_bytes(b"\x7fELF and no more")


def put_another(folder: Path) -> None:
    (folder / "kernels.so").unlink()
    modules = Path(sysconfig.get_paths()["platlib"]) / "msgspec"
    shutil.copy(next(modules.glob("_core*.so")), folder / "kernels.so")


@pytest.mark.parametrize("spoil", [remove, change_a_source, break_it, put_another])
def test_where_the_library_cannot_be_used_torch_gives_the_same_answers_and_it_is_said_once(
    spoil: Callable[[Path], None], base: Path, model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = cache(native.library.__wrapped__)
    monkeypatch.setattr(native, "library", fresh)
    monkeypatch.setattr(weights, "library", fresh)
    spoil(with_files(tmp_path / "native", monkeypatch))
    with capture_logs() as said:
        without = LanguageModel(base, cache_bytes=1 << 24)
    assert [one["event"] for one in said if one["log_level"] == "warning"] == ["no compiled kernels, torch multiplies"]
    assert without.fused and without._program is None
    assert torch.allclose(logits_of(without), logits_of(model), atol=1e-4)


def test_a_copy_of_the_library_is_used_where_its_sources_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_files(tmp_path / "native", monkeypatch)
    assert isinstance(native._loaded(), ctypes.CDLL)


def test_an_older_processor_is_not_asked_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    with pytest.raises(OSError, match="DEFAULT"):
        native._loaded()


def logits_of(model: LanguageModel) -> torch.Tensor:
    tokens = [5, 17, 40, 300, 8, 99]
    lease = model.cache.lease(len(tokens))
    with torch.inference_mode():
        found = model.forward(Step(tokens, range(6), [Chunk(lease, 0, 6, 0)], [], [], [2, 5])).logits
    model.cache.release(lease)
    return found


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8"])
def test_the_rows_of_a_packed_weight_are_those_it_was_made_of(stored: torch.dtype, precision: Any) -> None:
    weight = torch.randn(77, 40, generator=torch.Generator().manual_seed(3)).to(stored)
    packed = pack([weight], None, Precision(precision, torch.float32))
    rounded = {
        "float32": (),
        "float16": (torch.float32,),
        "bfloat16": (torch.float32, torch.float16),
        "int8": (torch.float32, torch.float16, torch.bfloat16),
    }[precision]
    assert isinstance(packed, Panels) and packed.keeps(weight) is (stored not in rounded)
    if stored not in rounded:
        some = torch.tensor([0, 76, 15, 16, 8, 8, 33])
        assert torch.equal(packed.rows(some).to(stored), weight[some])
    for beyond in (-1, 77, 1 << 20):
        with pytest.raises(IndexError):
            packed.rows(torch.tensor([3, beyond]))
