"""Lines out of an upstream's answer, whatever pieces it comes in.

Split at line breaks before anything is decoded: no character of more than one byte holds one, so none is ever cut.
"""

from tunesmith.kernel.problems import Unavailable

LONGEST_LINE = 16 << 20  # Ollama's own client takes 8 MiB


class Lines:
    """Gives the complete lines of each piece; what is left of the last waits for the next."""

    def __init__(self, longest: int = LONGEST_LINE) -> None:
        self._longest, self._rest = longest, bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that ``piece`` completes, without their line breaks; carriage returns stay.

        Raises:
            Unavailable: a line is longer than any real one.
        """
        head, newline, tail = piece.rpartition(b"\n")
        if not newline:
            self._keep(piece)
            return []
        if self._rest:
            head = bytes(self._rest) + head
            self._rest.clear()
        lines = head.split(b"\n")
        if len(head) > self._longest and max(map(len, lines)) > self._longest:
            raise _too_long()
        if tail:
            self._keep(tail)
        return lines

    def end(self) -> list[bytes]:
        """What came after the last line break."""
        rest = bytes(self._rest)
        self._rest.clear()
        return [rest] if rest else []

    def _keep(self, piece: bytes) -> None:
        if len(self._rest) + len(piece) > self._longest:
            raise _too_long()
        self._rest += piece


def _too_long() -> Unavailable:
    return Unavailable("上游应答无法解析（行过长）", "the upstream's answer cannot be read: a line is too long")
