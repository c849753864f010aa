"""The ways to misbehave, each a function that answers one request; a model's name says which and how much.

``slow-60-100``: mode ``slow``, numbers 60 and 100. What stands before the last ``/`` and after a ``:`` is not looked at,
so that ``bad/slow-60-100`` and ``slow-60-100:latest`` are the same.
"""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from itertools import repeat

from tests.upstreams.connection import Connection
from tests.upstreams.tally import Tally
from tests.upstreams.texts import tokens
from tests.upstreams.wires import Wire

METADATA_SERVICE = "http://169.254.169.254/latest/meta-data/"
RETRY_AFTER_S = 7
BAD_UTF8 = b"ok \xff\xfe\xe4\xbd"


@dataclass(frozen=True, slots=True)
class Order:
    """What a model's name asks for."""

    mode: str
    arguments: tuple[str, ...]

    def number(self, place: int, otherwise: int) -> int:
        """The argument at ``place`` as a number, ``otherwise`` if there is none."""
        return int(self.arguments[place]) if place < len(self.arguments) else otherwise


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer in the making."""

    connection: Connection
    wire: Wire
    order: Order
    tally: Tally
    stream: bool
    trap: str

    async def start(self) -> None:
        await self.connection.start(200, {"Content-Type": self.wire.content_type})

    async def say(self, text: str) -> None:
        await self.connection.write(self.wire.token(text), token=True)

    def said(self) -> Iterable[str]:
        """The tokens of this answer."""
        return SPOKEN[self.order.mode](self.order)

    async def say_all(self, pause_s: float = 0.0) -> int:
        """Say the tokens of this answer, with a pause after each; gives their number."""
        count = 0
        for token in self.said():
            await self.say(token)
            if pause_s:
                await asyncio.sleep(pause_s)
            count += 1
        return count

    async def finish(self, count: int) -> None:
        await self.connection.write(self.wire.finish(count))
        await self.connection.end()

    async def json(self, status: int, body: bytes, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await self.connection.whole(status, body, {"Content-Type": "application/json", **named})

    def first(self) -> bool:
        """Whether this very model name was never asked for before."""
        key = "-".join((self.order.mode, *self.order.arguments))
        self.tally.seen[key] += 1
        return self.tally.seen[key] == 1

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        self.tally.cut += 1
        self.connection.reset()


Mode = Callable[[Turn], Awaitable[None]]


def spoken(model: str) -> list[str]:
    """The tokens a model's answer consists of, as far as it gets; empty where none is ever valid.

    Raises:
        KeyError: there is no such mode, or its text has no end.
    """
    order = order_of(model)
    return list(SPOKEN[order.mode](order))


def order_of(model: str) -> Order:
    """Read a model's name.

    Raises:
        KeyError: there is no such mode.
    """
    name = model.rsplit("/", 1)[-1].split(":")[0]
    for mode in sorted(MODES, key=len, reverse=True):
        if name == mode or name.startswith(mode + "-"):
            rest = name[len(mode) + 1 :]
            return Order(mode, tuple(rest.split("-")) if rest else ())
    raise KeyError(model)


async def slow(turn: Turn) -> None:
    await turn.start()
    pause = turn.order.number(1, 100) / 1000
    await turn.finish(await turn.say_all(pause))


async def text(turn: Turn) -> None:
    if not turn.stream:
        said = list(turn.said())
        await turn.json(200, turn.wire.whole("".join(said), len(said)))
        return
    await turn.start()
    await turn.finish(await turn.say_all())


async def hang(turn: Turn) -> None:
    await _for_ever()


async def hangfirst(turn: Turn) -> None:
    await turn.start()
    await turn.connection.write(turn.wire.comment())
    await _for_ever()


async def stall(turn: Turn) -> None:
    await turn.start()
    await turn.say_all()
    await _for_ever()


async def drip(turn: Turn) -> None:
    await turn.start()
    while True:
        await turn.connection.write(turn.wire.comment())
        await asyncio.sleep(turn.order.number(0, 50) / 1000)


async def split(turn: Turn) -> None:
    await turn.start()
    said = list(turn.said())
    data = turn.wire.comment() + b"".join(turn.wire.token(token) for token in said) + turn.wire.finish(len(said))
    for at in range(len(data)):
        await turn.connection.write(data[at : at + 1], token=True)
        # long enough that the reader has usually read what went before
        await asyncio.sleep(0.0003)
    await turn.connection.end()


async def badutf8(turn: Turn) -> None:
    await turn.start()
    head, tail = turn.wire.around()
    before, after = turn.said()
    await turn.say(before)
    await turn.connection.write(head + BAD_UTF8 + tail, token=True)
    await turn.say(after)
    await turn.finish(3)


async def longline(turn: Turn) -> None:
    await turn.start()
    head, _ = turn.wire.around()
    await turn.connection.write(head, token=True)
    for _ in range(turn.order.number(0, 20) * 16):
        await turn.connection.write(b"x" * 65536)
    await turn.connection.end()


async def endless(turn: Turn) -> None:
    await turn.start()
    while True:
        for token in tokens(0, 1000):
            await turn.say(token)
        # a few megabytes a second: it is ended for its time, not for its length, however fast the machine
        await asyncio.sleep(0.05)


async def gzip_bomb(turn: Turn) -> None:
    # a block that was flushed in full may be repeated: a thousandfold of what is sent, without computing it
    squeezer = zlib.compressobj(9, zlib.DEFLATED, 31)
    head, _ = turn.wire.around()
    opening = squeezer.compress(head) + squeezer.flush(zlib.Z_FULL_FLUSH)
    squeezer.compress(b"x" * 32768)
    squeezer.flush(zlib.Z_FULL_FLUSH)
    block = squeezer.compress(b"x" * (1 << 20)) + squeezer.flush(zlib.Z_FULL_FLUSH)
    await turn.connection.start(200, {"Content-Type": turn.wire.content_type, "Content-Encoding": "gzip"})
    await turn.connection.write(opening, token=True)
    for _ in range(turn.order.number(0, 10_000)):
        await turn.connection.write(block)
    await turn.connection.end()


async def gzip_text(turn: Turn) -> None:
    said = list(turn.said())
    body = gzip.compress(b"".join(turn.wire.token(token) for token in said) + turn.wire.finish(len(said)))
    await turn.connection.start(200, {"Content-Type": turn.wire.content_type, "Content-Encoding": "gzip"})
    await turn.connection.write(body, token=True)
    await turn.connection.end()


async def garbage(turn: Turn) -> None:
    page = "<html><head><title>502 Bad Gateway</title></head><body><h1>坏了</h1></body></html>\n" * 20
    status = turn.order.number(0, 200)
    await turn.connection.whole(status, page.encode(), {"Content-Type": "text/html; charset=utf-8"})


async def redirect(turn: Turn) -> None:
    await _send_away(turn, turn.trap + "/trap")


async def redirect_metadata(turn: Turn) -> None:
    await _send_away(turn, METADATA_SERVICE)


async def errorin200(turn: Turn) -> None:
    await turn.json(200, turn.wire.refusal(502, "Provider returned error"))


async def mid(turn: Turn) -> None:
    await turn.start()
    await turn.say_all()
    code = turn.order.number(0, 502)
    await turn.connection.write(turn.wire.error(code, "Provider disconnected unexpectedly"))
    await turn.connection.end()


async def trunc(turn: Turn) -> None:
    await turn.start()
    await turn.say_all()
    await turn.connection.end()


async def shut(turn: Turn) -> None:
    await _tokens_before_the_cut(turn)
    turn.tally.cut += 1
    turn.connection.close()


async def drop(turn: Turn) -> None:
    await _tokens_before_the_cut(turn)
    turn.reset()


async def refuse_once(turn: Turn) -> None:
    if turn.first():
        turn.reset()
    else:
        await text(turn)


async def err(turn: Turn) -> None:
    await _refuse(turn, turn.order.number(0, 500), turn.order.number(1, RETRY_AFTER_S))


async def err_once(turn: Turn) -> None:
    if turn.first():
        await _refuse(turn, turn.order.number(0, 503), 1)
    else:
        await text(turn)


async def _refuse(turn: Turn, status: int, retry_after: int) -> None:
    headers = {"Retry_After": str(retry_after)} if status in (429, 503) else {}
    await turn.json(status, turn.wire.refusal(status, f"refused with {status}"), **headers)


async def _send_away(turn: Turn, address: str) -> None:
    await turn.connection.whole(turn.order.number(0, 302), b"", {"Location": address})


async def _tokens_before_the_cut(turn: Turn) -> None:
    await turn.start()
    await turn.say_all()
    # a reset may overtake what the reader has not read yet
    await asyncio.sleep(0.1)


async def _for_ever() -> None:
    await asyncio.Event().wait()


MODES: dict[str, Mode] = {
    "slow": slow,
    "text": text,
    "hang": hang,
    "hangfirst": hangfirst,
    "stall": stall,
    "drip": drip,
    "split": split,
    "badutf8": badutf8,
    "longline": longline,
    "endless": endless,
    "big": text,
    "gzip": gzip_bomb,
    "gzip-text": gzip_text,
    "garbage": garbage,
    "redirect": redirect,
    "redirect-metadata": redirect_metadata,
    "errorin200": errorin200,
    "mid": mid,
    "trunc": trunc,
    "shut": shut,
    "drop": drop,
    "refuse-once": refuse_once,
    "err": err,
    "err-once": err_once,
}

SPOKEN: dict[str, Callable[[Order], Iterable[str]]] = {
    "slow": lambda order: tokens(0, order.number(0, 60)),
    "text": lambda order: tokens(order.number(0, 0), order.number(1, 50)),
    "stall": lambda order: tokens(0, order.number(0, 3)),
    "split": lambda order: ["你好", *tokens(order.number(0, 0), order.number(1, 3)), "世界🌍"],
    "badutf8": lambda order: ["before ", " after"],
    "big": lambda order: repeat("x" * 8192, order.number(0, 20_000)),
    "gzip-text": lambda order: tokens(0, 8),
    "mid": lambda order: tokens(0, 3),
    "trunc": lambda order: tokens(0, 3),
    "shut": lambda order: tokens(0, 3),
    "drop": lambda order: tokens(0, 3),
    "refuse-once": lambda order: tokens(0, 50),
    "err-once": lambda order: tokens(0, 50),
}
