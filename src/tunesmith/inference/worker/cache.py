"""The key-value cache: every row leases a slot that grows with it, and the memory goes back when rows leave.

Slots lie in arenas, one for each capacity (256, 512, ... tokens, the last one the context length). A row starts in the
smallest arena that holds it and moves up when it outgrows it. The leases of an arena always occupy its first slots, so
attention reads a plain view ``k[:n, :, :length]`` and nothing is gathered.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tunesmith.inference.worker.pages import trim

_SMALLEST = 256
_MOST_SETTLED = 64  # slots


def out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python says that there is no memory; torch's CPU allocator has no error of its own for it."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in str(error).lower()


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps for each token: ``heads`` keys of ``key`` numbers and values of ``value`` numbers."""

    heads: int
    key: int
    value: int


@dataclass(slots=True, eq=False)
class Lease:
    """One row's part of the cache: ``slot`` of ``arena``, whose first ``length`` tokens are written."""

    arena: "Arena"
    slot: int
    length: int = 0


class Arena:
    """Slots of ``capacity`` tokens each; the first ``len(leases)`` of them are in use.

    Args:
        kept: once there is any slot there are at least so many, so that the memory seldom moves.

    Attributes:
        generation: another number whenever the memory may have moved.
    """

    def __init__(
        self, shapes: Sequence[LayerShape], capacity: int, dtype: torch.dtype, device: torch.device, kept: int = 0
    ) -> None:
        self.capacity = capacity
        self.generation = 0
        self._kept = kept
        self.leases: list[Lease] = []
        self.slots = 0
        self.keys: list[Tensor] = []  # each (slots, heads, capacity, key)
        self.values: list[Tensor] = []  # each (slots, heads, capacity, value)
        self._shapes, self._dtype, self._device = shapes, dtype, device

    def add(self, lease: Lease) -> None:
        """Give ``lease`` the next slot, making room if there is none."""
        if len(self.leases) == self.slots:
            self._resize(max(1, self.slots * 2, self._kept))
        lease.arena, lease.slot = self, len(self.leases)
        self.leases.append(lease)

    def remove(self, lease: Lease, *, scrub: int = 0) -> None:
        """Take ``lease`` out; the last lease moves into its slot, and an arena mostly empty shrinks.

        Args:
            scrub: zero so many of its tokens first. Numbers that are not finite would leak through torch's masked
                attention (0 * inf) into the slot's next row.
        """
        if scrub:
            self._copy(None, lease.slot, scrub)
        last = self.leases.pop()
        if last is not lease:
            self._copy(last.slot, lease.slot, last.length)
            self._copy(None, last.slot, last.length)  # nobody knows yet that they are finite
            self.leases[lease.slot] = last
            last.slot = lease.slot
        if len(self.leases) * 4 <= self.slots and self.slots > self._kept:
            try:
                self._resize(max(self.slots // 2 if self.leases else 0, self._kept))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise  # else it stays as it is: giving memory back takes some first

    def _copy(self, source: int | None, target: int, length: int) -> None:
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = 0 if source is None else tensor[source, :, :length]

    def _resize(self, slots: int) -> None:
        used = min(len(self.leases), slots)
        longest = max((lease.length for lease in self.leases), default=0)
        # Layer by layer, so the old and the new are never there as a whole. Should memory run out on the way, every
        # layer has as many slots as before or more, and ``slots`` is no more than all of them have.
        self.generation += 1
        self.slots = min(self.slots, slots)
        for tensors, widths in (
            (self.keys, [shape.key for shape in self._shapes]),
            (self.values, [shape.value for shape in self._shapes]),
        ):
            if not slots:
                tensors.clear()
                continue
            for layer, (shape, width) in enumerate(zip(self._shapes, widths, strict=True)):
                # zeros: what torch masks out still takes part in 0 * value, so it must be finite
                size = (slots, shape.heads, self.capacity, width)
                new = torch.zeros(size, dtype=self._dtype, device=self._device)
                if layer == len(tensors):
                    tensors.append(new)
                    continue
                new[:used, :, :longest] = tensors[layer][:used, :, :longest]
                tensors[layer] = new
        self.slots = slots
        trim()  # what the old ones leave are holes that the new ones do not fit


class Cache:
    """All arenas, and the accounting that keeps them below ``limit`` bytes.

    Room is reserved for a row's longest possible length before it starts, so a running row is never short of memory.

    Args:
        settled: arenas keep some slots when they are empty, a quarter of ``limit`` together at most: whoever remembers
            where the memory is wants it to stay there.

    Attributes:
        moves: another number whenever there are other leases, or any may lie elsewhere.
    """

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        context: int,
        *,
        limit: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        settled: bool = False,
    ) -> None:
        device = device or torch.device("cpu")
        capacities = [_SMALLEST]
        while capacities[-1] < context:
            capacities.append(capacities[-1] * 2)
        capacities[-1] = min(capacities[-1], context)
        self.limit = limit
        self.moves = 0
        self._token_bytes: int = sum(s.heads * (s.key + s.value) for s in shapes) * dtype.itemsize
        share = limit // (4 * len(capacities)) if settled else 0
        self.arenas = [
            Arena(shapes, capacity, dtype, device, min(_MOST_SETTLED, share // (capacity * self._token_bytes)))
            for capacity in capacities
        ]

    def cost(self, tokens: int) -> int:
        """Bytes to reserve for a row that may reach ``tokens`` tokens."""
        return self._arena(tokens).capacity * self._token_bytes

    def size(self, tokens: int) -> int:
        """Bytes of the keys and values of ``tokens`` tokens."""
        return tokens * self._token_bytes

    @property
    def allocated(self) -> int:
        """Bytes of all slots there are, used or not."""
        return sum(arena.slots * arena.capacity for arena in self.arenas) * self._token_bytes

    def lease(self, tokens: int) -> Lease:
        """A new lease with room for ``tokens`` tokens."""
        self.moves += 1
        arena = self._arena(tokens)
        lease = Lease(arena, 0)
        arena.add(lease)
        return lease

    def reserve(self, lease: Lease, tokens: int) -> None:
        """Make room for ``tokens`` tokens in ``lease``, moving it to a larger arena when it must."""
        if tokens <= lease.arena.capacity:
            return
        self.moves += 1
        old = lease.arena
        moved = Lease(old, 0, lease.length)
        new = self._arena(tokens)
        new.add(moved)
        for source, target in ((old.keys, new.keys), (old.values, new.values)):
            for a, b in zip(source, target, strict=True):
                b[moved.slot, :, : lease.length] = a[lease.slot, :, : lease.length]
        old.remove(lease)
        new.leases[moved.slot] = lease
        lease.arena, lease.slot = new, moved.slot

    def parts(self, lease: Lease) -> list[Tensor]:
        """The keys of every layer, then the values: views of what the lease has written, (heads, length, width)."""
        tensors = (*lease.arena.keys, *lease.arena.values)
        return [tensor[lease.slot, :, : lease.length] for tensor in tensors]

    def copy_out(self, lease: Lease, tokens: int) -> list[Tensor]:
        """The first ``tokens`` tokens of ``parts`` in memory of their own, all in one piece."""
        parts = [part[:, :tokens] for part in self.parts(lease)]
        whole = parts[0].new_empty(sum(part.numel() for part in parts))
        copies, at = [], 0
        for part in parts:
            copies.append(whole[at : at + part.numel()].view(part.shape))
            copies[-1].copy_(part)
            at += part.numel()
        return copies

    def copy_in(self, parts: Sequence[Tensor], lease: Lease, tokens: int) -> None:
        """Make the first ``tokens`` tokens of another row's parts the beginning of ``lease``, which has room for them."""
        for source, target in zip(parts, (*lease.arena.keys, *lease.arena.values), strict=True):
            target[lease.slot, :, lease.length : tokens] = source[:, lease.length : tokens]
        lease.length = max(lease.length, tokens)

    def release(self, lease: Lease, *, scrub: bool = False, unproven: bool = False) -> None:
        """Give the slot back.

        Args:
            scrub: zero all of it: its row has failed.
            unproven: zero what was written: nothing has shown yet that it is finite.
        """
        self.moves += 1
        lease.arena.remove(lease, scrub=lease.arena.capacity if scrub else lease.length if unproven else 0)

    def _arena(self, tokens: int) -> Arena:
        return next(arena for arena in self.arenas if tokens <= arena.capacity)
