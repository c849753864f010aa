"""In which numbers an engine keeps its weights and computes, chosen for the machine and the checkpoint."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from tunesmith.kernel.problems import Unsupported

Name = Literal["float32", "bfloat16", "float16", "int8"]
NAMES: tuple[str, ...] = get_args(Name)
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Precision:
    """``name``: how weights are kept. ``computed``: what activations, keys and values are."""

    name: Name
    computed: torch.dtype


def choose(asked: str, stored: torch.dtype, device: torch.device) -> Precision:
    """The precision for a checkpoint of ``stored`` numbers.

    ``auto`` never rounds what the checkpoint holds: 32 bits stay 32; 16 bits stay 16, computed in bfloat16 where the
    machine has such arithmetic and otherwise kept as float16 and widened in the product, which then reads half as much
    memory as float32 and is as exact (bfloat16 weights of at least 8e-6 have an exact float16).

    Raises:
        Unsupported: the machine cannot do what was asked.
    """
    if asked == AUTO:
        if stored == torch.float32:
            return Precision("float32", torch.float32)
        if fast_bfloat16(device):
            return Precision("bfloat16", torch.bfloat16)
        return Precision("float16" if packs_float16(device) else "float32", torch.float32)
    if asked not in NAMES:
        names = "、".join((AUTO, *NAMES)), ", ".join((AUTO, *NAMES))
        raise Unsupported(f"未知的精度 {asked}，可选：{names[0]}", f"unknown precision {asked}; choose of {names[1]}")
    narrow = torch.bfloat16 if fast_bfloat16(device) else torch.float32
    match asked:
        case "float32":
            return Precision("float32", torch.float32)
        case "bfloat16":
            return Precision("bfloat16", torch.bfloat16)
        case "float16":
            if device.type != "cpu":
                return Precision("float16", torch.float16)
            if not packs_float16(device):
                raise _unable("float16")
            return Precision("float16", torch.float32)
    return Precision("int8", narrow)


def fast_bfloat16(device: torch.device) -> bool:
    """The machine multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )


def packs_float16(device: torch.device) -> bool:
    """FBGEMM is there: products of float32 activations and float16 weights on x86."""
    return device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines


def _unable(name: str) -> Unsupported:
    return Unsupported(f"此机器不支持 {name} 权重", f"this machine cannot compute with {name} weights")
