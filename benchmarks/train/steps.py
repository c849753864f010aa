"""Each step of a trainer that is transformers' own underneath, timed and counted. Peers' processes import it: no
Tunesmith here."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COUNTED = ("tokens", "padded", "learned")


class Steps:
    """What the job on the command line took, step by step.

    Args:
        budget_s: after so much the step that runs is the last, if one is timed by then (the first does not count).
    """

    def __init__(self, budget_s: float) -> None:
        self.seconds, self.losses = list[float](), list[float]()
        self.counts = {name: list[int]() for name in COUNTED}
        self._until, self._began = time.monotonic() + budget_s, 0.0

    def counting(self, trainer: type) -> type:
        """``trainer``, counting the tokens of every batch that it trains on."""

        class Counting(trainer):  # type: ignore[misc]
            def training_step(its, model: Any, inputs: Any, *more: Any, **options: Any) -> Any:
                self.count(inputs)
                return super().training_step(model, inputs, *more, **options)

        return Counting

    def clock(self) -> Any:
        """The callback that takes the time."""
        from transformers import TrainerCallback

        class Clock(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(its, *_: Any, **__: Any) -> None:
                self.begin()

            def on_step_end(its, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_training_stop |= self.end()

            def on_log(its, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                self.losses += [float(logs["loss"])] if logs and "loss" in logs else []

        return Clock()

    def begin(self) -> None:
        for column in self.counts.values():
            column.append(0)
        self._began = time.perf_counter()

    def count(self, inputs: Mapping[str, Any]) -> None:
        """A batch: its tokens, with padding and without, and those with loss."""
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        found = (ids.numel() if mask is None else mask.sum(), ids.numel(), (inputs["labels"] != -100).sum())
        for name, number in zip(COUNTED, found, strict=True):
            self.counts[name][-1] += int(number)

    def end(self) -> bool:
        """Whether it was the last."""
        self.seconds.append(time.perf_counter() - self._began)
        return len(self.seconds) >= 2 and time.monotonic() > self._until

    def tell(self, model: Any, how: str = "") -> None:
        """Print the result, with the peak of this process's memory and the format that ``model``'s base lies in."""
        status = Path("/proc/self/status").read_text()
        peak = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))
        base = next(weight for weight in model.parameters() if not weight.requires_grad)
        found = {"seconds": self.seconds, **self.counts, "losses": self.losses, "peak_bytes": peak}
        print("RESULT " + json.dumps({**found, "computes_in": f"{base.dtype}{how}"}))
