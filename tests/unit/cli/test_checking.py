"""Data looked over from the command line: what is said, in which language, and with which exit status."""

import json
import re
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Invoke, error_of
from tests.unit.cli.test_data import write_rows
from tunesmith.cli.check_page import page
from tunesmith.cli.session import opened
from tunesmith.training.data.doctor import Doctor, previews
from tunesmith.training.data.encoding import Encoder
from tunesmith.training.data.findings import write_report

BROKEN = Path(__file__).parents[2] / "data" / "broken"


def lines_of(file: Path, language: str) -> list[str]:
    """What ``expected.txt`` has for a file in ``language``."""
    _, _, block = (BROKEN / "expected.txt").read_text(encoding="utf-8").partition(f"{file.name}\n")
    found = re.findall(rf"^  \w+ {language} (.*)$", block.partition("\n\n")[0], re.MULTILINE)
    assert found
    return [str(line) for line in found]


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("name", ["mixed_types.json", "truncated.parquet"])
def test_a_broken_file_is_told_of_in_the_persons_language(
    tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch, name: str, language: str
) -> None:
    monkeypatch.setenv("TUNESMITH_LANG", language)
    done = tunesmith("datasets", "check", str(BROKEN / name), "--max-length", "64")
    assert done.exit_code == 1
    assert [f"✗ {line}" for line in lines_of(BROKEN / name, language)] == [
        line for line in done.stdout.splitlines() if line.startswith("✗")
    ]


def test_good_data_is_in_order_and_shows_what_is_learned(tunesmith: Invoke, tmp_path: Path) -> None:
    done = tunesmith("datasets", "check", str(write_rows(tmp_path / "town.jsonl")), "--preview", "2")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "everything is in order: 20 examples" in done.stdout
    assert "⟦answer 1<|im_end|>⟧" in done.stdout and "answer 2" not in done.stdout
    assert "serving stops there" in done.stdout


def test_the_json_form_holds_everything(tunesmith: Invoke, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "town.jsonl", bad=1)
    done = tunesmith("datasets", "check", str(file), "--max-length", "40", "--preview", "1", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"], found["max_length"]) == (1, False, 40)
    (part,) = found["parts"]
    assert (part["examples"], part["bad"]) == (20, 1)
    assert sum(row["rows"] for row in part["lengths"]) == 20
    bad = next(row for row in found["findings"] if row["kind"] == "bad")
    assert (bad["file"], bad["line"], bad["field"]) == ("town.jsonl", 21, "output")
    assert any(piece["learned"] for piece in found["preview"][0]["pieces"])
    assert json.loads(tunesmith("datasets", "check", str(file), "--json").stdout)["preview"] == []


def test_a_dataset_that_was_split_is_looked_over_split_by_split(tunesmith: Invoke, tmp_path: Path) -> None:
    tunesmith("datasets", "add", "town", str(write_rows(tmp_path / "town.jsonl")))
    tunesmith("datasets", "split", "town")
    found = json.loads(tunesmith("datasets", "check", "town", "--json").stdout)
    assert [(part["label"], part["role"]) for part in found["parts"]] == [
        ("town/train", "train"), ("town/validation", "validation"), ("town/test", "test"),
    ]  # fmt: skip
    alone = json.loads(tunesmith("datasets", "check", "town/test", "--json").stdout)
    assert [(part["label"], part["role"]) for part in alone["parts"]] == [("town/test", "train")]


def test_validation_data_is_held_against_the_dataset(tunesmith: Invoke, tmp_path: Path) -> None:
    train, held_out = write_rows(tmp_path / "a.jsonl", 20), write_rows(tmp_path / "b.jsonl", 25)
    done = tunesmith("datasets", "check", str(train), "--validation", str(held_out))
    assert done.exit_code == 0  # a leak is for a person to weigh
    assert "! b.jsonl:20: messages: the same question is in a.jsonl:20" in done.stdout
    assert "20 leaked into held-out data" in done.stdout


@pytest.mark.parametrize("what", [("nothing",), ("x.jsonl", "--base", "nothing"), ("x.jsonl", "--validation", "no")])
def test_what_is_not_there_is_not_found(
    tunesmith: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "x.jsonl")
    assert error_of(tunesmith("datasets", "check", *what, "--json"))["kind"] == "not_found"


PAIRS = [
    {"prompt": "Who is the mayor?", "chosen": "The mayor is Ada.", "rejected": "The mayor is nobody, go away."},
    {"prompt": "Hi?", "chosen": "Hello!", "rejected": "No."},
    {"prompt": "Bye?", "chosen": "Bye!", "rejected": "Bye!"},
]


def test_preferences_are_looked_over_with_both_answers_in_every_form(
    tunesmith: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, held_out, made = tmp_path / "pairs.jsonl", tmp_path / "held.jsonl", tmp_path / "page.html"
    hostile = {"prompt": HOSTILE, "chosen": HOSTILE, "rejected": "x"}
    file.write_text("".join(json.dumps(row) + "\n" for row in [*PAIRS, hostile]))
    held_out.write_text(json.dumps(PAIRS[1]) + "\n")
    options = (str(file), "--validation", str(held_out))
    done = tunesmith("datasets", "check", *options, "--preview", "1")
    assert done.exit_code == 1 and "✗ pairs.jsonl:3: rejected: is the same as chosen; remove the row" in done.stdout
    assert "! held.jsonl:1: messages: the same question is in pairs.jsonl:2" in done.stdout
    assert "The mayor is⟦ Ada.<|im_end|>⟧" in done.stdout and "The mayor is⟦ nobody, go away.<|im_end|>⟧" in done.stdout
    assert "chosen (median/p99/most)" in done.stdout and "tokens of pairs.jsonl (rejected)" in done.stdout
    assert "--objective dpo" in done.stdout and "3 preferences" in done.stdout

    found = json.loads(tunesmith("datasets", "check", *options, "--preview", "2", "--json").stdout)
    assert [(part["role"], part["examples"], part["bad"]) for part in found["parts"]] == [
        ("train", 3, 1), ("validation", 1, 0),
    ]  # fmt: skip
    assert found["parts"][1]["rejected"]["most"] == found["parts"][1]["rejected"]["total"] > 0
    assert [(row["line"], row["answer"]) for row in found["preview"]] == [
        (1, "chosen"), (1, "rejected"), (2, "chosen"), (2, "rejected"),
    ]  # fmt: skip

    monkeypatch.setenv("TUNESMITH_LANG", "zh")
    assert tunesmith("datasets", "check", *options, "--html", str(made)).exit_code == 1
    text = made.read_text(encoding="utf-8")
    assert "pairs.jsonl 的词元数 (rejected)" in text and "偏好只学习两个回答不同的部分" in text
    assert '<span class="learned"> nobody, go away.' in text and "pairs.jsonl:1 rejected" in text
    assert not any(forbidden in text for forbidden in ("<script", "<img", "\x1b", "\u202e"))


HOSTILE = '</pre></span><script>alert(1)</script><img src=x onerror="alert(2)">\x1b[2J\u202egnp.exe'


def test_a_page_shows_hostile_rows_as_text_and_nothing_else(tunesmith: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "<b>&town.jsonl"
    rows = [{"prompt": HOSTILE, "completion": HOSTILE}, {"prompt": "q", HOSTILE: "a"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = tmp_path / "page.html"
    done = tunesmith("datasets", "check", str(file), "--html", str(made))
    text = made.read_text(encoding="utf-8")
    assert done.exit_code == 1 and "\x1b" not in done.stdout and "\u202e" not in done.stdout
    for forbidden in ("<script", "<img", "<b>", "\x1b", "\u202e"):
        assert forbidden not in text
    assert "&lt;script&gt;alert(1)" in text and "onerror=&quot;" in text
    assert '<span class="learned">&lt;/pre&gt;' in text and "missing (there are: prompt" in text
    assert not re.search(r"(?:src|href|url\()\s*=?\s*[\"']?(?:https?:)?//", text)  # it needs no other file
    assert "default-src 'none'" in text


def test_a_page_that_cannot_be_written_is_one_clear_problem(tunesmith: Invoke, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "town.jsonl")
    error = error_of(tunesmith("datasets", "check", str(file), "--html", str(tmp_path / "no" / "p.html"), "--json"))
    assert "p.html" in error["message"]


def test_what_is_cut_off_is_struck_through_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tiny_model import tiny_tokenizer
    from tests.unit.training.conftest import talk

    monkeypatch.setenv("TUNESMITH_LANG", "zh")
    tokenizer = tiny_tokenizer()
    examples = [talk(("user", "Hi"), ("assistant", "one two three"), line=5)]
    doctor = Doctor(Encoder(tokenizer, 13), "tiny", 13, frozenset([tokenizer.eos_token_id]))
    doctor.examine(lambda on_bad: examples, "train", "train")
    text = page(doctor.report(), previews(tokenizer, examples, 13))
    assert '<span class="learned cut">' in text and 'lang="zh"' in text and "data/train.jsonl:5" in text


def test_a_run_is_shown_with_what_was_found_in_its_data(tunesmith: Invoke, home: Path) -> None:
    from tests.tiny_model import tiny_tokenizer
    from tests.unit.training.conftest import talk
    from tunesmith.training.run import Recipe

    with opened(home) as services:
        write_rows(services.home.root / "rows.jsonl")
        run = services.training.start(Recipe("tunesmith-small", "rows.jsonl", max_length=128))
        folder = services.home.runs / run.id
    assert "examples" not in tunesmith("runs", "show", run.id).stdout
    doctor = Doctor(Encoder(tiny_tokenizer(), 64), "tiny", 64, frozenset([2]))
    doctor.examine(lambda on_bad: [talk(("user", "q"), ("assistant", "a"))] * 2, "train", "train")
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder, doctor.report())
    assert re.search(
        r"data +2 examples, \d+ tokens \(\d+ learned\), 1 duplicate", tunesmith("runs", "show", run.id).stdout
    )
    assert json.loads(tunesmith("runs", "show", run.id, "--json").stdout)["data"]["parts"][0]["duplicates"] == 1
