"""From token ids to text a person may see: whole characters only, and nothing of a stop string."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from tunesmith.inference.engine import TokenLogprob
from tunesmith.inference.worker.events import Text

Decode = Callable[[Sequence[int]], str]
Spell = Callable[[int], bytes]  # the bytes one token stands for
_BROKEN = "\ufffd"  # what decoders put where bytes are no UTF-8, or not yet
_WINDOW = 64  # tokens decoded again at most; longer runs of broken bytes are let go as they are


class Likely(Protocol):
    """The log-probability of one token, and (token id, log-probability) of the likeliest in its place."""

    @property
    def logprob(self) -> float: ...
    @property
    def top(self) -> Sequence[tuple[int, float]]: ...


class Detokenizer:
    """Decodes a growing list of tokens without decoding it all again.

    The text so far is always a prefix of the text of all tokens. A character split over tokens appears when its last
    byte has come.

    Args:
        decode: token ids to text.
        before: tokens that precede the first one; decoders that treat a text's beginning specially look at them.
        alone: the text of one token with nothing beside it; rows can share one that remembers.
        joins: bytes of one token follow those of another, whatever they are, so whole characters need no context.

    Attributes:
        inside: the last token ended inside a character.
    """

    def __init__(
        self,
        decode: Decode,
        before: Sequence[int] = (),
        alone: Callable[[int], str] | None = None,
        *,
        joins: bool = False,
    ) -> None:
        self._decode, self._joins = decode, joins
        self._alone = alone or (lambda token: decode([token]))
        self._tokens = list(before)  # context, then what is not settled
        self._context = decode(self._tokens) if self._tokens else ""
        self._settled = len(self._tokens)
        self._shown = 0  # characters after the context already given out
        self.inside = False

    def feed(self, token: int) -> str:
        """The text ``token`` adds; "" while it ends inside a character."""
        if self._joins and not self.inside:
            said = self._alone(token)
            if _BROKEN not in said:
                self._tokens, self._context, self._settled = [token], said, 1
                return said
        self._tokens.append(token)
        fresh = self._decode(self._tokens)[len(self._context) :]
        self.inside = fresh.endswith(_BROKEN) and len(self._tokens) - self._settled < _WINDOW
        safe = fresh[:-1] if self.inside else fresh
        added, self._shown = safe[self._shown :], max(self._shown, len(safe))
        if not self.inside:
            tokens = self._tokens = self._tokens[self._settled :]
            self._context = self._alone(token) if len(tokens) == 1 else self._decode(tokens)
            self._settled, self._shown = len(tokens), 0
        return added

    def feed_all(self, tokens: Sequence[int]) -> str:
        """The text that several tokens add."""
        if self._joins and not self.inside:
            said = "".join(map(self._alone, tokens))
            if _BROKEN not in said:
                last = tokens[-1]
                self._tokens, self._context, self._settled = [last], self._alone(last), 1
                return said
        return "".join(map(self.feed, tokens))

    def finish(self) -> str:
        """What was held back: an unfinished character shows as U+FFFD, as when all is decoded at once."""
        fresh = self._decode(self._tokens)[len(self._context) :]
        added, self._shown = fresh[self._shown :], len(fresh)
        self.inside = False
        return added


class StopStrings:
    """Finds the first of some strings in a text that comes in pieces, and holds back what may begin one.

    Time is linear in the text, whatever the strings (Knuth, Morris and Pratt's matching), and where the pieces break
    changes nothing: the string that is complete first counts, of several the longest.

    Attributes:
        any: there are strings; without, every text is shown as it comes.
        found: one of them has come.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [text for text in strings if text]
        self.any = bool(self._strings)
        self._borders = [_borders(text) for text in self._strings]
        self._matched = [0] * len(self._strings)  # how much of each string the end of the text spells
        self._firsts = frozenset(text[0] for text in self._strings)
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """The part of the text that is now safe to show; after ``found``, always ""."""
        if self.found:
            return ""
        if not self._held and self._firsts.isdisjoint(piece):
            return piece
        text = self._held + piece
        for at in range(len(self._held), len(text)):
            length = self._take(text[at])
            if length:
                self.found, self._held = True, ""
                return text[: at + 1 - length]
        safe = len(text) - max(self._matched)
        self._held = text[safe:]
        return text[:safe]

    def finish(self) -> str:
        """What was held back and turned out to be text."""
        held, self._held = self._held, ""
        return "" if self.found else held

    def _take(self, letter: str) -> int:
        """Go on by one character; the length of the longest string that it completes, or 0."""
        complete = 0
        for i, (string, borders) in enumerate(zip(self._strings, self._borders, strict=True)):
            matched = self._matched[i]
            while matched and string[matched] != letter:
                matched = borders[matched - 1]
            matched += string[matched] == letter
            self._matched[i] = matched
            if matched == len(string):
                complete = max(complete, matched)
        return complete


class Transcript:
    """What one row says: its text as it may be shown, each token's log-probability with the text it stands for.

    A token is told with the piece that shows its last character; one whose end a stop string cuts off is not told.

    Args:
        spell: given where log-probabilities are to be told.
    """

    def __init__(self, text: Detokenizer, stops: StopStrings, spell: Spell | None = None) -> None:
        self._text, self._stops, self._spell = text, stops, spell
        self._produced = self._shown = 0  # characters the tokens make, and those that were shown
        self._unfinished: list[TokenLogprob] = []  # inside a character that is not whole yet
        self._held: deque[tuple[int, TokenLogprob]] = deque()  # and where in the text each ends

    @property
    def patient(self) -> bool:
        """Its text can be made later than its tokens: see ``feed_all``."""
        return self._spell is None and not self._stops.any

    @property
    def stopped(self) -> bool:
        """A stop string was found: nothing more will be shown."""
        return self._stops.found

    def feed(self, token: int, likely: Likely | None = None) -> Text | None:
        """What ``token`` lets be shown; None for nothing."""
        piece = self._text.feed(token)
        if self._spell is None:
            shown = self._stops.feed(piece) if self._stops.any else piece
            return Text(shown) if shown else None
        if likely is not None:
            self._unfinished.append(_told(token, likely, self._spell))
        return self._showing(piece, self._stops.feed(piece))

    def feed_all(self, tokens: Sequence[int]) -> Text | None:
        """What several tokens let be shown, at least one, where nothing ends the text and no token is told by itself."""
        shown = self._text.feed_all(tokens)
        return Text(shown, tokens=len(tokens)) if shown else None

    def finish(self) -> Text | None:
        """What was held back until now; None for nothing."""
        rest = self._text.finish()
        return self._showing(rest, self._stops.feed(rest) + self._stops.finish())

    def _showing(self, produced: str, shown: str) -> Text | None:
        if self._spell is None:
            return Text(shown) if shown else None
        self._produced += len(produced)
        self._shown += len(shown)
        if not self._text.inside:
            self._held.extend((self._produced, token) for token in self._unfinished)
            self._unfinished = []
        told = []
        while self._held and self._held[0][0] <= self._shown:
            told.append(self._held.popleft()[1])
        return Text(shown, tuple(told)) if shown or told else None


def _told(token: int, likely: Likely, spell: Spell) -> TokenLogprob:
    def one(token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        raw = spell(token)
        return TokenLogprob(raw.decode(errors="replace"), logprob, raw, top)

    return one(token, likely.logprob, tuple(one(other, share) for other, share in likely.top))


def _borders(string: str) -> list[int]:
    """For each beginning of ``string``, the length of its longest proper end that begins it too."""
    borders = [0] * len(string)
    for i in range(1, len(string)):
        length = borders[i - 1]
        while length and string[length] != string[i]:
            length = borders[length - 1]
        borders[i] = length + (string[length] == string[i])
    return borders
