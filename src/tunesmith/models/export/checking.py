"""``python -m tunesmith.models.export.checking``: ask our model and the exported one the same, and compare (torch)."""

from importlib.metadata import version
from pathlib import Path

import msgspec
import torch

from tunesmith.models.export import answers, children, llama
from tunesmith.models.export.adapter import read_adapter
from tunesmith.models.export.answers import Speaker, Tokens
from tunesmith.models.export.parity import BOUNDS, END, Answer, Parity, Task, compared
from tunesmith.models.export.tensors import read_json
from tunesmith.models.model import Adapter

_ROOM = 64  # tokens that a question may come to more in llama.cpp than in transformers


def check(task: Task) -> Parity:
    """The outcome of ``task``.

    Raises:
        Problem: one of the two cannot be asked.
    """
    torch.set_num_threads(task.check.threads)
    with torch.inference_mode():
        return _checked(task)


def _checked(task: Task) -> Parity:
    base = Path(task.base)
    tokens = Tokens(base)
    prompts = [tokens.prompt(messages) for messages in task.check.questions]
    most = _fitting(base, prompts, task.check.max_tokens)
    theirs, against = _theirs(task, tokens, prompts, most)
    model = answers.with_ours(answers.loaded(base), read_adapter(_adapter(task)))
    speaker = Speaker(model, tokens.ends)
    ours = [speaker.answer(prompt, most) for prompt in prompts]
    rounded = task.type if answers.computes_in_float32(model) or task.type == "q8_0" else "bf16"

    def margin(row: int, place: int) -> float:
        return speaker.margin(prompts[row], ours[row].tokens, theirs[row].tokens, place)

    with answers.bare(model):
        plain = [speaker.scores(answer) for answer in ours]
    figures = compared(ours, theirs, plain, bound=BOUNDS[rounded], margin=margin, text=tokens.text)
    return msgspec.structs.replace(
        figures, against=against, dataset=task.check.dataset, max_tokens=most, weights=task.type
    )


def _theirs(task: Task, tokens: Tokens, prompts: list[list[int]], most: int) -> tuple[list[Answer], str]:
    """What the export answers, and what read it."""
    folder = Path(task.folder)
    if task.form in ("gguf", "ollama"):
        order = llama.Order(
            model=str(folder / task.model),
            lora=str(folder / task.lora) if task.lora else None,
            context=max(map(len, prompts)) + most + _ROOM,
            threads=task.check.threads,
            max_tokens=most,
            questions=task.check.questions,
            as_chat=tokens.has_template,
        )
        given = children.asked("tunesmith.models.export.llama", order, list[Answer], threads=task.check.threads)
        return [ended(answer, tokens.ends) for answer in given], f"llama.cpp (xllamacpp {version('xllamacpp')})"
    if task.form == "merged":
        own = Tokens(folder)
        speaker = Speaker(answers.loaded(folder), own.ends)
        asked = [own.prompt(messages) for messages in task.check.questions]
        return [speaker.answer(prompt, most) for prompt in asked], (f"transformers {version('transformers')}")
    speaker = Speaker(answers.with_peft(answers.loaded(Path(task.base)), folder), tokens.ends)
    return [speaker.answer(prompt, most) for prompt in prompts], f"peft {version('peft')}"


def ended(answer: Answer, ends: frozenset[int]) -> Answer:
    """The answer without the token that ended it, which llama.cpp gives too; one that ends nothing here stays."""
    said = answer.tokens
    if said[-1:] != [END] or not set(said[-2:-1]) & ends:
        return answer
    return Answer(answer.prompt, [*said[:-2], END], answer.scores)


def _fitting(base: Path, prompts: list[list[int]], most: int) -> int:
    """Tokens an answer may have so that the longest question and it fit the model."""
    context = read_json(base / "config.json").get("max_position_embeddings")
    longest = max(map(len, prompts))
    return most if not isinstance(context, int) else max(1, min(most, context - longest))


def _adapter(task: Task) -> Adapter:
    return Adapter(task.adapter_name, Path(task.adapter), "", 0, 0, 0.0, "")


if __name__ == "__main__":
    children.answer(Task, check)
