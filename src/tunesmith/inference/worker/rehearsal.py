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
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock, Node
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Transformers' mark around what the assistant says; here it only lets its inside through."""

        tags = {"generation"}  # noqa: RUF012  (as jinja declares it)

        def parse(self, parser: Parser) -> Node:
            line = next(parser.stream).lineno
            inside = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("_through"), [], [], inside).set_lineno(line)

        def _through(self, caller: "object") -> str:
            return str(caller())  # type: ignore[operator]

    def refuse(message: str) -> None:
        raise TemplateError(message)

    # The environment transformers renders in, as far as memory and time go.
    jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    jinja.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False)
    jinja.globals |= {"raise_exception": refuse, "strftime_now": lambda form: form}
    compiled = jinja.from_string(template)
    for roles in _TURNS:
        messages = [{"role": role, "content": "hello"} for role in roles]
        try:
            pieces = compiled.generate(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **special
            )
            length = 0
            for piece in pieces:
                length += len(piece)
                if length > _LONGEST:
                    return False
        except TemplateError:
            continue  # this order of turns is not for it
    return True


if __name__ == "__main__":
    main()
