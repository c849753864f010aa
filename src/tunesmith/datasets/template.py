"""Prompt templates: literal placeholders, put in once; nothing in a template or a value is ever interpreted.

``### Question:\n{instruction}\n\n### Answer:\n{response}`` has the question as the user's turn, up to ``{response}``,
and the answer with what follows as the assistant's.
"""

import re
from dataclasses import dataclass

from tunesmith.datasets.example import Message, Source
from tunesmith.datasets.formats import BadRow, to_example
from tunesmith.kernel.home import UNPRINTABLE
from tunesmith.kernel.problems import Invalid

MOST_CHARACTERS = 20_000
_KNOWN = ("instruction", "input", "response")
# a word in braces, alone or with what str.format would make of it; JSON in a template has quotes
_PLACEHOLDER = re.compile(r"\{\s*+(\w++)(\s*+(?:[.!:\[][^{}]*+)?)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A template that was checked.

    Attributes:
        asked, answered: pieces of the two turns; every second one, from the second, is the name of a placeholder.
    """

    asked: tuple[str, ...]
    answered: tuple[str, ...]

    @staticmethod
    def parse(text: str) -> "Template":
        """The template in ``text``.

        Raises:
            Invalid: it is too long, holds control characters or unknown placeholders, has not exactly one
                ``{response}``, or no ``{instruction}`` before it.
        """
        if len(text) > MOST_CHARACTERS:
            raise _refused(
                f"最多 {MOST_CHARACTERS} 个字符，得到 {len(text)} 个",
                f"at most {MOST_CHARACTERS} characters, got {len(text)}",
            )
        if UNPRINTABLE.search(re.sub(r"[\t\r\n]", " ", text)):
            raise _refused("含有控制字符", "it holds control characters")
        for found in _PLACEHOLDER.finditer(text):
            plain = found[0] == f"{{{found[1]}}}"
            # {x: 1} may be code to be trained on, but {instruction:>9} is meant as a placeholder, and is none
            if plain != (found[1] in _KNOWN):
                shown = found[0][:60]
                raise _refused(
                    f"未知的占位符 {shown}，只有 {{instruction}}、{{input}}、{{response}}",
                    f"unknown placeholder {shown}; there are {{instruction}}, {{input}} and {{response}}",
                    placeholder=shown,
                )
        if (count := text.count("{response}")) != 1:
            raise _refused(f"应恰有一个 {{response}}，得到 {count} 个", f"exactly one {{response}}, got {count}")
        asked, answered = text.split("{response}")
        if "{instruction}" not in asked:
            raise _refused("{response} 之前应有 {instruction}", "{instruction} must stand before {response}")
        if "{instruction}" in answered or "{input}" in answered:
            raise _refused(
                "{response} 之后不能再有占位符：那会成为要学的回答",
                "no placeholder may follow {response}: it would become part of the answer",
            )
        return Template(tuple(re.split(r"\{(instruction|input)\}", asked)), (answered,))

    def filled(self, instruction: str, given: str, response: str) -> tuple[Message, Message]:
        """The two turns; placeholders inside the values stay as they are.

        A template without ``{input}`` has it below the instruction, as rows without a template have.
        """
        if given and "input" not in self.asked[1::2]:
            instruction = f"{instruction}\n{given}" if instruction else given
        values = {"instruction": instruction, "input": given}
        pieces = [values[piece] if index % 2 else piece for index, piece in enumerate(self.asked)]
        return Message("user", "".join(pieces)), Message("assistant", response + self.answered[0])


def conversation(row: object, shape: str, source: Source, template: Template | None) -> tuple[Message, ...] | BadRow:
    """The turns of ``row``, through ``template`` where there is one; or why it has none.

    Args:
        row: decoded, as it was in the file.
        shape: one of formats.SHAPES.
    """
    example = to_example(row, shape, source)
    if isinstance(example, BadRow):
        return example
    if template is None:
        return example.messages
    *system, asked, answered = example.messages
    if [turn.role for turn in system] not in ([], ["system"]) or asked.role != "user":
        zh, en = "模板只适用于单轮对话", "a template takes rows of one question and one answer"
        return BadRow(
            source, "", f"{zh}，得到 {len(example.messages)} 轮", f"{en}, got {len(example.messages)} turns", row
        )
    instruction, given = asked.content, ""
    if shape == "alpaca" and isinstance(row, dict):
        # whoever names the input in a template wants it apart; both were checked to be text
        found = row.get("input")
        given = found if isinstance(found, str) and found.strip() else ""
        instruction = row["instruction"] if given else instruction
    return (*system, *template.filled(instruction, given, answered.content))


def _refused(zh: str, en: str, **details: object) -> Invalid:
    return Invalid(f"模板无效：{zh}", f"template is not valid: {en}", field="template", **details)
