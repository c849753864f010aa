"""What a job may set at each provider, and the check of what a caller gives."""

from collections.abc import Sequence
from typing import Any

import pytest

from tunesmith.kernel.problems import Invalid
from tunesmith.training import limits
from tunesmith.training.executor import Parameter
from tunesmith.training.hosted import parameters
from tunesmith.training.hosted.parameters import FIREWORKS, TOGETHER, check_parameters, local, recipe_values
from tunesmith.training.run import Recipe

SAMPLE: dict[str, Any] = {
    "learning_rate": 0.00002,
    "epochs": 3,
    "batch_size": 8,
    "lora_rank": 16,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "warmup_ratio": 0.1,
}


@pytest.mark.parametrize("allowed", [TOGETHER, local()], ids=["together", "local"])
def test_the_documents_sample_fits_and_whole_numbers_become_floats(allowed: Sequence[Parameter]) -> None:
    checked = check_parameters(allowed, SAMPLE)
    assert checked == SAMPLE
    assert type(checked["lora_alpha"]) is float and type(checked["epochs"]) is int


def test_fireworks_refuses_three_of_the_sample_and_names_what_it_takes() -> None:
    with pytest.raises(Invalid) as refused:
        check_parameters(FIREWORKS, SAMPLE)
    problem = refused.value
    for name in ("lora_alpha", "lora_dropout", "warmup_ratio"):
        assert f"Parameter {name} is not available" in problem.en and name in problem.zh
    assert problem.details["allowed"] == ["epochs", "learning_rate", "batch_size", "lora_rank"]
    assert problem.details["unknown"] == ["lora_alpha", "lora_dropout", "warmup_ratio"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", True),
        ("epochs", 3.0),
        ("epochs", "3"),
        ("epochs", 0),
        ("epochs", -5),
        ("epochs", 21),
        pytest.param("epochs", 10**5000, id="huge"),
        ("learning_rate", 0),
        ("learning_rate", True),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", 10**400),
        ("learning_rate", "fast"),
        ("lora_dropout", 1.0),
        ("lora_dropout", []),
        ("lora_rank", 65),
        ("lora_alpha", 0.5),
        ("batch_size", {"a": 1}),
    ],
)
def test_a_value_of_another_type_or_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(Invalid) as refused:
        check_parameters(TOGETHER, {name: value})
    assert refused.value.details["field"] == f"parameters.{name}"
    assert name in refused.value.zh and len(refused.value.en) < 300


def test_null_is_as_good_as_absent() -> None:
    assert check_parameters(TOGETHER, {"epochs": None, "lora_rank": 4}) == {"lora_rank": 4}


def test_words_and_switches_of_this_machine_are_checked() -> None:
    given = {"scheduler": "linear", "use_rslora": True, "seed": 7}
    assert check_parameters(local(), given) == given
    for wrong in ({"scheduler": "zigzag"}, {"scheduler": 1}, {"use_rslora": 1}, {"seed": True}):
        with pytest.raises(Invalid):
            check_parameters(local(), wrong)


def test_what_this_machine_takes_is_what_a_recipe_takes() -> None:
    ranges = {each.name: each for each in limits.parameters()}
    for each in local():
        of_recipe = ranges[parameters.RECIPE_NAMES.get(each.name, each.name)]
        assert (each.minimum, each.maximum, each.choices) == (of_recipe.minimum, of_recipe.maximum, of_recipe.choices)
    values = recipe_values(check_parameters(local(), SAMPLE))
    recipe = Recipe("base", "data", **values)  # type: ignore[arg-type]
    limits.check(recipe, context_length=4096)
    assert (recipe.rank, recipe.alpha, recipe.dropout, recipe.epochs) == (16, 16.0, 0.05, 3)


@pytest.mark.parametrize("allowed", [TOGETHER, FIREWORKS, local()], ids=["together", "fireworks", "local"])
def test_every_parameter_says_what_it_is_in_both_languages_and_fits_its_own_default(
    allowed: Sequence[Parameter],
) -> None:
    for each in allowed:
        assert each.kind in ("int", "float", "bool", "str") and each.description and each.description_zh
        assert check_parameters(allowed, {each.name: each.default}) in ({}, {each.name: each.default})
