"""Calls to a provider over HTTPS: bounded in time and size, with failures as Problems, and the key only where it belongs.

    json, send   the provider's own address, with the key
    put, save    an address that the provider named (`addresses.py`), with the key only where that is its own

A GET is asked again where that may help. Nothing else is: whether it was done is for the caller to find out.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import quote, urljoin

import msgspec

from tunesmith.kernel.files import require_free
from tunesmith.kernel.problems import Invalid, Problem, TimedOut, Unavailable
from tunesmith.training.hosted import refusals
from tunesmith.training.hosted.addresses import checked, origin, public_only
from tunesmith.training.hosted.provider import TrainingFile

if TYPE_CHECKING:
    import aiohttp

Shape = TypeVar("Shape")
REDIRECTS = frozenset({301, 302, 303, 307, 308})
LARGEST = 16 << 20  # bytes of an answer in JSON; a page of jobs with their events has a few megabytes
_MOST_REDIRECTS, _SPARE = 5, 256 << 20  # bytes that a download leaves free on the disk
_ERROR_BYTES, _ERROR_S = 1 << 16, 5.0
_SLOWEST = 64 << 10  # bytes a second at which a file still travels


@dataclass(frozen=True, slots=True)
class Waits:
    """How long and how often a provider is asked.

    Attributes:
        connect_s: for the connection.
        answer_s: for a whole answer; files get more, by their size.
        tries: of a GET, the first included.
        again_s: before the second try; it doubles. A provider's own wish (Retry-After) is followed up to ``longest_s``.
    """

    connect_s: float = 10.0
    answer_s: float = 60.0
    tries: int = 3
    again_s: float = 0.5
    longest_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: ``headers`` by any spelling of their names, ``body`` whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Wire:
    """One provider's HTTP interface. Belongs to one event loop; the session is made on first use.

    Args:
        label: the provider, as people call it.
        url: what every path follows; settings have checked it.
        key: the bearer token as it is now; None where there is none.
        variable: the environment variable the key is read from, for messages.
    """

    def __init__(
        self, label: str, url: str, key: Callable[[], str | None], *, variable: str, waits: Waits = Waits()
    ) -> None:
        self.label, self.url = label, url.rstrip("/")
        self._key, self._variable, self._waits = key, variable, waits
        self._held: str | None = None  # the key that was sent last
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._closed = False

    async def json(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str | int] | None = None,
        most: int = LARGEST,
    ) -> Any:
        """One call in JSON, both ways; None for an empty answer.

        Args:
            path: below ``url``, its parts made with `segment`.
            most: bytes of the answer.

        Raises:
            Unavailable: 429, 5xx, no connection, an answer that cannot be read. ``details["uncertain"]`` is true where
                the call may have been carried out all the same.
            TimedOut: it was sent, and no answer came.
            Problem: another status that is no success; ``details["upstream_status"]`` has it.
        """
        answer = await self.send(method, path, body, query=query, most=most)
        return self.read(answer.body, uncertain=method != "GET") if answer.body.strip() else None

    async def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str | int] | None = None,
        form: Mapping[str, str] | None = None,
        also: frozenset[int] = frozenset(),
        most: int = LARGEST,
    ) -> Answer:
        """As ``json``, for an answer in any shape.

        Args:
            form: fields sent as ``multipart/form-data``, instead of ``body``.
            also: statuses beyond 2xx that are no failure here, such as a redirect that is wanted.
        """
        import aiohttp

        headers = await self._headers()
        data: bytes | aiohttp.FormData | None = None
        if body is not None:
            data, headers["Content-Type"] = msgspec.json.encode(body), "application/json"
        elif form is not None:
            data = aiohttp.FormData(list(form.items()), default_to_multipart=True)
        url = self.url + path + ("?" + _query(query) if query else "")
        tries = self._waits.tries if method == "GET" else 1
        for nth in range(tries):
            try:
                return await self._once(method, url, data, headers, also=also, most=most)
            except Unavailable as problem:
                wait_s = problem.details.get("retry_after") or self._waits.again_s * 2**nth
                if nth + 1 == tries or wait_s > self._waits.longest_s:
                    raise
            await asyncio.sleep(wait_s * (0.75 + random.random() / 2))
        raise AssertionError("the last try returns or raises")

    async def post_file(
        self, path: str, file: TrainingFile, *, field: str, filename: str, fields: Mapping[str, str] | None = None
    ) -> Any:
        """The file as one field of a multipart form, at the provider's own address; its answer in JSON, or None."""
        import aiohttp

        with _opened(file) as handle:
            form = aiohttp.FormData()
            for name, text in (fields or {}).items():
                form.add_field(name, text)
            form.add_field(field, handle, filename=filename, content_type="application/jsonl")
            answer = await self._once("POST", self.url + path, form, await self._headers(), size=file.size_bytes)
        return self.read(answer.body, uncertain=True) if answer.body.strip() else None

    async def put(self, url: str, file: TrainingFile, headers: Mapping[str, str] | None = None) -> Answer:
        """The file's bytes to an address that the provider named, without the key; redirects are followed if safe.

        Raises:
            Unavailable: the address is not one we send to, or as ``json``.
        """
        for _ in range(_MOST_REDIRECTS):
            url = checked(url, self.url, self.label)
            with _opened(file) as handle:
                answer = await self._once("PUT", url, handle, headers or {}, size=file.size_bytes, also=REDIRECTS)
            if answer.status not in REDIRECTS:
                return answer
            url = urljoin(url, answer.headers.get("Location", ""))
        raise self._astray()

    async def save(self, url: str, to: Path, most: int, *, query: Mapping[str, str | int] | None = None) -> int:
        """The bytes at a path below ``url`` or at an address the provider named, into a new file; their number.

        Redirects are followed if safe; the key is sent to the provider's own address alone.

        Raises:
            Unavailable: there are more than ``most`` bytes, the disk is nearly full, an address is not one we ask, or as
                ``json``.
        """
        import aiohttp

        if url.startswith("/"):
            url = self.url + url + ("?" + _query(query) if query else "")
        for _ in range(_MOST_REDIRECTS):
            url = checked(url, self.url, self.label)
            headers = await self._headers() if origin(url) == origin(self.url) else {}
            try:
                async with asyncio.timeout(self._waits.answer_s + most / _SLOWEST):
                    response = await self._begun("GET", url, None, headers)
                    try:
                        if response.status not in REDIRECTS:
                            await self._good(response, uncertain=False)
                            return await self._into(response, to, most)
                        url = urljoin(url, response.headers.get("Location", ""))
                    finally:
                        response.close()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise self._lost(error, uncertain=False) from None
        raise self._astray()

    def read(self, body: bytes, *, uncertain: bool = False) -> Any:
        """JSON as plain values.

        Raises:
            Unavailable: it is none.
        """
        key = self._held
        if key and key.encode() in body:  # what comes back is kept and shown
            body = body.replace(key.encode(), b"***")
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return msgspec.json.decode(body)
        raise self.unreadable(uncertain=uncertain)

    def shaped(self, value: object, shape: type[Shape], *, uncertain: bool = False) -> Shape:
        """A plain value in ``shape``, unknown fields left out.

        Raises:
            Unavailable: it has another shape.
        """
        with suppress(msgspec.ValidationError, RecursionError):
            return msgspec.convert(value, shape)
        raise self.unreadable(uncertain=uncertain)

    def unreadable(self, *, uncertain: bool = False) -> Unavailable:
        """The answer is not what the provider's document promises."""
        return Unavailable(f"{self.label} 的应答无法解析", f"{self.label}'s answer cannot be read", **_doubt(uncertain))

    async def close(self) -> None:
        """Close every connection; calls under way fail."""
        self._closed = True
        for session in self._sessions.values():
            await session.close()

    async def _headers(self) -> dict[str, str]:
        key = await asyncio.to_thread(self._key)  # it may be read from a database
        if not key:
            raise refusals.without_key(self.label, self._variable)
        self._held = key
        return {"Authorization": f"Bearer {key}"}

    async def _once(
        self,
        method: str,
        url: str,
        data: "bytes | BinaryIO | aiohttp.FormData | None",
        headers: Mapping[str, str],
        *,
        size: int = 0,
        also: frozenset[int] = frozenset(),
        most: int = LARGEST,
    ) -> Answer:
        import aiohttp

        uncertain = method != "GET"
        try:
            async with asyncio.timeout(self._waits.answer_s + size / _SLOWEST):
                response = await self._begun(method, url, data, headers)
                try:
                    if response.status not in also:
                        await self._good(response, uncertain=uncertain)
                    body = await self._bounded(response, most, uncertain=uncertain)
                    return Answer(response.status, response.headers, body)
                finally:
                    response.release()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # the cause would quote an address, which may be signed, or bytes, which may hold the key
            raise self._lost(error, uncertain=uncertain) from None

    async def _begun(
        self, method: str, url: str, data: "bytes | BinaryIO | aiohttp.FormData | None", headers: Mapping[str, str]
    ) -> "aiohttp.ClientResponse":
        import aiohttp
        from yarl import URL

        session = self._session(own=origin(url) == origin(self.url))
        # a large file has hours, but not one that stands still; while a body is on its way nothing is read for long
        silent_s = self._waits.answer_s if method == "GET" else None
        # as it is: an address that is signed must not be written anew
        return await session.request(
            method,
            URL(url, encoded=True),
            data=data,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._waits.connect_s, sock_read=silent_s),
            skip_auto_headers=("Content-Type",) if method == "PUT" else None,  # some signatures cover it
        )

    async def _good(self, response: "aiohttp.ClientResponse", *, uncertain: bool) -> None:
        if 200 <= response.status < 300:
            return
        body = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(_ERROR_S):
                while len(body) < _ERROR_BYTES and (piece := await response.content.readany()):
                    body += piece
        problem = refusals.refused(self.label, self._variable, response.status, body, response.headers, self._held)
        if uncertain and isinstance(problem, Unavailable) and response.status != 429:
            problem.details["uncertain"] = True
        response.close()
        raise problem

    async def _bounded(self, response: "aiohttp.ClientResponse", most: int, *, uncertain: bool) -> bytes:
        pieces, size = [], 0
        while size <= most and (piece := await response.content.readany()):
            pieces.append(piece)
            size += len(piece)
        if size > most or response.headers.get("Content-Encoding", "identity").lower() != "identity":
            response.close()
            raise self.unreadable(uncertain=uncertain)
        return b"".join(pieces)

    async def _into(self, response: "aiohttp.ClientResponse", to: Path, most: int) -> int:
        size = 0
        with to.open("xb") as file:
            while piece := await response.content.readany():
                size += len(piece)
                if size > most:
                    raise Unavailable(
                        f"{self.label} 发来的文件超过 {most} 字节",
                        f"the file {self.label} sends has more than {most} bytes",
                    )
                require_free(to.parent, _SPARE)
                await asyncio.to_thread(file.write, piece)
        return size

    def _session(self, *, own: bool) -> "aiohttp.ClientSession":
        """For the provider's own address, or for one it named: the second reaches nothing that is not public."""
        if self._closed:
            raise Unavailable(f"与 {self.label} 的连接已关闭", f"the connections to {self.label} are closed")
        if own not in self._sessions:
            import aiohttp

            self._sessions[own] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ttl_dns_cache=60) if own else public_only(),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._waits.connect_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"Accept-Encoding": "identity"},
            )
        return self._sessions[own]

    def _lost(self, error: BaseException, *, uncertain: bool) -> Problem:
        import aiohttp

        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            return Unavailable(
                f"无法连接 {self.label}，请检查网络与其地址设置",
                f"{self.label} cannot be reached: check the network and its address in the settings",
                reason=type(error).__name__,
            )
        if isinstance(error, TimeoutError):
            return TimedOut(
                f"{self.label} 没有在限定时间内应答", f"{self.label} did not answer in time", **_doubt(uncertain)
            )
        kind = TimedOut if uncertain else Unavailable  # sent, and nobody knows what became of it
        return kind(
            f"{self.label} 的应答中断",
            f"{self.label}'s answer broke off",
            reason=type(error).__name__,
            **_doubt(uncertain),
        )

    def _astray(self) -> Unavailable:
        return Unavailable(f"{self.label} 的重定向过多", f"{self.label} redirects too often")


def segment(text: str) -> str:
    """One part of a path, such as an id.

    Raises:
        Invalid: it would be another path.
    """
    if text in ("", ".", "..") or len(text) > 512:
        raise Invalid(f"标识符无效：{text[:80]!r}", f"the id {text[:80]!r} is not valid", field="id")
    return quote(text, safe="")


def _query(fields: Mapping[str, str | int]) -> str:
    return "&".join(f"{quote(name, safe='')}={quote(str(value), safe='')}" for name, value in fields.items())


def _opened(file: TrainingFile) -> BinaryIO:
    """The file's bytes, if it is still the one that was measured.

    Raises:
        Invalid: it has another size.
    """
    handle = file.path.open("rb")
    if handle.seek(0, 2) != file.size_bytes:
        handle.close()
        raise Invalid("训练文件在上传前被更改", "the training file was changed before its upload")
    handle.seek(0)
    return handle


def _doubt(uncertain: bool) -> dict[str, bool]:
    return {"uncertain": True} if uncertain else {}
