"""A tuned model comes home: deployed once whatever dies when, ended for sure, its adapter published whole or not at all."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.training.hosted.bench import MINE, OTHER, OWNER, REMOTE, RUN, Bench
from tunesmith.datasets.export.sample import Strategy
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound, Unavailable, Unsupported
from tunesmith.models.export.tensors import write
from tunesmith.models.registry import SHIPPED, Registry
from tunesmith.training.run import State


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def bench(home: Home) -> Iterator[Bench]:
    made = Bench(home)
    yield made
    made.database.close()


async def test_deploying_wants_a_confirmation_that_says_what_is_known_of_the_cost(bench: Bench) -> None:
    with pytest.raises(Conflict, match="costs money") as refused:
        await bench.service.deploy(RUN, OWNER, confirm=False)
    assert "费用" in refused.value.zh and "not known" in refused.value.en
    assert refused.value.details["needs_confirmation"] is True and refused.value.details["price"] is None
    assert bench.scripted.made == 0 and bench.record is None


async def test_a_deployment_is_made_once_told_and_ended(bench: Bench) -> None:
    assert await bench.service.status(RUN, OWNER) is None
    made = await bench.service.deploy(RUN, OWNER, confirm=True)
    assert made.model == "acme/town-tuned#live" and made.ready
    assert await bench.service.deploy(RUN, OWNER, confirm=False) == made  # costs no more than it does already
    assert await bench.again().status(RUN, OWNER) == made
    assert bench.service.deployed() == [RUN]
    await bench.service.undeploy(RUN, OWNER)
    await bench.service.undeploy(RUN, OWNER)
    assert await bench.service.status(RUN, OWNER) is None
    assert (bench.scripted.made, bench.scripted.there, bench.service.deployed()) == (1, {}, [])


async def test_what_the_provider_made_before_we_learned_of_it_is_found_by_the_tag(bench: Bench) -> None:
    bench.scripted.fails["after_deploy"] = Unavailable("断了", "cut off")
    with pytest.raises(Unavailable):
        await bench.service.deploy(RUN, OWNER, confirm=True)
    after = bench.again()  # as after kill -9: the record says that it was asked for
    assert bench.record["word"] == "ASKED"
    assert (await after.deploy(RUN, OWNER, confirm=False)).id == "dep-1" == bench.record["id"]
    assert bench.scripted.made == 1


async def test_a_look_or_a_chat_finds_what_was_made_before_we_learned_of_it(bench: Bench) -> None:
    bench.scripted.fails["after_deploy"] = Unavailable("断了", "cut off")
    with pytest.raises(Unavailable):
        await bench.service.deploy(RUN, OWNER, confirm=True)
    assert (await bench.again().asked(RUN)).model == "acme/town-tuned#live"
    told = await bench.again().status(RUN, OWNER)
    assert told is not None and (told.id, bench.scripted.made) == ("dep-1", 1)


async def test_what_was_asked_for_a_moment_ago_may_turn_up_and_after_a_while_is_forgotten(bench: Bench) -> None:
    bench.scripted.fails["deploy"] = Unavailable("断了", "cut off")
    with pytest.raises(Unavailable):
        await bench.service.deploy(RUN, OWNER, confirm=True)
    after = bench.again()
    told = await after.status(RUN, OWNER)
    assert told is not None and (told.id, told.ready, told.word) == ("", False, "ASKED")
    with pytest.raises(Unavailable, match="cut off"):
        await after.asked(RUN)
    with pytest.raises(Conflict, match="costs money"):
        await after.deploy(RUN, OWNER, confirm=False)
    with pytest.raises(Unavailable, match="may turn up"):
        await after.undeploy(RUN, OWNER)
    assert bench.record["word"] == "ASKED"
    await bench.again(timedelta(minutes=5)).undeploy(RUN, OWNER)
    assert bench.record is None and bench.scripted.made == 0


async def test_undeploying_ends_what_was_made_before_we_learned_of_it(bench: Bench) -> None:
    bench.scripted.fails["after_deploy"] = Unavailable("断了", "cut off")
    with pytest.raises(Unavailable):
        await bench.service.deploy(RUN, OWNER, confirm=True)
    await bench.again().undeploy(RUN, OWNER)
    assert not bench.scripted.there and bench.record is None


async def test_a_refused_deployment_leaves_no_trace(bench: Bench) -> None:
    bench.scripted.fails["deploy"] = Forbidden("余额不足", "no credit")
    with pytest.raises(Forbidden):
        await bench.service.deploy(RUN, OWNER, confirm=True)
    assert bench.record is None


async def test_an_ending_that_was_cut_off_is_told_and_can_be_asked_for_again(bench: Bench) -> None:
    await bench.service.deploy(RUN, OWNER, confirm=True)
    bench.scripted.fails["undeploy"] = Unavailable("断了", "cut off")
    with pytest.raises(Unavailable):
        await bench.service.undeploy(RUN, OWNER)
    after = bench.again()
    told = await after.status(RUN, OWNER)
    assert told is not None and (told.id, told.ready, told.word) == ("dep-1", False, "ENDING")
    with pytest.raises(Conflict, match="not deployed"):
        await after.asked(RUN)
    await after.undeploy(RUN, OWNER)
    assert not bench.scripted.there


async def test_who_leaves_while_it_is_deployed_does_not_cut_the_record_off(bench: Bench) -> None:
    bench.scripted.gate.clear()
    asking = asyncio.create_task(bench.service.deploy(RUN, OWNER, confirm=True))
    await asyncio.wait_for(bench.scripted.called.wait(), 60)
    asking.cancel()
    await asyncio.wait({asking})
    told = await bench.service.status(RUN, OWNER)  # answered from the record, without waiting
    assert told is not None and told.word == "ASKED"
    bench.scripted.gate.set()
    await bench.service.close()
    assert bench.record["id"] == "dep-1"


async def test_two_who_ask_at_once_get_one_deployment(bench: Bench) -> None:
    both = [bench.service.deploy(RUN, OWNER, confirm=True) for _ in range(2)]
    first, second = await asyncio.gather(*both)
    assert first == second and bench.scripted.made == 1


async def test_what_was_stopped_at_the_provider_is_asked_for_again_by_its_tag(bench: Bench) -> None:
    made = await bench.service.deploy(RUN, OWNER, confirm=True)
    tag = bench.scripted.there[made.id][0]
    bench.scripted.there[made.id] = tag, replace(made, ready=False, word="STOPPED")
    assert (await bench.service.deploy(RUN, OWNER, confirm=False)).word == "STOPPED"
    bench.scripted.fails["deploy"] = Forbidden("余额不足", "no credit")
    with pytest.raises(Forbidden):
        await bench.service.deploy(RUN, OWNER, confirm=True)
    assert (bench.record["id"], bench.record["word"]) == (made.id, "STOPPED")
    bench.scripted.there[made.id] = tag, made
    assert await bench.service.deploy(RUN, OWNER, confirm=True) == made
    assert bench.scripted.made == 1


async def test_a_deployment_that_ended_at_the_provider_is_forgotten_and_a_failed_look_changes_nothing(
    bench: Bench,
) -> None:
    made = await bench.service.deploy(RUN, OWNER, confirm=True)
    bench.scripted.fails["deployment"] = Unavailable("断了", "cut off")
    with pytest.raises(Unavailable):
        await bench.service.status(RUN, OWNER)
    assert bench.record["id"] == made.id
    bench.scripted.there.clear()
    assert await bench.service.status(RUN, OWNER) is None
    assert bench.record is None


async def test_a_chat_learns_how_the_model_was_trained_once_it_is_ready(bench: Bench) -> None:
    with pytest.raises(Conflict, match="not deployed"):
        await bench.service.asked(RUN)
    bench.scripted.ready = False
    made = await bench.service.deploy(RUN, OWNER, confirm=True)
    with pytest.raises(Unavailable, match="STARTED"):
        await bench.service.asked(RUN)
    bench.scripted.there[made.id] = bench.scripted.there[made.id][0], replace(made, ready=True)
    asked = await bench.service.asked(RUN)
    assert (asked.model, asked.strategy) == (made.model, Strategy.TWO_MESSAGE)
    assert (asked.system_message, asked.thinking_instructions) == ("你是客服。", "想一想")
    assert bench.service.origin(RUN) == (REMOTE, "acme/base-Reference")


async def test_anothers_job_is_answered_like_a_missing_one(bench: Bench) -> None:
    service = bench.service
    for verb in (
        service.deploy(RUN, OTHER, confirm=True),
        service.undeploy(RUN, OTHER),
        service.status(RUN, OTHER),
        service.download_adapter(RUN, OTHER),
    ):
        with pytest.raises(NotFound):
            await verb
    assert service.origin("f" * 32) is None


async def test_a_job_that_has_not_completed_has_nothing_to_deploy(home: Home) -> None:
    bench = Bench(home, state=State.RUNNING)
    for verb in (bench.service.deploy(RUN, OWNER, confirm=True), bench.service.download_adapter(RUN, OWNER)):
        with pytest.raises(Conflict, match="has not completed"):
            await verb
    bench.database.close()


async def test_a_job_of_this_machine_needs_no_deployment(home: Home) -> None:
    bench = Bench(home, provider=MINE)
    with pytest.raises(Unsupported, match="on this machine"):
        await bench.service.deploy(RUN, OWNER, confirm=True)
    assert bench.service.origin(RUN) is None
    bench.database.close()


def lora(to: Path, base: str = "acme/base-Reference", **changes: Any) -> None:
    """A PEFT folder as a provider hands it out, with more in it than we take."""
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": base, **changes}
    (to / "adapter_config.json").write_text(json.dumps(config))
    (to / "tokenizer.json").write_text("{}")
    (to / "training_args.bin").write_bytes(b"pickle")
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    pairs = [(f"{layer}.lora_A.weight", "F32", (2, 4)), (f"{layer}.lora_B.weight", "F32", (4, 2))]
    write(to / "adapter_model.safetensors", pairs, lambda name: np.ones(8, np.float32))


async def test_an_adapter_comes_home_and_is_one_like_any_other(bench: Bench) -> None:
    bench.scripted.files = lambda to: lora(to, SHIPPED)
    name = await bench.service.download_adapter(RUN, OWNER)
    found = Registry(bench.home).adapter(name)
    assert (name, found.base, found.rank) == ("adapters/town", SHIPPED, 2)
    assert sorted(file.name for file in found.path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tunesmith.json",
    ]
    assert bench.service.missing_base(name) is None
    bench.scripted.files = lambda to: pytest.fail("it is here already")
    assert await bench.again().download_adapter(RUN, OWNER) == name
    assert not list((bench.home.runs / RUN).iterdir())


async def test_a_base_that_is_not_on_this_machine_is_told(bench: Bench) -> None:
    bench.scripted.files = lambda to: lora(to, "/mnt/theirs/model")
    name = await bench.service.download_adapter(RUN, OWNER)
    assert Registry(bench.home).adapter(name).base == "acme/base-Reference"
    told = bench.service.missing_base(name)
    assert told is not None and "acme/base-Reference" in told[0] and "acme/base-Reference" in told[1]


async def test_the_providers_training_copy_of_a_base_is_the_base_of_this_machine(bench: Bench) -> None:
    folder = bench.home.root / "models/acme/base"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    bench.scripted.files = lora
    name = await bench.service.download_adapter(RUN, OWNER)
    assert Registry(bench.home).adapter(name).base == "acme/base"
    assert bench.service.missing_base(name) is None


def linked(to: Path) -> None:
    lora(to)
    (to / "adapter_model.safetensors").unlink()
    (to / "adapter_model.safetensors").symlink_to("/etc/passwd")


def pickled(to: Path) -> None:
    lora(to)
    (to / "adapter_model.safetensors").rename(to / "adapter_model.bin")


def cut_short(to: Path) -> None:
    lora(to)
    file = to / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


@pytest.mark.parametrize(
    "files",
    [
        lambda to: None,
        linked,
        pickled,
        cut_short,
        lambda to: lora(to, r=3),
        lambda to: lora(to, r=True),
        lambda to: lora(to, r=100_000),
        lambda to: lora(to, lora_alpha="16"),
        lambda to: lora(to, peft_type="IA3"),
        lambda to: lora(to, auto_mapping={"base_model_class": "x"}),
        lambda to: (to / "adapter_config.json").write_text("[" * 100_000),
    ],
)
async def test_what_is_no_sound_adapter_is_refused_and_nothing_of_it_is_kept(
    bench: Bench, files: Callable[[Path], None]
) -> None:
    bench.scripted.files = files
    with pytest.raises(Invalid):
        await bench.service.download_adapter(RUN, OWNER)
    assert not list(bench.home.adapters.iterdir())
    assert not list((bench.home.runs / RUN).iterdir())


async def test_a_download_that_breaks_off_leaves_nothing_and_can_be_repeated(bench: Bench) -> None:
    bench.scripted.files = lora
    bench.scripted.fails["download"] = Unavailable("断了", "cut off")
    with pytest.raises(Unavailable):
        await bench.service.download_adapter(RUN, OWNER)
    assert not list(bench.home.adapters.iterdir())
    assert await bench.service.download_adapter(RUN, OWNER) == "adapters/town"


async def test_what_lies_where_the_adapter_belongs_is_never_replaced(bench: Bench) -> None:
    lora_of_another = bench.home.adapters / "town"
    lora_of_another.mkdir()
    lora(lora_of_another, SHIPPED)
    bench.scripted.files = lora
    with pytest.raises(Conflict, match="not replaced"):
        await bench.service.download_adapter(RUN, OWNER)
    assert (lora_of_another / "tokenizer.json").exists()
