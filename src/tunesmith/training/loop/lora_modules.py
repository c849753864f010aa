"""Where LoRA goes, and the base model wearing it (torch)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tunesmith.kernel.problems import Invalid
from tunesmith.training.loop.loading import computed_in
from tunesmith.training.loop.lora import QUANTIZED, FrozenLinear, LoraLinear
from tunesmith.training.loop.lora_mlp import LoraGatedMLP, gated
from tunesmith.training.loop.norms import normed
from tunesmith.training.loop.rotary import turned
from tunesmith.training.run import Recipe


def linear_modules(model: Any) -> list[str]:
    """Names of the linear layers of ``model`` but the output head, as PEFT takes them (``q_proj``), sorted."""
    return sorted({_target(name) for name, _ in _linears(model)})


def with_lora(model: Any, recipe: Recipe) -> Any:
    """``model`` with fresh LoRA weights in place, which alone are trainable; drawn from ``recipe.seed``.

    Every linear layer it is put on, its gated feed-forward blocks, its norms and its attention modules are replaced by
    ones that compute in fewer passes.

    Raises:
        Invalid: a target module is not in the model, or LoRA cannot be put on it.
    """
    targets = list(recipe.target_modules) or linear_modules(model)
    chosen = _chosen(model, targets)
    torch.manual_seed(recipe.seed)
    computed = computed_in(model)
    narrow = computed != model.dtype
    for name, linear in list(_linears(model)):
        if name in chosen:
            _put(model, name, LoraLinear(linear, recipe))
        elif narrow or type(linear).__name__ in QUANTIZED:
            _put(model, name, FrozenLinear(linear))
    if narrow:
        _widened(model)
    for name, block in list(model.named_modules()):
        if gated(block):
            _put(model, name, LoraGatedMLP(block))
        elif (norm := normed(block, computed)) is not None:
            _put(model, name, norm)
    for name, module in list(model.named_modules()):
        if (attention := turned(module, computed)) is not None:
            _put(model, name, attention)
    return model


def lora_layers(model: Any) -> dict[str, LoraLinear]:
    """The layers that wear LoRA, by the name of the layer of the base model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def _chosen(model: Any, targets: Sequence[str]) -> set[str]:
    """Names of the linear layers that ``targets`` mean."""
    linears = [name for name, _ in _linears(model)]
    found: set[str] = set()
    for target in targets:
        meant = [name for name in linears if name == target or name.endswith("." + target)]
        if not meant:
            known = ", ".join(linear_modules(model))
            there = any(name == target or name.endswith("." + target) for name, _ in model.named_modules())
            zh = "不是线性层，无法加 LoRA" if there else "不在基座模型中"
            en = "is no linear layer that LoRA can be put on" if there else "is not in the base model"
            raise Invalid(
                f"target_modules 中的 {target} {zh}；可用：{known}",
                f"{target} of target_modules {en}; it has {known}",
                field="target_modules",
            )
        found.update(meant)
    return found


def _widened(model: Any) -> None:
    """Let a model whose weights lie in memory narrow compute in float32; its linear layers do so already."""
    model.set_output_embeddings(FrozenLinear(model.get_output_embeddings()))
    model.get_input_embeddings().register_forward_hook(lambda module, given, out: out.float())
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Embedding | FrozenLinear):
            for weight in module.parameters(recurse=False):
                if not weight.requires_grad:
                    weight.data = weight.data.float()  # norms: next to nothing


def _put(model: Any, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _linears(model: Any) -> list[tuple[str, Any]]:
    head = model.get_output_embeddings()
    return [(name, module) for name, module in model.named_modules() if _linear(module) and module is not head]


def _target(name: str) -> str:
    """What tells the module and its likes in other layers from the rest."""
    last = name.rsplit(".", 1)[-1]
    return name if last.isdigit() else last  # "0" alone would also name the first layer


def _linear(module: Any) -> bool:
    # a class with a forward of its own (a router, a grouped layer) computes something else
    plain = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
    return plain or type(module).__name__ in (*QUANTIZED, "Conv1D")
