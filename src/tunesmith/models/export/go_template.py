"""The part of Go's template language that our Ollama templates are written in, to see what they render.

Text, ``{{ .Name }}``, ``{{ range .List }}``, ``{{ if .Name }}``, ``{{ if eq .Name "text" }}`` (and ``ne``),
``{{ else }}``, ``{{ end }}``, and ``-`` inside the braces, which takes the white space beside them away.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ACTION = re.compile(r"\{\{(- )?\s*(.*?)\s*( -)?\}\}", re.DOTALL)
_NAME = re.compile(r"(\$?)\.([A-Z]\w*)")
_COMPARED = re.compile(r'(eq|ne) (\$?\.[A-Z]\w*) "([^"\\]*)"')


@dataclass(slots=True)
class _Block:
    """A list of parts: text, a name to print, or a block of its own with what stands after its ``else``."""

    head: str = ""
    parts: "list[str | _Name | _Block]" = field(default_factory=list)
    otherwise: "list[str | _Name | _Block]" = field(default_factory=list)
    after_else: bool = False

    def add(self, part: "str | _Name | _Block") -> None:
        (self.otherwise if self.after_else else self.parts).append(part)


@dataclass(frozen=True, slots=True)
class _Name:
    text: str


def render(template: str, values: Mapping[str, Any]) -> str:
    """What Go would make of ``template``.

    Args:
        values: what ``.Name`` means at the top: text, or for ``range`` a list of mappings.

    Raises:
        ValueError: it uses more of the language than is known here.
    """
    return _rendered(_parsed(template).parts, values, values)


def _parsed(template: str) -> _Block:
    open_blocks = [_Block()]
    place, strip = 0, False
    for found in _ACTION.finditer(template):
        text = template[place : found.start()]
        text = text.lstrip() if strip else text
        open_blocks[-1].add(text.rstrip() if found[1] else text)
        place, strip = found.end(), bool(found[3])
        _take(found[2], open_blocks)
    rest = template[place:]
    open_blocks[-1].add(rest.lstrip() if strip else rest)
    if len(open_blocks) != 1:
        raise ValueError("a block without its end")
    return open_blocks[0]


def _take(action: str, open_blocks: list[_Block]) -> None:
    if action == "end" and len(open_blocks) > 1:
        open_blocks.pop()
    elif action == "else" and open_blocks[-1].head.startswith("if "):
        open_blocks[-1].after_else = True
    elif action.startswith(("if ", "range ")):
        block = _Block(action)
        open_blocks[-1].add(block)
        open_blocks.append(block)
    elif _NAME.fullmatch(action):
        open_blocks[-1].add(_Name(action))
    else:
        raise ValueError(f"not known here: {action!r}")


def _rendered(parts: Sequence[str | _Name | _Block], here: Mapping[str, Any], top: Mapping[str, Any]) -> str:
    out: list[str] = []
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        elif isinstance(part, _Name):
            out.append(str(_value(part.text, here, top)))
        elif part.head.startswith("range "):
            each = _value(part.head.removeprefix("range ").strip(), here, top)
            out += [_rendered(part.parts, item, top) for item in each]
        else:
            true = _holds(part.head.removeprefix("if ").strip(), here, top)
            out.append(_rendered(part.parts if true else part.otherwise, here, top))
    return "".join(out)


def _holds(condition: str, here: Mapping[str, Any], top: Mapping[str, Any]) -> bool:
    compared = _COMPARED.fullmatch(condition)
    if compared is None:
        return bool(_value(condition, here, top))
    same = str(_value(compared[2], here, top)) == compared[3]
    return same if compared[1] == "eq" else not same


def _value(name: str, here: Mapping[str, Any], top: Mapping[str, Any]) -> Any:
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"not known here: {name!r}")
    return (top if found[1] else here).get(found[2], "")
