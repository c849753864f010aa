"""An upstream that goes wrong in every way one can, on both wires, and says when its callers hang up.

``POST /api/v1/chat/completions`` and ``/v1/chat/completions`` speak server-sent events, ``POST /api/chat`` speaks lines
of JSON; the model's name chooses the mode (``modes``). ``GET /api/v1/models``, ``/api/tags``, ``/api/ps``,
``/api/version`` and ``/`` answer decently, until ``POST /behave`` ``{"path": "/api/tags", "model": "hang"}`` gives one of
these paths a mode as well. ``GET /report`` tells what was seen, ``POST /reset`` forgets it.
"""

import argparse
import asyncio
import json
from typing import Any

from tests.upstreams.connection import Asked, Connection
from tests.upstreams.lifetime import allow_many_connections, announce, end_with_parent
from tests.upstreams.modes import MODES, Turn, order_of
from tests.upstreams.tally import Tally
from tests.upstreams.wires import Ollama, OpenAI, Wire

JSON = {"Content-Type": "application/json"}
COMPLETIONS = ("/api/v1/chat/completions", "/v1/chat/completions")
BACKLOG = 4096


class Misbehaving:
    """Answers requests, and keeps the tally."""

    def __init__(self, models: list[str]) -> None:
        self.tally = Tally()
        self._models = [f"bad/{mode}" for mode in MODES] + models
        self._behaviour: dict[str, str] = {}
        self.trap = ""

    async def answer(self, connection: Connection, asked: Asked) -> None:
        path = asked.path.partition("?")[0]
        if path in ("/report", "/reset", "/behave"):
            self.tally.controlled(connection)
            await connection.whole(200, json.dumps(self._control(path, asked)).encode(), JSON)
        elif (model := self._behaviour.get(path)) is not None:
            await self._misbehave(connection, asked, OpenAI(model), model, stream=True)
        elif asked.method == "POST" and (path in COMPLETIONS or path == "/api/chat"):
            await self._chat(connection, asked, ollama=path == "/api/chat")
        else:
            self.tally.asked(asked, "decent")
            status, body = self._decent(asked.method, path)
            await connection.whole(status, json.dumps(body).encode(), JSON)

    async def visited(self, connection: Connection, asked: Asked) -> None:
        """Somebody followed a redirect."""
        self.tally.visited(asked)
        await connection.whole(200, b'{"trap": true}', JSON)

    def _control(self, path: str, asked: Asked) -> dict[str, Any]:
        if path == "/reset":
            self.tally.reset()
            self._behaviour.clear()
        elif path == "/behave":
            wanted = json.loads(asked.body)
            order_of(wanted["model"])
            self._behaviour[wanted["path"]] = wanted["model"]
        return self.tally.report()

    async def _chat(self, connection: Connection, asked: Asked, *, ollama: bool) -> None:
        try:
            body = json.loads(asked.body)
            model = str(body["model"])
            stream = bool(body.get("stream", ollama))
        except (ValueError, KeyError, TypeError):
            self.tally.asked(asked, "unreadable")
            await connection.whole(400, OpenAI("").refusal(400, "no JSON with a model"), JSON)
            return
        wire: Wire = Ollama(model) if ollama else OpenAI(model)
        await self._misbehave(connection, asked, wire, model, stream=stream)

    async def _misbehave(self, connection: Connection, asked: Asked, wire: Wire, model: str, *, stream: bool) -> None:
        try:
            order = order_of(model)
        except KeyError:
            self.tally.asked(asked, "unknown")
            await connection.whole(400, wire.refusal(400, f"{model} is not a valid model ID"), JSON)
            return
        tally = self.tally
        tally.asked(asked, order.mode)
        tally.open += 1
        try:
            await MODES[order.mode](Turn(connection, wire, order, tally, stream, self.trap))
            tally.done += not connection.ended_by_us
        except asyncio.CancelledError:
            tally.left(connection, model)
            raise
        finally:
            tally.open -= 1

    def _decent(self, method: str, path: str) -> tuple[int, object]:
        if method not in ("GET", "HEAD"):
            return 404, {"error": "not found"}
        names = [{"name": name, "model": name, "size": 1, "digest": "0" * 64} for name in self._models]
        price = {"prompt": "0.0000001", "completion": "0.0000002"}
        listed = [{"id": name, "name": name, "context_length": 4096, "pricing": price} for name in self._models]
        known: dict[str, object] = {
            "/": "Ollama is running",
            "/api/version": {"version": "0.0.0-misbehaving"},
            "/api/tags": {"models": names},
            "/api/ps": {"models": []},
            "/api/v1/models": {"data": listed, "total_count": len(listed)},
        }
        return (200, known[path]) if path in known else (404, {"error": "not found"})


async def serve(port: int, models: list[str]) -> None:
    """Answer on ``port`` (0 for any) of the loopback until the end of the process."""
    upstream, tally = Misbehaving(models), Tally()
    loop = asyncio.get_running_loop()
    trap = await loop.create_server(
        lambda: Connection(upstream.visited, tally.opened, tally.closed), "127.0.0.1", 0, backlog=BACKLOG
    )
    upstream.trap = f"http://127.0.0.1:{trap.sockets[0].getsockname()[1]}"
    server = await loop.create_server(
        lambda: Connection(upstream.answer, upstream.tally.opened, upstream.tally.closed),
        "127.0.0.1",
        port,
        backlog=BACKLOG,
    )
    port = server.sockets[0].getsockname()[1]
    announce({"url": f"http://127.0.0.1:{port}", "port": port, "trap": upstream.trap})
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", action="append", default=[], help="one more id to list")
    given = parser.parse_args()
    allow_many_connections()
    end_with_parent()
    asyncio.run(serve(given.port, given.model))


if __name__ == "__main__":
    main()
