"""Measuring: the load, what callers see, and the verb over an engine of words and over a server somewhere."""

import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.unit.cli.conftest import Invoke, error_of
from tests.upstreams.running import Upstream, vllm
from tunesmith.cli import bench
from tunesmith.cli.commands import app
from tunesmith.cli.load import Questions, load, percentile, words_for
from tunesmith.inference.engine import Delta, Done, Event, Reference, Request, Score
from tunesmith.inference.engines.scripted import ScriptedEngine
from tunesmith.kernel.problems import Unavailable
from tunesmith.models.model import Model

BASE, ONE = Model("tiny"), Model("tiny", "adapters/one")


class Counting:
    """Three words for everybody; remembers what was asked, and how many at once."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.most = 0
        self._engine = ScriptedEngine(lambda request: "one two three", delay_s=0.001)

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
        self.asked += requests
        async with aclosing(self._engine.generate(requests)) as events:
            async for event in events:
                self.most = max(self.most, self._engine.rows)
                yield event

    async def score(self, references: Sequence[Reference]) -> list[Score]:
        raise AssertionError("nobody scores")


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99), percentile([7.0], 99), percentile([], 50)) == (50, 99, 7, 0)


async def test_so_many_callers_ask_so_many_questions_of_every_model_in_turn() -> None:
    engine = Counting()
    figures = await load(engine, Questions([BASE, ONE], words=5, new_tokens=9), 4, requests=10, seconds=None)
    assert (figures.concurrency, figures.requests, figures.failed, engine.most) == (4, 10, 0, 4)
    assert sorted(str(request.model.adapter) for request in engine.asked) == ["None"] * 5 + ["adapters/one"] * 5
    assert len({str(request.prompt) for request in engine.asked}) == 10
    assert figures.new_tokens == 3
    assert figures.tokens_per_s == pytest.approx(30 / figures.seconds)
    assert 0 < figures.first_token_s[0] <= figures.first_token_s[1]
    assert 0 < figures.inter_token_s[0] <= figures.inter_token_s[1]


async def test_seconds_end_it_as_well() -> None:
    figures = await load(Counting(), Questions([BASE], words=1, new_tokens=1), 2, requests=None, seconds=0.05)
    assert figures.requests >= 2
    assert figures.seconds >= 0.05


async def test_an_engine_that_only_refuses_is_not_measured() -> None:
    @dataclass
    class Down:
        asked: int = 0

        async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
            self.asked += 1
            raise Unavailable("不在", "it is away")
            yield Delta(0, "")

    down = Down()
    with pytest.raises(Unavailable, match="away"):
        await load(down, Questions([BASE], words=1, new_tokens=1), 3, requests=None, seconds=60)  # type: ignore[arg-type]
    assert down.asked == 3


async def test_prompts_are_made_as_long_as_was_asked() -> None:
    class Counts:
        """Three tokens a word, and twelve around them."""

        async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Event, None]:
            words = len(requests[0].prompt[0].content.split())  # type: ignore[union-attr]
            yield Done(0, "length", 3 * words + 12, 1, 0.1, 0.1)

    words = await words_for(Counts(), BASE, 300)  # type: ignore[arg-type]
    assert abs(3 * words + 12 - 300) < 15


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with vllm(tmp_path_factory.mktemp("model"), "words", "--words") as upstream:
        yield upstream


def test_any_server_is_measured_by_its_address(server: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_LANG", "en")
    command = ["bench", "serve", "--url", server.url + "/v1", "--concurrency", "1,3", "--requests", "3"]
    command += ["--prompt-tokens", "20", "--new-tokens", "8"]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)
    assert measured["subject"] == "words"
    assert [each["concurrency"] for each in measured["loads"]] == [1, 3]
    assert all(
        each["new_tokens"] == 8 and each["tokens_per_s"] > 0 and each["rss"] is None for each in measured["loads"]
    )
    shown = CliRunner().invoke(app, command)
    assert "words: prompts of about 20 tokens, answers of 8 on average" in shown.stdout


def test_a_server_that_is_not_there_is_one_clear_line(tunesmith: Invoke) -> None:
    error = error_of(tunesmith("bench", "serve", "--url", "http://127.0.0.1:9", "--json"))
    assert error["kind"] == "unavailable"
    assert "--url" in error["message"]


@pytest.mark.parametrize(
    "wrong", [["--concurrency", "0"], ["--concurrency", "a,b"], ["--requests", "1", "--seconds", "1"]]
)
def test_numbers_that_cannot_be_are_wrong_usage(tunesmith: Invoke, wrong: list[str]) -> None:
    assert tunesmith("bench", "serve", *wrong).exit_code == 2


def test_bench_alone_still_measures_this_machine(
    tunesmith: Invoke, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "run_inside", lambda scratch, work: {"train_seconds": 1.5, "inside": scratch.parent})
    result = tunesmith("bench", "--json")
    assert json.loads(result.stdout) == {"train_seconds": 1.5, "inside": str(home)}
