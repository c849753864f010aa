"""One HTTP/1.1 connection to an upstream, and what comes over it: ``httptools`` reads, asyncio's transports carry.

    send → head → pieces of the body … → the end: idle again, for another request; or dropped, with its socket

What an upstream sends is never quoted in an error: it may hold our key.
"""

import asyncio
import re
import ssl
from collections.abc import Mapping
from typing import Protocol

import httptools

MOST_UNREAD = 1 << 16  # bytes of a body; the server is not read further until somebody takes them
MOST_HEAD = 1 << 16  # bytes that are no body: a head, trailers, extensions of chunks
MOST_FIELDS = 128
BUFFER = 1 << 16  # bytes of one read
_NO_BODY = frozenset({204, 304})

# RFC 9110, 5.1 and 5.5; RFC 9112, 3.2: all else could end a line and begin another
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch
_TARGET = re.compile(r"/[\x21-\x7e]*").fullmatch


class Broken(Exception):
    """A request that got no whole answer. Its words are ours or the system's."""


class NotConnected(Broken):
    """No connection came about."""


class ConnectionTimeout(NotConnected):
    """… in time."""


class Lost(Broken):
    """The connection ended before the answer did.

    Attributes:
        unanswered: before a byte of it.
        stale: and it had served others before: the server may have closed it before it saw the request.
        refused: the system reports an error, not an end.
    """

    def __init__(self, said: str, *, unanswered: bool = False, stale: bool = False, refused: bool = False) -> None:
        super().__init__(said)
        self.unanswered, self.stale, self.refused = unanswered, stale, refused


class NotHTTP(Broken):
    """What came is no answer in HTTP/1.1, or one beyond our limits."""


class Unsendable(ValueError):
    """A request that would not be one: a name or value of its head holds what may not stand there. Never says what."""


def head_of(method: str, target: str, fields: Mapping[str, str]) -> bytes:
    """The head of a request, without the empty line at its end.

    Raises:
        Unsendable: something in it could be read as more than one line, or as another request.
    """
    # an answer to HEAD or CONNECT ends where no other does
    if not _TOKEN(method) or method in ("HEAD", "CONNECT") or not _TARGET(target):
        raise Unsendable("a request that cannot be sent")
    lines = [f"{method} {target} HTTP/1.1\r\n"]
    for name, value in fields.items():
        if not _TOKEN(name) or not _VALUE(value):
            raise Unsendable("a header that cannot be sent")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("latin-1")


class Reply:
    """What a server answers to one request.

    Attributes:
        status: 0 until its head has come.
        headers: names in lower case; of a name that comes twice, the first value.
        ended: all of it has come, though some of it may not have been read.
    """

    __slots__ = ("_connection", "_failure", "_loop", "_pieces", "_size", "_waiter", "ended", "headers", "status")

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: "Connection") -> None:
        self._loop, self._connection = loop, connection
        self._pieces: list[bytes] = []
        self._size = 0
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.ended = False

    async def head(self) -> None:
        """Wait for status and headers.

        Raises:
            Broken: they do not come.
        """
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._more()

    async def read(self) -> bytes:
        """Everything of the body that has come since; waits for some, and is empty only at its end.

        Raises:
            Broken: the body ends before its end; after everything that did come.
        """
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self.ended:
                return b""
            await self._more()
        pieces = self._pieces
        found = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._size > MOST_UNREAD:
            self._connection.go_on(self)
        self._size = 0
        return found

    def fail(self, failure: Exception) -> None:
        """Raise that where it is read, now or when it is read next; nothing else is wanted of the server."""
        self._pieces.clear()
        self._failure = failure
        self.close()
        self.wake()

    def close(self) -> None:
        """Want no more of it: a connection on which it has not ended is dropped."""
        self._connection.leave(self)

    def add(self, piece: bytes) -> None:
        """Some of the body has come."""
        self._pieces.append(piece)
        self._size += len(piece)

    def end(self, failure: Exception | None) -> None:
        """Nothing more comes."""
        if failure is None:
            self.ended = True
        elif self._failure is None:
            self._failure = failure
        self.wake()

    def wake(self) -> None:
        """Let its reader look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def full(self) -> bool:
        """So much of it waits to be read that no more is wanted just now."""
        return self._size > MOST_UNREAD

    async def _more(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Keeper(Protocol):
    """Whose a connection is."""

    def stands(self, connection: "Connection") -> None:
        """It has been made, TLS included."""
        ...

    def rests(self, connection: "Connection") -> None:
        """An answer has ended, and it may carry another request."""
        ...

    def gone(self, connection: "Connection") -> None:
        """It is closed."""
        ...


class Connection(asyncio.BufferedProtocol):
    """Carries one request after another. It is idle, or it carries a reply, or it is dropped.

    Args:
        buffer: what is read into; connections of one event loop may share it, since nothing stays in it.
        keeper: is told of it.
    """

    _headers: dict[str, str]
    _fields: int
    _size: int  # bytes of its head
    _bare: int  # bytes that came since the last ones of its body
    _silent: bool  # nothing of the answer has come
    _headed: bool  # its head has come
    _until_end: bool  # its body lasts as long as the connection
    _over: bool  # the answer has ended
    _keep: bool  # the server goes on listening afterwards
    _more_than_it: bool  # more has come than the answer

    def __init__(self, loop: asyncio.AbstractEventLoop, buffer: memoryview, keeper: Keeper) -> None:
        self._loop, self._buffer, self._keeper = loop, buffer, keeper
        self._pieces: list[bytes] = []  # of the body, out of one read
        self.on_body = self._pieces.append  # called once a chunk: no function of ours
        self._parser = httptools.HttpResponseParser(self)
        self._reply: Reply | None = None
        self._served = 0
        self._stopped = False
        self._forget()

    def send(self, request: bytes) -> Reply:
        """Send a request; only when idle."""
        reply = self._reply = Reply(self._loop, self)
        self._served += 1
        self._forget()
        if self._transport.is_closing():  # it has ended since it was looked at
            self.drop(self._broken_off(None))
        else:
            self._transport.write(request)
        return reply

    @property
    def usable(self) -> bool:
        """It may carry a request, as far as is known."""
        return self._reply is None and not self._transport.is_closing()

    def go_on(self, reply: Reply) -> None:
        """Its reader has caught up."""
        if self._reply is reply and self._stopped:
            self._stopped = False
            self._transport.resume_reading()

    def leave(self, reply: Reply) -> None:
        """Nobody wants more of that reply."""
        if self._reply is reply:
            self.drop()

    def drop(self, failure: Exception | None = None) -> None:
        """Close the socket now, whatever waits to be sent; who reads is told ``failure``, or that it was closed."""
        reply, self._reply = self._reply, None
        self._transport.abort()
        if reply is not None:
            reply.end(failure or Lost("the connection was closed"))

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._keeper.stands(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        reply = self._reply
        if reply is None:  # nobody asked
            self._transport.abort()
            return
        self._silent = False
        failure: Exception | None = None
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._more_than_it = True
            failure = NotHTTP("the answer is not HTTP/1.1 as we take it")
        if not self._over:  # else they have been taken, and what is there is another answer's
            self._take(reply, nbytes)
        self._pieces.clear()
        if self._over:
            self._end_well(reply)
        elif failure is not None or self._bare > MOST_HEAD:
            self.drop(failure or NotHTTP("the answer has too much that is no body"))
        else:
            if reply.full and not self._stopped:
                self._stopped = True
                self._transport.pause_reading()
            reply.wake()

    def eof_received(self) -> None:
        reply = self._reply
        if reply is not None and self._until_end and self._ended_on_purpose():
            self._more_than_it = True
            self._end_well(reply)
        else:
            self.drop(self._broken_off(None))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._reply is not None:
            self.drop(self._broken_off(exc))
        del self._parser  # it holds our methods: each would keep the other until the collector of garbage comes
        self._keeper.gone(self)

    # What httptools calls

    def on_message_begin(self) -> None:
        if self._over:
            self._more_than_it = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._size += len(name) + len(value)
        if self._fields > MOST_FIELDS or self._size > MOST_HEAD:
            raise NotHTTP
        if self._headed:  # trailers, or another answer
            return
        known = name.decode("latin-1").lower()
        if known not in self._headers:
            self._headers[known] = value.decode("latin-1")
        elif known == "transfer-encoding":
            raise NotHTTP

    def on_headers_complete(self) -> None:
        if self._over:
            return
        status, headers = self._parser.get_status_code(), self._headers
        if status < 200:
            if status == 101 or status < 100:  # nobody asked for another protocol, and below is nothing
                raise NotHTTP
            return
        coding = headers.get("transfer-encoding")
        if coding is not None and coding.lower() != "chunked":  # nobody asked for any other
            raise NotHTTP
        self._headed = True
        self._until_end = coding is None and "content-length" not in headers and status not in _NO_BODY
        reply = self._reply
        if reply is not None:
            reply.status, reply.headers = status, headers

    def on_message_complete(self) -> None:
        if not self._headed:  # "go on", "early hints": the answer is still to come
            self._headers, self._fields = {}, 0
        elif not self._over:
            if self._reply is not None:
                self._take(self._reply, 0)
            self._over = True
            self._keep = self._parser.should_keep_alive()

    def _take(self, reply: Reply, came: int) -> None:
        """Hand on what a read gave of the body, as one piece."""
        pieces = self._pieces
        if pieces:
            self._bare = 0
            reply.add(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        else:
            self._bare += came

    def _forget(self) -> None:
        """Begin to read an answer."""
        self._headers = {}
        self._fields = self._size = self._bare = 0
        self._silent = True
        self._headed = self._over = self._keep = self._until_end = self._more_than_it = False

    def _end_well(self, reply: Reply) -> None:
        self._reply = None
        # a request that has not left whole, though it was answered, would be taken for the beginning of the next one
        clean = self._keep and not self._more_than_it and not self._transport.get_write_buffer_size()
        if clean and not self._transport.is_closing():
            if self._stopped:
                self._stopped = False
                self._transport.resume_reading()
            self._keeper.rests(self)
        else:
            self._transport.abort()
        reply.end(None)

    def _ended_on_purpose(self) -> bool:
        """The server has ended the connection, and not somebody between, who could end TCP but not TLS."""
        secured = self._transport.get_extra_info("ssl_object")
        try:
            return secured is None or secured.read(1) == b""  # asyncio has read all that there was
        except ssl.SSLError:
            return False

    def _broken_off(self, error: Exception | None) -> Lost:
        stale = self._silent and self._served > 1
        said = str(error) or type(error).__name__ if isinstance(error, OSError) else "the server closed the connection"
        return Lost(said, unanswered=self._silent, stale=stale, refused=isinstance(error, OSError))
