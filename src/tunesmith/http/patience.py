"""Connections that do not ask: uvicorn closes one that is idle after an answer, but waits for ever for a first request,
or for the rest of one's headers (slow loris), and lets one client hold them all. Bodies are ``limits.BodyLimit``'s.

Beyond its ``limit_concurrency`` uvicorn answers 503 in plain text and without X-Request-ID, before any application is
asked.

Importing this imports uvicorn; only who starts a server does.
"""

import asyncio
from collections import Counter
from ipaddress import ip_address
from typing import Any
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tunesmith.accounts.throttle import network

_MOST_HELD = 64 << 10  # bytes; more leave at once, so that a slow reader is noticed
_held: WeakKeyDictionary[ServerState, Counter[str]] = WeakKeyDictionary()  # connections by client, of each server


class Joined:
    """A transport whose writes of one turn of the event loop leave together.

    uvicorn writes the head of an answer, each piece and its end by themselves, and each is a system call that wakes the
    other side: they are a tenth of what a short answer costs.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._pieces: list[bytes] = []
        self._held = 0

    def write(self, data: bytes) -> None:
        """Take ``data``; it leaves at the end of this turn, or now where much is waiting already."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)
        self._held += len(data)
        if self._held > _MOST_HELD:
            self._flush()

    def close(self) -> None:
        """Close once everything has left."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close now; what has not left is lost."""
        self._pieces.clear()
        self._transport.abort()

    def _flush(self) -> None:
        if self._pieces:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            self._held = 0
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol, closing connections whose next request is not wholly asked in time; give it as ``http=``.

    A client that has too many open is let in no further. Clients behind one proxy are one; those behind a proxy on this
    machine come from a loopback address, which is not counted.

    Attributes:
        first_patience_s: seconds from the connection to the end of its first request's headers.
        patience_s: seconds a later request may take, beside the time uvicorn lets a connection idle.
        most_per_client: connections of one IPv4 address or IPv6 /64; one more is closed at once, unanswered.
        counts_loopback: connections from this machine too.
    """

    first_patience_s = 10.0
    patience_s = 20.0
    most_per_client = 256
    counts_loopback = False
    _waiting: asyncio.TimerHandle | None = None
    _network: str | None = None  # it is counted under; None: not counted

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Joined(transport, self.loop))  # type: ignore[arg-type]
        if self._count_in():
            self._wait(self.first_patience_s)
        else:
            transport.abort()

    def on_headers_complete(self) -> None:
        self._stop()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # else the next one was asked already, and is being answered
        if self.cycle is None or self.cycle.response_complete:
            self._wait(self.patience_s + self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._count_out()
        super().connection_lost(exc)

    def _count_in(self) -> bool:
        """Whether the client may have one more; a socket of this machine has no address, and is not counted."""
        if self.client is None or (not self.counts_loopback and ip_address(self.client[0]).is_loopback):
            return True
        held, place = _held.setdefault(self.server_state, Counter()), network(self.client[0])
        if held[place] >= self.most_per_client:
            return False
        held[place] += 1
        self._network = place
        return True

    def _count_out(self) -> None:
        if self._network is None:
            return
        held = _held[self.server_state]
        held[self._network] -= 1
        if not held[self._network]:
            del held[self._network]
        self._network = None

    def _wait(self, seconds: float) -> None:
        self._stop()
        self._waiting = self.loop.call_later(seconds, self._close)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
