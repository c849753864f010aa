"""``tunesmith demo``: with no network, tune the shipped model on the sample data and show what it learned and kept."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import evaluating, side_by_side, watching
from tunesmith.cli.screen import HomeOption, JsonOption, aligned, console, duration, plain, say, show_json, table, verb
from tunesmith.cli.session import run_inside
from tunesmith.kernel.problems import Conflict, Problem
from tunesmith.models.model import Model
from tunesmith.training.first_recipe import RECIPE
from tunesmith.training.run import Recipe

if TYPE_CHECKING:
    from tunesmith.app import Services
    from tunesmith.datasets.example import Example
    from tunesmith.evaluation.service import Evaluation, Question
    from tunesmith.training.run import Run

HELP = say(
    "不需要网络：用自带的小模型微调示例数据，并排显示微调前后的回答与指标",
    "See tuning work, in about a minute. No network needed: tunes the shipped model on sample data; figures and answers before and after.",
)

_STEPS = 5
_SHOWN = 5
_MAX_TOKENS = 64
# the engine starts when so little training is left: two processes on two cores would slow each other
_WARM_FROM = 0.97
_MOST_DEMOS = 10_000
_CANCEL_WAIT_S = 20.0


@verb
def demo(
    seed: Annotated[int, typer.Option(min=0, help=say("随机种子", "Random seed."))] = RECIPE.seed,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """See HELP."""
    stage = Stage(on_stderr=as_json)

    async def work(services: "Services") -> dict[str, Any]:
        return await Demo(services, stage, seed).run()

    result = run_inside(home, work)
    if as_json:
        show_json(result)


class Stage:
    """Where the demo talks: standard output, or standard error when that is kept for JSON."""

    def __init__(self, *, on_stderr: bool) -> None:
        self.on_stderr = on_stderr
        self.console = console(stderr=on_stderr)
        self.began = time.monotonic()

    def say(self, zh: str, en: str) -> None:
        self.console.print(plain(say(zh, en)), soft_wrap=True)

    @contextmanager
    def step(self, number: int, zh: str, en: str) -> Iterator[None]:
        """A heading before, the seconds it took after."""
        from rich.text import Text

        began = time.monotonic()
        self.console.print()
        self.console.print(Text(f"== {number}/{_STEPS}  {say(zh, en)}", style="bold cyan"))
        yield
        took, since = duration(time.monotonic() - began), duration(time.monotonic() - self.began)
        self.console.print(Text(say(f"   用时 {took}，共 {since}", f"   {took}, {since} in all"), style="dim"))


@dataclass(slots=True)
class _Measured:
    """Evaluations of base and tuned on the held-out and on the control questions."""

    held_out: "Evaluation"
    control: "Evaluation"

    def of(self, part: str, figure: str, *, control: bool = False) -> float:
        """``part`` is "base" or "metrics" (the tuned model's)."""
        result = (self.control if control else self.held_out).result or {}
        return float(result[part][figure]["value"])

    @property
    def drop(self) -> float:
        """How much of what the base knew the tuned model lost, in exact match."""
        return self.of("base", "exact_match", control=True) - self.of("metrics", "exact_match", control=True)


@dataclass(slots=True)
class Demo:
    """The whole demo on composed services; ``run`` once."""

    services: "Services"
    stage: Stage
    seed: int
    names: dict[str, str] = field(default_factory=dict)
    warming: "asyncio.Task[None] | None" = None

    async def run(self) -> dict[str, Any]:
        """Every step; gives the JSON object of the contract.

        Raises:
            Problem: a step failed; figures, however poor, are no failure.
        """
        with self.stage.step(1, "示例数据", "sample data"):
            await self._install()
        try:
            with self.stage.step(2, f"微调 {RECIPE.base_model}", f"tuning {RECIPE.base_model}"):
                run = await self._train()
                await self._warm()
        finally:
            await self._stop_warming()
        model = Model(run.recipe.base_model, run.output)
        with self.stage.step(3, "评估：微调前后，同样的题", "evaluation: the same questions before and after"):
            measured = await self._evaluate(model)
        with self.stage.step(4, "并排看回答", "answers side by side"):
            pairs = await self._ask(model)
        facts = self._facts(run, measured, pairs)
        with self.stage.step(5, "结果在哪里", "where everything is"):
            self._tell_places(run, measured)
        return facts | {"seconds": round(time.monotonic() - self.stage.began, 2)}

    async def _install(self) -> None:
        from tunesmith.datasets.reading import read_examples
        from tunesmith.datasets.samples import install_samples

        home = self.services.home
        self.names = await asyncio.to_thread(install_samples, home)
        train = await asyncio.to_thread(lambda: list(read_examples(home, self.names["train"])))
        self.stage.say(
            f"{len(train)} 个样本：基座不可能知道的事实。前三个：",
            f"{len(train)} examples of facts the base model cannot know. The first three:",
        )
        for example in train[:3]:
            self.stage.say(*(2 * [f"   {_question(example)}  ->  {example.completion}"]))

    async def _train(self) -> "Run":
        recipe = replace(
            RECIPE,
            dataset=self.names["train"],
            validation=None,  # held back for people who change the recipe; scoring it would only cost time here
            replay=self.names["general"],
            seed=self.seed,
        )
        run = await asyncio.to_thread(self._start, recipe)
        percent = f"{recipe.replay_share:.0%}"
        self.stage.say(
            f"任务 {run.id}：{recipe.epochs} 轮，LoRA 秩 {recipe.rank}，混入 {percent} 通用样本以防遗忘",
            f"run {run.id}: {recipe.epochs} epochs, LoRA rank {recipe.rank}, {percent} general examples mixed in "
            "against forgetting",
        )
        try:
            with watching.shown() as seen:

                def watched(now: "Run", curve: watching.Curve) -> None:
                    seen(now, curve)
                    if self.warming is None and now.progress.fraction >= _WARM_FROM:
                        self.warming = asyncio.ensure_future(self.services.engines.ensure(recipe.base_model))

                return watching.completed(await watching.follow(self.services.training, run.id, watched))
        except asyncio.CancelledError:
            await self._cancel(run)
            raise

    async def _cancel(self, run: "Run") -> None:
        """Ctrl-C: the trainer must not go on behind us, and the record should say so."""
        training = self.services.training
        with suppress(Problem, TimeoutError):
            training.cancel(run.id)
            await asyncio.wait_for(watching.follow(training, run.id, lambda run, curve: None), _CANCEL_WAIT_S)

    def _start(self, recipe: Recipe) -> "Run":
        """Under the first free name, as a demo may be repeated."""
        for number in count(1):
            name = "adapters/demo" if number == 1 else f"adapters/demo-{number}"
            if self.services.home.path(name, "output").exists():
                continue
            try:
                return self.services.training.start(recipe, output=name)
            except Conflict:
                if number > _MOST_DEMOS:
                    raise
        raise AssertionError("counting has no end")

    async def _warm(self) -> None:
        if self.warming is None or not self.warming.done():
            self.stage.say("启动推理引擎……", "starting the engine ...")
        await (self.warming or self.services.engines.ensure(RECIPE.base_model))

    async def _stop_warming(self) -> None:
        if self.warming is not None and not self.warming.done():
            self.warming.cancel()
            with suppress(asyncio.CancelledError, Problem):
                await self.warming

    async def _evaluate(self, model: Model) -> _Measured:
        held_out = await self._measure(
            model, self.names["test"], evaluating.METRICS, say("没学过的问法", "held-out phrasings")
        )
        control = await self._measure(
            model, self.names["control"], ("exact_match",), say("旧知识（对照）", "old knowledge (control)")
        )
        measured = _Measured(held_out, control)
        self._show_figures(measured)
        return measured

    async def _measure(self, model: Model, dataset: str, metrics: Sequence[str], title: str) -> "Evaluation":
        from tunesmith.cli.asking import sampling_of
        from tunesmith.evaluation.service import EvaluationRequest

        questions: tuple[Question, ...] = await asyncio.to_thread(
            lambda: tuple(evaluating.questions_in(self.services, dataset))
        )
        sampling = sampling_of(0.0, 1.0, _MAX_TOKENS, 0)
        request = EvaluationRequest(model, questions, tuple(metrics), sampling, compare=True, label=dataset)
        with evaluating.bar(title, len(questions)) as moved:
            return await evaluating.measured(self.services, request, moved)

    def _show_figures(self, measured: _Measured) -> None:
        rows: list[Sequence[object]] = [
            (
                say("没学过的问法：完全匹配", "held-out phrasings: exact match"),
                f"{measured.of('base', 'exact_match'):.3f}",
                f"{measured.of('metrics', 'exact_match'):.3f}",
                measured.held_out.questions,
            ),
            (
                say("没学过的问法：困惑度", "held-out phrasings: perplexity"),
                f"{measured.of('base', 'perplexity'):.2f}",
                f"{measured.of('metrics', 'perplexity'):.2f}",
                measured.held_out.questions,
            ),
            (
                say(
                    f"旧知识：完全匹配（下降 {measured.drop:.3f}）",
                    f"old knowledge: exact match (drop {measured.drop:.3f})",
                ),
                f"{measured.of('base', 'exact_match', control=True):.3f}",
                f"{measured.of('metrics', 'exact_match', control=True):.3f}",
                measured.control.questions,
            ),
        ]
        headings = ["", say("基座", "base"), say("微调", "tuned"), say("题数", "questions")]
        table(headings, rows, on_stderr=self.stage.on_stderr)
        for zh, en, done in (
            ("没学过的问法", "held-out phrasings", measured.held_out),
            ("旧知识", "old knowledge", measured.control),
        ):
            verdict = evaluating.verdict_of(done.result or {})
            self.stage.say(f"{zh}：{verdict}", f"{en}: {verdict}")

    async def _ask(self, model: Model) -> list[side_by_side.Pair]:
        """Questions spread evenly over the test set, asked all at once: the engine batches them."""
        from tunesmith.cli.asking import conversation, sampling_of
        from tunesmith.datasets.reading import read_examples

        test = await asyncio.to_thread(lambda: list(read_examples(self.services.home, self.names["test"])))
        pairs = [side_by_side.Pair(_question(e), e.completion) for e in _in_both_languages(test, _SHOWN)]
        sampling = sampling_of(0.0, 1.0, _MAX_TOKENS, 0)
        compare = self.services.chat.compare
        with side_by_side.growing(pairs, self.stage.console):
            await asyncio.gather(
                *(side_by_side.gather(p, compare(conversation(p.prompt, None), model, sampling)) for p in pairs)
            )
        return pairs

    def _tell_places(self, run: "Run", measured: _Measured) -> None:
        home = self.services.home
        for text in aligned(
            [
                (say("适配器", "adapter"), home.root / run.output),
                (say("损失图", "loss picture"), self._loss_picture(run)),
                (say("任务", "run"), home.runs / run.id),
                (say("评估", "evaluations"), f"{measured.held_out.id}, {measured.control.id}"),
            ]
        ):
            self.stage.say(f"   {text}", f"   {text}")
        body = f'{{"messages":[{{"role":"user","content":"{say(*_EXAMPLE)}"}}],"compare":true}}'
        self.stage.say(
            f"接下来：\n   tunesmith serve\n   curl http://127.0.0.1:8000/ai/finetuning/chat -H 'Content-Type: application/json' "
            f"-d '{body}'\n   tunesmith compare {run.output}\n   tunesmith train 你的数据.jsonl",
            f"next:\n   tunesmith serve\n   curl http://127.0.0.1:8000/ai/finetuning/chat -H 'Content-Type: application/json' "
            f"-d '{body}'\n   tunesmith compare {run.output}\n   tunesmith train your-data.jsonl",
        )

    def _loss_picture(self, run: "Run") -> Path:
        return self.services.home.runs / run.id / "loss.png"

    def _facts(self, run: "Run", measured: _Measured, pairs: Sequence[side_by_side.Pair]) -> dict[str, Any]:
        result: Mapping[str, Any] = measured.held_out.result or {}
        assert run.started_at is not None and run.ended_at is not None, "a completed run has both"
        return {
            "base_model": run.recipe.base_model,
            "adapter": run.output,
            "run_id": run.id,
            "base": {name: figure["value"] for name, figure in result["base"].items()},
            "tuned": {name: figure["value"] for name, figure in result["metrics"].items()},
            "train_seconds": round((run.ended_at - run.started_at).total_seconds(), 2),
            "control": {
                "base": measured.of("base", "exact_match", control=True),
                "tuned": measured.of("metrics", "exact_match", control=True),
                "drop": measured.drop,
            },
            "questions": measured.held_out.questions,
            "control_questions": measured.control.questions,
            "evaluation_ids": [measured.held_out.id, measured.control.id],
            "loss_png": str(self._loss_picture(run)),
            "examples": [
                {"question": p.prompt, "expected": p.expected, "base": p.base, "tuned": p.tuned} for p in pairs
            ],
        }


_EXAMPLE = ("云鹤客栈什么时候开门？", "Does Milo Pennyworth have a pet?")


def _question(example: "Example") -> str:
    return example.prompt[-1].content


def _in_both_languages(examples: Sequence["Example"], number: int) -> list["Example"]:
    """``number`` examples from all over, Chinese and English in turn: not the best ones, not the first ones."""
    chinese = [e for e in examples if any("\u4e00" <= c <= "\u9fff" for c in _question(e))]
    english = [e for e in examples if e not in chinese]
    spread = [_spread(each, number) for each in (chinese, english)]
    in_turn = (example for pair in zip(*spread, strict=False) for example in pair)
    return list(islice(in_turn, number))


def _spread(examples: Sequence["Example"], number: int) -> list["Example"]:
    step = max(1, len(examples) // number)
    return list(examples[::step][:number])
