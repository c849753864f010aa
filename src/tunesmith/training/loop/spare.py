"""Keeping less for the gradient where memory is short: each layer's inputs only, the rest made again (torch).

Chen et al., arXiv:1604.06174. A third more work, so only where it is needed; the numbers are the same either way.
"""

from typing import Any

import torch
from torch import Tensor

from tunesmith.training.data.encoding import Encoded
from tunesmith.training.data.material import Material
from tunesmith.training.loop.objective import Surprise
from tunesmith.training.plan.room import free_memory

_SHARE = 0.5  # of the free memory may be kept for the gradient
_PROBE = 16  # tokens


def keep_less(model: Any, surprise: Surprise, material: Material) -> bool:
    """Turn activation checkpointing on where the largest part would keep too much; whether it is on now."""
    examples = [*material.main, *material.replay]
    tokens = min(sum(map(len, examples)), max(surprise.tokens, *map(len, examples)))
    if tokens * kept_bytes(model, surprise) <= _SHARE * _free_bytes(model):
        return False
    if not getattr(model, "supports_gradient_checkpointing", False):
        return False
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return True


def kept_bytes(model: Any, surprise: Surprise) -> float:
    """Bytes kept for the gradient a token, weights left out."""
    from array import array

    from tunesmith.datasets.example import Source

    example = Encoded(array("i", [1] * _PROBE), bytes([0] + [1] * (_PROBE - 1)), Source("", 0))
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    was_training = model.training
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = surprise(surprise.laid([example])).sum()
    del loss
    model.train(was_training)
    return sum(seen.values()) / _PROBE


def _free_bytes(model: Any) -> int:
    device = model.device
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_memory()
