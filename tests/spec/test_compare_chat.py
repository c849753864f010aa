"""``docs/spec/compare-chat.md``, replayed against a running server; its browser code runs under node as it stands."""

import json
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.server import Server
from tests.spec.documents import blocks, same_shape

DOCUMENT = "compare-chat"
PATH = "/ai/finetuning/chat"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "头晕怎么办？"}]}
GREEDY = {"temperature": 0, "num_predict": 24, "repeat_penalty": 1.0}


def stream(server: Server, body: dict[str, Any], path: str = PATH) -> list[Any]:
    """Every frame of the stream; the last is the string ``[DONE]``."""
    answer = server.post(path, {"options": GREEDY, **body, "stream": True}, stream=True)
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = [part.decode() for part in answer.content.split(b"\n\n") if part]
    assert all(each.startswith("data: ") and "\n" not in each for each in frames)
    texts = [each.removeprefix("data: ") for each in frames]
    assert texts[-1] == "[DONE]"
    return [json.loads(each) for each in texts[:-1]] + ["[DONE]"]


@pytest.mark.parametrize("compare", [False, True])
def test_a_whole_answer_always_carries_both_sides(server: Server, compare: bool) -> None:
    example = blocks(DOCUMENT)[1].value
    answer = server.post(PATH, {**ASK, "compare": compare, "options": GREEDY})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert same_shape(example, body) == [] and body["code"] == 0
    assert body["message"]["content"] == body["message"]["lora_content"] == body["lora"]
    assert body["message"]["base_content"] == body["base"]
    assert body["base"] != body["lora"]


def test_a_plain_stream_sends_the_same_text_twice_a_frame_and_ends_with_done(server: Server) -> None:
    frames = stream(server, ASK)
    assert all(set(each) == {"message", "response"} for each in frames[:-1])
    assert all(each["message"]["content"] == each["response"] for each in frames[:-1])
    whole = server.post(PATH, {**ASK, "options": GREEDY}).json()
    assert "".join(each["response"] for each in frames[:-1]) == whole["lora"]


def test_a_compare_stream_names_its_source_and_ends_each_side_once(server: Server) -> None:
    frames = stream(server, {**ASK, "compare": True})[:-1]
    whole = server.post(PATH, {**ASK, "options": GREEDY}).json()
    for source in ("base", "lora"):
        side = [each for each in frames if each["source"] == source]
        assert [each for each in side if each.get("done")] == [{"source": source, "done": True}] == side[-1:]
        assert "".join(each["content"] for each in side[:-1]) == whole[source]


def test_frames_are_like_the_documents_own_examples(server: Server) -> None:
    plain, text, lora_text, base_done, lora_done = (
        each.value
        for each in blocks(DOCUMENT)
        if each.heading.endswith("）") and each.language == "json" and not each.role
    )
    assert all(same_shape(plain, frame) == [] for frame in stream(server, ASK)[:-1])
    frames = stream(server, {**ASK, "compare": True})[:-1]
    for example in (text, lora_text):
        texts = [each for each in frames if each["source"] == example["source"] and "content" in each]
        assert texts and all(same_shape(example, each) == [] for each in texts)
    assert base_done in frames and lora_done in frames


def test_an_engine_that_dies_midway_ends_the_stream_with_the_documents_error_frame(server: Server) -> None:
    [example] = [each.value for each in blocks(DOCUMENT) if each.role == "错误时"]
    wild = {"temperature": 10, "top_p": 1.0, "num_predict": 900, "repeat_penalty": 1.0}  # hardly ever draws the end
    with server.post(PATH, {**ASK, "stream": True, "options": wild}, stream=True) as answer:
        lines = answer.iter_lines()
        next(lines)
        for process in psutil.Process(server.process.pid).children(recursive=True):
            if "tunesmith.inference.worker" in " ".join(process.cmdline()):
                process.kill()
        last = [line.decode().removeprefix("data: ") for line in lines if line][-1]
    frame = json.loads(last)
    assert set(frame) == set(example) and frame["done"] is True and frame["error"]
    assert server.post(PATH, {**ASK, "options": GREEDY}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "robot", "content": "hi"}]},
        {"messages": [{"role": "assistant", "content": "hi"}]},
        {"messages": [{"role": "user", "content": " "}]},
    ],
)
def test_whatever_is_wrong_with_messages_has_the_documents_sentence(server: Server, body: Any) -> None:
    answer = server.post(PATH, body)
    assert answer.status_code == 400
    assert answer.json() == {"code": 400, "msg": "Missing or invalid messages"}


def test_other_bad_bodies_get_code_and_msg(server: Server) -> None:
    bad = ["{", "[]", "null", '{"messages":[{"role":"user","content":"hi"}],"options":{"temperature":NaN}}']
    for data in bad:
        answer = server.post(PATH, data=data, headers={"content-type": "application/json"})
        assert answer.status_code == 400 and set(answer.json()) == {"code", "msg"}, answer.text
    for options in ({"num_predict": -1}, {"temperature": -1}, {"top_p": 0}, {"repeat_penalty": "x"}):
        answer = server.post(PATH, {**ASK, "options": options})
        assert answer.status_code == 400 and answer.json()["code"] == 400, answer.text


def test_the_sibling_answers_in_the_same_shapes_from_the_current_model(server: Server) -> None:
    body = server.post("/ai/chat", {**ASK, "options": GREEDY}).json()
    assert same_shape(blocks(DOCUMENT)[1].value, body) == [] and body["code"] == 0
    frames = stream(server, ASK, "/ai/chat")
    assert "".join(each["response"] for each in frames[:-1]) == body["lora"]


@pytest.mark.parametrize("section, printed", [("4.1", "助手回复:"), ("4.2", ""), ("4.3", "LoRA:")])
def test_the_documents_browser_code_runs_under_node(server: Server, tmp_path: Path, section: str, printed: str) -> None:
    code = [
        each.text for each in blocks(DOCUMENT) if each.language == "javascript" and each.heading.startswith(section)
    ]
    assert len(code) == 1
    # a page's fetch knows where it came from; node's does not
    origin = f"const node = fetch; globalThis.fetch = (path, options) => node({server.url!r} + path, options);\n"
    script = tmp_path / "page.mjs"
    script.write_text(origin + code[0])
    done = subprocess.run(["node", str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.strip() and printed in done.stdout
    assert "undefined" not in done.stdout
