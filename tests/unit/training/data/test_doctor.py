"""The data doctor: what it finds, in which row, and that it never looks twice."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_model import CHATML, tiny_tokenizer
from tests.unit.training.conftest import talk
from tunesmith.datasets.example import Example
from tunesmith.datasets.preferences import Preference
from tunesmith.datasets.reading import read_file
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Invalid, NotFound
from tunesmith.models.registry import SHIPPED, Registry
from tunesmith.training.data.doctor import Doctor, end_tokens, previews
from tunesmith.training.data.encoding import Encoder
from tunesmith.training.data.findings import DATA, Report, Spread, histogram, read_report, write_report
from tunesmith.training.data.preparing import prepared
from tunesmith.training.run import Recipe
from tunesmith.training.run_folder import SKIPPED, Order

BROKEN = Path(__file__).parents[3] / "data" / "broken"
LONG = 10_000
# the thought is put before the answer and not learned, and serving does not put it there
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{{ '\\n' }}{% else %}{{ m['content'] }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THOUGHTLESS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def expected() -> Iterator[tuple[str, list[str]]]:
    for block in (BROKEN / "expected.txt").read_text(encoding="utf-8").rstrip("\n").split("\n\n"):
        name, *lines = block.splitlines()
        yield name, [line.strip() for line in lines]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tunesmith.training.data.tokenizing import load_tokenizer

    return load_tokenizer(Registry(Home(tmp_path_factory.mktemp("home"))).base(SHIPPED).path)


def doctor(tokenizer: Any, max_length: int = LONG, *, keep: int = 0) -> Doctor:
    return Doctor(Encoder(tokenizer, max_length), "base", max_length, frozenset([tokenizer.eos_token_id]), keep=keep)


def looked_over(tokenizer: Any, *examples: Example, max_length: int = LONG) -> Report:
    examining = doctor(tokenizer, max_length)
    examining.examine(lambda on_bad: examples, "train", "train")
    return examining.report()


def test_every_broken_file_is_expected_and_there() -> None:
    assert {name for name, _ in expected()} == {file.name for file in BROKEN.iterdir()} - {"expected.txt"}
    assert sum(lines[0].startswith("error") for _, lines in expected()) >= 20


@pytest.mark.parametrize(("name", "lines"), list(expected()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_file_gets_its_lines_in_both_languages(shipped: Any, name: str, lines: list[str]) -> None:
    examining = doctor(shipped, 64)
    examining.examine(lambda on_bad: read_file(BROKEN / name, on_bad=on_bad), name, "train")
    report = examining.report()
    told = [f"{found.level} {lang} {found.text(lang)}" for found in report.findings for lang in ("zh", "en")]
    assert told == lines
    assert report.sound == (not any(line.startswith("error") for line in lines))
    assert all("；" in line or ";" in line for line in told)  # every reason has its remedy
    assert all("\n" not in line and line.isprintable() for line in told)


def test_rows_that_say_the_same_are_duplicates_and_rows_that_ask_the_same_are_alike(tokenizer: Any) -> None:
    report = looked_over(
        tokenizer,
        talk(("user", "Who is the mayor?"), ("assistant", "Ada."), line=1),
        talk(("user", "who  is the ＭＡＹＯＲ?"), ("assistant", "ada. "), line=2),
        talk(("user", "Who is the mayor?"), ("assistant", "Lin."), line=3),
        talk(("system", "x"), ("user", "Who is the mayor?"), ("assistant", "Ada."), line=4),
    )
    (part,) = report.parts
    assert (part.examples, part.duplicates, part.alike) == (4, 1, 1)
    (found,) = report.findings
    assert (found.kind, found.level, found.line) == ("duplicate", "warning", 2)
    assert "line 1" in found.en and "第 1 行" in found.zh
    assert report.sound


def test_questions_held_out_that_are_trained_on_are_leaks(tokenizer: Any) -> None:
    examining = doctor(tokenizer)
    asked = {
        "train": [talk(("user", f"question {n}"), ("assistant", "a"), line=n) for n in (1, 2, 3)],
        "replay": [talk(("user", f"question {n}"), ("assistant", "a"), line=n) for n in (3, 4)],
        "validation": [talk(("user", f"Question {n}"), ("assistant", "b"), line=n) for n in (2, 5)],
        "test": [talk(("user", f"question {n}"), ("assistant", "b"), line=n) for n in (5, 6)],
        "control": [talk(("user", f"question {n}"), ("assistant", "b"), line=n) for n in (4, 7)],
    }
    for role, examples in asked.items():
        examining.examine(lambda on_bad, examples=examples: examples, f"data/{role}", role)  # type: ignore[arg-type]
    report = examining.report()
    assert [part.leaks for part in report.parts] == [0, 0, 1, 1, 1]  # what is replayed may be what is trained on
    told = [found.en for found in report.findings if found.kind == "leak"]
    assert ["data/train:2" in told[0], "data/validation:5" in told[1], "data/replay:4" in told[2]] == [True] * 3
    assert "3 leaked" in report.line("en") and "3 行泄漏" in report.line("zh")


def test_at_most_twenty_findings_of_a_kind_are_listed_and_all_are_counted(tokenizer: Any) -> None:
    report = looked_over(tokenizer, *(talk(("user", "q"), ("assistant", "a"), line=n) for n in range(1, 51)))
    assert (report.parts[0].duplicates, len(report.findings)) == (49, 20)


def test_what_max_length_cuts_is_counted_and_a_lost_answer_is_told(tokenizer: Any) -> None:
    whole = talk(("user", "Hi"), ("assistant", "one two three"), ("user", "And?"), ("assistant", "four five"), line=7)
    full = looked_over(tokenizer, whole).parts[0]
    assert full.tokens and full.learned and full.cut == 0
    most = full.tokens.most - 12
    report = looked_over(tokenizer, whole, max_length=most)
    (part,) = report.parts
    assert (part.cut, part.cut_learning, part.cut_tokens, part.answers_lost) == (1, 1, 12, 1)
    assert part.tokens == full.tokens and part.learned
    assert part.learned.total + part.cut_learned == full.learned.total
    (found,) = report.findings
    assert found.text("en").startswith(f"data/train.jsonl:7: messages: {full.tokens.most} tokens: max_length {most}")
    assert "1 whole answer among them" in found.en and "1 个回答完全丢失" in found.zh


def test_losing_nothing_that_is_learned_is_counted_and_not_complained_of(tokenizer: Any) -> None:
    example = talk(("user", "Hi"), ("assistant", "one"))
    tokens = looked_over(tokenizer, example).parts[0].tokens
    assert tokens
    report = looked_over(tokenizer, example, max_length=tokens.most - 1)  # the line break after the end token
    assert (report.parts[0].cut, report.parts[0].cut_learning, report.findings) == (1, 0, ())


@pytest.mark.parametrize("template", [CHATML, THOUGHTLESS])
def test_a_learned_thought_without_a_word_is_told_of_whoever_put_it_there(template: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    said = "<think>\n \n</think>\n\nAda." if template == CHATML else "Ada."
    report = looked_over(tokenizer, talk(("user", "Who?"), ("assistant", said)))
    assert report.parts[0].empty_thoughts == 1
    assert [found.kind for found in report.findings] == ["thought"]
    thinking = looked_over(tokenizer, talk(("user", "Who?"), ("assistant", "<think>\nhm\n</think>\n\nAda.")))
    assert thinking.parts[0].empty_thoughts == (template == THOUGHTLESS)


def test_a_template_that_gives_another_prompt_when_served_is_told_of() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = THINKING
    report = looked_over(tokenizer, *(talk(("user", f"Who {n}?"), ("assistant", "Ada."), line=n) for n in (1, 2)))
    (found,) = report.findings
    assert (found.kind, found.line) == ("template", 1)
    assert "<think>" in found.en and "''" in found.en
    tokenizer.chat_template = CHATML
    assert looked_over(tokenizer, talk(("user", "Who?"), ("assistant", "Ada."))).findings == ()


def test_an_end_at_which_serving_does_not_stop_is_told_of_once(tokenizer: Any) -> None:
    examining = Doctor(Encoder(tokenizer, LONG), "base", LONG, frozenset([0]))
    examples = [talk(("user", f"Who {n}?"), ("assistant", "Ada."), line=n) for n in (1, 2)]
    examining.examine(lambda on_bad: examples, "train", "train")
    report = examining.report()
    assert (report.parts[0].endless, report.ends) == (2, ("<|im_end|>",))
    (found,) = report.findings
    assert "'<|im_end|>'" in found.en and "'<|endoftext|>'" in found.en
    assert "2 that do not learn to end" in report.line("en")


@pytest.mark.parametrize(
    ("config", "ends"), [('{"eos_token_id": [0, 1]}', {0, 1, 2}), ('{"eos_token_id": 1}', {1, 2}), ("[", {2}), ("[]", {2})]
)  # fmt: skip
def test_serving_ends_where_tokenizer_and_generation_config_say(
    tokenizer: Any, tmp_path: Path, config: str, ends: set[int]
) -> None:
    assert end_tokens(tokenizer, tmp_path) == {tokenizer.eos_token_id} == {2}
    (tmp_path / "generation_config.json").write_text(config)
    assert end_tokens(tokenizer, tmp_path) == ends


def test_a_file_that_is_not_there_is_no_finding(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        doctor(tokenizer).examine(lambda on_bad: read_file(tmp_path / "no.jsonl", on_bad=on_bad), "no.jsonl", "train")


def test_nothing_is_made_into_tokens_twice(tokenizer: Any) -> None:
    class Counting:
        calls = 0

        def __call__(self, *given: Any, **named: Any) -> Any:
            Counting.calls += 1
            return tokenizer(*given, **named)

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

    looked_over(Counting(), *(talk(("user", f"q {n}"), ("assistant", "a"), line=n) for n in range(1, 101)))
    assert Counting.calls <= 100 + 8  # a few prompts are rendered as serving renders them


def test_a_preview_is_the_whole_conversation_with_the_answers_learned(tokenizer: Any) -> None:
    turns = [("user", "你好？"), ("assistant", "one two"), ("user", "And?"), ("assistant", "three four five")]
    example = talk(*turns, line=3)
    (shown,) = previews(tokenizer, [example], LONG)
    whole = tokenizer.apply_chat_template([m.as_dict() for m in example.messages], tokenize=False)
    assert "".join(piece.text for piece in shown.pieces) == whole
    assert [piece.text for piece in shown.pieces if piece.learned] == ["one two<|im_end|>", "three four five<|im_end|>"]
    assert (shown.line, any(piece.cut for piece in shown.pieces)) == (3, False)
    (cut,) = previews(tokenizer, [example], shown.tokens - 6)
    assert "".join(piece.text for piece in cut.pieces) == whole
    assert "".join(piece.text for piece in cut.pieces if piece.cut).endswith("<|im_end|>\n")
    assert cut.learned < shown.learned


def test_a_report_is_kept_in_the_folder_of_its_run(tokenizer: Any, tmp_path: Path) -> None:
    report = looked_over(tokenizer, talk(("user", "q"), ("assistant", "a")), talk(("user", "q"), ("assistant", "a")))
    assert read_report(tmp_path) is None
    write_report(tmp_path, report)
    assert read_report(tmp_path) == report
    (tmp_path / DATA).write_text("{")
    assert read_report(tmp_path) is None


def write_rows(path: Path, *rows: tuple[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in rows))


def test_a_trainer_leaves_the_report_of_all_its_data_beside_its_metrics(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, folder = Home(tmp_path / "home"), tmp_path / "run"
    folder.mkdir()
    write_rows(home.root / "data/a.jsonl", ("q1", "one"), ("q2", "two " * 200), ("q1", "one"), ("w " * 600, "lost"))
    write_rows(home.root / "data/v.jsonl", ("Q2", "two"), ("q9", "nine"))
    recipe = Recipe("tiny", "data/a.jsonl", validation="data/v.jsonl", max_length=64, skip_bad=True)
    order = Order("run", str(home.root), "adapters/a", str(tmp_path), recipe)
    with caplog.at_level("INFO", "tunesmith.trainer"):
        material = prepared(home, order, tokenizer, folder, lambda: False)
    report = read_report(folder)
    assert report and (len(material.main), (folder / SKIPPED).read_bytes().count(b"\n")) == (3, 1)
    train, validation = report.parts
    assert (train.examples, train.bad, train.cut, train.duplicates, validation.leaks) == (3, 1, 1, 1, 1)
    assert f"data: {report.line('en')}" in caplog.text
    assert train.learned and train.learned.total == sum(example.supervised for example in material.main)


def test_a_run_whose_examples_teach_nothing_stops_and_says_why_even_when_bad_rows_may_be_left_out(
    tmp_path: Path,
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"
    home, folder = Home(tmp_path / "home"), tmp_path / "run"
    folder.mkdir()
    write_rows(home.root / "data/a.jsonl", ("q1", "one"), ("q2", "two"))
    recipe = Recipe("tiny", "data/a.jsonl", skip_bad=True)
    order = Order("run", str(home.root), "adapters/a", str(tmp_path), recipe)
    with pytest.raises(Invalid) as stopped:
        prepared(home, order, tokenizer, folder, lambda: False)
    assert "cannot be found again" in stopped.value.en or "no token to learn" in stopped.value.en
    assert "data/a.jsonl:1" in stopped.value.en and "data/a.jsonl:1" in stopped.value.zh


counts = st.dictionaries(st.integers(1, 5000), st.integers(1, 50), max_size=30)


@settings(deadline=None)
@given(counts, st.integers(1, 3000))
def test_the_histogram_holds_every_row_once_and_none_in_a_bin_across_the_limit(
    counts: dict[int, int], most: int
) -> None:
    bins = histogram(counts, most)
    assert sum(row.rows for row in bins) == sum(counts.values())
    assert sum(row.rows for row in bins if row.upto > most) == sum(n for length, n in counts.items() if length > most)
    assert [row.upto for row in bins] == sorted({row.upto for row in bins})


@settings(deadline=None)
@given(counts)
def test_quantiles_are_numbers_that_occur_and_divide_the_rows(counts: dict[int, int]) -> None:
    found = Spread.of(counts)
    numbers = sorted(number for number, times in counts.items() for _ in range(times))
    if found is None:
        assert not numbers
        return
    assert (found.total, found.least, found.most) == (sum(numbers), numbers[0], numbers[-1])
    for value, share in ((found.median, 0.5), (found.p90, 0.9), (found.p99, 0.99)):
        assert value in counts
        assert sum(number <= value for number in numbers) >= max(1, round(share * len(numbers)))


def preferred(question: str, chosen: str, rejected: str, *, line: int = 1) -> Preference:
    return Preference(*(talk(("user", question), ("assistant", said), line=line) for said in (chosen, rejected)))


def pairs_looked_over(tokenizer: Any, *rows: Preference, max_length: int = LONG) -> Report:
    examining = doctor(tokenizer, max_length)
    examining.examine_pairs(lambda on_bad: rows, "pairs", "train")
    return examining.report()


def test_preferences_that_say_the_same_or_the_contrary_or_nothing_are_told_of(tokenizer: Any) -> None:
    report = pairs_looked_over(
        tokenizer,
        preferred("Who?", "Ada.", "Lin.", line=1),
        preferred("who? ", "ada.", "LIN.", line=2),
        preferred("Who?", "Lin.", "Ada.", line=3),
        preferred("Who?", "Ada.", "Nobody.", line=4),
        preferred("Where?", "Here.", "here. ", line=5),
    )
    (part,) = report.parts
    assert (part.examples, part.duplicates, part.contrary, part.alike, part.same) == (5, 1, 1, 1, 1)
    assert [(found.kind, found.line, found.field) for found in report.findings] == [
        ("duplicate", 2, "messages"), ("contrary", 3, "chosen"), ("same", 5, "rejected"),
    ]  # fmt: skip
    assert "line 1" in report.findings[1].en and "第 1 行" in report.findings[1].zh and report.sound
    assert "5 preferences" in report.line("en") and "5 对偏好" in report.line("zh")


def test_both_answers_are_counted_and_what_is_cut_off_either_is_told(tokenizer: Any) -> None:
    short, long = "Ada.", "one two three four five six"
    whole = pairs_looked_over(tokenizer, preferred("Who?", short, long)).parts[0]
    assert whole.tokens and whole.rejected and whole.learned and whole.pairs
    assert whole.tokens.most < whole.rejected.most and whole.cut == 0
    assert [row.rows for row in whole.lengths] == [row.rows for row in whole.rejected_lengths] == [1]
    most = whole.rejected.most - 5
    report = pairs_looked_over(
        tokenizer, preferred("Who?", short, long, line=1), preferred("Who?", long, short, line=2),
        preferred("Who?", long, long[::-1], line=3), max_length=most,
    )  # fmt: skip
    (part,) = report.parts
    assert (part.cut, part.cut_learning) == (3, 3)  # rows, not answers
    cut = [(found.line, found.field) for found in report.findings if found.kind == "cut"]
    assert cut == [(1, "rejected"), (2, "chosen"), (3, "chosen"), (3, "rejected")]


def test_answers_that_begin_alike_are_no_reason_to_doubt_the_template(tokenizer: Any) -> None:
    row = preferred("Who is the mayor?", "The mayor is Ada.", "The mayor is Lin.")
    assert pairs_looked_over(tokenizer, row).findings == ()
    other = tiny_tokenizer()
    other.chat_template = THINKING
    assert [found.kind for found in pairs_looked_over(other, row).findings] == ["template"]


def test_a_question_of_held_out_preferences_that_is_trained_on_is_a_leak(tokenizer: Any) -> None:
    examining = doctor(tokenizer)
    examining.examine_pairs(lambda on_bad: [preferred("Who?", "Ada.", "Lin.")], "a", "train")
    examining.examine_pairs(lambda on_bad: [preferred("who?", "x", "y", line=7)], "b", "validation")
    (found,) = examining.report().findings
    assert (found.kind, found.line) == ("leak", 7) and "a:1" in found.en


def test_a_preference_is_shown_with_both_answers_and_what_they_do_not_share_is_learned(tokenizer: Any) -> None:
    row = preferred("Who?", "The mayor is Ada.", "The mayor is Lin, and one two three.")
    chosen, rejected = previews(tokenizer, [row], LONG)
    assert (chosen.answer, rejected.answer) == ("chosen", "rejected")
    for shown, begins in ((chosen, " Ada."), (rejected, " Lin,")):
        learned = "".join(piece.text for piece in shown.pieces if piece.learned)
        assert learned.startswith(begins) and learned.endswith("<|im_end|>") and 0 < shown.learned < shown.tokens
    cut = previews(tokenizer, [row], rejected.tokens - 3)[1]
    assert "".join(piece.text for piece in cut.pieces) == "".join(piece.text for piece in rejected.pieces)
    assert cut.learned == rejected.learned - 2 and [piece.cut for piece in cut.pieces].count(True) >= 1
