"""Connections to one upstream, kept for the next request, the last used first.

No proxy is asked, whatever the environment says; no redirect is followed, no cookie kept, nothing unpacked.
"""

import asyncio
import contextlib
import functools
import ipaddress
import socket
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from aiohappyeyeballs import AddrInfoType, start_connection

from tunesmith.inference.engines.http1 import (
    BUFFER,
    Connection,
    ConnectionTimeout,
    Lost,
    NotConnected,
    head_of,
)

_IDLE_S = 15.0  # less than any server keeps one that nobody uses
_LOOKED_UP_S = 60.0
_NEXT_ADDRESS_S = 0.25  # RFC 8305, 5
_PORTS = {"http": 80, "https": 443}
_SENT = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "tunesmith"}


class Connections:
    """Keeps them, and makes new ones.

    Args:
        url: what every path follows.
        socket: unix socket to reach it by; ``url`` then only says what it is called.
        connect_s: seconds a connection may take, the look-up of its name and TLS included.
        tls: which certificates are believed; None for those the system believes.

    Raises:
        NotConnected: there can be no server at ``url``.
    """

    def __init__(
        self, url: str, *, connect_s: float, socket: Path | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        try:
            parts = urlsplit(url)
            usual = _PORTS[parts.scheme]
            self._host, self._port = parts.hostname or "", parts.port or usual
            named = _named(self._host, self._port if self._port != usual else None)
        except (KeyError, ValueError) as error:
            raise NotConnected("its address is none of a server that speaks HTTP") from error
        self._loop = asyncio.get_running_loop()
        self._socket, self._connect_s = socket, connect_s
        self._tls = (tls or _system_tls()) if parts.scheme == "https" and socket is None else None
        self._prefix, self._sent = parts.path.rstrip("/"), {"Host": named, **_SENT}
        self._asked: tuple[str, str, Mapping[str, str]] = ("", "", {})
        self._head = b""
        self._buffer = memoryview(bytearray(BUFFER))
        self._open = set[Connection]()
        self._connecting = set[asyncio.Timeout]()
        self._idle: dict[Connection, float] = {}  # since when, in this order
        self._sweeping: asyncio.TimerHandle | None = None
        self._looking: asyncio.Future[list[AddrInfoType]] | None = None
        self._found: Sequence[AddrInfoType] = ()
        self._found_at = 0.0
        self._closed = False

    def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        """A request's bytes.

        Raises:
            Unsendable: it would not be one request.
        """
        asked = method, path, headers
        if asked != self._asked:  # they are the same for one answer after another
            self._head = head_of(method, self._prefix + path, {**self._sent, **headers})
            self._asked = method, path, {**headers}
        if body is None:
            return self._head + b"\r\n"
        return b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)

    def waiting(self) -> Connection | None:
        """The idle connection that was used last, if there is one."""
        while self._idle:
            connection, since = self._idle.popitem()
            if connection.usable and self._loop.time() - since < _IDLE_S:
                return connection
            connection.drop()
        return None

    async def new(self, within_s: float = float("inf")) -> Connection:
        """A connection that has carried nothing yet.

        Args:
            within_s: seconds it may take, if less than ``connect_s``.

        Raises:
            NotConnected: none came about, and why.
        """
        limit = asyncio.timeout(min(within_s, self._connect_s))
        self._connecting.add(limit)
        try:
            async with limit:
                connection = await self._connected()
        except TimeoutError as error:
            if self._closed:
                raise _closed() from None
            raise ConnectionTimeout(f"Cannot connect to {self._place} in time") from error
        except OSError as error:
            self._found = ()
            raise NotConnected(f"Cannot connect to {self._place} [{error.strerror or error}]") from error
        finally:
            self._connecting.discard(limit)
        if self._closed:
            connection.drop()
            raise _closed()
        return connection

    def close(self) -> None:
        """Close every connection; who reads one is told so."""
        self._closed = True
        for connection in list(self._open):
            connection.drop()
        self._idle.clear()
        if self._sweeping is not None:
            self._sweeping.cancel()
        for limit in self._connecting:
            limit.reschedule(self._loop.time())

    def stands(self, connection: Connection) -> None:
        """See ``Keeper``."""
        self._open.add(connection)

    def rests(self, connection: Connection) -> None:
        """See ``Keeper``."""
        self._idle[connection] = self._loop.time()
        if self._sweeping is None and not self._closed:
            self._sweeping = self._loop.call_later(_IDLE_S, self._sweep)

    def gone(self, connection: Connection) -> None:
        """See ``Keeper``."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    @property
    def _place(self) -> str:
        return f"unix socket {self._socket}" if self._socket else f"host {self._host}:{self._port}"

    async def _connected(self) -> Connection:
        if self._socket is not None:
            return (await self._loop.create_unix_connection(self._made, str(self._socket)))[1]
        name = self._host.rstrip(".") if self._tls else None
        reached = await start_connection(await self._addresses(), happy_eyeballs_delay=_NEXT_ADDRESS_S)
        try:
            made = await self._loop.create_connection(self._made, sock=reached, ssl=self._tls, server_hostname=name)
            return made[1]
        except BaseException:
            reached.close()  # asyncio does, unless it was stopped before it had it in hand
            raise

    def _made(self) -> Connection:
        return Connection(self._loop, self._buffer, self)

    def _sweep(self) -> None:
        """Close what has been idle for too long, and look again when the next one will have been."""
        self._sweeping = None
        now = self._loop.time()
        for connection, since in list(self._idle.items()):
            if now - since < _IDLE_S:
                self._sweeping = self._loop.call_at(since + _IDLE_S, self._sweep)
                break
            del self._idle[connection]
            connection.drop()

    async def _addresses(self) -> Sequence[AddrInfoType]:
        """Where the host can be reached. However many ask at once, one thread looks it up."""
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(self._host)
            return self._look_up(socket.AI_NUMERICHOST)
        if self._found and self._loop.time() - self._found_at < _LOOKED_UP_S:
            return self._found
        if self._looking is None:
            self._looking = self._loop.run_in_executor(None, self._look_up, socket.AI_ADDRCONFIG)
            self._looking.add_done_callback(self._looked_up)
        return await asyncio.shield(self._looking)

    def _look_up(self, flags: int) -> list[AddrInfoType]:
        try:
            return list(socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=flags))
        except UnicodeError as error:
            raise OSError("no name of a host") from error

    def _looked_up(self, looking: "asyncio.Future[list[AddrInfoType]]") -> None:
        self._looking = None
        if not looking.cancelled() and looking.exception() is None:
            self._found, self._found_at = looking.result(), self._loop.time()


@functools.cache
def _system_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _closed() -> Lost:
    return Lost("the connection was closed", unanswered=True)


def _named(host: str, port: int | None) -> str:
    """The field Host (RFC 9110, 7.2)."""
    if not host:
        raise ValueError("no host")
    plain = f"[{host.partition('%')[0]}]" if ":" in host else host.encode("idna").decode()
    return plain if port is None else f"{plain}:{port}"
