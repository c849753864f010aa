"""Accounts: users, signing in, and who stands behind a bearer token or an API key."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from typing import TypeVar

import structlog

from tunesmith.accounts import keys
from tunesmith.accounts.keys import ApiKey, NewKey
from tunesmith.accounts.passwords import Passwords, check_password
from tunesmith.accounts.store import Account, AccountStore, no_key, no_user
from tunesmith.accounts.throttle import Attempt, Throttle, Unsettled
from tunesmith.accounts.tokens import LIFETIME_S, Tokens, not_signed_in, token_key
from tunesmith.accounts.user import MAX_NAME, Role, User, parse_user_name
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import UNPRINTABLE, Home
from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, TooMany, Unauthenticated

T = TypeVar("T")

_THREADS = 4
_POLL_S = 0.05
_POLLS = 100  # five seconds: what a full queue of passwords takes
MAX_LABEL = 100  # letters
MAX_KEYS = 100  # good ones, of one user
_USED_EVERY = timedelta(minutes=1)  # a key's last use is kept no finer, or every request would write
_NOBODY = ""  # stands for every name that no user can have
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Issued:
    """A token, and the seconds it is good for."""

    token: str = field(repr=False)
    expires_in: int


class AccountService:
    """Users and their API keys; signs people in and says who is asking. Safe from several threads.

    Args:
        clock: dates records and tokens.
        seconds: measures delays; never steps.
    """

    def __init__(
        self,
        database: Database,
        home: Home,
        clock: Clock = utc_now,
        *,
        seconds: Callable[[], float] = monotonic,
        passwords: Passwords | None = None,
    ) -> None:
        self._home, self._clock = home, clock
        self._store = AccountStore(database)
        self._throttle = Throttle(seconds)
        self._passwords = passwords or Passwords()
        self._tokens: Tokens | None = None
        self._lock = threading.Lock()
        # its own threads: where the loop's are busy with somebody's upload, people are let in all the same
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="accounts")
        # nobody waits for notes of keys' use: a database that is being written to must not hold requests up
        self._notes = ThreadPoolExecutor(1, thread_name_prefix="key-uses")
        self._noting: set[str] = set()

    def start(self) -> None:
        """Read the key that signs tokens, or make it: what a server does before it listens; twice is fine.

        Raises:
            Unavailable: the key on disk is not fit; the message says how to mend it.
        """
        self._signer()

    def close(self) -> None:
        """Return when what is known of keys' use is written."""
        self._notes.shutdown()

    def any_users(self) -> bool:
        """Whether anybody could sign in one day; one look at one row."""
        return self._store.any()

    def get(self, name: str) -> User:
        """The user of that name; raises NotFound where there is none."""
        account = self._store.find(_possible(name))
        if account is None:
            raise no_user(name[:MAX_NAME])
        return account.user

    def add(self, name: str, password: str, role: Role = "member") -> User:
        """A new user; the password is kept as an argon2id hash.

        Raises:
            Invalid: the name or the password is none.
            Conflict: the name is taken, or differs from a taken one only in case.
        """
        user = User(parse_user_name(name), role, disabled=False, created_at=self._clock())
        self._store.add(user, self._passwords.hash(password))
        return user

    def disable(self, name: str) -> User:
        """Let the user in no more: tokens and API keys are refused from the next request on; twice is fine.

        Raises:
            NotFound: there is no such user.
            Conflict: the user is the last admin who may sign in.
        """
        self._store.disable(self.get(name).name)
        return self.get(name)

    def enable(self, name: str) -> User:
        """Let the user in again, by the old password and the old API keys; raises NotFound where there is none."""
        self._store.enable(self.get(name).name)
        return self.get(name)

    def set_password(self, name: str, password: str) -> User:
        """Replace the password; tokens issued before are refused, API keys stay.

        Raises:
            NotFound: there is no such user. Invalid: the password is none.
        """
        user = self.get(name)
        self._store.set_password(user.name, self._passwords.hash(password))
        return user

    async def login(self, name: str, password: str, address: str) -> Issued:
        """A token for whoever gives a user's name and password.

        Unknown users, wrong passwords and disabled users are told the same after the same work.

        Args:
            address: whence the request comes, as the socket says and no header.

        Raises:
            Unauthenticated: not let in.
            TooMany: too many tries failed before, or too many people sign in at once; the password was not looked at.
        """
        account = await self._proved(_possible(name), password, address)
        await self._renew(account, password)
        await self._on_thread(lambda: self._store.signed_in(account.user.name, self._clock()))
        # of the epoch whose password was right: one changed meanwhile makes this token void
        return await self._issued(account.user.name, account.epoch)

    async def change_password(self, name: str, old: str, new: str, address: str) -> Issued:
        """Replace one's own password; tokens issued before are refused, API keys stay.

        Tries with a wrong old password are counted and slowed with those of signing in.

        Args:
            name: of the user who asks, as whoever let them in knows it.
            address: as in ``login``.

        Returns:
            a token to go on with.

        Raises:
            Invalid: the new password is none; the old one was not looked at. Forbidden: the old one is wrong.
            TooMany: as ``login``. Conflict: somebody else changed the account meanwhile.
        """
        check_password(new)
        try:
            account = await self._proved(_possible(name), old, address)
        except Unauthenticated:
            raise Forbidden("原密码不正确", "the old password is wrong", field="old_password") from None
        hashed = await self._passwords.hashed(new)
        epoch = await self._on_thread(lambda: self._store.change_password(account, hashed))
        return await self._issued(account.user.name, epoch)

    async def identify(self, bearer: str) -> Caller:
        """Who stands behind a token or an API key, as the database has them now.

        Raises:
            Unauthenticated: nobody; always with the same message.
        """
        return await self._on_thread(lambda: self._identify(bearer))

    def create_key(self, user: str, label: str = "") -> NewKey:
        """A new API key of that user; this is the only time its secret is seen.

        Raises:
            NotFound: there is no such user. Conflict: the user is disabled, or has 100 good keys already.
            Invalid: the label is longer than 100 letters or holds control characters.
        """
        owner = self.get(user)
        if owner.disabled:
            raise Conflict(f"用户 {owner.name} 已停用", f"the user {owner.name} is disabled", name=owner.name)
        if len(label) > MAX_LABEL or UNPRINTABLE.search(label):
            raise Invalid(
                f"标签应不超过 {MAX_LABEL} 个字符，且不含控制字符",
                f"a label has at most {MAX_LABEL} characters and no control characters",
                field="label",
            )
        made, digest = keys.new_key()
        self._store.add_key(ApiKey(made.id, owner.name, label, self._clock()), digest, MAX_KEYS)
        return made

    def keys(self, user: str | None = None, *, revoked: bool = True, most: int | None = None) -> list[ApiKey]:
        """The API keys of ``user`` (None: of all), the newest first; NotFound for no user.

        Args:
            revoked: whether revoked ones are among them.
            most: so many at most; None for every one.
        """
        return self._store.keys(self.get(user).name if user is not None else None, revoked=revoked, most=most)

    def revoke_key(self, id: str, owner: str | None = None) -> ApiKey:
        """Refuse the key from the next request on; twice is fine.

        Args:
            owner: whose it has to be; None for anybody's.

        Raises:
            NotFound: there is none, or not of that owner.
        """
        if not keys.is_id(id):
            raise no_key()
        return self._store.revoke_key(id, self._clock(), owner)

    def list(self) -> list[User]:
        """Every user, by name."""
        return self._store.list()

    async def _begin(self, account: str, address: str) -> Attempt:
        """Count a try, after those have ended that it would be refused for if they failed; raises TooMany."""
        for _ in range(_POLLS):
            try:
                return self._throttle.begin(account, address)
            except Unsettled:
                await asyncio.sleep(_POLL_S)
        return self._throttle.begin(account, address)

    async def _proved(self, known: str, password: str, address: str) -> Account:
        """The account of whoever gives its password; a try as the throttle counts them. Raises as ``login``."""
        attempt = await self._begin(known, address)
        end = self._throttle.failed
        try:
            account = await self._on_thread(lambda: self._store.find(known))
            right = await self._passwords.verify(password, account.password if account else None)
            if not right or account is None or account.user.disabled:
                raise _not_let_in()
            end = self._throttle.succeeded
        except TooMany:
            end = self._throttle.withdraw
            raise
        finally:
            end(attempt)
        return account

    async def _issued(self, name: str, epoch: int) -> Issued:
        return Issued(await self._on_thread(lambda: self._signer().issue(name, epoch)), LIFETIME_S)

    async def _renew(self, account: Account, password: str) -> None:
        renewed = await self._passwords.renewed(password, account.password)
        if renewed is not None:
            await self._on_thread(lambda: self._store.refresh_password(account, renewed))

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _identify(self, bearer: str) -> Caller:
        user = self._owner_of_key(bearer) if bearer.startswith(keys.PREFIX) else self._holder_of_token(bearer)
        if user is None or user.disabled:
            raise not_signed_in()
        return user.caller

    def _owner_of_key(self, bearer: str) -> User | None:
        sent = keys.read_key(bearer)
        kept = self._store.owner_of_key(sent.id) if sent else None
        if sent is None or kept is None or not keys.same_digest(sent.digest, kept.digest):
            return None
        now = self._clock()
        if not kept.user.disabled and (kept.last_used_at is None or now - kept.last_used_at >= _USED_EVERY):
            self._note_use(sent.id, now)
        return kept.user

    def _note_use(self, id: str, at: datetime) -> None:
        """Write the use of a key down, unless that is being done already."""
        with self._lock:
            if id in self._noting:
                return
            self._noting.add(id)

        def write() -> None:
            try:
                self._store.used_key(id, at)
            except Exception:
                _log.exception("key_use_not_noted", id=id)  # the next use is
            finally:
                with self._lock:
                    self._noting.discard(id)

        with suppress(RuntimeError):  # closed: the server is going
            self._notes.submit(write)

    def _holder_of_token(self, bearer: str) -> User | None:
        claim = self._signer().read(bearer)
        account = self._store.find(claim.name)
        return account.user if account is not None and account.epoch == claim.epoch else None

    def _signer(self) -> Tokens:
        with self._lock:
            if self._tokens is None:
                self._tokens = Tokens(token_key(self._home.secrets), self._clock)
            return self._tokens


def _possible(name: str) -> str:
    """The name as it would be kept; one and the same text for all that no user can have."""
    try:
        return parse_user_name(name)
    except Invalid:
        return _NOBODY


def _not_let_in() -> Unauthenticated:
    return Unauthenticated("用户名或密码错误", "wrong user name or password")
