"""Serving beside its peers: one model, streamed answers over HTTP, one contestant at a time, in turns.

    python benchmarks/serve.py [--rounds 3] [--streams 1 8 32] [--only NAME ...] [--without NAME ...] [--json]
    python benchmarks/serve.py --tiny          # shows that all works, in two minutes
    python benchmarks/serve.py --overhead      # the shipped model: what is not the engine's own forward
    python benchmarks/serve.py --list          # who there is

The model has the shape of Qwen2.5-0.5B, random weights in bfloat16 and a tokenizer of 151,936 entries; its end tokens
are never the likeliest, so every answer has its 64 tokens. Prompts have 112 to 144 tokens, no two begin alike; those of
one load start together; decoding is greedy. Contestants take turns, round by round, each started anew each round: first
a short answer (the load time ends with it), then the loads from the smallest to the largest. Speeds are medians of the
rounds, first tokens are those of all rounds together, memory is the peak of every process of the tree added up.

``tokens/s`` counts every token over the whole time, prompts included; ``step`` is the time between tokens at one
stream; ``of limit`` is the time in which this machine reads the weights once, as each contestant holds them, over that
step. How fast memory is read is measured before and after each single stream: the fastest of the whole run counts, and
``just then`` is against what it was around the same stream. Peers live in virtual environments of their own under
``--folder``, made on the first run, and have their own defaults. OpenVINO GenAI has no server in Python: it stands
behind a minimal one (serve/openvino_server.py). Whom this processor makes hopelessly slow is left out unless named by
``--only``; whoever took longer than ``--budget-seconds`` in the first round is not asked again.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serve import overhead
from serve.client import Answer, Wrong, asked
from serve.contestants import Place, Server, bandwidth, field, peak_bytes, slow_here, stored_by
from serve.material import Prompts, numbers, write_home
from train.peers import LeftOut

TOKENS = 64
LIMIT_AIM, MEMORY_AIM, CB_AIM = 0.75, 1.5, 2.0  # of the bandwidth limit; of the weights; times transformers' batching


class Bench:
    """Runs rounds and remembers the load they met.

    Attributes:
        loads: load averages of one minute, before each contestant's turn.
        reads: bytes of memory a second, before and after each single stream, while the server waits.
    """

    def __init__(self, place: Place, given: argparse.Namespace) -> None:
        self.place, self.loads, self.reads = place, list[float](), list[float]()
        self._size = 2 * numbers(place.model)
        self._given, self._prompts = given, Prompts(place.model)

    def turn(self, who: Server, number: int) -> dict[str, Any]:
        """One contestant's round; a load that fails ends it, and is named.

        Raises:
            LeftOut: it does not start, or not even a short answer comes.
        """
        self.loads.append(os.getloadavg()[0])
        given = self._given
        began = time.perf_counter()
        found: dict[str, Any] = {"loads": {}}
        with who.running(self.place.folder / f"{who.name.replace(' ', '-')}.log") as (it, door):

            def answers(seed: str, count: int, most: int) -> list[Answer]:
                texts = self._prompts.many(f"{seed} {number}", count)
                return asked(door, [(who.name_of_base, text) for text in texts], most, given.budget_seconds)

            try:
                answers("load", 1, 1)
            except Wrong as error:
                raise LeftOut(f"no answer: {error}") from error
            found["load_s"] = time.perf_counter() - began
            found["holds"], found["stored"] = ("", who.stored) if who.stored else stored_by(it)
            try:
                answers("warm", 2, 8)
                for streams in given.streams:
                    self._read(streams)
                    told = answers(f"{streams} streams", streams, given.tokens)
                    self._read(streams)
                    found["loads"][streams] = {**_load(told), "peak_bytes": peak_bytes(it), "read": self.reads[-2:]}
            except Wrong as error:
                found["failed"] = str(error)
        found["seconds"] = time.perf_counter() - began
        return found

    def _read(self, streams: int) -> None:
        if streams == 1:
            self.reads.append(bandwidth(self.place, self._size))


def _load(answers: Sequence[Answer]) -> dict[str, Any]:
    """What one load's answers amount to; a stream that came in one piece says nothing of steps (NaN)."""
    tokens = sum(each.tokens for each in answers)
    gaps = [(each.last_s - each.first_s) / (each.tokens - 1) or math.nan for each in answers]
    return {"tokens_per_second": tokens / max(each.whole_s for each in answers), "step_s": statistics.median(gaps),
            "decode_per_second": sum(1 / gap for gap in gaps), "first_s": [each.first_s for each in answers]}  # fmt: skip


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """The race."""
    shape = "tiny" if given.tiny else "qwen2.5-0.5b"
    place = Place(given.folder, write_home(given.folder / shape, shape), given.threads)
    count = numbers(place.model)
    racing, notes = contestants(place, given)
    bench = Bench(place, given)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in racing}
    for number in range(given.rounds):
        for name, who in racing.items():
            if name in notes:
                continue
            try:
                found = bench.turn(who, number)
            except LeftOut as why:
                _aside(notes, name, str(why))
                continue
            runs[name].append(found)
            _say(name, number, found, bench.loads[-1])
            if "failed" in found:
                _aside(notes, name, found["failed"])
            elif found["seconds"] > given.budget_seconds:
                notes[name] = f"one round took {found['seconds']:.0f} s: not asked again"
    fastest = max(bench.reads, default=math.nan)
    table = {name: figures(each, count, fastest) for name, each in runs.items() if each}
    return {"machine": machine(given), "shape": shape, "weights": count, "bytes_per_second": bench.reads, "figures": table,
            "notes": notes, "load_averages": bench.loads}  # fmt: skip


def contestants(place: Place, given: argparse.Namespace) -> tuple[dict[str, Server], dict[str, str]]:
    """Who takes part, ready to be started, and why others do not."""
    everybody, slow = field(place), slow_here()
    unknown = {*given.only, *given.without} - {*everybody}
    if unknown:
        raise SystemExit(f"no contestant is called {', '.join(sorted(unknown))}; see --list")
    racing, notes = dict[str, Server](), dict[str, str]()
    for name, make in everybody.items():
        if name in given.without or (given.only and name not in given.only):
            continue
        try:
            if name in slow and not given.only:
                raise LeftOut(f"{slow[name]}; --only '{name}' runs it")
            racing[name] = make()
        except LeftOut as why:
            _aside(notes, name, str(why))
    return racing, notes


def figures(runs: Sequence[Mapping[str, Any]], count: int, read: float) -> dict[str, Any]:
    """One contestant's figures over its rounds.

    Args:
        count: weights of the model. read: bytes of memory a second, the most that was measured.
    """
    found: dict[str, Any] = {"load_s": statistics.median(run["load_s"] for run in runs), "rounds": len(runs)}
    stored = runs[0]["stored"]
    found |= {"holds": runs[0]["holds"], "stored": stored, "loads": {}}
    for streams in dict.fromkeys(streams for run in runs for streams in run["loads"]):
        each = [run["loads"][streams] for run in runs if streams in run["loads"]]
        first = sorted(moment for load in each for moment in load["first_s"])
        step = statistics.median(load["step_s"] for load in each)
        speeds = [load["tokens_per_second"] for load in each]
        then = [count * stored / statistics.fmean(load["read"]) / load["step_s"] for load in each if streams == 1]
        found["loads"][streams] = {
            "tokens_per_second": statistics.median(speeds), "smallest": min(speeds), "largest": max(speeds),
            "decode_per_second": statistics.median(load["decode_per_second"] for load in each), "step_s": step,
            "first_p50_s": statistics.median(first), "first_p99_s": first[round(0.99 * (len(first) - 1))],
            "peak_bytes": max(load["peak_bytes"] for load in each), "of_limit": count * stored / read / step,
            "of_limit_then": statistics.median(then) if then else math.nan,
            "peak_of_weights": max(load["peak_bytes"] for load in each) / (count * stored),
        }  # fmt: skip
    return found


def machine(given: argparse.Namespace) -> dict[str, Any]:
    """What this ran on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"cores": os.cpu_count(), "threads": given.threads, "load": os.getloadavg()[0], "cpu": model,
            "platform": platform.platform()}  # fmt: skip


def show(found: Mapping[str, Any]) -> None:
    """Print the race as a table for each load, then the aims."""
    reads = found["bytes_per_second"]
    print(f"{found['shape']}: {found['weights'] / 1e6:.0f} million weights; {found['machine']['cores']} cores, "
          f"{found['machine']['cpu']}; memory is read at {min(reads, default=0) / 1e9:.1f}..{max(reads, default=0) / 1e9:.1f} GB/s; "
          f"load {min(found['load_averages'], default=0):.1f}..{max(found['load_averages'], default=0):.1f}")  # fmt: skip
    for streams in dict.fromkeys(streams for each in found["figures"].values() for streams in each["loads"]):
        print(f"\n{streams} stream{'s' * (streams > 1)}")
        print(f"{'':<28}{'tokens/s':>10}{'(rounds)':>16}{'step ms':>9}{'first p50':>11}{'p99 s':>8}{'peak GB':>9}"
              f"{'load s':>8}" + (f"{'of limit':>10}{'just then':>11}" if streams == 1 else ""))  # fmt: skip
        rows = [(name, each) for name, each in found["figures"].items() if streams in each["loads"]]
        for name, each in sorted(rows, key=lambda row: -row[1]["loads"][streams]["tokens_per_second"]):
            load = each["loads"][streams]
            holds = f" ({each['holds']})" if each["holds"] else ""
            rounds = f"{load['smallest']:.1f}..{load['largest']:.1f}"
            print(f"{name + holds:<28}{load['tokens_per_second']:>10.1f}{rounds:>16}{load['step_s'] * 1e3:>9.1f}"
                  f"{load['first_p50_s']:>11.2f}{load['first_p99_s']:>8.2f}{load['peak_bytes'] / 1e9:>9.2f}"
                  f"{each['load_s']:>8.1f}" + (f"{load['of_limit']:>10.0%}{load['of_limit_then']:>11.0%}" if streams == 1 else ""))  # fmt: skip
    print()
    for line in verdicts(found["figures"]):
        print(line)
    for name, note in found["notes"].items():
        print(f"{name}: {note}")


def verdicts(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Each of ours against each peer's best, and against the aims."""
    lines = []
    for name, mine in ((name, each) for name, each in table.items() if name.startswith("tunesmith")):
        for streams, load in mine["loads"].items():
            theirs = {peer: each["loads"][streams] for peer, each in table.items()
                      if streams in each["loads"] and not peer.startswith("tunesmith")}  # fmt: skip
            ratios = {peer: load["tokens_per_second"] / each["tokens_per_second"] for peer, each in theirs.items()}
            said = [f"{ratio:.2f} x {peer}" for peer, ratio in ratios.items()]
            batching = [ratio for peer, ratio in ratios.items() if peer.startswith("transformers")]
            alike = [ratio for peer, ratio in ratios.items() if round(table[peer]["stored"]) == round(mine["stored"])]
            first = min((each["first_p50_s"] for each in theirs.values()), default=load["first_p50_s"])
            lines.append(
                f"{name}, {streams}: {', '.join(said) or 'alone'}"
                + (_met(min(alike) > 1, "ahead of those with weights as wide") if alike else "")
                + (_met(min(batching) >= CB_AIM, f"{CB_AIM:g} x transformers") if batching else "")
                + (_met(load["of_limit"] >= LIMIT_AIM, f"{LIMIT_AIM:.0%} of the limit") if streams == 1 else "")
                + (_met(load["peak_of_weights"] <= MEMORY_AIM, f"{MEMORY_AIM} x the weights") if streams == 8 else "")
                + (_met(load["first_p50_s"] <= first, f"first token {first:.2f} s") if theirs else "")
            )
    return lines


def _say(name: str, number: int, found: Mapping[str, Any], busy: float) -> None:
    loads = ", ".join(f"{streams}: {load['tokens_per_second']:.1f}" for streams, load in found["loads"].items())
    print(f"  round {number + 1}: {name}: {loads} tokens/s; {found['seconds']:.0f} s in all (load {busy:.1f})",
          file=sys.stderr, flush=True)  # fmt: skip


def _aside(notes: dict[str, str], name: str, why: str) -> None:
    notes[name] = f"LEFT OUT: {why}"
    print(f"!! {name} is LEFT OUT: {why}", file=sys.stderr, flush=True)


def _met(is_met: bool, aim: str) -> str:
    return f"; aim {aim}: {'met' if is_met else 'MISSED'}"


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    arguments.add_argument("--tokens", type=int, default=TOKENS, help="of each answer")
    arguments.add_argument("--only", action="append", default=[], help="run this contestant; may be repeated")
    arguments.add_argument("--without", action="append", default=[], help="leave this contestant out; may be repeated")
    arguments.add_argument("--budget-seconds", type=float, default=240.0, help="of one load, and of a repeated round")
    arguments.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments.add_argument("--tiny", action="store_true", help="a tiny model, one round, few tokens")
    arguments.add_argument("--overhead", action="store_true")
    arguments.add_argument("--list", action="store_true")
    arguments.add_argument("--json", action="store_true", help="one object instead of the tables")
    arguments.add_argument("--folder", type=Path, default=Path("build/serve"))
    given = arguments.parse_args()
    given.folder = given.folder.resolve()
    given.folder.mkdir(parents=True, exist_ok=True)
    given.streams = sorted(set(given.streams))
    if given.list:
        print("\n".join(field(Place(given.folder, given.folder, given.threads))))
        return
    if given.tiny:
        given.rounds, given.tokens = 1, 8
    found = overhead.measured(given) if given.overhead else compare(given)
    if given.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        (overhead.show if given.overhead else show)(found)


if __name__ == "__main__":
    main()
