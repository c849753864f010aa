"""Multipart forms, read as they come."""

import pytest
from starlette.requests import Request

from tunesmith.http.uploads import Form, read_form
from tunesmith.kernel.problems import Invalid

TYPE = "multipart/form-data; boundary=b"


class Kept:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def part(name: str, value: bytes, filename: str | None = None, disposition: str | None = None) -> bytes:
    shown = disposition or f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    return b"--b\r\nContent-Disposition: " + shown.encode() + b"\r\n\r\n" + value + b"\r\n"


async def read(body: bytes, kind: str = TYPE, size: int = 7) -> tuple[Form, bytes]:
    """The form in ``body``, which comes ``size`` bytes at a time."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)] or [b""]

    async def receive() -> dict[str, object]:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    kept = Kept()
    request = Request({"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}, receive)
    return await read_form(request, lambda _: kept), kept.data


async def reason_of(body: bytes, kind: str = TYPE) -> str:
    with pytest.raises(Invalid) as refused:
        await read(body, kind)
    return str(refused.value.details["reason"])


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_file_and_fields_come_in_any_order_and_any_pieces(size: int) -> None:
    content = b"--not-b\r\n--b\rx\x00\xff" * 100
    body = part("name", "金融".encode()) + part("file", content, "数据.json") + part("format", b"json") + b"--b--\r\n"
    form, data = await read(body, size=size)
    assert data == content
    assert form == Form({"name": "金融", "format": "json"}, "数据.json")


async def test_a_file_name_may_be_percent_encoded() -> None:
    disposition = "form-data; name=\"file\"; filename*=UTF-8''%E6%95%B0.csv"
    form, _ = await read(part("file", b"x", disposition=disposition) + b"--b--\r\n")
    assert form.filename == "数.csv"


async def test_a_form_that_ends_in_the_middle_is_cut() -> None:
    whole = part("file", b"x" * 100, "a.json") + b"--b--\r\n"
    for end in (0, 20, 90, len(whole) - 8):
        assert await reason_of(whole[:end]) == "cut"


async def test_a_form_without_a_file_or_with_two_is_refused() -> None:
    assert await reason_of(part("name", b"x") + b"--b--\r\n") == "required"
    two = part("file", b"x", "a.json") + part("file", b"y", "b.json") + b"--b--\r\n"
    assert await reason_of(two) == "unknown"
    assert await reason_of(part("other", b"x", "a.json") + b"--b--\r\n") == "unknown"


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "multipart/form-data",
        "multipart/mixed; boundary=b",
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data; boundary=\x7f",
    ],
)
async def test_another_content_type_or_a_strange_boundary_is_refused(kind: str) -> None:
    assert await reason_of(part("file", b"x", "a.json") + b"--b--\r\n", kind) == "type"


@pytest.mark.parametrize(
    "body",
    [
        b"garbage",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\nno colon\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\nX: " + b"y" * 10_000 + b"\r\n\r\nx\r\n--b--\r\n",
        part("name", b"x" * 70_000) + b"--b--\r\n",
        b"".join(part(f"f{n}", b"x") for n in range(20)) + b"--b--\r\n",
        b"--b\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(30)) + b"\r\nx\r\n--b--\r\n",
    ],
)
async def test_what_is_malformed_or_too_much_is_refused(body: bytes) -> None:
    assert await reason_of(body) == "form"


async def test_a_field_given_twice_is_refused() -> None:
    assert await reason_of(part("name", b"x") + part("name", b"y") + b"--b--\r\n") == "repeated"


async def test_text_that_is_not_utf_8_is_refused() -> None:
    assert await reason_of(part("name", b"\xff") + part("file", b"x", "a.json") + b"--b--\r\n") == "encoding"


async def test_a_long_file_name_is_refused() -> None:
    assert await reason_of(part("file", b"x", "a" * 2000 + ".json") + b"--b--\r\n") == "range"
