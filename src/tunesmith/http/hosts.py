"""Which names the server answers to.

A page on another site can point its own name at this machine (DNS rebinding) and then talk to the server as if it were
the page's own; the ``Host`` header still carries that name. Plain addresses cannot be pointed elsewhere.
"""

import functools
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence

from tunesmith.kernel.problems import Invalid
from tunesmith.settings import Settings

# the rest of what RFC 3986 allows in a host (percent signs, "!", ";") is in no real name
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]{2,45})\]|(?P<name>[a-z0-9._-]{1,253}))(?::(?P<port>[0-9]{1,5}))?", re.I)


class HostList:
    """The ``Host`` headers that are taken: plain addresses, ``localhost``, this machine's name, names given.

    Args:
        hostname: this machine's.
        allowed: more names, without port; ``*.example.com`` is any name below it.

    Raises:
        Invalid: ``allowed`` holds something that is no name.
    """

    def __init__(self, hostname: str, allowed: Iterable[str] = ()) -> None:
        listed = [name.lower() for name in allowed]
        for name in listed:
            if not _is_name(name.removeprefix("*.")):
                raise Invalid(
                    f"TUNESMITH_ALLOWED_HOSTS 中的 {name!r} 不是主机名（不带端口；*.example.com 表示其下所有名称）",
                    f"{name!r} in TUNESMITH_ALLOWED_HOSTS is not a host name (no port; *.example.com for all below it)",
                    field="allowed_hosts",
                )
        self._names = frozenset(["localhost", hostname.lower(), *listed])
        self._below = tuple(name[1:] for name in listed if name.startswith("*."))

    @staticmethod
    def of(settings: Settings) -> "HostList":
        """As this machine is called and the settings say."""
        return HostList(socket.gethostname(), settings.allowed_hosts)

    def check(self, given: Sequence[bytes]) -> str:
        """The one ``Host`` header of a request, lower case, when it may be answered.

        Raises:
            Invalid: none or several, not ``name[:port]``, or a name that is not listed.
        """
        host = given[0].decode("latin-1").lower() if len(given) == 1 else ""
        parsed = _HOST.fullmatch(host)
        if parsed is None or int(parsed["port"] or 0) > 65535:
            raise Invalid(
                "Host 头缺失、重复或格式错误", "the Host header is missing, repeated or malformed", field="host"
            )
        name = parsed["name"]
        if _is_address(parsed["v6"] or "", 6) if name is None else self._listed(name):
            return host
        raise Invalid(
            f"本服务不以 {name or host} 为名；如确需使用，请加入 TUNESMITH_ALLOWED_HOSTS",
            f"this server does not answer to {name or host}; add it to TUNESMITH_ALLOWED_HOSTS if it should",
            field="host",
        )

    def _listed(self, name: str) -> bool:
        return name in self._names or name.endswith(self._below) or _is_address(name, 4)


def _is_name(text: str) -> bool:
    parsed = _HOST.fullmatch(text)
    return parsed is not None and parsed["name"] == text and not text.startswith(".")


@functools.lru_cache(maxsize=64)  # nearly every request names the same one
def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False
