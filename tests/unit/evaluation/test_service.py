"""Evaluations from request to result, with an engine that answers from a table."""

import asyncio
import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.unit.evaluation.answering import AnsweringEngine
from tunesmith.datasets.example import Message
from tunesmith.evaluation.folder import Folder
from tunesmith.evaluation.service import EvaluationRequest, EvaluationService, Question, State
from tunesmith.inference.engine import Sampling, Score
from tunesmith.kernel.db import Database
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Invalid, NotFound, Problem
from tunesmith.models.model import Model

GREEDY = Sampling(16, 0.0, 1.0, 0, 1.0)
FACTS = {f"谁住在 {n} 号？": f"小林{n}" for n in range(10)}
TUNED = Model("small", "adapters/town")


def ask(facts: dict[str, str] = FACTS) -> tuple[Question, ...]:
    return tuple(Question((Message("user", prompt),), answer) for prompt, answer in facts.items())


def request(**changes: Any) -> EvaluationRequest:
    return replace(EvaluationRequest(TUNED, ask(), ("exact_match", "bleu", "rouge", "perplexity"), GREEDY), **changes)


class Desk:
    """A service and what it stands on."""

    def __init__(self, database: Database, home: Home) -> None:
        self.database, self.home = database, home

    def service(self, engine: AnsweringEngine) -> EvaluationService:
        return EvaluationService(self.database, self.home, engine, lambda: datetime(2025, 1, 1, tzinfo=UTC))


@pytest.fixture
def desk(database: Database, home: Home) -> Desk:
    return Desk(database, home)


async def test_an_evaluation_is_recorded_executed_and_kept(desk: Desk) -> None:
    engine = AnsweringEngine({**FACTS, "谁住在 3 号？": "不知道"})
    service = desk.service(engine)
    started = service.start(request(label="小镇"))
    assert (started.state, started.done, started.total) == (State.QUEUED, 0, 20)
    assert service.get(started.id) == started
    folder = desk.home.evaluations / started.id
    assert len((folder / "questions.jsonl").read_text().splitlines()) == 10

    ended = await service.execute(started.id)
    assert (ended.state, ended.done, ended.attempts, ended.label) == (State.COMPLETED, 20, 1, "小镇")
    assert ended.result is not None
    assert ended.result["count"] == 10
    assert ended.result["metrics"]["exact_match"]["value"] == 0.9
    assert ended.result["metrics"]["perplexity"]["value"] == pytest.approx(math.exp(0.5))
    assert "tok:zh" in ended.result["metrics"]["bleu"]["signature"]
    assert json.loads((folder / "result.json").read_text()) == ended.result
    assert service.get(started.id) == ended
    assert [e.id for e in service.list()] == [started.id]


async def test_outputs_tell_of_every_question_in_order(desk: Desk) -> None:
    service = desk.service(AnsweringEngine({**FACTS, "谁住在 3 号？": "不知道"}))
    started = service.start(request())
    assert service.outputs(started.id) == []
    await service.execute(started.id)
    rows = service.outputs(started.id)
    assert [row["index"] for row in rows] == list(range(10))
    assert rows[2]["prompt"] == [{"role": "user", "content": "谁住在 2 号？"}]
    assert (rows[2]["expected"], rows[2]["output"], rows[2]["finish"]) == ("小林2", "小林2", "stop")
    assert (rows[2]["scores"]["exact_match"], rows[3]["scores"]["exact_match"]) == (1, 0)
    assert (rows[3]["output"], rows[3]["logprob"], rows[3]["tokens"]) == ("不知道", -2, 4)


async def test_a_few_questions_go_to_the_engine_in_one_call(desk: Desk) -> None:
    engine = AnsweringEngine(FACTS)
    service = desk.service(engine)
    await service.execute(service.start(request()).id)
    assert [len(call) for call in engine.generated] == [10]
    assert engine.closed == 1
    assert {row.sampling for row in engine.generated[0]} == {GREEDY}
    assert [reference.completion for reference in engine.scored[0]] == list(FACTS.values())


async def test_compare_asks_base_and_tuned_in_one_call_and_tells_them_apart(desk: Desk) -> None:
    engine = AnsweringEngine(FACTS, {"谁住在 0 号？": "小林0"})
    service = desk.service(engine)
    started = service.start(request(compare=True))
    assert started.total == 40
    ended = await service.execute(started.id)
    assert [len(call) for call in engine.generated] == [20]
    assert {row.model for row in engine.generated[0]} == {TUNED, TUNED.bare()}
    assert ended.result is not None
    assert ended.result["base"]["exact_match"]["value"] == 0.1
    assert ended.result["metrics"]["exact_match"]["value"] == 1
    assert ended.result["difference"]["exact_match"]["value"] == pytest.approx(0.9)
    assert ended.result["difference"]["exact_match"]["significant"]
    assert ended.result["base"]["perplexity"]["value"] == pytest.approx(math.exp(2))
    row = service.outputs(started.id)[4]
    assert (row["output"], row["base"]["output"], row["base"]["logprob"]) == ("小林4", "I do not know.", -8)


async def test_many_references_are_scored_in_parts_that_keep_models_and_questions_apart(desk: Desk) -> None:
    facts = {f"q{n}": f"a{n}" for n in range(300)}
    engine = AnsweringEngine(facts)
    service = desk.service(engine)
    started = service.start(request(questions=ask(facts), metrics=("perplexity",), compare=True))
    ended = await service.execute(started.id)
    assert [len(call) for call in engine.scored] == [512, 88]
    of_tuned = [each.completion for call in engine.scored for each in call if each.model == TUNED]
    assert of_tuned == list(facts.values())
    assert ended.result is not None
    assert ended.result["metrics"]["perplexity"]["value"] == pytest.approx(math.exp(0.5))
    assert {row["base"]["logprob"] for row in service.outputs(started.id)} == {-8}


async def test_equal_models_compared_are_not_told_apart(desk: Desk) -> None:
    same = Score(-3.0, 4)
    service = desk.service(AnsweringEngine(FACTS, FACTS, score=(same, same)))
    ended = await service.execute(service.start(request(compare=True)).id)
    assert ended.result is not None
    assert not any(each["significant"] for each in ended.result["difference"].values())


async def test_perplexity_alone_generates_nothing_and_exact_match_alone_scores_nothing(desk: Desk) -> None:
    engine = AnsweringEngine(FACTS)
    service = desk.service(engine)
    await service.execute(service.start(request(metrics=("perplexity",))).id)
    assert (len(engine.generated), len(engine.scored)) == (0, 1)
    started = service.start(request(metrics=("exact_match", "exact_match")))
    assert (started.metrics, started.total) == (("exact_match",), 10)
    await service.execute(started.id)
    assert (len(engine.generated), len(engine.scored)) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"metrics": ("exact_match", "accuracy")}, "metrics[1]"),
        ({"metrics": ()}, "metrics"),
        ({"questions": ()}, "test_data"),
        ({"questions": (*ask()[:3], replace(ask()[3], expected=" \n"))}, "test_data[3].expected"),
        ({"questions": (*ask()[:1], replace(ask()[1], prompt=()))}, "test_data[1].input"),
        ({"questions": (replace(ask()[0], prompt=(Message("user", " "),)),)}, "test_data[0].input"),
        ({"questions": (replace(ask()[0], expected="\ud800"),)}, "test_data[0].expected"),
        ({"sampling": replace(GREEDY, temperature=math.nan)}, "temperature"),
        ({"sampling": replace(GREEDY, max_new_tokens=0)}, "max_tokens"),
        ({"sampling": replace(GREEDY, max_new_tokens=10**9)}, "max_tokens"),
        ({"questions": ask()[:1] * 10_001}, "test_data"),
        ({"model": Model("small"), "compare": True}, "compare"),
    ],
)
def test_a_malformed_request_is_refused_by_its_field_and_leaves_nothing(
    desk: Desk, changes: dict[str, Any], field: str
) -> None:
    service = desk.service(AnsweringEngine(FACTS))
    with pytest.raises(Invalid) as caught:
        service.start(request(**changes))
    assert caught.value.details["field"] == field
    assert service.list() == []
    assert list(desk.home.evaluations.iterdir()) == []


@pytest.mark.parametrize(
    "evaluation_id",
    ["", "1", "../../etc/passwd", "0" * 4000, "\ud800", "6F9619FF-8B86-4011-B42D-00C04FC964FF", "a\x00b",
     "6f9619ff8b864011b42d00c04fc964ff", "6f9619ff-8b86-1011-b42d-00c04fc964ff", "6f9619ff-8b86-4011-b42d-00c04fc964ff"],
)  # fmt: skip
def test_an_id_that_is_none_of_ours_is_not_found_and_not_echoed_at_length(desk: Desk, evaluation_id: str) -> None:
    service = desk.service(AnsweringEngine(FACTS))
    for look in (service.get, service.outputs):
        with pytest.raises(NotFound) as caught:
            look(evaluation_id)
        assert len(caught.value.zh.encode()) < 600
    assert list(desk.home.evaluations.iterdir()) == []


@pytest.mark.parametrize(
    "evaluation_id", ["..", "6F9619FF-8B86-4011-B42D-00C04FC964FF", "6f9619ff8b864011b42d00c04fc964ff"]
)
def test_no_second_spelling_of_an_id_names_a_folder(desk: Desk, evaluation_id: str) -> None:
    with pytest.raises(NotFound):
        Folder(desk.home, evaluation_id)


@pytest.mark.parametrize("fail_after", [0, 7])
async def test_an_engine_that_breaks_leaves_a_failed_record_with_the_reason(desk: Desk, fail_after: int) -> None:
    engine = AnsweringEngine(FACTS, fail_after=fail_after)
    service = desk.service(engine)
    ended = await service.execute(service.start(request()).id)
    assert ended.state is State.FAILED
    assert ended.failure is not None
    assert (ended.error, ended.failure.message("en")) == ("引擎崩溃", "the engine crashed")
    assert ended.result is None
    assert service.outputs(ended.id) == []
    assert engine.closed == 1


async def test_a_bug_below_is_a_failed_record_too_and_the_next_evaluation_goes_on(desk: Desk) -> None:
    broken = desk.service(AnsweringEngine(FACTS, fail_after=2, problem=RuntimeError("boom")))
    ended = await broken.execute(broken.start(request()).id)
    assert ended.state is State.FAILED
    assert ended.failure is not None
    assert "RuntimeError: boom" in ended.failure.en
    sound = desk.service(AnsweringEngine(FACTS))
    assert (await sound.execute(sound.start(request()).id)).state is State.COMPLETED


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (AnsweringEngine(FACTS, finish="canceled"), "test_data[0]"),
        (AnsweringEngine(FACTS, score=(Score(-math.inf, 4), Score(-1, 4))), "impossible"),
        (AnsweringEngine(FACTS, score=(Score(-1.0, 0), Score(-1, 4))), "impossible"),
    ],
)
async def test_half_answers_and_impossible_scores_are_never_measured(
    desk: Desk, engine: AnsweringEngine, said: str
) -> None:
    service = desk.service(engine)
    ended = await service.execute(service.start(request()).id)
    assert ended.state is State.FAILED
    assert ended.failure is not None
    assert said in ended.failure.en


async def test_a_damaged_questions_file_fails_the_evaluation_by_its_name(desk: Desk) -> None:
    service = desk.service(AnsweringEngine(FACTS))
    started = service.start(request())
    (desk.home.evaluations / started.id / "questions.jsonl").write_text('{"prompt": 3}\n')
    ended = await service.execute(started.id)
    assert ended.state is State.FAILED
    assert f"evaluations/{started.id}/questions.jsonl" in (ended.error or "")


async def test_executing_twice_is_a_conflict(desk: Desk) -> None:
    service = desk.service(AnsweringEngine(FACTS))
    started = service.start(request())
    ended = await service.execute(started.id)
    with pytest.raises(Conflict):
        await service.execute(started.id)
    assert service.get(started.id) == ended


async def test_progress_is_written_in_steps_and_never_row_by_row(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {f"q{n}": f"a{n}" for n in range(300)}
    service = desk.service(AnsweringEngine(facts))
    written: list[int] = []
    advance = service._store.advance

    def noted(evaluation_id: str, done: int) -> bool:
        written.append(done)
        return advance(evaluation_id, done)

    monkeypatch.setattr(service._store, "advance", noted)
    ended = await service.execute(service.start(request(questions=ask(facts), metrics=("exact_match",))).id)
    assert ended.done == 300
    assert 10 <= len(written) <= 50
    assert written == sorted(written)


async def test_run_soon_executes_one_at_a_time_in_the_background(desk: Desk) -> None:
    hold = asyncio.Event()
    engine = AnsweringEngine(FACTS, hold=hold)
    service = desk.service(engine)
    ids = [service.start(request()).id for _ in range(3)]
    for evaluation_id in (*ids, ids[0]):
        service.run_soon(evaluation_id)
    await engine.asked.wait()
    states = [service.get(each).state for each in ids]
    assert states == [State.RUNNING, State.QUEUED, State.QUEUED]
    hold.set()
    await _until_idle(service)
    assert [service.get(each).state for each in ids] == [State.COMPLETED] * 3
    assert engine.most_active == 1
    await service.close()


async def test_close_stops_the_engine_and_the_next_start_takes_up_what_was_left(desk: Desk) -> None:
    engine = AnsweringEngine(FACTS, hold=asyncio.Event())
    service = desk.service(engine)
    ids = [service.start(request()).id for _ in range(2)]
    for evaluation_id in ids:
        service.run_soon(evaluation_id)
    await engine.asked.wait()
    await service.close()
    assert engine.closed == 1
    assert [service.get(each).state for each in ids] == [State.RUNNING, State.QUEUED]

    after = desk.service(AnsweringEngine(FACTS))
    assert sorted(await after.recover()) == sorted(ids)
    await _until_idle(after)
    assert [after.get(each).state for each in ids] == [State.COMPLETED] * 2
    assert after.get(ids[0]).attempts == 2
    assert await after.recover() == []


async def test_after_close_nothing_more_is_run(desk: Desk) -> None:
    engine = AnsweringEngine(FACTS)
    service = desk.service(engine)
    started = service.start(request())
    await service.close()
    service.run_soon(started.id)
    await asyncio.sleep(0.05)
    assert engine.generated == []
    assert service.get(started.id).state is State.QUEUED


async def test_an_evaluation_whose_waiter_is_interrupted_is_canceled(desk: Desk) -> None:
    engine = AnsweringEngine(FACTS, hold=asyncio.Event())
    service = desk.service(engine)
    started = service.start(request())
    task = asyncio.create_task(service.execute(started.id))
    await engine.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert service.get(started.id).state is State.CANCELED
    assert engine.closed == 1


async def test_what_ended_the_server_three_times_is_failed_instead_of_repeated(desk: Desk) -> None:
    service = desk.service(AnsweringEngine(FACTS))
    started = service.start(request())
    for _ in range(3):
        assert service._store.requeue(started.id)
        assert service._store.begin(started.id)
    assert await service.recover() == []
    failed = service.get(started.id)
    assert failed.state is State.FAILED
    assert failed.failure is not None
    assert "3 times" in failed.failure.en


async def test_what_a_living_process_works_on_is_neither_recovered_nor_executed(desk: Desk) -> None:
    engine = AnsweringEngine(FACTS, hold=asyncio.Event())
    working, starting = desk.service(engine), desk.service(AnsweringEngine(FACTS))
    started = working.start(request())
    working.run_soon(started.id)
    await engine.asked.wait()
    assert await starting.recover() == []
    with pytest.raises(Conflict):
        await starting.execute(started.id)
    assert starting.get(started.id).state is State.RUNNING
    await working.close()


async def test_a_record_whose_folder_is_gone_is_failed_at_recovery(desk: Desk) -> None:
    service = desk.service(AnsweringEngine(FACTS))
    started = service.start(request())
    folder = desk.home.evaluations / started.id
    (folder / "questions.jsonl").unlink()
    folder.rmdir()
    assert await service.recover() == []
    assert service.get(started.id).state is State.FAILED


async def _until_idle(service: EvaluationService) -> None:
    while tasks := list(service._tasks.values()):
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)


def test_every_message_exists_in_both_languages(desk: Desk) -> None:
    service = desk.service(AnsweringEngine(FACTS))
    with pytest.raises(Problem) as caught:
        service.start(request(metrics=("accuracy",)))
    assert "未知" in caught.value.zh
    assert "perplexity, exact_match, bleu, rouge" in caught.value.en
