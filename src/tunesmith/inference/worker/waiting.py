"""Rows that wait for a place, by caller: callers take turns, and each caller's rows come in the order they were asked."""

from bisect import insort
from collections.abc import Mapping

from tunesmith.inference.worker.row import Row


def _order(row: Row) -> int:
    return row.order


class Waiting:
    """The queue in front of the running rows."""

    def __init__(self) -> None:
        self._groups: dict[str, list[Row]] = {}

    def __len__(self) -> int:
        return sum(len(rows) for rows in list(self._groups.values()))  # asked from another thread, too

    def __bool__(self) -> bool:
        return bool(self._groups)

    def put(self, row: Row) -> None:
        """Queue a row, one that has run before at the place its age gives it."""
        insort(self._groups.setdefault(row.group, []), row, key=_order)

    def first(self, running: Mapping[str, int]) -> Row | None:
        """Who is next: of the group with the fewest running rows; among equals the one that has waited longest.

        Args:
            running: how many rows of each group run.
        """
        if not self._groups:
            return None
        group = min(self._groups, key=lambda name: (running.get(name, 0), self._groups[name][0].order))
        return self._groups[group][0]

    def take(self, row: Row) -> None:
        """Remove the first row of its group."""
        rows = self._groups[row.group]
        assert rows[0] is row
        del rows[0]
        if not rows:
            del self._groups[row.group]

    def drop_canceled(self) -> list[Row]:
        """Remove canceled rows; those there were."""
        dropped = []
        for group, rows in list(self._groups.items()):
            if any(row.canceled for row in rows):
                dropped += [row for row in rows if row.canceled]
                self._groups[group] = [row for row in rows if not row.canceled]
                if not self._groups[group]:
                    del self._groups[group]
        return dropped
