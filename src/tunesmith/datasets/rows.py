"""What the readers of every file format share: limits, rows as read, and refusals that name file and line."""

import codecs
import json
import re

from tunesmith.datasets.formats import BadRow
from tunesmith.kernel.problems import Invalid

ROW_LIMIT = 4 << 20  # bytes; a longer row is a broken file far more often than a conversation
DEPTH_LIMIT = 200  # brackets within brackets; below the limit of the decoder

RowRead = tuple[int, object]  # line (1-based; row number in Parquet), decoded value
Reading = RowRead | BadRow


def refused(label: str, line: int | None, zh: str, en: str) -> Invalid:
    """The whole file cannot be read, because of what stands at ``line`` (None: because of the file itself)."""
    where = label if line is None else f"{label}:{line}"
    return Invalid(f"{where}: {zh}", f"{where}: {en}", file=label, line=line)


def too_long() -> tuple[str, str]:
    """Why a row over ROW_LIMIT is refused."""
    return f"这一行超过 {ROW_LIMIT >> 20} MB", f"the row is over {ROW_LIMIT >> 20} MB"


def too_deep() -> tuple[str, str]:
    """Why a row over DEPTH_LIMIT is refused."""
    return "JSON 嵌套太深", "the JSON is nested too deep"


def not_utf8(data: bytes, offset: int) -> tuple[str, str] | None:
    """Why ``data``, found at byte ``offset`` of the file, is not UTF-8; None when it is. Data may end inside a character."""
    try:
        codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError as error:
        at = offset + error.start
        return (
            f"第 {at} 字节（从 0 数起）不是 UTF-8；请把文件转存为 UTF-8",
            f"byte {at} (from 0) is not UTF-8; save the file as UTF-8",
        )
    return None


def why_not_json(data: bytes, error: Exception, offset: int) -> tuple[str, str]:
    """What a person should know about ``data``, which the decoder refused with ``error``."""
    if isinstance(error, RecursionError):
        return too_deep()
    if reason := not_utf8(data, offset):
        return reason
    if (at := data.find(b"\0")) >= 0:
        return f"第 {offset + at} 字节是 NUL（0）", f"byte {offset + at} is NUL (0)"
    if _lone_surrogate(data):
        return "含有残缺的代理字符（如 \\ud800）", "holds a lone surrogate (such as \\ud800)"
    detail = str(error).removeprefix("JSON is malformed: ")
    if detail == "Input data was truncated":
        return "不是完整的 JSON：引号或括号没有闭合", "not complete JSON: a quote or bracket is not closed"
    found = re.fullmatch(r"(.*) \(byte (\d+)\)", detail)
    zh = f"第 {found[2]} 字节处有误（{found[1]}）" if found else detail
    return f"不是有效的 JSON：{zh}", f"not valid JSON: {detail}"


def _lone_surrogate(data: bytes) -> bool:
    if not re.search(rb"\\u[dD][89a-fA-F]", data):
        return False
    try:
        # the decoder of the standard library lets them pass
        json.dumps(json.loads(data), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False
