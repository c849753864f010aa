"""Samples as the lines of a file, in any of the six formats.

The bytes are those of ``json.dumps(row, ensure_ascii=False)``: nothing of a text is trimmed or normalized, and what is
not ASCII stays as it is. The same samples always give the same bytes. The one thing in Kiln's formats that is random,
the id of a HuggingFace tool call, is taken from the sample's id instead: nine hexadecimal digits of its SHA-256.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tunesmith.datasets.export.conversation import Turn, conversation, refused
from tunesmith.datasets.export.sample import Format, Sample, Wanted
from tunesmith.datasets.export.vertex import contents, declarations, instruction
from tunesmith.datasets.export.wanted import JSON_FORMATS, check_wanted

_KEYS = {Format.HUGGINGFACE: b"conversations", Format.HUGGINGFACE_TOOLCALL: b"conversations"}
_CHOOSE = Format.OPENAI_CHAT
# a string comes out of both libraries alike, and five times as fast out of this one
_text = msgspec.json.Encoder().encode
_any = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def lines(samples: Iterable[Sample], wanted: Wanted) -> Iterator[bytes]:
    """A line of UTF-8 with its line break for every sample, in their order; one sample is in memory at a time.

    Raises:
        Invalid: at once, where ``wanted`` does not fit together; while iterating, for the first sample that cannot be
            written, whose id it names: thinking is missing, the answer is no JSON object where the format wants one,
            a tool call is broken, or its tools are others than those of the samples before.
    """
    return _lines(samples, check_wanted(wanted))


def _lines(samples: Iterable[Sample], wanted: Wanted) -> Iterator[bytes]:
    first: Sample | None = None
    tools = b""  # the end of every line where there are tools
    for sample in samples:
        if first is None:
            first, tools = sample, _tools(sample, wanted.format)
        elif sample.tools != first.tools:
            _check_same_tools(sample, first)
        try:
            line = _line(sample, wanted)
        except UnicodeEncodeError:
            raise _no_text(sample) from None
        except (ValueError, RecursionError):
            raise _no_json(sample) from None
        yield line + tools + b"}\n"


def _line(sample: Sample, wanted: Wanted) -> bytes:
    """The line of a sample but for its tools and the closing brace."""
    turns = conversation(sample, wanted)
    if wanted.format is Format.VERTEX_GEMINI:
        entries = b", ".join([_entry(each) for each in contents(sample, turns[1:])])
        return b'{"systemInstruction": %b, "contents": [%b]' % (_entry(instruction(turns[0])), entries)
    if wanted.format in JSON_FORMATS:
        turns[-1] = _with_json(sample, wanted.format)
    messages = b", ".join([_message(turn) for turn in turns])
    return b'{"%b": [%b]' % (_KEYS.get(wanted.format, b"messages"), messages)


def _message(turn: Turn) -> bytes:
    if len(turn) == 2 and "content" in turn:
        return b'{"role": "%b", "content": %b}' % (turn["role"].encode(), _text(turn["content"]))
    return _any(turn).encode()


def _entry(entry: Mapping[str, Any]) -> bytes:
    if "role" in entry and "text" in entry["parts"][0]:
        return b'{"role": "%b", "parts": [{"text": %b}]}' % (entry["role"].encode(), _text(entry["parts"][0]["text"]))
    return _any(entry).encode()


def _with_json(sample: Sample, format: Format) -> Turn:
    """The final answer as the format writes a JSON object: on one line, or as the call of a function."""
    answer, text = _object(sample)
    if format is Format.HUGGINGFACE_TOOLCALL:
        id = hashlib.sha256(sample.id.encode("utf-8", "surrogatepass")).hexdigest()[:9]
        function = {"name": "task_response", "id": id, "arguments": answer}
        return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}
    if format is Format.OPENAI_CHAT_JSON_SCHEMA:
        return {"role": "assistant", "content": text}
    call = {"id": "call_1", "type": "function", "function": {"name": "task_response", "arguments": text}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _object(sample: Sample) -> tuple[dict[str, Any], str]:
    """The sample's answer, which is a JSON object, and its text on one line."""
    remedy = (f"请改为一个 JSON 对象，或改用格式 {_CHOOSE}", f"make its output one JSON object, or choose {_CHOOSE}")
    try:
        answer = _decode(sample.output)
        text = _any(answer)  # 1e999 is read, as a number that cannot be written
    except (ValueError, RecursionError) as error:
        detail = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise refused(
            sample,
            f"最后一条消息不是 JSON：{detail}",
            f"Last message is not JSON (structured), and this format expects structured data: {detail}.",
            remedy,
        ) from None
    if not isinstance(answer, dict):
        raise refused(
            sample,
            "最后一条消息是 JSON，但不是对象",
            "Last message is not a JSON Dictionary (structured data), and this format expects structured_data.",
            remedy,
        )
    return answer, text


def _no_number(text: str) -> float:
    raise ValueError(f"JSON has no {text}")


_decode = json.JSONDecoder(parse_constant=_no_number).decode


def _tools(sample: Sample, format: Format) -> bytes:
    """The end of every line for the tools all samples have. The HuggingFace formats never carry any."""
    if not sample.tools or format in _KEYS:
        return b""
    tools = declarations(sample) if format is Format.VERTEX_GEMINI else sample.tools
    try:
        return b', "tools": ' + _any(tools).encode()
    except UnicodeEncodeError:
        raise _no_text(sample) from None
    except (ValueError, RecursionError):
        raise _no_json(sample) from None


def _check_same_tools(sample: Sample, first: Sample) -> None:
    """Refuse other tools than the first sample's; their order does not matter, the first's is written."""
    if _as_set(sample.tools) == _as_set(first.tools):
        return
    raise refused(
        sample,
        f"数据集混用了不同的工具，无法导出（它的工具与 {first.id} 的不同）",
        "Dataset contains mixed tool/skill selections and cannot be exported.",
        (
            "请把工具相同的样本分别导出",
            f"its tools are not those of {first.id}; export samples with the same tools by themselves",
        ),
    )


def _as_set(tools: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(json.dumps(tool, sort_keys=True) for tool in tools)


def _no_text(sample: Sample) -> Exception:
    return refused(
        sample,
        "含有残缺的代理字符，无法写成 UTF-8",
        "It holds a lone surrogate, which UTF-8 cannot write.",
        ("请删去它或重新导出文本", "remove it, or export the text again"),
    )


def _no_json(sample: Sample) -> Exception:
    return refused(
        sample,
        "工具定义或工具调用无法写成 JSON：含有 NaN 或 Infinity，或嵌套太深",
        "A tool definition or tool call cannot be written as JSON: it holds NaN or Infinity, or is nested too deep.",
        ("请改正它或删去这一样本", "correct it, or remove the sample"),
    )
