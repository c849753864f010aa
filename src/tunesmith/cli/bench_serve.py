"""``tunesmith bench serve``: how fast a model answers on this machine, alone and under load."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.load import Figures, Questions, load, words_for
from tunesmith.cli.screen import HomeOption, JsonOption, note, say, show_json, table, verb, wrong_usage
from tunesmith.cli.session import run_inside
from tunesmith.kernel.problems import Invalid
from tunesmith.models.model import Model

if TYPE_CHECKING:
    from tunesmith.app import Services
    from tunesmith.inference.engine import Engine

HELP = say(
    "模型的服务速度：不同并发下的吞吐、首词元与词元间隔（可混合基座与适配器；--url 测任何 OpenAI 接口的服务）",
    "How fast a model is served. Tokens per second, first token and time between tokens at several loads, base and "
    "adapters mixed; --url asks any server that speaks the OpenAI wire.",
)
_KEY = "TUNESMITH_BENCH_API_KEY"
_LIST_S = 10.0
_ROUNDS = 4  # requests of each caller where neither a number nor a time is given


@dataclass(frozen=True, slots=True)
class _Plan:
    model: str | None
    adapters: list[str]
    loads: list[int]
    prompt_tokens: int
    new_tokens: int
    requests: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is measured: its name, the models asked in turn, and how much memory it takes, where that is known."""

    engine: "Engine"
    name: str
    models: list[Model]
    rss: Callable[[], int | None]


@verb
def serve(
    model: Annotated[
        str | None,
        typer.Option(
            help=say(
                "基座模型；默认为自带的小模型，用 --url 时为服务列出的第一个",
                "Base model; the shipped small one, or with --url the first that the server lists.",
            ),
            show_default=False,
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help=say("适配器，可重复：与基座轮流提问", "Adapter, may be repeated: asked in turn with the base."),
        ),
    ] = None,
    concurrency: Annotated[
        str, typer.Option(metavar="N,N", help=say("并发数", "How many callers at once, one run for each number."))
    ] = "1,8,32",
    prompt_tokens: Annotated[
        int, typer.Option(min=1, help=say("每个提示约多少词元", "Tokens of a prompt, about."))
    ] = 128,
    new_tokens: Annotated[int, typer.Option(min=1, help=say("每个回答最多多少词元", "Most tokens of an answer."))] = 64,
    requests: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=say(
                "每种并发的请求数；默认为并发数的 4 倍", "Requests at each load; four for each caller by default."
            ),
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            help=say("每种并发测多少秒，代替 --requests", "Seconds at each load, instead of --requests."),
            show_default=False,
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help=say(
                f"测正在运行的服务（OpenAI 接口）；需要密钥时放入环境变量 {_KEY}",
                f"A running server that speaks the OpenAI wire; put its key, if it wants one, into {_KEY}.",
            ),
            show_default=False,
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """See HELP."""
    if requests is not None and seconds is not None:
        raise wrong_usage("--requests 与 --seconds 不能同时使用", "--requests and --seconds exclude each other")
    plan = _Plan(model, adapter or [], _loads(concurrency), prompt_tokens, new_tokens, requests, seconds)
    if url is not None:
        name, found = asyncio.run(_of_a_server(url.rstrip("/"), plan))
    else:
        name, found = run_inside(home, lambda services: _of_this_machine(services, plan))
    if as_json:
        show_json({"subject": name, "loads": [asdict(figures) | {"rss": rss} for figures, rss in found]})
        return
    _show(name, found)


def _loads(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(1 <= each <= 4096 for each in found):
        raise wrong_usage(
            f"--concurrency 应为以逗号分隔的 1 到 4096 的整数，得到 {text!r}",
            f"--concurrency must be whole numbers from 1 to 4096 with commas between, got {text!r}",
        )
    return found


async def _of_this_machine(services: "Services", plan: _Plan) -> tuple[str, list[tuple[Figures, int | None]]]:
    from tunesmith.training.first_recipe import RECIPE

    base = plan.model or RECIPE.base_model
    models = [Model(base), *(Model(base, adapter) for adapter in plan.adapters)]
    for each in models:
        await services.engines.prepare(each)

    def rss() -> int | None:
        return sum(status.rss for status in services.engines.status()) or None

    return await _measured(_Subject(services.engines, base, models, rss), plan)


async def _of_a_server(url: str, plan: _Plan) -> tuple[str, list[tuple[Figures, int | None]]]:
    async with _asking(url, plan) as subject:
        return await _measured(subject, plan)


@asynccontextmanager
async def _asking(url: str, plan: _Plan) -> AsyncIterator[_Subject]:
    from tunesmith.inference.engines import refusals
    from tunesmith.inference.engines.answer import Label
    from tunesmith.inference.engines.openai import OpenAIEngine
    from tunesmith.inference.engines.upstream import Upstream

    label = Label("该服务", "the server", "请检查 --url", "check --url")
    key = os.environ.get(_KEY, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    upstream = Upstream(url.removesuffix("/v1"), label, partial(refusals.refused, label), headers=lambda: headers)
    engine = OpenAIEngine(upstream)
    try:
        name = plan.model or await _first_model(engine)
        yield _Subject(engine, name, [Model(name), *(Model(name, each) for each in plan.adapters)], lambda: None)
    finally:
        await engine.close()


async def _first_model(engine: Any) -> str:
    async with asyncio.timeout(_LIST_S):
        listed = await engine.ask("GET", "/v1/models", None, dict[str, Any])
    names = [each["id"] for each in listed.get("data") or [] if isinstance(each, dict) and each.get("id")]
    if not names:
        raise Invalid("该服务没有列出模型，请用 --model 指明", "the server lists no model; name one with --model")
    return str(names[0])


async def _measured(subject: _Subject, plan: _Plan) -> tuple[str, list[tuple[Figures, int | None]]]:
    note(say("预热……", "warming up ..."))
    words = await words_for(subject.engine, subject.models[0], plan.prompt_tokens)
    questions = Questions(subject.models, words=words, new_tokens=plan.new_tokens)
    found = []
    for callers in plan.loads:
        requests = plan.requests or (None if plan.seconds is not None else _ROUNDS * callers)
        note(say(f"并发 {callers}……", f"{callers} at once ..."))
        figures = await load(subject.engine, questions, callers, requests=requests, seconds=plan.seconds)
        found.append((figures, subject.rss()))
    return subject.name, found


def _show(name: str, found: list[tuple[Figures, int | None]]) -> None:
    columns = [
        say("并发", "at once"),
        say("请求", "requests"),
        say("词元/秒", "tokens/s"),
        say("首词元 p50 秒", "first token p50, s"),
        "p99",
        say("间隔 p50 毫秒", "between tokens p50, ms"),
        "p99",
        say("内存 MB", "memory, MB"),
    ]
    rows: list[list[object]] = [
        [
            each.concurrency,
            each.requests,
            each.tokens_per_s,
            *each.first_token_s,
            *(seconds * 1000 for seconds in each.inter_token_s),
            round(rss / 1e6) if rss else "",
        ]
        for each, rss in found
    ]
    last = found[-1][0]
    table(
        columns,
        rows,
        title=say(
            f"{name}：提示约 {last.prompt_tokens:.0f} 词元，回答平均 {last.new_tokens:.0f} 词元",
            f"{name}: prompts of about {last.prompt_tokens:.0f} tokens, answers of {last.new_tokens:.0f} on average",
        ),
    )
    if failed := sum(each.failed for each, _ in found):
        note(say(f"{failed} 个请求失败", f"{failed} requests failed"))
