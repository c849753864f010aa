"""The arithmetic of a plan: no torch.

Memory is a line through two measured steps, over the tokens that go through the model at once: the loop deals every
update into parts of bounded size, so neither ``batch_size`` nor ``gradient_accumulation`` decides it. Time is the tokens
of the run at the speed of measured steps. Where nothing could be measured both come from the shapes of the base model's
weights, and say so.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tunesmith.training.plan.prediction import SPARE, Counted, Measured, Plan, Remedy, Weights
from tunesmith.training.plan.room import Room
from tunesmith.training.run import Recipe

_KEPT_COPIES = 3  # checkpoints on the disk: two, and one being written
_STATE = 3  # numbers kept for each trained weight: itself and two moments
_DISK = 64_000_000  # log, metrics, picture
_PART = 1024  # tokens that go through the model at once, where nobody has looked
_PROCESS = 600_000_000  # a process with torch and transformers in it
_RATE = 15e9  # float operations a second and core, where nothing was measured
_FINISH_S = 1.5  # the adapter and the picture of the losses
_SCORING = 0.5  # of what learning a token costs: no way back
_GUESSED_START_S = 10.0
_BYTES = {"int8": 1.05, "int4": 0.6, "": 4.0}  # a quantized weight, with its scale
_FEW = ("q_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak bytes as a line over tokens that go through the model at once, never under what loading took."""

    fixed: float
    a_token: float
    loaded: float = 0.0

    def peak(self, tokens: float) -> int:
        """The peak of a step with so many tokens at once."""
        return math.ceil(max(self.loaded, self.fixed + self.a_token * tokens))


def memory_of(measured: Measured) -> Memory:
    """The line through both steps; one alone begins where the loaded model ends."""
    small, large = measured.small, measured.large
    if large is None:
        slope = max(0.0, (small.peak_bytes - measured.loaded_bytes) / max(1, small.tokens))
        return Memory(small.peak_bytes - slope * small.tokens, slope, measured.loaded_bytes)
    slope = max(0.0, (large.peak_bytes - small.peak_bytes) / max(1, large.tokens - small.tokens))
    most = max(large.peak_bytes, measured.peak_bytes)
    return Memory(most - slope * large.tokens, slope, measured.loaded_bytes)


@dataclass(frozen=True, slots=True)
class Drawing:
    """All a plan is drawn from.

    Attributes:
        measured: None where nothing was; ``why`` then says it.
        at_least: bytes that were not enough, where a rehearsal had to be ended for its memory.
        cores: CPU cores the trainer would have.
    """

    recipe: Recipe
    counted: Counted
    weights: Weights
    room: Room
    measured: Measured | None = None
    why: tuple[str, str] | None = None
    at_least: int = 0
    cores: int = 1
    memory: Memory = field(init=False)

    def __post_init__(self) -> None:
        found = memory_of(self.measured) if self.measured else self._guessed_memory()
        object.__setattr__(self, "memory", found)

    def plan(self) -> Plan:
        """The plan, with remedies where it does not fit."""
        recipe, counted = self.recipe, self.counted
        batches = math.ceil(counted.examples / recipe.batch_size)
        updates = math.ceil(batches / recipe.gradient_accumulation)
        steps = (self.measured.steps if self.measured else 0) or recipe.epochs * updates
        updates = max(1, round(steps / recipe.epochs))
        pace = self.measured.pace if self.measured else self._guessed_pace()
        scorings = steps // recipe.evaluate_every if recipe.evaluate_every else recipe.epochs
        looked_at = counted.tokens + counted.scored if recipe.objective == "dpo" else 0  # by the base, before the start
        scored = _SCORING * (counted.scored * scorings + counted.control * 2 + looked_at)
        memory = max(self._peak(recipe), self.at_least + 1 if self.at_least else 0)
        plan = Plan(
            measured=self.measured is not None,
            why=self.why,
            steps=steps,
            updates_per_epoch=updates,
            examples=counted.examples,
            skipped=counted.skipped,
            tokens=counted.tokens * recipe.epochs,
            supervised=counted.supervised * recipe.epochs,
            cut=counted.cut,
            cut_tokens=counted.cut_tokens,
            prepare_s=self.measured.prepare_s if self.measured else _GUESSED_START_S,
            finish_s=_FINISH_S,
            train_s=counted.tokens * recipe.epochs / pace,
            score_s=scored / pace,
            tokens_per_second=pace,
            memory_bytes=memory,
            disk_bytes=4 * self._trained(recipe) * (_KEPT_COPIES * _STATE + 2) + _DISK,
            room=self.room,
        )
        return plan if plan.fits_memory else replace(plan, remedies=tuple(self._remedies()))

    def _peak(self, recipe: Recipe) -> int:
        """Peak bytes of ``recipe``, which may differ from the one that was measured."""
        saved = (self._trained(self.recipe) - self._trained(recipe)) * 4 * (_STATE + 1)
        if recipe.quantization != self.recipe.quantization:
            linear = sum(each.weights for each in self.weights.linear.values())
            saved += int(linear * max(0.0, self._bytes_each() - _BYTES[recipe.quantization or ""]))
        # a checkpoint is copied beside a step and written
        copied = 4 * _STATE * self._trained(recipe) if self.room.device == "cpu" else 0
        return max(0, self.memory.peak(self._part(recipe)) - saved + copied)

    def _part(self, recipe: Recipe) -> int:
        """Tokens that go through the model at once, at most."""
        if self.measured is not None and recipe.max_length in self.measured.parts:
            return self.measured.parts[recipe.max_length]
        longest = min(self.counted.longest, recipe.max_length)
        return max(longest, min(_PART, longest * recipe.batch_size * recipe.gradient_accumulation))

    def _remedies(self) -> Iterator[Remedy]:
        """Changes that fit: each kind by itself, the least that is enough; only where none is, several together."""
        lengths = [{"max_length": each.max_length} for each in self.counted.shorter]
        kinds = [] if self.recipe.quantization else [{"quantization": kind} for kind in ("int8", "int4")]
        modules = [{"target_modules": _FEW}] if self._has_more_modules() else []
        alone = [found for options in (lengths, kinds, modules) if (found := self._first(options))]
        if alone:
            yield from alone
            return
        together = [quantized | module | length for quantized in kinds[-1:] or [{}] for module in modules or [{}]
                    for length in lengths or [{}]]  # fmt: skip
        if (found := self._first(together)) is not None:
            yield found

    def _first(self, options: Sequence[Mapping[str, Any]]) -> Remedy | None:
        """The first of these changes that fits."""
        for changes in options:
            peak = self._peak(replace(self.recipe, **changes))
            if peak <= self.room.memory_bytes * (1 - SPARE):
                shorter = (each for each in self.counted.shorter if each.max_length == changes.get("max_length"))
                return Remedy(changes, peak, next(shorter, None))
        return None

    def _has_more_modules(self) -> bool:
        names = set(self.recipe.target_modules or self.weights.linear)
        return names > set(_FEW) and names & set(self.weights.linear) >= set(_FEW)

    def _trained(self, recipe: Recipe) -> int:
        if self.measured is not None and recipe.target_modules == self.recipe.target_modules:
            return self.measured.trained
        return self.weights.adapter(recipe)

    def _bytes_each(self) -> float:
        if self.measured is not None:
            return self.measured.bytes_each
        if self.recipe.quantization:
            return _BYTES[self.recipe.quantization]
        return 4.0 if 4 * self.weights.count < self.room.memory_bytes / 2 else 2.0

    def _guessed_memory(self) -> Memory:
        """What the shapes say: the base, four numbers a trained weight, and what each linear layer takes and gives."""
        base = self.weights.count * self._bytes_each()
        loaded = (_PROCESS if self.room.device == "cpu" else 0) + base
        widths = sum(each.width for each in self.weights.linear.values())
        return Memory(loaded + 4 * (_STATE + 1) * self.weights.adapter(self.recipe), 4.0 * widths, loaded)

    def _guessed_pace(self) -> float:
        operations = 4 * max(
            1, self.weights.count
        )  # two there and two back for each weight; frozen ones get no gradient
        return self.cores * _RATE / operations
