"""What the paths under ``/datasets`` answer, as OpenAPI tells it."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from tunesmith.dialects.gpt_service.model_answers import Success
from tunesmith.training.data.findings import Finding, Part


class DatasetShown(TypedDict):
    """A kept dataset, an uploaded file or a sample file.

    ``dataset_path`` is what it is called where a dataset is asked for, ``POST /train`` for one; ``shape`` is null where it
    was not looked for or nobody can tell; ``skipped`` rows could not be read; ``splits``: rows of each; ``created_at`` in
    ISO 8601, null of a sample file.
    """

    id: str
    kind: Literal["dataset", "upload", "sample"]
    name: str
    dataset_path: str
    format: str
    shape: str | None
    examples: int
    skipped: int
    splits: dict[str, int]
    size_bytes: int
    description: str
    created_at: str | None


class DatasetList(TypedDict):
    datasets: list[DatasetShown]
    total_count: int


class RowTurn(TypedDict):
    role: str
    content: str


class RowProblem(TypedDict):
    """Why a row cannot be trained on: ``field`` is a path inside it, ``zh`` and ``en`` are the reason and the remedy."""

    field: str
    zh: str
    en: str


class DatasetRow(TypedDict):
    """A row, and its ``line`` in the file, from 1: a conversation, a preference or a problem."""

    line: int
    messages: NotRequired[list[RowTurn]]
    chosen: NotRequired[list[RowTurn]]
    rejected: NotRequired[list[RowTurn]]
    problem: NotRequired[RowProblem]


class DatasetRows(TypedDict):
    """Rows from ``offset`` on; ``total_count`` is of the whole part."""

    shape: str
    offset: int
    total_count: int
    rows: list[DatasetRow]


class InBothLanguages(TypedDict):
    zh: str
    en: str


class DataReport(TypedDict):
    """What was found in data that would be trained on; lengths in tokens.

    ``ok``: a run could start on it; ``line``: everything that matters in one line; ``ends``: the tokens that end a learned
    answer, the commonest first; ``findings``: the first of each kind in each part.
    """

    ok: bool
    line: InBothLanguages
    base: str
    max_length: int
    template_sha256: str
    ends: list[str]
    parts: list[Part]
    findings: list[Finding]


class MaskPiece(TypedDict):
    """Text that is learned or not, cut off or not, from one end to the other."""

    text: str
    learned: bool
    cut: bool


class MaskedRow(TypedDict):
    """A row as the model sees it: ``tokens`` of all of it, those that are ``learned``, and which ``answer`` of a preference
    it is; ``shortened`` where text is left out of the end of ``pieces``."""

    file: str
    line: int
    tokens: int
    learned: int
    pieces: list[MaskPiece]
    answer: Literal["", "chosen", "rejected"]
    shortened: bool


class MaskPreview(TypedDict):
    """``max_length``: tokens behind which a row is cut."""

    max_length: int
    preview: list[MaskedRow]


class DatasetSplit(TypedDict):
    status: Success
    dataset: DatasetShown


class DatasetProcessed(TypedDict):
    """``duplicates``: rows that say exactly what another says; ``leaks``: rows whose prompt stands in an earlier split."""

    status: Success
    dataset: DatasetShown
    duplicates: int
    leaks: int


class DatasetRemoved(TypedDict):
    status: Success
    id: str
    name: str
