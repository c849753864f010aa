"""A trained adapter on the disk: a standard PEFT folder, whole or not there (peft)."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from tunesmith.kernel.files import folder_published_whole, require_free, write_json
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict
from tunesmith.training.loop import Outcome
from tunesmith.training.peft_files import save_adapter
from tunesmith.training.run_folder import FACTS, Order

_ROOM = 32_000_000  # bytes beside the weights: log, metrics, picture


def require_room(home: Home, model: Any) -> None:
    """Refuse before training what could not be saved after it.

    Raises:
        Unavailable: the disk has no room for the adapter.
    """
    weights = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    require_free(home.root, 4 * weights * 2 + _ROOM)


def publish(home: Home, order: Order, model: Any, tokenizer: Any, outcome: Outcome) -> Path:
    """Write the adapter of ``model`` where ``order`` wants it; gives its folder.

    Raises:
        Conflict: something lies there already; it is left as it is.
    """
    target = home.path(order.output, "output")
    try:
        with folder_published_whole(target) as folder:
            save_adapter(folder, model, order.recipe)
            write_json(folder / FACTS, _facts(order, tokenizer, outcome))
            (folder / "README.md").write_text(_card(order, outcome), encoding="utf-8")
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
        "base_model": order.recipe.base_model,
        "recipe": order.recipe,
        "loss": outcome.loss,
        "validation_loss": outcome.validation_loss,
        "steps": outcome.progress.step,
        # another template at serving time than at training time is the commonest silent fault
        "chat_template_sha256": hashlib.sha256(tokenizer.get_chat_template().encode()).hexdigest(),
    }


def _card(order: Order, outcome: Outcome) -> str:
    recipe = order.recipe
    validation = "" if outcome.validation_loss is None else f"- validation loss: {outcome.validation_loss:.4f}\n"
    header = msgspec.json.encode(recipe.base_model).decode()  # a JSON string is a YAML string
    return f"""---
base_model: {header}
library_name: peft
tags: [lora, tunesmith]
---
# {order.output}

A LoRA adapter for `{recipe.base_model}`, trained by Tunesmith (run `{order.run_id}`).

- dataset: `{recipe.dataset}`
- steps: {outcome.progress.step}, epochs: {recipe.epochs}, final loss: {outcome.loss:.4f}
{validation}- rank {recipe.rank}, alpha {recipe.alpha:g}, learning rate {recipe.learning_rate:g}, seed {recipe.seed}

The whole recipe is in `{FACTS}`. It opens with PEFT, vLLM and anything else that reads PEFT adapters:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("<base model>"), "<this folder>")
```
"""
