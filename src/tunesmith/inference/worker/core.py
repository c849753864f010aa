"""The loaded engine: a thread that steps, and the event loop's side of it."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

import structlog
import torch

from tunesmith.inference.worker import outbox
from tunesmith.inference.worker.events import Mailbox, RowEvent
from tunesmith.inference.worker.lora import AdapterWeights
from tunesmith.inference.worker.model import LanguageModel
from tunesmith.inference.worker.outbox import Outbox
from tunesmith.inference.worker.pages import let_go_of_code
from tunesmith.inference.worker.precision import AUTO
from tunesmith.inference.worker.recording import prepare
from tunesmith.inference.worker.row import Row
from tunesmith.inference.worker.scheduler import Scheduler
from tunesmith.inference.worker.tokens import Tokens
from tunesmith.kernel.problems import Conflict, Invalid, NotFound

_TIDY_S = 60.0
# than the outbox's pace, which then has nothing left to send when text comes, and sends it at once
_SLOWER = 1.2

log = structlog.get_logger(__name__)


class Core:
    """One base model, its adapters, and the thread that runs their rows.

    Args:
        name: what callers call the base model.
        threads: torch's CPU threads; 0 leaves its default.
        precision, records, eager: see ``LanguageModel``.
        loop: the loop that reads events.

    Raises:
        Invalid, Unsupported: the model cannot be loaded, see ``LanguageModel`` and ``Tokens``.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        threads: int,
        max_rows: int,
        precision: str = AUTO,
        records: Path | None = None,
        eager: bool = False,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.name = name
        self._threads = threads
        if threads:
            torch.set_num_threads(threads)
        let_go_of_code()
        if records is not None:
            prepare(folder, records, precision)
        self.tokens = Tokens(folder, records)
        self.model = LanguageModel(folder, precision=precision, records=records, eager=eager)
        let_go_of_code()
        self.tokens.context = self.model.context
        self.adapters: dict[str, AdapterWeights] = {}
        self.max_rows = max_rows
        self._mail: dict[Row, Mailbox] = {}
        self._outbox: Outbox[Row] = Outbox(loop, self._hand_out)
        self._inbox: SimpleQueue[Row | None] = SimpleQueue()
        self._closing = False
        self._loading = asyncio.Lock()
        self.scheduler = Scheduler(
            self.model,
            self.tokens.decode,
            self.tokens.ends,
            max_rows=max_rows,
            joins=self.tokens.joins,
            deliver=self._outbox.put,
            pace_s=outbox.PACE_S * _SLOWER,
        )
        self._thread = threading.Thread(target=self._run, name="steps", daemon=True)
        self._thread.start()

    @property
    def rows(self) -> tuple[int, int]:
        """How many rows run, and how many wait."""
        return self.scheduler.running, self.scheduler.waiting + self._inbox.qsize()

    @property
    def cache_bytes(self) -> int:
        """Memory of keys and values: of rows that run, and of those that are over and kept."""
        return self.model.cache.allocated + self.scheduler.retained

    def adapter(self, model: str) -> AdapterWeights | None:
        """The weights ``model`` names; None for the base.

        Raises:
            NotFound: neither the base nor a loaded adapter has that name.
        """
        if model == self.name:
            return None
        if model not in self.adapters:
            raise NotFound(f"模型不存在：{model}", f"no model {model} is loaded", model=model)
        return self.adapters[model]

    async def load_adapter(self, name: str, path: Path, *, replace: bool) -> None:
        """Read an adapter and put it in the table; rows that run on an older one of that name keep theirs.

        Raises:
            Conflict: the name is taken and ``replace`` is not set, or it was trained with another chat template.
            Invalid, NotFound, Unsupported: see ``Lora.read``.
        """
        if not path.is_absolute():
            raise Invalid("lora_path 应为绝对路径", "lora_path must be absolute", field="lora_path")
        async with self._loading:  # of two under one name the one asked for last stays
            if name == self.name or (name in self.adapters and not replace):
                raise Conflict(f"名称已被占用：{name}", f"the name {name} is taken", adapter=name)
            await asyncio.to_thread(self.tokens.require_template_of, name, path)
            self.adapters[name] = await asyncio.to_thread(self.model.lora.read, name, path)

    def unload_adapter(self, name: str) -> None:
        """Take an adapter out of the table; its memory is freed when the last row that wears it ends.

        Raises:
            NotFound: it is not loaded.
        """
        if self.adapters.pop(name, None) is None:
            raise NotFound(f"适配器未加载：{name}", f"adapter {name} is not loaded", adapter=name)

    @contextlib.asynccontextmanager
    async def running(self, rows: Sequence[Row]) -> AsyncIterator[list[Mailbox]]:
        """Run ``rows``; leaving the block drops those that have not ended, before the next step.

        Raises:
            Invalid: one of them can never run; none is started then.
        """
        for row in rows:
            self.scheduler.check(row)
        for row in rows:
            self._mail[row] = Mailbox(partial(self._heed, row))
        try:
            for row in rows:
                self._inbox.put(row)
            yield [self._mail[row] for row in rows]
        finally:
            for row in rows:
                row.canceled = True
                del self._mail[row]
            self._inbox.put(None)  # wakes the thread, should it sleep

    def close(self) -> None:
        """End the thread after its present step."""
        self._closing = True
        self._inbox.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            self._step_for_ever()
        except BaseException as error:
            log.critical("stepping ended", exc_info=error)
            os._exit(1)  # an engine that cannot step must not look ready: the supervisor starts another

    def _step_for_ever(self) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)  # each thread has its own setting
        with torch.inference_mode():
            while not self._closing:
                self._take_in()
                if self.scheduler.idle:
                    self.scheduler.tidy()
                self.scheduler.step()

    def _heed(self, row: Row, behind: bool) -> None:
        """A row whose reader is behind waits for them, not in the others' way."""
        row.unread = behind
        if not behind:
            self._inbox.put(None)

    def _take_in(self) -> None:
        """Hand waiting rows to the scheduler; sleeps while there is nothing to do."""
        if self._inbox.empty() and not self.scheduler.idle:  # nearly always
            return
        woken = False
        with contextlib.suppress(Empty):
            while True:
                idle = self.scheduler.idle and not woken and not self._closing
                row = self._inbox.get(block=idle, timeout=_TIDY_S if idle and self.scheduler.retained else None)
                if row is None:
                    woken = True
                elif not row.canceled:
                    self.scheduler.add(row)

    def _hand_out(self, said: Mapping[Row, Sequence[RowEvent]]) -> None:
        for row, events in said.items():
            mailbox = self._mail.get(row)
            if mailbox is not None:
                mailbox.put(events)
