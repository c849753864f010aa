"""The chat gateway beside its peers: one upstream, one load generator, one run.

    python benchmarks/gateway.py [--rounds 3] [--quick] [--without litellm nginx] [--json] [--profile]

``POST /api/chat/send`` (service openrouter) beside LiteLLM's proxy, a bare nginx pass-through and the least that this
interpreter can do (``gateway/floor.py``). The upstream (``gateway/upstream.c``) streams 50 tokens, finish, usage and
[DONE], 14 KB, at once ("unpaced") or with 5 ms between two events ("paced"). The load generator (``gateway/load.c``)
looks at every answer: status 200, the text (of the OpenAI wire its last token), the end. Subjects take turns, round by round, one running at a time;
each figure is the median of the rounds (smallest..largest). CPU is user and system time of the subject's whole process
tree; "events" tells who merges tokens that arrive together. A time to first byte "added" is the subject's less that of
asking the upstream directly in the same round.

LiteLLM gets a virtual environment of its own, made on the first run; nginx is installed where that is possible (root,
apt-get) and left out, loudly, where not. Everything made lies in ``--folder``. A C compiler is needed.

To profile the server under this load:

- ``--profile`` runs it under cProfile, asks it at 32 clients unpaced, and prints where its own time went. cProfile makes
  every call dearer and C code none, so read it as an order, and check a change by the CPU per answer, never by it.
- ``perf stat -e task-clock,context-switches -p PID`` while the load runs, divided by its answers: switches an answer are
  wake-ups, and wake-ups are most of what is left when JSON is cheap.
- ``perf record -g -p PID`` tells the kernel's share (sockets), which no Python profiler sees.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.measuring import CROWD, MANY, MANY_PACED, ONE, Bench
from gateway.subjects import SUBJECTS, LeftOut, Subject, compiled, free_port, started

AIMS = {"litellm": 1 / 40, "floor": 3.0}  # CPU per answer over theirs is to be at most this
ROWS = {
    "start_s": "start, s",
    "rss_idle": "RSS idle, MiB",
    "rss_after": "RSS after the load, MiB",
    "cpu_unpaced": f"CPU an answer, ms ({MANY.title})",
    "cpu_paced": f"CPU an answer, ms ({MANY_PACED.title})",
    "per_second": f"answers/s ({MANY.title})",
    **{
        f"first_{part.clients}_p{percent}": f"first byte, ms, p{percent} ({part.title})"
        for part in (ONE, MANY_PACED, CROWD)
        for percent in (50, 99)
    },
    "events_unpaced": f"events an answer ({MANY.title})",
    "events_paced": f"events an answer ({MANY_PACED.title})",
    "bad": "answers bad or not finished",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """The median of the rounds, and how far they lie apart."""

    median: float
    smallest: float
    largest: float

    @staticmethod
    def of(values: Sequence[float]) -> "Figure":
        """Of at least one value."""
        return Figure(statistics.median(values), min(values), max(values))

    def text(self, sign: str = "") -> str:
        """For a person; ``sign`` is "+" where a difference is meant."""
        if self.smallest == self.largest:
            return _short(self.median, sign)
        return f"{_short(self.median, sign)} ({_short(self.smallest, sign)}..{_short(self.largest, sign)})"


Round = Mapping[str, Mapping[str, float]]  # subject -> measure -> value


def _short(value: float, sign: str = "") -> str:
    return f"{value:{sign}.0f}" if abs(value) >= 100 or value == int(value) else f"{value:{sign}.3g}"


def figures(rounds: Sequence[Round]) -> dict[str, dict[str, Figure]]:
    """Subject -> measure -> figure. Times to first byte are absolute for ``direct``, and what is added for the others."""
    found: dict[str, dict[str, Figure]] = {}
    for name in rounds[0]:
        found[name] = {}
        for measure in ROWS:
            added = measure.startswith("first_") and name != "direct"
            values = [
                each[name][measure] - (each["direct"][measure] if added else 0)
                for each in rounds
                if measure in each[name]
            ]
            found[name][measure] = Figure.of(values)
    return found


def ratios(rounds: Sequence[Round], kind: str = "unpaced") -> dict[str, Figure]:
    """CPU an answer of ours over that of each other server, formed inside a round."""
    others = [name for name in rounds[0] if name not in ("direct", "tunesmith")]
    if "tunesmith" not in rounds[0]:
        return {}
    cpu = f"cpu_{kind}"
    return {name: Figure.of([each["tunesmith"][cpu] / each[name][cpu] for each in rounds]) for name in others}


def show(found: Mapping[str, Mapping[str, Figure]]) -> None:
    """Print the table: a row a measure, a column a subject."""
    cells = [["", *found]]
    cells += [
        [title, *(_cell(name, measure, of[measure]) for name, of in found.items())] for measure, title in ROWS.items()
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        first, *others = [
            cell.ljust(width) if not n else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join([first, *others]))
    print("first byte: of direct as it is, of the others what they add to it; median (smallest..largest) of the rounds")


def _cell(name: str, measure: str, figure: Figure) -> str:
    if name == "direct" and measure in ("start_s", "rss_idle", "rss_after", "cpu_unpaced", "cpu_paced"):
        return "-"
    return figure.text("+" if measure.startswith("first_") and name != "direct" else "")


def verdicts(found: Mapping[str, Figure]) -> dict[str, bool]:
    """Whether each aim that could be measured is met."""
    return {name: found[name].median <= most for name, most in AIMS.items() if name in found}


def show_ratios(found: Mapping[str, Figure], paced: Mapping[str, Figure]) -> None:
    """Print ours over theirs, and the aims, which are for the unpaced load."""
    for name, figure in found.items():
        turned = f" = 1/{1 / figure.median:.0f}" if figure.median < 0.5 else ""
        text = f"CPU an answer, tunesmith / {name}: {figure.text()}{turned}"
        if name in AIMS:
            most = AIMS[name]
            aim = f"1/{1 / most:.0f}" if most < 1 else f"{most:g}"
            text += f"; aim at most {aim}: {'met' if figure.median <= most else 'MISSED'}"
        print(f"{text} (paced: {paced[name].text()})")


def show_memory(found: Mapping[str, float]) -> None:
    """Print what is left of the answers that were cut."""
    print(
        f"memory, {found['good'] + found['cut']:.0f} answers, {found['cut']:.0f} of them cut by the client: RSS "
        f"{found['rss_before']:.1f} -> {found['rss_after']:.1f} MiB ({found['rss_growth']:+.1f}), descriptors "
        f"{found['descriptors_before']:.0f} -> {found['descriptors_after']:.0f}; after: {found['client_sockets_after']:.0f} "
        f"sockets of clients, {found['upstream_sockets_after']:.0f} kept to the upstream, "
        f"{found['upstream_answers_after']:.0f} answers still asked for; {found['bad']:.0f} bad"
    )


def chosen(folder: Path, without: Sequence[str]) -> tuple[list[Subject], dict[str, str]]:
    """The subjects to measure, and why others are not."""
    subjects, left_out = [], dict.fromkeys(without, "not wanted")
    for name, make in SUBJECTS.items():
        if name in left_out:
            continue
        try:
            subjects.append(make(folder))
        except LeftOut as why:
            left_out[name] = str(why)
            print(f"!! {name} is LEFT OUT: {why}", file=sys.stderr, flush=True)
    return subjects, left_out


def measure(bench: Bench, subjects: Sequence[Subject], rounds: int) -> tuple[list[Round], dict[str, float]]:
    """Every subject's figures round by round, and ours after many cut answers."""
    found: list[Round] = [
        {each.name: bench.round(each, number) for each in subjects} for number in range(1, rounds + 1)
    ]
    ours = [each for each in subjects if each.name == "tunesmith"]
    return found, bench.memory(ours[0]) if ours else {}


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--quick", action="store_true", help="one round of few answers: shows that all works")
    arguments.add_argument("--without", nargs="+", default=[], choices=[each for each in SUBJECTS if each != "direct"])
    arguments.add_argument("--json", action="store_true", help="one object instead of the tables")
    arguments.add_argument("--profile", action="store_true", help="profile Tunesmith under the load; measures nothing")
    arguments.add_argument("--folder", type=Path, default=Path("build/gateway"))
    given = arguments.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    load, upstream, port = compiled("load", folder), compiled("upstream", folder), free_port()
    with started("upstream", [upstream, str(port)], os.environ, port, "/health", folder / "upstream.log"):
        bench = Bench(folder, load, port, given.quick)
        if given.profile:
            bench.profile(SUBJECTS["tunesmith"](folder))
            return
        subjects, left_out = chosen(folder, given.without)
        rounds, memory = measure(bench, subjects, 1 if given.quick else given.rounds)
    if given.json:
        print(json.dumps(report(rounds, memory, left_out, bench), ensure_ascii=False))
        return
    print(
        f"{os.cpu_count()} cores, {platform.python_implementation()} {platform.python_version()}; {len(rounds)} rounds"
    )
    show(figures(rounds))
    show_ratios(ratios(rounds), ratios(rounds, "paced"))
    if memory:
        show_memory(memory)


def report(
    rounds: Sequence[Round], memory: Mapping[str, float], left_out: Mapping[str, str], bench: Bench
) -> dict[str, object]:
    """All of it as one object."""
    over = ratios(rounds)
    return {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "platform": platform.platform()},
        "rounds": rounds,
        "figures": {
            name: {measure: asdict(figure) for measure, figure in of.items()} for name, of in figures(rounds).items()
        },
        "cpu_ratios": {name: asdict(figure) for name, figure in over.items()},
        "cpu_ratios_paced": {name: asdict(figure) for name, figure in ratios(rounds, "paced").items()},
        "aims": {name: {"at_most": AIMS[name], "met": met} for name, met in verdicts(over).items()},
        "memory": memory,
        "left_out": left_out,
        "load_averages": bench.seen,
    }


if __name__ == "__main__":
    main()
