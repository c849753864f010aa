"""Projects, tasks and runs belong to who made them, are called as Kiln's are, and go with what they are in."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest
import sqlalchemy as sa

from tests.unit.projects.conftest import AMY, BOB, Desk, ticking
from tunesmith.kernel.caller import LOCAL
from tunesmith.kernel.db import Database
from tunesmith.kernel.problems import Invalid, NotFound
from tunesmith.projects import tables
from tunesmith.projects.service import ProjectService


def rows(database: Database) -> dict[str, int]:
    with database.read() as connection:
        tables = ("projects", "tasks", "task_runs", "dataset_splits")
        return {table: connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one() for table in tables}


def test_what_is_made_is_found_as_it_was_made(service: ProjectService) -> None:
    project = service.create_project("客服 🎉", "of a shop", AMY)
    fields = {
        "name": "分类",
        "instruction": "Sort.",
        "requirements": ["Be polite", {"instruction": "Be short", "name": "short"}],
        "thinking_instruction": "想一想",
        "output_schema": {"type": "object"},
    }
    task = service.create_task(project.id, fields, AMY)
    assert (task.requirements, task.output_schema) == (("Be polite", "Be short"), '{"type":"object"}')
    trace = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "{}"}]
    tools = [{"type": "function", "function": {"name": "look"}}]
    said = {"input": " 你好\u2028\n", "output": '{"a": 1}', "reasoning": "", "chain_of_thought": "想", "rating": 4}
    run = service.add_run(project.id, task.id, {**said, "tags": ["gold", "new"], "trace": trace, "tools": tools}, AMY)
    assert (run.rating, run.rating_type, run.thinking, run.final) == (4.0, "five_star", "想", '{"a": 1}')
    assert service.projects(AMY) == [project] and service.project(project.id, AMY) == project
    assert service.tasks(project.id, AMY) == [task] and service.task(project.id, task.id, AMY) == task
    assert service.runs(project.id, task.id, AMY) == [run] == [service.run(project.id, task.id, run.id, AMY)]
    assert all(re.fullmatch(r"[0-9]{12}", each.id) for each in (project, task, run))


@pytest.mark.parametrize(
    "name", ["", "a" * 121, "a/b", "a\\b", "a.b", "a\nb", " a", "a_", "a  b", "a__b", "a\tb", "a\u202eb", 5]
)
def test_names_that_kiln_refuses_are_refused(service: ProjectService, name: Any) -> None:
    with pytest.raises(Invalid, match="name is invalid"):
        service.create_project(name, None, AMY)


def test_names_of_every_script_pass_and_are_composed(service: ProjectService) -> None:
    for name in ("été", "e\u0301te\u0301", "客服", "🎉" * 120, "a b_c-d (1)"):
        kept = service.create_project(name, None, AMY).name
        assert kept == name.replace("e\u0301", "é")


@pytest.mark.parametrize(
    "asked",
    [
        lambda s, p, t, r: s.project(p, BOB),
        lambda s, p, t, r: s.edit_project(p, {"name": "mine"}, BOB),
        lambda s, p, t, r: s.delete_project(p, BOB),
        lambda s, p, t, r: s.tasks(p, BOB),
        lambda s, p, t, r: s.create_task(p, {"name": "x", "instruction": "y"}, BOB),
        lambda s, p, t, r: s.delete_task(p, t, BOB),
        lambda s, p, t, r: s.run(p, t, r, BOB),
        lambda s, p, t, r: s.edit_run(p, t, r, {"output": "mine"}, BOB),
        lambda s, p, t, r: s.delete_run(p, t, r, BOB),
        lambda s, p, t, r: s.create_split(p, t, BOB, split_type="all"),
        lambda s, p, t, r: s.info(p, t, BOB),
        lambda s, p, t, r: s.system_message(p, t, "simple_prompt_builder", BOB),
    ],
)
def test_anothers_project_is_answered_like_a_missing_one(
    desk: Desk, asked: Callable[[ProjectService, str, str, str], object]
) -> None:
    run = desk.add()
    with pytest.raises(NotFound) as refusal:
        asked(desk.service, desk.project, desk.task, run.id)
    assert refusal.value.en == f"Project not found. ID: {desk.project}"
    assert desk.service.run(*desk.at, run.id, AMY) == run and desk.service.projects(BOB) == []
    assert desk.service.project(desk.project, LOCAL).owner == "amy"


def test_what_is_not_there_is_told_in_kilns_words(desk: Desk) -> None:
    service, missing = desk.service, "999999999999"
    other = service.create_project("other", None, AMY)
    theirs, run = service.create_task(other.id, {"name": "t", "instruction": "i"}, AMY), desk.add()
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: service.project("../../x\0", AMY), "Project not found. ID: '../../x\\x00'"),
        (lambda: service.task(desk.project, missing, AMY), f"Task not found. ID: {missing}"),
        (lambda: service.task(other.id, desk.task, AMY), f"Task not found. ID: {desk.task}"),
        (lambda: service.run(other.id, theirs.id, run.id, AMY), f"Run not found. ID: {run.id}"),
        (lambda: service.run(*desk.at, "\ud800", AMY), "Run not found. ID: '\\ud800'"),
        (lambda: service.split(*desk.at, missing, AMY), f"Dataset split with ID '{missing}' not found"),
    ]
    for asked, said in cases:
        with pytest.raises(NotFound) as refusal:
            asked()
        assert refusal.value.en == said


def test_deleting_a_project_or_a_task_deletes_what_is_in_it_and_nothing_else(desk: Desk, database: Database) -> None:
    service = desk.service
    for project in ("one", "two"):
        made = service.create_project(project, None, AMY)
        task = service.create_task(made.id, {"name": "t", "instruction": "i"}, AMY)
        service.add_run(made.id, task.id, {"input": "a", "output": "b"}, AMY)
        service.create_split(made.id, task.id, AMY, split_type="all")
    assert rows(database) == {"projects": 3, "tasks": 3, "task_runs": 2, "dataset_splits": 2}
    service.delete_project(made.id, AMY)
    assert rows(database) == {"projects": 2, "tasks": 2, "task_runs": 1, "dataset_splits": 1}
    one = next(each for each in service.projects(AMY) if each.name == "one")
    service.delete_task(one.id, service.tasks(one.id, AMY)[0].id, AMY)
    assert rows(database) == {"projects": 2, "tasks": 1, "task_runs": 0, "dataset_splits": 0}


def test_edits_change_what_they_name_and_nothing_else(desk: Desk) -> None:
    service = desk.service
    project = service.edit_project(desk.project, {"description": "of a shop"}, AMY)
    assert (project.name, project.description) == ("shop", "of a shop")
    task = service.edit_task(*desk.at, {"requirements": ["Be polite"], "thinking_instruction": None}, AMY)
    assert (task.name, task.requirements) == ("answers", ("Be polite",))
    with pytest.raises(Invalid, match="input_schema cannot be changed"):
        service.edit_task(*desk.at, {"input_schema": {"type": "object"}}, AMY)
    run = desk.add(rating=1, rating_type="pass_fail", tags=["a"])
    run = service.edit_run(*desk.at, run.id, {"rating": 0, "repaired": "better"}, AMY)
    assert (run.rating, run.rating_type, run.final, run.tags) == (0.0, "pass_fail", "better", ("a",))
    assert service.run(*desk.at, run.id, AMY) == run
    for change in ({"id": "111111111111"}, {"owner": "bob"}, {"name": ""}):
        with pytest.raises(Invalid):
            service.edit_project(desk.project, change, AMY)
    assert service.edit_run(*desk.at, run.id, {"rating": None}, AMY).rating_type is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"output": " "}, "output"),
        ({"input": "a\0b"}, "input"),
        ({"input": "\ud800"}, "input"),
        ({"input": 5}, "input"),
        ({"output": "x" * ((4 << 20) + 1)}, "output"),
        ({"rating": 6}, "rating"),
        ({"rating": True}, "rating"),
        ({"rating": 1, "rating_type": "stars"}, "rating_type"),
        ({"rating": 2, "rating_type": "pass_fail"}, "rating"),
        ({"tags": ["a b"]}, "tags"),
        ({"tags": [""]}, "tags"),
        ({"tags": ["x"] * 101}, "tags"),
        ({"trace": "[}"}, "trace"),
        ({"trace": '{"role": "user"}'}, "trace"),
        ({"trace": [{"role": "wizard", "content": "x"}]}, "trace[0].role"),
        ({"trace": [{"role": "user", "content": 5}]}, "trace[0].content"),
        ({"trace": [{"role": "tool", "content": "5"}]}, "trace[0].tool_call_id"),
        ({"trace": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]}, "trace[0].tool_calls"),
        ({"trace": [{"role": "user", "content": "a\0"}]}, "trace"),
        ({"trace": "[" * 100_000}, "trace"),
        ({"tools": [{"name": "f"}]}, "tools[0]"),
        ({"parent_id": "000000000000"}, "parent_id"),
        ({"parent_id": "../x"}, "parent_id"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_run_that_is_none_is_refused_and_the_field_named(desk: Desk, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(Invalid) as refusal:
        desk.add(**fields)
    assert refusal.value.details["field"] == named and refusal.value.zh != refusal.value.en
    assert desk.service.runs(*desk.at, AMY) == []


def test_a_structured_task_wants_json(service: ProjectService) -> None:
    project = service.create_project("p", None, AMY)
    schemas = {"input_schema": '{"type": "object"}', "output_schema": '{"type": "object"}'}
    task = service.create_task(project.id, {"name": "t", "instruction": "i", **schemas}, AMY)
    for fields, said in [
        ({"input": "x", "output": "{}"}, "Input is not a valid JSON object"),
        ({"input": "{}", "output": "4"}, "Output is not a valid JSON object"),
        ({"input": "{}", "output": "{}", "repaired": "[]"}, "Repaired output is not a valid JSON object"),
    ]:
        with pytest.raises(Invalid, match=said):
            service.add_run(project.id, task.id, fields, AMY)
    assert service.add_run(project.id, task.id, {"input": "{ }", "output": '{"a":1}'}, AMY).input == "{ }"
    with pytest.raises(Invalid, match="output_schema must be a JSON schema"):
        service.create_task(project.id, {"name": "t", "instruction": "i", "output_schema": "[]"}, AMY)


def test_a_run_cannot_go_on_from_itself_or_from_one_that_goes_on_from_it(desk: Desk) -> None:
    first = desk.add("one")
    second = desk.add("two", parent_id=first.id)
    for parent in (first.id, second.id):
        with pytest.raises(Invalid, match="goes on from this one"):
            desk.service.edit_run(*desk.at, first.id, {"parent_id": parent}, AMY)
    desk.service.delete_run(*desk.at, first.id, AMY)
    assert desk.service.run(*desk.at, second.id, AMY).parent_id is None


def test_what_is_added_to_a_task_that_goes_meanwhile_is_refused(desk: Desk, database: Database) -> None:
    def late() -> datetime:
        """The time, when somebody has just removed the project."""
        desk.service.delete_project(desk.project, LOCAL)
        return datetime(2026, 1, 2, tzinfo=UTC)

    service = ProjectService(database, late)
    additions: list[Callable[[], object]] = [
        lambda: service.add_run(*desk.at, {"input": "a", "output": "b"}, AMY),
        lambda: service.import_file(*desk.at, BytesIO(b'{"input": "a", "output": "b"}'), "x.jsonl", AMY),
        lambda: service.create_split(*desk.at, AMY, split_type="all"),
        lambda: service.create_task(desk.project, {"name": "t", "instruction": "i"}, AMY),
    ]
    for adding in additions:
        project = desk.service.create_project("again", None, AMY)
        task = desk.service.create_task(project.id, {"name": "t", "instruction": "i"}, AMY)
        desk = Desk(desk.service, project.id, task.id)
        with pytest.raises(NotFound):
            adding()
    assert rows(database) == {"projects": 1, "tasks": 1, "task_runs": 0, "dataset_splits": 0}


def test_runs_are_listed_page_by_page_the_oldest_first(desk: Desk) -> None:
    for number in range(5):
        desk.add(f"q{number}")
    page = desk.service.runs(*desk.at, AMY, limit=2, offset=1)
    assert [run.input for run in page] == ["q1", "q2"]
    for limit, offset in ((0, 0), (1001, 0), (1, -1)):
        with pytest.raises(Invalid):
            desk.service.runs(*desk.at, AMY, limit=limit, offset=offset)


def test_edits_of_one_run_at_once_all_count(desk: Desk) -> None:
    run = desk.add()
    changes = [{"reasoning": "r"}, {"repaired": "p"}, {"tags": ["t"]}, {"rating": 5}]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda change: desk.service.edit_run(*desk.at, run.id, change, AMY), changes))
    kept = desk.service.run(*desk.at, run.id, AMY)
    assert (kept.reasoning, kept.repaired, kept.tags, kept.rating) == ("r", "p", ("t",), 5.0)


def test_the_migration_makes_the_tables_that_are_declared(database: Database) -> None:
    with database.read() as connection:
        made = sa.inspect(connection)
        for table in (tables.projects, tables.tasks, tables.task_runs, tables.dataset_splits):
            columns = {
                column["name"]: (str(column["type"]), column["nullable"]) for column in made.get_columns(table.name)
            }
            assert columns == {column.name: (str(column.type), column.nullable) for column in table.columns}
            assert {str(index["name"]) for index in made.get_indexes(table.name)} == {
                str(index.name) for index in table.indexes
            }
            keys = made.get_foreign_keys(table.name)
            assert [key["options"] for key in keys] == [{"ondelete": key.ondelete} for key in table.foreign_keys]


def test_every_verb_works_on_every_database(database_url: str) -> None:
    database = Database(database_url)
    service = ProjectService(database, ticking())
    project = service.create_project("p", None, AMY)
    task = service.create_task(project.id, {"name": "t", "instruction": "i"}, AMY)
    at = Desk(service, project.id, task.id)
    runs = [at.add(f"q{n}", tags=["fine_tune_a", "b%"], rating=5, reasoning="r") for n in range(6)]
    at.add("next", parent_id=runs[0].id, repaired="better", repair_instructions="mend")
    assert len(at.passing("multi_filter::tag::b%&thinking_model_high_rated")) == 6 and at.passing("tag::B%") == []
    split = service.create_split(*at.at, AMY, split_type="train_val", seed=2**63 - 1)
    assert sum(map(len, split.contents.values())) == 6 and service.splits(*at.at, AMY) == [split]
    assert len(list(service.samples(*at.at, split.id, "train", AMY))) == len(split.contents["train"])
    assert service.edit_split(*at.at, split.id, {"name": "other"}, AMY).name == "other"
    assert service.info(*at.at, AMY).tags[0].count == 5
    assert "Input: next" in service.system_message(*at.at, "repairs_prompt_builder", AMY)
    assert service.edit_run(*at.at, runs[1].id, {"output": "new"}, AMY).output == "new"
    service.delete_run(*at.at, runs[1].id, AMY)
    service.delete_split(*at.at, split.id, AMY)
    service.edit_task(*at.at, {"description": "d"}, AMY)
    service.delete_project(project.id, AMY)
    assert rows(database) == {"projects": 0, "tasks": 0, "task_runs": 0, "dataset_splits": 0}
    database.close()
