"""``/users`` and ``/keys``, an addition to the document: who may sign in, and with what programs ask in their name.

Where no token is wanted everybody is the admin ``local``, and whoever is made an admin stays one when a token is
wanted later; so there these paths answer only what comes straight from this machine (``http/nearby.py``).
"""

from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from typing_extensions import TypedDict

from tunesmith.accounts.keys import ApiKey
from tunesmith.accounts.service import AccountService
from tunesmith.accounts.user import User
from tunesmith.dialects.gpt_service.wire import Body, time_of
from tunesmith.http.described import described
from tunesmith.http.door import caller_of
from tunesmith.http.nearby import check_nearby
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.problems import Conflict, Forbidden

MOST_KEYS = 1000  # told at once
_LONGEST = 4096  # letters of what is sent as a name or a password; which of them are none, accounts say
_log = structlog.get_logger()

Text = Annotated[str, Field(max_length=_LONGEST)]


class AddUser(Body):
    name: Text
    password: Text
    admin: bool = False


class ChangeUser(Body):
    disabled: bool


class SetPassword(Body):
    password: Text


class ChangePassword(Body):
    old_password: Text
    new_password: Text


class MakeKey(Body):
    """In whose name it asks: one's own, or, for admins, that of ``user``."""

    label: Text = ""
    user: Text | None = None


class UserShown(TypedDict):
    name: str
    role: Literal["admin", "member"]
    disabled: bool
    created_at: str
    last_login_at: str | None


class Users(TypedDict):
    users: list[UserShown]
    total_count: int


class ChangedUser(TypedDict):
    status: Literal["success"]
    user: UserShown


class NewToken(TypedDict):
    status: Literal["success"]
    token: str
    expires_in: int
    token_type: Literal["Bearer"]


class KeyShown(TypedDict):
    id: str
    user: str
    label: str
    created_at: str
    last_used_at: str | None
    revoked_at: str | None


class Keys(TypedDict):
    keys: list[KeyShown]
    total_count: int


class MadeKey(TypedDict):
    status: Literal["success"]
    id: str
    user: str
    key: str


class RevokedKey(TypedDict):
    status: Literal["success"]
    key: KeyShown


def build(accounts: AccountService, *, wants_token: bool) -> APIRouter:
    """The routes.

    Args:
        wants_token: whether this dialect lets in only who has a token.
    """
    near = [] if wants_token else [Depends(check_nearby)]
    routes = APIRouter(tags=["people"])
    routes.include_router(_users(accounts), dependencies=[*near, Depends(_only_admins)])
    routes.include_router(_keys(accounts), dependencies=near)
    routes.include_router(_own(accounts), dependencies=near)
    return routes


def _users(accounts: AccountService) -> APIRouter:
    routes = APIRouter(prefix="/users")

    @routes.get("", **described(Users))
    def users() -> Users:
        """Every user, by name; for admins, as all of ``/users``."""
        found = [_user(each) for each in accounts.list()]
        return {"users": found, "total_count": len(found)}

    @routes.post("", **described(ChangedUser))
    def add(request: Request, body: AddUser) -> ChangedUser:
        """A new user: members see what they made, admins what everybody made. 409 where somebody is called alike."""
        user = accounts.add(body.name, body.password, "admin" if body.admin else "member")
        _log.info("user_added", name=user.name, role=user.role, by=caller_of(request).name)
        return {"status": "success", "user": _user(user)}

    @routes.patch("/{name}", **described(ChangedUser))
    def change(request: Request, name: str, body: ChangeUser) -> ChangedUser:
        """Let a user in no more (tokens and API keys stop at once), or again. 409 for the last admin who may sign in."""
        user = accounts.disable(name) if body.disabled else accounts.enable(name)
        _log.info("user_disabled" if body.disabled else "user_enabled", name=user.name, by=caller_of(request).name)
        return {"status": "success", "user": _user(user)}

    @routes.put("/{name}/password", **described(ChangedUser))
    def set_password(request: Request, name: str, body: SetPassword) -> ChangedUser:
        """Another password for somebody who lost theirs; their tokens stop at once, API keys stay."""
        user = accounts.set_password(name, body.password)
        _log.info("password_set", name=user.name, by=caller_of(request).name)
        return {"status": "success", "user": _user(user)}

    return routes


def _keys(accounts: AccountService) -> APIRouter:
    routes = APIRouter(prefix="/keys")

    @routes.get("", **described(Keys))
    def keys(
        request: Request,
        user: Annotated[str | None, Query(max_length=_LONGEST)] = None,
        everybody: bool = False,
        revoked: bool = False,
    ) -> Keys:
        """One's own API keys, the newest first, never their secrets; admins may ask for those of a ``user`` or of
        ``everybody``. With ``revoked`` also those that are void; the newest thousand at most."""
        caller = caller_of(request)
        if everybody:
            _only_admins(request)
        owner = None if everybody else _meant(caller, user)
        # nobody: the admin "local" has no account
        nobody = owner == LOCAL.name
        found = [] if nobody else [_key(each) for each in accounts.keys(owner, revoked=revoked, most=MOST_KEYS)]
        return {"keys": found, "total_count": len(found)}

    @routes.post("", **described(MadeKey))
    def make(request: Request, body: MakeKey) -> MadeKey:
        """A new API key, told this once; sent as ``Authorization: Bearer KEY`` it is good until it is revoked."""
        caller = caller_of(request)
        owner = _meant(caller, body.user)
        if owner == LOCAL.name:
            raise Conflict(
                "此服务器不要求令牌，您没有账户；请在 user 中指定密钥属于哪个用户",
                'this server wants no token and you have no account; say in "user" whose key it is',
                field="user",
            )
        made = accounts.create_key(owner, body.label)
        _log.info("key_made", id=made.id, name=owner, by=caller.name)
        return {"status": "success", "id": made.id, "user": owner, "key": made.secret}

    @routes.delete("/{id}", **described(RevokedKey))
    def revoke(request: Request, id: str) -> RevokedKey:
        """Refuse the key from the next request on; twice is fine. Another's key is as good as missing, but to admins."""
        caller = caller_of(request)
        key = accounts.revoke_key(id, caller.only)
        _log.info("key_revoked", id=key.id, name=key.user, by=caller.name)
        return {"status": "success", "key": _key(key)}

    return routes


def _own(accounts: AccountService) -> APIRouter:
    routes = APIRouter(prefix="/session")

    @routes.put("/password", **described(NewToken))
    async def change_password(request: Request, body: ChangePassword) -> NewToken:
        """Another password for who asks. Tokens issued before stop at once; the answer has one to go on with."""
        caller = caller_of(request)
        if caller.name == LOCAL.name:
            raise Conflict(
                "此服务器不要求令牌，您没有账户，也就没有密码；管理员可通过 /users 设置用户的密码",
                "this server wants no token and you have no account, hence no password; set a user's through /users",
            )
        address = request.client.host if request.client else "local"
        issued = await accounts.change_password(caller.name, body.old_password, body.new_password, address)
        _log.info("password_changed", name=caller.name)
        return {"status": "success", "token": issued.token, "expires_in": issued.expires_in, "token_type": "Bearer"}

    return routes


def _only_admins(request: Request) -> None:
    if not caller_of(request).admin:
        raise Forbidden("只有管理员可以管理用户", "only admins may manage users")


def _meant(caller: Caller, user: str | None) -> str:
    """Whose keys a request is about. Members are told the same of everybody else, whether they exist or not."""
    if user is None or user == caller.name:
        return caller.name
    if not caller.admin:
        raise Forbidden("只有管理员可以管理他人的密钥", "only admins may manage the keys of others", field="user")
    return user


def _user(user: User) -> UserShown:
    return {
        "name": user.name,
        "role": user.role,
        "disabled": user.disabled,
        "created_at": time_of(user.created_at),
        "last_login_at": time_of(user.last_login_at) if user.last_login_at else None,
    }


def _key(key: ApiKey) -> KeyShown:
    return {
        "id": key.id,
        "user": key.user,
        "label": key.label,
        "created_at": time_of(key.created_at),
        "last_used_at": time_of(key.last_used_at) if key.last_used_at else None,
        "revoked_at": time_of(key.revoked_at) if key.revoked_at else None,
    }
