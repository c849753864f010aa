"""What a job may set at each provider, by Kiln's names, and the check of what a caller gives."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.kernel.problems import Invalid
from tunesmith.training import limits
from tunesmith.training.executor import Parameter
from tunesmith.training.hosted.provider import Value

_EPOCHS = "times through the data", "训练轮数"
_RATE = "learning rate", "学习率"
_BATCH = "examples a step; as many as the model allows where it is left out", "每步的样本数；不填则取模型允许的最大值"
_RANK = "LoRA rank", "LoRA 的秩"

TOGETHER: tuple[Parameter, ...] = (
    Parameter("epochs", "int", 1, _EPOCHS[0], 1, 20, description_zh=_EPOCHS[1]),
    Parameter("learning_rate", "float", 1e-5, _RATE[0], 0, 1, description_zh=_RATE[1]),
    Parameter("batch_size", "int", None, _BATCH[0], 1, 1024, description_zh=_BATCH[1]),
    Parameter("num_checkpoints", "int", 1, "checkpoints kept", 1, 100, description_zh="保存的检查点数"),
    Parameter(
        "min_lr_ratio", "float", 0.0, "the last learning rate as a share of the first", 0, 1,
        description_zh="末尾学习率与初始学习率之比",
    ),
    Parameter(
        "warmup_ratio", "float", 0.0, "share of the steps spent warming up", 0, 1, description_zh="预热步数的占比"
    ),
    Parameter(
        "max_grad_norm", "float", 1.0, "gradients longer than this are cut; 0: never", 0, 1e6,
        description_zh="梯度裁剪的范数，0 为不裁剪",
    ),
    Parameter("weight_decay", "float", 0.0, "weight decay", 0, 1, description_zh="权重衰减"),
    Parameter("lora_rank", "int", None, f"{_RANK[0]}; the model's own where it is left out", 1, 64,
              description_zh=f"{_RANK[1]}；不填则取模型自己的默认值"),
    Parameter("lora_dropout", "float", 0.0, "LoRA dropout", 0, 1, description_zh="LoRA dropout"),
    Parameter("lora_alpha", "float", None, "LoRA alpha, a whole number; twice the rank where it is left out", 1, 4096,
              description_zh="LoRA 的 alpha，应为整数；不填则为秩的两倍"),
)  # fmt: skip

FIREWORKS: tuple[Parameter, ...] = (
    Parameter("epochs", "int", 1, _EPOCHS[0], 1, 100, description_zh=_EPOCHS[1]),
    Parameter("learning_rate", "float", 1e-4, _RATE[0], 0, 1, description_zh=_RATE[1]),
    Parameter("batch_size", "int", None, _BATCH[0], 1, 1 << 20, description_zh=_BATCH[1]),
    Parameter("lora_rank", "int", 8, _RANK[0], 1, 32, description_zh=_RANK[1]),
)

# Kiln's names where a recipe has others
RECIPE_NAMES: Mapping[str, str] = {"lora_rank": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"}
_OF_RECIPES = {ours: kilns for kilns, ours in RECIPE_NAMES.items()}
_LOCAL_ORDER = (
    "learning_rate", "epochs", "batch_size", "rank", "alpha", "dropout", "warmup_ratio", "weight_decay", "max_grad_norm",
    "max_length", "gradient_accumulation", "scheduler", "seed", "use_rslora", "use_dora", "quantization",
    "evaluate_every", "keep_best", "early_stopping",
)  # fmt: skip
# ends that do not belong to their range, where a range ends there
_ABOVE_ZERO = frozenset({"learning_rate", "lora_alpha"})
_BELOW_ONE = frozenset({"lora_dropout"})


def local() -> tuple[Parameter, ...]:
    """What a job of this machine may set, with the ranges of a recipe."""
    known = {each.name: each for each in limits.parameters()}
    return tuple(
        Parameter(
            _OF_RECIPES.get(name, name), p.kind, p.default, p.description, p.minimum, p.maximum, p.choices,
            p.description_zh,
        )
        for name, p in ((name, known[name]) for name in _LOCAL_ORDER)
    )  # fmt: skip


def recipe_values(values: Mapping[str, Value]) -> dict[str, Value]:
    """Checked parameters of a job of this machine under the names of a recipe's fields."""
    return {RECIPE_NAMES.get(name, name): value for name, value in values.items()}


def check_parameters(allowed: Sequence[Parameter], given: Mapping[str, Any]) -> dict[str, Value]:
    """What a caller gives, checked; null is as good as absent.

    Returns:
        The values in the types of their parameters: 16 for a float becomes 16.0.

    Raises:
        Invalid: a name is not known (``details["allowed"]`` has those that are), or a value has another type or lies
            outside its range; ``details["field"]`` names it.
    """
    known = {each.name: each for each in allowed}
    unknown = [str(name)[:80] for name in given if name not in known]
    if unknown:
        names = ", ".join(known)
        raise Invalid(
            f"参数不可用：{'、'.join(unknown)}；可用的参数：{names}",
            f"{'. '.join(f'Parameter {name} is not available' for name in unknown)}. Allowed: {names}",
            field=f"parameters.{unknown[0]}",
            unknown=unknown,
            allowed=list(known),
        )
    return {name: _checked(known[name], value) for name, value in given.items() if value is not None}


def _checked(parameter: Parameter, value: Any) -> Value:
    found: Value | None = None
    if parameter.kind == "bool":
        found = value if isinstance(value, bool) else None
    elif parameter.kind == "str":
        found = value if isinstance(value, str) else None
    elif isinstance(value, int) and not isinstance(value, bool):
        # a range is checked below; a number no float can hold is outside of all of them
        found = value if parameter.kind == "int" or abs(value) > 1 << 63 else float(value)
    elif isinstance(value, float) and parameter.kind == "float":
        found = value
    if found is None:
        zh, en = _kinds(parameter.kind)
        raise _refused(parameter, value, f"应为{zh}", f"{en} is expected")
    if parameter.choices and found not in parameter.choices:
        known = ", ".join(parameter.choices)
        raise _refused(parameter, value, f"可用：{known}", f"known are {known}")
    if isinstance(found, int | float) and not isinstance(found, bool):
        _check_range(parameter, found)
    return found


def _check_range(parameter: Parameter, value: float) -> None:
    low = -math.inf if parameter.minimum is None else parameter.minimum
    high = math.inf if parameter.maximum is None else parameter.maximum
    open_low = parameter.name in _ABOVE_ZERO and low == 0
    open_high = parameter.name in _BELOW_ONE and high == 1
    above = value > low if open_low else value >= low  # false for nan
    below = value < high if open_high else value <= high
    if not (above and below):
        shown = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        raise _refused(parameter, value, f"应在 {shown} 内", f"it is expected in {shown}")


def _kinds(kind: str) -> tuple[str, str]:
    return {
        "int": ("整数", "a whole number"),
        "float": ("数", "a number"),
        "bool": ("true 或 false", "true or false"),
    }.get(kind, ("字符串", "a string"))


def _refused(parameter: Parameter, value: Any, zh: str, en: str) -> Invalid:
    huge = isinstance(value, int) and value.bit_length() > 256  # Python refuses to print very long ones
    shown = "..." if huge else repr(value)[:80]
    name = parameter.name
    return Invalid(
        f"参数 {name} 无效（{shown}）：{zh}",
        f"Parameter {name} is not valid ({shown}): {en}",
        field=f"parameters.{name}",
    )
