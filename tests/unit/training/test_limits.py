"""A recipe nobody could follow is refused, with the field that is wrong."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest

from tunesmith.kernel.problems import Invalid
from tunesmith.training import limits
from tunesmith.training.run import Recipe

GOOD = Recipe("tiny", "data/a.jsonl", max_length=128)


def test_the_defaults_are_fine() -> None:
    limits.check(Recipe("tiny", "data/a.jsonl"), 1024)


@pytest.mark.parametrize(
    "field,value",
    [
        ("epochs", 0), ("epochs", 1001), ("epochs", 1.5), ("epochs", True), ("epochs", 2**64),
        ("batch_size", 0), ("batch_size", 1025), ("gradient_accumulation", 0),
        ("learning_rate", 0.0), ("learning_rate", 1.1), ("learning_rate", math.nan), ("learning_rate", math.inf),
        ("learning_rate", "1e-4"), ("learning_rate", None), ("warmup_ratio", 1.0), ("weight_decay", -0.1),
        ("max_grad_norm", 0.0), ("max_length", 7), ("max_length", 513), ("rank", 0), ("rank", 257),
        ("alpha", 0.0), ("alpha", 4097.0), ("dropout", 1.0), ("dropout", -0.1), ("replay_share", 1.0),
        ("seed", -1), ("seed", 2**63), ("scheduler", "sawtooth"), ("quantization", "int2"),
        ("target_modules", ("q_proj", "(a+)+$")), ("target_modules", ("x" * 129,)), ("target_modules", ("a",) * 65),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(Invalid) as refused:
        limits.check(replace(GOOD, **{field: value}), 512)
    assert refused.value.details["field"] == field
    assert field in refused.value.zh and field in refused.value.en


def test_a_number_too_long_to_print_is_refused_like_any_other() -> None:
    with pytest.raises(Invalid, match=r"epochs is not valid \(\.\.\.\)"):
        limits.check(replace(GOOD, epochs=10**5000), 512)


@pytest.mark.parametrize("field,value", [("learning_rate", 1), ("dropout", 0), ("max_length", 512), ("alpha", 4096)])
def test_the_ends_of_a_range_belong_to_it(field: str, value: Any) -> None:
    limits.check(replace(GOOD, **{field: value}), 512)


def test_a_replay_share_without_replay_data_is_refused() -> None:
    with pytest.raises(Invalid, match="replay dataset"):
        limits.check(replace(GOOD, replay_share=0.2), 512)


def test_every_listed_parameter_is_a_field_of_the_recipe_with_its_default_in_range() -> None:
    usual = {field.name: field.default for field in fields(Recipe)}
    for parameter in limits.parameters():
        assert parameter.name in usual
        assert parameter.description and parameter.description_zh
        if parameter.minimum is not None:
            assert parameter.maximum is not None
            assert parameter.minimum <= float(str(parameter.default)) <= parameter.maximum
