"""What serving costs beside the engine's own forward: the shipped model, 32 streams over HTTP, step by step.

The client shares the processors, so it does next to nothing while it listens. On a machine where others work too, time
by the clock says little; processor time says what is spent, though not what waits for what.
"""

import argparse
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from serve.contestants import HERE, Place, precisions, tunesmith, worker_of
from serve.engine import engine
from serve.material import Prompts, write_shipped
from serve.raw import asked

STREAMS, TOKENS = 32, 128
AIM = 0.15
_LIMIT_S = 240.0


@dataclass(frozen=True, slots=True)
class Steps:
    """Decode steps of all rows together: median seconds of the forward, and from one step's begin to the next's; the
    same as the engine's processor time, of which the second is a mean.
    """

    forward_s: float
    whole_s: float
    forward_cpu_s: float
    whole_cpu_s: float
    count: int

    def told(self, which: str) -> dict[str, float]:
        """In milliseconds, as columns."""
        return {
            f"{which}_forward_ms": self.forward_s * 1e3, f"{which}_whole_ms": self.whole_s * 1e3,
            f"{which}_forward_cpu_ms": self.forward_cpu_s * 1e3, f"{which}_whole_cpu_ms": self.whole_cpu_s * 1e3,
        }  # fmt: skip


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """The figures, medians of the rounds: the engine asked in one call without a stream, then all streams over HTTP."""
    folder = given.folder / "shipped"
    place = Place(given.folder, write_shipped(folder), given.threads)
    prompts = Prompts(place.model)
    rounds = [
        {"precision": each, **_alone(place, prompts, number, each), **_served(place, prompts, number, each)}
        for number in range(given.rounds)
        for each in given.only or precisions()
    ]
    found = {}
    for each in given.only or precisions():
        mine = [entry for entry in rounds if entry["precision"] == each]
        columns = [name for name in mine[0] if name != "precision"]
        found[each] = {name: statistics.median(entry[name] for entry in mine) for name in columns}
    return {"load": os.getloadavg()[0], "streams": STREAMS, "rounds": given.rounds, "precisions": found}


def show(found: Mapping[str, Any]) -> None:
    """Print them as sentences."""
    print(f"shipped model, {found['streams']} streams, {found['rounds']} rounds; load {found['load']:.1f}")
    for name, each in found["precisions"].items():
        share = each["served_whole_ms"] / each["alone_forward_ms"] - 1
        print(f"{name}: a step takes {each['served_whole_ms']:.2f} ms, {each['served_forward_ms']:.2f} of it in the "
              f"forward; asked without streams {each['alone_whole_ms']:.2f}, {each['alone_forward_ms']:.2f} of it")  # fmt: skip
        print(f"  beside the forward: {each['served_whole_ms'] / each['served_forward_ms'] - 1:.0%} of it; over the "
              f"forward that nothing disturbs: {share:.0%}; aim {AIM:.0%}: {'met' if share <= AIM else 'MISSED'}")  # fmt: skip
        spent = each["served_whole_cpu_ms"] + each["server_us"] * found["streams"] / 1e3
        print(f"  in processor time: a step costs {spent:.2f} ms, server included, {each['served_forward_cpu_ms']:.2f} of it in "
              f"the forward; without streams {each['alone_whole_cpu_ms']:.2f}, {each['alone_forward_cpu_ms']:.2f} of it; over "
              f"that forward {spent / each['alone_forward_cpu_ms'] - 1:.0%}")  # fmt: skip
        print(f"  {each['tokens_per_second']:.0f} tokens/s; CPU a token: engine {each['engine_us']:.0f} us, server "
              f"{each['server_us']:.0f} us, client {each['client_us']:.0f} us; forward {each['forward_us']:.0f} us by the clock")  # fmt: skip


def _alone(place: Place, prompts: Prompts, number: int, precision: str) -> dict[str, float]:
    """All rows in one call that answers when all is done: nobody else has anything to do meanwhile."""
    log = place.home.parent / "alone.steps"
    log.unlink(missing_ok=True)
    with engine(place.model, place.folder, precision, _timed(log)) as it:
        it.whole(prompts.many(f"alone warm {number}", 2), 8)
        it.whole(prompts.many(f"alone {number}", STREAMS), TOKENS)
    return _steps(log).told("alone")


def _served(place: Place, prompts: Prompts, number: int, precision: str) -> dict[str, float]:
    """All rows as streams through the server."""
    log = place.home.parent / "served.steps"
    log.unlink(missing_ok=True)
    who = tunesmith(place, precision, _timed(log))
    with who.running(place.folder / "overhead.log") as (it, door):

        def answers(seed: str, count: int, most: int) -> float:
            questions = [(who.name_of_base, text) for text in prompts.many(f"{seed} {number}", count)]
            return max(each.whole_s for each in asked(door, questions, most, _LIMIT_S))

        answers("served warm", 2, 8)
        worker = worker_of(it)
        assert worker is not None
        processes = {"engine": worker, "server": psutil.Process(it.process.pid), "client": psutil.Process()}
        before = {name: _cpu_s(process) for name, process in processes.items()}
        seconds = answers("served", STREAMS, TOKENS)
        spent = {name: _cpu_s(process) - before[name] for name, process in processes.items()}
    steps, tokens = _steps(log), STREAMS * TOKENS
    return {**steps.told("served"), "tokens_per_second": tokens / seconds, "forward_us": steps.forward_s / STREAMS * 1e6,
            **{f"{name}_us": each / tokens * 1e6 for name, each in spent.items()}}  # fmt: skip


def _timed(log: Path) -> dict[str, str]:
    import tunesmith

    # what this process would import is what is measured, installed or not
    sources = Path(tunesmith.__file__).parents[1]
    return {"PYTHONPATH": f"{HERE / 'timed'}{os.pathsep}{sources}", "SERVE_TIMED": str(log)}


def _cpu_s(process: psutil.Process) -> float:
    return float(sum(process.cpu_times()[:2]))


def _steps(log: Path) -> Steps:
    rows = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
    full = [row[2] == row[3] == STREAMS for row in rows]
    pairs = [
        (this, after) for this, after, one, two in zip(rows, rows[1:], full, full[1:], strict=False) if one and two
    ]
    if not pairs:
        raise SystemExit("no step held all rows: nothing to measure")
    return Steps(
        _median([this[1] for this, _ in pairs]),
        _median([after[0] - this[0] for this, after in pairs]),
        _median([this[5] for this, _ in pairs]),
        statistics.mean(after[4] - this[4] for this, after in pairs),  # not every step has something to hand over
        len(pairs),
    )


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)
