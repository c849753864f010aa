"""An adapter's weights and configuration as PEFT writes them (torch, safetensors).

Written without PEFT, which takes a second to import and wraps the model in layers of its own; a test opens what is
written here with PEFT.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from tunesmith.kernel.files import write_json
from tunesmith.training.loop.lora_modules import lora_layers
from tunesmith.training.run import Recipe

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def save_adapter(folder: Path, model: Any, recipe: Recipe) -> None:
    """Write the LoRA weights that ``model`` wears; one recipe gives one sequence of bytes."""
    from safetensors.torch import save_file

    layers = lora_layers(model)
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.lora_A
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.lora_B
        if layer.magnitude is not None:
            tensors[f"base_model.model.{name}.lora_magnitude_vector"] = layer.magnitude
    whole = {name: weight.detach().to("cpu").contiguous() for name, weight in tensors.items()}
    save_file(whole, folder / WEIGHTS, {"format": "pt"})
    transposed = any(type(layer.base_layer).__name__ == "Conv1D" for layer in layers.values())
    write_json(folder / CONFIG, _config(recipe, _targets(model, set(layers)), transposed))


def _targets(model: Any, layers: set[str]) -> list[str]:
    """The shortest names that PEFT finds these layers by, and no others."""
    short = {name.rsplit(".", 1)[-1] for name in layers}
    beside = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules() if name not in layers}
    return sorted(layers if short & beside or any(name.isdigit() for name in short) else short)


def _config(recipe: Recipe, targets: list[str], transposed: bool) -> dict[str, Any]:
    return {
        # the base is named as the recipe names it, not by where it lies on this machine
        "base_model_name_or_path": recipe.base_model,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": int(recipe.alpha) if recipe.alpha == int(recipe.alpha) else recipe.alpha,  # others read integers
        "lora_dropout": recipe.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": recipe.rank,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": recipe.use_dora,
        "use_rslora": recipe.use_rslora,
    }
