"""Where a job can be trained: the providers and this machine, their models and what may be set there."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.kernel.live_list import LiveList
from tunesmith.kernel.problems import Forbidden, Invalid, Problem, Unavailable
from tunesmith.training.executor import Executor, Parameter
from tunesmith.training.hosted import parameters, refusals
from tunesmith.training.hosted.provider import HostedModel, Provider, Value
from tunesmith.training.jobs.job import LOCAL

_LABELS: Mapping[str, str] = {"together_ai": "Together AI", "fireworks_ai": "Fireworks AI", LOCAL: "This machine"}
_VARIABLES: Mapping[str, str] = {"together_ai": "TOGETHER_API_KEY", "fireworks_ai": "FIREWORKS_API_KEY"}
_FRESH_S, _WAIT_S = 300.0, 15.0
_LOCAL_STRATEGIES = ("final_only", "two_message_cot", "final_and_intermediate_r1_compatible")


@dataclass(frozen=True, slots=True)
class Offer:
    """One place to train at.

    Attributes:
        id: "together_ai", "fireworks_ai" or "local".
        enabled: whether a job can be made there; False without a key.
        models: as they were last told; also while the provider does not answer.
        problem: why it is not enabled, or why its models are old or missing; None where all is well.
    """

    id: str
    label: str
    enabled: bool
    models: Sequence[HostedModel]
    problem: Problem | None


class Catalog:
    """The providers as a caller names them.

    Args:
        providers: by id ("together_ai", "fireworks_ai").
        local: trains on this machine.
        key_of: a provider's key as it is now; None where there is none.
        fresh_s: a list of models so old is asked for again.
        wait_s: longest wait for a list while there is none.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        local: Executor,
        key_of: Callable[[str], str | None],
        *,
        fresh_s: float = _FRESH_S,
        wait_s: float = _WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._providers, self._local, self._key_of = providers, local, key_of
        self._lists = {
            name: LiveList(provider.models, fresh_s=fresh_s, wait_s=wait_s, clock=clock)
            for name, provider in providers.items()
        }
        self._keys: dict[str, str | None] = {}

    def resolve(self, text: str) -> str:
        """The id of a provider from any spelling of it: ``TOGETHER_AI``, ``together_ai``, ``LOCAL``.

        Raises:
            Invalid: there is no such provider.
        """
        name = text.strip().lower()
        if name not in _LABELS:
            shown = repr(text)[1:-1][:80]
            known = ", ".join(self.labels())
            raise Invalid(
                f"没有名为 '{shown}' 的微调提供商；可用：{known}",
                f"Fine tune provider '{shown}' not found. Known are {known}",
                field="provider",
            )
        return name

    def labels(self) -> Mapping[str, str]:
        """What people call the providers, by the document's ids, in its order, this machine last."""
        return {name.upper(): label for name, label in _LABELS.items()}

    def parameters(self, provider: str) -> Sequence[Parameter]:
        """What a job may set there, in any spelling of the provider.

        Raises:
            Invalid: there is no such provider.
        """
        name = self.resolve(provider)
        if name == LOCAL:
            return parameters.local()
        if name in self._providers:
            return self._providers[name].parameters()
        return parameters.TOGETHER if name == "together_ai" else parameters.FIREWORKS

    def check_parameters(self, provider: str, given: Mapping[str, Any]) -> dict[str, Value]:
        """What a caller gives for a job there, checked; see ``parameters.check_parameters``.

        Raises:
            Invalid: a name is not available there, or a value has another type or lies outside its range.
        """
        return parameters.check_parameters(self.parameters(provider), given)

    async def offers(self) -> Sequence[Offer]:
        """Every place, in the order of ``labels``; the providers are asked side by side, and seldom."""
        return await asyncio.gather(*(self.offer(name) for name in _LABELS))

    async def offer(self, provider: str) -> Offer:
        """One place, in any spelling.

        Raises:
            Invalid: there is no such provider.
        """
        name = self.resolve(provider)
        return await (self._here() if name == LOCAL else self._hosted(name))

    async def close(self) -> None:
        """Stop asking."""
        for models in self._lists.values():
            await models.close()

    async def _here(self) -> Offer:
        try:
            names = await self._local.base_models()
        except Problem as problem:
            return Offer(LOCAL, _LABELS[LOCAL], True, (), problem)
        models = tuple(HostedModel(name, name, _LOCAL_STRATEGIES) for name in names)
        return Offer(LOCAL, _LABELS[LOCAL], True, models, None)

    async def _hosted(self, name: str) -> Offer:
        label, models = _LABELS[name], self._lists.get(name)
        if models is None:
            missing = Unavailable(f"{label} 未启用", f"{label} is not set up")
            return Offer(name, label, False, (), missing)
        try:
            key = await asyncio.to_thread(self._key_of, name)  # it may be read from a database
        except Problem as problem:
            return Offer(name, label, False, (), problem)
        if self._keys.get(name, key) != key:
            models.forget()  # another key opens another account
        self._keys[name] = key
        if not key:
            return Offer(name, label, False, (), refusals.without_key(label, _VARIABLES[name]))
        found, trouble = await models.get(), models.problem
        if trouble is None and models.age_s is None:
            trouble = Unavailable(f"{label} 尚未应答", f"{label} has not answered yet")
        return Offer(name, label, not isinstance(trouble, Forbidden), found, trouble)
