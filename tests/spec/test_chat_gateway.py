"""``docs/spec/chat-gateway.md``, replayed against running servers; its browser code runs under node as it stands.

Behind the first server are an OpenRouter-compatible and an Ollama-compatible fake over a real llama.cpp server; behind
the second an upstream that misbehaves, e.g. sends every byte by itself.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server import Server, serving
from tests.spec.documents import Block, blocks, same_shape
from tests.upstreams.running import Upstream, llama, misbehaving, ollama_skin, openrouter_skin
from tests.upstreams.texts import text

DOCUMENT = "chat-gateway"
PATH = "/api/chat/send"
KEY = "sk-or-test"


@pytest.fixture(scope="module")
def openrouter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with llama(tmp_path_factory.mktemp("llama")) as real, openrouter_skin(llama_url=real.url, key=KEY) as skin:
        yield skin


@pytest.fixture(scope="module")
def gateway(openrouter: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ollama_skin() as ollama:
        environ = {
            "OPENROUTER_API_KEY": KEY,
            "OPENROUTER_BASE_URL": f"{openrouter.url}/api/v1",
            "OLLAMA_HOST": ollama.url,
            "TUNESMITH_OLLAMA_MODEL": "tiny",
        }
        with serving(tmp_path_factory.mktemp("home"), environ) as server:
            yield server


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with misbehaving() as upstream:
        environ = {
            "OPENROUTER_API_KEY": KEY,
            "OPENROUTER_BASE_URL": f"{upstream.url}/api/v1",
            "TUNESMITH_UPSTREAM_FIRST_TOKEN_SECONDS": "5",
        }
        with serving(tmp_path_factory.mktemp("home"), environ) as server:
            yield server


def send(server: Server, body: Any) -> list[dict[str, Any]]:
    """The frames of the answer, which is always an event stream of status 200."""
    answer = server.post(PATH, body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = [each for each in answer.content.decode("utf-8").split("\n\n") if each != ": keep-alive"]
    assert frames.pop() == "" and all(each.startswith("data: ") and "\n" not in each for each in frames)
    return [json.loads(each.removeprefix("data: ")) for each in frames]


def one(role: str) -> Block:
    """The document's block under that bold line."""
    [found] = [each for each in blocks(DOCUMENT) if each.role == role]
    return found


def frames_of(block: Block) -> list[dict[str, Any]]:
    """The frames a block shows."""
    return [json.loads(line.removeprefix("data: ")) for line in block.text.splitlines() if line.startswith("data: ")]


def commands() -> list[tuple[str, dict[str, Any]]]:
    """Path and body of every curl command in the document."""
    found = []
    for block in blocks(DOCUMENT):
        if block.language != "bash":
            continue
        for command in re.split(r"^(?=curl )", block.text, flags=re.M):
            if command.startswith("curl "):
                words = shlex.split(re.sub(r"^#.*$", "", command, flags=re.M))
                [url] = [word for word in words if word.startswith("http")]
                found.append((url.partition(":8888")[2], json.loads(words[words.index("-d") + 1])))
    return found


def whole(frames: list[dict[str, Any]]) -> str:
    """The answer, after a look at everything the document says of its frames."""
    *contents, last = frames
    assert [each["chunk"] for each in contents] == list(range(1, len(frames)))
    assert all(set(each) == {"message", "chunk", "done"} for each in contents)
    assert all(each["done"] is False and each["message"]["content"] for each in contents)
    assert last["done"] is True and last["chunk"] == len(frames) and last["message"] == {"content": ""}
    told: str = last["fullResponse"]
    assert told == "".join(each["message"]["content"] for each in contents)
    return told


def test_the_request_of_the_document_is_answered(gateway: Server) -> None:
    [example] = [each for each in blocks(DOCUMENT) if each.heading == "请求参数"]
    body = json.loads(re.sub(r"//.*", "", example.text))
    assert set(body) == {"message", "context", "service", "model"}
    assert whole(send(gateway, body))


@pytest.mark.parametrize("number", range(4))
def test_every_command_of_the_document_is_answered(gateway: Server, number: int) -> None:
    assert len(commands()) == 4
    path, body = commands()[number]
    assert path == PATH
    assert whole(send(gateway, body))


@pytest.mark.parametrize("service", ["openrouter", "local"])
def test_frames_are_like_the_documents_whatever_the_service(gateway: Server, service: str) -> None:
    frames = send(gateway, {"message": "你好", "service": service})
    assert whole(frames)
    for block in blocks(DOCUMENT):
        if "数据结构" in block.heading or block.heading.endswith("数据块格式"):
            if block.language != "json" or "error" in block.text:
                continue
            example = block.value
            assert same_shape(example, frames[-1] if example["done"] else frames[0]) == []
    for example in frames_of(one("示例")) + frames_of(one("响应流")):
        assert same_shape(example, frames[-1] if example["done"] else frames[0]) == []


def test_context_is_told_to_the_model_as_its_system_message(gateway: Server, openrouter: Upstream) -> None:
    openrouter.reset()
    send(gateway, {"message": "你好", "context": "前端开发学习", "service": "openrouter"})
    [asked] = [each for each in openrouter.report()["requests"] if each["method"] == "POST"]
    assert asked["body"]["messages"] == [
        {"role": "system", "content": "前端开发学习"},
        {"role": "user", "content": "你好"},
    ]


def documented_models() -> list[str]:
    listed = (Path(__file__).parents[2] / "docs" / "spec" / f"{DOCUMENT}.md").read_text()
    section = listed.partition("**支持的模型列表**")[2].partition("##")[0]
    return re.findall(r"^- `([^`]+)`", section, flags=re.M)


def test_full_and_short_ids_of_the_document_reach_the_same_model(gateway: Server, openrouter: Upstream) -> None:
    models = documented_models()
    assert len(models) == 10
    openrouter.reset()
    for model in models:
        for name in (model, model.partition("/")[2]):
            asked = {"message": "你好", "service": "openrouter", "model": name, "max_tokens": 4}
            answer = gateway.post(PATH, asked)
            assert answer.headers["X-Model-Resolved"] == model
            assert json.loads(answer.text.strip().rpartition("data: ")[2])["model"] == model
    reached = [each["body"]["model"] for each in openrouter.report()["requests"] if each["method"] == "POST"]
    assert reached == [model for model in models for _ in range(2)]


def test_a_short_id_nobody_knows_is_answered_by_the_default_model(gateway: Server) -> None:
    frames = send(gateway, {"message": "你好", "service": "openrouter", "model": "no-such-model"})
    assert whole(frames) and frames[-1]["model"] == documented_models()[0]


def test_error_chunks_are_the_documents_own(trouble: Server, tmp_path: Path) -> None:
    [unreachable] = frames_of(one("网络错误"))
    [unknown] = frames_of(one("模型错误"))
    [late] = frames_of(one("超时错误"))
    with serving(tmp_path, {"OPENROUTER_API_KEY": KEY, "OPENROUTER_BASE_URL": "http://127.0.0.1:9/api/v1"}) as alone:
        assert send(alone, {"message": "你好", "service": "openrouter"}) == [unreachable]
    assert send(trouble, {"message": "你好", "service": "openrouter", "model": "x/hang"}) == [late]
    name = "mistral-7b-instruct"
    [said] = send(trouble, {"message": "你好", "service": "openrouter", "model": f"x/{name}"})
    assert said == {**unknown, "message": unknown["message"].replace(name, f"x/{name}")}


@pytest.mark.parametrize(
    ("model", "code"),
    [("x/err-400", 400), ("x/err-429", 429), ("x/err-500", 500), ("x/err-503", 503), ("x/err-504", 504)],
)
def test_codes_are_those_of_the_documents_table(trouble: Server, model: str, code: int) -> None:
    [said] = send(trouble, {"message": "你好", "service": "openrouter", "model": model})
    assert set(said) == {"error", "code", "message"}  # details only where people develop
    assert said["error"] is True and said["code"] == code and said["message"]


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "text",
        {},
        {"message": 5},
        {"message": " "},
        {"message": "hi", "service": "cloud"},
        {"message": "hi", "model": 5},
        {"message": "hi", "context": []},
        {"message": "hi", "temperature": -1},
    ],
)
def test_whatever_is_wrong_with_a_body_is_a_chunk_of_code_400(trouble: Server, body: Any) -> None:
    [said] = send(trouble, body)
    assert said["error"] is True and said["code"] == 400 and said["message"]


def test_without_a_key_the_chunk_says_what_to_set(tmp_path: Path) -> None:
    with serving(tmp_path, {"OPENROUTER_API_KEY": ""}) as server:
        [said] = send(server, {"message": "你好", "service": "openrouter"})
        assert said["code"] == 503 and "OPENROUTER_API_KEY" in said["message"]
        # and without a service named, this machine answers
        assert send(server, {"message": "你好"})[-1]["service"] == "local"


def run_under_node(folder: Path, server: Server, code: str) -> "subprocess.CompletedProcess[str]":
    """Run it; a page's fetch knows where it came from, node's does not."""
    origin = f"const node = fetch; globalThis.fetch = (path, options) => node({server.url!r} + path, options);\n"
    script = folder / "page.mjs"
    script.write_text(origin + code)
    return subprocess.run(["node", str(script)], capture_output=True, text=True, timeout=60)


def page(heading: str) -> str:
    [code] = [each.text for each in blocks(DOCUMENT) if each.language == "javascript" and heading in each.heading]
    return code


def test_the_documents_javascript_reads_an_upstream_that_cuts_at_every_byte(trouble: Server, tmp_path: Path) -> None:
    expected = whole(send(trouble, {"message": "你好", "service": "openrouter", "model": "x/split"}))
    assert not expected.isascii()
    call = "\nconst said = await sendMessage('你好', 'openrouter', 'x/split');\nconsole.log(JSON.stringify({said}));"
    done = run_under_node(tmp_path, trouble, page("JavaScript") + call)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert json.loads(done.stdout.strip().rpartition("\n")[2]) == {"said": expected}
    assert f"完整响应: {expected}" in done.stdout


def test_the_documents_javascript_shows_errors(trouble: Server, tmp_path: Path) -> None:
    call = "\nconsole.log(await sendMessage('你好', 'openrouter', 'x/err-504'));"
    done = run_under_node(tmp_path, trouble, page("JavaScript") + call)
    assert done.returncode == 0 and "错误: AI服务连接超时，请稍后重试" in done.stderr


def test_the_documents_javascript_ends_on_a_long_answer(trouble: Server, tmp_path: Path) -> None:
    # slow enough for its loop, which loses frames that come in two reads; the last one, of 30 KB, may
    model = "x/slow-3400-1"
    body = {"message": "你好", "service": "openrouter", "model": model}
    raw = trouble.post(PATH, body).text.strip().split("\n\n")
    big, tiny = (json.loads(each.removeprefix("data: ")) for each in raw[-2:])
    assert len(big["fullResponse"].encode()) > 16 << 10
    assert tiny == {"message": {"content": ""}, "chunk": big["chunk"] + 1, "done": True}
    call = f"\nconst said = await sendMessage('你好', 'openrouter', {model!r});\nconsole.log(JSON.stringify({{said}}));"
    done = run_under_node(tmp_path, trouble, page("JavaScript") + call)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert json.loads(done.stdout.strip().rpartition("\n")[2])["said"] == big["fullResponse"]


REACT = Path(__file__).parent / "react" / "node_modules"
# the hook inside a component that a real renderer shows: every state it went through is kept
USED = """
import { createElement } from 'react';
import { act, create } from 'react-test-renderer';
globalThis.IS_REACT_ACT_ENVIRONMENT = true;
let hook;
const shown = [];
const Page = () => { hook = useChat(); shown.push([hook.isLoading, hook.messages.length]); return null; };
await act(async () => { create(createElement(Page)); });
globalThis.IS_REACT_ACT_ENVIRONMENT = false;  // from here on it renders when it likes, as in a browser
await hook.sendMessage('你好', 'openrouter', MODEL);
while (hook.isLoading) await new Promise((later) => setTimeout(later, 5));
const { messages, isLoading, error } = hook;
console.log(JSON.stringify({ messages, isLoading, error, shown }));
"""


def shown_by_react(folder: Path, server: Server, model: str) -> dict[str, Any]:
    assert REACT.is_dir(), "React is not installed: npm ci --prefix tests/spec/react"
    (folder / "node_modules").symlink_to(REACT)
    done = run_under_node(folder, server, page("React") + USED.replace("MODEL", repr(model)))
    said = [line for line in done.stderr.splitlines() if line and "react-test-renderer is deprecated" not in line]
    assert done.returncode == 0 and said == [], done.stderr
    found: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    return found


@pytest.mark.react
def test_the_documents_react_hook_reads_an_upstream_that_cuts_at_every_byte(trouble: Server, tmp_path: Path) -> None:
    expected = whole(send(trouble, {"message": "你好", "service": "openrouter", "model": "x/split"}))
    seen = shown_by_react(tmp_path, trouble, "x/split")
    assert [each["role"] for each in seen["messages"]] == ["user", "assistant"]
    assert seen["messages"][1]["content"] == expected
    assert seen["isLoading"] is False and seen["error"] is None
    assert seen["shown"][0] == [False, 0] and [True, 2] in seen["shown"] and seen["shown"][-1] == [False, 2]


@pytest.mark.react
def test_the_documents_react_hook_ends_on_an_error(trouble: Server, tmp_path: Path) -> None:
    seen = shown_by_react(tmp_path, trouble, "x/err-504")
    # it throws what went wrong where it ignores what cannot be parsed; so nothing is shown, and it stops waiting
    assert [each["role"] for each in seen["messages"]] == ["user"] and seen["isLoading"] is False


def test_the_text_is_the_upstreams_own(trouble: Server) -> None:
    frames = send(trouble, {"message": "你好", "service": "openrouter", "model": "x/text-3-400"})
    assert whole(frames) == text(3, 400)


def test_a_client_that_buffers_loses_nothing_at_full_speed(trouble: Server, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "chat_gateway.mjs"
    script = tmp_path / "page.mjs"
    script.write_text(f"""
import {{ sendMessage }} from {example.as_uri()!r};
const texts = [];
const body = {{ message: '你好', service: 'openrouter', model: 'x/text-5-20000' }};
const last = await sendMessage(body, (text) => texts.push(text));
console.log(JSON.stringify([texts.join(''), last.fullResponse]));
""")
    environ = {**os.environ, "TUNESMITH_URL": trouble.url}
    done = subprocess.run(["node", str(script)], capture_output=True, text=True, timeout=60, env=environ)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert json.loads(done.stdout) == [text(5, 20000)] * 2


def test_the_example_speaks_to_this_machine(gateway: Server) -> None:
    example = Path(__file__).parents[2] / "examples" / "chat_gateway.mjs"
    environ = {**os.environ, "TUNESMITH_URL": gateway.url}
    done = subprocess.run(["node", str(example)], capture_output=True, text=True, timeout=60, env=environ)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "-- tiny:latest, 16 tokens" in done.stdout
