"""Names and numbers of adapters: ``town@3`` is one folder with one content, for good.

Every adapter under home has a version. Its name is that of its folder, without what a run puts behind it, so the runs
on one dataset are versions of one name: ``adapters/town-1a2b3c4d`` is a version of ``town``. Its number is the next free
one of the name when it is first seen, the oldest adapter first. A folder whose files are replaced is another version.
"""

import hashlib
import re
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Protocol

import msgspec

from tunesmith.kernel.db import Database
from tunesmith.kernel.home import UNPRINTABLE
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Problem
from tunesmith.models.model import Adapter
from tunesmith.models.version_store import Version, VersionStore

__all__ = ["Version", "Versions", "name_of"]

_REF = re.compile(r"(?:adapters/)?([^@]{1,1024})@([1-9][0-9]{0,8})")
_FACTS = "tunesmith.json"
_MOST_DIGESTS = 1024
_BLOCK = 1 << 20


class Shelf(Protocol):
    """Where adapters lie; it knows folders alone, no versions and no aliases."""

    def adapter(self, name: str) -> Adapter: ...

    def adapters(self) -> list[Adapter]: ...


class Versions:
    """Numbers adapters and finds them by number. Blocking; share between threads."""

    def __init__(self, database: Database, shelf: Shelf) -> None:
        self._store, self._shelf = VersionStore(database), shelf
        self._digests: dict[tuple[str, str], str] = {}

    def take_in(self) -> None:
        """Number every adapter under home that has no number, the oldest first."""
        known = {(version.adapter, version.fingerprint) for version in self._store.versions()}
        for adapter in reversed(self._shelf.adapters()):
            if (adapter.name, adapter.version) not in known:
                try:
                    self.of(adapter)
                except Problem:
                    continue  # removed or replaced at this moment; the next look sees what is there then

    def list(self, name: str | None = None) -> list[Version]:
        """The versions of that name, or of all names; by name, the newest first. Some may lie there no more."""
        self.take_in()
        return self._store.versions(None if name is None else name.removeprefix("adapters/"))

    def of(self, adapter: Adapter) -> Version:
        """The version that ``adapter`` is; it gets its number now where it has none.

        Raises:
            Conflict: its files are being replaced. NotFound: they are gone.
        """
        digest = self._digest(adapter)
        known = self._store.of_bytes(adapter.name, digest)
        if known is None:
            run_id = _run_id(adapter)
            made_at = datetime.fromtimestamp(adapter.created_at, UTC)
            known = self._store.add(
                Version(
                    name_of(adapter.name, run_id), 0, adapter.name, digest, adapter.version, adapter.base, run_id,
                    made_at,
                )
            )  # fmt: skip
        elif known.fingerprint != adapter.version:
            self._store.remember(known, adapter.version)
        return known

    def named(self, text: str) -> Version | None:
        """The version called ``text`` (``town@3``); None where it is none."""
        match = _REF.fullmatch(text)
        if match is None or UNPRINTABLE.search(text):
            return None
        name, number = match[1], int(match[2])
        found = self._store.version(name, number)
        if found is None:
            self.take_in()
            found = self._store.version(name, number)
        return found

    def get(self, text: str) -> Version:
        """The version called ``text``.

        Raises:
            NotFound: there is none.
        """
        found = self.named(text)
        if found is None:
            shown = UNPRINTABLE.sub("?", text)[:200]
            raise NotFound(f"没有版本 {shown}：形如 town@3", f"there is no version {shown}: they look like town@3")
        return found

    def lies(self, version: Version) -> bool:
        """Whether the version is there, by a quick look: its folder, with the files it was last seen as."""
        try:
            adapter = self._shelf.adapter(version.adapter)
        except Problem:
            return False
        return adapter.name == version.adapter and adapter.version == version.fingerprint

    def usable(self, version: Version) -> Adapter:
        """The adapter of that version, with the very bytes it was numbered with.

        Raises:
            Conflict: its folder is gone, cannot be used or holds something else by now.
        """
        try:
            adapter = self._shelf.adapter(version.adapter)
        except (NotFound, Invalid) as problem:
            raise _gone(version) from problem
        if adapter.name != version.adapter:  # one elsewhere that ends alike
            raise _gone(version)
        if adapter.version != version.fingerprint and self._digest(adapter) != version.digest:
            raise Conflict(
                f"{version.ref} 的目录 {version.adapter} 已被替换，不再是当初的内容；请改用另一个版本",
                f"{version.ref}: the files in {version.adapter} were replaced since it was numbered; use another "
                "version",
                version=version.ref,
                adapter=version.adapter,
            )
        return adapter

    def _digest(self, adapter: Adapter) -> str:
        """SHA-256 of the digests of config and weights, read once for the same files."""
        key = (adapter.name, adapter.version)
        if (known := self._digests.get(key)) is not None:
            return known
        whole = hashlib.sha256()
        try:
            for name in ("adapter_config.json", "adapter_model.safetensors"):
                part = hashlib.sha256()
                with (adapter.path / name).open("rb") as file:
                    while block := file.read(_BLOCK):
                        part.update(block)
                whole.update(part.digest())
            same = self._shelf.adapter(adapter.name).version == adapter.version
        except OSError as error:
            raise NotFound(
                f"适配器 {adapter.name} 无法读取", f"the adapter {adapter.name} cannot be read: {error.strerror}"
            ) from error
        if not same:
            raise Conflict(f"适配器 {adapter.name} 正在被替换", f"the adapter {adapter.name} is being replaced")
        if len(self._digests) >= _MOST_DIGESTS:
            self._digests.clear()
        self._digests[key] = whole.hexdigest()
        return self._digests[key]


def name_of(adapter: str, run_id: str | None) -> str:
    """The name whose version the adapter in that folder is: ``town`` for ``adapters/town-1a2b3c4d`` of that run."""
    parts = list(PurePosixPath(adapter).parts)
    if len(parts) > 1 and parts[0] == "adapters":
        del parts[0]
    if len(parts) > 1 and parts[-1] == "final":
        del parts[-1]
    if run_id is not None and len(run_id) >= 8:
        parts[-1] = parts[-1].removesuffix(f"-{run_id[:8]}") or parts[-1]
    return "/".join(parts).replace("@", "-")


def _run_id(adapter: Adapter) -> str | None:
    """The run that made it, as its folder says; None where it says none, or nothing that can be believed."""
    try:
        with (adapter.path / _FACTS).open("rb") as file:
            facts: Any = msgspec.json.decode(file.read(_BLOCK))
    except (OSError, msgspec.DecodeError, RecursionError):
        return None
    said = facts.get("run_id") if isinstance(facts, dict) else None
    return said if isinstance(said, str) and re.fullmatch(r"[0-9a-f]{8,64}", said) else None


def _gone(version: Version) -> Conflict:
    return Conflict(
        f"{version.ref} 的目录 {version.adapter} 已不存在或不可用；请改用另一个版本",
        f"{version.ref}: its folder {version.adapter} is gone or cannot be used; use another version",
        version=version.ref,
        adapter=version.adapter,
    )
