"""What a run will take, told before it is begun: plain values, no torch. ``forecast`` draws them up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.training.plan.room import Room
from tunesmith.training.run import Recipe

SPARE = 0.05  # of the free memory stays free: other programs breathe too


@dataclass(frozen=True, slots=True)
class Shorter:
    """What a smaller ``max_length`` would do.

    Attributes:
        cut: share of the examples that are longer, in [0, 1].
        lost: share whose answers all lie beyond it; the trainer refuses those.
    """

    max_length: int
    cut: float
    lost: float


@dataclass(frozen=True, slots=True)
class Counted:
    """The data as the trainer will see it, in tokens without padding.

    Attributes:
        examples, tokens, supervised: of one epoch, with what is replayed.
        longest: tokens of the longest example.
        cut: share of the examples longer than ``max_length``; ``cut_tokens``: share of all tokens that is cut off.
        skipped: rows left out.
        scored: tokens of the validation data. control: of the control data.
        shorter: for some smaller lengths, the largest first.
    """

    examples: int
    tokens: int
    supervised: int
    longest: int
    cut: float = 0.0
    cut_tokens: float = 0.0
    skipped: int = 0
    scored: int = 0
    control: int = 0
    shorter: tuple[Shorter, ...] = ()


@dataclass(frozen=True, slots=True)
class Linear:
    """The linear layers of one name in all blocks: their weights, and their inputs and outputs together."""

    weights: int
    width: int


@dataclass(frozen=True, slots=True)
class Weights:
    """The base model's weights, from the headers of its files.

    Attributes:
        count: all of them.
        linear: those LoRA may be put on, by module name (``q_proj``).
    """

    count: int
    linear: Mapping[str, Linear]

    def adapter(self, recipe: Recipe) -> int:
        """Weights that LoRA of ``recipe`` trains."""
        return recipe.rank * sum(each.width for each in self.targets(recipe))

    def targets(self, recipe: Recipe) -> list[Linear]:
        """The layers that LoRA of ``recipe`` is put on."""
        wanted = {name.rsplit(".", 1)[-1] for name in recipe.target_modules}
        return [each for name, each in self.linear.items() if not wanted or name in wanted]


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was taken: tokens that went through the model at once, and the peak of the process's memory."""

    tokens: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What a rehearsal found.

    Attributes:
        prepare_s: until the first step: imports, data, model.
        loaded_bytes: peak while the model was loaded.
        trained: weights of the adapter. bytes_each: of a base weight in memory.
        parts: tokens of the largest part of the run, by ``max_length``: the recipe's and some smaller ones.
        small: a step on one usual example. large: on the largest part; None where it would not have fitted.
        pace: tokens a second of measured steps. paced: how many those were. steps: of the whole run.
        peak_bytes: over all of them; more than ``large`` took where memory is not given back in the pieces it was taken.
    """

    prepare_s: float
    loaded_bytes: int
    trained: int
    bytes_each: float
    parts: Mapping[int, int]
    small: Step
    large: Step | None
    pace: float
    paced: int
    steps: int
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change that makes the run fit.

    Attributes:
        changes: fields of the recipe and their new values.
        shorter: what a smaller ``max_length`` among them does to the data.
    """

    changes: Mapping[str, Any]
    memory_bytes: int
    shorter: Shorter | None = None

    def message(self, language: str = "zh") -> str:
        """One line for a person."""
        values = {name: ",".join(v) if isinstance(v, tuple | list) else v for name, v in self.changes.items()}
        pairs = ", ".join(f"{name}={value}" for name, value in values.items())
        gb = _gb(self.memory_bytes)
        zh, en = f"{pairs}：约需 {gb}", f"{pairs}: about {gb}"
        if self.shorter is not None:
            zh += f"；会截断 {self.shorter.cut:.1%} 的样本，{self.shorter.lost:.1%} 会失去全部回答而被拒绝"
            en += (
                f"; cuts {self.shorter.cut:.1%} of the examples, {self.shorter.lost:.1%} would lose their whole answer"
            )
        if self.changes.get("quantization"):
            zh, en = zh + "（需要 tunesmith[quantization]）", en + " (needs tunesmith[quantization])"
        return zh if language == "zh" else en


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will take.

    Attributes:
        measured: from steps that were really taken; else ``why`` says why not, in Chinese and English.
        steps: updates of the weights. updates_per_epoch: of them.
        examples: of one epoch. tokens, supervised: of the whole run, without padding.
        cut, cut_tokens: shares of examples and tokens that ``max_length`` cuts.
        prepare_s, train_s, score_s, finish_s: until the first step, in steps, scoring validation and control data, and
            publishing the adapter.
        memory_bytes: the trainer's peak. disk_bytes: checkpoints and adapter.
        room: what the machine has free.
        remedies: what would make it fit, the least change first; empty where it fits or nothing helps.
    """

    measured: bool
    why: tuple[str, str] | None
    steps: int
    updates_per_epoch: int
    examples: int
    skipped: int
    tokens: int
    supervised: int
    cut: float
    cut_tokens: float
    prepare_s: float
    train_s: float
    score_s: float
    finish_s: float
    tokens_per_second: float
    memory_bytes: int
    disk_bytes: int
    room: Room
    remedies: tuple[Remedy, ...] = ()

    @property
    def seconds(self) -> float:
        """From the start of the trainer to the published adapter."""
        return self.prepare_s + self.train_s + self.score_s + self.finish_s

    @property
    def fits_memory(self) -> bool:
        return self.memory_bytes <= self.room.memory_bytes * (1 - SPARE)

    @property
    def fits_disk(self) -> bool:
        return self.disk_bytes <= self.room.disk_bytes

    @property
    def fits(self) -> bool:
        """Whether the machine has room for it now."""
        return self.fits_memory and self.fits_disk

    def note(self, language: str = "zh") -> str | None:
        """Why this is but an estimate; None where it was measured."""
        return None if self.why is None else self.why[0 if language == "zh" else 1]

    def message(self, language: str = "zh") -> str:
        """The verdict in one line."""
        needs, has = _gb(self.memory_bytes), _gb(self.room.memory_bytes)
        zh, en = f"放得下：约需内存 {needs}，可用 {has}", f"it fits: about {needs} of memory, {has} free"
        if not self.fits_memory:
            rest = ("；可行的改法见 remedies", "; remedies make it fit") if self.remedies else (
                "；改小各项也不够，请换更小的基座模型", "; no smaller setting is enough, take a smaller base model")  # fmt: skip
            zh = f"放不下：约需内存 {needs}，可用 {has}{rest[0]}"
            en = f"it does not fit: about {needs} of memory, {has} free{rest[1]}"
        elif not self.fits_disk:
            needs, has = _gb(self.disk_bytes), _gb(self.room.disk_bytes)
            zh = f"磁盘放不下：约需 {needs}，剩余 {has}；请清理空间"
            en = f"the disk is too full: about {needs} needed, {has} free; free some room"
        return zh if language == "zh" else en


def cut_at(lengths: Sequence[int], firsts: Sequence[int], max_length: int) -> Shorter:
    """What ``max_length`` would do to examples so long, whose first learned tokens stand at ``firsts``."""
    total = max(1, len(lengths))
    return Shorter(
        max_length,
        sum(length > max_length for length in lengths) / total,
        sum(first >= max_length for first in firsts) / total,
    )


def _gb(size: float) -> str:
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
