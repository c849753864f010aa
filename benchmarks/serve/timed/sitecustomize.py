"""On the path of an engine's process: writes down every forward of its model, with nothing in the engine changed.

A line is: when it began (s), how long it took (s), tokens in it, rows whose logits are wanted; and the process's
processor time when it began (s), and meanwhile (s).
"""

import atexit
import importlib.machinery
import importlib.util
import os
import sys
import time
from types import ModuleType
from typing import Any

_MODEL = "tunesmith.inference.worker.model"


class _Finder:
    """Finds that one module as everybody else does, and wraps what it defines."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != _MODEL:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_wrap(module: ModuleType) -> None:
                load(module)
                _wrap(module.LanguageModel)

            spec.loader.exec_module = load_and_wrap  # type: ignore[method-assign]
        return spec


def _wrap(model: Any) -> None:
    file = open(os.environ["SERVE_TIMED"], "a", buffering=1 << 16)  # noqa: SIM115, PTH123  (for as long as the process)
    forward = model.forward
    written = 0

    def timed(self: Any, step: Any) -> Any:
        nonlocal written
        spent, began = time.process_time(), time.monotonic()
        predicted = forward(self, step)
        took, cost = time.monotonic() - began, time.process_time() - spent
        file.write(f"{began:.6f} {took:.6f} {len(step.tokens)} {len(step.keep)} {spent:.6f} {cost:.6f}\n")
        written += 1
        if written % 32 == 0:  # the process may be killed
            file.flush()
        return predicted

    model.forward = timed
    atexit.register(file.flush)


if "SERVE_TIMED" in os.environ and "tunesmith.inference.worker" in sys.orig_argv:
    sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
