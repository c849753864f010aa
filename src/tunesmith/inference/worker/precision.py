"""In which numbers an engine keeps its weights and computes, chosen for the machine and the checkpoint."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from tunesmith.inference.worker.native import library as native
from tunesmith.kernel.problems import Unsupported

Name = Literal["float32", "bfloat16", "float16", "int8"]
NAMES: tuple[str, ...] = get_args(Name)
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Precision:
    """``name``: how weights are kept. ``computed``: what activations are.

    "bfloat16" computed in float32 is the compiled kernels' way with tiles: the inputs of products are rounded to
    bfloat16, and so are keys and values where a whole step is compiled.
    """

    name: Name
    computed: torch.dtype


def choose(asked: str, stored: torch.dtype, device: torch.device) -> Precision:
    """The precision for a checkpoint of ``stored`` numbers.

    ``auto`` never rounds what the checkpoint holds: 32 bits stay 32; 16 bits stay 16. Where the compiled kernels have
    tiles, bfloat16 is multiplied by them, with sums and everything between products in float32, and float16 is widened
    in the product. Elsewhere 16 bits are computed in bfloat16 where the machine has such arithmetic, and otherwise kept
    as float16 and widened in the product, which then reads half as much memory as float32 and is as exact (bfloat16
    weights of at least 8e-6 have an exact float16).

    Raises:
        Unsupported: the machine cannot do what was asked.
    """
    if asked == AUTO:
        if stored == torch.float32:
            return Precision("float32", torch.float32)
        if tiles(device):
            return Precision("bfloat16" if stored == torch.bfloat16 else "float16", torch.float32)
        if fast_bfloat16(device):
            return Precision("bfloat16", torch.bfloat16)
        return Precision("float16" if packs(device) else "float32", torch.float32)
    if asked not in NAMES:
        names = "、".join((AUTO, *NAMES)), ", ".join((AUTO, *NAMES))
        raise Unsupported(f"未知的精度 {asked}，可选：{names[0]}", f"unknown precision {asked}; choose of {names[1]}")
    if asked == "float32":
        return Precision("float32", torch.float32)
    if asked == "bfloat16":
        return Precision("bfloat16", torch.float32 if tiles(device) else torch.bfloat16)
    if asked == "float16" and device.type == "cuda":
        return Precision("float16", torch.float16)
    if not packs(device):
        raise Unsupported(
            f"此机器不支持 {asked} 权重，请选择 auto",
            f"this machine does not compute with {asked} weights; choose auto",
        )
    return Precision("int8" if asked == "int8" else "float16", torch.float32)


def plain(precision: Precision) -> Precision:
    """The nearest that transformers' own code runs in."""
    if precision.name == "bfloat16":
        return Precision("bfloat16", torch.bfloat16)
    names: dict[torch.dtype, Name] = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
    return Precision(names.get(precision.computed, "float32"), precision.computed)


def tiles(device: torch.device) -> bool:
    """The compiled kernels are there, and multiply tiles of bfloat16 and of 8 bits."""
    return device.type == "cpu" and native.tiles()


def fast_bfloat16(device: torch.device) -> bool:
    """The machine multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )


def packs(device: torch.device) -> bool:
    """FBGEMM is there (x86): products of float32 inputs with weights of 16 and 8 bits."""
    return device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines
