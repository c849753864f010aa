"""LoRA on many rows at once: every matrix product adds each row's own low-rank product on that row's tokens.

Layers that share their input (q, k, v; gate, up) are one product of the model, and one ``x @ A`` of an adapter.

Weights are read from PEFT folders (safetensors only) without importing peft. Whatever in a folder would change the
result and is not computed here is refused, so an adapter that loads gives what peft gives.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

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


@dataclass(frozen=True, slots=True)
class Part:
    """One linear layer of a site: columns [begin, end) of the site's output."""

    name: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A matrix product of the model that adapters add to: one linear layer, or several that share their input.

    Attributes:
        bias: (out,) of the product, where it has one.
        weight: the base's weight as the product uses it, (out, in) in float32, made anew.
    """

    inputs: int
    parts: tuple[Part, ...]
    bias: Tensor | None
    weight: Callable[[], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class WornPart:
    """What an adapter adds to columns [begin, end) of a site, from columns [low, high) of its ``x @ A``.

    Attributes:
        B: (rank, end - begin), scaling already in it.
        share: (end - begin,), what the layer's own outputs are multiplied by, bias left out, where the adapter is a
            DoRA (arXiv:2402.09353): magnitude over length of the tuned weight's row, a constant once training is over.
            Already in B. None for LoRA.
    """

    begin: int
    end: int
    low: int
    high: int
    B: Tensor
    share: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Worn:
    """An adapter at one site. ``A``: (in, ranks of all parts together)."""

    A: Tensor
    parts: tuple[WornPart, ...]

    @property
    def finite(self) -> bool:
        tensors = [self.A, *(part.B for part in self.parts), *(p.share for p in self.parts if p.share is not None)]
        return all(bool(tensor.isfinite().all()) for tensor in tensors)

    @property
    def size_bytes(self) -> int:
        sizes = (part.B.nbytes + (0 if part.share is None else part.share.nbytes) for part in self.parts)
        return int(self.A.nbytes + sum(sizes))


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class AdapterWeights:
    """One version of an adapter, held by the table and by every row that uses it."""

    name: str
    path: Path
    rank: int
    sites: dict[Site, Worn]

    @property
    def size_bytes(self) -> int:
        return sum(worn.size_bytes for worn in self.sites.values())


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens [begin, end) of a step belong to rows that wear ``adapter``."""

    begin: int
    end: int
    adapter: AdapterWeights


class Lora:
    """Reads adapters for a model's sites and adds them to the rows that wear them.

    Args:
        dtype, device: of the numbers the model computes with.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.segments: Sequence[Segment] = ()  # set for the duration of one forward
        self._dtype, self._device = dtype, device
        self._places: dict[str, tuple[Site, Part]] = {}

    def adopt(self, site: Site) -> None:
        """Let adapters be read for the layers of ``site``."""
        self._places |= {part.name: (site, part) for part in site.parts}

    def add(self, site: Site, x_TI: Tensor, y_TO: Tensor) -> Tensor:
        """``y_TO``, the site's output for the inputs ``x_TI``, with each row's own adapter added in place."""
        for segment in self.segments:
            worn = segment.adapter.sites.get(site)
            if worn is None:
                continue
            rows = slice(segment.begin, segment.end)
            low = x_TI[rows] @ worn.A
            for part in worn.parts:
                y = y_TO[rows, part.begin : part.end]
                if part.share is not None:
                    _weigh(y, part.share, None if site.bias is None else site.bias[part.begin : part.end])
                y.addmm_(low[:, part.low : part.high], part.B)
        return y_TO

    def keep(self, tokens: Sequence[int]) -> None:
        """From now on the rows are these of the step's tokens, rising."""
        cut = [
            Segment(bisect_left(tokens, one.begin), bisect_left(tokens, one.end), one.adapter) for one in self.segments
        ]
        self.segments = [segment for segment in cut if segment.begin < segment.end]

    def read(self, name: str, folder: Path) -> AdapterWeights:
        """The adapter in ``folder``, checked against this model, in the model's dtype and on its device.

        Raises:
            NotFound: the folder or a file in it is missing.
            Invalid: a file cannot be read, a shape does not fit, a weight is missing, unknown or not finite.
            Unsupported: it needs something this engine does not compute (modules_to_save, bias, ...).
        """
        config = _read_config(name, folder)
        halves = _by_module(name, _read_weights(name, folder), config.parts)
        by_site: dict[Site, list[tuple[Part, dict[str, Tensor]]]] = {}
        for module, parts in halves.items():
            site, part = self._place(name, module)
            _check_shapes(name, config, site, part, parts)
            by_site.setdefault(site, []).append((part, parts))
        worn = {site: self._worn(name, site, config, found) for site, found in by_site.items()}
        return AdapterWeights(name, folder, config.rank, worn)

    def _place(self, name: str, module: str) -> tuple[Site, Part]:
        place = self._places.get(module)
        if place is None:
            raise Unsupported(
                f"适配器 {name} 含有基础模型中不存在或不支持的层：{module}",
                f"adapter {name} is for {module}, which is not a linear layer of this base model (or its output head)",
                adapter=name,
            )
        return place

    def _worn(self, name: str, site: Site, config: "_Config", found: "list[tuple[Part, dict[str, Tensor]]]") -> Worn:
        """All that the adapter has for one site, the A of its layers side by side."""
        found.sort(key=lambda item: item[0].begin)
        dora = "lora_magnitude_vector" in config.parts
        weight_OI = site.weight() if dora else None
        parts = []
        for n, (part, tensors) in enumerate(found):
            tensors = {key: tensor.to(self._device, torch.float32) for key, tensor in tensors.items()}
            B, share = tensors["lora_B"] * config.scaling, None
            if weight_OI is not None:
                tuned = weight_OI[part.begin : part.end] + B @ tensors["lora_A"]
                lengths = torch.linalg.vector_norm(tuned, dim=1)
                share = tensors["lora_magnitude_vector"] / lengths.clamp_min(1e-12)  # a row of zeros has no direction
                B, share = B * share[:, None], share.to(self._dtype)
            B = B.t().to(self._dtype).contiguous()
            parts.append(WornPart(part.begin, part.end, n * config.rank, (n + 1) * config.rank, B, share))
        A = torch.cat([tensors["lora_A"].to(self._device, torch.float32) for _, tensors in found])
        worn = Worn(A.t().to(self._dtype).contiguous(), tuple(parts))
        if not worn.finite:  # as the model will use it: scaled, and in fewer bits
            layer = found[0][0].name
            raise _broken(name, f"{layer} 的权重超出数值范围", f"the weights of {layer} are out of range once scaled")
        return worn


class WearingLinear:
    """Stands in for one linear layer's ``forward`` in a model that runs on transformers' own code."""

    def __init__(self, lora: Lora, site: Site, plain: Callable[[Tensor], Tensor]) -> None:
        self._lora, self._site, self._plain = lora, site, plain

    def __call__(self, x: Tensor) -> Tensor:
        y = self._plain(x)
        if self._lora.segments:
            self._lora.add(self._site, x[0], y[0])
        return y


def _weigh(y: Tensor, share: Tensor, bias: Tensor | None) -> None:
    if bias is None:
        y *= share
    else:
        y.sub_(bias).mul_(share).add_(bias)


def _check_shapes(name: str, config: "_Config", site: Site, part: Part, tensors: dict[str, Tensor]) -> None:
    outputs = part.end - part.begin
    fitting = {
        "lora_A": (config.rank, site.inputs),
        "lora_B": (outputs, config.rank),
        "lora_magnitude_vector": (outputs,),
    }
    for key, tensor in tensors.items():
        if tuple(tensor.shape) != fitting[key]:
            raise _broken(
                name,
                f"{part.name} 的形状与基础模型不符",
                f"{part.name} has {key} of shape {tuple(tensor.shape)}, expected {fitting[key]}",
            )
        if not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise _broken(name, f"{part.name} 的权重含有非有限数", f"{part.name} holds numbers that are not finite")


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
