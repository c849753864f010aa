"""What a dialect's application wants to know before it looks at a request: where to, where from, who, how often.

    host  →  origin  →  identity  →  rate  →  size  →  the application

Nothing of the body is read before. Decisions rest on the route's own path, which the router matches too, never on the
``Host`` header or a URL made of it (CVE-2026-48710): what is not opened by name wants a token, unknown paths too.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from starlette._utils import get_route_path
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.http.hosts import HostList
from tunesmith.http.origins import Origins, Visit
from tunesmith.http.rates import Kind, Rates, Standing, by_address, by_name
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.problems import Problem, Unauthenticated
from tunesmith.settings import Settings

Identify = Callable[[str], Awaitable[Caller]]
KindOf = Callable[[str, str], Kind]
Refuse = Callable[[Scope, Problem], ASGIApp]

_CALLER = "tunesmith.caller"
_ASKED = frozenset([b"host", b"origin", b"sec-fetch-site", b"access-control-request-method", b"authorization"])
_BEARER = re.compile(rb"bearer +([A-Za-z0-9._~+/-]{1,8192}={0,4})", re.IGNORECASE)  # RFC 6750, 2.1


def caller_of(request: Request) -> Caller:
    """Who asks.

    Raises:
        LookupError: the route has no door, or is open without being meant to know who asks; a bug.
    """
    caller: Caller | None = request.scope.get("state", {}).get(_CALLER)
    if caller is None:
        raise LookupError("no door has let this request in")
    return caller


def all_other(method: str, path: str) -> Kind:
    """Every request counts as "other"."""
    return "other"


@dataclass(frozen=True, slots=True)
class Door:
    """The rules of one application.

    Attributes:
        identify: who a bearer token belongs to, or Unauthenticated; None lets everybody in as ``LOCAL``.
        open_routes: (method, path inside the application) that want no token; HEAD is asked as GET.
        rates: None counts nothing.
        kind_of: which limit a (method, path) counts on.
    """

    hosts: HostList
    origins: Origins
    identify: Identify | None = None
    open_routes: Collection[tuple[str, str]] = frozenset()
    rates: Rates | None = None
    kind_of: KindOf = all_other

    @staticmethod
    def of(
        settings: Settings,
        *,
        identify: Identify | None = None,
        open_routes: Collection[tuple[str, str]] = frozenset(),
        rates: Rates | None = None,
        kind_of: KindOf = all_other,
    ) -> "Door":
        """A door with the hosts and origins of the settings.

        Raises:
            Invalid: one of them cannot be read.
        """
        origins = Origins(settings.cors_origins)
        return Door(HostList.of(settings), origins, identify, frozenset(open_routes), rates, kind_of)


class Doorway:
    """Lets in what the door allows, and puts its headers on every answer.

    Args:
        refuse: the dialect's answer to a Problem.
    """

    def __init__(self, app: ASGIApp, door: Door, refuse: Refuse) -> None:
        self._app, self._door, self._refuse = app, door, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no dialect speaks anything else, and nothing here would guard it
            await send({"type": "websocket.close", "code": 1008})
            return
        added: list[tuple[bytes, bytes]] = []
        app = await self._asked(scope, added)

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start" and added:
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await app(scope, receive, marked)

    async def _asked(self, scope: Scope, added: list[tuple[bytes, bytes]]) -> ASGIApp:
        """What answers the request; ``added`` gets the headers of its answer."""
        given = _given(scope)
        try:
            visit = self._visit(scope, given)
            added += visit.headers
            if visit.preflight:
                await self._look(scope, added)
                return Response(status_code=204)
            who, kind = await self._who(scope, given)
        except Unauthenticated as problem:
            # counted, so that guessing is limited too
            return await self._count(scope, by_address(scope), "other", added) or self._refuse(scope, problem)
        except Problem as problem:
            # not counted: a page on another site could use up what its victim may ask
            await self._look(scope, added)
            return self._refuse(scope, problem)
        return await self._count(scope, who, kind, added) or self._app

    def _visit(self, scope: Scope, given: Mapping[bytes, Sequence[bytes]]) -> Visit:
        host = self._door.hosts.check(given.get(b"host", ()))
        return self._door.origins.check(scope["method"], host, given)

    async def _who(self, scope: Scope, given: Mapping[bytes, Sequence[bytes]]) -> tuple[str, Kind]:
        """The key a request counts on, and its kind; the caller goes into the scope."""
        door, path = self._door, get_route_path(scope)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        kind = door.kind_of(method, path)
        if door.identify is not None and (method, path) in door.open_routes:
            return by_address(scope), kind
        caller = LOCAL if door.identify is None else await door.identify(_bearer(given.get(b"authorization", ())))
        scope.setdefault("state", {})[_CALLER] = caller
        # behind an open door everybody is LOCAL: there the address tells them apart
        return (by_address(scope) if door.identify is None else by_name(caller.name)), kind

    async def _count(self, scope: Scope, who: str, kind: Kind, added: list[tuple[bytes, bytes]]) -> ASGIApp | None:
        """Count a hit; the refusal when it was one too many."""
        if self._door.rates is None:
            return None
        standing: Standing = await self._door.rates.hit(who, kind)
        added += standing.headers()
        return None if standing.allowed else self._refuse(scope, standing.problem())

    async def _look(self, scope: Scope, added: list[tuple[bytes, bytes]]) -> None:
        if self._door.rates is not None:
            added += (await self._door.rates.look(by_address(scope), "other")).headers()


def _given(scope: Scope) -> dict[bytes, list[bytes]]:
    """The headers the door looks at, by name."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        if name in _ASKED:
            found.setdefault(name, []).append(value)
    return found


def _bearer(given: Sequence[bytes]) -> str:
    """The token of the one ``Authorization`` header; never read from anywhere else, since URLs end in logs.

    Raises:
        Unauthenticated: there is none, there are several, or it is of another kind.
    """
    found = _BEARER.fullmatch(given[0]) if len(given) == 1 else None
    if found is None:
        raise Unauthenticated(
            "需要访问令牌：请求头应为 Authorization: Bearer <令牌>（登录后获得，或使用 API 密钥）",
            "a token is needed: send the header Authorization: Bearer <token> (from logging in, or an API key)",
        )
    return found[1].decode()
