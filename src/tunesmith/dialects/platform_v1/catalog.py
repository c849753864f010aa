"""Models as this document sees them: adapters and bases with ids, their run's settings and figures, their use."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

from tunesmith.dialects.platform_v1.wire import name_under_home
from tunesmith.inference.served import ServedModels
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.problems import Forbidden, NotFound, Problem
from tunesmith.models.model import Adapter, BaseModel, Model, model_id
from tunesmith.models.notes import ModelNotes, Note, Usage
from tunesmith.models.registry import Registry
from tunesmith.training.run import Run
from tunesmith.training.service import TrainingService


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of this machine.

    Attributes:
        path: its wire name: the adapter's, or a bare base's.
        run: the run that made the adapter, if it was made here.
        data: what it was trained on, for who may know.
    """

    path: str
    base: str
    created_at: datetime
    size_bytes: int
    description: str | None
    usage: Usage
    adapter: Adapter | None
    run: Run | None
    data: str | None

    @property
    def id(self) -> str:
        return model_id(self.path)

    @property
    def name(self) -> str:
        """The folder's name, or the one above where that is only ``final``."""
        path = PurePosixPath(self.path)
        return path.parent.name if path.name == "final" and path.parent.name else path.name


class Catalog:
    """Finds models by id or path.

    Args:
        training_base: the base model a run without ``base_model`` tunes; None for the current one.
    """

    def __init__(
        self,
        registry: Registry,
        served: ServedModels,
        training: TrainingService,
        notes: ModelNotes,
        training_base: str | None = None,
    ) -> None:
        self._registry, self._served, self._training, self._notes = registry, served, training, notes
        self._training_base = training_base

    def list(self, caller: Caller) -> list[Entry]:
        """Adapters, the newest first, then base models."""
        notes = self._notes.all()
        known: tuple[Adapter | BaseModel, ...] = (*self._registry.adapters(), *self._registry.bases())
        return [self._entry(each, notes, caller) for each in known]

    def get(self, model_id: str, caller: Caller) -> Entry:
        """The model of that id.

        Raises:
            NotFound: there is none.
        """
        return self._entry(self._registry.with_id(model_id), self._notes.all(), caller)

    def describe(self, model_id: str, text: str, caller: Caller) -> Entry:
        """Change what is said of the model.

        Raises:
            NotFound: there is none. Forbidden: neither the caller's run made it, nor are they an admin.
        """
        entry = self.get(model_id, caller)
        if not caller.admin and (entry.run is None or not caller.sees(entry.run.owner)):
            raise Forbidden("只有训练者本人或管理员可以修改", "only who trained it, or an admin, may change this")
        self._notes.describe(entry.path, text)
        return self.get(model_id, caller)

    def model_for(self, path: str | None, caller: Caller) -> Model:
        """The model a request means: the path or id it names; else the caller's newest run's, else the current one.

        Raises:
            NotFound, Invalid, Conflict: no such model, or it cannot be used.
        """
        if path:
            if path.startswith("model_"):
                try:
                    return _model(self._registry.with_id(path))
                except NotFound:
                    pass  # a folder may be called so
            return self._served.get(name_under_home(path)).model
        for run in self._training.latest_completed(caller):
            try:
                adapter = self._registry.adapter(run.output)
                model = Model(adapter.base, adapter.name)
                self._registry.check(model)
            except Problem:
                continue  # it was deleted or replaced since
            return model
        return self._served.current().model

    def base_for(self, name: str | None) -> BaseModel:
        """The base model a run tunes."""
        return self._registry.base(name or self._training_base or self._served.current().model.base)

    def _entry(self, found: Adapter | BaseModel, notes: Mapping[str, Note], caller: Caller) -> Entry:
        adapter = found if isinstance(found, Adapter) else None
        run = self._training.of_output(found.name) if adapter else None
        note = notes.get(found.name, Note())
        return Entry(
            path=found.name,
            base=adapter.base if adapter else found.name,
            created_at=_created(found),
            size_bytes=found.size_bytes,
            description=note.description,
            usage=note.usage,
            adapter=adapter,
            run=run,
            data=run.recipe.dataset if run and caller.sees(run.owner) else None,
        )


def _model(found: Adapter | BaseModel) -> Model:
    return Model(found.base, found.name) if isinstance(found, Adapter) else Model(found.name)


def _created(found: Adapter | BaseModel) -> datetime:
    moment = found.created_at if isinstance(found, Adapter) else (found.path / "config.json").stat().st_mtime
    return datetime.fromtimestamp(moment, UTC)
