"""Where a job can be trained, as a caller sees it."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest

from tests.upstreams.together_api import LLAMA, QWEN, TogetherApi, together_api
from tunesmith.kernel.problems import Forbidden, Invalid, Unavailable
from tunesmith.training.executors.scripted import ScriptedExecutor
from tunesmith.training.executors.together import Together
from tunesmith.training.hosted.catalog import Catalog
from tunesmith.training.hosted.wire import Waits


@dataclass
class Ours:
    """What decides what the catalog shows."""

    now: float = 1000.0
    keys: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def api() -> Iterator[TogetherApi]:
    with together_api() as running:
        yield running


@pytest.fixture
def ours(api: TogetherApi) -> Ours:
    return Ours(keys={"together_ai": api.key})


@pytest.fixture
async def catalog(api: TogetherApi, ours: Ours) -> AsyncIterator[Catalog]:
    provider = Together(api.v1, lambda: ours.keys.get("together_ai"), waits=Waits(tries=1))
    made = Catalog(
        {"together_ai": provider}, ScriptedExecutor(), ours.keys.get, fresh_s=60, wait_s=30, clock=lambda: ours.now
    )
    yield made
    await made.close()
    await provider.close()


async def test_providers_are_known_in_every_spelling_and_in_the_documents_order(catalog: Catalog) -> None:
    assert list(catalog.labels()) == ["TOGETHER_AI", "FIREWORKS_AI", "LOCAL"]
    assert [catalog.labels()[name] for name in ("TOGETHER_AI", "FIREWORKS_AI")] == ["Together AI", "Fireworks AI"]
    assert [catalog.resolve(text) for text in ("TOGETHER_AI", "together_ai", "Fireworks_AI", "LOCAL", "local")] == [
        "together_ai",
        "together_ai",
        "fireworks_ai",
        "local",
        "local",
    ]
    for unknown in ("vertex", "", "a\nb" * 100):
        with pytest.raises(Invalid, match=r"Fine tune provider '.*' not found") as refused:
            catalog.resolve(unknown)
        assert len(refused.value.en) < 200 and "\n" not in refused.value.en


async def test_parameters_are_told_and_checked_by_provider(catalog: Catalog) -> None:
    assert {each.name for each in catalog.parameters("FIREWORKS_AI")} == {
        "epochs",
        "learning_rate",
        "batch_size",
        "lora_rank",
    }
    assert catalog.check_parameters("TOGETHER_AI", {"lora_alpha": 16}) == {"lora_alpha": 16.0}
    assert catalog.check_parameters("LOCAL", {"lora_dropout": 0.1}) == {"lora_dropout": 0.1}
    with pytest.raises(Invalid, match="Parameter lora_alpha is not available"):
        catalog.check_parameters("fireworks_ai", {"lora_alpha": 16})


async def test_offers_are_live_and_asked_for_seldom(api: TogetherApi, catalog: Catalog, ours: Ours) -> None:
    together, fireworks, local = await catalog.offers()
    assert [each.id for each in together.models] == [LLAMA, QWEN] and together.enabled and together.problem is None
    assert not fireworks.enabled and fireworks.models == () and fireworks.problem is not None
    assert local.enabled and [each.id for each in local.models] == ["scripted"]
    asked = len(api.requests)
    assert (await catalog.offer("TOGETHER_AI")).models == together.models and len(api.requests) == asked


async def test_an_old_list_stays_while_the_provider_is_away(api: TogetherApi, catalog: Catalog, ours: Ours) -> None:
    before = await catalog.offer("together_ai")
    api.refuse(500)
    ours.now += 61
    while (later := await catalog.offer("together_ai")).problem is None:  # it is asked for beside the answer
        pass
    assert later.models == before.models and later.enabled and isinstance(later.problem, Unavailable)


async def test_a_provider_without_a_key_says_what_to_set_and_is_not_asked(
    api: TogetherApi, catalog: Catalog, ours: Ours
) -> None:
    ours.keys.clear()
    offer = await catalog.offer("together_ai")
    assert not offer.enabled and offer.models == () and not api.requests
    assert (
        offer.problem is not None and "TOGETHER_API_KEY" in offer.problem.en and "TOGETHER_API_KEY" in offer.problem.zh
    )
    ours.keys["together_ai"] = api.key
    assert (await catalog.offer("together_ai")).enabled


async def test_another_key_is_another_account(api: TogetherApi, catalog: Catalog, ours: Ours) -> None:
    assert (await catalog.offer("together_ai")).enabled
    ours.keys["together_ai"] = "wrong"
    offer = await catalog.offer("together_ai")
    assert not offer.enabled and offer.models == () and isinstance(offer.problem, Forbidden)
    assert "wrong" not in offer.problem.en
