"""A decoder of the Llama family as a few large products a layer, for all tokens of a step at once.

Qwen2 and 2.5, Qwen3, Llama 2 and 3, Mistral, Gemma, Gemma 3 and Phi-3 differ in norms, biases, activations and rotary
embeddings; everything that differs is read off transformers' own modules, whose weights move here layer by layer.
Transformers' code stays what the result is checked against when a model is loaded (``model.py``).
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tunesmith.inference.worker.attention import PackedAttention
from tunesmith.inference.worker.embedding import Embedding
from tunesmith.inference.worker.lora import Lora, Part, Site
from tunesmith.inference.worker.pages import let_go, trim
from tunesmith.inference.worker.precision import Precision
from tunesmith.inference.worker.weights import Kernel, pack, sliced

FAMILIES = frozenset({"gemma", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3"})
_PACKED_AT_ONCE = 4
_UNITS = 512  # unit vectors at once
_TABLE = 1 << 14  # positions whose rotations are kept; a power of two
_PLUS_ONE = frozenset({"gemma", "gemma3_text"})  # norms whose weights are kept as their distance from one


@dataclass(frozen=True, slots=True)
class Norm:
    """Root mean square norm (arXiv:1910.07467). ``weight``: (width,)."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """One matrix product with the adapters of its rows."""

    kernel: Kernel
    site: Site
    lora: Lora

    def __call__(self, x_TI: Tensor) -> Tensor:
        y = self.kernel(x_TI)
        return self.lora.add(self.site, x_TI, y) if self.lora.segments else y


@dataclass(frozen=True, slots=True)
class Attention:
    """Attributes:
    layer_idx: which keys and values of the cache are its own.
    rotary: which rotary embedding it uses, where a model has several.
    """

    layer_idx: int
    qkv: Product
    out: Product
    heads: int
    kv_heads: int
    width: int
    q_norm: Norm | None
    k_norm: Norm | None
    scaling: float
    window: int | None
    rotary: str | None


@dataclass(frozen=True, slots=True)
class Layer:
    """Norms before and, in Gemma 3, after attention and MLP, and what lies between."""

    before_attention: Norm
    attention: Attention
    after_attention: Norm | None
    before_mlp: Norm
    gate_up: Product
    down: Product
    activation: Callable[[Tensor], Tensor]
    after_mlp: Norm | None


class Decoder:
    """Takes the weights out of a transformers model, layer by layer; the model cannot be used afterwards.

    Args:
        hf: of one of ``FAMILIES``, on its device.
        lora: gets every place an adapter can be worn.
        windows: the sliding window of each layer, as transformers' code passes it on.
        context: no row is longer. Some rotary embeddings change once they were asked for more.

    Attributes:
        embedding, layers, norm, head: what a step passes, in this order.
    """

    def __init__(
        self,
        hf: Any,
        precision: Precision,
        lora: Lora,
        attend: PackedAttention,
        windows: Mapping[int, int | None],
        context: int,
    ) -> None:
        config = hf.config.get_text_config()
        self._precision, self._lora, self._attend, self._context = precision, lora, attend, context
        self._plus_one = config.model_type in _PLUS_ONE
        self._shape = (config.num_attention_heads, config.num_key_value_heads)
        self._rotary = hf.model.rotary_emb
        self._tables: dict[str | None, Tensor] = {}  # cosines and sines, (2, positions, 1, width)
        embeddings = hf.model.embed_tokens.weight.detach()
        head = hf.get_output_embeddings()  # first: nothing else takes as much to pack
        self.head = sliced(head.weight.detach(), head.bias, precision)
        tied = head.weight.data_ptr() == embeddings.data_ptr()
        scale = float(getattr(hf.model.embed_tokens, "scalar_embed_scale", 1.0))
        self.embedding = Embedding(embeddings, self.head if tied else None, scale, precision.computed)

        def taken(index: int) -> Layer:
            with torch.inference_mode():  # each thread has its own setting
                layer = hf.model.layers[index]
                made = self._layer(layer, index, windows.get(index))
                hf.model.layers[index] = nn.Identity()  # its weights are freed before the next layer's are packed
                let_go(layer.parameters())
                trim()
                return made

        # packing is a copy on one core; several layers at once, but not many, since each is widened meanwhile
        with ThreadPoolExecutor(min(_PACKED_AT_ONCE, torch.get_num_threads())) as pool:
            self.layers = list(pool.map(taken, range(len(hf.model.layers))))
        self.norm = self._normed(hf.model.norm)
        self._kinds = {layer.attention.rotary for layer in self.layers}

    @property
    def nbytes(self) -> int:
        """Bytes of weights that every step reads."""
        parts = (p for one in self.layers for p in (one.attention.qkv, one.attention.out, one.gate_up, one.down))
        return sum(part.kernel.nbytes for part in parts) + self.head.nbytes

    def __call__(self, tokens_T: Tensor, positions_T: Tensor, keep: Sequence[int]) -> Tensor:
        """Logits of the tokens ``keep``, rising, (kept, vocabulary)."""
        plan = self._attend.plan
        assert plan is not None
        x = self.embedding(tokens_T)
        longest = plan.longest  # asking the positions would wait for the device
        rotations = {kind: self.rotation(positions_T, kind, longest) for kind in self._kinds}
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            cos, sin = rotations[layer.attention.rotary]
            y = self._attention(layer.attention, layer.before_attention(x), cos, sin)
            if index == last and len(keep) < len(x):  # nobody looks at the others any more
                x, y = x[list(keep)], y[list(keep)]
                self._lora.keep(keep)
            y = layer.attention.out(y)
            x = x + (y if layer.after_attention is None else layer.after_attention(y))
            gate, up = layer.gate_up(layer.before_mlp(x)).chunk(2, dim=-1)
            y = layer.down(layer.activation(gate) * up)
            x = x + (y if layer.after_mlp is None else layer.after_mlp(y))
        logits: Tensor = self.head(self.norm(x))
        return logits

    def _attention(self, it: Attention, x_TI: Tensor, cos_T1D: Tensor, sin_T1D: Tensor) -> Tensor:
        qkv = it.qkv(x_TI)
        tokens, turned = len(x_TI), it.heads + it.kv_heads
        qk = qkv[:, : turned * it.width].view(tokens, turned, it.width)
        if it.q_norm is not None and it.k_norm is not None:
            qk = torch.cat((it.q_norm(qk[:, : it.heads]), it.k_norm(qk[:, it.heads :])), dim=1)
        qk = _rotate(qk, cos_T1D, sin_T1D).transpose(0, 1)[None]
        v = qkv[:, turned * it.width :].view(tokens, it.kv_heads, it.width).transpose(0, 1)[None]
        seen, _ = self._attend(
            it, qk[:, : it.heads], qk[:, it.heads :], v, None, scaling=it.scaling, sliding_window=it.window
        )
        return seen.reshape(tokens, it.heads * it.width)

    def rotation(self, positions_T: Tensor, kind: str | None, longest: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines for (tokens, 1, width); the first half of the sines is negative, see ``_rotate``.

        Args:
            longest: more than every position.
        """
        table = self.rotations(kind, longest, positions_T.device)
        if table is None:
            return self.turns(positions_T, kind)
        cos, sin = table.index_select(1, positions_T)
        return cos, sin

    def tabulated(self, device: torch.device) -> int:
        """Make the tables of rotations as long as they will ever be, so that they stay where they are; how long."""
        longest = min(self._context, _TABLE)
        for kind in self._kinds:
            self.rotations(kind, longest, device)
        return longest

    def rotations(self, kind: str | None, longest: int, device: torch.device) -> Tensor | None:
        """Cosines and sines for all positions below ``longest``, if not for more, (2, positions, 1, width); None where
        these are too many to be kept.
        """
        if longest > _TABLE:
            return None
        table = self._tables.get(kind)
        if table is None or longest > table.shape[1]:
            size = min(1 << max(8, (longest - 1).bit_length()), max(longest, self._context))
            table = self._tables[kind] = torch.stack(self.turns(torch.arange(size, device=device), kind))
        return table

    def turns(self, positions_T: Tensor, kind: str | None) -> tuple[Tensor, Tensor]:
        """``rotation`` of these positions, computed for them."""
        like = torch.empty(0, dtype=self._precision.computed, device=positions_T.device)
        cos, sin = self._rotary(like, positions_T[None], *(() if kind is None else (kind,)))
        half = sin.shape[-1] // 2
        return cos[0][:, None], torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)[:, None]

    def _layer(self, layer: Any, index: int, window: int | None) -> Layer:
        four_norms = hasattr(layer, "pre_feedforward_layernorm")
        after_attention = self._normed(layer.post_attention_layernorm)
        mlp = layer.mlp
        gate_up = ("gate_up_proj",) if hasattr(mlp, "gate_up_proj") else ("gate_proj", "up_proj")
        return Layer(
            before_attention=self._normed(layer.input_layernorm),
            attention=self._attention_of(layer.self_attn, index, window),
            after_attention=after_attention if four_norms else None,
            before_mlp=self._normed(layer.pre_feedforward_layernorm) if four_norms else after_attention,
            gate_up=self._product(f"{index}.mlp", mlp, gate_up),
            down=self._product(f"{index}.mlp", mlp, ("down_proj",)),
            activation=mlp.activation_fn if hasattr(mlp, "activation_fn") else mlp.act_fn,
            after_mlp=self._normed(layer.post_feedforward_layernorm) if four_norms else None,
        )

    def _attention_of(self, module: Any, index: int, window: int | None) -> Attention:
        heads, kv_heads = self._shape
        names = ("qkv_proj",) if hasattr(module, "qkv_proj") else ("q_proj", "k_proj", "v_proj")
        by_kind = hasattr(self._rotary, "layer_types")
        return Attention(
            layer_idx=index,
            qkv=self._product(f"{index}.self_attn", module, names),
            out=self._product(f"{index}.self_attn", module, ("o_proj",)),
            heads=heads,
            kv_heads=kv_heads,
            width=module.head_dim,
            q_norm=self._normed(module.q_norm) if hasattr(module, "q_norm") else None,
            k_norm=self._normed(module.k_norm) if hasattr(module, "k_norm") else None,
            scaling=module.scaling,
            window=window,
            rotary=module.layer_type if by_kind else None,
        )

    def _product(self, place: str, module: Any, names: Sequence[str]) -> Product:
        linears = [getattr(module, name) for name in names]
        parts, begin = [], 0
        for name, linear in zip(names, linears, strict=True):
            parts.append(Part(f"model.layers.{place}.{name}", begin, begin + linear.out_features))
            begin += linear.out_features
        weights = [linear.weight.detach() for linear in linears]
        biases = [torch.zeros(one.out_features) if one.bias is None else one.bias.detach() for one in linears]
        bias = torch.cat([b.to(weights[0]) for b in biases]) if any(one.bias is not None for one in linears) else None
        kernel, inputs = pack(weights, bias, self._precision), linears[0].in_features
        kept = None if bias is None else bias.to(self._precision.computed)
        like = torch.empty(0, dtype=self._precision.computed, device=weights[0].device)
        site = Site(inputs, tuple(parts), kept, _Unpacked(kernel, inputs, kept, like))
        self._lora.adopt(site)
        return Product(kernel, site, self._lora)

    def _normed(self, module: Any) -> Norm:
        weight = module.weight.detach().float() + (1.0 if self._plus_one else 0.0)
        eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
        return Norm(weight.to(self._precision.computed), float(eps))


@dataclass(frozen=True, slots=True, eq=False)
class _Unpacked:
    """The weight inside a kernel, whatever its layout: what the kernel makes of the unit vectors.

    Attributes:
        like: of the kernel's inputs: their numbers and their device.
    """

    kernel: Kernel
    inputs: int
    bias: Tensor | None
    like: Tensor

    def __call__(self) -> Tensor:
        columns = []
        for begin in range(0, self.inputs, _UNITS):
            units = self.like.new_zeros(min(_UNITS, self.inputs - begin), self.inputs)
            units.diagonal(begin).fill_(1)
            column = self.kernel(units).float()
            columns.append(column if self.bias is None else column - self.bias.float())
        return torch.cat(columns).t()


def _rotate(x_THD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (arXiv:2104.09864) of the first ``cos.shape[-1]`` numbers of each head; the others stay."""
    width = cos.shape[-1]
    turned = x_THD[..., :width]
    half = width // 2
    swapped = torch.cat((turned[..., half:], turned[..., :half]), dim=-1)
    rotated = torch.addcmul(turned * cos, swapped, sin)
    return rotated if width == x_THD.shape[-1] else torch.cat((rotated, x_THD[..., width:]), dim=-1)
