"""Projects, tasks, examples of a task and splits of them: plain values, in Kiln's words.

Source: the data model of Kiln 1.2 as ``kiln-ai`` on PyPI shows it; ids are twelve decimal digits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A container of tasks."""

    id: str
    name: str
    owner: str
    created_at: datetime
    description: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What examples are examples of.

    Attributes:
        instruction: what the model is told to do; the system message builders begin with it.
        requirements: instructions that every answer should respect, in order.
        thinking_instruction: how to think before answering; None leaves the default.
        input_schema, output_schema: JSON text of JSON schemas; None where input or output is plain text.
    """

    id: str
    project_id: str
    name: str
    instruction: str
    created_at: datetime
    description: str | None = None
    requirements: tuple[str, ...] = ()
    thinking_instruction: str | None = None
    input_schema: str | None = None
    output_schema: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """One example of a task: what was asked, what was answered, and what a person thought of it.

    Attributes:
        input: verbatim; of a structured task its JSON text, not re-formatted.
        output: the first answer.
        repaired: the answer that replaced it; None where it stands.
        repair_instructions: what was wrong with the first one.
        reasoning, chain_of_thought: what was thought before the answer.
        rating: 1 to 5 stars, or 0 and 1 for fail and pass, see ``rating_type``.
        rating_type: "five_star", "pass_fail" or "pass_fail_critical".
        parent_id: the run this one goes on from, in a conversation of several turns.
        trace: OpenAI messages of the whole conversation, where tools were called or turns came before.
        tools: definitions of the tools it was made with, as OpenAI writes them.
    """

    id: str
    task_id: str
    input: str
    output: str
    created_at: datetime
    repaired: str | None = None
    repair_instructions: str | None = None
    reasoning: str | None = None
    chain_of_thought: str | None = None
    rating: float | None = None
    rating_type: str | None = None
    tags: tuple[str, ...] = ()
    parent_id: str | None = None
    trace: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def final(self) -> str:
        """The answer that counts: the repaired one where there is one."""
        return self.output if self.repaired is None else self.repaired

    @property
    def thinking(self) -> str | None:
        """Reasoning where it says something, else the chain of thought, which may be blank."""
        return self.reasoning or self.chain_of_thought


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitPart:
    """One part of a split: "train", "test", "val" or "all", or a name of the caller's.

    Attributes:
        percentage: of the examples, in [0, 1]; those of a split add up to 1.
    """

    name: str
    percentage: float
    description: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSplit:
    """Which examples belong to which part, frozen when it was made.

    Attributes:
        contents: ids of task runs, by the part's name, in the order of a file that is made of them.
        filter: which examples were taken, as Kiln writes filters: "all", "tag::gold", "multi_filter::a&b".
        seed: examples are dealt by a hash of it and their id, so that more examples do not move old ones.
        warnings: what a person should know before training on it, Chinese and English.
    """

    id: str
    task_id: str
    name: str
    filter: str
    seed: int
    parts: tuple[SplitPart, ...]
    contents: Mapping[str, tuple[str, ...]]
    created_at: datetime
    description: str | None = None
    warnings: tuple[tuple[str, str], ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class TagCounts:
    """How many examples wear a tag that begins with ``fine_tune``; parents of other runs are not counted.

    Attributes:
        reasoning_count: of them, those with thinking data.
        high_quality_count: of them, those that are repaired or highly rated.
    """

    tag: str
    count: int
    reasoning_count: int
    high_quality_count: int
    reasoning_and_high_quality_count: int


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What a fine-tune of a task can be made from: its splits, and its tags by name."""

    splits: tuple[DatasetSplit, ...]
    tags: tuple[TagCounts, ...]


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file brought.

    Attributes:
        filename: the client's, for showing.
        runs: how many task runs were added.
        conversations: how many of them hold a conversation of several turns; None where none does.
    """

    filename: str
    runs: int
    conversations: int | None
