"""Files in and files out: formats over HTTP, names of files, rows that will not do, and paths that lead elsewhere."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from tests.unit.dialects.finetune.conftest import ROWS, write_rows

ASKED = {"dataset_path": "data/客服.jsonl", "format_type": "openai_chat_jsonl", "data_strategy": "final_only"}


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("\n")
    return [json.loads(line) for line in answer.text.split("\n")[:-1]]


async def test_a_download_is_jsonl_with_a_chinese_name_and_the_documents_default_system_message(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/download-dataset", params=ASKED)
    assert answer.headers["content-type"] == "application/jsonl"
    assert int(answer.headers["content-length"]) == len(answer.content)
    disposition = answer.headers["content-disposition"]
    name = "客服 -- split-train -- format-openai_chat_jsonl -- no-cot.jsonl"
    assert disposition.startswith('attachment; filename="__ -- split-train') and quote(name, safe="") in disposition
    rows = lines(answer)
    assert len(rows) == len(ROWS)
    assert [turn["content"] for turn in rows[0]["messages"]] == [
        "You are a helpful assistant.",
        ROWS[0]["instruction"],
        ROWS[0]["output"],
    ]


async def test_a_thinking_strategy_takes_the_callers_instructions_or_kilns(client: httpx.AsyncClient) -> None:
    asked = {**ASKED, "data_strategy": "two_message_cot"}
    own = lines(await client.get("/download-dataset", params={**asked, "thinking_instructions": "想一想"}))
    usual = lines(await client.get("/download-dataset", params={**asked, "thinking_instructions": " "}))
    assert own[0]["messages"][1]["content"].endswith("\n\n想一想")
    assert usual[0]["messages"][1]["content"].endswith("Think step by step, explaining your reasoning.")
    assert own[0]["messages"][2]["content"] == "查1号"


async def test_what_is_formatted_lies_under_home_and_is_what_a_download_gives(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    answer = await client.post("/format-dataset", json={**ASKED, "split_name": "train", "system_message": "你是客服。"})
    assert answer.status_code == 200, answer.text
    written = (tmp_path / answer.json()["output_path"]).read_bytes()
    sent = await client.get("/download-dataset", params={**ASKED, "system_message": "你是客服。"})
    assert written == sent.content
    again = await client.get("/download-dataset", params={**ASKED, "dataset_path": answer.json()["output_path"]})
    assert [row["messages"] for row in lines(again)] == [row["messages"] for row in lines(sent)]


async def test_a_bad_row_is_named_before_anything_is_sent(client: httpx.AsyncClient, tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "a.jsonl", [*ROWS, {"instruction": "?", "input": "", "output": "."}, *ROWS])
    asked = {"dataset_path": "data/a.jsonl", "format_type": "openai_chat_jsonl"}
    thinks = {**asked, "data_strategy": "final_and_intermediate_r1_compatible"}
    schema = {**asked, "format_type": "openai_chat_json_schema_jsonl", "data_strategy": "final_only"}
    for wrong, row in ((thinks, 11), (schema, 1)):
        for answer in (
            await client.get("/download-dataset", params=wrong),
            await client.post("/format-dataset", json=wrong),
        ):
            assert answer.status_code == 422
            assert answer.json()["details"]["sample"] == f"data/a.jsonl:{row}"
            assert f"data/a.jsonl:{row}" in answer.json()["message"]


REFUSED: list[tuple[dict[str, str], int, str]] = [
    ({"format_type": "xml"}, 400, "Dataset format 'xml' not found"),
    ({"data_strategy": "guess"}, 400, "Data strategy 'guess' not found"),
    ({"split_name": "holdout"}, 404, "Dataset split with name 'holdout' not found"),
    ({"dataset_path": "data/none.jsonl"}, 404, "data/none.jsonl"),
    ({"dataset_path": "../../x"}, 422, "leave the home folder"),
    ({"dataset_path": "/etc/passwd"}, 422, "not an absolute one"),
    ({"dataset_path": "//etc/passwd"}, 422, "not an absolute one"),
    ({"dataset_path": "data/../../x"}, 422, "leave the home folder"),
    ({"dataset_path": "C:\\x"}, 422, ""),
    ({"dataset_path": "data"}, 422, "regular file"),
    ({"dataset_path": "data/link.jsonl"}, 403, "symbolic link"),
    ({"dataset_path": "x" * 2000}, 422, ""),
    ({"dataset_path": "a\0b"}, 422, ""),
    ({"thinking_instructions": "想"}, 422, "thinking_instructions"),
]


async def test_what_cannot_be_read_is_refused_in_kilns_words(client: httpx.AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "data" / "link.jsonl").symlink_to("/etc/hostname")
    headers = {"Accept-Language": "en"}
    for changes, status, words in REFUSED:
        for answer in (
            await client.get("/download-dataset", params={**ASKED, **changes}, headers=headers),
            await client.post("/format-dataset", json={**ASKED, **changes}, headers=headers),
        ):
            assert answer.status_code == status, (changes, answer.text)
            assert words in answer.json()["message"]
            assert answer.json()["error"]["message"] == answer.json()["message"]


async def test_one_leading_slash_is_the_home_folder(client: httpx.AsyncClient) -> None:
    answer = await client.get("/download-dataset", params={**ASKED, "dataset_path": "/data/客服.jsonl"})
    assert len(lines(answer)) == len(ROWS)


async def test_an_upload_says_its_own_name_and_where_it_lies_and_two_of_a_name_are_two(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    content = (tmp_path / "data" / "客服.jsonl").read_bytes()
    answers = [await client.post("/upload-dataset", files={"file": ("../../客服.jsonl", content)}) for _ in range(2)]
    made = [answer.json() for answer in answers]
    assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
    assert [each["filename"] for each in made] == ["客服.jsonl"] * 2
    assert made[0]["path"] != made[1]["path"]
    assert all(each["path"].startswith("data/raw/") and each["samples_count"] == len(ROWS) for each in made)
    assert all((tmp_path / each["path"]).read_bytes() == content for each in made)


async def test_an_upload_that_is_no_file_of_rows_is_refused(client: httpx.AsyncClient, tmp_path: Path) -> None:
    sent: list[Any] = [{}, {"other": ("a.jsonl", b"{}")}, {"file": ("a.jsonl", b"not json\n")}]
    for files in sent:
        answer = await client.post("/upload-dataset", files=files, data={"description": "x"})
        assert answer.status_code == 422, answer.text
    large = await client.post("/upload-dataset", files={"file": ("a.jsonl", b"{}\n" * (1 << 20))})
    assert large.status_code == 413
    assert list((tmp_path / "data" / "raw").iterdir()) == []
