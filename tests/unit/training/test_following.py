"""What a run's folder says, piece by piece."""

import json
from pathlib import Path

import pytest

from tunesmith.training import following

STEPS = 3_000


def step(number: int) -> dict[str, object]:
    return {
        "step": number, "total_steps": STEPS, "epoch": 0.1, "loss": 1 / number, "learning_rate": 1.23456789e-05,
        "tokens_per_second": 900.0, "seconds_left": 1.0, "grad_norm": None, "time": 1e9 + number,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Metrics of several hundred kilobytes: what is after a step has to be searched for."""
    rows: list[dict[str, object]] = [{"event": "stage", "stage": "training", "time": 1.0}]
    for number in range(1, STEPS + 1):
        rows.append(step(number))
        if number % 1000 == 0:
            rows.append({"event": "validation", "step": number, "epoch": 1.0, "loss": 0.5, "time": 2.0})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 3001, "loss"')  # torn by a crash
    return tmp_path


@pytest.mark.parametrize("after", [0, 1, 2, 999, 1000, 1500, 2998, STEPS, STEPS + 7])
def test_the_points_after_any_step_are_those_and_no_others(folder: Path, after: int) -> None:
    found = following.curves(folder, after, 100_000)
    assert found.training["step"] == list(range(after + 1, STEPS + 1))
    assert found.validation["step"] == [each for each in (1000, 2000, 3000) if each > after]
    assert {len(column) for column in found.training.values()} == {max(0, STEPS - after)}
    assert not found.more


def test_pieces_put_together_are_the_whole(folder: Path) -> None:
    whole, after, steps, scored = following.curves(folder, 0, 100_000), 0, [], []
    while True:
        piece = following.curves(folder, after, 700)
        steps += piece.training["step"]
        scored += piece.validation["step"]
        after = steps[-1]
        if not piece.more:
            break
    assert (steps, scored) == (whole.training["step"], whole.validation["step"])
    assert whole.training["learning_rate"][0] == 1.23457e-05 and whole.training["grad_norm"][0] is None


def test_figures_that_only_some_steps_tell_have_columns_as_long_as_the_others(tmp_path: Path) -> None:
    rows = [step(1), step(2) | {"rewards/margins": 0.25}, {"event": "control", "before": 1.0}, step(3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert following.curves(tmp_path, 0, 10).training["rewards/margins"] == [None, 0.25, None]


def test_a_run_that_has_said_nothing_has_no_points_no_log_and_no_stage(tmp_path: Path) -> None:
    assert following.curves(tmp_path, 0, 10).training["step"] == []
    assert following.log(tmp_path, None, 100) == following.LogPiece("", 0, 0, 0)
    assert following.stage(tmp_path) is None and following.memory_bytes(tmp_path) is None


def test_the_stage_is_the_last_one_told(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    for row, stage in (({"event": "stage", "stage": "loading"}, "loading"), (step(1), "training")):
        with metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")
        assert following.stage(tmp_path) == stage


def test_a_log_comes_in_whole_lines_without_what_moves_the_cursor(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes("checking\n\x1b[31m红色\x1b[0m\n 10%\r 99%\nnot yet en".encode())
    first = following.log(tmp_path, None, 1000)
    assert first.text == "checking\n红色\n 99%\n" and first.end < first.size
    with log.open("ab") as file:
        file.write(b"ded\n")
    assert following.log(tmp_path, first.end, 1000).text == "not yet ended\n"


def test_a_log_is_read_from_its_end_and_backwards_without_a_gap(tmp_path: Path) -> None:
    lines = [f"line {number} 字\n" for number in range(100)]
    (tmp_path / "log.txt").write_text("".join(lines))
    last = following.log(tmp_path, None, 200)
    before = following.log(tmp_path, last.start - 150, 150)
    assert last.text.endswith(lines[-1]) and last.text.startswith("line ")
    assert before.end == last.start and "".join(lines).endswith(before.text.partition("\n")[2] + last.text)


def test_a_line_longer_than_a_piece_does_not_stop_the_reader(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"x" * 250 + b"\nend\n")
    after, text = 0, ""
    for _ in range(10):
        piece = following.log(tmp_path, after, 100)
        after, text = piece.end, text + piece.text
    assert text == "x" * 250 + "\nend\n"
