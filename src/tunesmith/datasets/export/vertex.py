"""A conversation as Google's Gemini tuning on Vertex AI wants it, with the quirks of Kiln's files.

A second system message is dropped, so the legacy strategy of two messages loses its instructions. The text beside a
tool call is dropped. Tool results that follow one another share one entry, which has no role.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tunesmith.datasets.export.conversation import Turn, refused
from tunesmith.datasets.export.sample import Sample

_ROLES = {"user": "user", "assistant": "model"}
_TYPES = {name: name.upper() for name in ("string", "integer", "boolean", "number", "array", "object")}
_REMEDY = ("请改正它，或改用 OpenAI 格式", "correct it, or choose an OpenAI format")


class _NoSuchType(Exception):
    """A JSON Schema names a type that Gemini does not know."""


def instruction(system: Turn) -> dict[str, Any]:
    """The first system message."""
    return {"role": "system", "parts": [{"text": system["content"]}]}


def contents(sample: Sample, turns: Iterable[Turn]) -> list[dict[str, Any]]:
    """The turns after the system message.

    Raises:
        Invalid: the arguments of a tool call are not a JSON object.
    """
    entries: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for turn in turns:
        if turn["role"] == "system":
            continue
        if turn["role"] == "tool":
            response = {"name": names[turn["tool_call_id"]], "response": {"content": turn["content"]}}
            if not entries or "role" in entries[-1]:
                entries.append({"parts": []})
            entries[-1]["parts"].append({"functionResponse": response})
            continue
        parts: list[dict[str, Any]] = [{"text": turn["content"]}]
        if "tool_calls" in turn:
            names.update({call["id"]: call["function"]["name"] for call in turn["tool_calls"]})
            parts = [{"functionCall": _call(sample, call["function"])} for call in turn["tool_calls"]]
        entries.append({"role": _ROLES[turn["role"]], "parts": parts})
    return entries


def declarations(sample: Sample) -> list[dict[str, Any]]:
    """The tools of a sample as Gemini declares functions.

    Raises:
        Invalid: a definition names no function, or a JSON Schema type that Gemini does not know.
    """
    found = []
    for tool in sample.tools:
        function = tool.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise refused(sample, "工具定义缺少 function.name", "A tool definition has no function.name.", _REMEDY)
        declared = {key: function[key] for key in ("name", "description") if key in function}
        try:
            found.append(declared | {"parameters": _upper(function.get("parameters") or {"type": "object"})})
        except _NoSuchType as error:
            en = f"Unsupported type '{error}' in schema. Supported types: {list(_TYPES)}."
            raise refused(sample, f"工具 {function['name'][:80]} 的类型不受支持：{error}", en, _REMEDY) from None
    return [{"functionDeclarations": found}]


def _call(sample: Sample, function: Mapping[str, Any]) -> dict[str, Any]:
    try:
        args = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        args = None
    if not isinstance(args, dict):
        raise refused(
            sample,
            f"工具调用 {function['name'][:80]} 的参数不是 JSON 对象",
            f"The tool call arguments of {function['name'][:80]} must be a dictionary object.",
            _REMEDY,
        )
    return {"name": function["name"], "args": args}


def _upper(schema: Any) -> Any:
    """A JSON Schema with every ``type`` in upper case; a list of types stays as it is."""
    if isinstance(schema, Mapping):
        return {key: _type(value) if key == "type" else _upper(value) for key, value in schema.items()}
    return (
        [_upper(each) if isinstance(each, Mapping) else each for each in schema] if isinstance(schema, list) else schema
    )


def _type(value: object) -> Any:
    if not isinstance(value, str):
        return _upper(value)
    if value.lower() not in _TYPES:
        raise _NoSuchType(value[:80])
    return _TYPES[value.lower()]
