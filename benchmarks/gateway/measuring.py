"""What is measured of a subject: one round of all loads, its memory after many cut answers, its profile."""

import json
import os
import pstats
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from gateway.subjects import Running, Subject, free_port, get, started

PACE_MS = 5
PACED_MS = 260  # what a paced answer takes at least: 52 gaps
# of the memory part: some clients cut before the first byte, some within the answer
CUT_SHARE, CUT_ANSWERS, CUT_CLIENTS = 0.5, 5000, 128


@dataclass(frozen=True, slots=True)
class Part:
    """One load. ``answers`` and ``slow_answers``: asked of a subject, and of a slow one."""

    clients: int
    pace: int
    answers: int
    slow_answers: int

    @property
    def title(self) -> str:
        return f"{self.clients} client{'s' * (self.clients > 1)}, {f'paced {self.pace} ms' if self.pace else 'unpaced'}"


ONE, MANY, MANY_PACED, CROWD = (
    Part(1, 0, 600, 60),
    Part(32, 0, 4000, 160),
    Part(32, PACE_MS, 768, 128),
    Part(256, PACE_MS, 4096, 384),
)
QUICK = {
    ONE: Part(1, 0, 100, 10),
    MANY: Part(32, 0, 1000, 48),
    MANY_PACED: Part(32, PACE_MS, 160, 48),
    CROWD: Part(256, PACE_MS, 768, 128),
}


@dataclass(slots=True)
class Bench:
    """What all parts share: the folder, the programs, the upstream's port; and the load averages seen so far."""

    folder: Path
    load: Path
    upstream: int
    quick: bool
    seen: list[tuple[str, float]] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Say what begins, and how busy the machine is just before."""
        busy = os.getloadavg()[0]
        self.seen.append((what, round(busy, 2)))
        print(f"[load average {busy:.2f}] {what}", file=sys.stderr, flush=True)

    def ask(self, subject: Subject, port: int, part: Part, answers: int, *more: str) -> dict[str, float]:
        """What the load generator found.

        Raises:
            SystemExit: not one answer was good; the first bad one is shown.
        """
        body = self.folder / f"question-{subject.name}-{part.pace}.json"
        body.write_text(json.dumps(subject.question(part.pace), ensure_ascii=False))
        spread = PACED_MS if part.pace else 0
        options = {"port": port, "path": subject.path, "body": body, "clients": part.clients, "answers": answers}
        options |= {"skip": min(part.clients, answers // 2), "spread": spread, "limit": 60}
        command = [str(self.load), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
        for text in subject.expect:
            command += ["--expect", text]
        for header in subject.headers:
            command += ["--header", header]
        found = json.loads(subprocess.run([*command, *more], check=True, capture_output=True, text=True).stdout)
        if not found["good"]:
            raise SystemExit(f"{subject.name}: no good answer ({part.title}): {found['first_bad'] or 'none in time'}")
        if found["bad"]:
            print(f"!! {subject.name}: {found['bad']} bad answers, the first: {found['first_bad']}", file=sys.stderr)
        return dict(found)

    @contextmanager
    def running(self, subject: Subject, *, wrap: Sequence[str] = ()) -> Iterator[Running]:
        """The started subject; ``wrap`` are arguments for its interpreter, before its own."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=f"{subject.name}-") as place:
            Path(place).chmod(0o755)  # nginx's worker is another user
            port = free_port()
            command, environ = subject.command(port, self.upstream, Path(place))
            command = [command[0], *wrap, *command[1:]]
            log = self.folder / f"{subject.name}.log"
            with started(subject.name, command, environ, port, subject.health, log) as it:
                yield it

    def round(self, subject: Subject, number: int) -> dict[str, float]:
        """All figures of one subject in one round; its times to first byte are absolute."""
        self.note(f"round {number}: {subject.name}: start")
        with self.running(subject) as it:
            time.sleep(1)  # what a start leaves to do in the background
            found = {"start_s": it.start_s, "rss_idle": it.resident_mib(), "bad": 0.0}
            self.ask(subject, it.port, Part(32, 0, 0, 0), 32 if subject.slow else 400)  # warm
            for part in (ONE, MANY, MANY_PACED, CROWD):
                scaled = QUICK[part] if self.quick else part
                answers = scaled.slow_answers if subject.slow else scaled.answers
                self.note(f"round {number}: {subject.name}: {part.title}")
                before = it.cpu_s()
                told = self.ask(subject, it.port, part, answers)
                found["bad"] += told["bad"] + told["unfinished"]
                if part.clients == MANY.clients:
                    kind = "paced" if part.pace else "unpaced"
                    found[f"cpu_{kind}"] = (it.cpu_s() - before) / (answers - told["unfinished"]) * 1e3
                    found[f"events_{kind}"] = told["frames"]
                if part is MANY:
                    found["per_second"] = told["per_second"]
                else:
                    found |= {f"first_{part.clients}_{each}": told[f"first_{each}"] for each in ("p50", "p99")}
            found["rss_after"] = it.resident_mib()
        return found

    def memory(self, subject: Subject) -> dict[str, float]:
        """What is left of many answers half of which the client cuts: memory, descriptors, sockets.

        Before is after a fifth as many, cut alike, so that what is made once and kept is not counted.
        """
        part, answers = Part(CUT_CLIENTS, PACE_MS, 0, 0), 500 if self.quick else CUT_ANSWERS
        cut = ("--cut", str(CUT_SHARE), "--cut-within", str(PACED_MS))
        self.note(f"memory: {subject.name}: {answers} answers, {CUT_SHARE:.0%} cut by the client")
        with self.running(subject) as it:
            self.ask(subject, it.port, part, max(500, answers // 5), *cut, "--seed", "1")
            self._settle(it)
            process, found = psutil.Process(it.process.pid), {}
            found["rss_before"], found["descriptors_before"] = it.resident_mib(), float(process.num_fds())
            told = self.ask(subject, it.port, part, answers, *cut, "--seed", "2")
            self._settle(it)
            found["rss_after"], found["descriptors_after"] = it.resident_mib(), float(process.num_fds())
            sockets = [each for each in process.net_connections("tcp") if each.raddr]
            found["client_sockets_after"] = float(sum(each.laddr.port == it.port for each in sockets))
            found["upstream_sockets_after"] = float(sum(each.raddr.port == self.upstream for each in sockets))
            found["upstream_answers_after"] = float(self._active())
        found |= {"good": told["good"], "cut": told["cut"], "bad": told["bad"] + told["unfinished"]}
        found["rss_growth"] = found["rss_after"] - found["rss_before"]
        return found

    def _active(self) -> int:
        answer = get(self.upstream, "/stats")
        return int(json.loads(answer[1])["active"]) if answer else -1

    def _settle(self, it: Running) -> None:
        """Wait until the server has heard of every client that left; what never ends is what is measured, so not long."""
        end = time.monotonic() + 10
        process = psutil.Process(it.process.pid)
        while time.monotonic() < end:
            left = [each for each in process.net_connections("tcp") if each.raddr and each.laddr.port == it.port]
            if not left and not self._active():
                break
            time.sleep(0.1)
        time.sleep(0.5)

    def profile(self, subject: Subject) -> None:
        """Print where the subject's own time goes at 32 clients, unpaced; its start is part of it."""
        told = self.folder / "gateway.pstats"
        with self.running(subject, wrap=("-m", "cProfile", "-o", str(told))) as it:
            self.ask(subject, it.port, MANY, 1000 if self.quick else MANY.answers)
            it.process.send_signal(signal.SIGINT)  # a profile is written at the end of a program, not of a killed one
            it.process.wait(30)
        print(f"# {told}: read it with `python -m pstats`")
        pstats.Stats(str(told)).sort_stats("tottime").print_stats(40)
