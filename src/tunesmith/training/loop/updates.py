"""The training loop (torch): same recipe, same machine and same number of threads give the same bytes."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from tunesmith.kernel.problems import Conflict, Problem
from tunesmith.training.data.material import Learned, Material
from tunesmith.training.loop.batches import Batch, Plan
from tunesmith.training.loop.checkpoints import Checkpoint, Keeper, Position, put_back, taken
from tunesmith.training.loop.ranks import Ranks
from tunesmith.training.run import Progress, Recipe
from tunesmith.training.run_folder import Stopped

_RECENT = 20  # steps the speed is told from


class Teller(Protocol):
    """Is told how training goes."""

    def step(
        self,
        progress: Progress,
        grad_norm: float,
        validation_loss: float | None,
        figures: Mapping[str, float],
        validation_figures: Mapping[str, float],
        /,
    ) -> int:
        """One step is done; ``validation_loss`` comes with a step after which the validation data was scored.

        Args:
            figures: means the objective tells beside the loss, by name. validation_figures: of the validation data.

        Returns:
            How many bytes all that was told has by now.
        """
        ...


class Objective(Protocol):
    """What is made small, of examples or of pairs of them.

    Attributes:
        figures: names of the means that are told beside the loss.
    """

    figures: tuple[str, ...]

    def weight(self, examples: Sequence[Any]) -> int:
        """What the summed loss of ``examples`` is divided by, to compare them with others."""
        ...

    def parts(self, examples: Sequence[Any]) -> list[list[Any]]:
        """``examples`` as they go through the model together."""
        ...

    def loss(self, part: list[Any]) -> tuple[Tensor, Tensor]:
        """The summed loss of one part; and (figures, 2): each figure's sum, without gradient, and of how many."""
        ...


class Diverged(Problem):
    """The loss is no number any more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training ended.

    Attributes:
        loss: mean over the last epoch's steps.
        validation_loss: of the weights that stand in the model now.
        best_step: the step these weights are of, where the best are kept; else None.
        control_before, control_after: loss a supervised token on the control set, of the base and of these weights.
        figures: means the objective tells beside the loss, by name: over the last epoch's steps; after ``eval_`` the
            same of the validation data, by the weights that stand in the model now.
    """

    progress: Progress
    loss: float
    validation_loss: float | None
    best_step: int | None = None
    control_before: float | None = None
    control_after: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)


def rate_factor(step: int, total: int, recipe: Recipe) -> float:
    """Share of the learning rate used at ``step`` (from 0) of ``total``, in [0, 1]; never 0 before the end."""
    warmup = round(recipe.warmup_ratio * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total - warmup)
    if recipe.scheduler == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if recipe.scheduler == "linear" else 1.0


def _seed(seed: int, step: int, part: int) -> int:
    return ((seed * 1_000_003 + step) * 1_000_003 + part) % (1 << 63)


class Loop:
    """Trains the weights of ``model`` that are trainable; made for one run.

    Args:
        likelihood: scores the control set, whatever is learned.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Any,
        objective: Objective,
        likelihood: Objective,
        material: Material,
        teller: Teller,
        stopped: Callable[[], bool],
        keeper: Keeper | None,
        ranks: Ranks,
    ) -> None:
        self._recipe, self._model, self._material = recipe, model, material
        self._objective, self._likelihood = objective, likelihood
        self._teller, self._stopped, self._keeper, self._ranks = teller, stopped, keeper, ranks
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._weights, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self._plan = Plan(
            material.main, material.replay, recipe.replay_share, recipe.batch_size, recipe.gradient_accumulation,
            recipe.seed,
        )  # fmt: skip
        self._total = recipe.epochs * self._plan.updates_per_epoch
        self._digest = material.digest()
        self._best: list[Tensor] = []  # copies of the weights that scored best, where they are kept
        self._pace: deque[tuple[float, int]] = deque(maxlen=_RECENT)  # seconds and tokens of the last steps

    def run(self, checkpoint: Checkpoint | None) -> Outcome:
        """Train to the end, or from ``checkpoint`` to the end."""
        at = self._resumed(checkpoint) if checkpoint else Position(material=self._digest)
        if checkpoint is None and self._material.control:
            at = replace(at, control_before=self._score(self._material.control, self._likelihood)[0])
        if at.unscored:
            at = self._told(at)
            self._keep_or_stop(at)
        for epoch in range(self._recipe.epochs):
            updates = self._plan.epoch()  # of epochs gone by, too: the plan draws on
            if epoch < at.epoch or at.over:
                continue
            if epoch > at.epoch:
                at = replace(at, epoch=epoch, number=0, losses=(), figures=())
            self._model.train()
            for batches in updates[at.number :]:
                at = self._step(at, batches, last=at.number + 1 == len(updates))
                self._keep_or_stop(at)
                if at.over:
                    break
        return self._outcome(at)

    def _step(self, at: Position, batches: list[Batch], *, last: bool) -> Position:
        began = time.perf_counter()
        loss, norm, rate, figures = self._update(at.progress.step, batches)
        self._pace.append((time.perf_counter() - began, sum(len(example) for batch in batches for example in batch)))
        at = replace(
            at, number=at.number + 1, losses=(*at.losses, loss), figures=(*at.figures, figures),
            progress=self._progress(at, loss, rate), grad_norm=norm,
        )  # fmt: skip
        return self._told(replace(at, unscored=self._due(at.progress.step, last)))

    def _told(self, at: Position) -> Position:
        """The step is told of, after the scoring where one is due."""
        scored = at.unscored
        if scored:
            with self._kept_if_stopped(at):
                at = replace(self._scored(at), unscored=False)
        told = self._teller.step(
            at.progress, at.grad_norm, at.validation_loss if scored else None, at.figures[-1] if at.figures else {},
            at.validation_figures if scored else {},
        )  # fmt: skip
        return replace(at, metrics_bytes=told)

    @contextmanager
    def _kept_if_stopped(self, at: Position) -> Iterator[None]:
        """Scoring may take minutes: whoever stops it finds all steps before it in a checkpoint."""
        try:
            yield
        except Stopped:
            if self._keeper is not None:
                self._keeper.last(partial(taken, self._weights, self._optimizer, at, self._best))
            raise

    def _due(self, step: int, last: bool) -> bool:
        """Whether the validation data is scored after ``step``, the ``last`` of its epoch or not."""
        if not self._material.validation:
            return False
        every = self._recipe.evaluate_every
        return step % every == 0 or step == self._total if every else last

    def _scored(self, at: Position) -> Position:
        found, figures = self._score(self._material.validation, self._objective)
        at = replace(at, validation_figures=figures)
        if at.best_loss is None or found < at.best_loss:
            if self._recipe.keep_best:
                self._best = [weight.detach().clone() for weight in self._weights]
            return replace(
                at, validation_loss=found, best_loss=found, best_step=at.progress.step, best_figures=figures, worse=0
            )
        enough = self._recipe.early_stopping
        return replace(at, validation_loss=found, worse=at.worse + 1, over=bool(enough) and at.worse + 1 >= enough)

    def _keep_or_stop(self, at: Position) -> None:
        stopped = self._ranks.any(self._stopped())
        if self._keeper is not None:
            here = partial(taken, self._weights, self._optimizer, at, self._best)
            (self._keeper.last if stopped else self._keeper.step_done)(here)
        if stopped:
            raise Stopped

    def _resumed(self, checkpoint: Checkpoint) -> Position:
        if checkpoint.position.material != self._digest:
            raise Conflict(
                "训练数据在中断后被改动，无法从检查点继续；请重新开始训练",
                "the data was changed after the run was interrupted, and it cannot be gone on with: start it anew",
                field="dataset",
            )
        self._best = put_back(checkpoint, self._weights, self._optimizer)
        return checkpoint.position

    def _update(self, done: int, batches: list[Batch]) -> tuple[float, float, float, dict[str, float]]:
        """One step of the optimizer: mean loss, norm of the gradient, learning rate, what is told beside them."""
        examples = [example for batch in batches for example in batch]
        # divided by the weight of all that makes this step: however it is dealt into parts, the gradient is the same
        weight = self._objective.weight(examples)
        loss, sums = 0.0, self._no_sums(self._objective)
        for number, part in self._ranks.share(self._objective.parts(examples)):
            torch.manual_seed(_seed(self._recipe.seed, done, number))  # what dropout draws from
            summed, found = self._objective.loss(part)
            share = summed / weight
            share.backward()
            loss += share.item()
            sums += found
        loss = self._summed(loss, sums)
        norm = float(torch.nn.utils.clip_grad_norm_(self._weights, self._recipe.max_grad_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(
                f"第 {done + 1} 步的损失或梯度不是有限数，训练已发散：请降低学习率（现为 "
                f"{self._recipe.learning_rate:g}）",
                f"loss or gradient is no finite number at step {done + 1}, training has diverged: lower the "
                f"learning rate (now {self._recipe.learning_rate:g})",
                step=done + 1,
            )
        rate = self._recipe.learning_rate * rate_factor(done, self._total, self._recipe)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss, norm, rate, _means(self._objective, sums)

    def _no_sums(self, objective: Objective) -> Tensor:
        return torch.zeros(len(objective.figures), 2, dtype=torch.float64, device=self._weights[0].device)

    def _summed(self, loss: float, sums: Tensor) -> float:
        """The loss of all processes, whose gradients and ``sums`` are summed on the way."""
        if self._ranks.size == 1:
            return loss
        for weight in self._weights:
            if weight.grad is None:  # more processes than parts
                weight.grad = torch.zeros_like(weight)
        told = torch.tensor([loss, *sums.flatten().tolist()], device=self._weights[0].device)
        self._ranks.add([told, *(weight.grad for weight in self._weights)])
        sums.copy_(told[1:].view_as(sums))
        return float(told[0].item())

    def _progress(self, at: Position, loss: float, rate: float) -> Progress:
        seconds, tokens = (math.fsum(column) for column in zip(*self._pace, strict=True))
        done = at.progress.step + 1
        return Progress(
            step=done,
            total_steps=self._total,
            epoch=self._recipe.epochs * done / self._total,
            loss=loss,
            learning_rate=rate,
            tokens_per_second=tokens / max(seconds, 1e-9),
            seconds_left=(self._total - done) * seconds / len(self._pace),
        )

    def _score(self, examples: Sequence[Learned], objective: Objective) -> tuple[float, dict[str, float]]:
        """Mean loss of ``examples``, and what is told beside it."""
        self._model.eval()
        total = torch.zeros(1, dtype=torch.float64, device=self._weights[0].device)
        sums = self._no_sums(objective)
        parts = objective.parts(examples)
        # all processes come round as often, so that they ask each other as often whether to stop
        for turn in range(0, len(parts), self._ranks.size):
            with torch.no_grad():
                for part in parts[turn + self._ranks.rank : turn + self._ranks.rank + 1]:
                    loss, found = objective.loss(part)
                    total += loss
                    sums += found
            if self._ranks.any(self._stopped()):
                raise Stopped
        self._ranks.add([total, sums])
        self._model.train()
        return float(total.item()) / objective.weight(examples), _means(objective, sums)

    def _outcome(self, at: Position) -> Outcome:
        best = bool(self._best)
        if best:
            with torch.no_grad():
                for weight, found in zip(self._weights, self._best, strict=True):
                    weight.copy_(found)
        control, after = self._material.control, None
        if control:
            with self._kept_if_stopped(at):
                after, _ = self._score(control, self._likelihood)
        return Outcome(
            replace(at.progress, seconds_left=0.0),
            math.fsum(at.losses) / len(at.losses),
            at.best_loss if best else at.validation_loss,
            at.best_step if best else None,
            at.control_before,
            after,
            _mean_of(at.figures)
            | {f"eval_{name}": mean for name, mean in (at.best_figures if best else at.validation_figures).items()},
        )


def _means(objective: Objective, sums: Tensor) -> dict[str, float]:
    """The figures of which there is something to tell."""
    found = zip(objective.figures, sums.tolist(), strict=True)
    return {name: total / count for name, (total, count) in found if count and math.isfinite(total)}


def _mean_of(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each figure's mean over the steps that tell it."""
    names = dict.fromkeys(name for step in steps for name in step)
    told = {name: [step[name] for step in steps if name in step] for name in names}
    return {name: math.fsum(figures) / len(figures) for name, figures in told.items()}
