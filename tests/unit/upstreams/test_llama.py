"""The tiny model is served by a real llama.cpp, and says the same again."""

from pathlib import Path

import openai
import requests

from tests.upstreams.running import Upstream
from tests.upstreams.tiny_gguf import make_tiny_gguf

EXACT = {"temperature": 0, "max_tokens": 40, "extra_body": {"ignore_eos": True}}


def ask(llama: Upstream, text: str) -> tuple[str, int]:
    with openai.OpenAI(base_url=llama.url + "/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": text}], **EXACT)  # type: ignore[call-overload]
    return answer.choices[0].message.content, answer.usage.completion_tokens


def test_greedy_answers_repeat_have_their_length_and_depend_on_the_question(llama: Upstream) -> None:
    once, count = ask(llama, "hello world")
    assert count == 40 and len(once) > 20
    assert ask(llama, "hello world") == (once, 40)
    assert ask(llama, "你好")[0] != once


def test_it_streams_pieces_that_come_to_the_whole(llama: Upstream) -> None:
    with openai.OpenAI(base_url=llama.url + "/v1", api_key="none", max_retries=0) as client:
        messages = [{"role": "user", "content": "hello world"}]
        stream = client.chat.completions.create(model="tiny", messages=messages, stream=True, **EXACT)  # type: ignore[call-overload]
        pieces = [choice.delta.content or "" for chunk in stream for choice in chunk.choices]
    assert "".join(pieces) == ask(llama, "hello world")[0] and len([piece for piece in pieces if piece]) > 20


def test_questions_longer_than_the_context_are_refused(llama: Upstream) -> None:
    body = {"messages": [{"role": "user", "content": "hello " * 5000}]}
    answer = requests.post(llama.url + "/v1/chat/completions", json=body, timeout=30)
    assert answer.status_code == 400 and "context" in answer.json()["error"]["message"]


def test_the_model_depends_on_its_seed_only(tmp_path: Path) -> None:
    first, again, other = (make_tiny_gguf(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    assert first.stat().st_size < 1 << 20
