"""What is said about two sets of answers."""

import json
from pathlib import Path

import pytest

from tunesmith.models.export import children, parity
from tunesmith.models.export.parity import END, Answer, Bound, Check, Parity, Task, compared


def said(*rows: list[int], prompt: int = 1) -> list[Answer]:
    return [Answer([prompt], tokens) for tokens in rows]


def outcome(ours: list[Answer], theirs: list[Answer], margin: float = 0.0, effect: float = 1.0) -> Parity:
    bare = [[score - effect for score in answer.scores] for answer in ours]
    bound = Bound(0.1, 0.01)
    return compared(ours, theirs, bare, bound=bound, margin=lambda *_: margin, text=lambda ids: str(list(ids)))


def test_equal_answers_are_the_same() -> None:
    found = outcome(said([1, END], [2]), said([1, END], [2]))
    assert (found.state, found.rows, found.identical, found.prompts_equal, found.first) == ("same", 2, 2, 2, None)


def test_a_small_preference_is_rounding_and_a_large_one_is_not() -> None:
    ours, theirs = said([1, 2, 3], [1, END]), said([1, 2, 3], [1, 5])
    small, large = outcome(ours, theirs, 0.09), outcome(ours, theirs, 0.11)
    assert (small.state, small.identical, small.explained, small.alarming) == ("rounding", 1, 1, False)
    assert (large.state, large.identical, large.explained, large.alarming) == ("different", 1, 0, True)
    assert large.first is not None
    assert (large.first.row, large.first.token, large.first.ours, large.first.theirs) == (1, 1, "[]<end>", "[5]")


def test_an_answer_cut_short_differs_where_it_is_cut() -> None:
    found = outcome(said([1, 2]), said([1]), 5.0)
    assert found.first is not None and found.first.token == 1


@pytest.mark.parametrize(("there", "state"), [([-0.5, -0.509], "same"), ([-0.5, -0.53], "different")])
def test_equal_answers_with_other_probabilities_are_different(there: list[float], state: str) -> None:
    found = outcome([Answer([1], [1, END], [-0.5, -0.5])], [Answer([1], [1, END], there)])
    assert found.identical == 1 and found.state == state
    assert found.drift == pytest.approx(abs(there[1] + 0.5) / 2)


def test_probabilities_are_compared_as_far_as_the_answers_are_alike() -> None:
    found = outcome([Answer([1], [1, 2], [-0.5, -0.1])], [Answer([1], [1, 3], [-0.5, -9.0])])
    assert (found.state, found.drift) == ("rounding", 0.0)


def test_prompts_of_other_tokens_are_never_the_same_however_alike_the_answers() -> None:
    assert outcome(said([1]), said([1], prompt=2)).state == "different"
    assert outcome(said([1]), said([2], prompt=2), margin=0.0).state == "different"


def task(form: parity.Form = "gguf", questions: int = 1) -> Task:
    return Task(form, "/nowhere", "/nowhere", "a", "/nowhere", "f16", Check("d", [[]] * questions))


def test_without_llama_cpp_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.models.export.parity.find_spec", lambda name: None)
    found = parity.checked(task())
    assert (found.state, found.alarming) == ("not_done", False)
    assert found.reason is not None and "tunesmith[export]" in found.reason.en


def test_nothing_to_ask_is_not_done() -> None:
    assert parity.checked(task("merged", questions=0)).state == "not_done"


def test_a_process_that_breaks_is_a_failed_check_with_its_last_words() -> None:
    with pytest.raises(children.Unavailable, match="No module named"):
        children.asked("tunesmith.models.export.absent", task(), Parity, threads=1)


def test_a_file_that_llama_cpp_refuses_is_a_problem_and_not_a_crash(tmp_path: Path) -> None:
    from tunesmith.kernel.problems import Problem
    from tunesmith.models.export.llama import Order

    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\0" * 60)
    order = Order(str(tmp_path / "model.gguf"), None, 64, 1, 4, [[{"role": "user", "content": "hi"}]])
    with pytest.raises(Problem):
        children.asked("tunesmith.models.export.llama", order, list[Answer], threads=1)


def test_it_is_kept_as_json(tmp_path: Path) -> None:
    parity.keep(outcome(said([1]), said([1])), tmp_path)
    assert json.loads((tmp_path / "parity.json").read_text())["state"] == "same"
