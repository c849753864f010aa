"""What transformers says of a model: the logits it computes, and the shape of every layer's attention.

Our engine has to give the same logits. Asking transformers takes seconds and a hundred megabytes, so what it said is
kept (``records.py``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.inference.worker.attention import PackedAttention
from tunesmith.inference.worker.cache import LayerShape
from tunesmith.inference.worker.loading import load, unsupported
from tunesmith.inference.worker.pages import let_go

LOGITS = 1024  # of the last token, are compared
_LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of a model before its weights are packed.

    Attributes:
        model: transformers' own, with our attention in it, or what a record keeps of it.
        context: most tokens of prompt and completion together.
        shapes: what each layer keeps of a token.
        windows: the sliding window of each layer, as transformers' code passes it on.
        expected: the first logits of the last of ``tokens``, by transformers' own code.
    """

    model: Any
    architecture: str
    vocabulary: int
    context: int
    shapes: Sequence[LayerShape]
    windows: Mapping[int, int | None]
    expected: Tensor

    @property
    def tokens(self) -> list[int]:
        """What the logits are asked of."""
        return [(7 * i + 1) % self.vocabulary for i in range(_TOKENS)]


def survey(
    folder: Path, held: torch.dtype, computed: torch.dtype, device: torch.device, attention: PackedAttention
) -> Survey:
    """Load the model as transformers does, ask it for its logits, and put ``attention`` in.

    Args:
        held: numbers its weights are loaded as. computed: what the engine computes with.

    Raises:
        Unsupported: our attention cannot stand in for its own.
        Invalid, Unavailable: see ``load``.
    """
    hf = load(folder, held, device)
    config = hf.config.get_text_config()
    vocabulary: int = hf.get_output_embeddings().weight.shape[0]
    tokens = [(7 * i + 1) % vocabulary for i in range(_TOKENS)]
    expected, windows = _measured(hf, tokens, computed, attention)
    layers = range(config.num_hidden_layers)
    if set(attention.shapes) != set(layers):
        raise unsupported(config.model_type, "some layers do not use plain attention")
    if hidden := [layer for layer in layers if _slides(config, layer) and windows[layer] is None]:
        raise unsupported(config.model_type, f"layer {hidden[0]} has a sliding window that only its mask knows")
    if getattr(config, "use_bidirectional_attention", None):
        raise unsupported(config.model_type, "its attention looks ahead")
    shapes = [attention.shapes[layer] for layer in layers]
    return Survey(hf, config.model_type, vocabulary, _context(config), shapes, windows, expected[:LOGITS])


class Whole:
    """Transformers' own code, whatever the architecture: a step's logits of the tokens ``keep``."""

    def __init__(self, hf: Any) -> None:
        self._hf = hf

    def __call__(self, tokens_T: Tensor, positions_T: Tensor, keep: Sequence[int]) -> Tensor:
        logits: Tensor = self._hf(
            input_ids=tokens_T[None],
            position_ids=positions_T[None],
            use_cache=False,
            logits_to_keep=torch.tensor(keep, device=tokens_T.device),
        ).logits
        return logits[0]


def _measured(
    hf: Any, tokens: list[int], computed: torch.dtype, attention: PackedAttention
) -> tuple[Tensor, dict[int, int | None]]:
    """The last token's first logits by transformers' own attention, and each layer's sliding window.

    Leaves our attention in the model, which knows the shape of every layer now.
    """
    from transformers import AttentionInterface

    windows: dict[int, int | None] = {}

    def noting(module: Any, *given: Any, **options: Any) -> tuple[Tensor, None]:
        windows[module.layer_idx] = options.get("sliding_window")
        return attention(module, *given, **options)

    ids = torch.tensor([tokens, list(range(len(tokens)))], device=hf.device)
    whole = Whole(hf)

    def last() -> Tensor:
        if hf.dtype != computed:
            return _in_float32(hf, ids)
        return whole(ids[0], ids[1], [len(tokens) - 1])[0].float()

    expected = last()
    name = f"tunesmith-{id(attention):x}"
    AttentionInterface.register(name, noting)
    hf.set_attn_implementation(name)
    last()
    return expected, windows


def _in_float32(hf: Any, ids: Tensor) -> Tensor:
    """The last token's first logits, computed in float32 with weights of fewer bits, one layer widened at a time."""
    hooks = []
    for module in (*hf.model.layers, hf.model.norm):
        kept = [(weight, weight.data) for weight in module.parameters()]

        def widen(it: Any, given: Any, kept: Any = kept) -> None:
            for weight, narrow in kept:
                weight.data = narrow.float()

        def narrow_again(it: Any, given: Any, out: Any, kept: Any = kept) -> None:
            for weight, narrow in kept:
                weight.data = narrow
            let_go(narrow for _, narrow in kept)

        hooks += [module.register_forward_pre_hook(widen), module.register_forward_hook(narrow_again)]
    embeddings, head = hf.model.embed_tokens, hf.get_output_embeddings()
    scale = float(getattr(embeddings, "scalar_embed_scale", 1.0))
    wide = nn.functional.embedding  # widened before it is scaled, as the block does
    hooks.append(embeddings.register_forward_hook(lambda it, given, out: wide(given[0], it.weight).float() * scale))
    try:
        found = hf.model(input_ids=ids[:1], position_ids=ids[1:], use_cache=False).last_hidden_state[0, -1]
    finally:
        for hook in hooks:
            hook.remove()
    bias = None if head.bias is None else head.bias[:LOGITS].float()
    return nn.functional.linear(found, head.weight[:LOGITS].float(), bias)


def _slides(config: Any, layer: int) -> bool:
    """That layer attends to the last tokens only."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return bool(kinds[layer] == "sliding_attention")
    window = getattr(config, "sliding_window", None)
    return window is not None and window < (getattr(config, "max_position_embeddings", None) or window + 1)


def _context(config: Any) -> int:
    """Most tokens of prompt and completion together.

    Rotary embeddings that change with the length of what else is in the step would make rows depend on each other, so
    such models are used up to the length where they do not change.
    """
    context = int(getattr(config, "max_position_embeddings", 0) or 2048)
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if parameters.get("rope_type") in _LENGTH_DEPENDENT_ROPE:
            original = parameters.get("original_max_position_embeddings")
            context = min(context, int(original or context))
    return context
