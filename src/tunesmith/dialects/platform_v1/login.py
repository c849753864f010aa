"""``/login``: a name and a password for a token."""

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from tunesmith.accounts.service import AccountService
from tunesmith.dialects.platform_v1.openapi import example, failures
from tunesmith.dialects.platform_v1.wire import Answer, Body


class LoginRequest(Body):
    model_config = example({"username": "alice", "password": "correct horse battery staple"})

    username: Annotated[str, Field(min_length=1, max_length=256)]
    password: Annotated[str, Field(min_length=1, max_length=4096)]


class Token(Answer):
    """``expires_in`` in seconds."""

    token: str
    expires_in: int
    token_type: Literal["Bearer"] = "Bearer"


def routes(accounts: AccountService) -> APIRouter:
    """The one path that wants no token."""
    router = APIRouter(tags=["login"])

    @router.post("/login", response_model=Token, responses=failures(403))
    async def login(request: Request, body: LoginRequest) -> Token:
        """Failures cost time: each one makes the next try wait longer."""
        address = request.client.host if request.client else "local"
        issued = await accounts.login(body.username, body.password, address)
        return Token(token=issued.token, expires_in=issued.expires_in)

    return router
