"""What rows leave behind: keys and values of their tokens, used again by prompts that begin alike.

They lie outside the arenas, each exactly as long as it is: attention over running rows never passes over them, and
their memory is counted to the byte. Copying a token's keys and values out and in again takes about a thousandth of the
time of computing them.

Nothing is shared between adapters, between versions of one adapter, or between owners: whoever asks what another has
asked does not even find it faster.
"""

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tunesmith.inference.worker.cache import Cache, Lease, out_of_memory
from tunesmith.inference.worker.lora import AdapterWeights

LEAST = 16  # tokens; fewer are computed again as fast as they are found
_SHARE = 4  # at most a quarter of the cache's memory is for rows that are over
_MOST = 512  # so that looking through all of them stays below a millisecond
_KEPT_S = 600.0  # a conversation that goes on does so within minutes

Ids: TypeAlias = npt.NDArray[np.int32]
_Family: TypeAlias = tuple[int, str]


def ids_of(tokens: Sequence[int]) -> Ids:
    """Token ids in a form that is quick to compare."""
    return np.asarray(tokens, dtype=np.int32)


def common(a: Ids, b: Ids) -> int:
    """How many tokens ``a`` and ``b`` begin with alike."""
    count = min(len(a), len(b))
    differ = a[:count] != b[:count]
    first = int(differ.argmax()) if count else 0
    return first if count and differ[first] else count


@dataclass(slots=True, eq=False)
class Prefix:
    """Keys and values of ``tokens``: each of ``parts`` is (heads, tokens, width), in the order of ``Cache.parts``."""

    tokens: Ids
    parts: list[Tensor]
    size: int
    worn: "weakref.ref[AdapterWeights] | None"  # an adapter nobody needs any more is not kept alive by what it left
    used_at: float

    @property
    def dead(self) -> bool:
        """Its adapter is gone, so nobody can ever ask for it."""
        return self.worn is not None and self.worn() is None


class Prefixes:
    """The beginnings that are kept, least recently used first to go. Belongs to the thread that steps.

    Args:
        cache: where rows' keys and values are copied from and to; its limit bounds what is kept.
        clock: seconds, rising.
    """

    def __init__(self, cache: Cache, clock: Callable[[], float] = time.monotonic) -> None:
        self._cache, self._clock = cache, clock
        self._families: dict[_Family, list[Prefix]] = {}
        self._count = 0
        self.size = 0  # bytes

    def find(self, adapter: AdapterWeights | None, owner: str, tokens: Ids) -> tuple[list[Tensor], int]:
        """The longest beginning of ``tokens`` that is kept: its parts, and how many of their tokens are alike."""
        best, length = None, 0
        for prefix in self._families.get(_family(adapter, owner), ()):
            # only who agrees one token further can be longer
            if len(prefix.tokens) <= length or len(tokens) <= length or prefix.tokens[length] != tokens[length]:
                continue
            if (found := common(prefix.tokens, tokens)) > length and _wears(prefix, adapter):
                best, length = prefix, found
        if best is None:
            return [], 0
        best.used_at = self._clock()
        return best.parts, length

    def keep(self, adapter: AdapterWeights | None, owner: str, tokens: Ids, lease: Lease, room: int) -> None:
        """Copy what ``lease`` holds of ``tokens``; what it makes superfluous goes, and the oldest until it fits.

        Args:
            room: bytes all that is kept may take. Without room, or without memory for the copy, nothing is kept.
        """
        tokens = tokens[: lease.length]
        size = self._cache.size(len(tokens))
        room = min(room, self._cache.limit // _SHARE)
        if len(tokens) < LEAST or size > room:
            return
        key, now = _family(adapter, owner), self._clock()
        for prefix in list(self._families.get(key, ())):
            short = min(len(prefix.tokens), len(tokens))
            if prefix.tokens[short - 1] == tokens[short - 1] and common(prefix.tokens, tokens) == short:
                if short == len(tokens) and _wears(prefix, adapter):
                    prefix.used_at = now
                    return
                self._drop(key, prefix)
        self.fit(room - size)
        try:
            parts = self._cache.copy_out(lease, len(tokens))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self.clear()
            return
        worn = weakref.ref(adapter) if adapter is not None else None
        self._families.setdefault(key, []).append(Prefix(tokens.copy(), parts, size, worn, now))
        self._count += 1
        self.size += size

    def fit(self, room: int) -> None:
        """Let go what nobody can ask for or has asked for lately, and the least recently used beyond ``room`` bytes."""
        before = self._clock() - _KEPT_S
        for key, prefix in list(self._all()):
            if prefix.dead or prefix.used_at < before:
                self._drop(key, prefix)
        if self.size <= room and self._count < _MOST:
            return
        for key, prefix in sorted(self._all(), key=lambda item: item[1].used_at):
            if self.size <= room and self._count < _MOST:
                return
            self._drop(key, prefix)

    def clear(self) -> bool:
        """Let go everything; whether there was anything."""
        found = bool(self._families)
        self._families, self._count, self.size = {}, 0, 0
        return found

    def _all(self) -> Iterator[tuple[_Family, Prefix]]:
        for key, family in self._families.items():
            for prefix in family:
                yield key, prefix

    def _drop(self, key: _Family, prefix: Prefix) -> None:
        family = self._families[key]
        family.remove(prefix)
        if not family:
            del self._families[key]
        self._count -= 1
        self.size -= prefix.size


def _family(adapter: AdapterWeights | None, owner: str) -> _Family:
    return (id(adapter) if adapter is not None else 0, owner)


def _wears(prefix: Prefix, adapter: AdapterWeights | None) -> bool:
    """An id is given again once its object is gone, so the object itself is asked."""
    return prefix.worn is None if adapter is None else prefix.worn is not None and prefix.worn() is adapter
