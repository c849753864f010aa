"""``/samples``, an addition to the document: the sample data that ships, and what a first run on it looks like."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from fastapi import APIRouter

from tunesmith.datasets.example import Example
from tunesmith.datasets.samples import SampleFile, install_samples, sample_files
from tunesmith.dialects.gpt_service.runs import in_words
from tunesmith.kernel.home import Home
from tunesmith.training.first_recipe import SUITS

_SHOWN = 6  # examples and questions, of either language


def build(home: Home) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/samples", tags=["samples"])

    @routes.get("")
    def samples() -> dict[str, Any]:
        """The sample files and whether they are in place, some of their examples, the body of a ``POST /train`` that
        learns them, and questions to ask afterwards in words that were not trained on."""
        return _shown(sample_files(home))

    @routes.post("")
    def install() -> dict[str, Any]:
        """Put the sample files under ``data/samples``, where they are missing or differ."""
        install_samples(home)
        return {"status": "success", **_shown(sample_files(home))}

    return routes


def _shown(found: Sequence[SampleFile]) -> dict[str, Any]:
    name = {each.role: each.name for each in found}
    holds = {each.role: each.examples() for each in found}
    return {
        "installed": all(each.installed for each in found),
        "files": [
            {"role": each.role, "dataset_path": each.name, "rows": len(holds[each.role]), "installed": each.installed}
            for each in found
        ],
        "examples": [_pair(example, "answer") for example in _some(holds["train"])],
        "questions": [_pair(example, "expected") for example in _some(holds["test"])],
        "train": {
            **in_words(("base_model", "replay_share", *SUITS)),
            "dataset_path": name["train"],
            "replay_path": name["general"],
        },
    }


def _pair(example: Example, answer: str) -> dict[str, str]:
    question = example.prompt[-1].content
    return {"language": _language(example), "question": question, answer: example.completion}


def _some(examples: Sequence[Example]) -> list[Example]:
    """As many of either language, spread evenly over all of them."""
    found: list[Example] = []
    for language in ("zh", "en"):
        spoken = [example for example in examples if _language(example) == language]
        found += islice(spoken[:: max(1, len(spoken) // _SHOWN)], _SHOWN)
    return found


def _language(example: Example) -> str:
    return "zh" if any("\u4e00" <= character <= "\u9fff" for character in example.prompt[-1].content) else "en"
