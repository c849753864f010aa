"""``/session``, an addition to the document: whom the server takes the client for, and what the server itself is."""

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from tunesmith import __version__
from tunesmith.http.described import described
from tunesmith.http.door import caller_of
from tunesmith.http.nearby import open_to_network
from tunesmith.kernel.home import Home


class Session(TypedDict):
    user: str
    admin: bool
    wants_token: bool
    open_to_network: bool
    version: str
    home: str | None


def build(home: Home, *, wants_token: bool) -> APIRouter:
    """The routes.

    Args:
        wants_token: whether this dialect lets in only who has a token.
    """
    routes = APIRouter(tags=["service"])

    @routes.get("/session", **described(Session))
    def session(request: Request) -> Session:
        """Where no token is wanted everybody is the admin ``local``. ``open_to_network`` is true where others on the
        network can reach a server that wants none; ``home`` is told to admins."""
        caller = caller_of(request)
        return {
            "user": caller.name,
            "admin": caller.admin,
            "wants_token": wants_token,
            "open_to_network": not wants_token and open_to_network(),
            "version": __version__,
            "home": str(home.root) if caller.admin else None,
        }

    return routes
