"""``/session``, an addition to the document: whom the server takes the client for, and what the server itself is."""

import ipaddress
import socket
from typing import Any

from fastapi import APIRouter, Request

from tunesmith import __version__
from tunesmith.http.door import caller_of
from tunesmith.kernel.home import Home


def build(home: Home, *, wants_token: bool) -> APIRouter:
    """The routes.

    Args:
        wants_token: whether this dialect lets in only who has a token.
    """
    routes = APIRouter(tags=["service"])

    @routes.get("/session")
    def session(request: Request) -> dict[str, Any]:
        """Where no token is wanted everybody is the admin ``local``. ``open_to_network`` is true where others on the
        network can reach a server that wants none; ``home`` is told to admins."""
        caller = caller_of(request)
        return {
            "user": caller.name,
            "admin": caller.admin,
            "wants_token": wants_token,
            "open_to_network": not wants_token and _reachable(),
            "version": __version__,
            "home": str(home.root) if caller.admin else None,
        }

    return routes


def _reachable() -> bool:
    """Whether this process listens on an address that is not this machine's alone, as the system says."""
    import psutil

    found = psutil.Process().net_connections("inet")
    listening = [
        each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN and each.type == socket.SOCK_STREAM
    ]
    return any(not ipaddress.ip_address(ip.partition("%")[0]).is_loopback for ip in listening)
