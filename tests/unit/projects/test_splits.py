"""Splits: which examples pass, how they are dealt and frozen, and what comes out of them."""

from typing import Any

import pytest

from tests.unit.projects.conftest import AMY, Desk
from tunesmith.kernel.problems import Invalid, NotFound
from tunesmith.projects.dealing import PRESETS, chosen_parts, deal, warnings_of
from tunesmith.projects.filters import Filter, read_filter
from tunesmith.projects.project import SplitPart, TagCounts
from tunesmith.projects.run_store import Candidate
from tunesmith.projects.traces import sample


def candidates(count: int) -> list[Candidate]:
    return [Candidate(f"{10**11 + number * 7919}", f"a{number}", f"p{number}") for number in range(count)]


def test_filters_pass_what_kilns_pass(desk: Desk) -> None:
    desk.add("plain", tags=["gold", "a&b"])
    desk.add("blank thought", chain_of_thought="", tags=["Gold"])
    desk.add("no thought", reasoning="")
    desk.add("repaired", repaired="x", rating=1, tags=["gold", "golden"])
    desk.add("four", rating=4, reasoning="r")
    desk.add("three", rating=3, chain_of_thought="c")
    desk.add("pass", rating=1, rating_type="pass_fail")
    desk.add("fail", rating=0, rating_type="pass_fail_critical")
    assert len(desk.passing("all")) == 8
    assert desk.passing("high_rating") == ["repaired", "four", "pass"]
    assert desk.passing("thinking_model") == ["blank thought", "four", "three"]
    assert desk.passing("thinking_model_high_rated") == ["four"]
    assert desk.passing("tag::gold") == ["plain", "repaired"] and desk.passing("tag::gol") == []
    assert desk.passing("multi_filter::tag::gold&high_rating") == ["repaired"]
    assert desk.passing(r"multi_filter::tag::a\&b&all") == ["plain"] == desk.passing("tag::a&b")
    assert desk.passing("tag::g%") == [] == desk.passing("tag::go_d")


@pytest.mark.parametrize("text", ["", "tag::", "high", "ALL", "tag::a\0", "tag::\ud800", "x" * 5000, None, 5])
def test_a_filter_that_kiln_has_not_is_refused(text: Any) -> None:
    with pytest.raises(Invalid, match="Invalid dataset filter ID: "):
        read_filter(text)


@pytest.mark.parametrize("text", ["multi_filter::", "multi_filter::all&", "multi_filter::nope&all"])
def test_a_combination_of_filters_that_are_none_is_refused_whole(text: str) -> None:
    with pytest.raises(Invalid) as refusal:
        read_filter(text)
    assert refusal.value.en == f"Invalid multi-filter string: {text}"
    assert read_filter("multi_filter::all") == Filter()


def test_presets_are_kilns() -> None:
    shares = {name: {part.name: part.percentage for part in parts} for name, parts in PRESETS.items()}
    assert shares == {
        "all": {"all": 1.0},
        "train_val": {"train": 0.8, "val": 0.2},
        "train_test": {"train": 0.8, "test": 0.2},
        "train_test_val": {"train": 0.6, "test": 0.2, "val": 0.2},
        "train_test_val_80": {"train": 0.8, "test": 0.1, "val": 0.1},
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_dealing_gives_every_example_once_and_near_the_percentages(preset: str) -> None:
    found = candidates(2000)
    dealt = deal(found, PRESETS[preset], 7)
    assert sorted(each for some in dealt.values() for each in some) == sorted(found)
    for part in PRESETS[preset]:
        assert abs(len(dealt[part.name]) / 2000 - part.percentage) < 0.05
    assert list(dealt) == [part.name for part in PRESETS[preset]]
    assert deal(list(reversed(found)), PRESETS[preset], 7) == dealt


def test_more_examples_move_no_old_one_and_another_seed_moves_many() -> None:
    parts = PRESETS["train_test_val"]
    few, many = deal(candidates(300), parts, 5), deal(candidates(900), parts, 5)
    for part in parts:
        assert set(few[part.name]) <= set(many[part.name])
    assert deal(candidates(300), parts, 6) != few


def test_few_examples_leave_one_in_every_part_where_there_are_enough() -> None:
    for seed in range(30):
        dealt = deal(candidates(3), PRESETS["train_test_val_80"], seed)
        assert [len(some) for some in dealt.values()] == [1, 1, 1]


def test_an_empty_part_is_warned_of() -> None:
    parts = PRESETS["train_val"]
    dealt = {"train": (), "val": tuple(candidates(1))}
    assert [en for _, en in warnings_of(dealt, parts)] == [
        "the part train is empty, so nothing can be trained on; add examples"
    ]
    assert "every part is empty" in warnings_of(deal([], parts, 1), parts)[0][1]
    assert warnings_of(deal(candidates(10), parts, 1), parts) == ()


def test_the_same_question_in_two_parts_and_the_same_example_twice_are_warned_of(desk: Desk) -> None:
    for number in range(40):
        desk.add("same question", f"answer {number}")
    desk.add("alone")
    desk.add("alone")
    halves = [SplitPart(name=name, percentage=0.5) for name in ("train", "val")]
    split = desk.service.create_split(*desk.at, AMY, parts=halves)
    leak, copy = (en for _, en in split.warnings)
    assert leak.startswith("the same input is in more than one part ") and "train: " in leak and "val: " in leak
    assert copy == "1 example repeats the input and output of another"
    assert desk.service.create_split(*desk.at, AMY, split_type="all", seed=1).warnings == (split.warnings[1],)


def test_an_edited_answer_is_no_copy_any_more(desk: Desk) -> None:
    desk.add()
    twin = desk.add()
    desk.service.edit_run(*desk.at, twin.id, {"repaired": "another answer"}, AMY)
    assert desk.service.create_split(*desk.at, AMY, split_type="all").warnings == ()


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"split_type": "all", "parts": [SplitPart(name="a", percentage=1)]},
        {"split_type": "train"},
        {"parts": [SplitPart(name="a", percentage=0.5)]},
        {"parts": [SplitPart(name="a", percentage=0.5), SplitPart(name="A", percentage=0.5)]},
        {"parts": [SplitPart(name="a", percentage=1.5), SplitPart(name="b", percentage=-0.5)]},
        {"parts": [SplitPart(name="a/b", percentage=1)]},
        {"parts": [SplitPart(name="a", percentage=float("nan"))]},
        {"split_type": "all", "seed": -1},
        {"split_type": "all", "seed": 2**63},
        {"split_type": "all", "name": "a/b"},
        {"split_type": "all", "filter": "nope"},
    ],
)
def test_a_split_that_cannot_be_is_refused(desk: Desk, asked: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        desk.service.create_split(*desk.at, AMY, **asked)
    assert desk.service.splits(*desk.at, AMY) == []


def test_custom_parts_add_up_to_one_as_floats_do() -> None:
    parts = [SplitPart(name=str(number), percentage=0.1) for number in range(10)]
    assert len(chosen_parts(None, parts)) == 10


def test_a_split_is_frozen_named_and_read_in_its_order(desk: Desk) -> None:
    for number in range(30):
        desk.add(f"q{number}")
    parts = [SplitPart(name="训练", percentage=0.7, description="d"), SplitPart(name="rest", percentage=0.3)]
    split = desk.service.create_split(*desk.at, AMY, parts=parts, seed=3, description="mine")
    assert len(split.name.split()) == 2 and desk.service.split(*desk.at, split.id, AMY) == split
    desk.add("later")
    assert desk.service.split(*desk.at, split.id, AMY).contents == split.contents
    read = list(desk.service.samples(*desk.at, split.id, "训练", AMY))
    assert [each.id for each in read] == list(split.contents["训练"])
    with pytest.raises(NotFound) as refusal:
        desk.service.samples(*desk.at, split.id, "train", AMY)
    assert refusal.value.en == "Dataset split with name 'train' not found"
    again = desk.service.edit_split(*desk.at, split.id, {"name": "neu", "description": None}, AMY)
    assert (again.name, again.description, again.contents) == ("neu", None, split.contents)
    with pytest.raises(Invalid, match="unknown field seed"):
        desk.service.edit_split(*desk.at, split.id, {"seed": 1}, AMY)
    desk.service.delete_split(*desk.at, split.id, AMY)
    assert desk.service.splits(*desk.at, AMY) == [] and len(desk.passing("all")) == 31


def test_a_run_that_is_gone_refuses_its_split_and_is_named(desk: Desk) -> None:
    runs = [desk.add(f"q{number}") for number in range(3)]
    split = desk.service.create_split(*desk.at, AMY, split_type="all")
    desk.service.delete_run(*desk.at, runs[1].id, AMY)
    with pytest.raises(Invalid) as refusal:
        list(desk.service.samples(*desk.at, split.id, "all", AMY))
    assert refusal.value.en == f"Task run {runs[1].id} not found. This is required by this dataset."


def test_only_the_last_run_of_a_conversation_is_dealt_and_has_its_earlier_turns(desk: Desk) -> None:
    first = desk.add("one", "1", repaired="I")
    second = desk.add("two", "2", parent_id=first.id)
    third = desk.add("three", "3", parent_id=second.id)
    split = desk.service.create_split(*desk.at, AMY, split_type="all")
    assert split.contents == {"all": (third.id,)}
    (read,) = desk.service.samples(*desk.at, split.id, "all", AMY)
    assert [turn.content for turn in read.earlier] == ["one", "I", "two", "2"] and read.input == "three"


def test_earlier_turns_and_tool_calls_come_from_the_trace(desk: Desk) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [_CALL]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "5"}
    trace = [
        {"role": "system", "content": "You help."},
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": "there"}]},
        call,
        result,
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": "answer"},
    ]
    read = sample(desk.add(trace=trace))
    assert [(turn.role, turn.content) for turn in read.earlier] == [("user", "hi\nthere"), ("assistant", "hello")]
    assert list(read.trace) == trace and read.system is None


def test_a_thought_of_the_trace_is_no_earlier_turn(desk: Desk) -> None:
    wrapped = "The input is:\n<user_input>\nquestion\n</user_input>\n\nThink."
    trace = [("user", wrapped), ("assistant", "hm"), ("user", "Considering the above"), ("assistant", "answer")]
    run = desk.add(trace=[{"role": role, "content": content} for role, content in trace])
    assert (sample(run).earlier, sample(run).trace) == ((), ())


def test_tags_for_fine_tuning_are_counted(desk: Desk) -> None:
    parent = desk.add("parent", tags=["fine_tune_a"])
    desk.add("child", parent_id=parent.id, tags=["fine_tune_a", "fine_tune_b"], reasoning="r", rating=5)
    desk.add("good", tags=["fine_tune_a", "other"], repaired="x")
    desk.add("thought", tags=["fine_tune_a"], chain_of_thought="c", rating=2)
    desk.add("none", tags=["not_fine_tune"])
    split = desk.service.create_split(*desk.at, AMY, split_type="all")
    info = desk.service.info(*desk.at, AMY)
    assert info.splits == (split,)
    assert [(t.tag, t.count, t.reasoning_count, t.high_quality_count) for t in info.tags] == [
        ("fine_tune_a", 3, 2, 2),
        ("fine_tune_b", 1, 1, 1),
    ]
    assert isinstance(info.tags[0], TagCounts) and info.tags[0].reasoning_and_high_quality_count == 1


def test_samples_come_a_few_at_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.projects.service.FEW", 4)
    for number in range(10):
        desk.add(f"q{number}")
    split = desk.service.create_split(*desk.at, AMY, split_type="all")
    rest = desk.service.samples(*desk.at, split.id, "all", AMY)
    first = [next(rest).id for _ in range(4)]
    gone = split.contents["all"][9]
    desk.service.delete_run(*desk.at, gone, AMY)
    assert first == list(split.contents["all"][:4])
    with pytest.raises(Invalid, match=gone):
        list(rest)


_CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
