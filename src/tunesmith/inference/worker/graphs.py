"""Decode steps as CUDA graphs: what a step launches is recorded once, and from then on launched in one call.

At few rows of a small model a GPU waits for Python, which launches hundreds of kernels a step one by one. A graph launches
just what it recorded, on the memory it recorded. So what a step is given goes to memory of the graph's own first, rows and
lengths are rounded up to a few sizes, and a graph is forgotten once an arena's memory has moved.

A recorded step has a row for each of the first slots of its arenas. Those that nobody leases are padding: their token is
written at the beginning of their free slot, where whoever leases it next writes first, and their logits are dropped.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol
from weakref import WeakSet, ref

import structlog
import torch
from torch import Tensor

from tunesmith.inference.worker.attention import Group, Plan
from tunesmith.inference.worker.cache import Arena, Lease
from tunesmith.inference.worker.lora import Segment
from tunesmith.inference.worker.step import Step

_MOST_ROWS = 256
_KEPT = 64  # graphs; those used last
_MET = 256  # kinds of steps remembered
_PAUSE = 16  # steps from one recording to the next at least: it takes as long as some steps, and kinds may be many
_LEAST_LENGTH = 256

log = structlog.get_logger(__name__)


class Captured(Protocol):
    """Work that was recorded."""

    def replay(self) -> None:
        """Do it again, on the same memory."""
        ...


Recorder = Callable[[Callable[[], None]], Captured]
"""Records what a function does on the device, which it may do more than once meanwhile.

The function may not wait for the device or make anything of Python's numbers on it.
"""


class Compute(Protocol):
    """Logits of all tokens of a plan, (tokens, vocabulary), in the numbers the model computes with."""

    def __call__(
        self, tokens_T: Tensor, positions_T: Tensor, plan: Plan, segments: Sequence[Segment], keep: Sequence[int]
    ) -> Tensor: ...


class CudaGraphs:
    """Records through ``torch.cuda.graph``. All graphs share one pool of memory: only one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # one for all: workspaces belong to a stream, and so does the pool
        self._pool: Any = None
        self._alive: WeakSet[Captured] = WeakSet()

    def __call__(self, run: Callable[[], None]) -> Captured:
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            run()  # makes what kernels keep for good, such as workspaces, which may not be made while recording
        here.wait_stream(self._stream)
        if not self._alive:
            self._pool = torch.cuda.graph_pool_handle()  # a pool ends with the last of its graphs
        graph: Captured = torch.cuda.CUDAGraph()
        # a recording that fails leaves its stream the current one; other threads read adapters meanwhile, and what they
        # allocate is no fault of this one
        with (
            torch.cuda.stream(here),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            run()
        self._alive.add(graph)
        return graph


def recorder(device: torch.device) -> Recorder | None:
    """What records steps on ``device``; None where there is nothing to gain."""
    return CudaGraphs(device) if device.type == "cuda" else None


class _Span(NamedTuple):
    """The first ``rows`` slots of ``arena``, each looked at up to ``length``."""

    arena: Arena
    rows: int
    length: int


class _Worn(NamedTuple):
    """Rows [begin, end) wear an adapter, which a graph does not keep alive; a dead one equals no other."""

    begin: int
    end: int
    adapter: "ref[Any]"


_Key = tuple[tuple[_Span, ...], tuple[_Worn, ...]]


class _Layout(NamedTuple):
    """Where the rows of a step go.

    Attributes:
        rows: of the graph, padding counted in.
        given: see ``_Graph.given_4T``.
        segments: the step's, as long as the graph's rows.
    """

    key: _Key
    rows: int
    given: list[list[int]]
    segments: Sequence[Segment]


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    """A recorded step.

    Attributes:
        given_4T: what it reads: tokens and positions of its rows; then, slot by slot, the row and its position.
        logits_TV: what it writes; shared with other graphs.
        generations: of its arenas' memory when it was recorded.
    """

    captured: Captured
    given_4T: Tensor
    logits_TV: Tensor
    generations: tuple[int, ...]


class Graphs:
    """The recorded steps of one model; as that, they belong to one thread.

    Args:
        vocabulary, dtype: of the logits that ``compute`` gives.
        longest: no step is recorded that looks further: rotations of later positions are in no table.

    Attributes:
        on: steps are recorded; False once one could not be.
        recorded: how many were, so far.
    """

    def __init__(
        self,
        compute: Compute,
        record: Recorder,
        *,
        vocabulary: int,
        dtype: torch.dtype,
        device: torch.device,
        longest: int,
    ) -> None:
        self.on, self.recorded = True, 0
        self._compute, self._record, self._device = compute, record, device
        self._vocabulary, self._dtype, self._longest = vocabulary, dtype, longest
        self._known: OrderedDict[_Key, _Graph] = OrderedDict()
        self._met: OrderedDict[_Key, None] = OrderedDict()
        self._slots = torch.arange(_MOST_ROWS, device=device)
        self._logits_RV = torch.empty(0, vocabulary)
        self._steps = self._next = 0

    def __len__(self) -> int:
        return len(self._known)

    def run(self, step: Step) -> Tensor | None:
        """Float32 logits of the step, (kept, vocabulary), the caller's own; None where it is not for a graph.

        A kind of step is recorded the second time it comes.
        """
        self._steps += 1
        layout = self._layout(step) if self.on else None
        if layout is None:
            return None
        graph = self._known.get(layout.key)
        if graph is not None and graph.generations != _generations(layout.key):
            self._forget_moved()
            graph = None
        if graph is None:
            if not self._due(layout.key):
                return None
            graph = self._recorded(layout)
            if graph is None:
                return None
        else:
            graph.given_4T.copy_(torch.tensor(layout.given))
        self._known.move_to_end(layout.key)
        graph.captured.replay()
        return graph.logits_TV[: len(step.tokens)].to(torch.float32, copy=True)

    def prove(self, step: Step, expected_V: Tensor, allowed: float) -> None:
        """Record the step with its tokens the other way round and replay it as it is. Nothing is recorded any more unless
        the first of its logits are ``expected``, up to ``allowed`` of their length.
        """
        other = replace(step, tokens=step.tokens[::-1])
        found = None
        for one in (other, other, step):  # met, recorded, replayed
            found = self.run(one)
        self._next = 0
        if found is None:
            if self.on:
                self._give_up("the step that proves it was not recorded")
            return
        wrong = torch.linalg.vector_norm(found[0, : len(expected_V)] - expected_V)
        if not wrong <= allowed * torch.linalg.vector_norm(expected_V):
            self._give_up("a recorded step gives other results")

    def _layout(self, step: Step) -> _Layout | None:
        """None for a step that is more than the next token of all rows of some arenas."""
        if step.chunks or not step.decoding or len(step.keep) != len(step.tokens):
            return None
        rows_of: dict[Arena, list[tuple[Lease, int]]] = {}
        for lease, token in step.decoding:
            rows_of.setdefault(lease.arena, []).append((lease, token))
        spans: list[_Span] = []
        members: list[int] = []
        limits: list[int] = []
        count = len(step.tokens)
        for arena in sorted(rows_of, key=lambda arena: arena.capacity):
            rows = rows_of[arena]
            if len(rows) != len(arena.leases):
                return None
            span = _span(arena, rows)
            row_of, at = [0] * len(rows), [0] * span.rows
            for lease, token in rows:
                row_of[lease.slot], at[lease.slot] = token, lease.length
            padding = span.rows - len(rows)
            spans.append(span)
            members += [*row_of, *range(count, count + padding)]
            limits += at
            count += padding
        if count > _MOST_ROWS or any(span.length > self._longest for span in spans):
            return None
        padding = count - len(step.tokens)
        given = [[*step.tokens, *[0] * padding], [*step.positions, *[0] * padding], members, limits]
        segments = _stretched(step.segments, len(step.tokens), count)
        worn = tuple(_Worn(one.begin, one.end, ref(one.adapter)) for one in segments)
        return _Layout((tuple(spans), worn), count, given, segments)

    def _due(self, key: _Key) -> bool:
        """Steps of that kind come again, and the last recording is some time ago."""
        if key not in self._met:
            self._met[key] = None
            while len(self._met) > _MET:
                self._met.popitem(last=False)
            return False
        self._met.move_to_end(key)
        return self._steps >= self._next

    def _recorded(self, layout: _Layout) -> _Graph | None:
        """Record a step; None where that fails."""
        self._next = self._steps + _PAUSE
        while len(self._known) >= _KEPT:
            self._known.popitem(last=False)
        try:
            given_4T = torch.tensor(layout.given).to(self._device)
            logits_TV = self._room(layout.rows)
            captured = self._record(self._work(layout, given_4T, logits_TV))
        except torch.OutOfMemoryError as error:
            log.warning("out of memory while a step was recorded", graphs=len(self), said=str(error)[:200])
            self._known.clear()
            return None
        except Exception as error:  # whatever cannot be recorded can still run as it did
            self._give_up(str(error)[:200] or type(error).__name__)
            return None
        graph = _Graph(captured, given_4T, logits_TV, _generations(layout.key))
        self._known[layout.key] = graph
        self.recorded += 1
        return graph

    def _work(self, layout: _Layout, given_4T: Tensor, logits_TV: Tensor) -> Callable[[], None]:
        """What is recorded: from what is given to logits. Nothing it reads may belong to it alone, for a graph keeps no
        tensor alive; and nothing may move but the arenas.
        """
        spans, _ = layout.key

        def work() -> None:
            groups, begin = [], 0  # made anew each time, since they keep their masks
            for span in spans:
                end = begin + span.rows
                members, limits, own = given_4T[2, begin:end], given_4T[3, begin:end], self._slots[: span.rows]
                groups.append(
                    Group(
                        span.arena, 0, span.rows, span.length, members, members, own, limits, limits,
                        full=True, exact=False,
                    )
                )  # fmt: skip
                begin = end
            plan = Plan((), groups)
            logits_TV.copy_(self._compute(given_4T[0], given_4T[1], plan, layout.segments, range(layout.rows)))

        return work

    def _room(self, rows: int) -> Tensor:
        """Where a graph writes its logits. Graphs share it: each is read before another runs."""
        if rows > len(self._logits_RV):
            size = (1 << (rows - 1).bit_length(), self._vocabulary)
            self._logits_RV = torch.empty(size, dtype=self._dtype, device=self._device)
        return self._logits_RV[:rows]

    def _forget_moved(self) -> None:
        """Graphs of memory that is no longer there."""
        for key in [key for key, graph in self._known.items() if graph.generations != _generations(key)]:
            del self._known[key]

    def _give_up(self, reason: str) -> None:
        """All steps run as they did without graphs."""
        log.warning("no CUDA graphs", reason=reason)
        self.on = False
        self._known.clear()
        self._met.clear()


def _span(arena: Arena, rows: Sequence[tuple[Lease, int]]) -> _Span:
    """The slots and the length a graph for these rows has: a few sizes of each, little above what they need."""
    count = len(rows)
    if count <= 8:
        slots = 1 << (count - 1).bit_length()
    else:
        every = 8 if count <= 64 else 32
        slots = -(-count // every) * every
    every = max(_LEAST_LENGTH, arena.capacity // 4)
    length = -(-(max(lease.length for lease, _ in rows) + 1) // every) * every
    return _Span(arena, min(slots, arena.slots), min(length, arena.capacity))


def _stretched(segments: Sequence[Segment], tokens: int, rows: int) -> Sequence[Segment]:
    """Padding wears what the last row wears, so that one graph serves any number of rows of one adapter."""
    if rows == tokens or not segments or segments[-1].end != tokens:
        return segments
    return [*segments[:-1], replace(segments[-1], end=rows)]


def _generations(key: _Key) -> tuple[int, ...]:
    return tuple(span.arena.generation for span in key[0])
