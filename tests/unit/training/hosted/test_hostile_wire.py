"""What a provider, or whoever stands in its place, can do to the calls: secrets, odd numbers, private addresses."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.upstreams.together_api import TogetherApi, together_api
from tests.upstreams.together_words import adapter_files, tarred
from tunesmith.kernel.problems import Forbidden, Invalid, Unavailable
from tunesmith.training.executors import fireworks_wire, together_wire
from tunesmith.training.hosted.addresses import checked, public_only
from tunesmith.training.hosted.archives import unpack_adapter
from tunesmith.training.hosted.refusals import refused
from tunesmith.training.hosted.wire import Wire

SIGNED = "https://storage.example/logs?X-Goog-Signature=c0ffee"


@pytest.fixture
def api() -> Iterator[TogetherApi]:
    with together_api() as running:
        yield running


async def test_a_key_that_is_read_from_a_database_is_not_read_on_the_event_loop(api: TogetherApi) -> None:
    read_by = []

    def key() -> str:
        read_by.append(threading.current_thread())
        return api.key

    wire = Wire("Stand-in", api.url, key, variable="K")
    assert await wire.json("GET", "/v1/files") == {"data": []}
    api.refuse(401, {"error": f"bad key {api.key}"}, at="GET /v1/files")
    with pytest.raises(Forbidden) as told:
        await wire.json("GET", "/v1/files")
    await wire.close()
    assert read_by and threading.main_thread() not in read_by
    assert api.key not in str(told.value.details) and api.key not in told.value.en


async def test_a_key_that_changes_while_an_answer_is_on_its_way_does_not_come_back(api: TogetherApi) -> None:
    keys = iter([api.key, "another-key-of-the-same-vault"])
    wire = Wire("Stand-in", api.url, lambda: next(keys, None), variable="K")
    api.refuse(200, {"echo": f"Bearer {api.key}"})
    assert await wire.json("GET", "/v1/files") == {"echo": "Bearer ***"}
    await wire.close()


async def test_a_download_does_not_fill_the_disk(
    api: TogetherApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = Wire("Stand-in", api.url, lambda: api.key, variable="K")
    api.refuse(200, "x" * 1000)
    assert await wire.save("/v1/x", tmp_path / "whole", 10**9) == 1000
    full = SimpleNamespace(free=10**6)
    monkeypatch.setattr("tunesmith.kernel.files.shutil.disk_usage", lambda folder: full)
    with pytest.raises(Unavailable, match="not enough disk"):
        await wire.save("/v1/x", tmp_path / "cut", 10**9)
    await wire.close()
    with pytest.raises(Unavailable, match="not enough disk"):
        (tmp_path / "archive").write_bytes(tarred(adapter_files()))
        unpack_adapter(tmp_path / "archive", tmp_path, 10**9)


def test_an_error_that_quotes_a_signed_address_or_holds_one_gives_nothing_away() -> None:
    body = {"error": {"message": f"cannot read {SIGNED}"}, "metricsFileSignedUrl": SIGNED}
    problem = refused("P", "K", 400, json.dumps(body).encode(), {}, "sk-mine")
    assert isinstance(problem, Invalid) and "cannot read https://storage.example/logs?***" in problem.en
    assert "c0ffee" not in problem.en + problem.zh + json.dumps(problem.details)


def test_a_deployment_is_told_without_what_it_signs() -> None:
    raw: dict[str, Any] = {
        "name": "accounts/a/deployments/b",
        "baseModel": "m",
        "state": "READY",
        "logsSignedUrl": SIGNED,
    }
    answer = fireworks_wire.DeploymentAnswer(raw["name"], raw["baseModel"], raw["state"])
    assert "c0ffee" not in repr(fireworks_wire.hosted_deployment(answer, raw))


@pytest.mark.parametrize("tokens", [1e300, "1e300", 10**30])
def test_a_number_that_no_database_holds_is_left_out(tokens: Any) -> None:
    progress = {"inputTokens": tokens, "percent": 5}
    raw = {"name": "accounts/a/supervisedFineTuningJobs/b", "state": "JOB_STATE_RUNNING", "jobProgress": progress}
    answer = fireworks_wire.JobAnswer(raw["name"], state="JOB_STATE_RUNNING", job_progress=raw["jobProgress"])  # type: ignore[arg-type]
    job = fireworks_wire.hosted_job(answer, raw)
    assert job.tokens is None and job.progress.step == 5


@pytest.mark.parametrize("job_id", ["", "a\0b", "a\nb", "x" * 600])
def test_an_id_that_cannot_be_kept_is_no_id(job_id: str) -> None:
    assert together_wire.job_of({"id": job_id, "status": "running"}) is None


@pytest.mark.parametrize(
    "address", ["64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "::127.0.0.1", "fec0::1"]
)
async def test_an_address_that_leads_to_a_private_one_in_disguise_is_not_used(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unavailable):
        checked(f"https://[{address}]/x", "https://api.example", "P")
    found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 443, 0, 0))]
    connector = public_only()
    monkeypatch.setattr("asyncio.base_events.socket.getaddrinfo", lambda *asked, **more: found)
    with pytest.raises(OSError, match="no public address"):
        await connector._resolver.resolve("storage.example", 443)
    await connector.close()


def test_a_public_address_is_used() -> None:
    for address in ("[2606:4700::1111]", "[64:ff9b::101:101]", "1.1.1.1"):
        assert checked(f"https://{address}/x", "https://api.example", "P")
