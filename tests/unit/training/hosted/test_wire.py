"""Calls to a provider, and to the addresses it names."""

import hashlib
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import aiohttp
import pytest

from tests.upstreams.together_api import TogetherApi, together_api
from tunesmith.kernel.clock import utc_now
from tunesmith.kernel.problems import Forbidden, Invalid, TimedOut, Unavailable
from tunesmith.training.hosted.addresses import checked, public_only
from tunesmith.training.hosted.provider import TrainingFile
from tunesmith.training.hosted.refusals import refused, seconds
from tunesmith.training.hosted.wire import Waits, Wire, segment


@pytest.fixture
def api() -> Iterator[TogetherApi]:
    with together_api() as running:
        yield running


@pytest.fixture
async def wire(api: TogetherApi) -> AsyncIterator[Wire]:
    waits = Waits(again_s=0.01, longest_s=0.05)
    made = Wire("Stand-in", api.url, lambda: api.key, variable="STAND_IN_KEY", waits=waits)
    yield made
    await made.close()


async def test_an_answer_is_plain_values_and_one_without_a_body_is_none(api: TogetherApi, wire: Wire) -> None:
    assert await wire.json("GET", "/v1/files") == {"data": []}
    api.refuse(200, "", at="GET /v1/files")
    assert await wire.json("GET", "/v1/files") is None


async def test_the_key_never_comes_back(api: TogetherApi, wire: Wire) -> None:
    api.refuse(200, {"echo": f"Bearer {api.key}"})
    assert await wire.json("GET", "/v1/files") == {"echo": "Bearer ***"}


async def test_an_answer_has_an_end(api: TogetherApi, wire: Wire) -> None:
    api.refuse(200, "[" + "1," * 5000 + "1]")
    with pytest.raises(Unavailable):
        await wire.json("GET", "/v1/files", most=5000)


async def test_only_reading_is_repeated(api: TogetherApi, wire: Wire) -> None:
    api.refuse(503)
    for method, times in (("GET", 3), ("POST", 1), ("DELETE", 1)):
        with pytest.raises(Unavailable) as gone:
            await wire.json(method, "/v1/x", None)
        assert api.count(f"{method} /v1/x") == times
        assert gone.value.details.get("uncertain", False) is (method != "GET")


async def test_a_redirect_is_no_answer_where_none_is_wanted(api: TogetherApi, wire: Wire) -> None:
    api.refuse(302)
    with pytest.raises(Unavailable):
        await wire.json("GET", "/v1/files")


async def test_waiting_ends_and_says_what_may_have_happened(api: TogetherApi) -> None:
    api.accept_then_hang("*", times=9)
    hasty = Wire("Stand-in", api.url, lambda: api.key, variable="K", waits=Waits(answer_s=0.2, tries=1))
    for method, path in (("GET", "/v1/files"), ("POST", "/v2/projects/proj_1/endpoints")):
        with pytest.raises(TimedOut) as late:
            await hasty.json(method, path, {"name": "x"} if method == "POST" else None)
        assert late.value.details.get("uncertain", False) is (method == "POST")
    await hasty.close()
    with pytest.raises(Unavailable, match="closed"):
        await hasty.json("GET", "/v1/files")


async def test_a_key_that_is_missing_is_told_by_the_name_of_its_variable(api: TogetherApi) -> None:
    keyless = Wire("Stand-in", api.url, lambda: None, variable="STAND_IN_KEY")
    with pytest.raises(Forbidden, match="STAND_IN_KEY"):
        await keyless.json("GET", "/v1/files")
    assert not api.requests


async def test_a_file_travels_as_a_form(api: TogetherApi, wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"{}\n")
    file = TrainingFile(path, hashlib.sha256(b"{}\n").hexdigest(), 3, 1)
    with pytest.raises(Invalid, match="missing checksum, file_name, file_type, purpose"):
        await wire.post_file("/v1/files", file, field="file", filename="x.jsonl")
    fields = {"purpose": "fine-tune", "file_name": "x", "file_type": "jsonl", "checksum": "c"}
    api.accept_then_close("POST /v1/files")
    with pytest.raises(TimedOut):
        await wire.post_file("/v1/files", file, field="file", filename="x.jsonl", fields=fields)
    assert api.created["file"] == 1


async def test_what_is_saved_has_an_end_and_a_new_name(api: TogetherApi, wire: Wire, tmp_path: Path) -> None:
    api.refuse(200, "x" * 1000, at="GET /big")
    assert await wire.save("/big", tmp_path / "a", 1000) == 1000 and (tmp_path / "a").read_bytes() == b"x" * 1000
    with pytest.raises(Unavailable, match="more than 999"):
        await wire.save("/big", tmp_path / "b", 999)
    with pytest.raises(Unavailable):
        await wire.save("http://localhost:1/elsewhere", tmp_path / "c", 10)


async def test_the_key_goes_to_no_other_address(
    api: TogetherApi, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # another stand-in is neither HTTPS nor public: let it pass for once
    monkeypatch.setattr("tunesmith.training.hosted.wire.checked", lambda url, base, label: url)
    monkeypatch.setattr("tunesmith.training.hosted.wire.public_only", aiohttp.TCPConnector)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"{}\n")
    with together_api(key="another") as elsewhere:
        target = f"{elsewhere.url}/signed/x"
        with pytest.raises(Forbidden):  # the signature is missing
            await wire.put(target, TrainingFile(path, "", 3, 1))
        with pytest.raises(Invalid):
            await wire.save(target, tmp_path / "y", 10)
        assert elsewhere.requests == ["PUT /signed/x", "GET /signed/x"] and not elsewhere.leaked
    assert not api.requests


@pytest.mark.parametrize("name", ["localhost", "127.1", "0x7f000001"])
async def test_a_name_that_resolves_within_is_not_connected_to(api: TogetherApi, name: str) -> None:
    port = api.url.rpartition(":")[2]
    async with aiohttp.ClientSession(connector=public_only()) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://{name}:{port}/v1/files")
    assert not api.requests


@pytest.mark.parametrize(
    "url",
    [
        "https://storage.example.com/x?sig=a%2Fb",
        "https://8.8.8.8/x",
        "http://api.test:8080/other",
        "HTTP://API.test:8080/other",
    ],
)
def test_a_public_address_and_the_providers_own_are_used_as_they_are(url: str) -> None:
    assert checked(url, "http://api.test:8080/v1", "x") == url


@pytest.mark.parametrize(
    "url",
    [
        "http://storage.example.com/x",
        "http://api.test/x",
        "http://api.test:8081/x",
        "https://10.0.0.1/x",
        "https://[fe80::1%25eth0]/x",
        "https://[::1]/x",
        "https://127.1/x",
        "https://2130706433/x",
        "https://0x7f.0x1/x",
        "https://224.0.0.1/x",
        "https://100.64.0.1/x",
        "https://metadata.google.internal/x",
        "https://a@b.example.com/x",
        "https:///x",
        "ftp://storage.example.com/x",
        "//storage.example.com/x",
        "https://exa mple.com/",
        "https://[bad/x",
        "https://example.com:99999/x",
        "",
    ],
)
def test_other_addresses_are_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(Unavailable) as wrong:
        checked(url, "http://api.test:8080/v1", "x")
    assert "example" not in wrong.value.en


def test_parts_of_a_path_stay_parts() -> None:
    assert segment("a/b?c#d%") == "a%2Fb%3Fc%23d%25" and segment("...") == "..."
    for wrong in ("", ".", "..", "x" * 513):
        with pytest.raises(Invalid):
            segment(wrong)


def test_retry_after_is_read_in_both_forms() -> None:
    later = format_datetime(utc_now() + timedelta(seconds=60), usegmt=True)
    assert seconds("7") == 7.0 and 50 < (seconds(later) or 0) <= 60
    assert [seconds(text) for text in ("", "-1", "nan", "inf", "1e9", "soon")] == [None] * 6


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"message": "no"}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": [{"msg": "no", "loc": []}]}', "no"),
        (b"no", "no"),
        (b"<html>gone</html>", "does not say why"),
        (b"\xff\xfe\x00", "refused"),
        (b'{"error": {"message": ""}}', "does not say why"),
        (b"[" * 9000, "refused"),
    ],
)
def test_the_providers_own_words_are_quoted_on_one_line(body: bytes, words: str) -> None:
    problem = refused("P", "K", 418, body, {}, None)
    assert words in problem.en and "P" in problem.zh and "\n" not in problem.en and len(problem.en) < 1200
