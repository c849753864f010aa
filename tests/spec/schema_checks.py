"""The checks that schemathesis makes beside its own; it imports this file in its own process, and nobody else needs it."""

from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, Response

from tests.spec.unsaid import UNSAID


@schemathesis.check
def refused_only_for_what_no_schema_says(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """Narrows again what the settings widen for whole operations."""
    if response.status_code == 400 and case.meta is not None and case.meta.generation.mode.is_positive:
        error = response.json()["error"]
        reason = error["details"].get("field") or ("file" if "file" in error["details"] else error["message"][:4])
        assert reason in UNSAID.get(case.operation.label, ()), f"refused for {reason}"


@schemathesis.check
def nobody_gets_in_without_a_token(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """Only ``login`` may answer anything but 401, also to methods and bodies that are none."""
    if case.operation.label != "POST /login":
        assert response.status_code == 401, f"answered {response.status_code} without a token"
