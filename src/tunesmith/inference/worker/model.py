"""A base model, loaded once: transformers' modelling code, our attention, cache and LoRA."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tunesmith.inference.worker.attention import Chunk, PackedAttention, Plan, decode_groups
from tunesmith.inference.worker.cache import Cache, Lease
from tunesmith.inference.worker.loading import faults_of_the_model, load, unsupported
from tunesmith.inference.worker.lora import Lora, Segment

_LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
_CHECK_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Step:
    """The tokens of one forward, in order.

    Attributes:
        tokens, positions: one a token.
        chunks: tokens that continue a prompt.
        decoding: (lease, index of its token) of each row that decodes.
        segments: which of the tokens wear an adapter.
        keep: indexes of the tokens whose logits are wanted.
    """

    tokens: Sequence[int]
    positions: Sequence[int]
    chunks: Sequence[Chunk]
    decoding: Sequence[tuple[Lease, int]]
    segments: Sequence[Segment]
    keep: Sequence[int]


class LanguageModel:
    """One base model, ready to run steps. Not thread-safe: steps belong to one thread.

    Args:
        folder: config.json, safetensors and tokenizer files; nothing is ever fetched or executed from it.
        cache_bytes: room for keys and values; None takes a share of the memory that is free.

    Raises:
        Invalid: the folder cannot be loaded.
        Unsupported: the architecture does something this engine does not compute.
        Unavailable: the machine is out of memory or cannot read the files.
    """

    def __init__(self, folder: Path, *, cache_bytes: int | None = None) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self._model = load(folder, self.dtype, self.device)
        with faults_of_the_model(), torch.inference_mode():
            self.config = self._model.config.get_text_config()
            self.vocabulary: int = self._model.get_output_embeddings().weight.shape[0]
            self.context = _context(self.config)
            self._attention = PackedAttention()
            self.lora = Lora(self._model)
            self._adopt(cache_bytes)

    def forward(self, step: Step) -> Tensor:
        """Run one step and write its keys and values; float32 logits of ``step.keep``, (kept, vocabulary).

        The leases' ``length`` is left for the caller to advance.
        """
        ids = torch.tensor([list(step.tokens), list(step.positions)], device=self.device)
        keep = torch.tensor(list(step.keep), dtype=torch.long, device=self.device)
        self._attention.plan = Plan(step.chunks, decode_groups(step.decoding, self.device))
        self.lora.segments = step.segments
        try:
            return self._logits(ids[:1], ids[1:], keep).float()
        finally:
            self._attention.plan, self.lora.segments = None, ()

    def _logits(self, tokens_1T: Tensor, positions_1T: Tensor, keep: Tensor | int) -> Tensor:
        logits: Tensor = self._model(
            input_ids=tokens_1T, position_ids=positions_1T, use_cache=False, logits_to_keep=keep
        ).logits
        return logits[0]

    def _adopt(self, cache_bytes: int | None) -> None:
        """Put our attention in, measure the layers, and prove on a few tokens that the result is unchanged."""
        from transformers import AttentionInterface

        tokens = [(7 * i + 1) % self.vocabulary for i in range(_CHECK_TOKENS)]
        ids = torch.tensor([tokens, list(range(_CHECK_TOKENS))], device=self.device)
        expected = self._logits(ids[:1], ids[1:], 1)[0].float()
        name = f"tunesmith-{id(self._attention):x}"
        AttentionInterface.register(name, self._attention)
        self._model.set_attn_implementation(name)
        self._logits(ids[:1], ids[1:], 1)
        shapes = [self._attention.shapes.get(layer) for layer in range(self.config.num_hidden_layers)]
        known = [shape for shape in shapes if shape is not None]
        if len(known) != len(shapes) or len(self._attention.shapes) != len(shapes):
            raise unsupported(self.config.model_type, "some layers do not use plain attention")
        limit = cache_bytes if cache_bytes is not None else _free_share(self.device)
        self.cache = Cache(known, self.context, limit=limit, dtype=self.dtype, device=self.device)
        found = self._replay(tokens)
        tolerance = 1e-3 if self.dtype == torch.float32 else 0.1
        if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())):
            raise unsupported(self.config.model_type, "its results change with this engine's attention")

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
