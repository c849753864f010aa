"""What a route answers, told to its OpenAPI description without being checked again on the way out."""

from typing import Any


def described(answer: Any) -> dict[str, Any]:
    """Options of a route whose JSON answer is an ``answer``: ``@routes.get("/x", **described(Answer))``.

    Args:
        answer: a TypedDict, or a list of them. The function says that it returns one, so mypy compares; nothing is
            checked or filtered when it answers, and what tests receive is compared with the description.
    """
    # Any, not None: written in Rust, in the function's own thread, with null for what JSON has no number for
    return {"response_model": Any, "responses": {200: {"model": answer}}}
