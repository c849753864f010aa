"""One field of a row: what is expected of it, and what to do about it where it is otherwise."""

from collections.abc import Mapping
from itertools import islice

_TYPE_NAMES = {bool: "bool", int: "int", float: "float", str: "string", list: "list", dict: "object", bytes: "bytes"}


class BadField(Exception):
    """A rule is broken in ``field``."""

    def __init__(self, field: str, zh: str, en: str) -> None:
        super().__init__(en)
        self.field, self.zh, self.en = field, zh, en


def needed(row: Mapping[str, object], field: str) -> object:
    """What ``row`` has in ``field``.

    Raises:
        BadField: it has no such field.
    """
    try:
        return row[field]
    except KeyError:
        known = ", ".join(shown_name(key) for key in islice(row, 8))[:120] or "-"
        zh, en = f"缺少该字段（已有：{known}）", f"missing (there are: {known})"
        raise BadField(
            field, f"{zh}；请补上、改名，或删去这一行", f"{en}; add it, rename one, or remove the row"
        ) from None


def text_of(value: object, field: str) -> str:
    """``value`` where it is text that says something.

    Raises:
        BadField: it is anything else.
    """
    if type(value) is not str:
        raise wrong(field, "string", value)
    if not value or value.isspace():
        raise BadField(field, "是空的；请填写内容或删去这一行", "is empty; fill it in or remove the row")
    if "\0" in value:
        raise BadField(field, "含有 NUL 字符（U+0000）；请删去它", "holds the character NUL (U+0000); remove it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            code = f"U+{ord(value[error.start]):04X}"
            zh, en = f"含有残缺的代理字符 {code}", f"holds the lone surrogate {code}"
            raise BadField(field, f"{zh}；请删去它或重新导出", f"{en}; remove it or export the text again") from None
    return value


def no_turns(field: str, turns: object) -> BadField:
    """What is wrong with ``turns``, which is no list."""
    if isinstance(turns, dict) and turns and all(isinstance(value, list) for value in turns.values()):
        return wrong(field, "list", turns, ("请写成每轮一个对象的列表", "write a list with an object for each turn"))
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        remedy = "这是装着 JSON 的文本，请先解析再写出", "it is text that holds JSON: parse that before it is written"
        return wrong(field, "list", turns, remedy)
    return wrong(field, "list", turns)


_EXPECTED_ZH = {"string": "字符串", "list": "列表", "object": "对象"}
_REMEDIES = {
    "null": ("请填写内容或删去这一行", "fill it in or remove the row"),
    "list": ("请写成列表 [...]", "write it as a list [...]"),
    "object": ("请写成对象 {...}", "write it as an object {...}"),
    "string": ("请写成一段文本，例如用引号括起", "write it as one text, in quotes"),
}


def wrong(field: str, expected: str, value: object, remedy: tuple[str, str] | None = None) -> BadField:
    """``value`` is not what ``field`` should hold.

    Args:
        expected: "string", "list" or "object".
        remedy: Chinese and English; None takes the usual one.
    """
    shown, (zh, en) = shown_value(value), remedy or _REMEDIES["null" if value is None else expected]
    return BadField(
        field, f"应为{_EXPECTED_ZH[expected]}，得到 {shown}；{zh}", f"expected {expected}, got {shown}; {en}"
    )


def shown_name(key: object) -> str:
    """The name of a field as a message shows it."""
    text = str(key)[:40]
    return text if text.isprintable() else ascii(text)


def shown_value(value: object) -> str:
    """A value as a message shows it: its type, and its value where that is short. Control characters are escaped."""
    if value is None:
        return "null"
    name = _TYPE_NAMES.get(type(value), type(value).__name__)
    if isinstance(value, list | dict):
        return f"{name} ({len(value)})"
    shown = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return f"{name} {shown[:60]}"
