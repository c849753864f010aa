"""Which web pages may call the server, and which may change something on it.

A browser lets any page send requests anywhere; a server that is open on loopback would obey them. Browsers say where a
request comes from (``Origin``, RFC 6454; ``Sec-Fetch-Site``, W3C Fetch Metadata), programs do not and pass.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.kernel.problems import Forbidden, Invalid

Headers = Sequence[tuple[bytes, bytes]]

_ORIGIN = re.compile(r"(https?)://((?:\[[0-9a-f:.]+\]|[a-z0-9._-]+))(?::([0-9]{1,5}))?/?")
_DEFAULT_PORT = {"http": "80", "https": "443"}
_SAFE = frozenset(["GET", "HEAD", "OPTIONS"])
_EXPOSED = b"X-Request-ID, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After"
_ALLOWED = (
    b"Authorization, Content-Type, Accept-Language, Idempotency-Key, X-Request-ID, "
    # what the openai SDK sends from a page
    b"User-Agent, OpenAI-Organization, OpenAI-Project, X-Stainless-Arch, X-Stainless-Helper-Method, X-Stainless-Lang, "
    b"X-Stainless-OS, X-Stainless-Package-Version, X-Stainless-Retry-Count, X-Stainless-Runtime, "
    b"X-Stainless-Runtime-Version, X-Stainless-Timeout"
)
_PREFLIGHT: Headers = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
    (b"access-control-allow-headers", _ALLOWED),
    (b"access-control-max-age", b"600"),
)


@dataclass(frozen=True, slots=True)
class Visit:
    """What the origin of a request means for its answer.

    Attributes:
        headers: what every answer to it carries.
        preflight: the browser only asks whether it may (Fetch standard, CORS-preflight); there is nothing to do.
    """

    headers: Headers = ()
    preflight: bool = False


class Origins:
    """The web origins whose pages may call the server, beside its own.

    Args:
        listed: ``scheme://name[:port]`` each.

    Raises:
        Invalid: one is not an origin; "*" and "null" are none, since any page can be "null".
    """

    def __init__(self, listed: Iterable[str] = ()) -> None:
        self._listed = frozenset(_origin(each) for each in listed)
        # a cache must not hand one origin's answer to another
        self._usual = Visit(((b"vary", b"Origin"),)) if self._listed else Visit()

    def check(self, method: str, host: str, given: Mapping[bytes, Sequence[bytes]]) -> Visit:
        """Judge a request by its headers.

        Args:
            host: its ``Host`` header, checked and lower case.
            given: headers by lower-case name.

        Raises:
            Forbidden: a page elsewhere wants to change something, or asks whether it may.
        """
        origins = given.get(b"origin", ())
        origin = origins[0].decode("latin-1") if len(origins) == 1 else "null"
        if origin in self._listed:
            preflight = method == "OPTIONS" and b"access-control-request-method" in given
            allow = ((b"access-control-allow-origin", origin.encode()), (b"access-control-expose-headers", _EXPOSED))
            return Visit((*self._usual.headers, *allow, *(_PREFLIGHT if preflight else ())), preflight)
        # behind a proxy that speaks TLS the page's own origin is https while we are spoken to in http
        own = origin in (f"http://{host}", f"https://{host}")
        foreign = (bool(origins) and not own) or b"cross-site" in given.get(b"sec-fetch-site", ())
        if foreign and (method not in _SAFE or (method == "OPTIONS" and b"access-control-request-method" in given)):
            raise Forbidden(
                "不接受来自其他网站页面的请求；如确需使用，请将其来源加入 TUNESMITH_CORS_ORIGINS",
                "requests of pages on other sites are not taken; add the origin to TUNESMITH_CORS_ORIGINS if it should be",
            )
        return self._usual


def _origin(text: str) -> str:
    """As browsers write it: lower case, no default port."""
    parsed = _ORIGIN.fullmatch(text.lower())
    if parsed is None:
        raise Invalid(
            f"TUNESMITH_CORS_ORIGINS 中的 {text!r} 不是来源；应形如 https://app.example.com",
            f"{text!r} in TUNESMITH_CORS_ORIGINS is not an origin such as https://app.example.com",
            field="cors_origins",
        )
    scheme, name, port = parsed.groups()
    return f"{scheme}://{name}" if port in (None, _DEFAULT_PORT[scheme]) else f"{scheme}://{name}:{port}"
