"""The shapes rows come in, and the way from a row to an Example.

    openai       {"messages": [{"role", "content"}]}, content a string or a list of text parts
    sharegpt     {"conversations": [{"from", "value"}], "system"?}
    alpaca       {"instruction", "input"?, "output" or "response", "system"?, "history"?}
    pairs        {"prompt", "completion"} and its synonyms, see PAIRS, each with "system"?

A row that breaks a rule becomes a BadRow that says which field and why; it is never mended, cut or dropped silently.
Fields a shape does not know (ids, categories, scores) are ignored, unless ignoring them would train on something the
data says not to train on (tools, weights, preference labels).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.datasets.example import Example, Message, Source
from tunesmith.datasets.fields import BadField, needed, no_turns, shown_name, shown_value, text_of, wrong
from tunesmith.kernel.problems import Invalid

PAIRS: dict[str, tuple[str, str]] = {
    "prompt_completion": ("prompt", "completion"),
    "prompt_response": ("prompt", "response"),
    "input_expected": ("input", "expected"),
    "input_output": ("input", "output"),
    "question_answer": ("question", "answer"),
    "query_response": ("query", "response"),
}
# what a shape reads of a row, or that says of what shape it is; everything else is ignored
COLUMNS = {name for pair in PAIRS.values() for name in pair} | {
    *("messages", "conversations", "system", "tools", "functions", "label", "chosen", "rejected", "text"),
    *("instruction", "output", "history"),
    *("reasoning", "chain_of_thought", "thinking"),  # read by ``export`` alone
}
TURN_FIELDS = {"role", "content", "from", "value", "weight", "tool_calls", "function_call"}
_ALIASES = {"messages": "openai", "chatml": "openai", "conversations": "sharegpt"}
_OPENAI_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_SHAREGPT_ROLES = _OPENAI_ROLES | {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
_MAY_FOLLOW: dict[str, tuple[str, ...]] = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be trained on, and why.

    Attributes:
        field: path inside the row, e.g. ``messages[2].content``; empty when the row as a whole is meant.
        zh, en: the reason and, after a semicolon, the remedy.
        row: what was read, decoded or as text; kept for the quarantine file.
    """

    source: Source
    field: str
    zh: str
    en: str
    row: object = None

    def text(self, language: str = "zh") -> str:
        """One line a person can act on: ``train.json:17: output: is empty; fill it in or remove the row``."""
        colon, reason = ("：", self.zh) if language == "zh" else (": ", self.en)
        return f"{self.source}: {self.field + colon if self.field else ''}{reason}"


def to_example(row: object, shape: str, source: Source) -> Example | BadRow:
    """The conversation in ``row``, or why it is none.

    Args:
        row: decoded, as it was in the file.
        shape: one of SHAPES.
    """
    try:
        if type(row) is not dict:
            raise wrong("", "object", row)
        messages = SHAPES[shape](row)
        _check_order(messages, shape)
    except BadField as bad:
        return BadRow(source, bad.field, bad.zh, bad.en, row)
    return Example(tuple(messages), source)


def check_shape(name: str) -> str:
    """The shape called ``name``, with spelling variants and synonyms resolved.

    Raises:
        Invalid: there is no such shape.
    """
    wanted = name.strip().lower().replace("-", "_").replace("/", "_")
    wanted = _ALIASES.get(wanted, wanted)
    if wanted not in SHAPES:
        known = ", ".join(SHAPES)
        raise Invalid(
            f"未知的数据结构 {name!r}，可用：{known}", f"unknown shape {name!r}; known: {known}", field="shape"
        )
    return wanted


def detect(rows: Sequence[object], label: str) -> str:
    """The shape most of ``rows`` (the first of a file) have.

    Raises:
        Invalid: none of them has a known shape; the message says what was found and what to do.
    """
    objects = [row for row in rows if isinstance(row, dict)]
    votes = Counter(shape for row in objects if (shape := _shape_of(row)))
    if votes:
        return votes.most_common(1)[0][0]
    zh, en = _unknown(objects)
    raise Invalid(f"{label}:1: {zh}", f"{label}:1: {en}", file=label, line=1, field="shape")


def _shape_of(row: Mapping[str, object]) -> str | None:
    # fields that hold something count first: Parquet fills every column of every row
    for keys in ({key for key, value in row.items() if value is not None}, row.keys()):
        if "chosen" in keys and "rejected" in keys:
            return None
        if "messages" in keys:
            return "openai"
        if "conversations" in keys:
            return "sharegpt"
        # a context beside it would be ignored, and is part of the question
        if "instruction" in keys and ("output" in keys or ("response" in keys and "context" not in keys)):
            return "alpaca"
        for shape, (asked, answered) in PAIRS.items():
            if asked in keys and answered in keys:
                return shape
    return None


def _unknown(rows: Sequence[Mapping[str, object]]) -> tuple[str, str]:
    if not rows:
        return "每行应为一个对象；请写成 {...}", "each row should be an object; write it as {...}"
    row = rows[0]
    if "chosen" in row and "rejected" in row:
        return (
            "这是偏好数据（chosen/rejected）；请用 --objective dpo 训练，或只保留好的回答，例如 {prompt, completion}",
            "this is preference data (chosen/rejected); train it with --objective dpo,"
            " or keep the good answer only, e.g. {prompt, completion}",
        )
    if "text" in row:
        return (
            "只有 text 字段，分不清谁在提问、谁在回答，无法只训练回答；请拆成"
            ' {"prompt": "问题", "completion": "回答"} 或 {"messages": [...]}',
            "there is only a text field: it does not say who asks and who answers, so the answer alone cannot be"
            ' trained on; split it into {"prompt": ..., "completion": ...} or {"messages": [...]}',
        )
    for key, value in row.items():
        if len(rows) == 1 and isinstance(value, list) and value and isinstance(value[0], dict):
            return (
                f"文件是一个对象，数据行在字段 {key!r} 的列表里；请只保存这个列表",
                f"the file is one object and its rows lie in the list {key!r}; save that list alone",
            )
    fields, shapes = ", ".join(map(shown_name, row))[:200] or "-", ", ".join(SHAPES)
    return (
        f"无法识别数据结构，第一行的字段：{fields}；请改成 {shapes} 之一的字段，或用 shape 指定",
        f"no known shape, fields of the first row: {fields}; rename them to those of {shapes}, or name one with shape",
    )


def _openai(row: Mapping[str, object]) -> list[Message]:
    if row.get("tools") or row.get("functions"):
        field = "tools" if row.get("tools") else "functions"
        raise _tools(field)
    return _turns(row, "messages", _OPENAI_ROLES)


def _sharegpt(row: Mapping[str, object]) -> list[Message]:
    if row.get("tools"):
        raise _tools("tools")
    return _system(row) + _turns(row, "conversations", _SHAREGPT_ROLES)


def _alpaca(row: Mapping[str, object]) -> list[Message]:
    messages = _system(row)
    history = row.get("history") or ()
    if not isinstance(history, list | tuple):
        raise wrong("history", "list", history)
    for index, pair in enumerate(history):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadField(
                f"history[{index}]",
                "应为 [问题, 回答]；请把每一轮写成这样的一对",
                "expected [question, answer]; write each earlier turn as such a pair",
            )
        messages.append(Message("user", text_of(pair[0], f"history[{index}][0]")))
        messages.append(Message("assistant", text_of(pair[1], f"history[{index}][1]")))
    messages.append(Message("user", _alpaca_question(needed(row, "instruction"), row.get("input"))))
    answer = "response" if "output" not in row and "response" in row else "output"
    messages.append(Message("assistant", text_of(needed(row, answer), answer)))
    return messages


def _alpaca_question(instruction: object, given: object) -> str:
    """Instruction and input on two lines; either may be absent, not both."""
    if given is None or (isinstance(given, str) and not given.strip()):
        return text_of(instruction, "instruction")
    asked = text_of(given, "input")
    return asked if instruction == "" else f"{text_of(instruction, 'instruction')}\n{asked}"


def _pair(asked: str, answered: str) -> Callable[[Mapping[str, object]], list[Message]]:
    def parse(row: Mapping[str, object]) -> list[Message]:
        if isinstance(row.get("label"), bool):
            raise BadField(
                "label",
                "这是偏好标注数据（KTO），尚不支持；请只保留好的回答并去掉 label",
                "this is preference data (KTO), which is not supported; keep the good answers only, without label",
            )
        messages = _system(row)
        for field, role in ((asked, "user"), (answered, "assistant")):
            if isinstance(needed(row, field), list):
                messages += _turns(row, field, _OPENAI_ROLES)
            else:
                messages.append(Message.of(role, text_of(row[field], field)))
        return messages

    return parse


SHAPES: dict[str, Callable[[Mapping[str, object]], list[Message]]] = {
    "openai": _openai,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
} | {shape: _pair(*fields) for shape, fields in PAIRS.items()}


def _system(row: Mapping[str, object]) -> list[Message]:
    """The optional system column; absent, null and empty mean none."""
    system = row.get("system")
    return [] if system in (None, "") else [Message("system", text_of(system, "system"))]


def _tools(field: str) -> BadField:
    return BadField(
        field,
        "尚不支持工具定义；请删去该字段或这一行",
        "tool definitions are not supported; remove the field or the row",
    )


def _turns(row: Mapping[str, object], field: str, roles: Mapping[str, str]) -> list[Message]:
    turns = needed(row, field)
    if not isinstance(turns, list):
        raise no_turns(field, turns)
    if not turns:
        raise BadField(field, "对话是空的；请删去这一行", "the conversation is empty; remove the row")
    try:
        return [_turn(turn, f"{field}[{index}]", roles) for index, turn in enumerate(turns)]
    except BadField as bad:
        if bad.field.endswith(".weight") and not any(
            isinstance(turn, dict) and turn.get("weight", 1) for turn in turns
        ):
            raise BadField(
                field,
                "所有回答的 weight 都是 0，没有可训练的内容；请把要学的回答设为 1，或删去这一行",
                "every weight is 0, so nothing would be learned; give the answers to be learned 1, or remove the row",
            ) from None
        raise


def _turn(turn: object, where: str, roles: Mapping[str, str]) -> Message:
    if not isinstance(turn, dict):
        raise wrong(where, "object", turn)
    who, said = ("from", "value") if "from" in turn else ("role", "content")
    name = turn.get(who)
    role = (_SHAREGPT_ROLES if who == "from" else roles).get(name) if isinstance(name, str) else None
    if role is None:
        known, shown = ", ".join(roles), shown_value(name)
        raise BadField(
            f"{where}.{who}", f"未知的角色 {shown}；请改用 {known}", f"unknown role {shown}; use one of {known}"
        )
    if turn.get("tool_calls") or turn.get("function_call"):
        field = "tool_calls" if turn.get("tool_calls") else "function_call"
        raise BadField(
            f"{where}.{field}", "尚不支持工具调用；请删去这一行", "tool calls are not supported; remove the row"
        )
    if turn.get("weight") not in (None, 1):
        raise BadField(
            f"{where}.weight",
            "尚不支持按轮权重；请删去不训练的轮次",
            "weights of single turns are not supported; remove the turns not to be trained on",
        )
    content = turn.get(said)
    if isinstance(content, list):
        content = _joined(content, f"{where}.{said}")
    return Message.of(role, text_of(content, f"{where}.{said}"))


def _joined(parts: list[object], field: str) -> str:
    """The text of a list of content parts; anything but text is refused."""
    texts = []
    for index, part in enumerate(parts):
        where = f"{field}[{index}]"
        if not isinstance(part, dict):
            raise wrong(where, "object", part)
        if part.get("type", "text") != "text":
            kind = shown_value(part.get("type"))
            raise BadField(
                where,
                f"只支持 text 部分，得到 {kind}；请删去这一行",
                f"only text parts are supported, got {kind}; remove the row",
            )
        text = part.get("text")
        if not isinstance(text, str):
            raise wrong(f"{where}.text", "string", text)
        texts.append(text)
    return "".join(texts)


def _check_order(messages: Sequence[Message], shape: str) -> None:
    field = {"openai": "messages", "sharegpt": "conversations"}.get(shape, "")
    before = ""
    for index, message in enumerate(messages):
        if message.role not in _MAY_FOLLOW[before]:
            where = f"{field}[{index}]" if field else ""
            if not before:
                raise BadField(
                    where,
                    f"第一轮应为 user，得到 {message.role}；请从提问开始",
                    f"the first turn is {message.role}, not user; begin with the question",
                )
            raise BadField(
                where,
                f"{before} 之后不能是 {message.role}（应轮流为 user、assistant）；请合并或删去其一",
                f"{message.role} after {before}, though user and assistant take turns; join the two or remove one",
            )
        before = message.role
    if before != "assistant":
        raise BadField(
            field,
            f"最后一轮应为 assistant，得到 {before}；请删去该轮或补上回答",
            f"the last turn is {before}, not assistant: there is nothing to train on; remove it or add the answer",
        )
