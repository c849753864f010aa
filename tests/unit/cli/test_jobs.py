"""Jobs from the command line, at a stand-in of Together."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.unit.cli.conftest import Invoke, error_of
from tests.unit.training.hosted.test_deployments import lora
from tests.upstreams.together_api import LLAMA, TogetherApi
from tests.upstreams.together_words import tarred
from tunesmith.app import Services
from tunesmith.kernel.caller import LOCAL
from tunesmith.training.hosted.executor import HostedExecutor
from tunesmith.training.hosted.timing import Timing
from tunesmith.training.jobs.job import Job

SOON = Timing(poll_s=0.02, stopping_s=0.02, settle_s=0.05, first_s=0.02, longest_s=0.1, patience_s=0.1)
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider is asked many times a second."""
    monkeypatch.setattr("tunesmith.app.HostedExecutor", partial(HostedExecutor, timing=SOON))
    monkeypatch.setattr("tunesmith.cli.following._POLL_S", 0.02)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file outside the home folder, whose rows were thought about."""
    rows = [{"instruction": f"q{n}", "output": f"a{n}", "reasoning": f"because {n}"} for n in range(4)]
    file = tmp_path / "town.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def order(data: Path, *more: str) -> list[str]:
    return ["create", "--provider", "together_ai", "--model", LLAMA, "--data", str(data), *more]


@contextmanager
def moving(api: TogetherApi, *words: str, message: str = "") -> Iterator[None]:
    """Each job that comes goes through these states as soon as it is there, and says ``message`` with each."""
    ended = threading.Event()

    def move() -> None:
        moved: set[str] = set()
        while not ended.wait(0.02):
            for job in set(api.jobs) - moved:
                moved.add(job)
                for word in words:
                    api.advance(job, word, message)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(PATIENCE_S)


def listed(tunesmith: Invoke, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(tunesmith("jobs", "list", "--json", *arguments).stdout)["jobs"]
    return found


@pytest.fixture
def made(tunesmith: Invoke, ready: Path, together: TogetherApi, data: Path) -> str:
    """The id of a job that has completed."""
    with moving(together, "running", "completed"):
        done = tunesmith("jobs", *order(data, "--yes", "--json", "--name", "town"))
    assert done.exit_code == 0, done.output
    return str(json.loads(done.stdout)["id"])


def test_a_dry_run_says_what_would_be_sent_and_makes_nothing(
    tunesmith: Invoke, ready: Path, together: TogetherApi, data: Path
) -> None:
    asked = order(
        data, "--set", "epochs=3", "--set", "lora_rank=16", "--strategy", "two_message_cot", "--system", "Be kind."
    )
    shown = tunesmith("jobs", *asked, "--dry-run")
    assert shown.exit_code == 0, shown.output
    for text in (LLAMA, "epochs=3", "lora_rank=16", "two_message_cot", "Be kind.", "cost"):
        assert text in shown.stdout
    told = json.loads(tunesmith("jobs", *asked, "--dry-run", "--json").stdout)
    assert (told["job"]["rows"], told["job"]["parameters"]) == (4, {"epochs": 3, "lora_rank": 16})
    assert set(told["estimate"]) == {"cost", "tokens", "steps", "reason"}
    assert listed(tunesmith) == [] and together.jobs == {} and together.spent == 0


def test_a_job_is_sent_followed_to_its_end_and_told_of(
    tunesmith: Invoke, ready: Path, together: TogetherApi, made: str
) -> None:
    [theirs] = together.asked.values()
    assert theirs["model"] == LLAMA
    shown = json.loads(tunesmith("jobs", "show", made[:8], "--json").stdout)
    assert (shown["id"], shown["status"], shown["name"], shown["rows"]) == (made, "completed", "town", 4)
    assert shown["output_model"] and shown["provider_id"] in together.jobs
    text = tunesmith("jobs", "show", made).stdout
    assert shown["output_model"] in text and "completed" in text
    assert "town" in tunesmith("jobs", "list").stdout
    assert tunesmith("jobs", "watch", made).exit_code == 0


def test_without_a_word_nothing_that_costs_is_made(
    tunesmith: Invoke, ready: Path, together: TogetherApi, data: Path
) -> None:
    refused = tunesmith("jobs", *order(data))
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--yes" in refused.stderr and refused.stderr.count("\n") == 1
    assert listed(tunesmith) == [] and together.requests == []


@pytest.mark.parametrize(("answer", "code", "jobs"), [("n", 1, 0), ("", 1, 0), ("y", 0, 1)])
def test_the_person_is_asked_before_anything_is_made(
    tunesmith: Invoke,
    ready: Path,
    together: TogetherApi,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    code: int,
    jobs: int,
) -> None:
    monkeypatch.setattr("tunesmith.cli.consent.may_ask", lambda *, yes: None)  # as on a terminal
    monkeypatch.setattr("tunesmith.cli.ordering.may_ask", lambda *, yes: None)
    done = tunesmith("jobs", *order(data, "--no-wait"), stdin=f"{answer}\n")
    assert done.exit_code == code, done.output
    assert "make this job and pay for it?" in done.stderr and LLAMA in done.stderr
    assert len(listed(tunesmith)) == jobs


def test_a_job_that_is_not_waited_for_says_what_will_move_it_and_is_sent_by_watch(
    tunesmith: Invoke, ready: Path, together: TogetherApi, data: Path
) -> None:
    done = tunesmith("jobs", *order(data, "--yes", "--no-wait"))
    job = done.stdout.strip()
    assert done.exit_code == 0 and f"tunesmith jobs watch {job}" in done.stderr and "serve" in done.stderr
    assert together.jobs == {} and listed(tunesmith)[0]["status"] == "pending"
    with moving(together, "running", "error"):
        watched = tunesmith("jobs", "watch", job)
    assert watched.exit_code == 1 and "failed" in watched.stdout
    assert together.created["job"] == 1


@pytest.mark.parametrize(("sent", "said"), [(False, "sends"), (True, "goes on at its provider")])
def test_who_stops_looking_is_told_what_becomes_of_the_job(
    tunesmith: Invoke,
    ready: Path,
    together: TogetherApi,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    sent: bool,
    said: str,
) -> None:
    async def impatient(services: Services, job: Job) -> Job:
        while sent and not ((hosted := services.jobs.get(job.run.id, LOCAL).hosted) and hosted.job_id):
            await services.training.reconcile()
        raise KeyboardInterrupt

    monkeypatch.setattr("tunesmith.cli.following.followed", impatient)
    stopped = tunesmith("jobs", *order(data, "--yes"))
    assert stopped.exit_code == 130 and said in stopped.stderr and "jobs cancel" in stopped.stderr
    assert listed(tunesmith)[0]["cancel_requested"] is False


def test_canceling_waits_until_the_provider_has_stopped(
    tunesmith: Invoke, ready: Path, together: TogetherApi, data: Path
) -> None:
    job = tunesmith("jobs", *order(data, "--yes", "--no-wait")).stdout.strip()
    assert json.loads(tunesmith("jobs", "cancel", job, "--json").stdout)["status"] == "cancelled"
    assert together.jobs == {}, "what was never sent is not sent to be stopped"
    assert tunesmith("jobs", "cancel", job).exit_code == 0


def test_a_job_is_renamed_and_forgotten(tunesmith: Invoke, ready: Path, made: str) -> None:
    assert tunesmith("jobs", "edit", made).exit_code == 2
    changed = json.loads(tunesmith("jobs", "edit", made, "--name", "village", "--json").stdout)
    assert changed["name"] == "village"
    assert json.loads(tunesmith("jobs", "delete", made, "--json").stdout) == {"deleted": made}
    assert error_of(tunesmith("jobs", "show", made, "--json"))["kind"] == "not_found"


def test_deploying_costs_money_and_wants_a_word(
    tunesmith: Invoke, ready: Path, together: TogetherApi, made: str
) -> None:
    refused = tunesmith("jobs", "deploy", made)
    assert refused.exit_code == 2 and refused.stdout == ""
    assert "charges" in refused.stderr and "--yes" in refused.stderr
    assert together.created["endpoint"] == 0
    told = json.loads(tunesmith("jobs", "deploy", made, "--yes", "--json").stdout)
    assert told["chat_model"] == f"hosted/{made}"
    assert together.created["endpoint"] == 1
    assert "jobs undeploy" in tunesmith("jobs", "show", made).stdout
    assert error_of(tunesmith("jobs", "delete", made, "--json"))["kind"] == "conflict"
    assert tunesmith("jobs", "undeploy", made).exit_code == 0
    assert json.loads(tunesmith("jobs", "show", made, "--json").stdout)["deployment"] is None


def test_an_adapter_is_fetched(
    tunesmith: Invoke, ready: Path, together: TogetherApi, made: str, tmp_path: Path
) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    lora(packed)
    together.archive = tarred({path.name: path.read_bytes() for path in packed.iterdir()})
    done = tunesmith("jobs", "download", made, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    folder = Path(told["path"])
    assert folder == ready / told["adapter"]
    assert (folder / "adapter_model.safetensors").read_bytes() == (packed / "adapter_model.safetensors").read_bytes()
    assert told["message"], "the base is not on this machine, and that is said"


def test_what_a_job_cannot_be_made_of_is_one_clear_line(
    tunesmith: Invoke, ready: Path, together: TogetherApi, data: Path
) -> None:
    def refused(*more: str) -> dict[str, Any]:
        return error_of(tunesmith("jobs", *order(data, "--dry-run", "--json", *more)))

    assert refused("--set", "epochs=many")["details"]["field"] == "parameters.epochs"
    assert refused("--set", "speed=9")["kind"] == "invalid"
    assert refused("--model", "nobody/model")["kind"] == "not_found"
    assert refused("--provider", "nobody")["kind"] == "invalid"
    assert refused("--data", "absent.jsonl")["kind"] == "not_found"
    assert refused("--strategy", "nonsense")["kind"] == "invalid"
    wrong: list[Result] = [
        tunesmith("jobs", *order(data, "--dry-run", "--set", "epochs")),
        tunesmith("jobs", *order(data, "--dry-run", "--project", "shop")),
        tunesmith("jobs", *order(data, "--dry-run", "--split", "one")),
        tunesmith("jobs", "create", "--provider", "together_ai", "--model", LLAMA, "--dry-run"),
    ]
    for result in wrong:
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.output


def test_without_a_key_a_job_is_refused_with_what_to_set(
    tunesmith: Invoke, ready: Path, together: TogetherApi, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOGETHER_API_KEY")
    error = error_of(tunesmith("jobs", *order(data, "--yes", "--json")))
    assert "TOGETHER_API_KEY" in error["message"]
    assert listed(tunesmith) == []


def test_a_price_is_asked_and_where_there_is_none_the_reason_is_told(
    tunesmith: Invoke, ready: Path, together: TogetherApi, data: Path
) -> None:
    asked = ["estimate", *order(data)[1:]]
    here = json.loads(
        tunesmith(
            "jobs", "estimate", "--provider", "local", "--model", "tunesmith-small", "--data", str(data), "--json"
        ).stdout
    )["estimate"]
    assert here["cost"]["amount"] == 0 and here["reason"]
    there = json.loads(tunesmith("jobs", *asked, "--json").stdout)["estimate"]
    assert there["cost"] or there["reason"]
    assert together.jobs == {}


def test_what_a_provider_says_cannot_drive_the_terminal(
    tunesmith: Invoke, ready: Path, together: TogetherApi, data: Path
) -> None:
    with moving(together, "running", "error", message="\x1b]0;owned\x07 \x1b[2J"):
        made = tunesmith("jobs", *order(data, "--yes"))
    assert made.exit_code == 1
    [job] = listed(tunesmith)
    said = made.output + tunesmith("jobs", "show", job["id"]).output
    assert "owned" in said and "\x1b" not in said and "\x07" not in said
