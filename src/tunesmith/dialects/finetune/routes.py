"""The finetune document as an application: ``/api/finetune``."""

from dataclasses import dataclass, field

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError

from tunesmith.datasets.export.service import ExportService
from tunesmith.datasets.uploads import UploadService
from tunesmith.dialects.finetune import (
    datasets,
    deployments,
    examples,
    info,
    jobs,
    openapi,
    projects,
    providers,
    splits,
    wire,
)
from tunesmith.dialects.finetune.turns import Turns
from tunesmith.http import errors
from tunesmith.http.door import Door
from tunesmith.http.rates import Kind
from tunesmith.kernel.home import Home
from tunesmith.projects.service import ProjectService
from tunesmith.training.hosted.catalog import Catalog
from tunesmith.training.hosted.deployments import DeploymentService
from tunesmith.training.jobs.service import JobService

_FORM_BYTES = 1 << 20  # what a form holds beside its file


@dataclass(frozen=True, slots=True)
class Services:
    """What this dialect calls.

    Attributes:
        may_read: raises NotFound for the name of a file or folder that the caller may not see.
        turns: what reads whole datasets takes; the same for everybody.
    """

    home: Home
    may_read: projects.MayRead
    uploads: UploadService
    exports: ExportService
    projects: ProjectService
    jobs: JobService
    catalog: Catalog
    deployments: DeploymentService
    max_upload_bytes: int
    turns: Turns = field(default_factory=Turns)


def kind_of(method: str, path: str) -> Kind:
    """Which limit a request counts on, where requests are counted at all."""
    makes_a_job = path == "/jobs" or (path.startswith("/projects/") and path.endswith("/finetunes"))
    return "training" if method == "POST" and makes_a_job else "other"


def build(services: Services, door: Door) -> FastAPI:
    """The dialect as an application to mount at ``/api/finetune``; ``door`` decides who may enter, and how often."""
    app = FastAPI(
        title="Tunesmith: fine-tuning",
        version="1",
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    errors.install(
        app, wire.respond, max_body=lambda method, path: _max_body(method, path, services.max_upload_bytes), door=door
    )
    app.add_exception_handler(RequestValidationError, wire.malformed)
    app.include_router(providers.routes(services.catalog))
    app.include_router(datasets.routes(services.exports, services.uploads, services.turns))
    app.include_router(jobs.routes(services.jobs, services.turns))
    app.include_router(deployments.routes(services.deployments))
    app.include_router(projects.routes(services.projects, services.home, services.may_read))
    app.include_router(examples.routes(services.projects, services.uploads, services.home, services.max_upload_bytes))
    app.include_router(splits.routes(services.projects, services.exports, services.turns))
    app.include_router(info.routes(services.projects, services.jobs))
    openapi.install(app)
    return app


def _max_body(method: str, path: str, max_upload_bytes: int) -> int:
    takes_a_file = path == "/upload-dataset" or (path.startswith("/projects/") and path.endswith("/runs/bulk_upload"))
    return max_upload_bytes + _FORM_BYTES if method == "POST" and takes_a_file else errors.MAX_BODY_BYTES
