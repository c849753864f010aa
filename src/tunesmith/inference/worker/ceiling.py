"""How much a step may hold."""

_CALM = 64  # steps without trouble before one row more is tried
_LEAST_PREFILL = 64


class Ceiling:
    """All that is allowed until memory runs out; less from then on, and slowly more again.

    Attributes:
        rows: most rows that may run.
        prefill: most prompt tokens of a step.
    """

    def __init__(self, rows: int, prefill: int) -> None:
        self._most_rows, self._most_prefill = rows, prefill
        self.rows, self.prefill = rows, prefill
        self._calm = 0

    def lower(self, rows: int) -> None:
        """So many rows are left after memory ran out."""
        self.rows, self._calm = max(1, rows), 0

    def read_less(self) -> bool:
        """Whether a step may hold fewer prompt tokens than so far; from now on it does."""
        found = self.prefill > _LEAST_PREFILL
        self.prefill, self._calm = min(self.prefill, _LEAST_PREFILL), 0
        return found

    def held(self) -> None:
        """A step fitted."""
        if self.rows == self._most_rows and self.prefill == self._most_prefill:
            return
        self._calm += 1
        if self._calm >= _CALM:
            self._calm = 0
            self.rows = min(self._most_rows, self.rows + 1)
            self.prefill = min(self._most_prefill, self.prefill * 2)
