"""What has been read is not read again: rows begin with what others have left behind, or are reading right now."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from tunesmith.inference.worker.cache import Cache
from tunesmith.inference.worker.prefixes import LEAST, Ids, Prefixes, common, ids_of
from tunesmith.inference.worker.row import Row


class Sharing:
    """Gives a row the longest beginning there is of the same owner and adapter.

    Rows that come together and begin alike wait for the first of them, their leader, to have read what they share.
    Rows that are scored neither take nor give: the logits of all their tokens are wanted.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.kept = Prefixes(cache)

    def begin(self, row: Row, running: Iterable[Row], room: int) -> None:
        """Lease ``row`` its place, and fill in what is known of its beginning.

        Args:
            room: bytes that what is kept may go on taking beside it.
        """
        parts, length = self._seek(row, running)
        self.kept.fit(room)  # what has just been found may go, and is still there to be copied
        row.lease = self._cache.lease(row.length)
        self._fill(row, parts, length)

    def follow(self, running: Sequence[Row]) -> None:
        """Fill in the rows whose leader has read what they share, or has left."""
        for row in running:
            leader = row.leader
            if leader is not None and (leader.lease is None or leader.lease.length >= row.shared):
                self._fill(row, *self._seek(row, running))

    def keep(self, row: Row, room: int) -> None:
        """Leave what ``row`` has read and said to others, as far as it is known to be finite and there is room."""
        if row.tokens and not row.score and row.lease is not None:
            self.kept.keep(row.adapter, row.owner, _ids(row), row.lease, room)

    def _seek(self, row: Row, running: Iterable[Row]) -> tuple[Sequence[Tensor], int]:
        """Where the beginning of ``row`` can be had now: the parts, and how many of their tokens.

        Nothing, and its ``leader`` set, when a running row is about to have read more of it.
        """
        row.leader = None
        if row.score:
            return (), 0
        ids = _ids(row)[:-1]  # the last one is always computed: its logits are wanted
        parts: Sequence[Tensor]
        parts, length = self.kept.find(row.adapter, row.owner, ids)
        leader, shared = None, 0
        for other in running:
            if other is row or other.adapter is not row.adapter or other.owner != row.owner:
                continue
            if other.lease is None or other.ids is None or other.score:
                continue
            alike = common(ids, other.ids)
            ready = min(alike, other.lease.length)
            if ready > length:
                parts, length = self._cache.parts(other.lease), ready
            if alike > max(ready, shared) and other.leader is None:
                leader, shared = other, alike
        if shared >= length + LEAST:
            row.leader, row.shared = leader, shared
            return (), 0
        return (parts, length) if length >= LEAST else ((), 0)

    def _fill(self, row: Row, parts: Sequence[Tensor], length: int) -> None:
        assert row.lease is not None
        if length > row.lease.length:
            self._cache.copy_in(parts, row.lease, length)
        if row.cached < 0 and row.leader is None:
            row.cached = min(row.lease.length, len(row.prompt))


def _ids(row: Row) -> Ids:
    assert row.ids is not None
    return np.concatenate((row.ids, ids_of(row.tokens))) if row.tokens else row.ids
