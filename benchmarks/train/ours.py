"""Tunesmith's side: a process that trains by ``recipe.execute`` and prints what each step took."""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any


class Timed:
    """Is told of steps and ends training when there were enough of them."""

    def __init__(self, most: int, budget_s: float) -> None:
        self.ends, self.losses = [time.perf_counter()], list[float]()
        self._most, self._until = most, time.monotonic() + budget_s

    def step(self, progress: Any, *told: object) -> int:
        self.ends.append(time.perf_counter())
        self.losses.append(progress.loss)
        return 0

    def enough(self) -> bool:
        done = len(self.losses)
        return done >= self._most or (done >= 2 and time.monotonic() > self._until)


def _labels(example: Any) -> list[int]:
    """What is learned, as transformers' collators want it told."""
    return [token if learned else -100 for token, learned in zip(example.tokens, example.trained, strict=True)]


def main() -> None:
    """Train as the job on the command line says; the last line printed is the result."""
    import torch

    from tunesmith.datasets.reading import read_examples
    from tunesmith.kernel.home import Home
    from tunesmith.training.data.encoding import Encoder, encode_all
    from tunesmith.training.data.material import Material
    from tunesmith.training.data.tokenizing import load_tokenizer
    from tunesmith.training.loop.batches import Plan
    from tunesmith.training.loop.frozen import arithmetic
    from tunesmith.training.loop.loading import load_base
    from tunesmith.training.loop.lora_modules import with_lora
    from tunesmith.training.plan.room import peak_memory
    from tunesmith.training.recipe import execute
    from tunesmith.training.run import Recipe
    from tunesmith.training.run_folder import Stopped

    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    model_folder = Path(job["model"])
    recipe = Recipe(
        "bench", "chats.jsonl", epochs=job.get("epochs", 100), dropout=0.0, max_length=1024, rank=16, alpha=32.0,
        seed=job.get("seed", 42), **job["settings"],
    )  # fmt: skip
    encoder = Encoder(load_tokenizer(model_folder), recipe.max_length)
    data = Path(job["data"])
    main = encode_all(read_examples(Home(data.parent), data.name), encoder, data.name)
    model = with_lora(load_base(model_folder, None), recipe)
    timed = Timed(job["steps"] + 1, job["budget_s"])
    plan = Plan(main, [], 0.0, recipe.batch_size, recipe.gradient_accumulation, recipe.seed)
    updates = [[each for batch in update for each in batch] for _ in range(recipe.epochs) for update in plan.epoch()]
    with contextlib.suppress(Stopped):
        execute(recipe, model, Material(main, [], []), timed, timed.enough)
    seconds = [end - begin for begin, end in zip(timed.ends, timed.ends[1:], strict=False)]
    done = updates[: len(seconds)]
    if "order" in job:
        order = [{"input_ids": list(each.tokens), "labels": _labels(each)} for update in done for each in update]
        Path(job["order"]).write_text("".join(json.dumps(row) + "\n" for row in order))
    result = {
        "seconds": seconds,
        "tokens": [sum(map(len, update)) for update in done],
        "learned": [sum(each.supervised for each in update) for update in done],
        "losses": timed.losses,
        "peak_bytes": peak_memory(),
        "computes_in": arithmetic(model),
    }
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
