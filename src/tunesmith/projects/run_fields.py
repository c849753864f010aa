"""What callers say of a run, a task or a project, checked; the values here are those of ``project.py``'s attributes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from tunesmith.kernel.problems import Invalid
from tunesmith.projects.checks import (
    LONGEST_INSTRUCTION,
    check_description,
    check_known,
    check_name,
    check_number,
    check_optional,
    check_text,
    is_id,
    shown,
)
from tunesmith.projects.project import Task
from tunesmith.projects.traces import check_tools, check_trace

LONGEST = 4 << 20  # characters of one text
MOST_TAGS, LONGEST_TAG = 100, 200
MOST_REQUIREMENTS = 100
_STARS = (1.0, 2.0, 3.0, 4.0, 5.0)
RATINGS = {"five_star": _STARS, "pass_fail": (0.0, 1.0), "pass_fail_critical": (-1.0, 0.0, 1.0)}
_OPTIONAL = ("repaired", "repair_instructions", "reasoning", "chain_of_thought")
RUN_FIELDS = ("input", "output", *_OPTIONAL, "rating", "rating_type", "tags", "parent_id", "trace", "tools")
TASK_FIELDS = (
    *("name", "instruction", "description", "requirements"),
    *("thinking_instruction", "input_schema", "output_schema"),
)
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, UnicodeEncodeError, RecursionError)


def check_project(fields: Mapping[str, object]) -> dict[str, Any]:
    """Those of the attributes of a project that ``fields`` has, checked; otherwise as ``check_run``."""
    check_known(fields, ("name", "description"))
    return _each(fields, {"name": check_name, "description": check_description})


def check_task(fields: Mapping[str, object]) -> dict[str, Any]:
    """Those of the attributes of a task that ``fields`` has, checked; otherwise as ``check_run``."""
    check_known(fields, TASK_FIELDS)
    return _each(
        fields,
        {
            "name": check_name,
            "instruction": lambda value, field: check_text(value, field, LONGEST_INSTRUCTION),
            "description": check_description,
            "requirements": _requirements,
            "thinking_instruction": lambda value, field: check_optional(value, field, LONGEST_INSTRUCTION),
            "input_schema": _schema,
            "output_schema": _schema,
        },
    )


def check_run(fields: Mapping[str, object], task: Task) -> dict[str, Any]:
    """Those of the attributes of a run that ``fields`` has, checked.

    A structured task's input is JSON and its output a JSON object; neither is compared with its schema.

    Raises:
        Invalid: an unknown field, or one that is not what it should be; the message names it.
    """
    check_known(fields, RUN_FIELDS)
    checked = _each(
        fields,
        {
            "input": _said,
            "output": _said,
            **{name: lambda value, field: check_optional(value, field, LONGEST) for name in _OPTIONAL},
            "tags": check_tags,
            "parent_id": _parent,
            "trace": check_trace,
            "tools": check_tools,
        },
    )
    if "rating" in fields or "rating_type" in fields:
        checked |= _rating(fields)
    _check_structure(checked, task)
    return checked


def check_tags(value: object, field: str = "tags") -> tuple[str, ...]:
    """Tags without those that stand twice; a string holds them with commas between.

    Raises:
        Invalid: one is empty, or holds white space; there are too many.
    """
    tags: object = [tag.strip() for tag in value.split(",") if tag.strip()] if isinstance(value, str) else value or []
    if not isinstance(tags, Sequence) or len(tags) > MOST_TAGS:
        raise Invalid(
            f"{field} 应为至多 {MOST_TAGS} 个标签的列表", f"{field} must be a list of at most {MOST_TAGS}", field=field
        )
    for tag in tags:
        text = check_text(tag, field, LONGEST_TAG, blank=True)
        if not text:
            raise Invalid("标签不能为空", "Tags cannot be empty strings", field=field)
        if any(character.isspace() for character in text) or not text.isprintable():
            raise Invalid(
                f"标签不能含有空格：{shown(text)}，请用下划线",
                f"Tags cannot contain spaces. Try underscores. Got: {shown(text)}",
                field=field,
            )
    return tuple(dict.fromkeys(tags))


def _each(fields: Mapping[str, object], checks: Mapping[str, Callable[[object, str], Any]]) -> dict[str, Any]:
    return {name: check(fields[name], name) for name, check in checks.items() if name in fields}


def _said(value: object, field: str) -> str:
    return check_text(value, field, LONGEST)


def _parent(value: object, field: str) -> str | None:
    if value is None or is_id(value):
        return str(value) if value else None
    raise Invalid(f"{field} 应为样本的编号", f"{field} must be the id of a task run", field=field)


def _rating(fields: Mapping[str, object]) -> dict[str, Any]:
    """Rating and its kind, which are given together."""
    rating, kind = fields.get("rating"), fields.get("rating_type")
    if rating is None:
        return {"rating": None, "rating_type": None}
    kind = "five_star" if kind is None else kind
    known = RATINGS.get(kind) if isinstance(kind, str) else None
    if known is None:
        listed = ", ".join(RATINGS)
        raise Invalid(
            f"未知的评分类型 {shown(kind)}；可用：{listed}",
            f"unknown rating type {shown(kind)}; known: {listed}",
            field="rating_type",
        )
    number = check_number(rating, "rating")
    if number not in known:
        values = ", ".join(f"{value:g}" for value in known)
        zh, en = f"{kind} 的 rating 应为 {values} 之一", f"a rating of {kind} must be one of {values}"
        raise Invalid(f"{zh}，得到 {number:g}", f"{en}, got {number:g}", field="rating")
    return {"rating": number, "rating_type": kind}


def _check_structure(checked: Mapping[str, Any], task: Task) -> None:
    if task.input_schema is not None and "input" in checked and _json(checked["input"]) is _NOT_JSON:
        raise Invalid("input 不是有效的 JSON（任务有输入结构）", "Input is not a valid JSON object", field="input")
    if task.output_schema is None:
        return
    for field, name in (("output", "Output"), ("repaired", "Repaired output")):
        if checked.get(field) is not None and not isinstance(_json(checked[field]), dict):
            zh = f"{field} 不是 JSON 对象（任务有输出结构）"
            raise Invalid(zh, f"{name} is not a valid JSON object", field=field)


_NOT_JSON = object()


def _json(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except _DECODE_ERRORS:
        return _NOT_JSON


def _requirements(value: object, field: str) -> tuple[str, ...]:
    """Instructions, or Kiln's objects that have one."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or len(value) > MOST_REQUIREMENTS:
        raise Invalid(
            f"{field} 应为至多 {MOST_REQUIREMENTS} 条的列表",
            f"{field} must be a list of at most {MOST_REQUIREMENTS}",
            field=field,
        )
    texts = [each.get("instruction") if isinstance(each, Mapping) else each for each in value]
    return tuple(check_text(text, f"{field}[{index}]", LONGEST_INSTRUCTION) for index, text in enumerate(texts))


def _schema(value: object, field: str) -> str | None:
    """The JSON text of a schema, verbatim where it is text; an object is written as JSON."""
    if value is None:
        return None
    try:
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    except (*_DECODE_ERRORS, TypeError):
        text = ""
    if isinstance(_json(check_text(text, field, LONGEST_INSTRUCTION, blank=True)), dict):
        return text
    raise Invalid(f"{field} 应为 JSON Schema 对象", f"{field} must be a JSON schema (an object)", field=field)
