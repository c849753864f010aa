"""The tables of users and API keys; nothing in them signs anybody in."""

from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from tunesmith.accounts.keys import ApiKey
from tunesmith.accounts.user import User, likeness
from tunesmith.kernel.db import Database, metadata
from tunesmith.kernel.problems import Conflict, NotFound

_users = sa.Table(
    "users",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("role", sa.String, nullable=False),
    sa.Column("password", sa.String, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("last_login_at", sa.String),
)
_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("user_name", sa.String, sa.ForeignKey("users.name"), nullable=False),
    sa.Column("label", sa.String, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("revoked_at", sa.String),
    sa.Column("last_used_at", sa.String),
)


@dataclass(frozen=True, slots=True)
class Account:
    """A user with what signs them in.

    Attributes:
        epoch: tokens of an earlier one are void.
        password: its argon2id hash.
    """

    user: User
    epoch: int
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """The user of an API key, when it was last used, and the SHA-256 of its secret part, hexadecimal."""

    user: User
    last_used_at: datetime | None
    digest: str = field(repr=False)


class AccountStore:
    """Records of users and API keys; safe from several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def any(self) -> bool:
        """Whether there is a user at all."""
        with self._database.read() as connection:
            return connection.execute(sa.select(_users.c.name).limit(1)).first() is not None

    def find(self, name: str) -> Account | None:
        """The account of that very name, if there is one."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(_users).where(_users.c.name == name)).mappings().first()
        return _account(row) if row else None

    def add(self, user: User, password: str) -> None:
        """Record a new user.

        Args:
            password: its argon2id hash.

        Raises:
            Conflict: the name is taken, or differs from a taken one only in case.
        """
        with self._database.write() as connection:
            self._lock(connection)
            like = likeness(user.name)
            taken = next(
                (n for n in connection.execute(sa.select(_users.c.name)).scalars() if likeness(n) == like), None
            )
            if taken is not None:
                raise Conflict(f"用户 {taken} 已存在", f"there is a user {taken} already", name=taken)
            values = {
                "name": user.name,
                "role": user.role,
                "password": password,
                "disabled": user.disabled,
                "epoch": 0,
                "created_at": user.created_at.isoformat(),
            }
            connection.execute(sa.insert(_users).values(values))

    def disable(self, name: str) -> None:
        """Let the user in no more, and void their tokens; twice is fine.

        Raises:
            NotFound: there is no such user.
            Conflict: the user is the last admin who may sign in.
        """
        with self._database.write() as connection:
            self._lock(connection)
            may = sa.and_(_users.c.role == "admin", sa.not_(_users.c.disabled))
            admins = list(connection.execute(sa.select(_users.c.name).where(may)).scalars())
            if admins == [name]:
                raise Conflict(
                    f"{name} 是最后一个可登录的管理员，不能停用；请先添加另一个管理员",
                    f"{name} is the last admin who may sign in and cannot be disabled; add another admin first",
                    name=name,
                )
            self._change(connection, name, disabled=True, epoch=_users.c.epoch + 1)

    def enable(self, name: str) -> None:
        """Let the user in again; raises NotFound where there is none."""
        with self._database.write() as connection:
            self._change(connection, name, disabled=False)

    def set_password(self, name: str, password: str) -> None:
        """Replace the hash, and void the user's tokens; raises NotFound where there is none."""
        with self._database.write() as connection:
            self._change(connection, name, password=password, epoch=_users.c.epoch + 1)

    def change_password(self, account: Account, password: str) -> int:
        """Replace the hash and void the user's tokens, unless either happened since ``account`` was read.

        Returns:
            the epoch of tokens that are good from now on.

        Raises:
            Conflict: somebody else has changed the password or disabled the user meanwhile.
        """
        name, epoch = account.user.name, account.epoch + 1
        unchanged = sa.and_(_users.c.name == name, _users.c.epoch == account.epoch, sa.not_(_users.c.disabled))
        with self._database.write() as connection:
            changed = connection.execute(
                sa.update(_users).where(unchanged).values(password=password, epoch=epoch)
            ).rowcount
        if changed == 0:
            raise Conflict(
                "账户刚刚被他人修改，密码没有更换；请重新登录",
                "the account was changed by somebody else just now and the password was not; log in again",
                name=name,
            )
        return epoch

    def signed_in(self, name: str, at: datetime) -> None:
        """Note that the user gave their password."""
        with self._database.write() as connection:
            connection.execute(sa.update(_users).where(_users.c.name == name).values(last_login_at=at.isoformat()))

    def refresh_password(self, account: Account, password: str) -> None:
        """Replace the hash by another of the same password; tokens stay. A password changed meanwhile is kept."""
        unchanged = sa.and_(_users.c.name == account.user.name, _users.c.password == account.password)
        with self._database.write() as connection:
            connection.execute(sa.update(_users).where(unchanged).values(password=password))

    def add_key(self, key: ApiKey, digest: str, most: int) -> None:
        """Record a new key of an existing user.

        Args:
            digest: SHA-256 of the secret part, hexadecimal.
            most: good keys that one user may have.

        Raises:
            Conflict: the user has so many.
        """
        values = {
            "id": key.id,
            "user_name": key.user,
            "label": key.label,
            "digest": digest,
            "created_at": key.created_at.isoformat(),
            "revoked_at": None,
        }
        good = sa.and_(_keys.c.user_name == key.user, _keys.c.revoked_at.is_(None))
        with self._database.write() as connection:
            self._lock(connection)
            if connection.execute(sa.select(sa.func.count()).select_from(_keys).where(good)).scalar_one() >= most:
                raise Conflict(
                    f"{key.user} 已有 {most} 个有效的 API 密钥；请先撤销不再使用的",
                    f"{key.user} has {most} good API keys already; revoke one that is not used any more first",
                    name=key.user,
                    limit=most,
                )
            connection.execute(sa.insert(_keys).values(values))

    def keys(self, user: str | None = None, *, revoked: bool = True, most: int | None = None) -> list[ApiKey]:
        """The newest keys of ``user`` (None: of all), at most ``most`` (None: every one), newest first.

        Args:
            revoked: whether revoked ones are among them.
        """
        query = sa.select(_keys).order_by(_keys.c.created_at.desc(), _keys.c.id).limit(most)
        if not revoked:
            query = query.where(_keys.c.revoked_at.is_(None))
        if user is not None:
            query = query.where(_keys.c.user_name == user)
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def owner_of_key(self, id: str) -> KeyOwner | None:
        """The user of a key that is not revoked; None where there is none."""
        live = sa.and_(_keys.c.id == id, _keys.c.revoked_at.is_(None))
        query = sa.select(_users, _keys.c.digest, _keys.c.last_used_at).join_from(_keys, _users).where(live)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
        return KeyOwner(_account(row).user, _moment(row["last_used_at"]), row["digest"]) if row else None

    def used_key(self, id: str, at: datetime) -> None:
        """Note that somebody came with the key."""
        with self._database.write() as connection:
            connection.execute(sa.update(_keys).where(_keys.c.id == id).values(last_used_at=at.isoformat()))

    def revoke_key(self, id: str, at: datetime, owner: str | None = None) -> ApiKey:
        """Make the key void from ``at`` on, unless it is already; twice is fine.

        Args:
            owner: whose it has to be; None for anybody's.

        Raises:
            NotFound: there is no such key.
        """
        meant = _keys.c.id == id if owner is None else sa.and_(_keys.c.id == id, _keys.c.user_name == owner)
        with self._database.write() as connection:
            live = sa.and_(meant, _keys.c.revoked_at.is_(None))
            connection.execute(sa.update(_keys).where(live).values(revoked_at=at.isoformat()))
            row = connection.execute(sa.select(_keys).where(meant)).mappings().first()
        if row is None:
            raise no_key()
        return _key(row)

    def list(self) -> list[User]:
        """Every user, by name."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(_users).order_by(_users.c.name)).mappings()
            return [_account(row).user for row in rows]

    def _lock(self, connection: sa.Connection) -> None:
        """Keep other writers of users out until the end: what is read of several rows must still hold then.

        SQLite's writers are alone as it is.
        """
        if not self._database.sqlite:
            connection.execute(sa.text("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE"))

    def _change(self, connection: sa.Connection, name: str, **values: object) -> None:
        if connection.execute(sa.update(_users).where(_users.c.name == name).values(values)).rowcount == 0:
            raise no_user(name)


def no_user(name: str) -> NotFound:
    """What is said of a user who is not there."""
    return NotFound(f"没有用户 {name}", f"there is no user {name}", field="name")


def no_key() -> NotFound:
    """What is said of an API key that is not there; what was asked for may be a whole key, so it is not repeated."""
    return NotFound("没有这个 API 密钥", "there is no such API key", field="id")


def _account(row: sa.RowMapping) -> Account:
    user = User(
        name=row["name"],
        role=row["role"],
        disabled=row["disabled"],
        created_at=datetime.fromisoformat(row["created_at"]),
        last_login_at=_moment(row["last_login_at"]),
    )
    return Account(user=user, epoch=row["epoch"], password=row["password"])


def _key(row: sa.RowMapping) -> ApiKey:
    return ApiKey(
        id=row["id"],
        user=row["user_name"],
        label=row["label"],
        created_at=datetime.fromisoformat(row["created_at"]),
        revoked_at=_moment(row["revoked_at"]),
        last_used_at=_moment(row["last_used_at"]),
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
