"""What an upstream saw: who is being answered, who left and when, what was asked."""

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.upstreams.connection import Asked, Connection

KEPT = 5000


@dataclass(slots=True)
class Tally:
    """Counts of one upstream since its start or its last reset.

    ``open`` and ``connections`` are of now and survive a reset.
    """

    open: int = 0
    connections: set[Connection] = field(default_factory=set)
    controls: set[Connection] = field(default_factory=set)
    accepted: int = 0
    done: int = 0
    cut: int = 0
    gone: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    visits: list[dict[str, Any]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def opened(self, connection: Connection) -> None:
        self.accepted += 1
        self.connections.add(connection)

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.controls.discard(connection)

    def controlled(self, connection: Connection) -> None:
        """Leave a test's own connection out of the counts."""
        if connection not in self.controls:
            self.controls.add(connection)
            self.accepted -= 1

    def asked(self, asked: Asked, mode: str) -> None:
        if len(self.requests) < KEPT:
            self.requests.append(seen(asked) | {"mode": mode})

    def left(self, connection: Connection, model: str) -> None:
        """The peer hung up before the answer was whole."""
        now = time.monotonic()
        self.gone.append(
            {
                "model": model,
                "phase": connection.phase,
                "after_write_s": round(now - connection.last_write, 4),
                "after_start_s": round(now - connection.began, 4),
                "written": connection.written,
            }
        )

    def visited(self, asked: Asked) -> None:
        self.visits.append(seen(asked))

    def reset(self) -> None:
        self.accepted = self.done = self.cut = 0
        for kept in (self.gone, self.requests, self.visits, self.seen):
            kept.clear()

    def report(self) -> dict[str, Any]:
        phases = Counter(each["phase"] for each in self.gone)
        names: tuple[str, ...] = ("before headers", "before first token", "mid-stream")
        return {
            "open": self.open,
            "connections": len(self.connections - self.controls),
            "accepted": self.accepted,
            "done": self.done,
            "cut": self.cut,
            "gone_count": {"all": len(self.gone)} | {name: phases[name] for name in names},
            "gone": self.gone,
            "requests": self.requests,
            "visits": self.visits,
        }


def seen(asked: Asked) -> dict[str, Any]:
    """A request as reports show it; a body that is not JSON as text."""
    try:
        body = json.loads(asked.body) if asked.body else None
    except ValueError:
        body = asked.body.decode("utf-8", "replace")
    headers = dict(asked.headers)
    return {"method": asked.method, "path": asked.path, "headers": headers, "body": body}
