"""Executes a recipe in this process (torch)."""

from collections.abc import Callable
from typing import Any

import torch

from tunesmith.kernel.problems import Unavailable
from tunesmith.training.data.material import Material
from tunesmith.training.loop.base_margins import BaseMargins
from tunesmith.training.loop.checkpoints import Checkpoint, Keeper
from tunesmith.training.loop.objective import Likelihood, Surprise
from tunesmith.training.loop.preference import Preference
from tunesmith.training.loop.ranks import Ranks
from tunesmith.training.loop.spare import keep_less
from tunesmith.training.loop.updates import Loop, Objective, Outcome, Teller
from tunesmith.training.run import Recipe


def execute(
    recipe: Recipe,
    model: Any,
    material: Material,
    teller: Teller,
    stopped: Callable[[], bool],
    keeper: Keeper | None = None,
    checkpoint: Checkpoint | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
    margins: BaseMargins | None = None,
) -> Outcome:
    """Train the LoRA weights of ``model`` in place.

    Args:
        model: as ``with_lora`` gives it.
        stopped: asked after every step; true ends training.
        keeper: is shown the state after every step, and the last when training is stopped.
        checkpoint: goes on from there; the outcome is that of a run that was never interrupted.
        ranks: the processes that train this together, each of which calls this with the same arguments but for
            ``teller``, ``keeper`` and ``margins``, which only the first has a use for.
        margins: where preferences keep what the base makes of them; None measures it anew.

    Raises:
        Stopped: ``stopped()`` was true.
        Conflict: the checkpoint is of another model, recipe or data.
        Diverged: loss or gradient became infinite or no number.
        Unavailable: out of memory.
    """
    try:
        surprise = Surprise(model)
        try:
            keep_less(model, surprise, material)
            likelihood = Likelihood(surprise)
            objective: Objective = likelihood
            if recipe.objective == "dpo":
                objective = preference = Preference(surprise, recipe.dpo_beta)
                preference.measure_base([*material.main, *material.validation], stopped, ranks, margins)
            loop = Loop(recipe, model, objective, likelihood, material, teller, stopped, keeper, ranks)
            return loop.run(checkpoint)
        finally:
            surprise.release()
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(recipe) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # how torch's CPU allocator says it
            raise
        raise out_of_memory(recipe) from error


def out_of_memory(recipe: Recipe) -> Unavailable:
    """The Problem of a run too large for this machine."""
    return Unavailable(
        f"内存（或显存）不足：请减小 max_length（现为 {recipe.max_length}），设置 quantization，或使用更小的模型",
        f"out of memory: lower max_length (now {recipe.max_length}), set quantization, or use a smaller model",
    )
