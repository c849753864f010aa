"""``/models`` and below."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from tunesmith.dialects.platform_v1.catalog import Catalog, Entry
from tunesmith.dialects.platform_v1.openapi import NOTE, example, failures, links, written
from tunesmith.dialects.platform_v1.wire import Answer, Body, Time, megabytes, now, time
from tunesmith.http.door import caller_of
from tunesmith.http.errors import language_of
from tunesmith.training.service import TrainingService


class ListedModel(Answer):
    id: str
    name: str
    path: str
    base_model: str
    created_at: Time
    size_mb: float
    description: str


class ModelList(Answer):
    models: list[ListedModel]
    count: int
    timestamp: Time


class Detail(ListedModel):
    """``training_config`` and ``metrics`` hold what is known: an adapter made elsewhere tells only its rank."""

    training_config: dict[str, Any]
    metrics: dict[str, float]
    last_used: Time | None
    usage_count: int


class Description(Body):
    model_config = example({"description": "基于DeepSeek-R1 1.5B模型微调的通用问答模型"})

    description: Annotated[str, Field(max_length=2000), written(NOTE)]


_LISTED = links(get_model=("model_id", "models/0/id"), describe_model=("model_id", "models/0/id"))


def routes(catalog: Catalog, training: TrainingService) -> APIRouter:
    """List, detail, and the description, which may be edited (an addition to the document)."""
    router = APIRouter(prefix="/models", tags=["models"])

    @router.get("", response_model=ModelList, responses={**_LISTED, **failures()})
    def list_models(request: Request) -> ModelList:
        """Adapters, the newest first, then base models."""
        language = language_of(request.headers)
        found = [ListedModel(**_listed(each, language)) for each in catalog.list(caller_of(request))]
        return ModelList(models=found, count=len(found), timestamp=now())

    @router.get("/{model_id}", response_model=Detail, responses=failures(404))
    def get_model(request: Request, model_id: str) -> Detail:
        """How it was trained, its figures, and how often it was asked."""
        return _detail(catalog.get(model_id, caller_of(request)), training, language_of(request.headers))

    @router.patch("/{model_id}", response_model=Detail, responses=failures(403, 404))
    def describe_model(request: Request, model_id: str, body: Description) -> Detail:
        """Change the description; for who trained the model, and for admins."""
        entry = catalog.describe(model_id, body.description, caller_of(request))
        return _detail(entry, training, language_of(request.headers))

    return router


def _listed(entry: Entry, language: str) -> dict[str, Any]:
    return {
        "id": entry.id,
        "name": entry.name,
        "path": entry.path,
        "base_model": entry.base,
        "created_at": time(entry.created_at),
        "size_mb": megabytes(entry.size_bytes),
        "description": entry.description if entry.description is not None else _default_description(entry, language),
    }


def _detail(entry: Entry, training: TrainingService, language: str) -> Detail:
    return Detail(
        **_listed(entry, language),
        training_config=_training_config(entry),
        metrics=training.final_metrics(entry.run) if entry.run else {},
        last_used=time(entry.usage.last_used) if entry.usage.last_used else None,
        usage_count=entry.usage.count,
    )


def _default_description(entry: Entry, language: str) -> str:
    if entry.adapter is None:
        return "基座模型" if language == "zh" else "base model"
    if language == "zh":
        return f"基于 {entry.base} 微调的模型" + (f"，数据集 {entry.data}" if entry.data else "")
    return f"tuned from {entry.base}" + (f" on {entry.data}" if entry.data else "")


def _training_config(entry: Entry) -> dict[str, Any]:
    if entry.run is None:
        return {"lora_r": entry.adapter.rank} if entry.adapter else {}
    recipe = entry.run.recipe
    return {
        "learning_rate": recipe.learning_rate,
        "batch_size": recipe.batch_size,
        "num_epochs": recipe.epochs,
        "lora_r": recipe.rank,
        "lora_alpha": int(recipe.alpha) if recipe.alpha.is_integer() else recipe.alpha,
        "lora_dropout": recipe.dropout,
        "quantization": recipe.quantization,
        "dataset_path": entry.data,
    }
