"""What may be asked of the formatter."""

from dataclasses import replace

import pytest

from tunesmith.datasets.export.formatter import lines
from tunesmith.datasets.export.sample import Format, Strategy, Wanted
from tunesmith.datasets.export.wanted import check_wanted, read_format, read_strategy
from tunesmith.kernel.problems import Invalid


def test_names_are_read_as_they_are_written() -> None:
    assert [read_format(each.value) for each in Format] == list(Format)
    assert [read_strategy(each.value) for each in Strategy] == list(Strategy)


@pytest.mark.parametrize("name", ["x", "", "OPENAI_CHAT_JSONL", "a\nb", "\ud800", "y" * 999])
def test_other_names_are_refused_in_words_that_can_be_shown(name: str) -> None:
    for read, kind in ((read_format, "Dataset format"), (read_strategy, "Data strategy")):
        with pytest.raises(Invalid) as caught:
            read(name)
        assert caught.value.en.startswith(f"{kind} '")
        assert caught.value.en.endswith("' not found")
        assert len(caught.value.en) < 120
        assert (caught.value.zh + caught.value.en).encode().isascii() is False
        assert "\n" not in caught.value.zh
    if name == "x":
        assert caught.value.en == "Data strategy 'x' not found"


@pytest.mark.parametrize("strategy", [Strategy.TWO_MESSAGE, Strategy.TWO_MESSAGE_LEGACY])
def test_instructions_are_required_where_the_strategy_instructs(strategy: Strategy) -> None:
    wanted = Wanted(format=Format.OPENAI_CHAT, strategy=strategy, thinking_instructions="think")
    assert check_wanted(wanted) == wanted
    for missing in (None, ""):
        with pytest.raises(Invalid, match="thinking instructions are required"):
            check_wanted(replace(wanted, thinking_instructions=missing))


def test_the_final_answer_alone_refuses_instructions_and_r1_leaves_them_out() -> None:
    wanted = Wanted(format=Format.OPENAI_CHAT, thinking_instructions="think")
    with pytest.raises(Invalid, match="has no use for thinking instructions") as caught:
        check_wanted(wanted)
    assert caught.value.details["field"] == "thinking_instructions"
    assert check_wanted(replace(wanted, thinking_instructions="")).thinking_instructions is None
    assert check_wanted(replace(wanted, strategy=Strategy.R1)).thinking_instructions is None


@pytest.mark.parametrize("format", Format)
def test_r1_goes_with_the_formats_whose_answer_is_text(format: Format) -> None:
    wanted = Wanted(format=format, strategy=Strategy.R1)
    if format in (Format.OPENAI_CHAT, Format.HUGGINGFACE, Format.VERTEX_GEMINI):
        assert check_wanted(wanted) == wanted
        return
    with pytest.raises(Invalid, match="wants the last answer to be a JSON object"):
        check_wanted(wanted)


def test_lines_check_before_the_first_sample_is_taken() -> None:
    with pytest.raises(Invalid):
        lines(iter(()), Wanted(format=Format.OPENAI_CHAT, thinking_instructions="think"))


def test_an_empty_system_message_is_none_and_half_a_character_is_refused() -> None:
    wanted = Wanted(format=Format.OPENAI_CHAT, system="")
    assert check_wanted(wanted).system is None
    with pytest.raises(Invalid) as caught:
        check_wanted(replace(wanted, system="\ud800"))
    assert caught.value.details["field"] == "system_message"
