"""Evaluations from request to result: recorded first, repeated after a crash, never more than one at a time."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import structlog

from tunesmith.evaluation.evaluation import Evaluation, EvaluationRequest, Failure, Question, State, checked
from tunesmith.evaluation.folder import Folder, known_form, missing
from tunesmith.evaluation.measuring import measure
from tunesmith.evaluation.metrics import NEEDS_ANSWERS, NEEDS_SCORES
from tunesmith.evaluation.store import EvaluationStore
from tunesmith.inference.engine import Engine
from tunesmith.kernel.caller import LOCAL, Caller
from tunesmith.kernel.clock import Clock, utc_now
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Problem

__all__ = ["Evaluation", "EvaluationRequest", "EvaluationService", "Failure", "Question", "State"]

# an evaluation that ended the server this often is not tried again
_MAX_ATTEMPTS = 3
# the record is written at most so often while one evaluation runs
_PROGRESS_WRITES = 50

_log = structlog.get_logger(__name__)


class EvaluationService:
    """Starts, executes and finds evaluations. Another's is answered like a missing one, but to an admin.

    ``start``, ``get``, ``list`` and ``outputs`` read and write disk and database: call them in a thread from async
    code. Whether the model exists is for the caller to check before, and for the engine to say at the latest.
    """

    def __init__(self, database: Database, home: Home, engine: Engine, clock: Clock = utc_now) -> None:
        self._store = EvaluationStore(database)
        self._home, self._engine, self._clock = home, engine, clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turn: tuple[str, asyncio.Task[None]] | None = None
        self._one_at_a_time = asyncio.Semaphore(1)
        self._closing = False

    def start(self, request: EvaluationRequest, caller: Caller = LOCAL) -> Evaluation:
        """Record an evaluation of the caller as queued; ``run_soon`` or ``execute`` does the work.

        Raises:
            Invalid: see ``evaluation.checked``. Unavailable: the disk is nearly full.
        """
        request = checked(request)
        evaluation = Evaluation(
            id=str(uuid.uuid4()),
            model=request.model,
            metrics=request.metrics,
            sampling=request.sampling,
            compare=request.compare,
            questions=len(request.questions),
            total=_rows(request),
            created_at=self._clock(),
            owner=caller.name,
            label=request.label,
        )
        # questions first: a record without them could never be executed, a folder without record is never seen
        Folder(self._home, evaluation.id).write_questions(request.questions)
        self._store.insert(evaluation)
        return evaluation

    async def execute(self, evaluation_id: str) -> Evaluation:
        """Run a queued evaluation to its end; waits for others of this service first.

        Whatever goes wrong while measuring is in the record that comes back: failed, with the reason. Cancelling
        the caller marks it canceled; ``close`` leaves it to ``recover``. Where ``cancel`` ends it meanwhile the
        canceled record comes back.

        Raises:
            NotFound: no such evaluation.
            Conflict: it is not queued, or another process is executing it.
        """
        folder = Folder(self._home, evaluation_id)
        try:
            # the turn is taken before anything is awaited, so turns come in the order of asking
            async with self._one_at_a_time:
                turn = asyncio.create_task(self._take_turn(evaluation_id, folder))
                self._turn = evaluation_id, turn
                try:
                    await turn
                finally:
                    self._turn = None
        except asyncio.CancelledError:
            if _caller_is_canceled():
                if not self._closing:
                    await self._mark_canceled(evaluation_id)
                raise
        return await asyncio.to_thread(self.get, evaluation_id)

    async def cancel(self, evaluation_id: str, caller: Caller = LOCAL) -> Evaluation:
        """Stop a queued or running evaluation for good; its rows are closed when this returns. Twice is fine.

        Await it on the loop that executes; from another thread use ``asyncio.run_coroutine_threadsafe``.

        Raises:
            NotFound: no such evaluation.
            Conflict: it has completed or failed.
        """
        await asyncio.to_thread(self.get, evaluation_id, caller)
        # the record first: killed in between, the evaluation is not taken up again
        canceled = await asyncio.to_thread(self._store.cancel, evaluation_id, self._clock())
        found = await asyncio.to_thread(self.get, evaluation_id)
        if not canceled and found.state is not State.CANCELED:
            raise _has_ended(found)
        task = self._tasks.get(evaluation_id)  # while it waits; once it works, only its turn: who waits gets the record
        if self._turn is not None and self._turn[0] == evaluation_id:
            task = self._turn[1]
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        return found

    def run_soon(self, evaluation_id: str) -> None:
        """Execute on the running loop, after those already waiting. Asking twice is fine."""
        if evaluation_id not in self._tasks and not self._closing:
            task = asyncio.get_running_loop().create_task(self._execute_quietly(evaluation_id))
            self._tasks[evaluation_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(evaluation_id, None))

    async def recover(self) -> Sequence[str]:
        """Execute again what a killed server left queued or running; call once, at start-up.

        An evaluation only reads, so repeating it harms nothing: it goes back to the queue and is run from its first
        question. One that was started three times and never ended is failed instead, as it may be what kills the
        server. One that a living process works on is left alone.

        Returns:
            The ids put back, oldest first; they run soon.
        """
        again = await asyncio.to_thread(self._recover)
        for evaluation_id in again:
            self.run_soon(evaluation_id)
        return again

    def get(self, evaluation_id: str, caller: Caller = LOCAL) -> Evaluation:
        """The record.

        Raises:
            NotFound: no such evaluation, or the id is not the form of one.
        """
        found = self._store.find(known_form(evaluation_id))
        if found is None or not caller.sees(found.owner):
            raise missing(evaluation_id)
        return found

    def outputs(self, evaluation_id: str, caller: Caller = LOCAL) -> Sequence[dict[str, Any]]:
        """What each question brought: see ``measuring.outputs``. Empty until the evaluation has completed.

        Raises:
            NotFound: no such evaluation.
        """
        done = self.get(evaluation_id, caller).state is State.COMPLETED
        return Folder(self._home, evaluation_id).outputs() if done else []

    async def close(self) -> None:
        """Stop what runs; the next ``recover`` takes it up again."""
        self._closing = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _mark_canceled(self, evaluation_id: str) -> None:
        """In a thread that is handed its work at once and finishes it even where the caller is canceled again."""
        loop = asyncio.get_running_loop()
        await asyncio.shield(loop.run_in_executor(None, self._store.cancel, evaluation_id, self._clock()))

    async def _take_turn(self, evaluation_id: str, folder: Folder) -> None:
        evaluation = await asyncio.to_thread(self.get, evaluation_id)
        with folder.locked():
            if not await asyncio.to_thread(self._store.begin, evaluation_id):
                raise _not_queued(await asyncio.to_thread(self.get, evaluation_id))
            await self._attempt(evaluation, folder)

    async def _attempt(self, evaluation: Evaluation, folder: Folder) -> None:
        """Measure and record the outcome, whichever it is."""
        try:
            questions = await asyncio.to_thread(folder.questions)
            result, outputs = await measure(self._engine, evaluation, questions, _Progress(self._store, evaluation))
            await asyncio.to_thread(folder.write_outcome, outputs, result)
        except Problem as problem:
            failure = Failure.of(problem)
        except Exception as error:
            _log.exception("evaluation broke", evaluation_id=evaluation.id)
            cause = f"{type(error).__name__}: {error}"[:300]
            failure = Failure(f"评估内部错误：{cause}", f"evaluation broke: {cause}")
        else:
            await asyncio.to_thread(self._store.complete, evaluation.id, result, self._clock())
            return
        await asyncio.to_thread(self._store.fail, evaluation.id, failure, self._clock())

    async def _execute_quietly(self, evaluation_id: str) -> None:
        try:
            await self.execute(evaluation_id)
        except Problem as problem:  # the record says where it stands; there is nobody to tell
            _log.warning("evaluation not executed", evaluation_id=evaluation_id, reason=problem.en)
        except Exception:
            _log.exception("evaluation not executed", evaluation_id=evaluation_id)

    def _recover(self) -> list[str]:
        again: list[str] = []
        for evaluation in self._store.unfinished():
            try:
                with Folder(self._home, evaluation.id).locked():
                    if evaluation.attempts >= _MAX_ATTEMPTS:
                        self._store.fail(evaluation.id, _TOO_OFTEN, self._clock())
                    elif self._store.requeue(evaluation.id):
                        again.append(evaluation.id)
            except Conflict:
                continue
            except Problem as problem:
                self._store.fail(evaluation.id, Failure.of(problem), self._clock())
        return again

    def list(self, caller: Caller = LOCAL, limit: int = 1000) -> Sequence[Evaluation]:
        """The caller's, an admin's being all, the newest first."""
        return self._store.newest(caller.only, limit)


class _Progress:
    """Counts finished rows; tells the record now and then, as every write waits for the disk."""

    def __init__(self, store: EvaluationStore, evaluation: Evaluation) -> None:
        self._store, self._id = store, evaluation.id
        self._step = max(1, -(-evaluation.total // _PROGRESS_WRITES))
        self._done = self._written = 0

    async def __call__(self, rows: int) -> None:
        self._done += rows
        if self._done - self._written >= self._step:
            self._written = self._done
            await asyncio.to_thread(self._store.advance, self._id, self._done)


_TOO_OFTEN = Failure(
    f"服务在执行此评估时 {_MAX_ATTEMPTS} 次中断，不再重试；请减少题目或检查内存后重新提交",
    f"the server ended {_MAX_ATTEMPTS} times while executing this evaluation, so it is not tried again; "
    "ask fewer questions or check the memory, then submit it anew",
)


def _rows(request: EvaluationRequest) -> int:
    """Answers to generate and references to score, of every model."""
    wanted = set(request.metrics)
    parts = bool(wanted & NEEDS_ANSWERS) + bool(wanted & NEEDS_SCORES)
    return len(request.questions) * parts * (2 if request.compare else 1)


def _caller_is_canceled() -> bool:
    """Whether the current task itself was canceled, not only what it awaited."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _has_ended(evaluation: Evaluation) -> Problem:
    return Conflict(
        f"评估 {evaluation.id} 的状态是 {evaluation.state}，已经结束，不能取消",
        f"evaluation {evaluation.id} is {evaluation.state}: it has ended and cannot be canceled",
        evaluation_id=evaluation.id,
        state=str(evaluation.state),
    )


def _not_queued(evaluation: Evaluation) -> Problem:
    return Conflict(
        f"评估 {evaluation.id} 的状态是 {evaluation.state}，不能再次执行",
        f"evaluation {evaluation.id} is {evaluation.state} and cannot be executed",
        evaluation_id=evaluation.id,
        state=str(evaluation.state),
    )
