"""Products with narrow weights: as exact as their weights, and each row by itself."""

import pytest
import torch

from tunesmith.inference.worker import precision
from tunesmith.inference.worker.precision import Precision, choose, packs, plain
from tunesmith.inference.worker.weights import pack
from tunesmith.kernel.problems import Unsupported

CPU = torch.device("cpu")


def product(inputs: int = 96, outputs: int = 70) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    weight = torch.randn(outputs, inputs).mul_(0.05).bfloat16()
    x = torch.randn(9, inputs)
    x[:, 5] *= 50  # one input far above the others, as language models have
    return x, weight, torch.randn(outputs)


def wrong(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found - right).norm() / right.norm())


def test_a_machine_without_fbgemm_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packs(CPU)  # the tests of narrow weights need it: continuous integration runs on x86
    monkeypatch.setattr(precision, "packs", lambda device: False)
    for name in ("float16", "int8"):
        with pytest.raises(Unsupported, match=name):
            choose(name, torch.float32, CPU)
    assert choose("auto", torch.bfloat16, CPU).name in {"bfloat16", "float32"}


def test_float16_keeps_every_bit_of_a_bfloat16_checkpoint(computed_by: str) -> None:
    x, weight, bias = product()
    found = pack([weight], bias, Precision("float16", torch.float32))(x)
    assert torch.allclose(found, torch.nn.functional.linear(x, weight.float(), bias), rtol=1e-5, atol=1e-5)


def test_eight_bits_lose_what_rounding_the_weights_loses_and_no_more(computed_by: str) -> None:
    x, weight, bias = product()
    right = torch.nn.functional.linear(x, weight.float(), bias)
    scales = weight.float().abs().amax(1, keepdim=True) / 127
    rounded = torch.nn.functional.linear(x, (weight.float() / scales).round() * scales, bias)
    found = pack([weight], bias, Precision("int8", torch.float32))(x)
    assert wrong(found, rounded) < 1e-3
    assert wrong(found, right) < 1.2 * wrong(rounded, right) < 0.02


@pytest.mark.parametrize("name", ["float16", "int8"])
def test_a_row_gives_the_same_numbers_whatever_lies_beside_it(name: str, computed_by: str) -> None:
    x, weight, bias = product()
    kernel = pack([weight], bias, Precision(name, torch.float32))  # type: ignore[arg-type]
    beside = torch.cat((x[:1], 1000 * x))
    assert torch.allclose(kernel(x[:1])[0], kernel(beside)[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(kernel(torch.zeros_like(x)), bias.expand(len(x), -1))


def test_auto_rounds_nothing_that_the_checkpoint_holds() -> None:
    assert choose("auto", torch.float32, CPU) == Precision("float32", torch.float32)
    narrow = choose("auto", torch.bfloat16, CPU)
    assert narrow.name in {"bfloat16", "float16", "float32"}
    assert narrow.computed == torch.float32 or narrow.name == "bfloat16"
    with pytest.raises(Unsupported, match="int7"):
        choose("int7", torch.float32, CPU)


@pytest.mark.parametrize("tiles", [True, False])
def test_with_tiles_bfloat16_is_computed_between_products_in_float32(
    tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "tiles", lambda device: tiles)
    asked = choose("bfloat16", torch.float32, CPU)
    assert asked == Precision("bfloat16", torch.float32 if tiles else torch.bfloat16)
    assert plain(asked) == Precision("bfloat16", torch.bfloat16)
    if tiles:
        assert choose("auto", torch.bfloat16, CPU) == asked
        assert choose("auto", torch.float16, CPU) == Precision("float16", torch.float32)
        assert choose("auto", torch.float32, CPU) == Precision("float32", torch.float32)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("outputs", [(16, 48, 32), (16, 7, 32)], ids=["whole panels", "parts of panels"])
def test_weights_one_below_the_other_are_packed_as_one(name: str, outputs: tuple[int, ...]) -> None:
    weights = [torch.randn(one, 24) for one in outputs]
    precision, x = Precision(name, torch.float32), torch.randn(3, 24)  # type: ignore[arg-type]
    assert torch.equal(pack(weights, None, precision)(x), pack([torch.cat(weights)], None, precision)(x))
