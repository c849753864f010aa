"""A PEFT LoRA folder read with numpy: what each linear layer's weight is changed by.

Whatever in a folder would change the result and is not computed here is refused, so what is read means what it means to
PEFT.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.kernel.problems import Invalid, Unsupported
from tunesmith.models.export.tensors import Floats, Stored, broken, read_header, read_json
from tunesmith.models.model import Adapter

_PREFIX = "base_model.model."
_PART = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector(?:\.weight)?)")
# fields of adapter_config.json that do not change what the trained weights mean, or are read below
_UNDERSTOOD = frozenset(
    (
        *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying"),
        *("eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern"),
        *("layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core"),
        *("peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "target_modules"),
        *("task_type", "use_dora", "use_rslora"),
    )
)
_EMPTY: tuple[object, ...] = (None, False, [], {}, "")
# other ways to initialize also change the base weights, so the saved adapter alone is not enough
_PLAIN_INITIALIZERS = (True, False, None, "gaussian", "eva")


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What LoRA adds to one linear layer's weight.

    Attributes:
        a: (rank, in).
        b: (out, rank).
        scaling: what ``b @ a`` is multiplied by.
        magnitude: (out,), DoRA's length of each output's row; None for LoRA.
        transposed: the layer keeps its weight as (in, out).
    """

    a: Floats
    b: Floats
    scaling: float
    magnitude: Floats | None
    transposed: bool

    def onto(self, weight: Floats) -> Floats:
        """``weight`` with the change in it.

        Args:
            weight: as the layer keeps it; left as it is.
        """
        added: Floats = np.matmul(self.b * np.float32(self.scaling), self.a, dtype=np.float32)
        changed: Floats = (weight.T if self.transposed else weight) + added
        if self.magnitude is not None:
            lengths = np.linalg.norm(changed, axis=1).astype(np.float32)
            changed = changed * (self.magnitude / lengths)[:, None]
        return changed.T if self.transposed else changed


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """An adapter's weights.

    Attributes:
        changes: module name in the base (``model.layers.0.self_attn.q_proj``) to its change.
    """

    name: str
    changes: Mapping[str, Change]

    @property
    def uses_dora(self) -> bool:
        return any(change.magnitude is not None for change in self.changes.values())


def read_adapter(adapter: Adapter) -> Lora:
    """The weights of ``adapter``.

    Raises:
        Invalid: a file cannot be read, or its tensors do not belong together.
        Unsupported: it needs something that cannot be exported (modules_to_save, bias, ...), and what.
    """
    config = read_json(adapter.path / "adapter_config.json")
    _check(adapter.name, config)
    file = adapter.path / "adapter_model.safetensors"
    parts: dict[str, dict[str, Stored]] = {}
    for tensor in read_header(file):
        found = _PART.fullmatch(tensor.name.removeprefix(_PREFIX))
        if found is None or not tensor.name.startswith(_PREFIX):
            raise _unsupported(adapter.name, f"tensor {tensor.name[:120]}")
        parts.setdefault(found[1], {})[found[2].removesuffix(".weight")] = tensor
    if not parts:
        raise broken(file, "没有任何权重", "it holds no weights")
    return Lora(adapter.name, {name: _change(file, name, part, config) for name, part in sorted(parts.items())})


def _change(file: Path, name: str, part: Mapping[str, Stored], config: Mapping[str, Any]) -> Change:
    if not {"lora_A", "lora_B"} <= set(part):
        raise broken(file, f"{name} 的 lora_A 与 lora_B 不成对", f"{name} has not both of lora_A and lora_B")
    a, b = part["lora_A"].floats(), part["lora_B"].floats()
    magnitude = part["lora_magnitude_vector"].floats().reshape(-1) if "lora_magnitude_vector" in part else None
    rank = int(_of_pattern(config.get("rank_pattern"), name, config["r"]))
    alpha = float(_of_pattern(config.get("alpha_pattern"), name, config["lora_alpha"]))
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank:
        raise broken(
            file, f"{name} 的形状 {a.shape}、{b.shape} 与秩 {rank} 不符", f"{name}: {a.shape}, {b.shape}, rank {rank}"
        )
    if (magnitude is not None) != bool(config.get("use_dora")) or (
        magnitude is not None and magnitude.shape != (b.shape[0],)
    ):
        raise broken(file, f"{name} 的 DoRA 向量不符", f"{name}: its magnitude vector does not fit use_dora")
    for values in (a, b, magnitude):
        if values is not None and not np.isfinite(values).all():
            raise broken(file, f"{name} 含有非有限数", f"{name} holds numbers that are not finite")
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Change(a, b, scaling, magnitude, bool(config.get("fan_in_fan_out")))


def _of_pattern(pattern: object, name: str, otherwise: float) -> float:
    """The entry of ``rank_pattern`` or ``alpha_pattern`` that names the module, by PEFT's rule; else ``otherwise``."""
    for key, value in (pattern if isinstance(pattern, dict) else {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            return float(value)
    return otherwise


def _check(name: str, config: Mapping[str, Any]) -> None:
    needs = [key for key, value in config.items() if key not in _UNDERSTOOD and value not in _EMPTY]
    if config.get("bias", "none") != "none":
        needs.append("bias")
    if config.get("init_lora_weights", True) not in _PLAIN_INITIALIZERS:
        needs.append("init_lora_weights")
    if needs:
        raise _unsupported(name, ", ".join(sorted(needs)))
    patterns = [config.get(key) or {} for key in ("rank_pattern", "alpha_pattern")]
    numbers = [config.get("r"), config.get("lora_alpha"), *(n for p in patterns for n in _values(p))]
    if any(isinstance(n, bool) or not isinstance(n, int | float) or not math.isfinite(n) or n <= 0 for n in numbers):
        raise Invalid(
            f"适配器 {name} 的秩或 alpha 无效", f"adapter {name}: a rank or an alpha is no number above 0", adapter=name
        )
    try:
        for pattern in patterns:
            for key in pattern:
                re.compile(key)
    except re.error as error:
        raise Invalid(f"适配器 {name} 的模式无效", f"adapter {name}: a pattern is not valid: {error}") from error


def _values(pattern: object) -> list[object]:
    return list(pattern.values()) if isinstance(pattern, dict) else [None]


def _unsupported(name: str, what: str) -> Unsupported:
    return Unsupported(
        f"适配器 {name} 使用了无法合并或转换的功能：{what}；可用 --as peft 原样导出",
        f"adapter {name} uses what cannot be merged or converted: {what}; --as peft copies it as it is",
        adapter=name,
    )
