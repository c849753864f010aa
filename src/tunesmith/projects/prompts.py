"""System messages made from a task and its examples, letter for letter as Kiln's prompt builders make them."""

from collections.abc import Callable, Sequence

from tunesmith.kernel.problems import Invalid, NotFound
from tunesmith.projects.checks import shown
from tunesmith.projects.project import Task, TaskRun

Examples = Callable[[int], Sequence[TaskRun]]  # the best ones, at most so many
_FEW, _MANY = 4, 25
_RULES = "Your response should respect the following requirements:\n"
# what a chain of thought adds is said to the model later, not in the system message
_SHOTS = {
    "few_shot_prompt_builder": _FEW,
    "few_shot_chain_of_thought_prompt_builder": _FEW,
    "multi_shot_prompt_builder": _MANY,
    "multi_shot_chain_of_thought_prompt_builder": _MANY,
    "repairs_prompt_builder": _MANY,
}
_SIMPLE = ("simple_prompt_builder", "simple_chain_of_thought_prompt_builder")
_SAVED = ("id::", "task_run_config::", "fine_tune_prompt::")
GENERATORS = (*_SIMPLE, *_SHOTS)


def system_message(task: Task, generator: str, examples: Examples) -> str:
    """The text that ``generator`` makes.

    Raises:
        Invalid: there is no such generator.
        NotFound: it names a saved prompt, a run configuration or a fine-tune, which are not kept here.
    """
    if generator in _SIMPLE:
        return _simple(task)
    if generator in _SHOTS:
        repairs = generator == "repairs_prompt_builder"
        shots = [_example(number, run, repairs) for number, run in enumerate(examples(_SHOTS[generator]), 1)]
        return _opening(task) + ("# Example Outputs\n\n" if shots else "") + "".join(shots)
    name = shown(generator)
    if isinstance(generator, str) and generator.startswith(_SAVED):
        zh, en = _why(name, f"找不到已保存的提示词：{name}", f"Prompt ID not found: {name}")
        raise NotFound(zh, en, field="system_message_generator")
    zh, en = _why(name, f"未知的提示词生成器：{name}", f"Unknown prompt generator: {name}")
    raise Invalid(zh, en, field="system_message_generator", known=list(GENERATORS))


def _why(name: str, zh: str, en: str) -> tuple[str, str]:
    known = ", ".join(GENERATORS)
    return (
        f"无法用 {name} 生成系统消息：{zh}；可用：{known}，或给出 custom_system_message",
        f"Error generating system message using generator: {name}. Source error: {en}"
        f" (use one of {known}, or give custom_system_message)",
    )


def _simple(task: Task) -> str:
    if not task.requirements:
        return task.instruction
    return f"{task.instruction}\n\n{_RULES}{_numbered(task)}"


def _opening(task: Task) -> str:
    rules = f"# Requirements\n\n{_RULES}{_numbered(task)}\n" if task.requirements else ""
    return f"# Instruction\n\n{task.instruction}\n\n{rules}"


def _numbered(task: Task) -> str:
    return "".join(f"{number}) {rule}\n" for number, rule in enumerate(task.requirements, 1))


def _example(number: int, run: TaskRun, repairs: bool) -> str:
    if repairs and run.repaired and run.repair_instructions:
        return (
            f"## Example {number}\n\nInput: {run.input}\n\n"
            f"Initial Output Which Was Insufficient: {run.output}\n\n"
            f"Instructions On How to Improve the Initial Output: {run.repair_instructions}\n\n"
            f"Repaired Output Which is Sufficient: {run.repaired}\n\n"
        )
    return f"## Example {number}\n\nInput: {run.input}\nOutput: {run.final}\n\n"
