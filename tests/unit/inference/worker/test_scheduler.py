"""Continuous batching: mixed rows speak as when alone, callers take turns, and leaving rows give back what they held."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.tiny_model import CONTEXT
from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker.events import Ended, Failed, RowEvent, Text
from tunesmith.inference.worker.lora import AdapterWeights
from tunesmith.inference.worker.model import LanguageModel
from tunesmith.inference.worker.row import Row
from tunesmith.inference.worker.scheduler import PREFILL_BUDGET, Scheduler
from tunesmith.inference.worker.tokens import Tokens
from tunesmith.kernel.problems import Invalid, Unavailable

GREEDY = Sampling(max_new_tokens=32, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)


class Bench:
    """A scheduler stepped by hand, and everything its rows reported."""

    def __init__(self, model: LanguageModel, tokens: Tokens, *, max_rows: int = 64, ends: bool = True) -> None:
        self.model, self.tokens = model, tokens
        self.events: list[tuple[Row, RowEvent]] = []
        self.deliveries = 0
        self.scheduler = Scheduler(
            model, tokens.decode, tokens.ends if ends else frozenset(), max_rows=max_rows, deliver=self._take
        )

    def _take(self, events: list[tuple[Row, RowEvent]]) -> None:
        self.deliveries += 1
        self.events += events

    def row(self, text: str, adapter: AdapterWeights | None = None, *, group: str = "", score: bool = False, **changes: object) -> Row:  # fmt: skip
        prompt = self.tokens.encode(text, special=False)
        return Row(prompt, replace(GREEDY, **changes), adapter, group, score)  # type: ignore[arg-type]

    def add(self, *rows: Row) -> None:
        for row in rows:
            self.scheduler.check(row)
            self.scheduler.add(row)

    def step(self, times: int = 1) -> None:
        with torch.inference_mode():
            for _ in range(times):
                self.scheduler.step()

    def finish(self) -> None:
        while not self.scheduler.idle:
            self.step()

    def text(self, row: Row) -> str:
        return "".join(event.text for owner, event in self.events if owner is row and isinstance(event, Text))

    def end(self, row: Row) -> Ended:
        (end,) = [event for owner, event in self.events if owner is row and isinstance(event, Ended)]
        return end


@pytest.fixture
def bench(model: LanguageModel, tokens: Tokens) -> Bench:
    return Bench(model, tokens)


@pytest.fixture(scope="module")
def worn(model: LanguageModel, adapters: list[Path]) -> list[AdapterWeights | None]:
    return [None, *(model.lora.read(folder.name, folder) for folder in adapters)]


@pytest.fixture(scope="module")
def references(base: Path, adapters: list[Path]) -> list[Callable[[Row], list[int]]]:
    """Greedy completions by transformers (bare base) and peft (each adapter)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        bare = AutoModelForCausalLM.from_pretrained(base)
        worn = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapters[0], adapter_name="1")
        worn.load_adapter(adapters[1], "2")

    def generate(which: int) -> Callable[[Row], list[int]]:
        def run(row: Row) -> list[int]:
            if which:
                worn.set_adapter(str(which))
            ids = torch.tensor([list(row.prompt)])
            out = (worn if which else bare).generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=row.sampling.max_new_tokens,
                do_sample=False,
            )
            completion: list[int] = out[0, ids.shape[1] :].tolist()
            return completion

        return run

    return [generate(which) for which in range(3)]


def test_rows_that_join_and_leave_a_mixed_batch_speak_as_transformers_and_peft_alone(
    bench: Bench, worn: list[AdapterWeights | None], references: list[Callable[[Row], list[int]]]
) -> None:
    rows = [
        bench.row("<|im_start|>user\n" + "Ada river " * (n % 9) + f"{n}", worn[n % 3], max_new_tokens=8 + 5 * (n % 7))
        for n in range(24)
    ]
    for n, row in enumerate(rows):
        bench.add(row)
        if n % 4 == 3:
            bench.step()
    bench.finish()
    assert [row.tokens for row in rows] == [references[n % 3](row) for n, row in enumerate(rows)]
    assert bench.model.cache.allocated == 0


def test_a_prompt_read_in_chunks_beside_decoding_rows_gives_the_same(
    bench: Bench, references: list[Callable[[Row], list[int]]]
) -> None:
    early = bench.row("hello", max_new_tokens=40)
    bench.add(early)
    bench.step(2)
    long = [bench.row(f"{n} " + "Ada river town " * 44, max_new_tokens=20) for n in range(4)]
    assert sum(len(row.prompt) for row in long) > PREFILL_BUDGET
    bench.add(*long)
    bench.step()
    assert len(early.tokens) > 2  # a long prompt holds nobody up
    bench.finish()
    assert [row.tokens for row in [early, *long]] == [references[0](row) for row in [early, *long]]


def test_a_row_grows_over_the_arena_borders(bench: Bench, references: list[Callable[[Row], list[int]]]) -> None:
    bench = Bench(bench.model, bench.tokens, ends=False)
    row, other = bench.row("hello", max_new_tokens=300), bench.row("你好", max_new_tokens=270)
    bench.add(row, other)
    bench.finish()
    assert len(row.tokens) == 300
    expected = references[0](row)  # stops at its end token, we were told not to
    assert row.tokens[: len(expected)] == expected
    assert bench.model.cache.allocated == 0


def test_sampled_rows_draw_the_same_alone_and_in_company(bench: Bench) -> None:
    heat = {"temperature": 0.9, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1}
    rows = [bench.row(f"tell me {n}", seed=n, **heat) for n in range(6)]
    bench.add(*rows)
    bench.finish()
    for n, row in enumerate(rows):
        alone = bench.row(f"tell me {n}", seed=n, **heat)
        bench.add(alone)
        bench.finish()
        assert alone.tokens == row.tokens


def test_text_stops_at_a_stop_string_that_lies_across_tokens(bench: Bench) -> None:
    free = Bench(bench.model, bench.tokens, ends=False)
    whole = free.row("hello")
    free.add(whole)
    free.finish()
    text = free.text(whole)
    stop = text[5:11]
    row = free.row("hello", stop=(stop,))
    free.add(row)
    free.finish()
    assert free.text(row) == text[: text.index(stop)]
    assert free.end(row).finish == "stop"
    assert free.end(row).completion_tokens == len(row.tokens) < len(whole.tokens)


def test_no_row_takes_more_than_its_context(bench: Bench) -> None:
    free = Bench(bench.model, bench.tokens, ends=False)
    row = Row([7] * (CONTEXT - 3), replace(GREEDY, max_new_tokens=1000))
    free.add(row)
    free.finish()
    assert len(row.tokens) == 3
    assert free.end(row).finish == "length"
    with pytest.raises(Invalid) as refused:
        free.scheduler.check(Row([7] * CONTEXT, GREEDY))
    assert refused.value.details == {"prompt_tokens": CONTEXT, "context_length": CONTEXT}


def test_canceled_rows_are_gone_at_the_next_step_and_the_others_go_on(bench: Bench) -> None:
    free = Bench(bench.model, bench.tokens, ends=False, max_rows=8)
    rows = [free.row(f"hello {n}", max_new_tokens=50) for n in range(12)]
    free.add(*rows)
    free.step(3)
    assert (free.scheduler.running, free.scheduler.waiting) == (7, 5)
    rows[0].canceled = rows[1].canceled = rows[11].canceled = True
    spoken = len(rows[0].tokens)
    free.step()
    assert (free.scheduler.running, free.scheduler.waiting) == (7, 2)
    free.finish()
    assert len(rows[0].tokens) == spoken
    assert not [event for owner, event in free.events if owner is rows[0] and isinstance(event, Ended)]
    assert all(len(row.tokens) == 50 for row in rows[2:11])
    assert free.model.cache.allocated == 0


def test_a_caller_with_one_row_does_not_wait_behind_one_with_hundreds(bench: Bench) -> None:
    free = Bench(bench.model, bench.tokens, ends=False, max_rows=8)
    many = [free.row(f"question {n}", group="evaluation", max_new_tokens=200) for n in range(40)]
    free.add(*many)
    free.step(2)
    question = free.row("hello", group="chat", max_new_tokens=5)
    free.add(question)
    free.step(6)
    assert free.end(question).completion_tokens == 5
    for row in many:
        row.canceled = True
    free.step()
    assert free.scheduler.idle


def test_waiting_callers_take_turns(bench: Bench) -> None:
    free = Bench(bench.model, bench.tokens, ends=False, max_rows=4)
    first = [free.row(f"a {n}", group="a", max_new_tokens=4) for n in range(6)]
    second = [free.row(f"b {n}", group="b", max_new_tokens=4) for n in range(6)]
    free.add(*first, *second)
    free.step()
    assert sum(row.lease is not None for row in first) == sum(row.lease is not None for row in second) == 2
    free.finish()
    order = [row.group for row, event in free.events if isinstance(event, Ended)]
    assert sorted(order[:4]) == sorted(order[4:8]) == ["a", "a", "b", "b"]


def test_rows_wait_while_the_cache_is_full_and_all_end(base: Path, tokens: Tokens) -> None:
    model = LanguageModel(base, cache_bytes=0)
    model.cache.limit = 3 * model.cache.cost(100)
    free = Bench(model, tokens, ends=False)
    rows = [free.row(f"hello {n}", max_new_tokens=20) for n in range(7)]
    free.add(*rows)
    free.step()
    assert (free.scheduler.running, free.scheduler.waiting) == (3, 4)
    free.finish()
    assert all(len(row.tokens) == 20 for row in rows)
    with pytest.raises(Invalid):  # would never fit, so it is told now
        model.cache.limit = 1
        free.scheduler.check(rows[0])


def test_what_a_step_has_to_say_leaves_at_once(bench: Bench) -> None:
    free = Bench(bench.model, bench.tokens, ends=False)
    rows = [free.row("the mayor", max_new_tokens=6) for _ in range(8)]
    free.add(*rows)
    free.finish()
    assert free.deliveries <= 6
    assert all(free.text(row) == free.text(rows[0]) for row in rows)


def test_scores_are_those_of_one_plain_forward(bench: Bench, base: Path, worn: list[AdapterWeights | None]) -> None:
    texts = ["Ada river " * 90, "hello 你好", "x"]
    rows = [bench.row(text, score=True, max_new_tokens=0) for text in texts]
    tuned = bench.row(texts[1], worn[1], score=True, max_new_tokens=0)
    beside = bench.row("hello", max_new_tokens=10)
    bench.add(beside, *rows, tuned)
    bench.finish()
    plain = AutoModelForCausalLM.from_pretrained(base)
    for row in rows:
        with torch.no_grad():
            shares = plain(torch.tensor([list(row.prompt)])).logits[0].log_softmax(-1)
        expected = [float(shares[i, token]) for i, token in enumerate(row.prompt[1:])]
        assert bench.end(row).logprobs == pytest.approx(expected, abs=2e-4)
        assert bench.end(row).completion_tokens == 0
    assert bench.end(tuned).logprobs != pytest.approx(bench.end(rows[1]).logprobs, abs=0.1)


def test_numbers_that_are_not_finite_end_their_row_and_spoil_no_other(
    bench: Bench, worn: list[AdapterWeights | None], references: list[Callable[[Row], list[int]]]
) -> None:
    good = worn[1]
    assert good is not None
    broken = AdapterWeights(
        "broken", good.path, good.rank, {n: replace(w, A=w.A * torch.inf) for n, w in good.sites.items()}
    )
    sick, well = bench.row("hello", broken), bench.row("hello")
    bench.add(sick, well)
    bench.finish()
    (failed,) = [event for owner, event in bench.events if owner is sick]
    assert isinstance(failed, Failed)
    assert "broken" in failed.problem.en
    after = bench.row("hello")
    bench.add(after)
    bench.finish()
    assert well.tokens == after.tokens == references[0](well)


def test_a_step_that_fails_ends_its_rows_with_a_reason_and_the_next_ones_work(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [bench.row(f"hello {n}") for n in range(3)]
    bench.add(*rows)
    bench.step()

    def fails(step: object) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(bench.model, "forward", fails)
    bench.step()
    monkeypatch.undo()
    problems = [event.problem for _, event in bench.events if isinstance(event, Failed)]
    assert len(problems) == 3
    assert all(isinstance(problem, Unavailable) and "failed inside" in problem.en for problem in problems)
    assert bench.scheduler.idle
    assert bench.model.cache.allocated == 0
    again = bench.row("hello 0")
    bench.add(again)
    bench.finish()
    assert again.tokens
