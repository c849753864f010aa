"""Exact match after normalisation: does the answer say the same, whatever its case, punctuation and spacing?"""

import re
import unicodedata

# a decimal point between digits and a minus sign before one change the number: they stay
_KEPT = re.compile(r"(?<=\d)\.(?=\d)|(?<![a-z0-9])[-\u2212](?=\d)")
_DROPPED_CATEGORIES = ("P", "Z", "Cc", "Cf")
_DROPPED_SYMBOLS = "`~"


def normalise(text: str) -> str:
    """``text`` as exact match compares it.

    In this order: Unicode NFKC (full-width letters and digits become plain ones), case folding, then removal of all
    punctuation (categories P*, and the marks "`" and "~"), white space and separators (Z*), control and invisible
    format characters (Cc, Cf). Two marks stay because they change a number: the point in ``3.5`` and the sign in
    ``-3``. Other symbols (``+``, ``=``, ``$``), articles, accents and word order stay too.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = {match.start() for match in _KEPT.finditer(folded)}
    return "".join(
        ("-" if char in "-\u2212" else char) if place in kept else char
        for place, char in enumerate(folded)
        if place in kept or not _dropped(char)
    )


def matches(output: str, expected: str) -> bool:
    """True where both say the same after ``normalise``.

    Texts of which nothing remains (``"?!"``) match only where they were equal as they stood, so that an empty answer
    never passes for a right one.
    """
    if output == expected:
        return True
    left = normalise(output)
    return bool(left) and left == normalise(expected)


def _dropped(char: str) -> bool:
    return char in _DROPPED_SYMBOLS or unicodedata.category(char).startswith(_DROPPED_CATEGORIES)
