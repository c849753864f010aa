"""Addresses that a provider names for us to send to or read from: its own, or public ones over HTTPS."""

import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tunesmith.kernel.problems import Unavailable

if TYPE_CHECKING:
    import aiohttp
    from aiohttp.abc import ResolveResult

_PORTS = {"http": 80, "https": 443}
_NAT64, _COMPATIBLE = ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96")


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address (RFC 6454); ("", "", None) where it cannot be read."""
    try:
        parts = urlsplit(url)
        return parts.scheme.lower(), (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme.lower())
    except ValueError:
        return "", "", None


def checked(url: str, base: str, label: str) -> str:
    """``url``, if it belongs to ``base`` or is HTTPS and says no private address; ``public_only`` checks the rest.

    Raises:
        Unavailable: it is neither. It is not quoted: what is signed is a secret.
    """
    scheme, host, port = origin(url)
    good = bool(host) and url.isascii() and url.isprintable() and " " not in url and "@" not in urlsplit(url).netloc
    if good and (scheme, host, port) == origin(base):
        return url
    if not (good and scheme == "https" and _may_be_public(host)):
        raise Unavailable(
            f"{label} 给出的地址不可用：应为公网 https 地址",
            f"{label} named an address that is not used: a public https one is expected",
        )
    return url


def public_only() -> "aiohttp.TCPConnector":
    """Connections to public addresses alone, whatever their name resolves to."""
    import aiohttp
    from aiohttp.abc import AbstractResolver

    class Public(AbstractResolver):
        """Answers of the system's resolver that are public."""

        def __init__(self) -> None:
            self._system = aiohttp.ThreadedResolver()

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> "list[ResolveResult]":
            found = [each for each in await self._system.resolve(host, port, family) if _is_public(each["host"])]
            if not found:
                raise OSError("no public address")
            return found

        async def close(self) -> None:
            await self._system.close()

    return aiohttp.TCPConnector(resolver=Public(), use_dns_cache=False)


def _may_be_public(host: str) -> bool:
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        last = host.rstrip(".").rpartition(".")[2]
        # a name, whose addresses are looked at when they are known; what ends in a number is an address in disguise
        return not (last[:1].isdigit() or not last)
    return _is_public(host)


def _is_public(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:  # RFC 6052: the last 32 bits are where a translator sends it
            inner = ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)
        if inner is not None:
            return _is_public(str(inner))
        if found.is_site_local or found in _COMPATIBLE:
            return False
    return found.is_global and not found.is_multicast
