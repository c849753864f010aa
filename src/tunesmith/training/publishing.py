"""A trained adapter on the disk: a standard PEFT folder, whole or not there (peft)."""

from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tunesmith.kernel.files import folder_published_whole, require_free, write_json
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict
from tunesmith.training import bundle
from tunesmith.training.bundle import Ingredients
from tunesmith.training.figures import ACCURACIES, MARGINS, NLL
from tunesmith.training.loop.updates import Outcome
from tunesmith.training.peft_files import WEIGHTS, save_adapter
from tunesmith.training.run_folder import FACTS, Order

_ROOM = 32_000_000  # bytes beside the weights: log, metrics, picture


def require_room(home: Home, model: Any) -> None:
    """Refuse before training what could not be saved after it.

    Raises:
        Unavailable: the disk has no room for the adapter.
    """
    weights = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    require_free(home.root, 4 * weights * 2 + _ROOM)


def publish(
    home: Home,
    order: Order,
    model: Any,
    tokenizer: Any,
    outcome: Outcome,
    ingredients: Ingredients | None = None,
    material_sha256: str | None = None,
) -> Path:
    """Write the adapter of ``model`` where ``order`` wants it; gives its folder.

    Args:
        ingredients: what it was made from; without them it cannot be repeated to the same bytes.
        material_sha256: of the examples in tokens (``Material.digest``).

    Raises:
        Conflict: something lies there already; it is left as it is.
    """
    target = home.path(order.output, "output")
    try:
        with folder_published_whole(target) as folder:
            save_adapter(folder, model, order.recipe)
            facts = _facts(order, tokenizer, outcome) | {"weights_sha256": bundle.sha256(folder / WEIGHTS)}
            if ingredients is not None:
                facts |= {"ingredients": ingredients, "material_sha256": material_sha256, "computed": _computed(model)}
            write_json(folder / FACTS, facts)
            card = _card(order, outcome, facts, ingredients)
            (folder / "README.md").write_text(card, encoding="utf-8")
    except FileExistsError as error:
        raise Conflict(
            f"输出位置已有内容：{order.output}；未覆盖",
            f"there is something at {order.output} already; it was not replaced",
            field="output",
        ) from error
    return target


def _facts(order: Order, tokenizer: Any, outcome: Outcome) -> dict[str, Any]:
    return {
        "run_id": order.run_id,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "base_model": order.recipe.base_model,
        "recipe": order.recipe,
        "loss": outcome.loss,
        "validation_loss": outcome.validation_loss,
        "steps": outcome.progress.step,
        "metrics": _metrics(outcome),
        "seed": order.recipe.seed,
        "chat_template_sha256": bundle.template_sha256(tokenizer),
    }


def _metrics(outcome: Outcome) -> dict[str, Any]:
    """Every figure of the outcome that is known."""
    names = (each.name for each in fields(outcome) if each.name not in ("progress", "figures"))
    found = {name: getattr(outcome, name) for name in names}
    return {name: value for name, value in found.items() if value is not None} | dict(outcome.figures)


def _computed(model: Any) -> dict[str, Any]:
    """What torch computed with; asked of it when it had done so."""
    import torch

    from tunesmith.training.loop.frozen import arithmetic, compiled

    return {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": next(model.parameters()).device.type,
        "arithmetic": arithmetic(model),
        "kernels": compiled(model),
    }


_FIGURES = {
    "loss": "training loss, mean of the last epoch",
    "validation_loss": "validation loss",
    "best_step": "step of these weights",
    "control_before": "control set: loss of the base",
    "control_after": "control set: loss with this adapter",
    ACCURACIES: "reward accuracy, mean of the last epoch",
    MARGINS: "reward margin, mean of the last epoch",
    NLL: "loss of the general examples, mean of the last epoch",
    f"eval_{ACCURACIES}": "validation: reward accuracy",
    f"eval_{MARGINS}": "validation: reward margin",
}


def _card(order: Order, outcome: Outcome, facts: dict[str, Any], ingredients: Ingredients | None) -> str:
    """A model card as the Hugging Face Hub reads it."""
    recipe = order.recipe
    title = order.output.rpartition("/")[2] or order.output
    header = msgspec.json.encode(recipe.base_model).decode()  # a JSON string is a YAML string
    figures = "".join(
        f"| {_FIGURES.get(name, name)} | {value:.4f} |\n" if isinstance(value, float) else f"| {_FIGURES.get(name, name)} | {value} |\n"
        for name, value in facts["metrics"].items()
    )  # fmt: skip
    return f"""---
base_model: {header}
library_name: peft
pipeline_tag: text-generation
tags:
- lora
- tunesmith
---
# {title}

A LoRA adapter for `{recipe.base_model}`, trained by Tunesmith (run `{order.run_id}`).

| figure | value |
|---|---|
{figures}| steps | {outcome.progress.step} |

## How it was made

- dataset: `{recipe.dataset}`
- epochs {recipe.epochs}, rank {recipe.rank}, alpha {recipe.alpha:g}, learning rate {recipe.learning_rate:g}, seed {recipe.seed}
{_origin(ingredients)}- weights: SHA-256 `{facts["weights_sha256"]}`

The whole recipe and all of the above is in `{FACTS}`. `tunesmith train --from {order.output}` makes it again, to the
same bytes where nothing has changed.

## How to use it

It opens with PEFT, vLLM and anything else that reads PEFT adapters:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("<base model>"), "<this folder>")
```
"""


def _origin(ingredients: Ingredients | None) -> str:
    if ingredients is None:
        return ""
    data = "".join(
        f"- {file.role} `{file.file}`: {file.size_bytes} bytes, SHA-256 `{file.sha256}`\n" for file in ingredients.data
    )
    versions = ", ".join(f"{name} {version}" for name, version in ingredients.versions.items())
    return f"{data}- versions: {versions}\n"
