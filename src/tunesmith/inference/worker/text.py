"""From token ids to text a person may see: whole characters only, and nothing of a stop string."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
_BROKEN = "\ufffd"  # what decoders put where bytes are no UTF-8, or not yet
_WINDOW = 64  # tokens decoded again at most; longer runs of broken bytes are let go as they are


class Detokenizer:
    """Decodes a growing list of tokens without decoding it all again.

    The text so far is always a prefix of the text of all tokens. A character split over tokens appears when its last
    byte has come.

    Args:
        decode: token ids to text.
        before: tokens that precede the first one; decoders that treat a text's beginning specially look at them.
    """

    def __init__(self, decode: Decode, before: Sequence[int] = ()) -> None:
        self._decode = decode
        self._tokens = list(before)  # context, then what is not settled
        self._context = decode(self._tokens) if self._tokens else ""
        self._settled = len(self._tokens)
        self._shown = 0  # characters after the context already given out

    def feed(self, token: int) -> str:
        """The text ``token`` adds; "" while it ends inside a character."""
        self._tokens.append(token)
        fresh = self._decode(self._tokens)[len(self._context) :]
        open_end = fresh.endswith(_BROKEN) and len(self._tokens) - self._settled < _WINDOW
        safe = fresh[:-1] if open_end else fresh
        added, self._shown = safe[self._shown :], max(self._shown, len(safe))
        if not open_end:
            self._tokens = self._tokens[self._settled :]
            self._context = self._decode(self._tokens)
            self._settled, self._shown = len(self._tokens), 0
        return added

    def finish(self) -> str:
        """What was held back: an unfinished character shows as U+FFFD, as when all is decoded at once."""
        fresh = self._decode(self._tokens)[len(self._context) :]
        added, self._shown = fresh[self._shown :], len(fresh)
        return added


class StopStrings:
    """Finds the first of some strings in a text that comes in pieces, and holds back what may begin one."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [text for text in strings if text]
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """The part of the text that is now safe to show; after ``found``, always ""."""
        if self.found:
            return ""
        if not self._strings:
            return piece
        text = self._held + piece
        at = min((i for i in (text.find(stop) for stop in self._strings) if i >= 0), default=-1)
        if at >= 0:
            self.found, self._held = True, ""
            return text[:at]
        keep = max(_overlap(text, stop) for stop in self._strings)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back and turned out to be text."""
        held, self._held = self._held, ""
        return "" if self.found else held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
