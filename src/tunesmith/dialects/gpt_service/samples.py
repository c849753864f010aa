"""``/samples``, an addition to the document: the sample data that ships, and what a first run on it looks like."""

from collections.abc import Sequence
from itertools import islice
from typing import Literal, cast

from fastapi import APIRouter
from typing_extensions import TypedDict

from tunesmith.datasets.example import Example
from tunesmith.datasets.samples import SampleFile, install_samples, sample_files
from tunesmith.dialects.gpt_service.runs import in_words
from tunesmith.http.described import described
from tunesmith.kernel.home import Home
from tunesmith.training.first_recipe import SUITS

_SHOWN = 6  # examples and questions, of either language


class SampleData(TypedDict):
    """One sample file; ``installed`` is whether it lies at ``dataset_path``."""

    role: str
    dataset_path: str
    rows: int
    installed: bool


class _Asked(TypedDict):
    language: Literal["zh", "en"]
    question: str


class SampleExample(_Asked):
    """What is learned of the sample data."""

    answer: str


class SampleQuestion(_Asked):
    """What can be asked afterwards."""

    expected: str


class SampleRun(TypedDict):
    """The body of a ``POST /train`` that learns the sample data."""

    base_model: str
    dataset_path: str
    replay_path: str
    replay_share: float
    num_epochs: int
    batch_size: int
    learning_rate: float
    warmup_ratio: float
    max_length: int
    lora_r: int
    lora_alpha: float
    lora_dropout: float


class Samples(TypedDict):
    """The sample data; ``installed`` is whether all of it lies under home."""

    installed: bool
    files: list[SampleData]
    examples: list[SampleExample]
    questions: list[SampleQuestion]
    train: SampleRun


class SamplesInstalled(Samples):
    """The sample data, now under home."""

    status: Literal["success"]


def build(home: Home) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/samples", tags=["samples"])

    @routes.get("", **described(Samples))
    def samples() -> Samples:
        """The sample files and whether they are in place, some of their examples, the body of a ``POST /train`` that
        learns them, and questions to ask afterwards in words that were not trained on."""
        return _shown(sample_files(home))

    @routes.post("", **described(SamplesInstalled))
    def install() -> SamplesInstalled:
        """Put the sample files under ``data/samples``, where they are missing or differ."""
        install_samples(home)
        return {"status": "success", **_shown(sample_files(home))}

    return routes


def _shown(found: Sequence[SampleFile]) -> Samples:
    name = {each.role: each.name for each in found}
    holds = {each.role: each.examples() for each in found}
    return {
        "installed": all(each.installed for each in found),
        "files": [
            {"role": each.role, "dataset_path": each.name, "rows": len(holds[each.role]), "installed": each.installed}
            for each in found
        ],
        "examples": [{**_asked(example), "answer": example.completion} for example in _some(holds["train"])],
        "questions": [{**_asked(example), "expected": example.completion} for example in _some(holds["test"])],
        "train": cast(
            SampleRun,
            {
                **in_words(("base_model", "replay_share", *SUITS)),
                "dataset_path": name["train"],
                "replay_path": name["general"],
            },
        ),
    }


def _asked(example: Example) -> _Asked:
    return {"language": _language(example), "question": example.prompt[-1].content}


def _some(examples: Sequence[Example]) -> list[Example]:
    """As many of either language, spread evenly over all of them."""
    found: list[Example] = []
    for language in ("zh", "en"):
        spoken = [example for example in examples if _language(example) == language]
        found += islice(spoken[:: max(1, len(spoken) // _SHOWN)], _SHOWN)
    return found


def _language(example: Example) -> Literal["zh", "en"]:
    return "zh" if any("\u4e00" <= character <= "\u9fff" for character in example.prompt[-1].content) else "en"
