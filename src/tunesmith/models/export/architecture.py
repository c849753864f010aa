"""What GGUF calls a model's parts, and the numbers llama.cpp needs to run it."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.kernel.problems import Invalid, Unsupported
from tunesmith.models.export.tensors import Floats

if TYPE_CHECKING:
    from gguf import GGUFWriter

# model_type of config.json to what llama.cpp runs it as; for it Mistral is a Llama
KNOWN = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_OF_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_YARN = {"rope_type", "rope_theta", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "type"}


@dataclass(frozen=True, slots=True)
class Architecture:
    """One model's shape, from its config.json.

    Attributes:
        name: what llama.cpp calls the architecture.
        interleaved: llama.cpp rotates neighbouring numbers of a head, where transformers rotates its two halves.
        context: positions the GGUF file promises.
    """

    name: str
    config: Mapping[str, Any]
    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head_width: int
    interleaved: bool
    context: int
    rope: Mapping[str, Any]

    def tensor(self, name: str) -> str | None:
        """What GGUF calls the tensor; None for one that llama.cpp computes itself.

        Raises:
            Unsupported: it has no name there.
        """
        if name.endswith("rotary_emb.inv_freq"):
            return None
        module, _, kind = name.rpartition(".")
        found = _LAYER.fullmatch(module)
        known = _OF_LAYER.get(found[2]) if found else _WHOLE.get(module)
        if known is None or kind not in ("weight", "bias"):
            raise Unsupported(
                f"GGUF 中没有对应 {name} 的张量（{self.name}）", f"{name} has no place in a GGUF file of {self.name}"
            )
        return f"blk.{found[1]}.{known}.{kind}" if found else f"{known}.{kind}"

    def arranged(self, name: str, values: Floats) -> Floats:
        """The rows of a tensor (or of LoRA's B) in the order llama.cpp wants.

        Args:
            name: transformers' name of the tensor.
            values: (out, ...).
        """
        heads = self.heads if ".self_attn.q_proj." in name else self.kv_heads if ".self_attn.k_proj." in name else 0
        if not self.interleaved or not heads:
            return values
        halves = values.reshape(heads, 2, self.head_width // 2, *values.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)

    def rope_factors(self) -> Floats | None:
        """(head_width / 2,): what each rotary frequency is divided by in Llama 3.1 and later; None elsewhere."""
        if _rope_type(self.rope) != "llama3":
            return None
        factor, low, high = (float(self.rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
        original = float(self.rope["original_max_position_embeddings"])
        theta = float(self.rope["rope_theta"])
        lengths = 2 * math.pi * theta ** (np.arange(0, self.head_width, 2, dtype=np.float64) / self.head_width)
        smooth = np.clip((original / lengths - low) / (high - low), 0.0, 1.0)
        return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)

    def describe(self, writer: "GGUFWriter") -> None:
        """Write the numbers."""
        import gguf

        writer.add_context_length(self.context)
        writer.add_embedding_length(self.width)
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(self.inner)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_key_length(self.head_width)
        writer.add_value_length(self.head_width)
        writer.add_layer_norm_rms_eps(float(self.config["rms_norm_eps"]))
        writer.add_rope_dimension_count(self.head_width)
        writer.add_rope_freq_base(float(self.rope["rope_theta"]))
        kind = _rope_type(self.rope)
        if kind in ("linear", "yarn"):
            writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
            writer.add_rope_scaling_factor(float(self.rope["factor"]))
        if kind == "yarn":
            writer.add_rope_scaling_orig_ctx_len(int(self.rope["original_max_position_embeddings"]))
            writer.add_rope_scaling_yarn_beta_fast(float(self.rope.get("beta_fast") or 32))
            writer.add_rope_scaling_yarn_beta_slow(float(self.rope.get("beta_slow") or 1))


def architecture(config: Mapping[str, Any]) -> Architecture:
    """What GGUF needs to know of the model with that config.json.

    Raises:
        Unsupported: llama.cpp would compute something else, or the architecture is not one of KNOWN.
        Invalid: a number is missing or is none.
    """
    kind = config.get("model_type")
    if kind not in KNOWN:
        known = ", ".join(sorted(KNOWN))
        raise Unsupported(
            f"无法将 {kind} 结构写成 GGUF；已知：{known}。可用 --as merged 导出后用 llama.cpp 自己的转换脚本",
            f"{kind} models cannot be written as GGUF; known: {known}. Export with --as merged and use llama.cpp's own "
            f"converter",
            architecture=str(kind)[:64],
        )
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise Unsupported(
            f"不支持激活函数 {config['hidden_act']}", f"llama.cpp computes silu, not {config['hidden_act']}"
        )
    try:
        heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
        return Architecture(
            name=KNOWN[kind],
            config=config,
            layers=int(config["num_hidden_layers"]),
            width=width,
            inner=int(config["intermediate_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_width=int(config.get("head_dim") or width // heads),
            interleaved=KNOWN[kind] == "llama",
            context=_context(config),
            rope=_rope(config),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise Invalid(f"config.json 缺少或无效：{error}", f"config.json: {error} is missing or no number") from error


def _context(config: Mapping[str, Any]) -> int:
    """Positions up to which llama.cpp, which knows no sliding window in these architectures, computes the same."""
    context = int(config["max_position_embeddings"])
    slides = config.get("use_sliding_window", True) and "full_attention" not in (config.get("layer_types") or ())
    window = config.get("sliding_window")
    return min(context, int(window)) if window and slides else context


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rotary embedding's numbers, wherever this age of transformers wrote them."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = {"rope_theta": config.get("rope_theta", 10_000.0), **given}
    kind = _rope_type(rope)
    rope.setdefault("original_max_position_embeddings", config.get("original_max_position_embeddings"))
    if rope["original_max_position_embeddings"] is None:
        rope["original_max_position_embeddings"] = config["max_position_embeddings"]
    odd = {key for key, value in given.items() if value is not None} - _YARN if kind == "yarn" else set()
    if kind not in ("default", "linear", "yarn", "llama3") or odd or float(rope.get("partial_rotary_factor") or 1) != 1:
        what = ", ".join(sorted(odd)) or str(kind)
        raise Unsupported(
            f"不支持该旋转位置编码：{what}", f"llama.cpp would rotate positions otherwise than this model: {what}"
        )
    return rope


def _rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")
