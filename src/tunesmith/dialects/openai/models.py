"""``/models`` and below: what can be asked for by name."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fastapi import APIRouter, Request

from tunesmith.dialects.openai.shapes import ModelCard, ModelCards, ModelDeleted
from tunesmith.http.described import described
from tunesmith.http.door import caller_of
from tunesmith.inference.served import Served, ServedModels
from tunesmith.inference.switchboard import provider_of
from tunesmith.kernel.problems import Forbidden, Unsupported
from tunesmith.models.aliases import Aliases
from tunesmith.models.model import Adapter, BaseModel, Model
from tunesmith.models.registry import Registry


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where names are looked up.

    Attributes:
        remove: takes the adapter of that name off this machine, or says why not (Conflict).
        hosted: names of the tuned models that are deployed at their providers.
    """

    served: ServedModels
    registry: Registry
    aliases: Aliases
    remove: Callable[[str], object]
    hosted: Callable[[], Iterable[str]] = tuple


def routes(shelf: Shelf) -> APIRouter:
    """List, one model, and taking an adapter away."""
    router = APIRouter(prefix="/models")

    @router.get("", **described(ModelCards))
    def listed() -> ModelCards:
        """The current model first, then all that are served, aliases, base models, adapters, and those deployed at
        providers; each name once."""
        found: dict[str, ModelCard] = {}
        for each in _every(shelf):
            found.setdefault(each["id"], each)
        return {"object": "list", "data": list(found.values())}

    @router.get("/{name:path}", **described(ModelCard))
    def one(name: str) -> ModelCard:
        """One of them, or a version (``town@3``); names may hold slashes."""
        return _one(shelf, name)

    @router.delete("/{name:path}", **described(ModelDeleted))
    def delete(request: Request, name: str) -> ModelDeleted:
        """Remove an adapter that nothing points at and nobody serves; for admins."""
        model = shelf.served.get(name).model
        if provider_of(model) is not None:
            raise Unsupported(
                f"{name} 在提供商处，不在本机：请取消部署，或删除其微调作业",
                f"{name} is at its provider, not on this machine: undeploy it, or delete its fine-tuning job",
                field="model",
            )
        adapter = model.adapter
        if adapter is None:
            raise Forbidden("不能删除基座模型", "base models are not deleted", field="model")
        if not caller_of(request).admin:
            raise Forbidden("只有管理员可以删除模型", "only admins may delete models", field="model")
        shelf.remove(adapter)
        return {"id": name, "object": "model", "deleted": True}

    return router


def _every(shelf: Shelf) -> Iterator[ModelCard]:
    bases = {base.name: base for base in shelf.registry.bases()}
    adapters = {adapter.name: adapter for adapter in shelf.registry.adapters()}

    def model(name: str, means: Model, root: str) -> ModelCard:
        adapter = adapters.get(means.adapter) if means.adapter else None
        return _shown(name, root, bases.get(means.base), adapter)

    for served in sorted(shelf.served.list(), key=lambda each: not each.is_current):
        yield model(served.name, served.model, _root(served))
    for alias in shelf.aliases.list():
        yield model(alias.name, Model(alias.version.base, alias.version.adapter), alias.version.ref)
    for base in bases.values():
        yield _shown(base.name, base.name, base, None)
    for adapter in adapters.values():
        yield model(adapter.name, Model(adapter.base, adapter.name), adapter.name)
    for name in shelf.hosted():
        yield _shown(name, name, None, None)


def _one(shelf: Shelf, name: str) -> ModelCard:
    found = shelf.served.get(name)
    if provider_of(found.model) is not None:
        return _shown(found.name, _root(found), None, None)
    adapter = shelf.registry.adapter(found.model.adapter) if found.model.adapter else None
    return _shown(found.name, _root(found), shelf.registry.base(found.model.base), adapter)


def _root(served: Served) -> str:
    return served.version or served.model.name


def _shown(name: str, root: str, base: BaseModel | None, adapter: Adapter | None) -> ModelCard:
    """The wire's four fields, and vLLM's three.

    Args:
        root: what answers by that name: the version an alias points at, or the model itself.
    """
    return {
        "id": name,
        "object": "model",
        "created": _created(base, adapter),
        "owned_by": "tunesmith",
        "root": root,
        "parent": adapter.base if adapter else None,
        "max_model_len": base.context_length if base else None,
    }


def _created(base: BaseModel | None, adapter: Adapter | None) -> int:
    """Seconds since 1970; 0 where it is there no more."""
    if adapter is not None:
        return int(adapter.created_at)
    try:
        return int((base.path / "config.json").stat().st_mtime) if base else 0
    except OSError:
        return 0
