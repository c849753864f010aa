"""``/datasets``: what there is to train on, as an addition to the gpt-service document."""

import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tunesmith.app import Services, compose
from tunesmith.asgi import create_app
from tunesmith.kernel.caller import Caller
from tunesmith.settings import Settings

MINE = Caller("mei")
HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    made = compose(Settings.read({}, home=tmp_path))
    yield made
    await made.close()


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(services, wants_token=False)), base_url="http://localhost"
    ) as made:
        yield made


def rows(numbers: Iterable[int]) -> bytes:
    return b"".join(json.dumps({"instruction": f"q{n}", "output": f"a{n}"}).encode() + b"\n" for n in numbers)


async def uploaded(client: httpx.AsyncClient, content: bytes, name: str = "town.jsonl") -> str:
    answer = await client.post("/api/finetune/upload-dataset", files={"file": (name, content)})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def test_an_uploaded_file_is_listed_with_its_shape_and_read_from_the_middle(client: httpx.AsyncClient) -> None:
    id = await uploaded(client, b"\xef\xbb\xbf\n" + rows(range(300)), f"{HOSTILE}.jsonl")
    [listed] = (await client.get("/datasets")).json()["datasets"]
    assert (listed["id"], listed["kind"], listed["examples"]) == (id, "upload", 300)
    assert listed["name"].endswith(".jsonl") and "/" not in listed["dataset_path"].removeprefix("data/raw/")
    assert (await client.get(f"/datasets/{id}")).json()["shape"] == "alpaca"
    window = (await client.get(f"/datasets/{id}/rows", params={"offset": 250, "limit": 2})).json()
    assert window["total_count"] == 300
    assert window["rows"][1] == {
        "line": 253,
        "messages": [{"role": "user", "content": "q251"}, {"role": "assistant", "content": "a251"}],
    }


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"[" + rows(range(9)).replace(b"\n", b",\n").rstrip(b",\n") + b"]", "a.json"),
        (b"instruction,output\n" + b"".join(f"q{n},a{n}\n".encode() for n in range(9)), "a.csv"),
        (b"\n\n" + rows(range(4)) + b"  \n" + rows(range(4, 9)).rstrip(b"\n"), "a.jsonl"),
    ],
)
async def test_the_rows_of_every_format_are_found_by_their_number(
    client: httpx.AsyncClient, content: bytes, name: str
) -> None:
    id = await uploaded(client, content, name)
    for offset in range(10):
        window = (await client.get(f"/datasets/{id}/rows", params={"offset": offset, "limit": 2})).json()
        assert [row["messages"][0]["content"] for row in window["rows"]] == [
            f"q{n}" for n in range(offset, min(9, offset + 2))
        ]


async def test_preferences_and_rows_that_cannot_be_used_are_shown_as_such(client: httpx.AsyncClient) -> None:
    pairs = b'{"prompt": "q", "chosen": "good", "rejected": "bad"}\n{"prompt": "q", "chosen": "good"}\n'
    shown = (await client.get(f"/datasets/{await uploaded(client, pairs, 'pairs.jsonl')}/rows")).json()
    good, bad = shown["rows"]
    assert shown["shape"] == "preference"
    assert (good["chosen"][-1]["content"], good["rejected"][-1]["content"]) == ("good", "bad")
    assert (bad["line"], bad["problem"]["field"]) == (2, "rejected")
    id = await uploaded(client, b'{"a": 1}\n', "nothing.jsonl")
    assert (await client.get(f"/datasets/{id}")).json()["shape"] is None
    assert (await client.get(f"/datasets/{id}/rows")).status_code == 400


async def test_a_file_becomes_a_split_dataset_whose_parts_are_read(client: httpx.AsyncClient) -> None:
    id = await uploaded(client, rows(range(40)))
    body = {"name": "town", "train": 0.5, "validation": 0.25, "test": 0.25}
    made = (await client.post(f"/datasets/{id}/process", json=body)).json()["dataset"]
    assert (made["kind"], made["dataset_path"]) == ("dataset", "town")
    assert made["splits"] == {"train": 20, "validation": 10, "test": 10}
    found = []
    for part, count in [*made["splits"].items(), ("all", 40)]:
        window = (await client.get(f"/datasets/{made['id']}/rows", params={"part": part, "offset": 5})).json()
        assert (window["total_count"], len(window["rows"])) == (count, count - 5)
        found.append({row["messages"][0]["content"] for row in window["rows"]})
    assert not found[0] & found[1] and found[3] & found[1]
    again = await client.post(f"/datasets/{id}/process", json=body)
    assert again.status_code == 409
    assert (await client.get(f"/datasets/{made['id']}/rows", params={"part": "../x"})).status_code == 404


async def test_a_dataset_that_was_kept_whole_is_split_in_place(
    client: httpx.AsyncClient, services: Services, tmp_path: Path
) -> None:
    (tmp_path / "x.jsonl").write_bytes(rows(range(20)))
    services.datasets.add("town", tmp_path / "x.jsonl")
    made = (await client.post("/datasets/town/split", json={"train": 0.5, "validation": 0, "test": 0.5})).json()
    assert set(made["dataset"]["splits"]) == {"train", "test"} and sum(made["dataset"]["splits"].values()) == 20
    assert (await client.post("/datasets/town/split", json={"train": 0.5})).status_code == 400


async def test_what_is_deleted_is_gone_with_its_file(client: httpx.AsyncClient, services: Services) -> None:
    id = await uploaded(client, rows(range(4)))
    path = services.home.root / (await client.get(f"/datasets/{id}")).json()["dataset_path"]
    assert path.is_file()
    assert (await client.delete(f"/datasets/{id}")).json()["name"] == "town.jsonl"
    assert not path.exists()
    for answer in (await client.get(f"/datasets/{id}"), await client.delete(f"/datasets/{id}")):
        assert answer.status_code == 404


async def test_check_and_mask_say_what_the_command_line_says(client: httpx.AsyncClient) -> None:
    content = rows(range(3)) + b'{"instruction": "q9", "output": ""}\n' + rows([0])
    id = await uploaded(client, content)
    report: dict[str, Any] = (await client.get(f"/datasets/{id}/check")).json()
    assert report["ok"] is False and report["base"] == "tunesmith-small"
    assert {(each["level"], each["line"]) for each in report["findings"]} == {("error", 4), ("warning", 5)}
    shown = (await client.get(f"/datasets/{id}/mask", params={"offset": 1, "limit": 3, "max_length": 10})).json()
    assert [each["line"] for each in shown["preview"]] == [2, 3]
    pieces = shown["preview"][0]["pieces"]
    assert "q1" in "".join(piece["text"] for piece in pieces if not piece["learned"])
    assert "".join(piece["text"] for piece in pieces if piece["learned"]).startswith("a1")
    assert any(piece["cut"] for piece in pieces) and shown["max_length"] == 10
    for query in ("base_model=no", "base_model=../x", "max_length=0", "limit=999", "offset=-1"):
        assert 400 <= (await client.get(f"/datasets/{id}/mask?{query}")).status_code < 500, query


async def test_the_sample_files_are_there_once_they_are_put_in_place(client: httpx.AsyncClient) -> None:
    assert (await client.get("/datasets")).json()["datasets"] == []
    assert (await client.get("/datasets/sample_train")).status_code == 404
    await client.post("/samples")
    found = (await client.get("/datasets")).json()["datasets"]
    assert found[0]["id"] == "sample_train" and {each["kind"] for each in found} == {"sample"}
    assert len((await client.get("/datasets/sample_train/rows?limit=500")).json()["rows"]) == found[0]["examples"]
    assert (await client.delete("/datasets/sample_train")).status_code == 404


async def test_what_is_anothers_is_answered_like_what_is_not_there(services: Services, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(rows(range(20)))
    kept = services.datasets.add("town", tmp_path / "x.jsonl", caller=MINE)
    incoming = services.uploads.begin("secret.jsonl", name="secret", caller=MINE)
    incoming.write(rows(range(4)))
    upload = await incoming.finish()
    services.accounts.add("jun", "a long password 1")
    transport = httpx.ASGITransport(create_app(services, wants_token=True))
    headers = {"Authorization": f"Bearer {services.accounts.create_key('jun').secret}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        assert (await client.get("/datasets")).json()["datasets"] == []
        for name in (kept.id, "town", upload.id, "secret", "town/../town", "data%2Fraw%2Fsecret.jsonl", "%2e%2e"):
            for method, tail in [("GET", ""), ("GET", "/rows"), ("GET", "/check"), ("GET", "/mask"), ("DELETE", "")]:
                assert (await client.request(method, f"/datasets/{name}{tail}")).status_code in (404, 405), (name, tail)
            for tail, body in [("split", {}), ("process", {"name": "mine"})]:
                assert (await client.post(f"/datasets/{name}/{tail}", json=body)).status_code in (404, 405)
    assert services.datasets.get("town", MINE).examples == 20
