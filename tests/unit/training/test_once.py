"""A request with an Idempotency-Key makes one run, however often it is sent, whoever races and whatever is killed."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.unit.training.test_service import DONE, RECIPE, World, make_world
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.problems import Conflict, Invalid, Problem
from tunesmith.training.run import Once, Recipe, Run, State

ANN, BOB = Caller("ann"), Caller("bob")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path)
    yield made
    made.store._database.close()


def test_the_same_key_and_request_give_the_same_run_and_make_nothing_new(world: World) -> None:
    first = world.service.start(RECIPE, caller=ANN, idempotency_key="k")
    assert world.service.start(RECIPE, caller=ANN, idempotency_key="k") == first
    world.executor.script = (DONE,)
    world.reconcile(2)
    again = world.service.start(RECIPE, caller=ANN, idempotency_key="k")
    assert again.id == first.id and again.state is State.COMPLETED
    assert len(world.store.list()) == 1


@pytest.mark.parametrize(
    "changes",
    [{"recipe": replace(RECIPE, epochs=4)}, {"output": "adapters/other"}, {"executor": "moon"}],
    ids=["recipe", "output", "executor"],
)
def test_the_same_key_with_another_request_is_a_conflict(world: World, changes: dict[str, object]) -> None:
    world.service.start(RECIPE, caller=ANN, idempotency_key="k")
    asked = {"recipe": RECIPE, "caller": ANN, "idempotency_key": "k", **changes}
    with pytest.raises(Conflict) as refused:
        world.service.start(**asked)  # type: ignore[arg-type]
    assert refused.value.details["field"] == "Idempotency-Key"
    assert len(world.store.list()) == 1


def test_a_key_belongs_to_its_owner(world: World) -> None:
    anns = world.service.start(RECIPE, caller=ANN, idempotency_key="k")
    bobs = world.service.start(replace(RECIPE, epochs=4), caller=BOB, idempotency_key="k")
    assert anns.id != bobs.id and bobs.owner == "bob"


def test_without_a_key_every_request_makes_a_run(world: World) -> None:
    assert world.service.start(RECIPE).id != world.service.start(RECIPE).id


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "a\0", "é", "键", "\x7f", "\ud800"])
def test_a_key_that_is_not_1_to_255_printable_ascii_characters_is_refused(world: World, key: str) -> None:
    with pytest.raises(Invalid) as refused:
        world.service.start(RECIPE, idempotency_key=key)
    assert refused.value.details["field"] == "Idempotency-Key"
    assert world.store.list() == []


@pytest.mark.parametrize("key", [" ", "~", '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "x" * 255])
def test_any_other_key_is_taken(world: World, key: str) -> None:
    run = world.service.start(RECIPE, idempotency_key=key)
    assert world.service.start(RECIPE, idempotency_key=key) == run


def test_a_retry_succeeds_though_what_the_first_try_needed_is_gone_or_taken_by_itself(world: World) -> None:
    asked = {"recipe": RECIPE, "output": "adapters/town", "idempotency_key": "k"}
    first = world.service.start(**asked)  # type: ignore[arg-type]
    adapter = world.home.adapters / "town"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")  # its own adapter, published
    (world.home.root / "data" / "town.jsonl").unlink()
    assert world.service.start(**asked).id == first.id  # type: ignore[arg-type]
    with pytest.raises(Problem):
        world.service.start(**(asked | {"idempotency_key": "other"}))  # type: ignore[arg-type]


def test_a_refused_request_leaves_its_key_free(world: World) -> None:
    with pytest.raises(Invalid):
        world.service.start(replace(RECIPE, epochs=10**9), idempotency_key="k")
    assert world.service.start(RECIPE, idempotency_key="k").recipe.epochs == RECIPE.epochs


def test_a_try_that_finds_itself_in_the_way_gives_the_run_of_the_other_try(world: World) -> None:
    """Both tries looked the key up before either recorded: the output, not the key, stops the second."""
    once = Once.of("k", [asdict(RECIPE), "adapters/town", "local"])
    made: list[Run] = []
    look = world.store.made_by

    def overtaken(owner: str, key: str) -> tuple[Run, str] | None:
        found = look(owner, key)
        if not made:
            run = Run(
                id="f" * 32,
                recipe=RECIPE,
                output="adapters/town",
                executor="local",
                owner="ann",
                created_at=world.service._clock(),
            )
            made.append(run)
            world.store.add(run, once)
        return found

    world.store.made_by = overtaken  # type: ignore[method-assign]
    run = world.service.start(RECIPE, output="adapters/town", caller=ANN, idempotency_key="k")
    assert run == made[0] and len(world.store.list()) == 1


@pytest.mark.parametrize("output", [None, "adapters/town"])
def test_fifty_threads_with_one_key_make_one_run(world: World, output: str | None) -> None:
    gate, ids, faults = threading.Barrier(50), [], []

    def send() -> None:
        service = world.service
        gate.wait()
        try:
            ids.append(service.start(RECIPE, output=output, caller=ANN, idempotency_key="k").id)
        except Exception as fault:
            faults.append(fault)

    threads = [threading.Thread(target=send) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == [] and len(ids) == 50 and len(set(ids)) == 1
    assert [run.id for run in world.store.list()] == ids[:1]


_SEND = """
import sys
from pathlib import Path
from tests.unit.training.test_once import ANN, RECIPE, make_world
world = make_world(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for n in range(20):
    print(world.service.start(RECIPE, output=f"adapters/{n}", caller=ANN, idempotency_key=f"k{n}").id, flush=True)
"""


def test_two_processes_with_one_key_make_one_run(world: World, tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    senders = [
        subprocess.Popen([sys.executable, "-c", _SEND, str(tmp_path)], stdin=pipe, stdout=pipe, text=True)
        for _ in range(2)
    ]
    for sender in senders:
        assert sender.stdout is not None and sender.stdout.readline() == "ready\n"
    for sender in senders:
        assert sender.stdin is not None
        sender.stdin.write("\n")
        sender.stdin.flush()
    said = [sender.communicate()[0].split() for sender in senders]
    assert [sender.returncode for sender in senders] == [0, 0]
    assert said[0] == said[1] and len(said[0]) == 20
    assert sorted(run.id for run in world.store.list()) == sorted(said[0])


_KILLED = """
import sys
from pathlib import Path
from tests.unit.models.killing import killed_before
from tests.unit.training.test_once import ANN, RECIPE, make_world
from tunesmith.kernel import db
from tunesmith.training import run, service, store

world = make_world(Path(sys.argv[1]))

def start(key):
    return world.service.start(RECIPE, output="adapters/{dataset}/final", caller=ANN, idempotency_key=key).id

def check(key, runs):
    made = start(key)
    kept, digest = world.store.made_by("ann", key)
    assert kept.id == made and digest, key
    # one for each key: none lost, none made twice
    assert len(world.store.list(limit=None)) == runs, key
    world.service.cancel(made)  # the next is not held up by looking at many
    world.store._database.close()  # no fork takes a connection along

check("warm", 1)  # what only the first does is done
line = 0
files = {run.__file__, service.__file__, store.__file__, db.__file__}
while killed_before(line, files, lambda: start(f"k{line}")):
    check(f"k{line}", line + 2)
    line += 1
print(line)
"""


@pytest.mark.crash
def test_killed_between_any_two_lines_and_sent_again_a_request_has_made_one_run(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50  # lines were traced at all


def test_a_repeated_request_is_recognised_before_its_recipe_is_made_again(world: World) -> None:
    first = world.service.start(lambda: RECIPE, caller=ANN, idempotency_key="k", asked={"dataset": "town"})

    def gone() -> Recipe:
        raise AssertionError("the base model it would take by default is another by now")

    assert world.service.start(gone, caller=ANN, idempotency_key="k", asked={"dataset": "town"}) == first
    with pytest.raises(Conflict):
        world.service.start(gone, caller=ANN, idempotency_key="k", asked={"dataset": "village"})
