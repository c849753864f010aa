"""Whole answers and chunks of the OpenAI wire, without a server."""

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from tunesmith.dialects.openai.answers import CHAT, TEXT, Call, Heading, StreamEncoder, whole
from tunesmith.inference.engine import Delta, Done, Event, TokenLogprob
from tunesmith.kernel.problems import TooMany

PARTS = TokenLogprob("你", -0.5, "你".encode(), (TokenLogprob("你", -0.5, "你".encode()), TokenLogprob("我", -1.5)))


def heading(call: Call, choices: int = 1) -> Heading:
    return Heading(call, "an-id", 7, 'town"@3', choices)


async def stream(events: Sequence[Event]) -> AsyncGenerator[Event, None]:
    for event in events:
        yield event


def sent(call: Call, events: Sequence[Event], *, usage: bool = False, choices: int = 1) -> list[Any]:
    made = StreamEncoder(heading(call, choices), usage=usage, language="en")
    raw = b"".join(made.event(event) for event in events) + made.end()
    assert raw.endswith(b"data: [DONE]\n\n")
    texts = [part.removeprefix("data: ") for part in raw.decode().split("\n\n")[:-2]]
    return [json.loads(text) for text in texts]


TALK = [Delta(1, "x"), Delta(0, '你"\n\ndata: '), Done(1, "canceled", 5, 1, 0.1, 0.2), Done(0, "stop", 5, 2, 0.1, 0.2)]


def test_a_chat_stream_opens_each_row_with_its_role_and_ends_it_with_a_reason() -> None:
    chunks = sent(CHAT, TALK, choices=2)
    assert [(c["choices"][0]["index"], c["choices"][0]["delta"], c["choices"][0]["finish_reason"]) for c in chunks] == [
        (1, {"role": "assistant", "content": "", "refusal": None}, None),
        (1, {"content": "x"}, None),
        (0, {"role": "assistant", "content": "", "refusal": None}, None),
        (0, {"content": '你"\n\ndata: '}, None),
        (1, {}, "length"),
        (0, {}, "stop"),
    ]
    for chunk in chunks:
        assert (chunk["id"], chunk["object"], chunk["created"]) == ("an-id", "chat.completion.chunk", 7)
        assert chunk["model"] == 'town"@3' and "usage" not in chunk and chunk["choices"][0]["logprobs"] is None


def test_a_text_stream_is_text() -> None:
    chunks = sent(TEXT, TALK, choices=2)
    said = [(c["choices"][0]["index"], c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in chunks]
    assert said == [(1, "x", None), (0, '你"\n\ndata: ', None), (1, "", "length"), (0, "", "stop")]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}


@pytest.mark.parametrize("call", [CHAT, TEXT])
def test_what_was_used_comes_last_where_it_is_asked_for(call: Call) -> None:
    *chunks, last = sent(call, TALK, usage=True, choices=2)
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in chunks)
    assert last["choices"] == []
    # both rows answer one prompt, which counts once
    assert [last["usage"][f"{name}_tokens"] for name in ("prompt", "completion", "total")] == [5, 3, 8]


def test_a_row_that_says_nothing_still_has_a_role_and_a_reason() -> None:
    chunks = sent(CHAT, [Done(0, "stop", 5, 0, 0.0, 0.1)])
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop"]


async def test_a_whole_chat_answer_has_every_field_of_the_sdks() -> None:
    answer = json.loads(await whole(stream(TALK), heading(CHAT, 2), 2))
    assert answer["object"] == "chat.completion" and answer["usage"]["total_tokens"] == 8
    assert answer["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": '你"\n\ndata: ', "refusal": None, "annotations": []},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert answer["choices"][1]["message"]["content"] == "x" and answer["choices"][1]["finish_reason"] == "length"


async def test_whole_completions_of_two_prompts_count_both() -> None:
    answer = json.loads(await whole(stream(TALK), heading(TEXT), 2))
    assert [choice["text"] for choice in answer["choices"]] == ['你"\n\ndata: ', "x"]
    assert answer["usage"]["prompt_tokens"] == 10


async def test_log_probabilities_of_chat_carry_bytes_and_the_likeliest() -> None:
    half = TokenLogprob("\ufffd", float("-inf"), b"\xe4")
    events = [Delta(0, "你", (PARTS,)), Delta(0, "", (half,)), Done(0, "stop", 1, 2, 0.1, 0.1)]
    answer = json.loads(await whole(stream(events), heading(CHAT), 1))
    first = {"token": "你", "logprob": -0.5, "bytes": list("你".encode())}
    content = [
        {**first, "top_logprobs": [first, {"token": "我", "logprob": -1.5, "bytes": None}]},
        {"token": "\ufffd", "logprob": -9999.0, "bytes": [0xE4], "top_logprobs": []},
    ]
    assert answer["choices"][0]["logprobs"] == {"content": content, "refusal": None}
    reported = [chunk["choices"][0]["logprobs"] for chunk in sent(CHAT, events)]
    assert reported == [None, *({"content": [each], "refusal": None} for each in content), None]


async def test_log_probabilities_of_completions_are_lists_with_offsets_in_characters() -> None:
    split = (
        TokenLogprob("\ufffd", -1.0, b"\xe4\xbd"),
        TokenLogprob("\ufffd", -2.0, b"\xa0"),
        TokenLogprob("b", -3.0, b"b"),
    )
    events = [Delta(0, "你", (PARTS,)), Delta(0, "你b", split), Done(0, "stop", 1, 4, 0.1, 0.1)]
    answer = json.loads(await whole(stream(events), heading(TEXT), 1))
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["你", "\ufffd", "\ufffd", "b"],
        "token_logprobs": [-0.5, -1.0, -2.0, -3.0],
        "top_logprobs": [{"你": -0.5, "我": -1.5}, {"\ufffd": -1.0}, {"\ufffd": -2.0}, {"b": -3.0}],
        "text_offset": [0, 1, 1, 2],
    }
    offsets = [c["choices"][0]["logprobs"]["text_offset"] for c in sent(TEXT, events)[:2]]
    assert offsets == [[0], [1, 1, 2]]


async def test_without_the_likeliest_completions_list_none() -> None:
    events = [Delta(0, "a", (TokenLogprob("a", -1.0, b"a"),)), Done(0, "stop", 1, 1, 0.1, 0.1)]
    answer = json.loads(await whole(stream(events), heading(TEXT), 1))
    assert answer["choices"][0]["logprobs"]["top_logprobs"] is None


def test_a_failure_after_the_first_chunk_is_an_error_frame() -> None:
    made = StreamEncoder(heading(CHAT), usage=False, language="en")
    made.event(Delta(0, "x"))
    assert made.error(TooMany("满", "full")) == (
        b'data: {"error":{"message":"full","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}\n\n'
    )


async def test_of_tokens_that_look_alike_the_likeliest_is_listed() -> None:
    halves = tuple(TokenLogprob("\ufffd", -float(rank)) for rank in (1, 2, 3))
    events = [Delta(0, "", (TokenLogprob("\ufffd", -3.0, top=halves),)), Done(0, "stop", 1, 1, 0.1, 0.1)]
    answer = json.loads(await whole(stream(events), heading(TEXT), 1))
    assert answer["choices"][0]["logprobs"]["top_logprobs"] == [{"\ufffd": -1.0}]
