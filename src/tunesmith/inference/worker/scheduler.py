"""Continuous batching: every step moves all running rows of all callers by one token.

A step is one forward over the next token of every decoding row and chunks of the prompts that are still being read, at
most ``PREFILL_BUDGET`` prompt tokens, so a long prompt never holds up the others for long. Rows wait while there is no
slot or no cache memory; callers take turns, and no caller may take the last slots.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
import torch
from torch import Tensor

from tunesmith.inference.engine import FinishReason
from tunesmith.inference.worker.attention import Chunk
from tunesmith.inference.worker.cache import Cache
from tunesmith.inference.worker.events import Ended, Failed, RowEvent, Text
from tunesmith.inference.worker.lora import Segment
from tunesmith.inference.worker.model import Step
from tunesmith.inference.worker.row import Row
from tunesmith.inference.worker.sampling import Picker, pick
from tunesmith.inference.worker.text import Detokenizer, StopStrings
from tunesmith.kernel.problems import Invalid, Unavailable

PREFILL_BUDGET = 512
_SCORED_LOGITS = 1 << 24  # numbers of scoring logits a step may hold: 64 MB in float32

log = structlog.get_logger(__name__)


class Runner(Protocol):
    """What the scheduler needs of a model."""

    cache: Cache
    context: int
    vocabulary: int
    device: torch.device

    def forward(self, step: Step) -> Tensor: ...


class Scheduler:
    """Decides what each step holds. Belongs to one thread but for ``Row.canceled``, which anyone may set.

    Args:
        decode: token ids to text, special tokens left out.
        ends: token ids that end a completion.
        deliver: called once a step with all that rows have to report, in order.
    """

    def __init__(
        self,
        model: Runner,
        decode: Callable[[Sequence[int]], str],
        ends: frozenset[int],
        *,
        max_rows: int,
        deliver: Callable[[list[tuple[Row, RowEvent]]], None],
    ) -> None:
        self._model, self._decode, self._ends = model, decode, ends
        self._max_rows, self._deliver = max_rows, deliver
        # A caller with hundreds of rows leaves some slots to those with one.
        self._max_rows_a_group = max(1, max_rows - max_rows // 8)
        self._waiting: dict[str, deque[Row]] = {}
        self._running: list[Row] = []
        self._reserved = 0
        self._orders = 0
        self._events: list[tuple[Row, RowEvent]] = []

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return sum(len(rows) for rows in self._waiting.values())

    @property
    def idle(self) -> bool:
        """No row runs or waits."""
        return not self._running and not self._waiting

    def check(self, row: Row) -> None:
        """Refuse a row that can never run. Safe from any thread.

        Raises:
            Invalid: the prompt leaves no room for a token, or is longer than the context or the cache memory.
        """
        room = self._model.context - len(row.prompt)
        if room < (1 if row.sampling.max_new_tokens else 0):
            raise Invalid(
                f"输入过长：提示共 {len(row.prompt)} 个 token，模型上下文为 {self._model.context} 个",
                f"the prompt has {len(row.prompt)} tokens; the model's context is {self._model.context}",
                prompt_tokens=len(row.prompt),
                context_length=self._model.context,
            )
        needed = self._model.cache.cost(len(row.prompt) + min(row.sampling.max_new_tokens, room))
        if needed > self._model.cache.limit:
            raise Invalid(
                f"该请求需要 {needed / 1e6:.0f} MB 缓存，上限为 {self._model.cache.limit / 1e6:.0f} MB；请减少 max_tokens",
                f"this request needs {needed / 1e6:.0f} MB of cache and the limit is "
                f"{self._model.cache.limit / 1e6:.0f} MB; ask for fewer tokens",
            )

    def add(self, row: Row) -> None:
        """Queue a row that ``check`` let through."""
        self._orders += 1
        row.order = self._orders
        row.budget = min(row.sampling.max_new_tokens, self._model.context - len(row.prompt))
        row.reserved = self._model.cache.cost(len(row.prompt) + row.budget)
        self._waiting.setdefault(row.group, deque()).append(row)

    def step(self) -> None:
        """Drop canceled rows, admit waiting ones, run one forward, report."""
        self._drop_canceled()
        self._admit()
        if self._running:
            try:
                self._forward()
            except (RuntimeError, MemoryError) as error:
                self._fail_all(error)
        events, self._events = self._events, []
        if events:
            self._deliver(events)

    def _drop_canceled(self) -> None:
        for row in [row for row in self._running if row.canceled]:
            self._leave(row)
        for group, rows in list(self._waiting.items()):
            if any(row.canceled for row in rows):
                self._waiting[group] = deque(row for row in rows if not row.canceled)
                if not self._waiting[group]:
                    del self._waiting[group]

    def _admit(self) -> None:
        running: dict[str, int] = {}
        for row in self._running:
            running[row.group] = running.get(row.group, 0) + 1
        while self._waiting and len(self._running) < self._max_rows:
            # The group with the fewest running rows is next; among equals the one that has waited longest.
            group = min(self._waiting, key=lambda name: (running.get(name, 0), self._waiting[name][0].order))
            row = self._waiting[group][0]
            if running.get(group, 0) >= self._max_rows_a_group:
                return
            if self._running and self._reserved + row.reserved > self._model.cache.limit:
                return  # nobody overtakes it, or a large row would wait for ever
            self._waiting[group].popleft()
            if not self._waiting[group]:
                del self._waiting[group]
            running[group] = running.get(group, 0) + 1
            self._reserved += row.reserved
            row.lease = self._model.cache.lease(len(row.prompt))
            row.picker = Picker(row.sampling, row.prompt, self._model.vocabulary, self._model.device)
            row.text = Detokenizer(self._decode, row.prompt[-4:] if row.raw else ())
            row.stops = StopStrings(row.sampling.stop)
            self._running.append(row)

    def _forward(self) -> None:
        shares = self._shares()
        # Rows that wear the same adapter lie side by side: one product for all of them.
        shares.sort(key=lambda share: share[0].adapter_key)
        step, wanted = self._pack(shares)
        logits_KV = self._model.forward(step)
        for row, count in shares:
            assert row.lease is not None
            row.lease.length += count
        self._read_scores(logits_KV, wanted)
        picks = [(row, begin) for row, begin, _ in wanted if row.prefilled and row.budget > 0]
        if picks:
            rows = [row for row, _ in picks]
            at = [begin for _, begin in picks]
            chosen = pick(logits_KV if len(at) == len(logits_KV) else logits_KV[at], [_picker(row) for row in rows])
            for row, token in zip(rows, chosen, strict=True):
                self._advance(row, token)
        for row, _ in shares:
            if row.prefilled and row.budget == 0:
                self._end(row, "length")

    def _shares(self) -> list[tuple[Row, int]]:
        """How many tokens of each running row this step holds; rows it has no room for are left out."""
        shares = [(row, 1) for row in self._running if row.prefilled]
        left = max(64, PREFILL_BUDGET - len(shares))
        scored = max(16, _SCORED_LOGITS // self._model.vocabulary)
        # The first row of every caller goes before the second of any, so one question is not behind a whole evaluation.
        ahead: dict[str, int] = {}
        queue = []
        for row in sorted((row for row in self._running if not row.prefilled), key=lambda row: row.order):
            ahead[row.group] = ahead.get(row.group, 0) + 1
            queue.append((ahead[row.group], row.order, row))
        for _, _, row in sorted(queue, key=lambda item: item[:2]):
            assert row.lease is not None
            count = min(left, len(row.prompt) - row.lease.length, *((scored,) if row.score else ()))
            if count <= 0:
                continue
            left -= count
            scored -= count if row.score else 0
            shares.append((row, count))
        return shares

    def _pack(self, shares: list[tuple[Row, int]]) -> tuple[Step, list[tuple[Row, int, int]]]:
        """The step, and for each row that wants logits where they begin and how many they are."""
        tokens: list[int] = []
        positions: list[int] = []
        keep: list[int] = []
        segments: list[Segment] = []
        chunks, decoding, wanted = [], [], []
        for row, count in shares:
            lease = row.lease
            assert lease is not None
            begin, start = len(tokens), lease.length
            positions.extend(range(start, start + count))
            if row.prefilled:
                self._model.cache.reserve(lease, start + 1)
                tokens.append(row.tokens[-1])
                decoding.append((lease, begin))
            else:
                tokens.extend(row.prompt[start : start + count])
                chunks.append(Chunk(lease, begin, begin + count, start))
            first = begin if row.score else begin + count - 1
            if row.score or start + count >= len(row.prompt):
                wanted.append((row, len(keep), begin + count - first))
                keep.extend(range(first, begin + count))
            if row.adapter is not None:
                if segments and segments[-1].adapter is row.adapter:
                    begin = segments.pop().begin
                segments.append(Segment(begin, len(tokens), row.adapter))
        return Step(tokens, positions, chunks, decoding, segments, keep), wanted

    def _read_scores(self, logits_KV: Tensor, wanted: list[tuple[Row, int, int]]) -> None:
        for row, begin, count in wanted:
            if not row.score:
                continue
            assert row.lease is not None
            # The logits at a position speak of the token after it; the last prompt token has none.
            first = row.lease.length - count + 1
            targets = row.prompt[first : first + count]
            if not targets:
                continue
            shares = logits_KV[begin : begin + len(targets)].log_softmax(-1)
            picked = shares.gather(1, torch.tensor(targets, device=shares.device)[:, None])[:, 0]
            row.logprobs.extend(picked.tolist())

    def _advance(self, row: Row, token: int | None) -> None:
        """Take the token drawn for a row: show its text, or end the row."""
        if token is None:
            self._events.append((row, Failed(_not_finite(row))))
            self._leave(row, scrub=True)
            return
        assert row.text is not None and row.stops is not None
        row.first_token = row.first_token or time.monotonic()
        row.tokens.append(token)
        if token in self._ends:
            self._end(row, "stop")
            return
        shown = row.stops.feed(row.text.feed(token))
        if shown:
            self._events.append((row, Text(shown)))
        if row.stops.found:
            self._end(row, "stop")
        elif len(row.tokens) >= row.budget:
            self._end(row, "length")

    def _end(self, row: Row, finish: FinishReason) -> None:
        assert row.text is not None and row.stops is not None
        rest = row.stops.feed(row.text.finish()) + row.stops.finish()
        if rest:
            self._events.append((row, Text(rest)))
        now = time.monotonic()
        first = row.first_token - row.asked if row.first_token else 0.0
        ended = Ended(finish, len(row.tokens), first, now - row.asked, tuple(row.logprobs))
        self._events.append((row, ended))
        self._leave(row)

    def _leave(self, row: Row, *, scrub: bool = False) -> None:
        assert row.lease is not None
        self._running.remove(row)
        self._reserved -= row.reserved
        self._model.cache.release(row.lease, scrub=scrub)
        row.lease = None

    def _fail_all(self, error: Exception) -> None:
        """A forward that failed leaves no row in a known state: all of them end."""
        log.error("step failed", rows=len(self._running), exc_info=error)
        memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in str(error).lower()
        problem = Unavailable(
            "引擎内存不足，请减少并发或缩短输入后重试" if memory else "引擎内部错误，请重试",
            "the engine ran out of memory; ask for less at once" if memory else "the engine failed inside; ask again",
        )
        for row in list(self._running):
            self._events.append((row, Failed(problem)))
            self._leave(row, scrub=True)


def _picker(row: Row) -> Picker:
    assert row.picker is not None
    return row.picker


def _not_finite(row: Row) -> Unavailable:
    who = row.adapter.name if row.adapter else ""
    return Unavailable(
        f"模型输出了非有限数{f'（适配器 {who}）' if who else ''}，权重可能已损坏",
        f"the model produced numbers that are not finite{f' (adapter {who})' if who else ''}; its weights may be broken",
    )
