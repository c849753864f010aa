"""An adapter from a provider, looked over and published as one of ours: safetensors and two JSON files, nothing else."""

import hashlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tunesmith.kernel.clock import utc_now
from tunesmith.kernel.files import folder_published_whole, require_free, write_json
from tunesmith.kernel.home import UNPRINTABLE, Home
from tunesmith.kernel.problems import Conflict, Invalid, Problem
from tunesmith.models.model import MAX_RANK
from tunesmith.models.registry import Registry
from tunesmith.training.jobs.job import Job
from tunesmith.training.run_folder import FACTS, published_by

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LARGEST_CONFIG = 4_000_000
_FLOATS = ("F32", "F16", "BF16")
_PARTS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector", "lora_magnitude_vector.weight")
_SPARE = 64 << 20  # bytes left free on the disk
_TRAINING_COPY = "-Reference"  # what Together calls the copy of a model that it tunes


def is_here(home: Home, job: Job) -> bool:
    """Whether the job's adapter was published before.

    Raises:
        Conflict: something else lies there.
    """
    folder = home.path(job.run.output, "output")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if published_by(folder) == job.run.id and (folder / _WEIGHTS).is_file():
        return True
    raise _occupied(job)


def publish(home: Home, registry: Registry, job: Job, fetched: Path) -> str:
    """Publish the adapter in ``fetched`` at the run's output; gives its name under home.

    Its configuration names the base as this machine knows it, where it does.

    Raises:
        Invalid: it is no usable adapter, and why. Conflict: something lies there already.
        Unavailable: the disk is nearly full.
    """
    config, weights = _read_config(fetched), _regular(fetched, _WEIGHTS)
    _check_weights(weights, config)
    require_free(home.root, weights.stat().st_size + _SPARE)
    named = config.get("base_model_name_or_path")
    known = next((name for name in _names_of_base(named, job) if _has(registry, name)), None)
    config["base_model_name_or_path"] = base = known or job.notes.model
    try:
        with folder_published_whole(home.path(job.run.output, "output")) as folder:
            shutil.copyfile(weights, folder / _WEIGHTS)
            write_json(folder / _CONFIG, config)
            write_json(folder / FACTS, _facts(job, base, named, folder / _WEIGHTS))
            registry.adapter(home.name(folder))  # what any adapter of ours has to be
    except FileExistsError as error:
        raise _occupied(job) from error
    return job.run.output


def missing_base(registry: Registry, adapter: str) -> tuple[str, str] | None:
    """Why the adapter cannot be asked on this machine, Chinese and English; None where it can."""
    try:
        registry.base(registry.adapter(adapter).base)
    except Problem as problem:
        return (
            f"适配器 {adapter} 已保存，但还不能在本机使用。{problem.zh}",
            f"adapter {adapter} was saved and cannot be used on this machine yet: {problem.en}",
        )
    return None


def _names_of_base(named: object, job: Job) -> Iterator[str]:
    """What the base may be called on this machine, likeliest first."""
    if isinstance(named, str):
        yield named
    yield job.notes.model
    yield job.notes.model.removesuffix(_TRAINING_COPY)


def _has(registry: Registry, base: str) -> bool:
    try:
        registry.base(base)
    except Problem:
        return False
    return True


def _read_config(fetched: Path) -> dict[str, Any]:
    path = _regular(fetched, _CONFIG)
    if path.stat().st_size > _LARGEST_CONFIG:
        raise _unusable("adapter_config.json 过大", "its adapter_config.json is too large")
    try:
        config = msgspec.json.decode(path.read_bytes())
    except (msgspec.DecodeError, RecursionError) as error:
        raise _unusable("adapter_config.json 无法读取", "its adapter_config.json cannot be read") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise _unusable("它不是 LoRA 适配器", "it is no LoRA adapter")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise _unusable(f"秩应为 1 到 {MAX_RANK}", f"its rank is not within 1 .. {MAX_RANK}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not (math.isfinite(alpha) and alpha > 0):
        raise _unusable("lora_alpha 无效", "its lora_alpha is no number above 0")
    if config.get("auto_mapping"):
        raise _unusable("auto_mapping 会执行外来代码", "its auto_mapping would run foreign code")
    return config


def _regular(fetched: Path, name: str) -> Path:
    """The file of that name, which is neither a link nor a device."""
    path = fetched / name
    if path.is_symlink() or not path.is_file():
        others = sorted(UNPRINTABLE.sub("?", each.name)[:80] for each in fetched.iterdir())[:10]
        there = ", ".join(others) or "-"
        raise _unusable(
            f"缺少 {name}（只接受 safetensors；得到：{there}）",
            f"it has no {name} (only safetensors are taken; it has: {there})",
        )
    return path


def _check_weights(weights: Path, config: dict[str, Any]) -> None:
    """Refuse what is damaged, or holds anything but matched pairs of LoRA weights of the configured rank."""
    from tunesmith.models.export.tensors import read_header  # numpy

    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor in read_header(weights):
        layer, part = next(
            ((tensor.name.removesuffix(f".{part}"), part) for part in _PARTS if tensor.name.endswith(f".{part}")),
            ("", ""),
        )
        if not layer or tensor.dtype not in _FLOATS:
            shown = UNPRINTABLE.sub("?", tensor.name)[:120]
            raise _unusable(f"含有不支持的张量 {shown}（{tensor.dtype}）", f"it holds {shown} ({tensor.dtype})")
        parts.setdefault(layer, {})[part] = tensor.shape
    if not parts:
        raise _unusable("没有任何权重", "it holds no weights")
    uneven = bool(config.get("rank_pattern"))
    for layer, shapes in parts.items():
        a, b = shapes.get(_PARTS[0], ()), shapes.get(_PARTS[1], ())
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or not 1 <= a[0] <= MAX_RANK:
            raise _mismatched(layer)
        if not uneven and a[0] != config["r"]:
            raise _mismatched(layer)


def _facts(job: Job, base: str, named: object, weights: Path) -> dict[str, Any]:
    hosted = job.hosted
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "run_id": job.run.id,
        "made_at": utc_now().isoformat(timespec="seconds"),
        "base_model": base,
        "weights_sha256": digest,
        "hosted": {
            "provider": job.notes.provider,
            "job_id": hosted.job_id if hosted else None,
            "model": hosted.output_model if hosted else None,
            "base_model": job.notes.model,
            "named_base": named if isinstance(named, str) else None,
            "strategy": str(job.notes.strategy),
            "system_message": job.notes.system_message,
            "thinking_instructions": job.notes.thinking_instructions,
        },
    }


def _unusable(zh: str, en: str) -> Invalid:
    return Invalid(f"提供商给出的适配器不可用：{zh}", f"the provider's adapter cannot be used: {en}")


def _mismatched(layer: str) -> Invalid:
    shown = UNPRINTABLE.sub("?", layer)[:120]
    return _unusable(f"{shown} 的权重形状与秩不符", f"the weights of {shown} do not fit each other and the rank")


def _occupied(job: Job) -> Conflict:
    return Conflict(
        f"输出位置已有内容：{job.run.output}；未覆盖",
        f"there is something at {job.run.output} already; it was not replaced",
        field="output",
    )
