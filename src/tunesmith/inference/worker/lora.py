"""LoRA on many rows at once: every linear layer adds each row's own low-rank product on that row's tokens.

Weights are read from PEFT folders (safetensors only) without importing peft. Whatever in a folder would change the
result and is not computed here is refused, so an adapter that loads gives what peft gives.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from tunesmith.kernel.problems import Invalid, NotFound, Problem, Unsupported
from tunesmith.models.model import MAX_RANK

_PREFIX = "base_model.model."
_MAX_CONFIG_BYTES = 1 << 20
# Fields of adapter_config.json that do not change what a trained adapter computes.
_HARMLESS = frozenset(
    (
        *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying"),
        *("eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern", "loftq_config"),
        *("layers_to_transform", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "peft_type"),
        *("peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "target_modules", "task_type"),
        "use_rslora",
    )
)
_EMPTY: tuple[object, ...] = (None, False, [], {}, "")
# Other ways to initialize also change the base weights, so the saved adapter alone is not enough.
_PLAIN_INITIALIZERS = (True, False, None, "gaussian", "eva")


@dataclass(frozen=True, slots=True, eq=False)
class AdapterWeights:
    """One version of an adapter, held by the table and by every row that uses it.

    Attributes:
        layers: module name -> (A, (in, rank); B, (rank, out), scaling already in it).
    """

    name: str
    path: Path
    rank: int
    layers: dict[str, tuple[Tensor, Tensor]]

    @property
    def size_bytes(self) -> int:
        return sum(a.nbytes + b.nbytes for a, b in self.layers.values())


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [begin, end) of a step belong to rows that wear ``adapter``."""

    begin: int
    end: int
    adapter: AdapterWeights


class Lora:
    """Puts adapters on a model's linear layers, in place.

    Args:
        model: a transformers model; its output head and embeddings are left as they are.
    """

    def __init__(self, model: Any) -> None:
        self.segments: Sequence[Segment] = ()  # set for the duration of one forward
        head = model.get_output_embeddings()
        self._linears: dict[str, Any] = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        }
        for name, linear in self._linears.items():
            linear.forward = _Forward(self, name, linear)

    def read(self, name: str, folder: Path) -> AdapterWeights:
        """The adapter in ``folder``, checked against this model, in the model's dtype and on its device.

        Raises:
            NotFound: the folder or a file in it is missing.
            Invalid: a file cannot be read, a shape does not fit, a weight is missing, unknown or not finite.
            Unsupported: it needs something this engine does not compute (DoRA, modules_to_save, bias, ...).
        """
        rank, scaling = _read_config(name, folder)
        tensors = _read_weights(name, folder)
        layers: dict[str, tuple[Tensor, Tensor]] = {}
        for key in sorted(tensors):
            module, half = _split(name, key)
            if half == "B":
                continue
            b = tensors.get(f"{_PREFIX}{module}.lora_B.weight")
            layers[module] = self._fit(name, module, rank, tensors[key], b, scaling)
        if len(layers) * 2 != len(tensors):
            raise _broken(name, "lora_A 与 lora_B 不成对", "a lora_B without its lora_A")
        if not layers:
            raise _broken(name, "没有任何权重", "it holds no weights")
        return AdapterWeights(name, folder, rank, layers)

    def _fit(
        self, name: str, module: str, rank: int, a: Tensor, b: Tensor | None, scaling: float
    ) -> tuple[Tensor, Tensor]:
        linear = self._linears.get(module)
        if linear is None:
            raise Unsupported(
                f"适配器 {name} 含有基础模型中不存在或不支持的层：{module}",
                f"adapter {name} is for {module}, which is not a linear layer of this base model (or its output head)",
                adapter=name,
            )
        if b is None:
            raise _broken(name, f"{module} 缺少 lora_B", f"{module} has no lora_B")
        if tuple(a.shape) != (rank, linear.in_features) or tuple(b.shape) != (linear.out_features, rank):
            raise _broken(
                name,
                f"{module} 的形状与基础模型不符",
                f"{module} has shapes {tuple(a.shape)} and {tuple(b.shape)}, expected "
                f"{(rank, linear.in_features)} and {(linear.out_features, rank)}",
            )
        if not (a.is_floating_point() and b.is_floating_point() and a.isfinite().all() and b.isfinite().all()):
            raise _broken(name, f"{module} 的权重含有非有限数", f"{module} holds numbers that are not finite")
        target = linear.weight
        a = a.t().to(device=target.device, dtype=target.dtype).contiguous()
        b = (b.t().to(device=target.device, dtype=torch.float32) * scaling).to(target.dtype).contiguous()
        return a, b


class _Forward:
    """Stands in for one linear layer's ``forward``."""

    def __init__(self, lora: Lora, name: str, linear: Any) -> None:
        self._lora, self._name, self._plain = lora, name, linear.forward

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self._plain(x)
        for segment in self._lora.segments:
            weights = segment.adapter.layers.get(self._name)
            if weights is not None:
                part = x[..., segment.begin : segment.end, :]
                y[..., segment.begin : segment.end, :] += part @ weights[0] @ weights[1]
        return y


def _read_config(name: str, folder: Path) -> tuple[int, float]:
    """Rank and scaling of the adapter in ``folder``."""
    path = folder / "adapter_config.json"
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise _broken(name, "adapter_config.json 过大", "adapter_config.json is too large")
        config = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError as error:
        raise NotFound(f"适配器不存在：{name}", f"no adapter {name}: adapter_config.json is missing") from error
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _broken(name, "adapter_config.json 无法读取", "adapter_config.json cannot be read") from error
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if config.get("peft_type") != "LORA" or not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise _broken(name, f"应为秩 1 到 {MAX_RANK} 的 LoRA", f"a LoRA of rank 1 to {MAX_RANK} is expected")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise _broken(name, "lora_alpha 不是数", "lora_alpha is not a number")
    needs = [key for key, value in config.items() if key not in _HARMLESS and value not in _EMPTY]
    needs += [key for key in ("rank_pattern", "alpha_pattern") if config.get(key)]
    if config.get("bias", "none") != "none":
        needs.append("bias")
    if config.get("init_lora_weights", True) not in _PLAIN_INITIALIZERS:
        needs.append("init_lora_weights")
    if needs:
        what = ", ".join(sorted(needs))
        raise Unsupported(
            f"适配器 {name} 使用了内置引擎不支持的功能：{what}",
            f"adapter {name} uses what the built-in engine does not compute: {what}",
            adapter=name,
        )
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _read_weights(name: str, folder: Path) -> dict[str, Tensor]:
    path = folder / "adapter_model.safetensors"
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except FileNotFoundError as error:
        raise NotFound(f"适配器不存在：{name}", f"no adapter {name}: adapter_model.safetensors is missing") from error
    except (SafetensorError, OSError) as error:
        raise _broken(name, "adapter_model.safetensors 无法读取", "adapter_model.safetensors cannot be read") from error


def _split(name: str, key: str) -> tuple[str, str]:
    """Module and half ("A" or "B") of a weight's name."""
    for half in "AB":
        ending = f".lora_{half}.weight"
        if key.startswith(_PREFIX) and key.endswith(ending):
            return key[len(_PREFIX) : -len(ending)], half
    raise _broken(name, f"未知的权重 {key[:120]!r}", f"unknown weight {key[:120]!r}")


def _broken(name: str, zh: str, en: str) -> Problem:
    return Invalid(f"适配器 {name} 不可用：{zh}", f"adapter {name} cannot be used: {en}", adapter=name)
