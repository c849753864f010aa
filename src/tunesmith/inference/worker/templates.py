"""A chat template on its own, in the environment transformers renders in (jinja2 alone).

Whoever uses this instead of transformers has compared what both make of some conversations.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

Turns = Sequence[Mapping[str, Any]]


class Template:
    """A compiled template.

    Args:
        special: names of special tokens and what they are, as templates see them.

    Raises:
        TemplateError: it is none.
    """

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _json
        environment.globals |= {
            "raise_exception": _refuse,
            "strftime_now": lambda form: datetime.now().strftime(form),
            "dict": _Dict(),
            "namespace": _Namespace,
        }
        self._compiled, self._special = environment.from_string(source), dict(special)

    def render(self, messages: Turns, *, add_generation_prompt: bool) -> str:
        """The conversation as text; a template is a program, and may raise anything."""
        if not messages:
            raise ValueError("Cannot apply chat template to an empty conversation. Provide at least one message.")
        return self._compiled.render(self._seen(messages, add_generation_prompt))

    def pieces(self, messages: Turns, *, add_generation_prompt: bool) -> Iterator[str]:
        """The same, piece by piece."""
        return self._compiled.generate(self._seen(messages, add_generation_prompt))

    def _seen(self, messages: Turns, add_generation_prompt: bool) -> dict[str, Any]:
        """What a template sees: a value that is None is as good as absent."""
        turns = [{key: value for key, value in message.items() if value is not None} for message in messages]
        told = {"messages": turns, "tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
        return told | self._special


class _Generation(Extension):
    """Transformers' mark around what the assistant says; here it only lets its inside through."""

    tags = {"generation"}  # noqa: RUF012  (as jinja declares it)

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        inside = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_through"), [], [], inside).set_lineno(line)

    def _through(self, caller: Any) -> Any:
        return caller()


class _Dict:
    """``dict`` without what leads out of the sandbox."""

    def __call__(self, *given: Any, **named: Any) -> dict[Any, Any]:
        return dict(*given, **named)

    def fromkeys(self, *given: Any, **named: Any) -> dict[Any, Any]:
        return dict.fromkeys(*given, **named)


class _Namespace(Namespace):
    """``namespace`` without names that lead out of the sandbox."""

    def __init__(*given: Any, **named: Any) -> None:  # a template may name one of its values ``self``
        values = dict(*given[1:], **named)
        for name in values:
            _check_name(name)
        Namespace.__init__(given[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(
            f"Chat templates cannot store underscore-prefixed attributes on a namespace, but got {name!r}. "
            "Please rename the attribute."
        )


def _json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateError(message)
