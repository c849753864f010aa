"""The documents as data: every fenced block with the heading it stands under."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docs" / "spec"


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block.

    Attributes:
        heading: the nearest heading above, without its marks, e.g. "POST `/generate`".
        role: the bold line right above ("请求体", "响应示例"), or "".
    """

    heading: str
    role: str
    language: str
    text: str

    @property
    def value(self) -> Any:
        """The block as JSON; ``{...}`` in it is the document's own ellipsis."""
        return json.loads(self.text.replace("{...}", "{}"))


def blocks(document: str) -> list[Block]:
    """Every fenced block of ``docs/spec/<document>.md`` in order."""
    found: list[Block] = []
    heading = role = ""
    language: str | None = None
    lines: list[str] = []
    for line in (FOLDER / f"{document}.md").read_text().splitlines():
        if language is not None:
            if line.startswith("```"):
                found.append(Block(heading, role, language, "\n".join(lines)))
                language, lines = None, []
            else:
                lines.append(line)
        elif line.startswith("```"):
            language = line.removeprefix("```").strip()
        elif line.startswith("#"):
            heading, role = line.lstrip("# ").strip(), ""
        elif match := re.match(r"\*\*(.+?)[：:]?\*\*", line):
            role = match.group(1).rstrip("：:")
    return found


def block(document: str, heading: str, role: str = "") -> Block:
    """The one block under ``heading`` (and ``role``)."""
    [found] = [each for each in blocks(document) if heading in each.heading and role in each.role]
    return found


def same_shape(example: Any, actual: Any, where: str = "$") -> list[str]:
    """What ``actual`` lacks of ``example``: keys absent, or values of another kind. More keys are fine.

    A null on either side fits anything: the documents show null for what may be absent.
    """
    if example is None or actual is None:
        return []
    if isinstance(example, dict) and isinstance(actual, dict):
        missing = [f"{where}.{key} is missing" for key in example if key not in actual]
        present = [key for key in example if key in actual]
        return missing + [lack for key in present for lack in same_shape(example[key], actual[key], f"{where}.{key}")]
    if isinstance(example, list) and isinstance(actual, list):
        if example and not actual:
            return [f"{where} is empty"]
        return [lack for i, each in enumerate(actual) for lack in same_shape(example[0], each, f"{where}[{i}]")]
    numbers = (int, float)
    alike = type(example) is type(actual) or (
        isinstance(example, numbers) and isinstance(actual, numbers) and not isinstance(actual, bool)
    )
    return [] if alike else [f"{where} should be like {example!r}, is {actual!r}"]
