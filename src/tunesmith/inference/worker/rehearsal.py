"""Trying a model's chat template once where it can do no harm: in a process of its own with little memory and time.

``python -m tunesmith.inference.worker.rehearsal`` reads ``{"template": ..., "special": {...}}`` from its standard input.
It exits with 1 when the template takes too much; a template that merely fails is left to the real rendering to report.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Mapping

from tunesmith.kernel.problems import Invalid

_MEMORY = 512 << 20
_SECONDS = 5
_WALL_S = 60.0  # a busy machine may give the process little of its time
_LONGEST = 1 << 20  # characters of a few words' rendering
_TURNS = (("user",), ("system", "user"), ("user", "assistant", "user"))


def rehearse(template: str, special: Mapping[str, str]) -> None:
    """Render some small conversations with ``template`` and forget the result.

    Args:
        special: names of special tokens and what they are, as templates see them.

    Raises:
        Invalid: it takes too much memory or time, or makes too much text.
    """
    command = [sys.executable, "-P", "-m", "tunesmith.inference.worker.rehearsal"]
    asked = json.dumps({"template": template, "special": dict(special)}).encode()
    try:
        code = subprocess.run(command, input=asked, capture_output=True, timeout=_WALL_S, check=False).returncode
    except subprocess.TimeoutExpired:
        code = 1
    if code:
        raise Invalid(
            "该基础模型的对话模板占用过多内存或时间，请修正 chat_template",
            "this base model's chat template takes too much memory or time; mend its chat_template",
        )


def conversations() -> list[list[dict[str, str]]]:
    """Small ones, of the orders of turns that templates know."""
    return [[{"role": role, "content": "hello"} for role in roles] for roles in _TURNS]


def main() -> None:
    """Render what standard input holds, within the limits."""
    asked = json.loads(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    try:
        fits = _fits(asked["template"], asked["special"])
    except MemoryError:
        fits = False
    except Exception:  # the template's own failure, which rendering reports when it happens
        fits = True
    sys.exit(0 if fits else 1)


def _fits(template: str, special: dict[str, str]) -> bool:
    from jinja2.exceptions import TemplateError

    from tunesmith.inference.worker.templates import Template

    compiled = Template(template, special)
    for messages in conversations():
        try:
            length = 0
            for piece in compiled.pieces(messages, add_generation_prompt=True):
                length += len(piece)
                if length > _LONGEST:
                    return False
        except TemplateError:
            continue  # this order of turns is not for it
    return True


if __name__ == "__main__":
    main()
