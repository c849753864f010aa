"""A file that is sent gives up its room however the sending ends."""

from collections.abc import Iterator, MutableMapping
from typing import Any

from tunesmith.dialects.finetune.downloads import Lines


class File:
    """Three pieces, and whether it was closed."""

    filename, size, closed = "客服.jsonl", 9, 0

    def chunks(self) -> Iterator[bytes]:
        for _ in range(3):
            assert not self.closed
            yield b"{}\n"

    def close(self) -> None:
        self.closed += 1


async def sent(file: File, *, leaves: bool) -> list[MutableMapping[str, Any]]:
    messages: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        messages.append(message)
        if leaves and message["type"] == "http.response.body":
            raise OSError("the client has gone")

    try:
        await Lines(file)({"type": "http", "asgi": {"spec_version": "2.4"}, "headers": []}, receive, send)
    except Exception:
        assert leaves
    return messages


async def test_a_file_is_closed_when_it_was_sent_whole() -> None:
    file = File()
    messages = await sent(file, leaves=False)
    assert b"".join(each.get("body", b"") for each in messages) == b"{}\n" * 3
    assert dict(messages[0]["headers"])[b"content-length"] == b"9"
    assert file.closed


async def test_a_file_is_closed_when_the_reader_leaves() -> None:
    file = File()
    messages = await sent(file, leaves=True)
    assert len(messages) == 2 and file.closed
