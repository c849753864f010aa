"""Several processes that train one run together, started by the executor as ``torchrun`` starts them."""

import json
import os
import signal
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.contract.test_executors import (  # noqa: F401  (fixtures)
    base,
    final,
    home,
    nothing_left_running,
    run,
    stepping,
    trainers,
    until,
)
from tests.unit.training.test_recipe import Told, never
from tunesmith.datasets.reading import read_examples
from tunesmith.kernel.home import Home
from tunesmith.models.registry import Registry
from tunesmith.settings import Settings
from tunesmith.training import run_folder
from tunesmith.training.data.encoding import Encoder, encode_all
from tunesmith.training.data.material import Material
from tunesmith.training.data.tokenizing import load_tokenizer
from tunesmith.training.executors.local import LocalExecutor
from tunesmith.training.loop.loading import load_base
from tunesmith.training.loop.lora_modules import with_lora
from tunesmith.training.loop.objective import Surprise
from tunesmith.training.peft_files import save_adapter
from tunesmith.training.recipe import execute
from tunesmith.training.run import State

pytestmark = pytest.mark.crash
# more tokens to a step than go through the model at once: there is something to share
RECIPE = {"batch_size": 40, "dropout": 0.1, "epochs": 40}


def data(home: Home) -> None:  # noqa: F811
    rows = [
        {
            "prompt": f"{n} Who is the mayor of the town?",
            "completion": "Ada. " * 4,
        }
        for n in range(40)
    ]
    (home.root / "data" / "town.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def together(home: Home) -> LocalExecutor:  # noqa: F811
    settings = Settings(home=home.root, threads=1, trainer_processes=2, checkpoint_s=0.0)
    return LocalExecutor(home, Registry(home), settings)


def alone(home: Home) -> dict[str, torch.Tensor]:  # noqa: F811
    """What one process makes of it."""
    recipe, folder = run(1, **RECIPE).recipe, home.root / "models" / "tiny"
    encoder = Encoder(load_tokenizer(folder), recipe.max_length)
    material = Material(encode_all(read_examples(home, recipe.dataset), encoder, "town"), [], [])
    model = with_lora(load_base(folder, None), recipe)
    surprise = Surprise(model)
    assert len(surprise.parts(material.main)) > 1
    surprise.release()
    execute(recipe, model, material, Told(), never)
    save_adapter(home.root, model, recipe)
    return load_file(home.root / "adapter_model.safetensors")


@pytest.mark.timeout(300)  # four processes that import torch
async def test_two_processes_train_what_one_does_though_their_starter_is_killed(home: Home) -> None:  # noqa: F811
    data(home)
    expected, both, executor = alone(home), run(2, **RECIPE), together(home)
    await executor.submit(both)
    await until(executor, both, stepping)
    starter = run_folder.read_trainer(home.runs / both.id)
    workers = [each for each in trainers(home) if starter is not None and each.pid != starter.pid]
    assert starter is not None and len(workers) == 2
    os.kill(starter.pid, signal.SIGKILL)
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert not (Path(home.runs) / both.id / run_folder.DONE).exists()

    report = await until(executor, both, final)  # others went on from the checkpoint
    assert report.state is State.COMPLETED and report.progress.step == RECIPE["epochs"]
    found = load_file(home.root / both.output / "adapter_model.safetensors")
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-2, atol=1e-4)
    told = [row["step"] for row in run_folder.metrics(home.runs / both.id) if "event" not in row]
    assert told == list(range(1, RECIPE["epochs"] + 1))
