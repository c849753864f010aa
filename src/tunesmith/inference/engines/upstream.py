"""One server behind us, over HTTP: its connections, how long it is waited for, and whether it is worth asking.

Both wires stand on it: the OpenAI one (`openai.py`) and Ollama's own (`ollama.py`).

    admitted (breaker, in flight) → connected (once more if that failed) → accepted (status 200) → lines → closed

Leaving at any point closes the connection, so that the upstream learns at once that nobody listens. Redirects are not
followed, nothing is unpacked, no cookie is kept: an upstream has no say in where we go or how much memory we take.
"""

import asyncio
import math
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from tunesmith.inference.engines.answer import LONGEST_ANSWER, Answer, Label, broke_off, late, read_whole, unreadable
from tunesmith.inference.engines.breaker import Breaker
from tunesmith.inference.engines.connections import Connections
from tunesmith.inference.engines.http1 import Broken, ConnectionTimeout, Lost, NotConnected, Reply, Unsendable
from tunesmith.inference.engines.watch import NEVER, Patience
from tunesmith.kernel.problems import Problem, Unavailable

_LONGEST_ERROR = 1 << 16
_AGAIN_S = 0.2
_ERROR_S = 2.0  # seconds for the body of an error: its status says the most
_SECRET = frozenset({"authorization", "proxy-authorization", "api-key", "x-api-key"})
_BUSY = frozenset({502, 503, 529})  # somebody else may be there in a moment

Shape = TypeVar("Shape")
Refused = Callable[[int, bytes, Mapping[str, str]], Problem]


def _no_headers() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Terms:
    """How an upstream is asked.

    Attributes:
        connect_s: seconds a connection may take, the look-up of its name included.
        patience: with a streamed answer.
        in_flight: answers at once; more are refused. None for no limit.
        foreign: not our own process: failed connections are counted, and a busy one is asked once more.
    """

    connect_s: float = 10.0
    patience: Patience = Patience()  # noqa: RUF009 - frozen
    in_flight: int | None = None
    foreign: bool = True


class Upstream:
    """A server that answers over HTTP.

    Args:
        url: what every path follows, without a slash at its end; any host will do when ``socket`` is given.
        label: for messages.
        refused: what an answer means whose status is not 200; names of its headers in lower case.
        headers: sent with every request; asked each time, for a key may change. No problem ever tells the key.
        socket: unix socket to reach it by.
    """

    def __init__(
        self,
        url: str,
        label: Label,
        refused: Refused,
        *,
        terms: Terms = Terms(),
        headers: Callable[[], Mapping[str, str]] = _no_headers,
        socket: Path | None = None,
    ) -> None:
        self.label = label
        self._url, self._socket = url.rstrip("/"), socket
        self._refused, self._terms, self._headers = refused, terms, headers
        self._breaker = Breaker()
        self._opened: Connections | None = None
        self._closed = False
        self._answers = set[Answer]()
        self.in_flight = 0

    @property
    def resting(self) -> bool:
        """It could not be reached several times in a row and is left alone for a moment."""
        return self._breaker.open

    async def close(self) -> None:
        """Close every connection; streams still open break."""
        self._closed = True
        for answer in self._answers:
            answer.fail(self._has_closed())
        if self._opened is not None:
            self._opened.close()

    def admit(self) -> None:
        """Refuse a call that has no chance now, before anything is sent.

        Raises:
            Unavailable: too many answers are being written, or the upstream could not be reached just now.
        """
        most = self._terms.in_flight
        if most is not None and self.in_flight >= most:
            raise Unavailable(
                f"服务繁忙，请稍后重试（{self.label.zh}正在处理 {most} 个请求）",
                f"busy, ask again later ({self.label.en} is answering {most} requests)",
                busy=True,
            )
        wait_s = self._breaker.wait_s() if self._terms.foreign else 0.0
        if wait_s:
            shown_s = math.ceil(wait_s)
            raise Unavailable(
                f"{self.label.zh}连续无法连接，{shown_s} 秒后可重试；{self.label.hint_zh}",
                f"{self.label.en} could not be reached several times in a row, ask again in {shown_s} s; "
                f"{self.label.hint_en}",
                retry_after=wait_s,
            )

    def stream(self, path: str, body: bytes) -> AbstractAsyncContextManager[Answer]:
        """An answer that is being written; it has been accepted when this enters. Leaving closes the connection.

        Raises:
            Problem: what the server says, or that it does not answer; on entering, and from within.
        """
        return _Stream(self, path, body)

    async def ask(
        self, method: str, path: str, body: bytes | None, shape: type[Shape], *, within_s: float | None = None
    ) -> Shape:
        """One call that is not streamed.

        Args:
            within_s: seconds for the whole of it; None for as long as it takes.

        Raises:
            Problem: what the server says, or Unavailable when it does not answer.
        """
        raw = await self.fetch(method, path, body, within_s=within_s)
        try:
            return msgspec.json.decode(raw, type=shape)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise unreadable(self.label) from error

    async def fetch(
        self, method: str, path: str, body: bytes | None, *, within_s: float | None = None, most: int = LONGEST_ANSWER
    ) -> bytes:
        """As ``ask``, for an answer in no shape of ours: its bytes, at most ``most``."""
        headers = self._headers()
        try:
            async with asyncio.timeout(within_s):
                reply = await self._begun(method, path, body, headers, None)
                try:
                    return await read_whole(reply, self.label, most)
                finally:
                    reply.close()
        except Problem as problem:
            _hide(headers, problem)
            raise
        except TimeoutError as error:
            raise late(self.label, "total") from error
        except Broken as error:
            raise self._lost(error) from error

    @property
    def _connections(self) -> Connections:
        if self._closed:
            raise self._has_closed()
        if self._opened is None:  # made on first use: they belong to the running loop
            self._opened = Connections(self._url, connect_s=self._terms.connect_s, socket=self._socket)
        return self._opened

    async def _begun(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], answer: Answer | None
    ) -> Reply:
        """An answer with status 200 whose body is still to come; asked for twice at most, while no byte has come.

        Args:
            answer: what it will be, which is waited for only so long; None for one whose caller sees to that.
        """
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
        broken = stale = False
        for last in (False, True):
            try:
                reply = await self._sent(method, path, headers, body, answer, fresh=broken)
            except Broken as error:
                broken = True
                if self._closed:
                    raise self._has_closed() from None
                if answer is not None and answer.left_s <= 0:
                    raise answer.late() from error
                stale = isinstance(error, Lost) and error.stale
                if not stale and (isinstance(error, NotConnected) or (isinstance(error, Lost) and error.unanswered)):
                    self._breaker.failed()
                if last or not self._worth_another(error):
                    if isinstance(error, ConnectionTimeout):
                        raise late(self.label, "connect") from error
                    raise
            else:
                self._breaker.connected()
                if reply.status == 200:
                    return self._plain(reply)
                if last or not (self._terms.foreign and reply.status in _BUSY):
                    raise self._refused(reply.status, await _error_body(reply), reply.headers)
                reply.close()
            if not stale:
                pause_s = _AGAIN_S * (0.5 + random.random())
                await asyncio.sleep(pause_s if answer is None else min(pause_s, answer.left_s))
        raise AssertionError("the second try returns or raises")

    async def _sent(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        answer: Answer | None,
        *,
        fresh: bool,
    ) -> Reply:
        """An answer whose head has come.

        Args:
            fresh: over a connection that has carried nothing yet.

        Raises:
            Broken: it did not come about.
        """
        connections = self._connections
        try:
            request = connections.request(method, path, headers, body)
        except Unsendable as error:
            raise self._unsendable() from error
        connection = None if fresh else connections.waiting()
        if connection is None:
            connection = await connections.new(NEVER if answer is None else answer.left_s)
        reply = connection.send(request)
        if answer is not None:
            answer.begins(reply)
        try:
            await reply.head()
        except BaseException:
            reply.close()
            raise
        return reply

    def _plain(self, reply: Reply) -> Reply:
        """It, unless it is packed although we asked for it as it is: what it unpacks to is anybody's guess."""
        if reply.headers.get("content-encoding", "identity").lower() != "identity":
            reply.close()
            raise unreadable(self.label)
        return reply

    def _worth_another(self, error: Broken) -> bool:
        if isinstance(error, Lost):
            # Our own process: a socket whose queue is full turns callers away, which shows only when they write. Where
            # nobody listens, nobody will.
            return error.unanswered and (self._terms.foreign or error.stale or error.refused)
        return self._terms.foreign and isinstance(error, NotConnected)

    def _lost(self, error: Broken, *, accepted: bool = False) -> Unavailable:
        reason = str(error)
        if not self._terms.foreign:
            return Unavailable(
                f"{self.label.zh}没有应答，{self.label.hint_zh}（{reason}）",
                f"{self.label.en} is not answering, {self.label.hint_en} ({reason})",
            )
        # the message may be anybody's to read, and an address is not
        if accepted:
            return broke_off(self.label, reason=reason)
        return Unavailable(
            f"{self.label.zh}没有应答：{self.label.hint_zh}",
            f"{self.label.en} is not answering: {self.label.hint_en}",
            reason=reason,
        )

    def _unsendable(self) -> Unavailable:
        return Unavailable(
            f"无法向{self.label.zh.strip()}发送请求：密钥或请求头中含有不能发送的字符，请检查服务配置",
            f"{self.label.en} cannot be asked: the key or another header holds characters that cannot be sent; check the "
            "configuration",
            operator=True,
        )

    def _has_closed(self) -> Unavailable:
        return Unavailable(f"{self.label.zh}已关闭", f"{self.label.en} has been closed")


class _Stream(AbstractAsyncContextManager[Answer]):
    """See ``Upstream.stream``. A generator would be shorter, and cost every answer two more and their bookkeeping."""

    def __init__(self, upstream: Upstream, path: str, body: bytes) -> None:
        self._upstream, self._path, self._body = upstream, path, body
        self._accepted = False

    async def __aenter__(self) -> Answer:
        upstream = self._upstream
        self._headers = upstream._headers()
        answer = self._answer = Answer(upstream.label, upstream._terms.patience)
        upstream.in_flight += 1
        upstream._answers.add(answer)
        try:
            answer.accepted(await upstream._begun("POST", self._path, self._body, self._headers, answer))
        except BaseException as error:
            await self._left(error)
            raise
        self._accepted = True
        return answer

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._left(error)

    async def _left(self, error: BaseException | None) -> None:
        upstream = self._upstream
        upstream.in_flight -= 1
        upstream._answers.discard(self._answer)
        await self._answer.close()
        if isinstance(error, Problem):
            _hide(self._headers, error)
        elif isinstance(error, Broken):
            raise upstream._lost(error, accepted=self._accepted) from error


async def _error_body(reply: Reply) -> bytes:
    """As much of it as comes soon; the connection is closed afterwards, unless it was read to its end."""
    raw = b""
    with suppress(TimeoutError, Broken):  # the status stands
        try:
            async with asyncio.timeout(_ERROR_S):
                while len(raw) < _LONGEST_ERROR and (piece := await reply.read()):
                    raw += piece
        finally:
            reply.close()
    return raw


def _hide(headers: Mapping[str, str], problem: Problem) -> None:
    """Strike our key out: an upstream may quote what it was sent."""
    for name, value in headers.items():
        secret = value.rpartition(" ")[2]
        if secret and name.lower() in _SECRET:
            problem.zh, problem.en = problem.zh.replace(secret, "***"), problem.en.replace(secret, "***")
            problem.args = (problem.en,)
            for key, text in problem.details.items():
                if isinstance(text, str):
                    problem.details[key] = text.replace(secret, "***")
