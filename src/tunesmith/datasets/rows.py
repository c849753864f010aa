"""What the readers of every file format share: limits, rows as read, and refusals that name file and line."""

import codecs
import json
import re
from functools import lru_cache

from tunesmith.datasets.example import Source
from tunesmith.datasets.formats import COLUMNS, TURN_FIELDS, BadRow
from tunesmith.kernel.problems import Invalid

ROW_LIMIT = 4 << 20  # bytes; a longer row is a broken file far more often than a conversation
DEPTH_LIMIT = 200  # brackets within brackets; below the limit of the decoder

RowRead = tuple[int, object]  # line (1-based; row number in Parquet), decoded value
Reading = RowRead | BadRow
_READ = COLUMNS | TURN_FIELDS
_NOT_A_NUMBER = re.compile(rb"-?(?:NaN|nan|Infinity|inf)")
_KEY = re.compile(rb'"([^"\\]{1,80})"\s*:')
_LOOK_BACK = 1 << 16  # bytes a key is looked for in
# a pair of them is a character; the group is the half that stands alone
_SURROGATE = re.compile(rb"\\u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|(\\u[dD][89a-fA-F]\w\w)")


def refused(label: str, line: int | None, zh: str, en: str, *, field: str = "") -> Invalid:
    """The whole file cannot be read, because of what stands at ``line`` (None: because of the file itself)."""
    where = label if line is None else f"{label}:{line}"
    if not field:
        return Invalid(f"{where}: {zh}", f"{where}: {en}", file=label, line=line)
    return Invalid(f"{where}: {field}：{zh}", f"{where}: {field}: {en}", file=label, line=line, field=field)


def too_long() -> tuple[str, str]:
    """Why a row over ROW_LIMIT is refused."""
    return (
        f"这一行超过 {ROW_LIMIT >> 20} MB；请拆成多行",
        f"the row is over {ROW_LIMIT >> 20} MB; divide it into several",
    )


def too_deep() -> tuple[str, str]:
    """Why a row over DEPTH_LIMIT is refused."""
    return "JSON 嵌套太深；请删去这一行", "the JSON is nested too deep; remove the row"


def not_utf8(data: bytes, offset: int) -> tuple[str, str] | None:
    """Why ``data``, found at byte ``offset`` of the file, is not UTF-8; None when it is. Data may end inside a character."""
    at = _not_utf8_at(data)
    if at < 0:
        return None
    at += offset
    return (
        f"第 {at} 字节（从 0 数起）不是 UTF-8；请把文件转存为 UTF-8",
        f"byte {at} (from 0) is not UTF-8; save the file as UTF-8",
    )


def _not_utf8_at(data: bytes) -> int:
    try:
        codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError as error:
        return error.start
    return -1


def nul_at(offset: int) -> tuple[str, str]:
    """Why a NUL at that byte of the file is refused."""
    return f"第 {offset} 字节是 NUL（0）；请删去它", f"byte {offset} is NUL (0); remove it"


def why_not_json(data: bytes, error: Exception, offset: int) -> tuple[str, str, str]:
    """What a person should know about ``data``, which the decoder refused with ``error``.

    Returns:
        The field that is meant, where it can be told, else ""; why and what to do in Chinese, and in English.
    """
    if isinstance(error, RecursionError):
        return "", *too_deep()
    if reason := not_utf8(data, offset):
        return _field_at(data, _not_utf8_at(data)), *reason
    if (at := data.find(b"\0")) >= 0:
        return _field_at(data, at), *nul_at(offset + at)
    if (at := _lone_surrogate(data)) >= 0:
        return (
            _field_at(data, at),
            "含有残缺的代理字符（如 \\ud800）；请重新导出文本",
            "holds a lone surrogate (such as \\ud800); export the text again",
        )
    detail = str(error).removeprefix("JSON is malformed: ")
    if detail == "Input data was truncated":
        return (
            "",
            "不是完整的 JSON：引号或括号没有闭合；请补全或删去这一行",
            "not complete JSON: a quote or bracket is not closed; complete or remove the row",
        )
    found = re.fullmatch(r"(.*) \(byte (\d+)\)", detail)
    at = int(found[2]) if found else 0
    zh = f"第 {at} 字节处有误（{found[1]}）" if found else detail
    # of what is too much the decoder tells the byte behind the first
    field, remedy = _remedy(data, at - detail.startswith("trailing characters"))
    return field, f"不是有效的 JSON：{zh}；{remedy[0]}", f"not valid JSON: {detail}; {remedy[1]}"


def _remedy(data: bytes, at: int) -> tuple[str, tuple[str, str]]:
    """The field the decoder stumbled in at byte ``at``, where it can be told, and what to do."""
    if found := _NOT_A_NUMBER.match(data, at):
        word = found[0].decode()
        return _field_at(data, at), (f"JSON 没有 {word}，请填写内容", f"JSON has no {word}: fill in a value")
    rest = data[at:].strip()
    if rest == b"," or (rest.startswith(b",") and data[:at].rstrip().endswith(b"}")):
        return "", (
            "JSON Lines 的行之间不用逗号，请删去行尾逗号，或用 [ ] 括起所有行",
            "rows of JSON Lines have no commas between them: remove it, or put all rows in [ ]",
        )
    if rest.startswith(b"{") and data[:at].rstrip().endswith(b"}"):
        return "", ("一行里有两个对象，请分成两行", "there are two objects in one line: give each a line of its own")
    if rest.startswith(b"'"):
        return "", ("JSON 用双引号，请用 json.dumps 重新写出", "JSON has double quotes: write it again with json.dumps")
    return "", ("请改正或删去这一行", "correct or remove the row")


def _field_at(data: bytes, at: int) -> str:
    """The last key before byte ``at``; where ``data`` was broken by then it may not be the right one."""
    found = None
    for found in _KEY.finditer(data, max(0, at - _LOOK_BACK), at):  # noqa: B007  (the last one)
        pass
    return found[1].decode(errors="replace") if found else ""


def doubled_key(data: bytes, row: object) -> str | None:
    """A key that stands twice in one object of ``row``, where it is one that a shape reads; the decoder keeps the last.

    Keys of the row and of the turns in its lists are counted; an exact look is taken where there may be one too many,
    which is nearly never.

    Args:
        data: what ``row`` was decoded from.
    """
    if type(row) is not dict:
        return None
    count = data.count
    for key, value in row.items():
        if key not in COLUMNS:
            continue
        if count(_quoted(key)) > 1 and (found := _doubled_exactly(data)):
            return found
        if type(value) is list and value and type(value[0]) is dict:
            for name in value[0]:
                if name in TURN_FIELDS and count(_quoted(name)) > len(value) and (found := _doubled_exactly(data)):
                    return found
    return None


@lru_cache(maxsize=1024)  # the keys of a file are few
def _quoted(key: str) -> bytes:
    return b'"%b"' % key.encode()


def _doubled_exactly(data: bytes) -> str | None:
    doubled: list[str] = []

    def pairs(found: list[tuple[str, object]]) -> None:
        names = [name for name, _ in found]
        if len(set(names)) < len(names):
            doubled.extend(name for name in names if names.count(name) > 1 and name in _READ)

    try:
        json.loads(data, object_pairs_hook=pairs)
    except (ValueError, RecursionError):  # the libraries differ in what they take
        return None
    return doubled[0] if doubled else None


def with_doubled_key(label: str, line: int, key: str, data: bytes) -> BadRow:
    """The row that ``doubled_key`` found such a key in."""
    return BadRow(
        Source(label, line),
        key[:80],
        "这个键在同一对象中出现两次，只有最后一个会被读到；请删去其一",
        "the key stands twice in one object, and only the last would be read; remove one",
        data.decode().rstrip("\r\n"),  # decoded it would have lost what is to be chosen from
    )


def _lone_surrogate(data: bytes) -> int:
    """The byte where one is escaped; -1 where there is none."""
    if not _SURROGATE.search(data):
        return -1
    try:
        # the decoder of the standard library lets them pass
        json.dumps(json.loads(data), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return next((found.start() for found in _SURROGATE.finditer(data) if found[1]), 0)
    except (ValueError, RecursionError):
        pass
    return -1
