"""What a recipe may say: the range of every value, checked before anything is recorded."""

import re
from dataclasses import dataclass
from importlib.util import find_spec

from tunesmith.kernel.problems import Invalid, Unsupported
from tunesmith.models.model import MAX_RANK
from tunesmith.training.executor import Parameter
from tunesmith.training.run import Recipe

OBJECTIVES = ("sft", "dpo")
SCHEDULERS = ("cosine", "linear", "constant")
QUANTIZATIONS = ("int8", "int4")
_MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_MOST_MODULES = 64


@dataclass(frozen=True, slots=True)
class _Range:
    """Numbers from ``low`` to ``high``; the ends belong to it unless open."""

    kind: type
    low: float
    high: float
    zh: str
    en: str
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or (self.kind is int and type(value) is float):
            return False
        # nan is neither above nor below anything
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        return f"{'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


_RANGES: dict[str, _Range] = {
    "epochs": _Range(int, 1, 1000, "训练轮数", "times through the data"),
    "batch_size": _Range(int, 1, 1024, "每步的样本数", "examples a step"),
    "gradient_accumulation": _Range(int, 1, 1024, "每次更新累积的步数", "batches to one update of the weights"),
    "learning_rate": _Range(float, 0, 1, "学习率", "learning rate", open_low=True),
    "warmup_ratio": _Range(float, 0, 1, "预热步数的占比", "share of the steps spent warming up", open_high=True),
    "weight_decay": _Range(float, 0, 1, "权重衰减", "weight decay"),
    "max_grad_norm": _Range(float, 0, 1e6, "梯度裁剪的范数", "gradients longer than this are cut", open_low=True),
    "max_length": _Range(int, 8, 1 << 20, "样本的最多词元数", "most tokens of an example"),
    "rank": _Range(int, 1, MAX_RANK, "LoRA 的秩", "LoRA rank"),
    "alpha": _Range(float, 0, 4096, "LoRA 的 alpha", "LoRA alpha", open_low=True),
    "dropout": _Range(float, 0, 1, "LoRA dropout", "LoRA dropout", open_high=True),
    # a share of nearly 1 would make an epoch endless: 0.99 is already a hundred replayed examples to one
    "replay_share": _Range(float, 0, 0.99, "混入的通用样本占比", "share of replayed general examples"),
    "dpo_beta": _Range(float, 0, 10, "DPO 的 beta", "DPO's beta", open_low=True),
    "evaluate_every": _Range(int, 0, 1 << 20, "每多少步评估一次，0 为每轮", "steps between scorings; 0: each epoch"),
    "early_stopping": _Range(
        int, 0, 1000, "多少次评估无改进后停止，0 为不停", "scorings without gain to stop at; 0: never"
    ),
    "seed": _Range(int, 0, (1 << 63) - 1, "随机种子", "random seed"),
}


def parameters() -> tuple[Parameter, ...]:
    """Every value a recipe sets, with its range and default."""
    usual = Recipe("", "")
    numbers = [
        Parameter(name, r.kind.__name__, getattr(usual, name), r.en, r.low, r.high, description_zh=r.zh)
        for name, r in _RANGES.items()
    ]
    chosen = [
        Parameter(
            "scheduler", "str", usual.scheduler, "how the learning rate falls", None, None, SCHEDULERS, "学习率曲线"
        ),
        Parameter(
            "quantization", "str", None, "quantization of the frozen base", None, None, QUANTIZATIONS, "基座的量化"
        ),
        Parameter(
            "target_modules", "list[str]", [], "modules LoRA is put on; empty: all linear", description_zh="LoRA 模块"
        ),
        Parameter("objective", "str", usual.objective, "what is learned", None, None, OBJECTIVES, "训练目标"),
        Parameter("use_rslora", "bool", False, "rank-stabilized LoRA", description_zh="秩稳定 LoRA（rsLoRA）"),
        Parameter("use_dora", "bool", False, "weight-decomposed LoRA", description_zh="权重分解 LoRA（DoRA）"),
        Parameter("keep_best", "bool", False, "publish the best scored weights", description_zh="发布评估最好的权重"),
        Parameter("skip_bad", "bool", False, "leave bad rows out instead of refusing", description_zh="跳过坏行"),
    ]
    return (*numbers, *chosen)


def check(recipe: Recipe, context_length: int) -> None:
    """Refuse a recipe no trainer could follow.

    Args:
        context_length: tokens the base model can attend to.

    Raises:
        Invalid: a value is out of its range; the field is named.
        Unsupported: quantization is asked for and its library is not installed.
    """
    for name, allowed in _RANGES.items():
        value = getattr(recipe, name)
        if not allowed.holds(value):
            raise _refused(name, value, f"{allowed.zh}应在 {allowed} 内", f"{allowed.en}, is expected in {allowed}")
    if recipe.max_length > context_length:
        zh, en = f"基座模型最多 {context_length} 个词元", f"the base model attends to at most {context_length} tokens"
        raise _refused("max_length", recipe.max_length, zh, en)
    if recipe.scheduler not in SCHEDULERS:
        known = ", ".join(SCHEDULERS)
        raise _refused("scheduler", recipe.scheduler, f"可用：{known}", f"known are {known}")
    if recipe.objective not in OBJECTIVES:
        known = ", ".join(OBJECTIVES)
        raise _refused("objective", recipe.objective, f"可用：{known}", f"known are {known}")
    for name in ("keep_best", "early_stopping", "evaluate_every"):
        if getattr(recipe, name) and not recipe.validation:
            zh, en = "需要同时给出 validation 数据", "a validation dataset must be named with it"
            raise _refused(name, getattr(recipe, name), zh, en)
    if recipe.quantization is not None and recipe.quantization not in QUANTIZATIONS:
        known = ", ".join(QUANTIZATIONS)
        raise _refused("quantization", recipe.quantization, f"可用：{known}", f"known are {known}")
    if recipe.quantization is not None:
        require_quantization(recipe.quantization)
    if recipe.replay_share > 0 and not recipe.replay:
        zh, en = "需要同时给出 replay 数据", "a replay dataset must be named with it"
        raise _refused("replay_share", recipe.replay_share, zh, en)
    if len(recipe.target_modules) > _MOST_MODULES or not all(
        isinstance(module, str) and len(module) <= 128 and _MODULE.fullmatch(module) for module in recipe.target_modules
    ):
        zh, en = "应为模块名，例如 q_proj", "names of modules are expected, such as q_proj"
        raise _refused("target_modules", list(recipe.target_modules)[:3], zh, en)


def require_quantization(quantization: str) -> None:
    """Refuse a quantized base where the library for it is missing.

    Raises:
        Unsupported: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise Unsupported(
            f"quantization={quantization} 需要 bitsandbytes，请先安装：pip install 'tunesmith[quantization]'",
            f"quantization {quantization} needs bitsandbytes: pip install 'tunesmith[quantization]'",
            field="quantization",
        )


def _refused(field: str, value: object, zh: str, en: str) -> Invalid:
    huge = isinstance(value, int) and value.bit_length() > 256  # Python refuses to print very long ones
    shown = "..." if huge else repr(value)[:80]
    return Invalid(f"{field} 无效（{shown}）：{zh}", f"{field} is not valid ({shown}): {en}", field=field)
