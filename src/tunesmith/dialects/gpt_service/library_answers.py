"""What ``/library`` answers, as OpenAPI tells it."""

from typing_extensions import TypedDict

from tunesmith.dialects.gpt_service.model_answers import Success


class Noted(TypedDict):
    """``usage_count``: how often the model was asked; ``last_used``: when, in ISO 8601, null where it never was."""

    description: str
    usage_count: int
    last_used: str | None


class LibraryBase(Noted):
    """A base model; ``context_length`` in tokens."""

    name: str
    architecture: str
    context_length: int
    size_bytes: int


class LibraryAdapter(Noted):
    """``version`` is its name as a version (``town@3``); ``aliases`` point at that; ``run_id``: the run that made it,
    where the caller may see it; ``editable``: whether the caller may describe it."""

    name: str
    base_model: str
    rank: int
    size_bytes: int
    created_at: str
    version: str | None
    aliases: list[str]
    run_id: str | None
    editable: bool


class LoadedModel(TypedDict):
    name: str
    base_model: str
    lora_adapter: str | None
    version: str | None
    is_current: bool


class Library(TypedDict):
    bases: list[LibraryBase]
    adapters: list[LibraryAdapter]
    loaded: list[LoadedModel]


class ModelDescribed(TypedDict):
    status: Success
    name: str
    description: str | None
