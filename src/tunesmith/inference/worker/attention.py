"""One attention function for a packed step: prefill chunks and single decode tokens of many rows, side by side.

Transformers' own modelling code computes everything else. It hands this function the queries, keys and values of all T
tokens of a step, (1, heads, T, width); a ``Plan`` says which token belongs to which lease and position.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.inference.worker.cache import Arena, LayerShape, Lease
from tunesmith.kernel.problems import Unsupported

# Arguments that change the result and that this function does not compute.
_FOREIGN = ("softcap", "s_aux", "sinks", "position_bias", "attention_bias", "alibi", "block_table", "indexer")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [begin, end) of the step continue the prompt of ``lease`` at position ``start``."""

    lease: Lease
    begin: int
    end: int
    start: int


@dataclass(slots=True)
class Group:
    """Rows of one arena that decode one token each.

    Attributes:
        low, high: the slots looked at; those between that do not decode get a query too, whose answer is dropped.
        queries: index of the step's token for each slot in [low, high).
        tokens, slots, positions: index, slot and position of each token that really decodes.
        exact: the longest row ends at ``length``; otherwise all of them may end before.
    """

    arena: Arena
    low: int
    high: int
    length: int
    queries: Tensor
    tokens: Tensor
    slots: Tensor
    positions: Tensor
    limits: Tensor  # last position each slot in [low, high) may look at
    full: bool  # every slot in [low, high) decodes
    exact: bool = True
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict)

    def mask(self, window: int | None) -> Tensor | None:
        """Which of the ``length`` cached positions each slot may see, (slots, 1, 1, length); None for all of them."""
        if window not in self._masks:
            at = torch.arange(self.length, device=self.limits.device)[None]
            seen = at <= self.limits[:, None]
            if window is not None:
                seen &= at > self.limits[:, None] - window
            alone = self.exact and window is None and self.high - self.low == 1
            self._masks[window] = None if alone else seen[:, None, None]
        return self._masks[window]


@dataclass(frozen=True, slots=True)
class Plan:
    """Who owns which tokens of a step."""

    chunks: Sequence[Chunk]
    groups: Sequence[Group]

    @property
    def longest(self) -> int:
        """More than every position of the step."""
        stops = [chunk.start + chunk.end - chunk.begin for chunk in self.chunks]
        return max(stops + [group.length for group in self.groups], default=0)


def decode_groups(decoding: Sequence[tuple[Lease, int]], device: torch.device) -> list[Group]:
    """Group rows that decode one token by the arena they lie in.

    Args:
        decoding: for each row its lease, whose ``length`` is the position of the new token, and the token's index.
    """
    by_arena: dict[int, list[tuple[Lease, int]]] = {}
    for lease, token in decoding:
        by_arena.setdefault(id(lease.arena), []).append((lease, token))
    groups = []
    for members in by_arena.values():
        members.sort(key=lambda member: member[0].slot)
        slots = [lease.slot for lease, _ in members]
        low, high = slots[0], slots[-1] + 1
        queries, limits = [members[0][1]] * (high - low), [0] * (high - low)
        for lease, token in members:
            queries[lease.slot - low], limits[lease.slot - low] = token, lease.length
        table = torch.tensor([[token, lease.slot, lease.length] for lease, token in members], device=device)
        spread = torch.tensor([queries, limits], device=device)
        groups.append(
            Group(
                arena=members[0][0].arena,
                low=low,
                high=high,
                length=max(limits) + 1,
                queries=spread[0],
                tokens=table[:, 0],
                slots=table[:, 1],
                positions=table[:, 2],
                limits=spread[1],
                full=len(members) == high - low,
            )
        )
    return groups


class PackedAttention:
    """Registered with transformers under a name of its own; ``plan`` is set for the duration of one forward.

    Without a plan it attends causally over the given tokens alone and notes every layer's shape: how a cache for a
    model is measured.
    """

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.shapes: dict[int, LayerShape] = {}

    def __call__(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """Attention output (1, T, heads, width), as the attention interface wants it."""
        foreign = [name for name in _FOREIGN if options.get(name) is not None]
        if foreign or attention_mask is not None or options.get("is_causal") is False:
            what = ", ".join(foreign) or "mask"
            raise Unsupported(
                f"内置引擎不支持该模型的注意力机制（{what}）",
                f"the built-in engine does not support this model's attention ({what})",
            )
        layer: int = module.layer_idx
        if self.plan is None:
            self.shapes[layer] = LayerShape(key.shape[1], key.shape[3], value.shape[3])
            return _causal(query, key, value, scaling, sliding_window).transpose(1, 2), None
        out = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
        for chunk in self.plan.chunks:
            _prefill(layer, chunk, query, key, value, out, scaling, sliding_window)
        for group in self.plan.groups:
            _decode(layer, group, query, key, value, out, scaling, sliding_window)
        return out, None


def _causal(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None) -> Tensor:
    """Attention of the last tokens of a sequence over all of it; (1, heads, tokens, width)."""
    new, total = query.shape[2], key.shape[2]
    mask = None
    if new != total or window is not None:
        at = torch.arange(total, device=query.device)
        here = at[total - new :, None]
        mask = at[None] <= here
        if window is not None:
            mask &= at[None] > here - window
    if query.device.type == "cuda" and (mask is not None or query.dtype == torch.float32):
        return _by_key_head(query, key, value, mask, scaling)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )


def _by_key_head(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """The same as one attention a key-value head. CUDA's fused kernels take fewer of those than of query heads neither
    with a mask nor in float32; torch would hold all scores at once instead.
    """
    kv_heads, shared = key.shape[1], query.shape[1] // key.shape[1]
    q = query[0].unflatten(0, (kv_heads, shared))
    k, v = (x[0][:, None].expand(-1, shared, -1, -1) for x in (key, value))  # a view
    seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling)
    return seen.flatten(0, 1)[None]


def _prefill(
    layer: int, chunk: Chunk, query: Tensor, key: Tensor, value: Tensor, out: Tensor, scale: float | None, w: int | None
) -> None:
    begin, end, stop = chunk.begin, chunk.end, chunk.start + chunk.end - chunk.begin
    keys, values = chunk.lease.arena.keys[layer], chunk.lease.arena.values[layer]
    slot = chunk.lease.slot
    keys[slot, :, chunk.start : stop] = key[0, :, begin:end]
    values[slot, :, chunk.start : stop] = value[0, :, begin:end]
    k, v = (tensor[slot, None, :, :stop].to(query.dtype) for tensor in (keys, values))  # the cache's may be narrower
    seen = _causal(query[:, :, begin:end], k, v, scale, w)
    out[:, begin:end] = seen.transpose(1, 2)


def _decode(
    layer: int, group: Group, query: Tensor, key: Tensor, value: Tensor, out: Tensor, scale: float | None, w: int | None
) -> None:
    keys, values = group.arena.keys[layer], group.arena.values[layer]
    keys[group.slots, :, group.positions] = key[0][:, group.tokens].transpose(0, 1)
    values[group.slots, :, group.positions] = value[0][:, group.tokens].transpose(0, 1)
    low, high, kv_heads = group.low, group.high, key.shape[1]
    heads = query.shape[1]
    # The query heads that share a key-value head become query rows of it: nothing is repeated in memory.
    q = query[0][:, group.queries].transpose(0, 1).reshape(high - low, kv_heads, heads // kv_heads, query.shape[3])
    k, v = (tensor[low:high, :, : group.length].to(query.dtype) for tensor in (keys, values))
    seen = F.scaled_dot_product_attention(q, k, v, attn_mask=group.mask(w), scale=scale)
    seen = seen.reshape(high - low, heads, value.shape[3])
    out[0, group.tokens] = seen if group.full else seen[group.slots - low]
