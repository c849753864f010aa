"""``tunesmith evaluate``: measure a model on a dataset, and say whether tuning helped."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import completing
from tunesmith.cli.screen import HomeOption, JsonOption, console, language, line, note, say, show_json, table, verb
from tunesmith.cli.session import run_inside
from tunesmith.kernel.problems import Invalid, Problem, Unavailable

if TYPE_CHECKING:
    from tunesmith.app import Services
    from tunesmith.evaluation.service import Evaluation, EvaluationRequest, Question

HELP = say(
    "在数据集上评估模型或适配器；--compare 同时评估基座并判断差别是否显著",
    "Measure a model on a dataset. --compare measures its base too and says whether the difference is real.",
)
METRICS = ("exact_match", "perplexity", "bleu", "rouge")
_POLL_S = 0.2


@verb
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            autocompletion=completing.models,
            help=say("基座模型、适配器或已加载的名字", "Base model, adapter or served name."),
        ),
    ],
    dataset: Annotated[
        str,
        typer.Argument(
            autocompletion=completing.datasets,
            help=say("数据集（town、town/test）、主目录下的文件或任意文件", "Dataset (town, town/test) or file."),
        ),
    ],
    compare: Annotated[
        bool, typer.Option("--compare", help=say("同时评估不带适配器的基座", "Measure the bare base as well."))
    ] = False,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            metavar="NAME",
            help=say("指标，可重复或用逗号分隔", "Repeat it or use commas: ") + ",".join(METRICS),
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help=say("只用前 N 题", "Only the first N questions."))] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help=say("每个回答的最多词元数", "Most tokens of an answer."))
    ] = 128,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """See HELP."""
    names = tuple(name.strip() for given in metrics or METRICS for name in given.split(",") if name.strip())

    async def work(services: "Services") -> "Evaluation":
        from tunesmith.cli.asking import sampling_of
        from tunesmith.evaluation.service import EvaluationRequest
        from tunesmith.inference.switchboard import provider_of

        asked = services.served.get(model).model
        chosen = names
        if provider_of(asked) is None:
            services.registry.check(asked)
        elif metrics is None:
            chosen = tuple(name for name in names if name != "perplexity")  # no provider tells what it is made of
        found = await asyncio.to_thread(lambda: tuple(islice(_questions(services, dataset), limit)))
        request = EvaluationRequest(asked, found, chosen, sampling_of(0.0, 1.0, max_tokens, 0), compare, label=dataset)
        with bar(say("评估", "evaluating"), len(found)) as moved:
            return await measured(services, request, moved)

    done = run_inside(home, work)
    if as_json:
        show_json(summary(done))
        return
    result = done.result or {}
    show_figures(result)
    line(verdict_of(result))
    line(say(f"评估 {done.id}，{done.questions} 题", f"evaluation {done.id}, {done.questions} questions"))


async def measured(services: "Services", request: "EvaluationRequest", moved: Callable[[float], None]) -> "Evaluation":
    """The completed evaluation.

    Args:
        moved: called with the share done, in [0, 1].

    Raises:
        Problem: it could not be started, or failed; the message is the record's.
    """
    evaluation = await asyncio.to_thread(services.evaluation.start, request)
    task = asyncio.ensure_future(services.evaluation.execute(evaluation.id))
    try:
        while not task.done():
            await asyncio.wait([task], timeout=_POLL_S)
            now = await asyncio.to_thread(services.evaluation.get, evaluation.id)
            moved(now.done / now.total if now.total else 0.0)
        ended = task.result()
    finally:
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError, Problem):
                await task
    moved(1.0)
    if ended.result is None:
        why = ended.failure
        raise Unavailable(
            f"评估 {ended.id} 失败：{why.zh if why else ended.state}",
            f"evaluation {ended.id} failed: {why.en if why else ended.state}",
            evaluation_id=ended.id,
        )
    return ended


def questions_in(services: "Services", dataset: str) -> Iterator["Question"]:
    """What a dataset asks: everything before the last assistant turn, and that turn as the expected answer.

    Raises, while iterating:
        NotFound, Invalid: no such dataset, or bad rows.
    """
    from tunesmith.datasets.reading import read_examples
    from tunesmith.evaluation.service import Question

    for example in read_examples(services.home, dataset):
        yield Question(example.prompt, example.completion)


def summary(done: "Evaluation") -> dict[str, Any]:
    """The JSON form of a completed evaluation."""
    return {
        "evaluation_id": done.id,
        "base_model": done.model.base,
        "adapter": done.model.adapter,
        "dataset": done.label,
        "questions": done.questions,
        "result": done.result,
        "verdict": verdict_of(done.result or {}),
    }


def verdict_of(result: Mapping[str, Any]) -> str:
    """The plain sentences about a result, in the person's language."""
    from tunesmith.evaluation.verdict import verdict

    return verdict(result).message(language())


def show_figures(result: Mapping[str, Any]) -> None:
    """A row a figure: its value with the 95 % interval; with a comparison also the base's and the difference."""
    compared = "base" in result
    columns = [say("指标", "metric"), say("微调 [95%]", "tuned [95%]") if compared else say("值 [95%]", "value [95%]")]
    if compared:
        columns += [
            say("基座 [95%]", "base [95%]"),
            say("差 [95%]", "difference [95%]"),
            "p",
            say("显著", "significant"),
        ]
    rows: list[Sequence[object]] = []
    for name, figure in result["metrics"].items():
        row: list[object] = [name, _with_interval(figure)]
        if compared:
            change = result["difference"][name]
            certain = say("是", "yes") if change["significant"] else say("否", "no")
            row += [_with_interval(result["base"][name]), _with_interval(change), f"{change['p']:.3f}", certain]
        rows.append(row)
    table(columns, rows)


def _with_interval(figure: Mapping[str, Any]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[float], None]]:
    """A progress bar on standard error, moved by the share done; lines now and then where that is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = console(stderr=True)
    if not screen.is_terminal:
        note(f"{title} ({total})")
        yield lambda share: None
        return
    drawn = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=screen
    )
    with drawn:
        task = drawn.add_task(title, total=total)
        yield lambda share: drawn.update(task, completed=round(share * total))


def _questions(services: "Services", dataset: str) -> Iterator["Question"]:
    """As ``questions_in``; any other file of this machine is read where it lies."""
    from tunesmith.cli.data import outside_home
    from tunesmith.datasets.reading import read_file
    from tunesmith.evaluation.service import Question

    path = outside_home(services.home, dataset)
    if path is None:
        yield from questions_in(services, dataset)
        return
    found = False
    for example in read_file(path):
        found = True
        yield Question(example.prompt, example.completion)
    if not found:
        raise Invalid(f"{dataset} 中没有样本", f"{dataset} holds no example", field="dataset")
