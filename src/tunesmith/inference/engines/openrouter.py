"""OpenRouter: the OpenAI wire with a key, an attribution and a list of models.

Source: OpenRouterTeam/docs, api_reference/overview and openapi.yaml.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
import structlog

from tunesmith.inference.engines import refusals
from tunesmith.inference.engines.answer import Label
from tunesmith.inference.engines.openai import OpenAIEngine
from tunesmith.inference.engines.upstream import Terms, Upstream
from tunesmith.inference.engines.watch import Patience
from tunesmith.inference.model_ids import Listed
from tunesmith.kernel.problems import Problem
from tunesmith.settings import Settings, UpstreamLimits

_LABEL = Label(
    "OpenRouter ",
    "OpenRouter",
    "请检查网络，以及 OPENROUTER_BASE_URL 是否正确",
    "check the network, and OPENROUTER_BASE_URL where it is set",
)
_TITLE = "Tunesmith"
_LIST_S = 8.0
_log = structlog.get_logger(__name__)


class _Price(msgspec.Struct):
    """US dollars a token, as text."""

    prompt: Any = None
    completion: Any = None


class _Model(msgspec.Struct):
    id: str
    name: str = ""
    canonical_slug: str | None = None
    context_length: int | None = None
    pricing: _Price | None = None


_model = msgspec.json.Decoder(_Model)


class _Models(msgspec.Struct):
    """Rows are read one by one: a new kind of model must not hide the others."""

    data: list[msgspec.Raw]


class OpenRouter:
    """The hosted service, or whatever speaks as it does at OPENROUTER_BASE_URL.

    Args:
        key: the bearer token as it is now; None sends none.
    """

    def __init__(self, settings: Settings, key: Callable[[], str | None]) -> None:
        attribution = {"X-OpenRouter-Title": _TITLE}
        if settings.public_url:
            attribution["HTTP-Referer"] = settings.public_url

        def headers() -> Mapping[str, str]:
            found = key()
            return {**attribution, "Authorization": f"Bearer {found}"} if found else attribution

        def refused(status: int, body: bytes, answered: Mapping[str, str]) -> Problem:
            return refusals.refused(_LABEL, status, body, answered)

        self._upstream = Upstream(
            settings.openrouter_url, _LABEL, refused, terms=terms(settings.upstream), headers=headers
        )
        self.engine = OpenAIEngine(self._upstream, prefix="", at_once=8)

    async def models(self) -> list[Listed]:
        """Every model that writes text, in OpenRouter's own order.

        Raises:
            Unavailable: it does not answer.
        """
        found = await self._upstream.ask("GET", "/models", None, _Models, within_s=_LIST_S)
        return [
            Listed(
                id=each.id,
                name=each.name,
                aliases=(each.canonical_slug,) if each.canonical_slug else (),
                context_length=each.context_length,
                prompt_usd=_usd(each.pricing.prompt) if each.pricing else None,
                completion_usd=_usd(each.pricing.completion) if each.pricing else None,
            )
            for each in _readable(found.data)
        ]

    async def close(self) -> None:
        """Close every connection."""
        await self._upstream.close()


def _readable(rows: Iterable[msgspec.Raw]) -> Iterator[_Model]:
    for row in rows:
        try:
            yield _model.decode(row)
        except msgspec.ValidationError as error:
            _log.warning("a model of OpenRouter's list cannot be read", reason=str(error))


def terms(limits: UpstreamLimits) -> Terms:
    """How a server that is not ours is asked."""
    patience = Patience(limits.first_s, limits.idle_s, limits.total_s)
    return Terms(connect_s=limits.connect_s, patience=patience, in_flight=limits.in_flight)


def _usd(text: Any) -> float | None:
    """A price; a negative one is OpenRouter's word for "depends"."""
    try:
        price = float(text)
    except (TypeError, ValueError):
        return None
    return price if math.isfinite(price) and price >= 0 else None
