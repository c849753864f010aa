"""Asking an application without a socket, as a server would."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.types import ASGIApp, Message


@dataclass
class Answer:
    """What an application sent."""

    status: int = 0
    raw: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    def __getitem__(self, header: str) -> str:
        """The one header of that name."""
        [value] = self.all(header)
        return value

    def all(self, header: str) -> list[str]:
        return [value.decode() for name, value in self.raw if name.decode().lower() == header.lower()]

    @property
    def names(self) -> set[str]:
        return {name.decode().lower() for name, _ in self.raw}

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


async def ask(
    app: ASGIApp,
    method: str = "GET",
    path: str = "/",
    headers: Sequence[tuple[str, str]] = (),
    *,
    body: bytes | Sequence[bytes] = b"",
    host: str | None = "localhost:8000",
    client: tuple[str, int] | None = ("192.0.2.1", 50000),
) -> Answer:
    """Send one request; ``path`` as it stands in the request line, ``host=None`` for none."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    waiting: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    waiting[-1]["more_body"] = False
    answer = Answer()

    async def receive() -> Message:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert answer.status == 0
            answer.status, answer.raw = message["status"], list(message["headers"])
        else:
            answer.body += message.get("body", b"")

    given = [("host", host)] if host is not None else []
    route, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "scheme": "http",
        "path": unquote(route),
        "raw_path": route.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in [*given, *headers]],
        "client": client,
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    await app(scope, receive, send)
    return answer
