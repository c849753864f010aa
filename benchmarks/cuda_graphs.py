"""What a decode step takes on a GPU with and without CUDA graphs.

    PYTHONPATH=. .venv/bin/python benchmarks/cuda_graphs.py [MODEL_FOLDER]

Without a folder, the model that ships. It needs a GPU that torch sees, and measures nothing elsewhere.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import tunesmith
from tunesmith.inference.worker.attention import Chunk
from tunesmith.inference.worker.cache import Lease
from tunesmith.inference.worker.model import LanguageModel
from tunesmith.inference.worker.step import Step

_SHIPPED = Path(tunesmith.__file__).parent / "models/shipped/tunesmith-small"
_ROWS = (1, 2, 8, 32, 64)
_PROMPT = 128
_STEPS = 60  # the first half is not counted: in it steps are recorded


def main() -> None:
    """Print milliseconds a step by rows, both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=_SHIPPED)
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("!! no GPU that torch sees here: CUDA graphs are NOT measured")
        return
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {asked.model.name}; milliseconds a decode step")
    print("rows  one by one  graph  recorded")
    found = []
    for eager in (True, False):
        model = LanguageModel(asked.model, eager=eager)
        with torch.inference_mode():
            found.append([decoding(model, rows) for rows in _ROWS])
        recorded = model._graphs.recorded if model._graphs is not None and model._graphs.on else 0
        del model
        torch.cuda.empty_cache()
    for rows, without, with_graphs in zip(_ROWS, *found, strict=True):
        print(f"{rows:4}  {without * 1e3:10.2f}  {with_graphs * 1e3:5.2f}  {'yes' if recorded else 'NO: see the log'}")


def decoding(model: LanguageModel, rows: int) -> float:
    """Seconds a step of so many rows takes, its logits read: the median."""
    leases = [model.cache.lease(_PROMPT + _STEPS) for _ in range(rows)]
    tokens = [7 + n % 80 for n in range(_PROMPT)]
    for lease in leases:
        model.forward(Step(tokens, range(_PROMPT), [Chunk(lease, 0, _PROMPT, 0)], [], [], [_PROMPT - 1]))
        lease.length = _PROMPT
    times = [_step(model, leases, token=9 + n) for n in range(_STEPS)]
    for lease in leases:
        model.cache.release(lease)
    return statistics.median(times[_STEPS // 2 :])


def _step(model: LanguageModel, leases: Sequence[Lease], token: int) -> float:
    places = [lease.length for lease in leases]
    decoding = [(lease, at) for at, lease in enumerate(leases)]
    began = time.perf_counter()
    model.forward(Step([token] * len(leases), places, [], decoding, [], range(len(leases)))).logits.argmax(-1).tolist()
    for lease in leases:
        lease.length += 1
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
