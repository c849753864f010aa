"""A run's first steps, taken in a process of its own and forgotten: ``python -m tunesmith.training.plan.rehearsal``.

It is asked by one JSON line on its standard input and answers by JSON lines on its standard output, each as soon as it
is known: what the data holds, what the loaded model takes, a step on one usual example, one on the largest part that the
run will ever have, the speed of the run's own first steps. It ends when its standard input does: whoever asked is gone then. It writes nothing
but what the trainer would quarantine, into a folder that the asker gives and deletes, and it ends itself before it takes
more memory than it was given.
"""

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tunesmith.datasets.worker.tasks import Failed, failed
from tunesmith.kernel.problems import Problem
from tunesmith.training.plan import room
from tunesmith.training.plan.prediction import Counted, Linear, Step, Weights, cut_at
from tunesmith.training.run import Progress, Recipe
from tunesmith.training.run_folder import Order, Stopped

if TYPE_CHECKING:
    from tunesmith.training.data.encoding import Encoded
    from tunesmith.training.data.material import Learned, Material

TOO_MUCH = 76  # exit status: more memory than was given
_LOOK_EVERY_S = 0.02
_ENOUGH_S, _ENOUGH_STEPS = 2.0, 20
_LEAST_STEPS = 2
_FILLED = 0.8  # of the memory given that a step may be expected to take
_LONGEST_UPDATE_S = 20.0  # where one takes longer, a part of it tells the speed
_SHARES = (0.75, 0.5, 0.375, 0.25, 0.125)  # of max_length that are looked at
_TINY_RATE = 1e-9


class Asked(msgspec.Struct, frozen=True):
    """What is to be rehearsed.

    Attributes:
        folder: an empty one, the asker's to delete.
        measure: else only the data and the shapes are looked at.
        memory_bytes: what the process may hold on the CPU.
    """

    order: Order
    folder: str
    measure: bool
    memory_bytes: int


class Looked(msgspec.Struct, frozen=True, tag="looked"):
    """The data and the base model's shapes."""

    counted: Counted
    weights: Weights


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The base is in memory with its adapter.

    Attributes:
        free_bytes: of the GPU it is on, before it was there; 0 on the CPU.
        parts: see ``plan.Measured``.
    """

    device: str
    free_bytes: int
    peak_bytes: int
    trained: int
    bytes_each: float
    prepare_s: float
    parts: dict[int, int]


class Stepped(msgspec.Struct, frozen=True, tag="stepped"):
    """A step, the first on one usual example, the second on the largest part; and its speed."""

    step: Step
    pace: float


class Paced(msgspec.Struct, frozen=True, tag="paced"):
    """The run's own first steps; nothing comes after it.

    Attributes:
        steps: of the whole run, 0 where nobody has counted.
        peak_bytes: of the process over all steps.
    """

    pace: float
    paced: int
    steps: int
    peak_bytes: int


Said = Looked | Loaded | Stepped | Paced | Failed
said_of = msgspec.json.Decoder(Said).decode
_encode = msgspec.json.Encoder().encode


def main() -> int:
    """Read what is asked, rehearse, answer."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    asked = msgspec.json.decode(sys.stdin.buffer.readline(), type=Asked)
    threading.Thread(target=_end_with_asker, name="asker", daemon=True).start()
    threading.Thread(target=_end_when_full, args=(asked.memory_bytes,), name="memory", daemon=True).start()
    with suppress(OSError):  # should memory run out all the same, the kernel is to take this process
        Path("/proc/self/oom_score_adj").write_text("1000")

    def say(what: Said) -> None:
        os.write(answers, _encode(what) + b"\n")

    try:
        _Rehearsal(asked, say).run()
    except Problem as problem:
        say(failed(problem))
    return 0


class _Rehearsal:
    def __init__(self, asked: Asked, say: Any) -> None:
        self._asked, self._say = asked, say
        self._order, self._recipe = asked.order, asked.order.recipe

    def run(self) -> None:
        from tunesmith.training.trainer import read_material

        _, material = read_material(Path(self._asked.folder), self._order)
        weights = weights_of(Path(self._order.base_path))
        counted = self._counted(material)
        self._say(Looked(counted, weights))
        # at the least: what does not fit even so is not tried
        least = weights.count * {"int4": 0.5, "int8": 1.0}.get(self._recipe.quantization or "", 2.0)
        if self._asked.measure and least < self._asked.memory_bytes:
            self._measure(material, counted)

    def _measure(self, material: "Material", counted: Counted) -> None:
        import torch

        from tunesmith.training.loop.loading import load_base
        from tunesmith.training.loop.lora_modules import with_lora

        if self._order.threads:
            torch.set_num_threads(self._order.threads)
        free = int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else 0
        model = with_lora(load_base(Path(self._order.base_path), self._recipe.quantization), self._recipe)
        loaded = room.peak_memory()
        prepared_s = time.time() - _started()
        examples: list[Learned] = sorted([*material.main, *material.replay], key=len)
        update = examples[-self._recipe.batch_size * self._recipe.gradient_accumulation :]
        largest_of = _largest_part(model)
        largest = largest_of(update)
        lengths = (self._recipe.max_length, *(each.max_length for each in counted.shorter))
        parts = {most: sum(map(len, largest_of([_cut(each, most) for each in update]))) for most in lengths}
        self._say(_loaded(model, free, loaded, prepared_s, parts))
        room.forget_peak()
        small, pace = self._step(model, material, [examples[len(examples) // 2]])
        tokens = sum(map(len, largest))
        each_token = max(0.0, (small.peak_bytes - loaded) / small.tokens)
        if loaded + each_token * tokens > _FILLED * (free or self._asked.memory_bytes):
            self._say(Paced(pace, 1, 0, small.peak_bytes))  # a step of the run would be too much
            return
        self._step(model, material, largest)
        batch_s = counted.tokens / counted.examples * self._recipe.batch_size / max(pace, 1e-9)
        self._pace(model, material, batch_s * self._recipe.gradient_accumulation)

    def _step(self, model: Any, material: "Material", examples: "list[Learned]") -> tuple[Step, float]:
        """One update on these alone; what it took, and its tokens a second."""
        alone = replace(self._recipe, batch_size=len(examples), gradient_accumulation=1, epochs=1)
        told = _taken(model, alone, _only(material, examples), steps=1)
        step = Step(sum(map(len, examples)), room.peak_memory())
        self._say(Stepped(step, told.pace))
        return step, told.pace

    def _pace(self, model: Any, material: "Material", update_s: float) -> None:
        """The speed of the run's first updates, or of smaller ones where those are long."""
        whole = update_s <= _LONGEST_UPDATE_S and self._recipe.objective == "sft"
        recipe = self._recipe if whole else replace(self._recipe, gradient_accumulation=1)
        main = material.main
        if self._recipe.objective != "sft":  # a look at every pair comes before the first step
            main = random.Random(recipe.seed).sample(main, min(len(main), _ENOUGH_STEPS * recipe.batch_size))
        told = _taken(model, recipe, _only(material, main, material.replay), steps=_ENOUGH_STEPS)
        self._say(Paced(told.pace, told.count, told.total if whole else 0, room.peak_memory()))

    def _counted(self, material: "Material") -> Counted:
        recipe = self._recipe
        main, replay = material.main, material.replay
        drawn = round(len(main) * recipe.replay_share / (1 - recipe.replay_share)) if replay else 0
        share = drawn / len(replay) if replay else 0.0

        def each_epoch(of: "Callable[[Learned], int]") -> int:
            return sum(map(of, main)) + round(share * sum(map(of, replay)))

        texts = [side for example in main for side in _sides(example)]
        lengths = [len(text) for text in texts]
        over = sum(text.whole - len(text) for text in texts)
        # a side with nothing to learn has all of it in the other
        firsts = [max(0, text.trained.find(1)) for text in texts]
        skipped = Path(self._asked.folder) / "skipped.jsonl"
        return Counted(
            examples=len(main) + drawn,
            tokens=each_epoch(len),
            supervised=each_epoch(lambda example: example.supervised),
            longest=max(map(len, [*main, *replay])),
            cut=sum(text.cut is not None for text in texts) / len(texts),
            cut_tokens=over / (sum(lengths) + over),
            skipped=len(skipped.read_bytes().splitlines()) if skipped.exists() else 0,
            scored=sum(map(len, material.validation)),
            control=sum(map(len, material.control)),
            shorter=tuple(
                cut_at(lengths, firsts, smaller)
                for smaller in (round(recipe.max_length * share) for share in _SHARES)
                if 8 <= smaller < max(lengths)
            ),
        )


def weights_of(folder: Path) -> Weights:
    """The shapes of the weights in the safetensors files of ``folder``; an empty answer where they cannot be read."""
    count, linear = 0, dict[str, Linear]()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < 1 << 28 else {}
        for name, facts in header.items():
            shape = facts.get("shape", [])
            total = 1
            for side in shape:
                total *= side
            count += total if shape else 0
            module = name.removesuffix(".weight").rsplit(".", 1)[-1]
            inside = ".layers." in name or ".h." in name  # neither embeddings nor the head
            if len(shape) == 2 and inside and name.endswith(".weight"):
                before = linear.get(module, Linear(0, 0))
                linear[module] = Linear(before.weights + total, before.width + sum(shape))
    return Weights(count, linear)


def _loaded(model: Any, free: int, peak: int, prepared_s: float, parts: dict[int, int]) -> Loaded:
    weights = [(weight.numel(), weight.element_size(), weight.requires_grad) for weight in model.parameters()]
    base = [(count, size) for count, size, trains in weights if not trains]
    return Loaded(
        device=str(next(model.parameters()).device),
        free_bytes=free,
        peak_bytes=peak,
        trained=sum(count for count, _, trains in weights if trains),
        bytes_each=sum(count * size for count, size in base) / max(1, sum(count for count, _ in base)),
        prepare_s=prepared_s,
        parts=parts,
    )


def _largest_part(model: Any) -> "Callable[[list[Learned]], list[Learned]]":
    """Gives the most that goes through the model at once of an update with some examples."""
    from tunesmith.training.loop.objective import Surprise

    surprise = Surprise(model)
    surprise.release()
    return lambda examples: max(surprise.parts(examples), key=lambda part: sum(map(len, part)))


def _sides(example: "Learned") -> "tuple[Encoded, ...]":
    from tunesmith.training.data.encoding import Encoded

    return (example,) if isinstance(example, Encoded) else (example.chosen, example.rejected)


def _cut(example: "Learned", most: int) -> "Learned":
    from tunesmith.training.data.pairs import EncodedPair

    sides = [replace(side, tokens=side.tokens[:most], trained=side.trained[:most]) for side in _sides(example)]
    return sides[0] if len(sides) == 1 else EncodedPair(*sides)


def _only(material: "Material", main: "Sequence[Learned]", replay: "Sequence[Encoded]" = ()) -> "Material":
    """The material with these examples and nothing to be scored."""
    return replace(material, main=list(main), replay=list(replay), validation=[], control=[])


@dataclass(slots=True)
class _Told:
    """Ends a rehearsal when it has been told enough."""

    most: int
    began: float = 0.0
    count: int = 0
    total: int = 0
    pace: float = 0.0

    def step(self, progress: Progress, *told: object) -> int:
        self.began = self.began or time.monotonic()
        self.count, self.total = progress.step, progress.total_steps
        self.pace = progress.tokens_per_second or 0.0
        return 0

    def enough(self) -> bool:
        waited = self.count >= _LEAST_STEPS and time.monotonic() - self.began >= _ENOUGH_S
        return self.count >= self.most or waited


def _taken(model: Any, recipe: Recipe, material: "Material", steps: int) -> _Told:
    """What training told of its first steps; the model hardly changes."""
    from tunesmith.training.recipe import execute

    told = _Told(steps)
    plain = replace(
        recipe, learning_rate=_TINY_RATE, validation=None, control=None, evaluate_every=0, keep_best=False,
        early_stopping=0, replay_share=recipe.replay_share if material.replay else 0.0,
    )  # fmt: skip
    with suppress(Stopped):
        execute(plain, model, material, told, told.enough)
    return told


def _started() -> float:
    """When this process began, in seconds since the epoch: the start of the interpreter counts."""
    import psutil

    return float(psutil.Process().create_time())


def _end_with_asker() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def _end_when_full(most: int) -> None:
    while most:
        if room.resident("RssAnon") > most:
            os._exit(TOO_MUCH)
        time.sleep(_LOOK_EVERY_S)


if __name__ == "__main__":
    sys.exit(main())
