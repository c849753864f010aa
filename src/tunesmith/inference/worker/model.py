"""A base model, loaded once: our decoder or transformers' own code, our attention, cache and LoRA."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import structlog
import torch
from torch import Tensor, nn

from tunesmith.inference.worker.attention import Chunk, PackedAttention, Plan, decode_groups
from tunesmith.inference.worker.block import FAMILIES, Decoder
from tunesmith.inference.worker.cache import Cache
from tunesmith.inference.worker.loading import (
    architecture,
    caps_logits,
    faults_of_the_model,
    load,
    stored_dtype,
    unsupported,
)
from tunesmith.inference.worker.lora import Lora, Part, Site, WearingLinear
from tunesmith.inference.worker.native.program import program
from tunesmith.inference.worker.pages import let_go, trim
from tunesmith.inference.worker.precision import AUTO, choose, plain
from tunesmith.inference.worker.step import Step

_LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
_CHECK_TOKENS, _CHECK_LOGITS = 12, 1024

log = structlog.get_logger(__name__)


class Runs(Protocol):
    """What computes a step's logits: (kept, vocabulary), in the order of ``keep``."""

    def __call__(self, tokens_T: Tensor, positions_T: Tensor, keep: Sequence[int]) -> Tensor: ...


class LanguageModel:
    """One base model, ready to run steps. Not thread-safe: steps belong to one thread.

    Args:
        folder: config.json, safetensors and tokenizer files; nothing is ever fetched or executed from it.
        cache_bytes: room for keys and values; None takes a share of the memory that is free.
        precision: one of ``precision.NAMES``, or auto.

    Attributes:
        dtype: of activations, keys and values.
        fused: it runs as a ``Decoder``; otherwise on transformers' own code, which is slower.

    Raises:
        Invalid: the folder cannot be loaded.
        Unsupported: the architecture does something this engine does not compute.
        Unavailable: the machine is out of memory or cannot read the files.
    """

    def __init__(self, folder: Path, *, cache_bytes: int | None = None, precision: str = AUTO) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with faults_of_the_model(), torch.inference_mode():
            stored = stored_dtype(folder)
            self.precision = choose(precision, stored, self.device)
            self.fused = architecture(folder) in FAMILIES and not caps_logits(folder)
            refused = self._build(folder, stored, cache_bytes)
            if refused and self.fused:
                log.warning("not fused", reason=refused)
                self.fused = False
                refused = self._build(folder, stored, cache_bytes)
            if refused:
                raise unsupported(self.config.model_type, refused)
        trim()
        log.info("model", architecture=self.config.model_type, fused=self.fused, precision=self.precision.name)

    def forward(self, step: Step) -> Tensor:
        """Run one step and write its keys and values; float32 logits of ``step.keep``, (kept, vocabulary).

        The leases' ``length`` is left for the caller to advance.
        """
        ids = torch.tensor([list(step.tokens), list(step.positions)], device=self.device)
        if self._program is not None and self._program.takes(step):
            return self._program(ids[0], ids[1], step)
        self._attention.plan = Plan(step.chunks, decode_groups(step.decoding, self.device))
        self.lora.segments = step.segments
        try:
            return self._run(ids[0], ids[1], step.keep).float()
        finally:
            self._attention.plan, self.lora.segments = None, ()

    def _build(self, folder: Path, stored: torch.dtype, cache_bytes: int | None) -> str:
        """Load the model, put our attention in, measure the layers, and prove on a few tokens that nothing changed.

        Gives why that cannot be done, or "".
        """
        self.dtype = self.precision.computed
        hf = load(folder, stored if self.fused else self.dtype, self.device)
        if not self.fused:
            self.precision = plain(self.precision)
        exact = self.dtype == torch.float32 and self.precision.name != "int8"
        self.config = hf.config.get_text_config()
        self.vocabulary: int = hf.get_output_embeddings().weight.shape[0]
        self.context = _context(self.config)
        self.lora = Lora(self.dtype, self.device)
        self._attention = PackedAttention()
        tokens = [(7 * i + 1) % self.vocabulary for i in range(_CHECK_TOKENS)]
        expected, windows = self._measure(hf, tokens)
        layers = range(self.config.num_hidden_layers)
        if set(self._attention.shapes) != set(layers):
            return "some layers do not use plain attention"
        if hidden := [layer for layer in layers if _slides(self.config, layer) and windows[layer] is None]:
            return f"layer {hidden[0]} has a sliding window that only its mask knows"
        if getattr(self.config, "use_bidirectional_attention", None):
            return "its attention looks ahead"
        self._run: Runs = (
            Decoder(hf, self.precision, self.lora, self._attention, windows, self.context)
            if self.fused
            else Whole(hf, self.lora)
        )
        self._program = program(self._run) if isinstance(self._run, Decoder) else None
        del hf
        shapes = [self._attention.shapes[layer] for layer in layers]
        limit = cache_bytes if cache_bytes is not None else _free_share(self.device)
        self.cache = Cache(shapes, self.context, limit=limit, dtype=self.dtype, device=self.device)
        found = self._replay(tokens)[:_CHECK_LOGITS]
        wrong = torch.linalg.vector_norm(found - expected[:_CHECK_LOGITS])
        if wrong <= (1e-3 if exact else 0.3) * torch.linalg.vector_norm(expected[:_CHECK_LOGITS]):
            return ""
        return "its results change with this engine's attention"

    def _measure(self, hf: Any, tokens: list[int]) -> tuple[Tensor, dict[int, int | None]]:
        """The last token's first logits by transformers' own attention, and each layer's sliding window.

        Leaves our attention in the model, which knows the shape of every layer now.
        """
        from transformers import AttentionInterface

        windows: dict[int, int | None] = {}
        attention = self._attention

        def noting(module: Any, *given: Any, **options: Any) -> tuple[Tensor, None]:
            windows[module.layer_idx] = options.get("sliding_window")
            return attention(module, *given, **options)

        ids = torch.tensor([tokens, list(range(len(tokens)))], device=self.device)
        whole = Whole(hf)

        def last() -> Tensor:
            if hf.dtype != self.dtype:
                return _in_float32(hf, ids)
            return whole(ids[0], ids[1], [len(tokens) - 1])[0].float()

        expected = last()
        name = f"tunesmith-{id(self._attention):x}"
        AttentionInterface.register(name, noting)
        hf.set_attn_implementation(name)
        last()
        return expected, windows

    def _replay(self, tokens: list[int]) -> Tensor:
        """Logits of the last token when the others came in two chunks beside another row, and it decodes alone."""
        lease, other = self.cache.lease(len(tokens)), self.cache.lease(len(tokens))
        cut, last = len(tokens) // 2, len(tokens) - 1
        first = Step(
            tokens[:cut] + tokens[::-1],
            [*range(cut), *range(len(tokens))],
            [Chunk(lease, 0, cut, 0), Chunk(other, cut, cut + len(tokens), 0)],
            [],
            [],
            [0],
        )
        self.forward(first)
        self.forward(Step(tokens[cut:last], [*range(cut, last)], [Chunk(lease, 0, last - cut, cut)], [], [], [0]))
        lease.length, other.length = last, last
        both = Step([tokens[last], tokens[0]], [last, last], [], [(lease, 0), (other, 1)], [], [0])
        logits = self.forward(both)[0]
        self.cache.release(lease)
        self.cache.release(other)
        return logits


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
    bias = None if head.bias is None else head.bias[:_CHECK_LOGITS].float()
    return nn.functional.linear(found, head.weight[:_CHECK_LOGITS].float(), bias)


def _slides(config: Any, layer: int) -> bool:
    """That layer attends to the last tokens only."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return bool(kinds[layer] == "sliding_attention")
    window = getattr(config, "sliding_window", None)
    return window is not None and window < (getattr(config, "max_position_embeddings", None) or window + 1)


class Whole:
    """Transformers' own code, whatever the architecture.

    Args:
        lora: gets every linear layer but the output head; None leaves the model as it is.
    """

    def __init__(self, hf: Any, lora: Lora | None = None) -> None:
        self._hf = hf
        head = hf.get_output_embeddings()
        if lora is None:
            return
        for name, module in hf.named_modules():
            if isinstance(module, nn.Linear) and module is not head:
                parts = (Part(name, 0, module.out_features),)
                site = Site(module.in_features, parts, module.bias, module.weight.float)
                lora.adopt(site)
                module.forward = WearingLinear(lora, site, module.forward)

    def __call__(self, tokens_T: Tensor, positions_T: Tensor, keep: Sequence[int]) -> Tensor:
        logits: Tensor = self._hf(
            input_ids=tokens_T[None],
            position_ids=positions_T[None],
            use_cache=False,
            logits_to_keep=torch.tensor(keep, device=tokens_T.device),
        ).logits
        return logits[0]


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


def _free_share(device: torch.device) -> int:
    """Bytes for the cache: two fifths of what a GPU has left, a third of what the machine has left."""
    # Slots are made in doubling numbers, so up to twice what is reserved may be allocated.
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * 0.4)
    import psutil

    return int(psutil.virtual_memory().available // 3)
