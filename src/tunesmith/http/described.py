"""What a route answers, told to its OpenAPI description without being checked again on the way out."""

from typing import Any

from pydantic import TypeAdapter
from starlette.responses import Response


def described(answer: Any, *, events: Any = None) -> dict[str, Any]:
    """Options of a route whose JSON answer is an ``answer``: ``@routes.get("/x", **described(Answer))``.

    Args:
        answer: a TypedDict, or a list of them. The function says that it returns one, so mypy compares; nothing is
            checked or filtered when it answers, and what tests receive is compared with the description.
        events: the data of each event, where the same path answers a stream of them to who asks for one.
    """
    # Any, not None: written in Rust, in the function's own thread, with null for what JSON has no number for
    return {"response_model": Any, "responses": {200: {"model": answer, **(_stream(events) if events else {})}}}


def streamed(events: Any) -> dict[str, Any]:
    """The same of a route that answers a stream alone; ``events``: the data of each."""
    return {"response_class": Response, "responses": {200: _stream(events)}}  # no JSON beside the stream


def _stream(events: Any) -> dict[str, Any]:
    schema = TypeAdapter(events).json_schema(mode="serialization")
    return {"content": {"text/event-stream": {"schema": _whole(schema, schema.pop("$defs", {}))}}}


def _whole(schema: Any, named: dict[str, Any]) -> Any:
    """With what it refers to in place: FastAPI gathers named schemas of JSON answers alone."""
    if isinstance(schema, list):
        return [_whole(each, named) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _whole(named[schema["$ref"].rpartition("/")[2]], named)
    return {name: _whole(value, named) for name, value in schema.items()}
