"""Reading server-sent events from an upstream, whatever pieces they come in."""

from collections.abc import AsyncGenerator, AsyncIterator

from tunesmith.kernel.problems import Unavailable

_LONGEST_LINE = 1 << 20


async def data_lines(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The payload of every ``data:`` line; comments and other fields are left out.

    Raises:
        Unavailable: a line is longer than any real one.
    """
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n") if rest else piece.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
        if len(rest) > _LONGEST_LINE:
            raise Unavailable(
                "推理引擎的应答无法解析（行过长）", "the engine's answer cannot be read: a line is too long"
            )
    if rest.startswith(b"data:"):
        yield rest[5:].strip()
