"""``/library``: every model on this machine, as an addition to the gpt-service document."""

import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from safetensors.numpy import save

from tunesmith.app import Services, compose
from tunesmith.asgi import create_app
from tunesmith.settings import Settings

NAME = 'adapters/小镇 <b>&"'


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    made = compose(Settings.read({}, home=tmp_path))
    folder = tmp_path / NAME
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": "tunesmith-small", "r": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(save({}))
    (folder / "tunesmith.json").write_text('{"run_id": "1"}')
    (folder / "optimizer.pt").write_bytes(b"\x80\x04.")
    (folder / "outside.json").symlink_to("/etc/hostname")
    yield made
    await made.close()


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(services, wants_token=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as made:
        yield made


async def test_the_library_tells_bases_adapters_and_what_is_loaded(client: httpx.AsyncClient) -> None:
    version = (await client.get("/library")).json()["adapters"][0]["version"]
    promoted = await client.post("/aliases/prod", json={"adapter": NAME, "force": True})
    assert promoted.status_code == 200, promoted.text
    found = (await client.get("/library")).json()
    assert [each["name"] for each in found["bases"]] == ["tunesmith-small"]
    [adapter] = found["adapters"]
    assert (adapter["name"], adapter["base_model"], adapter["rank"]) == (NAME, "tunesmith-small", 4)
    assert (adapter["version"], adapter["aliases"], adapter["editable"]) == (version, ["prod"], True)
    assert (adapter["usage_count"], adapter["last_used"], adapter["description"]) == (0, None, "")
    [loaded] = found["loaded"]
    assert (loaded["name"], loaded["is_current"]) == ("tunesmith-small", True)


async def test_a_description_is_kept_as_it_was_said(client: httpx.AsyncClient) -> None:
    said = "<script>alert(1)</script>\n第二行"
    assert (await client.patch("/library", json={"name": NAME, "description": said})).status_code == 200
    assert (await client.get("/library")).json()["adapters"][0]["description"] == said
    for body, status in [({"name": "no", "description": ""}, 404), ({"name": NAME, "description": "\0"}, 400)]:
        assert (await client.patch("/library", json=body)).status_code == status


async def test_a_download_holds_weights_and_json_alone(client: httpx.AsyncClient) -> None:
    answer = await client.get("/library/download", params={"name": NAME})
    assert answer.headers["content-type"] == "application/zip"
    assert "<" not in answer.headers["content-disposition"] and answer.headers["content-disposition"].isascii()
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["adapter_config.json", "adapter_model.safetensors", "tunesmith.json"]
        assert json.loads(archive.read("adapter_config.json"))["r"] == 4
    for name in ("../x", "/etc", "no", "tunesmith-small"):
        assert (await client.get("/library/download", params={"name": name})).status_code in (400, 404)


async def test_who_did_not_train_it_neither_describes_it_nor_learns_what_it_was_made_of(services: Services) -> None:
    services.accounts.add("jun", "a long password 1")
    headers = {"Authorization": f"Bearer {services.accounts.create_key('jun').secret}"}
    transport = httpx.ASGITransport(create_app(services, wants_token=True))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        [adapter] = (await client.get("/library")).json()["adapters"]
        assert (adapter["editable"], adapter["run_id"]) == (False, None)
        assert (await client.patch("/library", json={"name": NAME, "description": "x"})).status_code == 403
        answer = await client.get("/library/download", params={"name": NAME})
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert "tunesmith.json" not in archive.namelist()
