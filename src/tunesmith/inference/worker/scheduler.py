"""Continuous batching: every step moves all running rows of all callers by one token.

A step is one forward over the next token of every decoding row and chunks of the prompts that are still being read, at
most ``PREFILL_BUDGET`` prompt tokens, so a long prompt never holds up the others for long. Rows wait while there is no
slot or no cache memory; callers take turns, and no caller may take the last slots.

A row leaves its place when nobody reads what it says, and the youngest leave when memory runs out in a step. They come
back where they were.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import structlog
import torch
from torch import Tensor

from tunesmith.inference.engine import FinishReason
from tunesmith.inference.worker import faults
from tunesmith.inference.worker.cache import Cache, out_of_memory
from tunesmith.inference.worker.ceiling import Ceiling
from tunesmith.inference.worker.drafts import Drafter, StepTimes, accept
from tunesmith.inference.worker.events import RowEvent
from tunesmith.inference.worker.lockstep import Lockstep, lockstep
from tunesmith.inference.worker.measures import Measures
from tunesmith.inference.worker.packing import Share, Wanted, pack, share_out
from tunesmith.inference.worker.prefixes import ids_of
from tunesmith.inference.worker.row import Row
from tunesmith.inference.worker.sampling import Picker
from tunesmith.inference.worker.sharing import Sharing
from tunesmith.inference.worker.step import Predictions, Step
from tunesmith.inference.worker.telling import Telling
from tunesmith.inference.worker.waiting import Waiting
from tunesmith.kernel.problems import Problem

PREFILL_BUDGET = 512
_SCORED_LOGITS = 1 << 24  # numbers of scoring logits a step may hold: 64 MB in float32

log = structlog.get_logger(__name__)


class Runner(Protocol):
    """What the scheduler needs of a model."""

    cache: Cache
    context: int
    vocabulary: int
    device: torch.device

    def forward(self, step: Step) -> Predictions: ...


class Scheduler:
    """Decides what each step holds. Belongs to one thread but for ``Row.canceled`` and ``Row.unread``.

    Args:
        decode: token ids to text, special tokens left out.
        ends, joins, deliver, pace_s: see ``Telling``.

    Attributes:
        measures: what is counted of all rows; may be read from any thread.
    """

    def __init__(
        self,
        model: Runner,
        decode: Callable[[Sequence[int]], str],
        ends: frozenset[int],
        *,
        max_rows: int,
        joins: bool = False,
        deliver: Callable[[list[tuple[Row, RowEvent]]], None],
        pace_s: float = 0.0,
    ) -> None:
        self._model, self._ends = model, ends
        self._telling = Telling(decode, deliver, ends=ends, joins=joins, pace_s=pace_s)
        # A caller with hundreds of rows leaves some slots to those with one.
        self._max_rows_a_group = max(1, max_rows - max_rows // 8)
        self._waiting = Waiting()
        self._running: list[Row] = []
        self._drawing = False
        self._unread: list[Row] = []
        self._sharing = Sharing(model.cache)
        self._ceiling = Ceiling(max_rows, PREFILL_BUDGET)
        self._reserved = 0
        self._orders = 0
        self._times = StepTimes()
        self._lockstep: Lockstep | None = None
        self.measures = Measures()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._unread)

    @property
    def idle(self) -> bool:
        """No row runs or waits, but for those that nobody reads."""
        return not self._running and not self._waiting

    @property
    def retained(self) -> int:
        """Bytes of keys and values kept of rows that are over."""
        return self._sharing.kept.size

    def tidy(self) -> None:
        """Let go what nobody has asked for lately; for times without steps."""
        self._sharing.kept.fit(self._model.cache.limit)

    def check(self, row: Row) -> None:
        """Refuse a row that can never run. Safe from any thread.

        Raises:
            Invalid: the prompt leaves no room for a token, or is longer than the context or the cache memory.
        """
        room = self._model.context - len(row.prompt)
        if room < (1 if row.sampling.max_new_tokens else 0):
            raise faults.longer_than_context(len(row.prompt), self._model.context)
        needed = self._model.cache.cost(len(row.prompt) + min(row.sampling.max_new_tokens, room))
        if needed > self._model.cache.limit:
            raise faults.larger_than_cache(needed, self._model.cache.limit)

    def add(self, row: Row) -> None:
        """Queue a row that ``check`` let through."""
        self._orders += 1
        row.order = self._orders
        row.budget = min(row.sampling.max_new_tokens, self._model.context - len(row.prompt))
        row.reserved = self._model.cache.cost(len(row.prompt) + row.budget)
        row.ids = ids_of(row.prompt)
        self._waiting.put(row)
        self.measures.queued(row)

    def step(self) -> None:
        """Drop canceled rows, admit waiting ones, run one forward, report."""
        self._let_go()
        self._admit()
        self._move()
        self._telling.report()

    def _let_go(self) -> None:
        """Drop canceled rows. Rows that nobody reads give their place to others; those that are read again queue as old as
        they are.
        """
        for row in [row for row in self._running if row.canceled or row.unread]:
            self._leave(row)
            self._unread.append(row)
        for row in [row for row in self._unread if row.canceled]:
            self._unread.remove(row)
            self.measures.left(row, "abort")
        for row in self._waiting.drop_canceled():
            self.measures.left(row, "abort")
        for row in [row for row in self._unread if not row.unread]:
            self._unread.remove(row)
            self._waiting.put(row)

    def _admit(self) -> None:
        if not self._waiting:
            return
        running = Counter(row.group for row in self._running)
        while len(self._running) < self._ceiling.rows and (row := self._waiting.first(running)) is not None:
            if running[row.group] >= self._max_rows_a_group:
                return
            if self._running and self._reserved + row.reserved > self._model.cache.limit:
                return  # nobody overtakes it, or a large row would wait for ever
            try:
                self._start(row)
            except Exception as error:  # whatever one row sets off must not end the others
                spent = out_of_memory(error)
                if spent and self._sharing.kept.clear():
                    continue
                if spent and self._running:
                    self._ceiling.lower(len(self._running))
                    return
                log.error("row not started", said=str(error)[:200], exc_info=None if spent else error)
                self._refuse(row, faults.larger_than_memory() if spent else faults.failed_inside())
            else:
                running[row.group] += 1
            self._waiting.take(row)

    def _start(self, row: Row) -> None:
        """Give a row its place. One that has had a place goes on where it was."""
        if row.picker is None:
            row.picker = Picker(row.sampling, row.prompt, self._model.vocabulary, row.grammar)
            self._telling.begin(row)
            # what is told of each token, and whether it completes the grammar, is known only as long as it is the last
            if row.budget > 1 and row.sampling.top_logprobs is None and row.grammar is None:
                row.drafter = Drafter(row.prompt, row.tokens)
        row.logprobs.clear()  # whoever is scored is read from the first token
        self._sharing.begin(row, self._running, self._model.cache.limit - self._reserved - row.reserved)
        self._running.append(row)
        self._reserved += row.reserved
        self.measures.admitted(row)

    def _move(self) -> None:
        """One forward; when memory runs out, what can be spared goes and it is tried again."""
        while self._running:
            try:
                if self._lockstep is not None and self._lockstep.holds:
                    self._go_on(self._lockstep)
                else:
                    self._lockstep = None
                    self._sharing.follow(self._running)
                    self._forward()
                self._telling.stepped(self._running, time.monotonic())
                self._ceiling.held()
                return
            except Exception as error:  # the thread goes on, whatever a step sets off
                if self._drawing or not out_of_memory(error):
                    self._fail_all(error)
                    return
                self._relieve(error)

    def _relieve(self, error: BaseException) -> None:
        """After a step that did not fit: what is only kept goes first, then the younger half of the rows. A row that is
        alone reads less at once, and is refused when that does not help.
        """
        rows = sorted(self._running, key=lambda row: row.order)
        log.warning("out of memory", rows=len(rows), kept=self.retained, said=str(error)[:200])
        if self._sharing.kept.clear():
            return
        if len(rows) > 1:
            for row in rows[(len(rows) + 1) // 2 :]:
                self._leave(row, keep=False)
                self._waiting.put(row)
            self._ceiling.lower(len(self._running))
        elif not self._ceiling.read_less():
            self._leave(rows[0], keep=False)
            self._refuse(rows[0], faults.larger_than_memory())

    def _forward(self) -> None:
        self._drawing = False
        scored = max(16, _SCORED_LOGITS // self._model.vocabulary)
        began = time.perf_counter()
        shares = share_out(self._running, prefill=self._ceiling.prefill, scored=scored, times=self._times)
        step, wanted = pack(self._model.cache, shares)
        if len(step.keep) < len(step.tokens):  # reading a prompt may take long
            self._telling.tell(self._running, time.monotonic())
            self._telling.report()
        predicted = self._model.forward(step)
        scored_rows = [want for want in wanted if want.share.row.score] if step.logits else []
        scores = [(want.share.row, _scores(predicted.logits, want)) for want in scored_rows]
        draws, guesses, pickers = [], [], []
        for want in wanted:
            row = want.share.row
            if want.draws and row.budget > 0:
                assert row.picker is not None
                draws.append(want)
                guesses.append((want.drawn, want.share.guess))
                pickers.append(row.picker)
        self._drawing = True  # what is drawn cannot be drawn again
        drawn = accept(predicted, guesses, pickers) if draws else []
        if len(step.keep) == len(step.tokens):  # nobody reads a prompt
            self._times.saw(len(step.tokens), time.perf_counter() - began)
        self._drawing = False
        self._take(shares, draws, drawn, scores)
        if not scores:
            self._lockstep = lockstep(self._model.cache, self._running, step, shares, wanted, self.measures)

    def _go_on(self, rows: Lockstep) -> None:
        """One forward of rows that are in lockstep."""
        self._drawing = False
        began = time.perf_counter()
        predicted = self._model.forward(rows.step)
        self._drawing = True
        drawn = rows.draw(predicted)
        self._times.saw(len(drawn), time.perf_counter() - began)
        self._drawing = False
        if None in drawn or not self._ends.isdisjoint(drawn):  # a row ends
            self._lockstep = None
            self._take(rows.shares, rows.wanted, [[token] for token in drawn])
            return
        rows.advance(cast(Sequence[int], drawn), time.monotonic())
        for row in [row for row in rows.watched if self._telling.said(row)]:
            self._end(row, "stop")

    def _take(
        self,
        shares: Sequence[Share],
        draws: Sequence[Wanted],
        drawn: Sequence[Sequence[int | None]],
        scores: Sequence[tuple[Row, Sequence[float]]] = (),
    ) -> None:
        """Note what a step has read, and what it has found."""
        for share in shares:
            assert share.row.lease is not None
            share.row.lease.length += share.size
        for want, tokens in zip(draws, drawn, strict=True):  # all, before a row leaves and others move to its place
            if want.share.row.lease is not None:
                want.share.row.lease.length += len(tokens) - 1
        for row, logprobs in scores:
            row.logprobs.extend(logprobs)
            if any(map(math.isnan, logprobs)):
                self._leave(row, keep=False, scrub=True)
                self._refuse(row, faults.nothing_to_draw(row))
        self._advance(draws, drawn)
        for share in shares:
            if share.row.budget == 0 and share.row.prefilled:
                self._end(share.row, "length")

    def _advance(self, draws: Sequence[Wanted], drawn: Sequence[Sequence[int | None]]) -> None:
        """Take the tokens drawn for each row: show their text, or end it."""
        now = time.monotonic()
        moved, over = [], []
        for want, tokens in zip(draws, drawn, strict=True):
            row, guess = want.share.row, want.share.guess
            if row.lease is None:
                continue
            if not row.first_token:
                row.first_token = now
            before, finish = len(row.tokens), None
            for token in tokens:
                if token is None:
                    self._leave(row, keep=False, scrub=True)
                    self._refuse(row, faults.nothing_to_draw(row))
                    break
                finish = self._say(row, token)
                if finish is not None:
                    over.append((row, finish))
                    break
            else:
                if guess and row.drafter is not None:
                    row.drafter.learn(len(guess), len(tokens) - 1)
            moved.append((row, len(row.tokens) - before))
        self.measures.moved(moved, now)
        for row, finish in over:
            self._end(row, finish)

    def _say(self, row: Row, token: int) -> FinishReason | None:
        """Take one token, and make its text unless that can wait; why it was the row's last, if it was."""
        row.tokens.append(token)
        if token in self._ends:
            return "stop"
        if self._telling.said(row):
            return "stop"
        return "length" if len(row.tokens) >= row.budget else None

    def _end(self, row: Row, finish: FinishReason) -> None:
        self._telling.finish(row, finish)
        self._leave(row)
        self.measures.left(row, "stop" if finish == "stop" else "length")

    def _refuse(self, row: Row, problem: Problem) -> None:
        self._telling.fail(row, problem)
        self.measures.left(row, "error")

    def _leave(self, row: Row, *, keep: bool = True, scrub: bool = False) -> None:
        """Take a row's place from it.

        Args:
            keep: others may begin with what it has read.
            scrub: its keys and values may not be finite.
        """
        assert row.lease is not None
        self._running.remove(row)
        self._reserved -= row.reserved
        if keep:
            self._sharing.keep(row, self._model.cache.limit - self._reserved)
        self._model.cache.release(row.lease, scrub=scrub, unproven=row.score or not row.tokens)
        row.lease = row.leader = None
        self._lockstep = None

    def _fail_all(self, error: Exception) -> None:
        """A forward that failed leaves no row in a known state: all of them end."""
        log.error("step failed", rows=len(self._running), exc_info=error)
        for row in list(self._running):
            self._leave(row, keep=False, scrub=True)
            self._refuse(row, faults.failed_inside())


def _scores(logits_KV: Tensor, want: Wanted) -> list[float]:
    """Log-probabilities of the prompt tokens that these logits speak of; nothing speaks of the first."""
    targets = want.share.row.prompt[want.first + 1 : want.first + 1 + want.end - want.begin]
    if not targets:
        return []
    shares = logits_KV[want.begin : want.begin + len(targets)].log_softmax(-1)
    picked: list[float] = shares.gather(1, torch.tensor(targets, device=shares.device)[:, None])[:, 0].tolist()
    return picked
