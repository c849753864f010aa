"""``/providers``, ``/parameters`` and ``/models``: who trains, what may be set there, and which base models there are."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request

from tunesmith.dialects.finetune.openapi import failures
from tunesmith.dialects.finetune.wire import Answer, say
from tunesmith.http.sse import unless_left
from tunesmith.training.executor import Parameter
from tunesmith.training.hosted.catalog import Catalog, Offer
from tunesmith.training.hosted.provider import HostedModel

_KINDS = {"str": "string", "string": "string", "int": "int", "float": "float", "bool": "bool"}


class Providers(Answer):
    """Labels by provider."""

    providers: dict[str, str]


class ParameterShown(Answer):
    """Kiln's four fields, and the default, range and choices that it tells in prose alone."""

    name: str
    type: str
    description: str
    optional: bool
    default: Any
    min: float | None
    max: float | None
    choices: list[str | int | float]


class Parameters(Answer):
    parameters: list[ParameterShown]


class ModelShown(Answer):
    """``limits``: the least and the most of a parameter, where the provider tells."""

    id: str
    name: str
    data_strategies_supported: list[str]
    supports_function_calling: bool
    context_length: int | None
    limits: dict[str, tuple[float, float]]


class ProviderShown(Answer):
    """``enabled`` is false, and ``message`` says why, where no key is set or the provider does not answer."""

    id: str
    provider_id: str
    name: str
    enabled: bool
    models: list[ModelShown]
    message: str | None


class Models(Answer):
    providers: list[ProviderShown]


def routes(catalog: Catalog) -> APIRouter:
    """The paths."""
    router = APIRouter(tags=["providers"])

    @router.get("/providers", response_model=Providers, responses=failures())
    def list_providers() -> Providers:
        """Who trains; LOCAL, an addition to the document, is this machine."""
        return Providers(providers=dict(catalog.labels()))

    @router.get("/parameters/{provider}", response_model=Parameters, responses=failures())
    def provider_parameters(request: Request, provider: str) -> Parameters:
        """What a job may set at a provider."""
        return Parameters(parameters=_parameters(request, catalog.parameters(catalog.resolve(provider))))

    @router.get("/hyperparameters/{provider_id}", response_model=list[ParameterShown], responses=failures())
    def hyperparameters(request: Request, provider_id: str) -> list[ParameterShown]:
        """The same as a bare list, where Kiln has it."""
        return _parameters(request, catalog.parameters(catalog.resolve(provider_id)))

    @router.get("/models", response_model=Models, responses=failures())
    async def list_models(request: Request) -> Any:
        """The base models of every provider, as the providers tell now."""

        async def asked() -> Models:
            return Models(providers=[_offer(request, each) for each in await catalog.offers()])

        return await unless_left(request, asked())

    return router


def wire_id(provider: str) -> str:
    """``together_ai`` as the document writes it: ``TOGETHER_AI``."""
    return provider.upper()


def _parameters(request: Request, found: Sequence[Parameter]) -> list[ParameterShown]:
    return [
        ParameterShown(
            name=each.name,
            type=_KINDS.get(each.kind, each.kind),
            description=say(request, (each.description_zh or each.description, each.description)),
            optional=True,
            default=each.default,
            min=each.minimum,
            max=each.maximum,
            choices=list(each.choices),
        )
        for each in found
    ]


def _offer(request: Request, offer: Offer) -> ProviderShown:
    problem = offer.problem
    return ProviderShown(
        id=wire_id(offer.id),
        provider_id=offer.id.lower(),
        name=offer.label,
        enabled=offer.enabled,
        models=[_model(each) for each in offer.models],
        message=None if problem is None else say(request, (problem.zh, problem.en)),
    )


def _model(model: HostedModel) -> ModelShown:
    return ModelShown(
        id=model.id,
        name=model.name,
        data_strategies_supported=list(model.strategies),
        supports_function_calling=model.tools,
        context_length=model.context_length,
        limits={name: (low, high) for name, (low, high) in model.limits.items()},
    )
