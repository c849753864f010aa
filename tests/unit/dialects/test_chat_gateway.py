"""The chat gateway's shapes: frames, the last one, headers, and the code and words of every failure."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from tunesmith.dialects.chat_gateway.wire import KeyRequest, Painter, SendEncoder, SendRequest, code_of, offers
from tunesmith.inference.engine import Delta, Done
from tunesmith.inference.engines.answer import Label, broke_off, unreadable
from tunesmith.inference.engines.refusals import refused, stated
from tunesmith.inference.gateway import Offer, Speaker, no_key, no_ollama
from tunesmith.inference.model_ids import Listed
from tunesmith.kernel.problems import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Problem,
    TimedOut,
    TooMany,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

LABEL = Label("OpenRouter ", "OpenRouter")
SPEAKER = Speaker("openrouter", "openrouter", "a/b")
END = Done(0, "stop", 7, 3, 0.1, 0.2, 0.00002, "a/b-2026")
UNAVAILABLE = {"zh": "AI服务不可用，请检查服务配置", "en": "the AI service is unavailable; check its configuration"}
TIMED_OUT = {"zh": "AI服务连接超时，请稍后重试", "en": "the AI service did not answer in time; ask again later"}


def encoder(language: str = "zh", *, details: bool = False) -> SendEncoder:
    return SendEncoder(Painter(details=details), language)


def frames(sent: bytes) -> list[Any]:
    """Each frame's JSON; a frame is one line, and nothing is left over."""
    assert not sent or sent.endswith(b"\n\n")
    return [json.loads(part.removeprefix(b"data: ")) for part in sent.split(b"\n\n")[:-1]]


def test_chunks_are_numbered_from_one_and_the_last_has_the_whole_text() -> None:
    made = encoder()
    assert made.event(SPEAKER) == b""
    sent = b"".join(made.event(Delta(0, text)) for text in ("你好", '"\\\n\n', "data: 🌍\u2028"))
    assert made.event(END) == b""
    assert frames(sent + made.end()) == [
        {"message": {"content": "你好"}, "chunk": 1, "done": False},
        {"message": {"content": '"\\\n\n'}, "chunk": 2, "done": False},
        {"message": {"content": "data: 🌍\u2028"}, "chunk": 3, "done": False},
        {
            "message": {"content": ""},
            "chunk": 4,
            "done": True,
            "fullResponse": '你好"\\\n\ndata: 🌍\u2028',
            "model": "a/b",
            "service": "openrouter",
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "cost_usd": 0.00002},
        },
    ]


def test_an_empty_answer_is_one_last_frame_and_what_costs_nothing_says_no_cost() -> None:
    made = encoder()
    made.event(Speaker("local", "builtin", "small"))
    made.event(Done(0, "stop", 7, 0, 0.0, 0.1))
    [last] = frames(made.end())
    assert (last["chunk"], last["done"], last["fullResponse"], last["service"]) == (1, True, "", "local")
    assert last["usage"] == {"prompt_tokens": 7, "completion_tokens": 0}


@pytest.mark.parametrize("length", [1, 2047, 2048, 2049, 8192, 100_000])
def test_large_deltas_leave_in_small_frames(length: int) -> None:
    text = ("微" * length)[:length]
    made = encoder()
    made.event(SPEAKER)
    sent = frames(made.event(Delta(0, text)))
    assert "".join(each["message"]["content"] for each in sent) == text
    assert [each["chunk"] for each in sent] == list(range(1, len(sent) + 1))
    assert max(len(each["message"]["content"]) for each in sent) <= 2048 and len(sent) == -(-length // 2048)


@pytest.mark.parametrize("length, extra", [(15_000, False), (16_384, True), (200_000, True)])
def test_a_large_last_frame_is_followed_by_a_small_one(length: int, extra: bool) -> None:
    """The document's own loop loses a frame that comes in two reads; it ends on the small one."""
    made = encoder()
    made.event(SPEAKER)
    before = frames(made.event(Delta(0, "x" * length)))
    made.event(END)
    sent = frames(made.end())
    assert sent[0]["fullResponse"] == "x" * length and sent[0]["chunk"] == len(before) + 1
    assert sent[1:] == ([{"message": {"content": ""}, "chunk": len(before) + 2, "done": True}] if extra else [])


def test_an_error_frame_may_come_at_any_time_and_nothing_counts_it() -> None:
    made = encoder("en")
    assert frames(made.error(TimedOut("慢", "slow"))) == [{"error": True, "code": 504, "message": TIMED_OUT["en"]}]
    made.event(SPEAKER)
    made.event(Delta(0, "a"))
    assert frames(made.error(broke_off(LABEL))) == [{"error": True, "code": 503, "message": UNAVAILABLE["en"]}]


def test_headers_say_who_speaks_once_that_is_known() -> None:
    made = encoder()
    assert made.headers() == ()
    made.event(SPEAKER)
    assert dict(made.headers()) == {
        b"x-model-resolved": b"a/b",
        b"x-model-resolved-by": b"asked",
        b"x-answered-by": b"openrouter",
    }
    made.event(Speaker("openrouter", "openrouter", "a/b", "c", "default", tuple(f"p{n}/c" for n in range(12))))
    assert dict(made.headers())[b"x-model-candidates"].decode() == ", ".join(f"p{n}/c" for n in range(10))


@pytest.mark.parametrize(
    "name", ["a\r\nX-Injected: 1", "a\nb", "a\0b", "a\x7fb", "a\x85b", "模型", "é", "\ud800", "a\u2028b", "\x1b[2J"]
)
def test_header_values_are_printable_ascii_whatever_a_model_is_called(name: str) -> None:
    made = encoder()
    made.event(Speaker("openrouter", "openrouter", name, None, "default", (name,)))
    for _, value in made.headers():
        assert value.isascii() and value.decode().isprintable()


def of_status(status: int) -> Problem:
    body = json.dumps({"error": {"code": status, "message": "words of theirs"}}).encode()
    return refused(LABEL, status, body, {"retry-after": "6.2"} if status == 429 else {})


BY_STATUS = {
    **dict.fromkeys((400, 403, 404, 413, 422), 400),
    **dict.fromkeys((401, 402, 407), 503),
    429: 429,
    **dict.fromkeys((500, 501), 500),
    **dict.fromkeys((502, 503, 529), 503),
    **dict.fromkeys((408, 504, 524), 504),
    **dict.fromkeys((301, 302, 307), 503),
}


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("status", BY_STATUS)
def test_an_upstreams_status_becomes_the_documents_code(status: int, language: str) -> None:
    painted = Painter(details=False).chunk(of_status(status), language)
    code = BY_STATUS[status]
    assert set(painted) == {"error", "code", "message"} and (painted["error"], painted["code"]) == (True, code)
    if code == 504:
        assert painted["message"] == TIMED_OUT[language]
    elif status in (401, 402, 407):
        assert painted["message"] == UNAVAILABLE[language]
    else:
        said = {"zh": "OpenRouter 请求失败: ", "en": "OpenRouter refused the request: "}[language]
        assert painted["message"].startswith(f"{said}{status} words of theirs")


def test_the_documents_own_sentence_for_a_model_that_is_none() -> None:
    body = b'{"error":{"code":400,"message":"mistral-7b-instruct is not a valid model ID"}}'
    assert Painter(details=False).chunk(refused(LABEL, 400, body, {}), "zh") == {
        "error": True,
        "code": 400,
        "message": "OpenRouter 请求失败: 400 mistral-7b-instruct is not a valid model ID",
    }


@pytest.mark.parametrize("status", BY_STATUS)
def test_an_error_in_the_middle_of_an_answer_has_the_code_it_would_have_had_before(status: int) -> None:
    if status >= 400:
        assert code_of(stated(LABEL, {"code": status, "message": "x"})) == BY_STATUS[status]


def test_a_limit_of_the_upstreams_says_when_to_ask_again() -> None:
    painter = Painter(details=False)
    assert painter.chunk(of_status(429), "zh")["message"].endswith("words of theirs，请在 7 秒后重试")
    assert painter.chunk(of_status(429), "en")["message"].endswith("words of theirs; ask again in 7 s")
    ours = TooMany("请在 3 秒后重试", "try again in 3 seconds", retry_after=3)
    assert painter.chunk(ours, "zh") == {"error": True, "code": 429, "message": "请在 3 秒后重试"}


@pytest.mark.parametrize(
    "problem, code, message",
    [
        (Unavailable("没有应答", "no answer", reason="refused"), 503, UNAVAILABLE["zh"]),
        (Unavailable("稍等", "wait", retry_after=5.0), 503, UNAVAILABLE["zh"]),
        (broke_off(LABEL), 503, UNAVAILABLE["zh"]),
        (unreadable(LABEL), 503, UNAVAILABLE["zh"]),
        (Unavailable("服务繁忙", "busy", busy=True), 503, "服务繁忙"),
        (no_key(), 503, no_key().zh),
        (Unavailable("密钥打不开", "the key does not open", provider="openrouter"), 503, "密钥打不开"),
        (no_ollama(), 503, no_ollama().zh),
        (TimedOut("慢", "slow", waited_for="idle"), 504, TIMED_OUT["zh"]),
        (Unavailable("服务器内部错误", "internal error", bug=True), 500, "服务器内部错误"),
        (Invalid("错了", "wrong", field="temperature"), 400, "错了"),
        (NotFound("没有", "none"), 400, "没有"),
        (Conflict("满了", "full"), 400, "满了"),
        (Unsupported("不支持", "cannot"), 400, "不支持"),
        (Unauthenticated("需要令牌", "a token is needed"), 401, "需要令牌"),
        (Forbidden("不行", "no"), 403, "不行"),
        (TooMany("太快", "too fast"), 429, "太快"),
    ],
)
def test_what_goes_wrong_here_has_a_code_of_the_documents_too(problem: Problem, code: int, message: str) -> None:
    assert Painter(details=False).chunk(problem, "zh") == {"error": True, "code": code, "message": message}


def test_the_conversation_of_this_document_is_called_message() -> None:
    wrong = Invalid("messages 不能为空", "messages must not be empty", field="messages")
    assert Painter(details=False).chunk(wrong, "zh")["message"] == "message 不能为空"
    assert Painter(details=False).error(400, "messages 不能为空", wrong)["message"] == "message 不能为空"


def test_details_are_for_people_who_develop() -> None:
    problem = Unavailable("没有应答", "no answer", reason="refused", upstream_status=401, operator=True)
    assert "details" not in Painter(details=False).chunk(problem, "zh")
    assert "details" not in Painter(details=False).error(503, "x", problem)
    said = "Unavailable: no answer (reason=refused, upstream_status=401, operator=True)"
    assert Painter(details=True).chunk(problem, "zh")["details"] == said
    assert Painter(details=True).error(503, "x", problem)["details"] == said
    assert Painter(details=True).error(404, "x", None) == {"error": True, "code": 404, "message": "x"}


def test_the_documents_request_has_the_documents_defaults() -> None:
    question = SendRequest.model_validate({"message": "你好"}).question()
    assert (question.context, question.service, question.model, question.conversation) == (None, None, None, None)
    sampling = question.sampling
    assert (sampling.max_new_tokens, sampling.temperature, sampling.top_p, sampling.seed) == (2048, 0.7, 1.0, None)
    assert (sampling.top_k, sampling.repetition_penalty, sampling.stop) == (0, 1.0, ())


@pytest.mark.parametrize("seed", [1 << 63, -(1 << 63) - 1, 1.0, "1", True])
def test_a_seed_has_sixty_four_bits(seed: object) -> None:
    with pytest.raises(ValidationError):
        SendRequest.model_validate({"message": "hi", "seed": seed})


def test_a_key_that_is_refused_is_not_quoted() -> None:
    with pytest.raises(ValidationError) as refused_key:
        KeyRequest.model_validate({"key": ["sk-or-secret"]})
    assert "sk-or-secret" not in str(refused_key.value)
    assert "sk-or-secret" not in repr(KeyRequest(key="sk-or-secret"))


def test_an_offer_says_what_can_be_asked_and_why_not() -> None:
    listed = Listed("a/b", "", (), 4096, 0.0000001, 0.0)
    found = [Offer("openrouter", "openrouter", [listed], "a/b"), Offer("local", "ollama", (), None, no_ollama())]
    hosted, local = offers(found, "en")["services"]
    assert (hosted["available"], hosted["reason"], hosted["default_model"]) == (True, None, "a/b")
    assert hosted["models"] == [
        {
            "id": "a/b",
            "name": "a/b",
            "context_length": 4096,
            "prompt_usd_per_million": 0.1,
            "completion_usd_per_million": 0.0,
        }
    ]
    assert (local["available"], local["reason"], local["models"]) == (False, no_ollama().en, [])


def test_a_byte_order_mark_is_no_part_of_a_body() -> None:
    assert SendRequest.read("application/json", b'\xef\xbb\xbf{"message": "hi"}').message == "hi"


@pytest.mark.parametrize("message", ["", " \n"])
def test_an_empty_message_is_named_as_this_document_names_it(message: str) -> None:
    with pytest.raises(Invalid) as caught:
        SendRequest.read("application/json", json.dumps({"message": message}).encode())
    assert (caught.value.zh, caught.value.details) == ("message 不能为空", {"field": "message"})
