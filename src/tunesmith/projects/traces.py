"""Conversations of OpenAI messages: what a run's trace may hold, and the sample that a run becomes.

A run that goes on from another has no need of a trace: its earlier turns are those it goes on from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tunesmith.datasets.example import Message
from tunesmith.datasets.export.sample import Sample
from tunesmith.kernel.problems import Invalid
from tunesmith.projects.checks import shown
from tunesmith.projects.project import TaskRun

MOST_MESSAGES = 10_000
LARGEST = 4 << 20  # bytes of JSON
_ROLES = ("system", "developer", "user", "assistant", "tool")
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, UnicodeEncodeError, RecursionError)


def check_trace(value: object, field: str = "trace") -> tuple[Mapping[str, Any], ...]:
    """``value`` as OpenAI messages; JSON text is read, None is an empty trace.

    Raises:
        Invalid: not a list of messages with a role and a content of text, or too much of it.
    """
    messages = _listed(value, field)
    if len(messages) > MOST_MESSAGES:
        zh, en = f"{field} 最多 {MOST_MESSAGES} 条消息", f"{field} has at most {MOST_MESSAGES} messages"
        raise Invalid(zh, en, field=field)
    for index, message in enumerate(messages):
        _check_message(message, f"{field}[{index}]")
    return tuple(messages)


def check_tools(value: object, field: str = "tools") -> tuple[Mapping[str, Any], ...]:
    """``value`` as definitions of tools, as OpenAI writes them; otherwise as ``check_trace``."""
    tools = _listed(value, field)
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise _refused(
                f"{field}[{index}]",
                '应为 {"type": "function", "function": {"name": …}}',
                'must be {"type": "function", "function": {"name": …}}',
            )
    return tuple(tools)


def text_of(content: object) -> str:
    """The text of a message's content; of parts, each on a line of its own."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    texts = [part.get("text") for part in content if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if isinstance(text, str))


def calls_tools(message: Mapping[str, Any]) -> bool:
    """Whether a message calls tools, or is the answer of one."""
    return bool(message.get("tool_calls")) or message.get("role") == "tool"


def earlier(run: TaskRun) -> tuple[Message, ...]:
    """The turns of the run's trace before its question; none where the question is not found in the trace.

    The messages of a trace that thought before it answered hold the question inside a wrapping text.
    """
    asked = _asked_at(run)
    if asked is None:
        return ()
    plain = (message for message in run.trace[:asked] if not calls_tools(message))
    turns = [(str(message.get("role")), text_of(message.get("content"))) for message in plain]
    return tuple(Message.of(role, text) for role, text in turns if role in ("user", "assistant"))


def sample(run: TaskRun, before: Sequence[TaskRun] = ()) -> Sample:
    """What the formatter reads of a run.

    A trace in which tools were called is given whole: its plain turns tell where the calls belong.

    Args:
        before: the runs it goes on from, the first first; read where it has no trace of its own.
    """
    turns = list(earlier(run))
    if not run.trace:
        for parent in before:
            turns = list(earlier(parent)) if parent.trace else turns
            turns += [Message("user", parent.input), Message("assistant", parent.final)]
    return Sample(
        id=run.id,
        input=run.input,
        output=run.final,
        thinking=run.thinking,
        earlier=tuple(turns),
        trace=run.trace if any(map(calls_tools, run.trace)) else (),
        tools=run.tools,
    )


def last_turns(trace: Sequence[Mapping[str, Any]], field: str) -> tuple[str, str]:
    """The last question of a trace and its last answer.

    Raises:
        Invalid: it does not end with an answer in words, or nobody asked.
    """
    asked = [text_of(message.get("content")) for message in trace if message.get("role") == "user"]
    last = trace[-1] if trace else {}
    answer = text_of(last.get("content"))
    if last.get("role") != "assistant" or last.get("tool_calls") or not answer.strip():
        raise _refused(
            field, "最后一条消息应为 assistant 的文字回答", "the last message must be the assistant's answer"
        )
    if not asked or not asked[-1].strip():
        raise _refused(field, "没有 user 消息，或内容为空", "there is no user message, or it is empty")
    return asked[-1], answer


def _asked_at(run: TaskRun) -> int | None:
    wrapped = f"<user_input>\n{run.input}\n</user_input>"
    for index in range(len(run.trace) - 1, -1, -1):
        message = run.trace[index]
        if message.get("role") == "user":
            text = text_of(message.get("content"))
            if text == run.input or wrapped in text:
                return index
    return None


def _listed(value: object, field: str) -> list[Any]:
    """``value`` as a list of its own, of values that JSON keeps as they are."""
    if value is None or value == "":
        return []
    try:
        data = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
        if len(data) > LARGEST:
            raise _refused(field, f"超过 {LARGEST >> 20} MB", f"is over {LARGEST >> 20} MB")
        found = msgspec.json.decode(data)
        msgspec.json.encode(found)  # half a character is decoded, and cannot be written
    except (*_DECODE_ERRORS, TypeError) as error:
        detail = shown(error)
        raise _refused(field, f"不是有效的 JSON：{detail}", f"is not valid JSON: {detail}") from None
    if not isinstance(found, list):
        raise _refused(field, "应为列表 [...]", "must be a list [...]")
    if b"\\u0000" in data or b"\0" in data:
        raise _refused(field, "含有 NUL；请删去", "holds NUL; remove it")
    return found


def _check_message(message: object, where: str) -> None:
    if not isinstance(message, Mapping):
        raise _refused(where, "应为对象 {...}", "must be an object {...}")
    if message.get("role") not in _ROLES:
        known, role = ", ".join(_ROLES), shown(message.get("role"))
        raise _refused(
            f"{where}.role", f"未知的角色 {role}；请用 {known}", f"is the unknown role {role}; use one of {known}"
        )
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        parts = content if isinstance(content, list) else [None]
        if not all(isinstance(part, Mapping) and isinstance(part.get("text", ""), str) for part in parts):
            raise _refused(f"{where}.content", "应为文字或文字部分的列表", "must be text, or a list of text parts")
    if message["role"] == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise _refused(f"{where}.tool_call_id", "缺少：工具结果应写明是哪次调用", "is missing: it names the call")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(_is_call(call) for call in calls):
        raise _refused(
            f"{where}.tool_calls",
            '应为 [{"id", "type": "function", "function": {"name", "arguments"}}]，arguments 为 JSON 文本',
            'must be [{"id", "type": "function", "function": {"name", "arguments"}}] with arguments as JSON text',
        )


def _is_call(call: object) -> bool:
    if not isinstance(call, Mapping) or not isinstance(function := call.get("function"), Mapping):
        return False
    texts = (call.get("id"), function.get("name"), function.get("arguments"))
    return all(isinstance(text, str) for text in texts)


def _refused(field: str, zh: str, en: str) -> Invalid:
    return Invalid(f"{field} {zh}", f"{field} {en}", field=field)
