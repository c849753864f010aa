"""One name for each request: in the answer, in every line of the log, in the error body."""

import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.kernel.logs import request_id

_HEADER = b"x-request-id"
_ACCEPTED = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def current() -> str:
    """The id of the request being answered; empty outside of one."""
    return request_id.get()


class RequestId:
    """Gives every request an id, the client's own when it is harmless. Wraps everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        chosen = _of(scope)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                # a new list: an application may send the same one again
                message = {**message, "headers": [*message.get("headers", ()), (_HEADER, chosen.encode())]}
            await send(message)

        token = request_id.set(chosen)
        try:
            await self._app(scope, receive, named)
        finally:
            request_id.reset(token)


def _of(scope: Scope) -> str:
    given = [value for name, value in scope["headers"] if name == _HEADER]
    if len(given) == 1 and _ACCEPTED.fullmatch(given[0]):
        return bytes(given[0]).decode()
    return f"req-{secrets.token_hex(8)}"
