"""What of a provider's answers is kept: enough to see what it said, and nothing that opens anything."""

import json
from typing import Any

from tunesmith.training.hosted.keeping import MASK, events_kept, plain, struck
from tunesmith.training.hosted.provider import JobEvent

SIGNED = "https://storage.example/logs.txt?X-Goog-Expires=600&X-Goog-Signature=c0ffee"


def test_what_opens_something_is_struck_wherever_it_stands() -> None:
    answer: dict[str, Any] = {
        "name": "accounts/acme/supervisedFineTuningJobs/ts-1",
        "metricsFileSignedUrl": "https://storage.example/m",
        "trainerLogsSignedUrl": "",
        "filenameToSignedUrls": {"a": "https://storage.example/a"},
        "wandbConfig": {"apiKey": "w4ndb", "project": "town"},
        "hf_api_token": "hf_abc",
        "token_count": 1000,
        "jobProgress": {"inputTokens": "12"},
        "events": [{"message": f"logs are at {SIGNED} for now"}],
        "echo": "Bearer sk-mine",
    }
    kept = struck(answer, "sk-mine")
    shown = json.dumps(kept)
    for secret in ("storage.example/m", "storage.example/a", "w4ndb", "hf_abc", "c0ffee", "sk-mine"):
        assert secret not in shown, secret
    assert (kept["token_count"], kept["jobProgress"], kept["name"]) == (1000, {"inputTokens": "12"}, answer["name"])
    assert kept["wandbConfig"] == {"apiKey": MASK, "project": "town"} and kept["trainerLogsSignedUrl"] == ""
    assert kept["events"][0]["message"] == "logs are at https://storage.example/logs.txt?*** for now"


def test_an_ordinary_answer_is_kept_as_it_came() -> None:
    answer = {
        "id": "ft-1",
        "n": [1, 2.5, None, True],
        "url": "https://wandb.ai/run?workspace=me",
        "deep": {"a": {"b": []}},
    }
    assert struck(answer) == answer and struck(None) is None and struck("text") == "text"


def test_however_much_a_provider_says_little_is_kept() -> None:
    deep: Any = "end"
    for _ in range(900):
        deep = [deep]
    answers: list[Any] = [deep, "x" * 10**6, ["x" * 100] * 10**5, {f"name{i}": i for i in range(10**5)}, 10**400]
    for answer in [*answers, dict(enumerate(answers))]:
        assert len(json.dumps(struck(answer))) < 200_000
    events = events_kept(JobEvent(None, "k" * 10**4, f"{i}\x1b[2J\0" + "m" * 10**4) for i in range(2000))
    assert len(events) == 500 and events[-1].message.startswith("1999 ") and len(events[-1].message) == 1000
    assert events[0].kind == "k" * 80 and "\x1b" not in events[0].message


def test_words_are_one_line_without_what_signs_an_address() -> None:
    assert plain(f"it failed\nsee {SIGNED}") == "it failed see https://storage.example/logs.txt?***"
