"""``tunesmith bench``: a few figures of this machine, in a minute, on the shipped model; ``bench serve`` is beside it."""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import bench_serve, watching
from tunesmith.cli.screen import HomeOption, JsonOption, note, say, show_json, table, verb
from tunesmith.cli.session import run_inside
from tunesmith.models.model import Model

if TYPE_CHECKING:
    from tunesmith.app import Services

HELP = say(
    "在自带的小模型上快速测速：引擎启动、生成、训练（不写入主目录）",
    "Quick figures of this machine. Engine start, generation and training on the shipped model, in a scratch folder.",
)
app = typer.Typer(invoke_without_command=True, rich_markup_mode=None, help=HELP)
app.command("serve", help=bench_serve.HELP)(bench_serve.serve)
_ROWS = (1, 8)
_TOKENS = 128
_QUESTION = "请介绍一下你自己，并讲一个长故事。Tell me a long story."


@app.callback()
def bench(
    context: typer.Context,
    epochs: Annotated[int, typer.Option(min=1, help=say("训练轮数", "Epochs of the short training."))] = 2,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """See HELP."""
    if context.invoked_subcommand is None:
        quick(epochs=epochs, home=home, as_json=as_json)


@verb
def quick(*, epochs: int, home: Path | None, as_json: bool) -> None:
    """The figures, as a table or JSON."""

    async def work(services: "Services") -> dict[str, Any]:
        found: dict[str, Any] = {}
        note(say("训练……", "training ..."))
        found |= await _training(services, epochs)
        note(say("引擎……", "engine ..."))
        found |= await _engine(services)
        return found

    if home is not None:  # only for the disk it is on
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=home) as scratch:
        found = run_inside(Path(scratch), work)
    if as_json:
        show_json(found)
        return
    names = {
        "train_tokens_per_second": say("训练 词元/秒", "training, tokens/s"),
        "train_seconds": say("训练总用时 秒（含启动）", "training in all, s (start included)"),
        "engine_start_seconds": say("引擎启动 秒", "engine start, s"),
        "first_token_seconds": say("首个词元 秒", "first token, s"),
        **{f"tokens_per_second_{n}": say(f"生成 {n} 路 词元/秒", f"generation, {n} rows, tokens/s") for n in _ROWS},
    }
    table([say("项目", "figure"), say("值", "value")], [(names[key], value) for key, value in found.items()])


async def _training(services: "Services", epochs: int) -> dict[str, Any]:
    from dataclasses import replace

    from tunesmith.datasets.samples import install_samples
    from tunesmith.training.first_recipe import RECIPE

    names = install_samples(services.home)
    recipe = replace(RECIPE, dataset=names["train"], replay=names["general"], epochs=epochs)
    began = time.monotonic()
    run = services.training.start(recipe)
    speeds: list[float] = []
    ended = await watching.follow(
        services.training,
        run.id,
        lambda run, curve: None,
        on_row=lambda row: speeds.append(float(row.get("tokens_per_second") or 0.0)) if "event" not in row else None,
    )
    watching.completed(ended)
    seconds = time.monotonic() - began
    # the first steps warm caches up
    steady = sorted(speeds[len(speeds) // 4 :]) or [0.0]
    return {"train_tokens_per_second": round(steady[len(steady) // 2], 1), "train_seconds": round(seconds, 2)}


async def _engine(services: "Services") -> dict[str, Any]:
    from tunesmith.inference.collect import collect
    from tunesmith.inference.engine import Sampling
    from tunesmith.training.first_recipe import RECIPE

    began = time.monotonic()
    await services.engines.ensure(RECIPE.base_model)
    found: dict[str, Any] = {"engine_start_seconds": round(time.monotonic() - began, 2)}
    model = Model(RECIPE.base_model)
    for rows in _ROWS:
        # hot sampling rarely draws the end token early, so that there is something to measure
        sampling = Sampling(_TOKENS, temperature=2.0, top_p=1.0, top_k=0, repetition_penalty=1.0, seed=rows)
        prompts = [f"{_QUESTION} {row}" for row in range(rows)]
        began = time.monotonic()
        answers = await collect(services.chat.batch(prompts, model, sampling), rows=rows)
        seconds = time.monotonic() - began
        if rows == 1:
            found["first_token_seconds"] = round(answers[0].done.first_token_s, 3)
        tokens = sum(answer.done.completion_tokens for answer in answers)
        found[f"tokens_per_second_{rows}"] = round(tokens / seconds, 1)
    return found
