"""Ids, names and texts of projects, tasks, runs and splits, as Kiln has them."""

import math
import re
import secrets
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from tunesmith.kernel.home import UNPRINTABLE
from tunesmith.kernel.problems import Invalid

LONGEST_NAME = 120
LONGEST_DESCRIPTION = 4000
LONGEST_INSTRUCTION = 1 << 20  # characters
_FORBIDDEN = re.compile(r'[/\\?%*:|"<>.,;=\n]')
_SPACES = re.compile(r"__|\s\s|[^\S ]|\A[\s_]|[\s_]\Z")  # doubled, other than a plain space, at an edge
_ID = re.compile(r"[0-9]{12}", re.ASCII)


def new_id() -> str:
    """Twelve decimal digits; whoever records it looks that it is free."""
    return str(10**11 + secrets.randbelow(9 * 10**11))


def is_id(text: object) -> TypeGuard[str]:
    """Whether ``text`` has the form of an id; nothing else is ever asked of the database."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def shown(text: object, longest: int = 80) -> str:
    """A word of the caller's as a message shows it: short, and without what could forge a line."""
    short = str(text)[:longest]
    return ascii(short) if UNPRINTABLE.search(short) else short


def check_name(value: object, field: str = "name") -> str:
    """``value`` in NFC, if a project, task or split may be called so.

    Raises:
        Invalid: not 1 to 120 characters, or of those that Kiln's names (which are file names there) do not have.
    """
    name = unicodedata.normalize("NFC", value) if isinstance(value, str) else ""
    if 1 <= len(name) <= LONGEST_NAME and not (
        _FORBIDDEN.search(name) or _SPACES.search(name) or UNPRINTABLE.search(name)
    ):
        return name
    raise Invalid(
        f'{field} 无效：{shown(value)}（1 到 {LONGEST_NAME} 个字符；不含 / \\ ? % * : | " < > . , ; = 和换行，'
        "没有连续的或首尾的空格与下划线）",
        f"{field} is invalid: {shown(value)}. Use 1 to {LONGEST_NAME} characters, none of"
        ' / \\ ? % * : | " < > . , ; = or a line break, and no consecutive, leading or trailing spaces or underscores',
        field=field,
    )


def check_text(value: object, field: str, longest: int, *, blank: bool = False) -> str:
    """``value``, verbatim, if it is text that a database keeps.

    Args:
        longest: in characters.
        blank: whether it may say nothing.

    Raises:
        Invalid: it is anything else, too long, or holds NUL or half a character.
    """
    if not isinstance(value, str):
        raise Invalid(f"{field} 应为字符串", f"{field} must be a string", field=field)
    if len(value) > longest:
        raise Invalid(
            f"{field} 最多 {longest} 个字符，得到 {len(value)} 个；请缩短",
            f"{field} has at most {longest} characters, got {len(value)}; shorten it",
            field=field,
        )
    if not blank and not value.strip():
        raise Invalid(f"{field} 是空的；请填写内容", f"{field} is empty; fill it in", field=field)
    if "\0" in value or _half(value):
        raise Invalid(
            f"{field} 含有 NUL 或残缺的代理字符；请删去",
            f"{field} holds NUL or a lone surrogate; remove it",
            field=field,
        )
    return value


def check_optional(value: object, field: str, longest: int) -> str | None:
    """As ``check_text``, but None stays None and blank text is kept."""
    return None if value is None else check_text(value, field, longest, blank=True)


def check_description(value: object, field: str = "description") -> str | None:
    """As ``check_optional``, at most 4000 characters."""
    return check_optional(value, field, LONGEST_DESCRIPTION)


def check_known(fields: Mapping[str, object], known: Sequence[str]) -> None:
    """Refuse names of fields that nothing would read.

    Raises:
        Invalid: there is one, or ``fields`` is no object.
    """
    if not isinstance(fields, Mapping):
        raise Invalid("应为对象", "expected an object")
    for name in fields:
        if name not in known:
            listed = ", ".join(known)
            raise Invalid(
                f"未知的字段 {shown(name)}；可用：{listed}",
                f"unknown field {shown(name)}; known: {listed}",
                field=shown(name),
            )


def check_number(value: object, field: str) -> float:
    """``value`` as a finite number; a truth value is none.

    Raises:
        Invalid: it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300 or math.isnan(value):
        raise Invalid(f"{field} 应为数字", f"{field} must be a number", field=field)
    return float(value)


def _half(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
