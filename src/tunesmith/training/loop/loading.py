"""A base model brought into memory, frozen, in the right number format (torch, transformers)."""

import os
from pathlib import Path
from typing import Any

import torch

from tunesmith.training.data.tokenizing import unusable
from tunesmith.training.limits import require_quantization

# up to here four bytes a weight cost little, and rounding would cost a small model dearly
_SMALL = 100_000_000
_CPU = torch.device("cpu")


def load_base(folder: Path, quantization: str | None) -> Any:
    """The frozen base model in ``folder``, on the GPU where there is one.

    Args:
        quantization: None, "int8" or "int4".

    Raises:
        Invalid: its files cannot be used.
        Unsupported: quantization is asked for and bitsandbytes is not installed.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    # torchrun gives every process a device of its own
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else _CPU
    options: dict[str, Any] = {"dtype": _number_format(_count_weights(folder), device)}
    if quantization is not None:
        options |= {"quantization_config": _quantized(quantization), "device_map": {"": str(device)}}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, **options
        )
    except (OSError, ValueError, KeyError) as error:
        raise unusable("权重", "weights", error) from error
    model.requires_grad_(False)
    return model if quantization is not None else model.to(device)


def computed_in(model: Any) -> torch.dtype:
    """float32 or bfloat16: what a loaded model is to compute in, whatever its weights lie in memory as."""
    kept: torch.dtype = model.dtype
    if kept is torch.float32 or model.device.type == "cuda":
        return kept
    return torch.bfloat16 if kept is torch.bfloat16 and _native_bfloat16() else torch.float32


def _number_format(weights: int, device: torch.device) -> torch.dtype | str:
    """What the frozen weights lie in memory as; the adapter's own are always float32.

    A GPU computes bfloat16 several times faster. On a CPU a small model stays float32: exact, and it fits anyway. A
    larger one takes bfloat16 where the CPU multiplies it natively (measured 6 times faster with AMX), and elsewhere
    what its files hold: there bfloat16 products are 8 times slower than float32's, so ``computed_in`` says float32,
    and a layer is widened while it is used.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if weights <= _SMALL:
        return torch.float32
    return torch.bfloat16 if _native_bfloat16() else "auto"


def _native_bfloat16() -> bool:
    # not in every torch we run with; unknown counts as no
    ask = getattr(torch.cpu, "get_capabilities", dict)
    return any("bf16" in name and bool(has) for name, has in ask().items())


def _count_weights(folder: Path) -> int:
    """Weights in the files of ``folder``, from their headers alone."""
    from safetensors import SafetensorError, safe_open

    count = 0
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    count += torch.Size(file.get_slice(name).get_shape()).numel()
    except (OSError, SafetensorError) as error:
        raise unusable("权重", "weights", error) from error
    return count


def _quantized(quantization: str) -> Any:
    require_quantization(quantization)
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
