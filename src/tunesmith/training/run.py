"""A run and the recipe it executes: plain values, no database, no torch."""

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from tunesmith.kernel.problems import Conflict, Invalid


class State(StrEnum):
    """Where a run stands. The last three are final: nothing leaves them."""

    QUEUED = "queued"  # recorded, not started
    RUNNING = "running"  # an executor has it
    COMPLETED = "completed"  # its adapter is published
    FAILED = "failed"  # ended without an adapter; ``error`` says why
    CANCELED = "canceled"  # ended because somebody asked

    @property
    def final(self) -> bool:
        return self in (State.COMPLETED, State.FAILED, State.CANCELED)


_NEXT: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.QUEUED, State.RUNNING, State.FAILED, State.CANCELED}),
    State.RUNNING: frozenset({State.RUNNING, State.COMPLETED, State.FAILED, State.CANCELED}),
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELED: frozenset(),
}


_KEY = re.compile(r"[ -~]{1,255}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that determines an adapter. Two runs of one recipe on one machine give the same bytes.

    Attributes:
        dataset: training file or dataset split, a name under home (``data/train.json``).
        validation: file scored during training, or None.
        replay: file of general examples mixed in against forgetting, or None.
        replay_share: fraction in [0, 1) of each epoch's examples drawn from ``replay``.
        control: file scored before and after training, to see what was forgotten, or None.
        objective: "sft" learns the assistant's answers; "dpo" learns to prefer ``chosen`` to ``rejected`` answers.
        dpo_beta: how strongly DPO holds on to the base; larger stays closer.
        evaluate_every: steps between two scorings of ``validation``; 0 scores at the end of each epoch.
        keep_best: publish the weights that scored best on ``validation`` instead of the last.
        early_stopping: scorings in a row without a better one that end training; 0 never does.
        batch_size: examples a step; times ``gradient_accumulation`` for one optimizer step.
        max_length: tokens; an example longer than this is cut at the end (refused if nothing trained remains).
        use_rslora: scale by alpha / sqrt(rank) instead of alpha / rank.
        use_dora: learn the magnitude of each output apart from its direction.
        target_modules: module names LoRA is put on; empty means every linear layer but the output head.
        quantization: None, "int8" or "int4" for the frozen base.
        scheduler: "cosine", "linear" or "constant", after ``warmup_ratio`` of the steps.
    """

    base_model: str
    dataset: str
    dataset_format: str | None = None
    validation: str | None = None
    replay: str | None = None
    replay_share: float = 0.0
    epochs: int = 3
    batch_size: int = 8
    gradient_accumulation: int = 1
    learning_rate: float = 2e-4
    warmup_ratio: float = 0.03
    scheduler: str = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int = 1024
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ()
    quantization: str | None = None
    seed: int = 42
    skip_bad: bool = False
    use_rslora: bool = False
    use_dora: bool = False
    objective: str = "sft"
    dpo_beta: float = 0.1
    control: str | None = None
    evaluate_every: int = 0
    keep_best: bool = False
    early_stopping: int = 0


@dataclass(frozen=True, slots=True)
class Once:
    """A request that makes one run, however often it is sent (draft-ietf-httpapi-idempotency-key-header).

    Attributes:
        key: what the caller named the request; theirs alone.
        digest: SHA-256 of all that was asked, hexadecimal, to tell a repeated request from another with its key.
    """

    key: str
    digest: str

    @staticmethod
    def of(key: str, asked: object) -> "Once":
        """The request with that key.

        Args:
            asked: all that was asked, as JSON holds it; nothing that may change until it is sent again.

        Raises:
            Invalid: the key is not 1 to 255 printable ASCII characters.
        """
        if not _KEY.fullmatch(key):
            raise Invalid(
                "Idempotency-Key 应为 1 到 255 个可打印的 ASCII 字符",
                "Idempotency-Key must be 1 to 255 printable ASCII characters",
                field="Idempotency-Key",
            )
        return Once(key, hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class Progress:
    """The last thing a trainer said.

    Attributes:
        epoch: epochs finished, with fraction, e.g. 1.25.
        tokens_per_second: trained (supervised and context) tokens, without padding.
        seconds_left: the trainer's own estimate.
    """

    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None

    @property
    def fraction(self) -> float:
        """Share of the steps done, in [0, 1]."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of a recipe.

    Attributes:
        output: name under home where the adapter is published, e.g. ``adapters/town``.
        executor: name of the executor that has it ("local").
        handle: what the executor gave us to find it again; None until it accepted the run.
        cancel_requested: somebody asked to stop; the state follows when the trainer has.
        updated_at: when the record last changed; None in records older than this field.
        error: one sentence a person can act on, only when failed; ``error_zh`` the same in Chinese.
    """

    id: str
    recipe: Recipe
    output: str
    executor: str
    created_at: datetime
    state: State = State.QUEUED
    owner: str = "local"
    handle: str | None = None
    progress: Progress = field(default_factory=Progress)
    cancel_requested: bool = False
    started_at: datetime | None = None
    ended_at: datetime | None = None
    updated_at: datetime | None = None
    error: str | None = None
    error_zh: str | None = None
    version: int = 0

    def reason(self, language: str = "zh") -> str | None:
        """Why the run failed, in ``language``: "zh" or anything else for English; None unless it failed."""
        return (self.error_zh or self.error) if language == "zh" else self.error

    def to(self, state: State, **changes: object) -> "Run":
        """The run moved to ``state`` with other fields changed.

        Raises:
            Conflict: the transition is not allowed; a final state never changes.
        """
        if state not in _NEXT[self.state]:
            raise Conflict(
                f"任务 {self.id} 的状态是 {self.state}，不能变为 {state}",
                f"run {self.id} is {self.state} and cannot become {state}",
                run_id=self.id,
                state=str(self.state),
            )
        return replace(self, state=state, **changes)  # type: ignore[arg-type]
