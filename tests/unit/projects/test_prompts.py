"""System messages are letter for letter those of Kiln's prompt builders."""

import pytest

from tests.unit.projects.conftest import AMY, Desk
from tunesmith.kernel.problems import Invalid, NotFound

RULES = "Your response should respect the following requirements:\n1) Be polite\n2) Be short\n"


@pytest.fixture
def ruled(desk: Desk) -> Desk:
    desk.service.edit_task(*desk.at, {"requirements": ["Be polite", "Be short"]}, AMY)
    return desk


def said(desk: Desk, generator: str) -> str:
    return desk.service.system_message(*desk.at, generator, AMY)


def test_the_simple_one_is_the_instruction_with_its_requirements(ruled: Desk) -> None:
    ruled.add(rating=5)
    assert said(ruled, "simple_prompt_builder") == f"You help.\n\n{RULES}"
    assert said(ruled, "simple_chain_of_thought_prompt_builder") == f"You help.\n\n{RULES}"
    ruled.service.edit_task(*ruled.at, {"requirements": []}, AMY)
    assert said(ruled, "simple_prompt_builder") == "You help."


def test_without_good_examples_there_is_no_section_of_them(ruled: Desk) -> None:
    ruled.add(rating=3)
    ruled.add(rating=1, rating_type="pass_fail", input="parent")
    ruled.add(parent_id=ruled.service.runs(*ruled.at, AMY)[1].id)
    assert said(ruled, "few_shot_prompt_builder") == f"# Instruction\n\nYou help.\n\n# Requirements\n\n{RULES}\n"


def test_repaired_examples_come_first_then_the_best_rated(desk: Desk) -> None:
    desk.add("four", "4", rating=4)
    desk.add("five", "5", rating=5)
    desk.add("mended", "bad", repaired="good", repair_instructions="mend it", rating=1)
    shots = ["Input: mended\nOutput: good", "Input: five\nOutput: 5", "Input: four\nOutput: 4"]
    examples = "".join(f"## Example {number}\n\n{shot}\n\n" for number, shot in enumerate(shots, 1))
    expected = f"# Instruction\n\nYou help.\n\n# Example Outputs\n\n{examples}"
    for generator in ("few_shot_prompt_builder", "multi_shot_chain_of_thought_prompt_builder"):
        assert said(desk, generator) == expected
    mended = (
        "Input: mended\n\nInitial Output Which Was Insufficient: bad\n\n"
        "Instructions On How to Improve the Initial Output: mend it\n\nRepaired Output Which is Sufficient: good"
    )
    assert said(desk, "repairs_prompt_builder") == expected.replace(shots[0], mended)


@pytest.mark.parametrize(("generator", "most"), [("few_shot_prompt_builder", 4), ("multi_shot_prompt_builder", 25)])
def test_so_many_examples_and_no_more(desk: Desk, generator: str, most: int) -> None:
    for number in range(27):
        desk.add(f"q{number}", rating=5, **({"repaired": "x"} if number < 2 else {}))
    assert said(desk, generator).count("## Example ") == most


def test_unknown_and_saved_generators_are_told_apart(desk: Desk) -> None:
    with pytest.raises(Invalid) as unknown:
        said(desk, "nope")
    words = "Error generating system message using generator: nope. Source error: Unknown prompt generator: nope"
    assert unknown.value.en.startswith(words)
    for saved in ("id::5", "task_run_config::1::2::3", "fine_tune_prompt::1::2::3"):
        with pytest.raises(NotFound, match=f"Prompt ID not found: {saved}"):
            said(desk, saved)
