"""Executes a recipe in this process: the training loop (torch).

The simplest loop that is exact: same recipe, same machine and same number of threads give the same bytes.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from tunesmith.kernel.problems import Conflict, Problem, Unavailable
from tunesmith.training.batches import Batch, Plan, in_batches
from tunesmith.training.checkpoints import Checkpoint, Keeper, Position, put_back, taken
from tunesmith.training.material import Material
from tunesmith.training.objective import Objective, padded
from tunesmith.training.run import Progress, Recipe
from tunesmith.training.run_folder import Stopped

_RECENT = 20  # steps the speed is told from


class Teller(Protocol):
    """Is told how training goes."""

    def step(self, progress: Progress, grad_norm: float, validation_loss: float | None) -> int:
        """One step is done; ``validation_loss`` comes with the last of an epoch, where there is validation data.

        Returns:
            How many bytes all that was told has by now.
        """
        ...


class Diverged(Problem):
    """The loss is no number any more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training ended.

    Attributes:
        loss: mean over the last epoch's steps.
    """

    progress: Progress
    loss: float
    validation_loss: float | None


def execute(
    recipe: Recipe,
    model: Any,
    material: Material,
    teller: Teller,
    stopped: Callable[[], bool],
    keeper: Keeper | None = None,
    checkpoint: Checkpoint | None = None,
) -> Outcome:
    """Train the LoRA weights of ``model`` in place.

    Args:
        model: as ``with_lora`` gives it.
        stopped: asked after every step; true ends training.
        keeper: is shown the state after every step, and the last when training is stopped.
        checkpoint: goes on from there; the outcome is that of a run that was never interrupted.

    Raises:
        Stopped: ``stopped()`` was true.
        Conflict: the checkpoint is of another model, recipe or data.
        Diverged: loss or gradient became infinite or no number.
        Unavailable: out of memory.
    """
    # dropout draws from the global generator
    torch.manual_seed(recipe.seed)
    try:
        return _Loop(recipe, model, material, teller, stopped, keeper).run(checkpoint)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(recipe) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # how torch's CPU allocator says it
            raise
        raise out_of_memory(recipe) from error


def out_of_memory(recipe: Recipe) -> Unavailable:
    """The Problem of a run too large for this machine."""
    return Unavailable(
        f"内存（或显存）不足：请减小 batch_size（现为 {recipe.batch_size}）或 max_length（现为 {recipe.max_length}），"
        f"或使用更小的模型",
        f"out of memory: lower batch_size (now {recipe.batch_size}) or max_length (now {recipe.max_length}), "
        f"or use a smaller model",
    )


def rate_factor(step: int, total: int, recipe: Recipe) -> float:
    """Share of the learning rate used at ``step`` (from 0) of ``total``, in [0, 1]; never 0 before the end."""
    warmup = round(recipe.warmup_ratio * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    if recipe.scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if recipe.scheduler == "linear" else 1.0


class _Loop:
    def __init__(
        self,
        recipe: Recipe,
        model: Any,
        material: Material,
        teller: Teller,
        stopped: Callable[[], bool],
        keeper: Keeper | None,
    ) -> None:
        self._recipe, self._model, self._validation = recipe, model, material.validation
        self._teller, self._stopped, self._keeper = teller, stopped, keeper
        self._material = material.digest()
        self._device = next(model.parameters()).device
        self._objective = Objective(model)
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self._plan = Plan(
            material.main, material.replay, recipe.replay_share, recipe.batch_size, recipe.gradient_accumulation,
            recipe.seed,
        )  # fmt: skip
        self._total = recipe.epochs * self._plan.updates_per_epoch
        self._done = 0
        self._pace: deque[tuple[float, int]] = deque(maxlen=_RECENT)  # seconds and tokens of the last steps

    def run(self, checkpoint: Checkpoint | None) -> Outcome:
        start = self._resumed(checkpoint) if checkpoint else Position()
        progress, validation_loss, losses = start.progress, start.validation_loss, list(start.losses)
        for epoch in range(self._recipe.epochs):
            updates = self._plan.epoch()  # of epochs gone by, too: the plan draws on
            if epoch < start.epoch:
                continue
            done = start.number if epoch == start.epoch else 0
            if not done:
                losses = []
            self._model.train()
            for number, batches in enumerate(updates[done:], done + 1):
                began = time.perf_counter()
                loss, norm, rate = self._update(batches)
                tokens = sum(len(example) for batch in batches for example in batch)
                self._pace.append((time.perf_counter() - began, tokens))
                losses.append(loss)
                progress = self._progress(loss, rate)
                last = number == len(updates)
                if last and self._validation:
                    validation_loss = self._validate()
                told = self._teller.step(progress, norm, validation_loss if last else None)
                here = partial(self._checkpoint, epoch, number, losses, validation_loss, progress, told)
                self._keep_or_stop(here)
        return Outcome(progress, math.fsum(losses) / len(losses), validation_loss)

    def _keep_or_stop(self, here: Callable[[], Checkpoint]) -> None:
        stopped = self._stopped()
        if self._keeper is not None:
            (self._keeper.last if stopped else self._keeper.step_done)(here)
        if stopped:
            raise Stopped

    def _checkpoint(
        self,
        epoch: int,
        number: int,
        losses: list[float],
        validation_loss: float | None,
        progress: Progress,
        metrics_bytes: int,
    ) -> Checkpoint:
        at = Position(epoch, number, tuple(losses), validation_loss, progress, metrics_bytes, self._material)
        return taken(self._weights, self._optimizer, at)

    def _resumed(self, checkpoint: Checkpoint) -> Position:
        if checkpoint.position.material != self._material:
            raise Conflict(
                "训练数据在中断后被改动，无法从检查点继续；请重新开始训练",
                "the data was changed after the run was interrupted, and it cannot be gone on with: start it anew",
                field="dataset",
            )
        put_back(checkpoint, self._weights, self._optimizer)
        self._done = checkpoint.position.progress.step
        return checkpoint.position

    def _update(self, batches: list[Batch]) -> tuple[float, float, float]:
        """One step of the optimizer: mean loss a supervised token, norm of the gradient, learning rate."""
        supervised = sum(example.supervised for batch in batches for example in batch)
        loss = 0.0
        for batch in batches:
            # divided by the tokens of all batches of this step: accumulating gives what one large batch would
            part = self._objective(padded(batch, self._device)) / supervised
            part.backward()
            loss += part.item()
        norm = float(torch.nn.utils.clip_grad_norm_(self._weights, self._recipe.max_grad_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(
                f"第 {self._done + 1} 步的损失或梯度不是有限数，训练已发散：请降低学习率（现为 "
                f"{self._recipe.learning_rate:g}）",
                f"loss or gradient is no finite number at step {self._done + 1}, training has diverged: lower the "
                f"learning rate (now {self._recipe.learning_rate:g})",
                step=self._done + 1,
            )
        rate = self._recipe.learning_rate * rate_factor(self._done, self._total, self._recipe)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._done += 1
        return loss, norm, rate

    def _progress(self, loss: float, rate: float) -> Progress:
        seconds, tokens = (math.fsum(column) for column in zip(*self._pace, strict=True))
        return Progress(
            step=self._done,
            total_steps=self._total,
            epoch=self._recipe.epochs * self._done / self._total,
            loss=loss,
            learning_rate=rate,
            tokens_per_second=tokens / max(seconds, 1e-9),
            seconds_left=(self._total - self._done) * seconds / len(self._pace),
        )

    def _validate(self) -> float:
        """Mean loss a supervised token of the validation examples."""
        self._model.eval()
        total = 0.0
        for batch in self._validation_batches():
            with torch.no_grad():
                total += self._objective(padded(batch, self._device)).item()
            if self._stopped():
                raise Stopped
        return total / sum(example.supervised for example in self._validation)

    def _validation_batches(self) -> Iterator[Batch]:
        yield from in_batches(sorted(self._validation, key=len), self._recipe.batch_size)
