"""Which characters are words by themselves: Han and kana are written without spaces."""

_HAN = (
    (0x3005, 0x3007),  # 々〆〇
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)
_KANA = ((0x3040, 0x30FF), (0x31F0, 0x31FF))


def has_han(text: str) -> bool:
    """True where ``text`` holds at least one Han character."""
    return any(_within(ord(char), _HAN) for char in text)


def is_word_alone(char: str) -> bool:
    """True for Han and kana, which no space separates."""
    return _within(ord(char), _HAN) or _within(ord(char), _KANA)


def _within(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return code >= ranges[0][0] and any(first <= code <= last for first, last in ranges)
