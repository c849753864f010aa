"""Where LoRA goes, and the base model wearing it (torch, peft)."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from tunesmith.kernel.problems import Invalid
from tunesmith.training.run import Recipe


def linear_modules(model: Any) -> list[str]:
    """Names of the linear layers of ``model`` but the output head, as PEFT takes them (``q_proj``), sorted."""
    head = model.get_output_embeddings()
    return sorted({_target(name) for name, module in model.named_modules() if _linear(module, head)})


def with_lora(model: Any, recipe: Recipe) -> Any:
    """``model`` wrapped by PEFT with fresh LoRA weights, which alone are trainable; drawn from ``recipe.seed``.

    Raises:
        Invalid: a target module is not in the model, or LoRA cannot be put on it.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    targets = list(recipe.target_modules) or linear_modules(model)
    _check_targets(model, targets)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=int(recipe.alpha) if recipe.alpha == int(recipe.alpha) else recipe.alpha,  # others read integers
        lora_dropout=recipe.dropout,
        target_modules=targets,
        task_type=TaskType.CAUSAL_LM,
        bias="none",
    )
    torch.manual_seed(recipe.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name on its way out
        try:
            wrapped = get_peft_model(model, config)
        except ValueError as error:
            raise Invalid(
                f"LoRA 无法加在 target_modules={targets} 上：{error}",
                f"LoRA cannot be put on target_modules {targets}: {error}",
                field="target_modules",
            ) from error
    # the base is named as the recipe names it, not by where it lies on this machine
    wrapped.peft_config["default"].base_model_name_or_path = recipe.base_model
    return wrapped


def _check_targets(model: Any, targets: Sequence[str]) -> None:
    names = [name for name, _ in model.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith("." + target) for name in names):
            known = ", ".join(linear_modules(model))
            raise Invalid(
                f"基座模型中没有模块 {target}；可用：{known}",
                f"the base model has no module {target}; it has {known}",
                field="target_modules",
            )


def _target(name: str) -> str:
    """What tells the module and its likes in other layers from the rest."""
    last = name.rsplit(".", 1)[-1]
    return name if last.isdigit() else last  # "0" alone would also name the first layer


def _linear(module: Any, head: Any) -> bool:
    # by class name: quantized layers derive from Linear, but Conv1D of GPT-2 does not
    return module is not head and (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D")
