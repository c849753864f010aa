"""Reading a base model's folder: what is wrong with it is said plainly, and before much memory is taken for it."""

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import structlog
import torch
from safetensors import SafetensorError, safe_open

from tunesmith.kernel.imports import importing
from tunesmith.kernel.problems import Invalid, Problem, Unavailable, Unsupported

log = structlog.get_logger(__name__)
_LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
_MAX_CONFIG_BYTES = 16 << 20  # some list a hundred thousand labels
_LAYERS, _WIDTH, _VOCABULARY, _ANY = 1000, 65_536, 2_000_000, 1 << 30
_MOST = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), _LAYERS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "num_attention_heads", "n_head", "head_dim"), _WIDTH),
    **dict.fromkeys(("vocab_size",), _VOCABULARY),
    **dict.fromkeys(("intermediate_size", "max_position_embeddings", "n_positions"), _ANY),
}
_WEIGHTS_A_BYTE = 4  # no format stores weights in fewer than two bits


def load(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The transformers model in ``folder``, ready to run; nothing is ever fetched or executed from it.

    Raises:
        Invalid: its files are missing, broken, or do not fit each other.
        Unsupported: its architecture does something this engine does not compute.
        Unavailable: the machine is out of memory or cannot read the files.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with faults_of_the_model():
        _check_numbers(_raw_config(folder))
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        types = set(getattr(config.get_text_config(), "layer_types", None) or ())
        if not types <= _LAYER_TYPES:
            raise unsupported(config.model_type, f"layers of type {', '.join(sorted(types - _LAYER_TYPES))}")
        with importing():
            import transformers.modeling_utils  # noqa: F401  (what every architecture's own module imports)
        _check_size(folder, config)
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation="eager",
            output_loading_info=True,
        )
        if found["missing_keys"]:  # transformers would fill them with random numbers
            raise _misfit()
        if not model._can_set_attn_implementation() or not type(model)._supports_attention_backend:
            raise unsupported(config.model_type, "its code does not use the attention interface")
        return model.to(device).eval().requires_grad_(False)


def architecture(folder: Path) -> str:
    """What config.json calls it; "" when it does not say.

    Raises:
        Invalid: config.json is missing or cannot be read.
    """
    return str(_raw_config(folder).get("model_type") or "")


def caps_logits(folder: Path) -> bool:
    """Its scores are squeezed into a range, as in Gemma 2."""
    config = _raw_config(folder)
    return any(config.get(name) for name in ("final_logit_softcapping", "attn_logit_softcapping"))


def stored_dtype(folder: Path) -> torch.dtype:
    """The numbers most weights are stored in: one of float32, bfloat16 and float16; others count as float32."""
    counts: dict[str, int] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(str(path), framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (not a dict)
                tensor = file.get_slice(key)
                counts[tensor.get_dtype()] = counts.get(tensor.get_dtype(), 0) + math.prod(tensor.get_shape())
    most = max(counts, key=lambda name: counts[name], default="F32")
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(most, torch.float32)


@contextlib.contextmanager
def faults_of_the_model() -> Iterator[None]:
    """Names what fails inside: a broken model is Invalid, a machine that cannot hold or read it Unavailable."""
    try:
        yield
    except Problem:
        raise
    except Exception as error:  # what a model's own numbers set off in the library may be of any class
        log.warning("the model cannot be loaded", exc_info=error)
        raise _named(error) from error


def unsupported(architecture: str, reason: str) -> Unsupported:
    """An architecture this engine would get wrong."""
    return Unsupported(
        f"内置引擎不支持 {architecture} 结构的模型（{reason}）",
        f"the built-in engine cannot run {architecture} models: {reason}",
        architecture=architecture,
    )


def reason(error: BaseException) -> str:
    """One short line of what a library says; "" when it says nothing a person can use."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return ""
    inner = re.match(r"\w+Error: (.+)", lines[1]) if len(lines) > 1 else None
    return (inner.group(1) if inner else lines[0])[:200]


def _named(error: Exception) -> Problem:
    text = str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text:
        return Unavailable("内存不足，无法加载基础模型", "there is not enough memory for the base model")
    if (isinstance(error, OSError) and error.errno) or "CUDA" in text:
        said = getattr(error, "strerror", None) or reason(error)
        return Unavailable(f"基础模型暂时无法加载：{said}", f"the base model cannot be loaded now: {said}")
    if "mismatch" in text:
        return _misfit()
    if isinstance(error, SafetensorError):
        return _broken("safetensors 权重文件已损坏", "a safetensors file is damaged")
    if isinstance(error, OSError):
        return _broken("缺少文件，需要 config.json 与 safetensors 权重", "it needs config.json and safetensors weights")
    said = reason(error)
    if isinstance(error, KeyError):
        said = f"unknown value {said}"
    return _broken(f"config.json 中的值无法使用（{said}）", f"config.json holds values that cannot be used ({said})")


def _raw_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise _broken("config.json 过大", "config.json is too large")
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError as error:
        raise _broken("缺少 config.json", "config.json is missing") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _broken("config.json 无法解析", "config.json is no JSON object") from error


def _check_numbers(config: dict[str, Any]) -> None:
    """Refuse sizes no model has: merely building the configuration may take memory in proportion."""
    for key, value in config.items():
        if isinstance(value, dict):
            _check_numbers(value)
        most = _MOST.get(key)
        if most is not None and value is not None and not (type(value) is int and 1 <= value <= most):
            raise _broken(
                f"config.json 的 {key} 应为 1 到 {most} 的整数", f"{key} in config.json must be 1 to {most}, and whole"
            )


def _check_size(folder: Path, config: Any) -> None:
    """Refuse a configuration that asks for far more weights than the files hold, before memory is taken for them."""
    from transformers import AutoModelForCausalLM

    held = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(str(path), framework="pt"):  # a damaged file says so, instead of seeming too small
            held += path.stat().st_size
    if not held:
        raise _broken("没有 safetensors 权重", "it has no safetensors weights")
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    if sum(weight.numel() for weight in empty.parameters()) > held * _WEIGHTS_A_BYTE:
        raise _misfit()


def _misfit() -> Invalid:
    return _broken(
        "权重与 config.json 不符（缺少权重或形状不同）",
        "its weights do not fit config.json: some are missing or have other shapes",
    )


def _broken(zh: str, en: str) -> Invalid:
    return Invalid(f"基础模型无法加载：{zh}", f"the base model cannot be loaded: {en}")
