"""What the server really answers, compared with what it says of itself in OpenAPI."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jsonschema_rs import Draft202012Validator
from tools.openapi import descriptions

JSON, EVENTS = "application/json", "text/event-stream"
_NO_SCHEMA = ("const", "default", "enum", "examples")
_MOST = 5  # findings told of one answer


class Described:
    """The OpenAPI documents of every dialect, held against answers.

    An object whose fields are described has no others: what is undeclared is a finding here, as no reader of the
    description would know of it.
    """

    def __init__(self, documents: Mapping[str, dict[str, Any]]) -> None:
        self._paths = [
            (_pattern(path), path, verbs, document.get("components", {}))
            for document in documents.values()
            for path, verbs in document["paths"].items()
        ]
        # what is written out goes before what stands for something, and one part of a path before several
        self._paths.sort(key=lambda each: each[1].count("{"))
        self._validators: dict[tuple[str, str, str], Draft202012Validator | None] = {}

    def findings(self, method: str, path: str, answer: Any, media: str = JSON) -> list[str]:
        """How the JSON of an answer with status 200 differs from its description; empty where it does not.

        Args:
            path: as it was asked for, without what follows a question mark.
            media: what the answer is; of a stream, ``EVENTS``, the JSON is that of one event.
        """
        found = self._operation(method.lower(), path)
        if found is None:
            return [f"{method} {path}: nothing describes this path"]
        template, operation, components = found
        validator = self._validator(template, method.lower(), operation, components, media)
        if validator is None:
            return [f"{method} {template}: its answer is not described"]
        return [
            f"{method} {path}: {'/'.join(map(str, error.instance_path)) or 'the answer'}: {error.message[:300]}"
            for _, error in zip(range(_MOST), validator.iter_errors(answer), strict=False)
        ]

    def undescribed(self, prefix: str) -> list[str]:
        """Operations below ``prefix`` that answer JSON and do not say of what shape."""
        return [
            f"{verb.upper()} {path}"
            for _, path, verbs, _ in self._paths
            for verb, operation in verbs.items()
            if path.startswith(prefix) and (schema := _schema(operation)) is not None and _says_nothing(schema)
        ]

    def _operation(self, verb: str, path: str) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
        for several in (False, True):  # names of models hold slashes
            for patterns, template, verbs, components in self._paths:
                if verb in verbs and patterns[several].fullmatch(path):
                    return template, verbs[verb], components
        return None

    def _validator(
        self, template: str, verb: str, operation: dict[str, Any], components: dict[str, Any], media: str
    ) -> Draft202012Validator | None:
        key = (verb, template, media)
        if key not in self._validators:
            schema = _schema(operation, media)
            nothing = schema is None or _says_nothing(schema)
            whole = {"allOf": [schema], "components": components}
            self._validators[key] = None if nothing else Draft202012Validator(_closed(whole))
        return self._validators[key]


@cache
def of_this_version() -> Described:
    """The descriptions of the code that is tested."""
    return Described(descriptions())


def _pattern(path: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The path with one part for each name in braces, and with one or more."""
    parts = [part if place % 2 == 0 else None for place, part in enumerate(re.split(r"\{(\w+)\}", path))]
    one, several = ("".join(re.escape(p) if p is not None else any_ for p in parts) for any_ in ("[^/]+", ".+"))
    return re.compile(one), re.compile(several)


def _schema(operation: Mapping[str, Any], media: str = JSON) -> Any:
    """Of what is answered with status 200; None where that is nothing of ``media``."""
    content = operation.get("responses", {}).get("200", {}).get("content", {})
    return content[media].get("schema", {}) if media in content else None


def _says_nothing(schema: Mapping[str, Any]) -> bool:
    return not schema.keys() - {"title", "type", "additionalProperties", "description"}


def _closed(schema: Any) -> Any:
    """The schema, in which an object has the fields that are described and no others."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, value in schema.items():
        if key in ("properties", "schemas"):  # by names that are no words of a schema
            found[key] = {name: _closed(each) for name, each in value.items()}
        else:
            found[key] = value if key in _NO_SCHEMA else _closed(value)
    return {"additionalProperties": False, **found} if isinstance(found.get("properties"), dict) else found
