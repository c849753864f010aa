"""One server behind us, over HTTP: a shared session, how long it is waited for, and whether it is worth asking.

Both wires stand on it: the OpenAI one (`openai.py`) and Ollama's own (`ollama.py`).

    admitted (breaker, in flight) → connected (once more if that failed) → accepted (status 200) → lines → closed

Leaving at any point closes the connection, so that the upstream learns at once that nobody listens. Redirects are not
followed, nothing is unpacked, no cookie is kept: an upstream has no say in where we go or how much memory we take.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from tunesmith.inference.engines.answer import LONGEST_ANSWER, Answer, Label, broke_off, late, read_whole, unreadable
from tunesmith.inference.engines.breaker import Breaker
from tunesmith.inference.engines.watch import NEVER, Patience
from tunesmith.kernel.problems import Problem, Unavailable

if TYPE_CHECKING:
    import aiohttp

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
        refused: what an answer means whose status is not 200.
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
        self._opened: aiohttp.ClientSession | None = None
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
        for answer in self._answers:  # a session that closes does not tell who reads
            answer.fail(self._has_closed())
        if self._opened is not None:
            await self._opened.close()

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

    @asynccontextmanager
    async def stream(self, path: str, body: bytes) -> AsyncIterator["Answer"]:
        """An answer that is being written; it has been accepted when this enters. Leaving closes the connection.

        Raises:
            Problem: what the server says, or that it does not answer.
        """
        import aiohttp

        headers = self._headers()
        answer: Answer | None = None
        self.in_flight += 1
        try:
            started = asyncio.get_running_loop().time()
            answer = Answer(await self._begun("POST", path, body, headers, self._terms.patience), self.label)
            self._answers.add(answer)
            answer.watch(self._terms.patience, started)
            yield answer
        except Problem as problem:
            _hide(headers, problem)
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise self._lost(error, accepted=answer is not None) from _without_quotes(error)
        finally:
            self.in_flight -= 1
            if answer is not None:
                self._answers.discard(answer)
                await answer.close()

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
        import aiohttp

        headers = self._headers()
        try:
            async with (
                asyncio.timeout(within_s),
                await self._begun(method, path, body, headers, Patience()) as response,
            ):
                return await read_whole(response, self.label, most)
        except Problem as problem:
            _hide(headers, problem)
            raise
        except TimeoutError as error:
            raise late(self.label, "total") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._lost(error) from _without_quotes(error)

    @property
    def _session(self) -> "aiohttp.ClientSession":
        if self._closed:
            raise self._has_closed()
        if self._opened is None:  # made on first use: a session belongs to the running loop
            import aiohttp

            connector = (
                aiohttp.UnixConnector(str(self._socket), limit=0)
                if self._socket
                else aiohttp.TCPConnector(limit=0, ttl_dns_cache=60)
            )
            timeout = aiohttp.ClientTimeout(total=None, connect=self._terms.connect_s)
            self._opened = aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=1 << 16,
                headers={"Accept-Encoding": "identity"},
            )
        return self._opened

    async def _begun(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], patience: Patience
    ) -> "aiohttp.ClientResponse":
        """An answer with status 200 whose body is still to come; asked for twice at most, while no byte has come."""
        import aiohttp

        within_s, which = min((patience.total_s, "total"), (patience.first_s, "first token"))
        try:
            async with asyncio.timeout(None if within_s == NEVER else within_s):
                for last in (False, True):
                    try:
                        response = await self._sent(method, path, body, headers)
                    except aiohttp.ClientConnectionError as error:
                        self._breaker.failed()
                        if last or not self._worth_another(error):
                            raise
                    else:
                        self._breaker.connected()
                        if response.status == 200:
                            return self._plain(response)
                        if last or not (self._terms.foreign and response.status in _BUSY):
                            raise self._refused(response.status, await _error_body(response), response.headers)
                        response.close()
                    await asyncio.sleep(_AGAIN_S * (0.5 + random.random()))
        except TimeoutError as error:
            raise late(self.label, "connect" if isinstance(error, aiohttp.ConnectionTimeoutError) else which) from error
        raise AssertionError("the second try returns or raises")

    async def _sent(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> "aiohttp.ClientResponse":
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
        return await self._session.request(method, self._url + path, data=body, headers=headers, allow_redirects=False)

    def _plain(self, response: "aiohttp.ClientResponse") -> "aiohttp.ClientResponse":
        """It, unless it is packed although we asked for it as it is: what it unpacks to is anybody's guess."""
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            response.close()
            raise unreadable(self.label)
        return response

    def _worth_another(self, error: "aiohttp.ClientConnectionError") -> bool:
        import aiohttp

        if self._terms.foreign:
            return True
        # Our own process: a socket whose queue is full turns callers away, which shows only when they write. Where
        # nobody listens, nobody will.
        return isinstance(error, aiohttp.ClientOSError) and not isinstance(error, aiohttp.ClientConnectorError)

    def _lost(self, error: BaseException, *, accepted: bool = False) -> Unavailable:
        reason = str(error) or type(error).__name__
        if not self._terms.foreign:
            return Unavailable(
                f"{self.label.zh}没有应答，{self.label.hint_zh}（{reason}）",
                f"{self.label.en} is not answering, {self.label.hint_en} ({reason})",
            )
        # the message may be anybody's to read, and an address is not
        details = {"reason": reason if _without_quotes(error) else type(error).__name__}
        if accepted:
            return broke_off(self.label, **details)
        return Unavailable(
            f"{self.label.zh}没有应答：{self.label.hint_zh}",
            f"{self.label.en} is not answering: {self.label.hint_en}",
            **details,
        )

    def _has_closed(self) -> Unavailable:
        return Unavailable(f"{self.label.zh}已关闭", f"{self.label.en} has been closed")


async def _error_body(response: "aiohttp.ClientResponse") -> bytes:
    """As much of it as comes soon; the connection is closed afterwards."""
    import aiohttp

    raw = b""
    try:
        async with asyncio.timeout(_ERROR_S):
            while len(raw) < _LONGEST_ERROR and (piece := await response.content.readany()):
                raw += piece
    except (aiohttp.ClientError, TimeoutError):
        pass  # the status stands
    finally:
        response.close()
    return raw


def _without_quotes(error: BaseException) -> BaseException | None:
    """It, if the system says it: what the HTTP parser says quotes the upstream's bytes, which may hold our key."""
    return error if isinstance(error, OSError) else None


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
