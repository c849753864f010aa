"""``/app``: the built page. It asks the documented dialects for everything it shows."""

import gzip
import mimetypes
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.http.door import Door, Doorway
from tunesmith.kernel.problems import Problem

PATH = "/app"
BUILT = Path(__file__).parent / "built"
_NONCE = b"__NONCE__"  # in index.html, where the component library reads what its own style element has to carry
_LONG = "public, max-age=31536000, immutable"  # names under assets/ hold a hash of what they name
_WORTH_PACKING = 1024  # bytes
_STATUS = {"Forbidden": 403, "Invalid": 400, "TooMany": 429}
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class _File:
    """A file that is handed out, as it is and packed by gzip (None where that is not worth it)."""

    content: bytes
    packed: bytes | None
    media_type: str


def build(door: Door) -> ASGIApp:
    """The application at ``PATH``; ``door`` looks at the host, for everybody may have the page itself."""
    app = Starlette()
    app.add_route("/{path:path}", _answer, methods=["GET"])
    return Doorway(app, door, _refused)


def wants_page(scope: Scope) -> bool:
    """Whether a browser opens ``/``: it asks for HTML by name, which programs do not."""
    if scope["path"] != "/" or scope["method"] != "GET":
        return False
    accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return re.search(rb"text/html", accept, re.IGNORECASE) is not None


async def to_page(scope: Scope, receive: Receive, send: Send) -> None:
    """Send a browser to the page."""
    headers = {"Vary": "Accept", "Cache-Control": "no-store"}
    await RedirectResponse(f"{PATH}/", 307, headers)(scope, receive, send)


async def _answer(request: Request) -> Response:
    path = request.path_params["path"]
    file = _files().get(path)
    if file is None and (path.startswith("assets/") or "." in path.rpartition("/")[2]):
        return PlainTextResponse("Not Found", 404, _HEADERS)
    if file is None or path == "index.html":  # a place within the page, which finds it by itself
        return _index()
    cached = {"Cache-Control": _LONG if path.startswith("assets/") else "public, max-age=3600"}
    headers = {**_HEADERS, **cached, "Vary": "Accept-Encoding"}
    if file.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, 200, {**headers, "Content-Encoding": "gzip"}, file.media_type)
    return Response(file.content, 200, headers, file.media_type)


def _index() -> Response:
    nonce = secrets.token_urlsafe(16)
    policy = (
        "default-src 'none'; script-src 'self'; connect-src 'self'; font-src 'self'; img-src 'self' data: blob:; "
        f"style-src 'self' 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    index = _files().get("index.html")
    if index is None:
        return PlainTextResponse("the page is not built: npm --prefix web run build", 503, _HEADERS)
    headers = {**_HEADERS, "Content-Security-Policy": policy, "Cache-Control": "no-store"}
    return Response(index.content.replace(_NONCE, nonce.encode()), 200, headers, index.media_type)


@cache
def _files() -> Mapping[str, _File]:
    """Every file by its name; read once, for there are few: nothing on the wire is ever opened as a path."""
    found = {}
    for path in sorted(BUILT.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            packed = gzip.compress(content, 9, mtime=0) if len(content) >= _WORTH_PACKING else None
            found[path.relative_to(BUILT).as_posix()] = _File(content, packed, media_type)
    return found


def _refused(scope: Scope, problem: Problem) -> ASGIApp:
    return PlainTextResponse(problem.en, _STATUS.get(type(problem).__name__, 400), _HEADERS)
