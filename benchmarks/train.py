"""Training beside its peers: one model, one file of chats, one run, one contestant at a time.

    python benchmarks/train.py [--shape qwen2.5-0.5b] [--steps 3] [--rounds 2] [--budget-seconds 240] [--json]
    python benchmarks/train.py --shape tiny --rounds 1          # shows that all works, in two minutes
    python benchmarks/train.py --model shipped                  # loss curves beside TRL's; POST /train to first step

Tunesmith (``recipe.execute``, as its trainer calls it) beside TRL's ``SFTTrainer`` at its defaults and at the best of
the settings below, and LLaMA-Factory's SFT workflow at its defaults (of a float32 checkpoint where bfloat16 is the
slower one here). The base has the shape of Qwen2.5-0.5B and random weights; the chats have log-normal lengths (median
150, at most 1,024 tokens) and are 56 % answer. LoRA of rank 16 on every linear layer, no dropout. Each training is a
process of its own; contestants take turns, round by round; the first step of each does not count; threads wait without
spinning, for all alike. "Useful" tokens are those of the sequences, without padding. Memory is the peak of the whole
process (VmHWM). The share of the matrix rate counts the matrix products of the frozen weights alone (two there and two
back; the output head only where there is loss), over the better of float32 and bfloat16 as measured on the same shapes
in the same run.

TRL's best setting is looked for with one timed step each; ``--best NAME`` names it instead. Settings that compute in
the number format in which matrix products are the slower are not asked; TRL's defaults run all the same, as themselves.
What a contestant could not do within ``--budget-seconds`` it is not waited for: one timed step is enough then, and a
process that has none after three times as long is ended and left out. Peers live in virtual environments of their own
under ``--folder``, made on the first run.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.first_step import first_steps
from train.material import SAMPLES, SHAPES, SHIPPED, work_a_token, write_chats, write_model
from train.peers import HERE, Contestant, LeftOut, asked, factory_python, ours, trained, trl_python

AIMS = {"TRL defaults": 5.0, "TRL best": 3.0}  # times their useful tokens a second
MEMORY_AIM, RATE_AIM, FIRST_STEP_AIM_S = 0.5, 0.4, 5.0
_FLOAT32: Mapping[str, Any] = {"bf16": False, "gradient_checkpointing": False}
_BFLOAT16: Mapping[str, Any] = {"model_init_kwargs": {"dtype": "bfloat16"}, "gradient_checkpointing": False}
_SUPERVISED: Mapping[str, Any] = {"assistant_only_loss": True}
_BY_LENGTH: Mapping[str, Any] = {**_SUPERVISED, "train_sampling_strategy": "group_by_length"}
_IN_THREES: Mapping[str, Any] = {"per_device_train_batch_size": 3}
_WAYS: Mapping[str, Mapping[str, Any]] = {
    "": {},
    ", checkpointing": {"gradient_checkpointing": True},
    ", assistant only": _SUPERVISED,
    ", assistant only, batch 3": {**_SUPERVISED, **_IN_THREES},
    ", assistant only, by length": _BY_LENGTH,
    ", assistant only, by length, batch 3": {**_BY_LENGTH, **_IN_THREES},
    ", assistant only, padding free": {**_SUPERVISED, "padding_free": True, "max_length": None},
    ", assistant only, packed": {**_SUPERVISED, "packing": True, "per_device_train_batch_size": 1},
}
TRL: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    **{
        name + way: {**settings, **more}
        for name, settings in (("float32", _FLOAT32), ("bfloat16", _BFLOAT16))
        for way, more in _WAYS.items()
    },
}
_CURVE: Mapping[str, Any] = {
    "per_device_train_batch_size": 16, "learning_rate": 1e-3, "lr_scheduler_type": "constant", "weight_decay": 0.0,
    "train_sampling_strategy": "sequential", "dataset_kwargs": {"skip_prepare_dataset": True},
}  # fmt: skip


class Bench:
    """Runs jobs one after the other and remembers the load they met.

    Attributes:
        loads: load averages of one minute, before each job.
    """

    def __init__(self, folder: Path, model: Path, data: Path, given: argparse.Namespace) -> None:
        self.folder, self.loads = folder, list[float]()
        self._model, self._data, self._given = model, data, given

    def run(self, who: Contestant, steps: int, **more: Any) -> dict[str, Any]:
        """One training; raises LeftOut as ``trained``."""
        job = {"model": str(self._model), "data": str(self._data), "threads": self._given.threads, "steps": steps}
        job |= {"budget_s": self._given.budget_seconds, **more}
        self.loads.append(os.getloadavg()[0])
        found = trained(who, job, self.folder / "trainings.log")
        speed = useful(found)
        print(f"  {who.name}: {speed:.0f} tokens/s, {found['peak_bytes'] / 1e9:.2f} GB, {len(found['seconds']) - 1} steps "
              f"(load {self.loads[-1]:.1f})", file=sys.stderr, flush=True)  # fmt: skip
        return found

    def rate(self) -> dict[str, float]:
        """Operations a second of matrix products on this model's shapes, by number format."""
        config = json.loads((self._model / "config.json").read_text())
        job = {"config": config, "threads": self._given.threads}
        job["budget_s"] = max(60.0, self._given.budget_seconds)
        return asked(Path(sys.executable), HERE / "matrix.py", job, self.folder / "trainings.log")


def useful(found: Mapping[str, Any]) -> float:
    """Tokens without padding a second, over all steps but the first."""
    return float(sum(found["tokens"][1:]) / max(1e-9, sum(found["seconds"][1:])))


def best_setting(bench: Bench, python: Path, narrow: bool) -> tuple[str, dict[str, Any]]:
    """The fastest of TRL's settings by one timed step each, and what each of them gave.

    Args:
        narrow: those that compute in bfloat16 are asked, and not those in float32.

    Raises:
        LeftOut: none of them ran.
    """
    tried: dict[str, Any] = {}
    for name, settings in TRL.items():
        if settings.get("bf16", True) != narrow:
            tried[name] = {"failed": f"not asked: {'float32' if narrow else 'bfloat16'} is the slower format here"}
            continue
        try:
            found = bench.run(Contestant(f"TRL, {name}", python, HERE / "sft.py", settings), 1)
        except LeftOut as why:
            tried[name] = {"failed": str(why)}
            print(f"  TRL, {name}: {why}", file=sys.stderr, flush=True)
            continue
        tried[name] = {"tokens_per_second": useful(found), "peak_bytes": found["peak_bytes"]}
    usable = [name for name, found in tried.items() if "failed" not in found]
    if not usable:
        raise LeftOut("none of its settings ran: " + "; ".join(found["failed"] for found in tried.values()))
    return max(usable, key=lambda name: tried[name]["tokens_per_second"]), tried


def contestants(
    bench: Bench, given: argparse.Namespace, narrow: bool
) -> tuple[list[Contestant], dict[str, str], dict[str, Any]]:
    """Who takes part, why others do not, and what TRL's settings gave; ``narrow`` as for ``best_setting``."""
    found, notes, tried = [ours({"batch_size": 8, "learning_rate": 1e-4})], dict[str, str](), dict[str, Any]()
    wanted = {"TRL defaults", "TRL best", "LLaMA-Factory"}.difference(given.without)
    try:
        python = trl_python(bench.folder) if wanted & {"TRL defaults", "TRL best"} else Path()
        if "TRL defaults" in wanted:
            found.append(Contestant("TRL defaults", python, HERE / "sft.py", TRL["defaults"]))
        if "TRL best" in wanted:
            best, tried = (given.best, {}) if given.best else best_setting(bench, python, narrow)
            notes["TRL's best setting"] = best
            found.append(Contestant("TRL best", python, HERE / "sft.py", TRL[best]))
    except LeftOut as why:
        notes["TRL"] = str(why)
    try:
        if "LLaMA-Factory" in wanted:
            settings = {} if narrow else {"dtype": "float32"}
            found.append(Contestant("LLaMA-Factory", factory_python(bench.folder), HERE / "factory.py", settings))
    except LeftOut as why:
        notes["LLaMA-Factory"] = str(why)
    for name in ("TRL", "LLaMA-Factory"):
        if name in notes:
            print(f"!! {name} is LEFT OUT: {notes[name]}", file=sys.stderr, flush=True)
    return [who for who in found if who.name not in given.without], notes, tried


def figures(runs: Sequence[Mapping[str, Any]], work: tuple[float, float], rate: float) -> dict[str, Any]:
    """One contestant's figures over its runs; ``work`` as ``work_a_token`` gives it."""
    speeds = [useful(found) for found in runs]
    tokens, learned = (sum(sum(found[name][1:]) for found in runs) for name in ("tokens", "learned"))
    seconds = sum(sum(found["seconds"][1:]) for found in runs)
    body, head = work
    padded = [sum(found["tokens"][1:]) / sum(found["padded"][1:]) for found in runs if found.get("padded")]
    return {
        "tokens_per_second": tokens / seconds,
        "smallest": min(speeds),
        "largest": max(speeds),
        "steps": sum(len(found["seconds"]) - 1 for found in runs),
        "peak_bytes": max(found["peak_bytes"] for found in runs),
        "learned_share": learned / max(1, tokens),
        "useful_share": statistics.mean(padded) if padded else 1.0,
        "rate_share": (body * tokens + head * learned) / seconds / rate,
        "computes_in": runs[0]["computes_in"],
    }


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """The race: useful tokens a second, memory, share of the matrix rate."""
    folder = given.folder
    model = write_model(folder / given.shape, given.shape)
    data = folder / f"chats-{given.chats}" / "chats.jsonl"
    about = write_chats(data, model, given.chats)
    bench = Bench(folder, model, data, given)
    rates = [bench.rate()]
    racing, notes, tried = contestants(bench, given, rates[0]["bfloat16"] >= rates[0]["float32"])
    runs: dict[str, list[dict[str, Any]]] = {who.name: [] for who in racing}
    for _ in range(given.rounds):
        for who in (each for each in racing if each.name not in notes):
            try:
                runs[who.name].append(bench.run(who, given.steps))
            except LeftOut as why:
                notes[who.name] = str(why)
                print(f"!! {who.name} FAILED: {why}", file=sys.stderr, flush=True)
    rates.append(bench.rate())
    rate = {name: max(each[name] for each in rates) for name in rates[0]}
    found = {name: figures(each, work_a_token(model), max(rate.values())) for name, each in runs.items() if each}
    return {"machine": machine(given), "shape": given.shape, "data": about, "matrix_rate": rate, "figures": found,
            "ratios": ratios(found), "trl_settings": tried, "notes": notes, "load_averages": bench.loads}  # fmt: skip


def ratios(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Ours over each of the others': speed and memory."""
    if "tunesmith" not in found:
        return {}
    mine = found["tunesmith"]
    return {
        name: {"speed": mine["tokens_per_second"] / each["tokens_per_second"],
               "memory": mine["peak_bytes"] / each["peak_bytes"]}
        for name, each in found.items() if name != "tunesmith"
    }  # fmt: skip


def shipped(given: argparse.Namespace) -> dict[str, Any]:
    """Loss curves of the shipped model, ours and TRL's in the same order; seconds to the first step of a server."""
    data = given.folder / "shipped" / "chats.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    rows = (SAMPLES / "facts.train.jsonl").read_text().splitlines()
    data.write_text("\n".join(rows[: len(rows) // 16 * 16]) + "\n")  # TRL's batches and ours are to be the same
    bench = Bench(given.folder, SHIPPED, data, given)
    order = data.with_name("order.jsonl")
    mine_who = ours({"batch_size": 16, "learning_rate": 1e-3, "scheduler": "constant", "warmup_ratio": 0.0})
    steps = max(given.steps, 40)
    mine = bench.run(mine_who, steps, order=str(order))["losses"]
    again = bench.run(mine_who, steps, seed=7)["losses"]
    found: dict[str, Any] = {"machine": machine(given), "tunesmith": mine, "tunesmith, another seed": again}
    try:
        sft = Contestant("TRL", trl_python(given.folder), HERE / "sft.py", {**_FLOAT32, **_CURVE})
        theirs = bench.run(sft, steps, data=str(order), epochs=1)["losses"]
        apart = [abs(a - b) for a, b in zip(mine, theirs, strict=False)]
        noise = [abs(a - b) for a, b in zip(mine, again, strict=False)]
        found |= {"TRL": theirs, "first_difference": apart[0], "mean_difference": statistics.mean(apart),
                  "mean_difference_of_seeds": statistics.mean(noise)}  # fmt: skip
    except LeftOut as why:
        found["TRL"] = str(why)
    found["first_step_s"] = first_steps(given.folder, 3)
    return found


def machine(given: argparse.Namespace) -> dict[str, Any]:
    import torch

    return {"cores": os.cpu_count(), "threads": given.threads, "load": os.getloadavg()[0], "torch": torch.__version__,
            "capability": torch.backends.cpu.get_cpu_capability(), "platform": platform.platform()}  # fmt: skip


def show(found: Mapping[str, Any]) -> None:
    """Print the race as a table, with ratios and aims."""
    about, rate = found["data"], found["matrix_rate"]
    print(f"{found['shape']}, {about['chats']} chats of {about['tokens']} tokens, median {about['median']}, "
          f"longest {about['longest']}")  # fmt: skip
    print(f"{found['machine']['threads']} threads, {found['machine']['capability']}, torch {found['machine']['torch']}; "
          f"load {min(found['load_averages']):.1f}..{max(found['load_averages']):.1f}; matrix rate "
          + ", ".join(f"{name} {value / 1e12:.3f} TFLOP/s" for name, value in rate.items()))  # fmt: skip
    print(
        f"{'':<16}{'tokens/s':>10}{'(rounds)':>16}{'peak GB':>9}{'of rate':>9}{'useful':>8}{'loss on':>9}{'steps':>7}  "
    )
    for name, each in found["figures"].items():
        rounds = f"{each['smallest']:.0f}..{each['largest']:.0f}"
        print(f"{name:<16}{each['tokens_per_second']:>10.0f}{rounds:>16}{each['peak_bytes'] / 1e9:>9.2f}"
              f"{each['rate_share']:>9.1%}{each['useful_share']:>8.0%}{each['learned_share']:>9.0%}{each['steps']:>7}"
              f"  {each['computes_in']}")  # fmt: skip
    for name, each in found["ratios"].items():
        print(f"tunesmith / {name}: {each['speed']:.2f} of the speed, {each['memory']:.2f} of the memory"
              + (_met(each["speed"] >= AIMS[name], f"{AIMS[name]:g}") if name in AIMS else "")
              + _met(each["memory"] <= MEMORY_AIM, f"memory {MEMORY_AIM:g}"))  # fmt: skip
    if "tunesmith" in found["figures"]:
        share = found["figures"]["tunesmith"]["rate_share"]
        print(f"share of the matrix rate: {share:.1%}{_met(share >= RATE_AIM, f'{RATE_AIM:.0%}')}")
    for name, each in found["trl_settings"].items():
        gave = each.get("failed") or f"{each['tokens_per_second']:.0f} tokens/s, {each['peak_bytes'] / 1e9:.2f} GB"
        print(f"TRL, one step, {name:<45}{gave}")
    for name, note in found["notes"].items():
        print(f"{name}: {note}")


def show_shipped(found: Mapping[str, Any]) -> None:
    """Print both curves side by side, and the times to the first step."""
    print(f"{'step':>4}{'tunesmith':>11}{'TRL':>9}{'another seed':>14}")
    theirs = found["TRL"] if isinstance(found["TRL"], list) else []
    for step, loss in enumerate(found["tunesmith"]):
        other = f"{theirs[step]:.4f}" if step < len(theirs) else "-"
        print(f"{step + 1:>4}{loss:>11.4f}{other:>9}{found['tunesmith, another seed'][step]:>14.4f}")
    if theirs:
        print(f"apart: {found['first_difference']:.5f} at the first step, {found['mean_difference']:.4f} on average; two "
              f"seeds of ours are {found['mean_difference_of_seeds']:.4f} apart")  # fmt: skip
    else:
        print(f"TRL: {found['TRL']}")
    seconds = found["first_step_s"]
    print("POST /train to the first step, s: " + ", ".join(f"{each:.1f}" for each in seconds)
          + _met(statistics.median(seconds) < FIRST_STEP_AIM_S, f"under {FIRST_STEP_AIM_S:g}"))  # fmt: skip


def _met(is_met: bool, aim: str) -> str:
    return f"; aim {aim}: {'met' if is_met else 'MISSED'}"


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    arguments.add_argument("--model", choices=["random", "shipped"], default="random")
    arguments.add_argument("--steps", type=int, default=3, help="timed steps of one training")
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--chats", type=int, default=64)
    arguments.add_argument("--budget-seconds", type=float, default=240.0, help="of one training; a step at least")
    arguments.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments.add_argument("--best", choices=[name for name in TRL if name != "defaults"], help="TRL's best setting")
    arguments.add_argument("--without", action="append", default=[], help="leave this contestant out; may be repeated")
    arguments.add_argument("--json", action="store_true", help="one object instead of the tables")
    arguments.add_argument("--folder", type=Path, default=Path("build/train"))
    given = arguments.parse_args()
    given.folder = given.folder.resolve()
    given.folder.mkdir(parents=True, exist_ok=True)
    found = shipped(given) if given.model == "shipped" else compare(given)
    if given.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        (show_shipped if given.model == "shipped" else show)(found)


if __name__ == "__main__":
    main()
