"""Problems carry both languages and facts, and nothing of HTTP."""

import json

import pytest

from tunesmith.kernel import problems
from tunesmith.kernel.problems import Conflict, Invalid, Problem

KINDS = [
    *("Invalid", "Unauthenticated", "Forbidden", "NotFound", "Conflict", "TooMany", "Unsupported", "Unavailable"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_problem_and_not_another_kind(kind: str) -> None:
    made = getattr(problems, kind)("中", "en")
    assert isinstance(made, Problem)
    assert [other for other in KINDS if isinstance(made, getattr(problems, other))] == [kind]


def test_a_problem_speaks_both_languages() -> None:
    problem = Invalid("坏", "bad", field="x", limit=3)
    assert (problem.message(), problem.message("zh"), problem.message("en"), str(problem)) == ("坏", "坏", "bad", "bad")
    assert json.dumps(problem.details) == '{"field": "x", "limit": 3}'


def test_a_problem_is_raised_and_caught_as_what_it_is() -> None:
    with pytest.raises(Problem) as caught:
        raise Conflict("忙", "busy")
    assert type(caught.value) is Conflict
    assert caught.value.details == {}
