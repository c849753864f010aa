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
        *("use_dora", "use_rslora"),
    )
)
_EMPTY: tuple[object, ...] = (None, False, [], {}, "")
# Other ways to initialize also change the base weights, so the saved adapter alone is not enough.
_PLAIN_INITIALIZERS = (True, False, None, "gaussian", "eva")


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """What an adapter adds to one linear layer.

    Attributes:
        A: (in, rank). B: (rank, out), scaling already in it.
        share: (out,), what the layer's own outputs are multiplied by, bias left out, where the adapter is a DoRA
            (arXiv:2402.09353): magnitude over length of the tuned weight's row, a constant once training is over.
            Already in B. None for LoRA.
    """

    A: Tensor
    B: Tensor
    share: Tensor | None = None

    @property
    def size_bytes(self) -> int:
        return int(self.A.nbytes + self.B.nbytes + (0 if self.share is None else self.share.nbytes))


@dataclass(frozen=True, slots=True, eq=False)
class AdapterWeights:
    """One version of an adapter, held by the table and by every row that uses it; ``layers`` by module name."""

    name: str
    path: Path
    rank: int
    layers: dict[str, LayerWeights]

    @property
    def size_bytes(self) -> int:
        return sum(layer.size_bytes for layer in self.layers.values())


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
            Unsupported: it needs something this engine does not compute (modules_to_save, bias, ...).
        """
        config = _read_config(name, folder)
        tensors = _read_weights(name, folder)
        halves = _by_module(name, tensors, config.parts)
        return AdapterWeights(
            name, folder, config.rank, {module: self._fit(name, module, config, halves[module]) for module in halves}
        )

    def _fit(self, name: str, module: str, config: "_Config", parts: dict[str, Tensor]) -> LayerWeights:
        linear = self._linears.get(module)
        if linear is None:
            raise Unsupported(
                f"适配器 {name} 含有基础模型中不存在或不支持的层：{module}",
                f"adapter {name} is for {module}, which is not a linear layer of this base model (or its output head)",
                adapter=name,
            )
        fitting = {
            "lora_A": (config.rank, linear.in_features),
            "lora_B": (linear.out_features, config.rank),
            "lora_magnitude_vector": (linear.out_features,),
        }
        for part, tensor in parts.items():
            if tuple(tensor.shape) != fitting[part]:
                raise _broken(
                    name,
                    f"{module} 的形状与基础模型不符",
                    f"{module} has {part} of shape {tuple(tensor.shape)}, expected {fitting[part]}",
                )
            if not (tensor.is_floating_point() and tensor.isfinite().all()):
                raise _broken(name, f"{module} 的权重含有非有限数", f"{module} holds numbers that are not finite")
        target = linear.weight
        A, B = (parts[part].to(device=target.device, dtype=torch.float32) for part in ("lora_A", "lora_B"))
        B, share = B * config.scaling, None
        if "lora_magnitude_vector" in parts:
            magnitude = parts["lora_magnitude_vector"].to(device=target.device, dtype=torch.float32)
            lengths = torch.linalg.vector_norm(target.float() + B @ A, dim=1)
            share = magnitude / lengths.clamp_min(1e-12)  # a row of zeros has no direction
            B, share = B * share[:, None], share.to(target.dtype)
        return LayerWeights(A.t().to(target.dtype).contiguous(), B.t().to(target.dtype).contiguous(), share)


class _Forward:
    """Stands in for one linear layer's ``forward``."""

    def __init__(self, lora: Lora, name: str, linear: Any) -> None:
        self._lora, self._name, self._plain, self._bias = lora, name, linear.forward, linear.bias

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self._plain(x)
        for segment in self._lora.segments:
            weights = segment.adapter.layers.get(self._name)
            if weights is not None:
                rows = slice(segment.begin, segment.end)
                if weights.share is not None:
                    self._weigh(y[..., rows, :], weights.share)
                y[..., rows, :] += x[..., rows, :] @ weights.A @ weights.B
        return y

    def _weigh(self, y: Tensor, share: Tensor) -> None:
        if self._bias is None:
            y *= share
        else:
            y.sub_(self._bias).mul_(share).add_(self._bias)


@dataclass(frozen=True, slots=True)
class _Config:
    """``parts``: what every layer of the adapter has."""

    rank: int
    scaling: float
    parts: frozenset[str]


def _read_config(name: str, folder: Path) -> _Config:
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
    parts = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if config.get("use_dora") else set())
    return _Config(rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), frozenset(parts))


def _read_weights(name: str, folder: Path) -> dict[str, Tensor]:
    path = folder / "adapter_model.safetensors"
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except FileNotFoundError as error:
        raise NotFound(f"适配器不存在：{name}", f"no adapter {name}: adapter_model.safetensors is missing") from error
    except (SafetensorError, OSError) as error:
        raise _broken(name, "adapter_model.safetensors 无法读取", "adapter_model.safetensors cannot be read") from error


def _by_module(name: str, tensors: dict[str, Tensor], parts: frozenset[str]) -> dict[str, dict[str, Tensor]]:
    """The adapter's weights by module, each with just ``parts``."""
    found: dict[str, dict[str, Tensor]] = {}
    for key in sorted(tensors):
        module, _, part = key.removesuffix(".weight").rpartition(".")
        if not key.startswith(_PREFIX) or part not in parts:
            raise _broken(name, f"未知的权重 {key[:120]!r}", f"unknown weight {key[:120]!r}")
        found.setdefault(module.removeprefix(_PREFIX), {})[part] = tensors[key]
    for module, halves in found.items():
        if missing := sorted(parts - set(halves)):
            raise _broken(name, f"{module} 缺少 {missing[0]}", f"{module} has no {missing[0]}")
    if not found:
        raise _broken(name, "没有任何权重", "it holds no weights")
    return found


def _broken(name: str, zh: str, en: str) -> Problem:
    return Invalid(f"适配器 {name} 不可用：{zh}", f"adapter {name} cannot be used: {en}", adapter=name)
