"""An answer as it comes from an upstream: its lines, how long it is waited for, and how its connection ends."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from tunesmith.inference.engines.http1 import Broken, Reply
from tunesmith.inference.engines.lines import LONGEST_LINE, Lines
from tunesmith.inference.engines.watch import NEVER, Patience, Watch
from tunesmith.kernel.problems import Problem, TimedOut, Unavailable

LONGEST_ANSWER = 64 << 20  # bytes on the wire; no answer for people is that long
_END_S = 0.1  # seconds for an answer that is over to end as HTTP has it
_ENDLESS = Patience()


@dataclass(frozen=True, slots=True)
class Label:
    """What people call an upstream, and what to look at when it does not answer."""

    zh: str
    en: str
    hint_zh: str = "请稍后重试"
    hint_en: str = "ask again later"


class Answer:
    """A streamed answer, as its lines come.

    Args:
        patience: how long it is waited for, from now on. What may take any time may have any length.

    Attributes:
        started: when it was asked for, by the running loop's clock.
        plain_json: the server answers with one JSON value though a stream was asked for.
        ended: it was read to its end, so that its connection may serve another request.
    """

    def __init__(self, label: Label, patience: Patience) -> None:
        self._label = label
        self._lines = Lines()
        self._size, self._most = 0, NEVER if patience.total_s == NEVER else LONGEST_ANSWER
        self._reply: Reply | None = None
        self._failure: Problem | None = None
        self.started = asyncio.get_running_loop().time()
        self._watch = Watch(patience, self._late, self.started) if patience != _ENDLESS else None
        self.plain_json = self.ended = False

    @property
    def left_s(self) -> float:
        """Seconds that it is still waited for, as things stand."""
        return NEVER if self._watch is None else self._watch.left_s

    def late(self) -> TimedOut:
        """What has been waited for when nothing is left."""
        return late(self._label, "total" if self._watch is None else self._watch.which)

    def begins(self, reply: Reply) -> None:
        """It will come over that."""
        self._reply = reply
        if self._failure is not None:
            reply.fail(self._failure)

    def accepted(self, reply: Reply) -> None:
        """Its head has come."""
        self.plain_json = reply.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"

    async def lines(self) -> list[bytes] | None:
        """The lines that one or more reads completed; None once the server has ended the answer.

        Raises:
            Unavailable: the answer cannot be read, or never ends.
            TimedOut: it was waited for as long as it may be.
            Broken: it breaks off.
        """
        reply, watch = self._begun, self._watch
        while True:
            if watch is not None:
                watch.waiting()
            piece = await reply.read()
            if watch is not None:
                watch.came()
            if not piece:
                rest = self._lines.end()
                self.ended = True
                return rest or None
            self._size += len(piece)
            if self._size > self._most:
                raise unreadable(self._label)
            found = self._lines.feed(piece)
            if found:
                return found

    async def whole(self) -> bytes:
        """The body that is no stream."""
        return await read_whole(self._begun, self._label, LONGEST_LINE)

    def heard(self) -> None:
        """A token came, or the model is known to be thinking: from here on only silence is too long."""
        if self._watch is not None:
            self._watch.heard()

    def fail(self, problem: Problem) -> None:
        """Raise that where it is read, now or when it is read next."""
        self._failure = problem
        if self._reply is not None:
            self._reply.fail(problem)

    async def close(self) -> None:
        """Let go of its connection: kept where the answer has ended, else closed, so that the server sees it."""
        if self._watch is not None:
            self._watch.stop()
            self._watch = None  # they hold each other, and nothing would let go of them but the collector of garbage
        reply = self._reply
        if reply is None:
            return
        try:
            if self.ended and not reply.ended:
                await _rest(reply)
        finally:
            reply.close()  # at its end it had given the connection back by itself

    @property
    def _begun(self) -> Reply:
        assert self._reply is not None, "nobody reads what has not been asked for"
        return self._reply

    def _late(self, which: str) -> None:
        self.fail(late(self._label, which))


async def _rest(reply: Reply) -> None:
    """What follows the end of the answer: as a rule, the end of its body."""
    with suppress(TimeoutError, Broken, Problem):
        async with asyncio.timeout(_END_S):
            while await reply.read():
                pass


async def read_whole(reply: Reply, label: Label, most: int = LONGEST_ANSWER) -> bytes:
    """A body that is no stream.

    Raises:
        Unavailable: it has more than ``most`` bytes.
        Broken: it breaks off.
    """
    pieces, size = [], 0
    while piece := await reply.read():
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise unreadable(label)
    return b"".join(pieces)


def unreadable(label: Label) -> Unavailable:
    """The answer is not what the wire promises."""
    return Unavailable(f"{label.zh}的应答无法解析", f"{label.en}'s answer cannot be read")


def broke_off(label: Label, **details: str) -> Unavailable:
    """The answer ended without saying that it was over."""
    return Unavailable(f"{label.zh}的应答中断，请重试", f"{label.en}'s answer broke off; ask again", **details)


def late(label: Label, which: str) -> TimedOut:
    """It was waited for too long: "connect", "first token", "idle" or "total"."""
    said_zh, said_en = {
        "connect": ("连接超时", "did not let us connect in time"),
        "first token": ("迟迟没有开始回答", "did not begin its answer in time"),
        "idle": ("中途没有了声音", "fell silent in the middle of its answer"),
        "total": ("没有在限定时间内答完", "did not end its answer in time"),
    }[which]
    return TimedOut(f"{label.zh}{said_zh}，请稍后重试", f"{label.en} {said_en}; ask again later", waited_for=which)
