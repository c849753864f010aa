"""A base model, loaded once: our decoder or transformers' own code, our attention, cache and LoRA."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import structlog
import torch
from torch import Tensor, nn

from tunesmith.inference.worker.attention import Chunk, PackedAttention, Plan, decode_groups
from tunesmith.inference.worker.block import FAMILIES, Decoder
from tunesmith.inference.worker.cache import Cache
from tunesmith.inference.worker.graphs import Graphs, recorder
from tunesmith.inference.worker.loading import (
    architecture,
    caps_logits,
    faults_of_the_model,
    stored_dtype,
    unsupported,
)
from tunesmith.inference.worker.lora import Lora, Part, Segment, Site, WearingLinear
from tunesmith.inference.worker.native.program import program
from tunesmith.inference.worker.pages import trim
from tunesmith.inference.worker.precision import AUTO, Precision, choose, plain
from tunesmith.inference.worker.recording import Known
from tunesmith.inference.worker.step import Predictions, Step
from tunesmith.inference.worker.surveys import LOGITS, Whole, survey

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
        records: where it is kept what transformers says of models; None asks it each time.
        eager: record no steps as CUDA graphs.

    Attributes:
        dtype: of activations. The cache has one of its own.
        fused: it runs as a ``Decoder``; otherwise on transformers' own code, which is slower.

    Raises:
        Invalid: the folder cannot be loaded.
        Unsupported: the architecture does something this engine does not compute.
        Unavailable: the machine is out of memory or cannot read the files.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cache_bytes: int | None = None,
        precision: str = AUTO,
        records: Path | None = None,
        eager: bool = False,
    ) -> None:
        self._eager = eager
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with faults_of_the_model(), torch.inference_mode():
            stored = stored_dtype(folder)
            self.precision = choose(precision, stored, self.device)
            self.fused = architecture(folder) in FAMILIES and not caps_logits(folder)
            known = Known(folder, records) if records and self.fused and self.device.type == "cpu" else None
            refused = self._build(folder, stored, cache_bytes, known)
            if refused and known is not None and known.distrust():
                log.warning("the record is wrong", reason=refused)
                refused = self._build(folder, stored, cache_bytes, None)
            if refused and self.fused:
                log.warning("not fused", reason=refused)
                self.fused = False
                refused = self._build(folder, stored, cache_bytes, None)
            if refused:
                raise unsupported(self.architecture, refused)
        trim()
        facts: dict[str, object] = {
            "fused": self.fused,
            "precision": self.precision.name,
            "graphs": bool(self._graphs and self._graphs.on),
        }
        if isinstance(self._run, Decoder):
            facts["weights_mb"] = round(self._run.nbytes / 1e6)
        log.info("model", architecture=self.architecture, **facts)

    def forward(self, step: Step) -> Predictions:
        """Run one step and write its keys and values.

        The leases' ``length`` is left for the caller to advance.
        """
        if self._graphs is not None and (logits := self._graphs.run(step)) is not None:
            return Predictions(logits)
        if self._program is not None and self._program.takes(step):
            return self._program(step)
        ids = torch.from_numpy(np.array((step.tokens, step.positions), dtype=np.int64)).to(self.device)
        plan = Plan(step.chunks, decode_groups(step.decoding, self.device))
        return Predictions(self._computed(ids[0], ids[1], plan, step.segments, step.keep).float())

    def _computed(
        self, tokens_T: Tensor, positions_T: Tensor, plan: Plan, segments: Sequence[Segment], keep: Sequence[int]
    ) -> Tensor:
        """Logits of the tokens ``keep`` through torch, in the numbers computed with."""
        self._attention.plan, self.lora.segments = plan, segments
        try:
            return self._run(tokens_T, positions_T, keep)
        finally:
            self._attention.plan, self.lora.segments = None, ()

    def _build(self, folder: Path, stored: torch.dtype, cache_bytes: int | None, known: Known | None) -> str:
        """Put our attention in, measure the layers, and prove on a few tokens that nothing changed.

        Gives why that cannot be done, or "".

        Args:
            known: where the model's record is; None asks transformers.
        """
        if not self.fused:
            self.precision = plain(self.precision)
        self.dtype = self.precision.computed
        held = stored if self.fused else self.dtype
        self._attention = PackedAttention()
        found = (
            survey(folder, held, self.dtype, self.device, self._attention)
            if known is None
            else known.survey(held, self.dtype, self._attention)
        )
        self.architecture, self.vocabulary, self.context = found.architecture, found.vocabulary, found.context
        self.lora = Lora(self.dtype, self.device)
        self._run: Runs = (
            Decoder(found.model, self.precision, self.lora, self._attention, found.windows, self.context)
            if self.fused
            else Wearing(found.model, self.lora)
        )
        self._program = program(self._run) if isinstance(self._run, Decoder) else None
        limit = cache_bytes if cache_bytes is not None else _free_share(self.device)
        cached = self._program.cached if self._program is not None else self.dtype
        self._graphs = self._recording()
        settled = self._graphs is not None
        self.cache = Cache(found.shapes, self.context, limit=limit, dtype=cached, device=self.device, settled=settled)
        wrong = torch.linalg.vector_norm(self._replay(found.tokens)[:LOGITS] - found.expected)
        if wrong <= _allowed(self.precision) * torch.linalg.vector_norm(found.expected):
            return ""
        return "its results change with this engine's attention"

    def _recording(self) -> Graphs | None:
        """What records the decoder's steps, where there is anything to gain from it."""
        record = None if self._eager or self._program is not None else recorder(self.device)
        if record is None or not isinstance(self._run, Decoder):
            return None
        longest = self._run.tabulated(self.device)
        return Graphs(
            self._computed, record,
            vocabulary=self.vocabulary, dtype=self.dtype, device=self.device, longest=longest,
        )  # fmt: skip

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
        logits = self.forward(both).logits[0]
        if self._graphs is not None:
            self._graphs.prove(replace(both, keep=[0, 1]), logits, _allowed(self.precision))
        self.cache.release(lease)
        self.cache.release(other)
        return logits


class Wearing(Whole):
    """Transformers' own code, whose linear layers, but for the output head, wear adapters."""

    def __init__(self, hf: Any, lora: Lora) -> None:
        super().__init__(hf)
        head = hf.get_output_embeddings()
        for name, module in hf.named_modules():
            if isinstance(module, nn.Linear) and module is not head:
                parts = (Part(name, 0, module.out_features),)
                site = Site(module.in_features, parts, module.bias, module.weight.float)
                lora.adopt(site)
                module.forward = WearingLinear(lora, site, module.forward)


def _allowed(precision: Precision) -> float:
    """How far logits may be from transformers' own in the numbers computed with, as a share of them."""
    if precision.computed == torch.float32 and precision.name == "bfloat16":
        return 0.1  # a quarter of what rounding weights to 8 bits loses
    return 1e-3 if precision.computed == torch.float32 and precision.name != "int8" else 0.3


def _free_share(device: torch.device) -> int:
    """Bytes for the cache: two fifths of what a GPU has left, a third of what the machine has left."""
    # Slots are made in doubling numbers, so up to twice what is reserved may be allocated.
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * 0.4)
    import psutil

    return int(psutil.virtual_memory().available // 3)
