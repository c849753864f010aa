"""The platform-v1 document as an application: ``/api/v1``."""

from dataclasses import dataclass

from fastapi import FastAPI

from tunesmith.accounts.service import AccountService
from tunesmith.datasets.service import DatasetService
from tunesmith.datasets.uploads import UploadService
from tunesmith.dialects.platform_v1 import datasets, generation, login, models, openapi, training, wire
from tunesmith.dialects.platform_v1.catalog import Catalog
from tunesmith.http import errors
from tunesmith.http.door import Door
from tunesmith.http.rates import Kind
from tunesmith.inference.chat import Chat
from tunesmith.training.service import TrainingService

OPEN = frozenset({("POST", "/login")})  # all else wants a token, also what does not exist
_LOGIN_BYTES = 16 << 10
_FORM_BYTES = 1 << 20  # what a form holds beside its file


@dataclass(frozen=True, slots=True)
class Services:
    """What this dialect calls."""

    accounts: AccountService
    training: TrainingService
    chat: Chat
    catalog: Catalog
    datasets: DatasetService
    uploads: UploadService
    max_upload_bytes: int


def kind_of(method: str, path: str) -> Kind:
    """Which of the document's three limits a request counts on."""
    if (method, path) == ("POST", "/train"):
        return "training"
    return "inference" if path in ("/generate", "/generate/batch") else "other"


def build(services: Services, door: Door) -> FastAPI:
    """The dialect as an application to mount at ``/api/v1``; ``door`` decides who may enter, and how often."""
    app = FastAPI(
        title="Tunesmith: platform",
        version="1",
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    errors.install(
        app,
        errors.in_json(wire.error),
        max_body=lambda method, path: _max_body(path, services.max_upload_bytes),
        door=door,
    )
    app.include_router(login.routes(services.accounts))
    app.include_router(training.routes(services.training, services.datasets, services.catalog))
    app.include_router(generation.routes(services.chat, services.catalog))
    app.include_router(models.routes(services.catalog, services.training))
    app.include_router(datasets.routes(services.datasets, services.uploads))
    openapi.install(app, OPEN)
    return app


def _max_body(path: str, max_upload_bytes: int) -> int:
    if path == "/login":  # anybody may ask, so anybody could fill the memory
        return _LOGIN_BYTES
    return max_upload_bytes + _FORM_BYTES if path == "/datasets/upload" else errors.MAX_BODY_BYTES
