"""Text as it streams: whole characters, nothing of a stop string, and in the end exactly what was said."""

import random
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_model import tiny_tokenizer
from tunesmith.inference.worker.text import Detokenizer, StopStrings

_TOKENIZER = tiny_tokenizer()


def decode(ids: Sequence[int]) -> str:
    text: str = _TOKENIZER.backend_tokenizer.decode(list(ids), skip_special_tokens=True)
    return text


def pieces_of(ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    stream = Detokenizer(decode, before)
    return [*(stream.feed(token) for token in ids), stream.finish()]


def test_a_character_appears_when_its_last_byte_has_come() -> None:
    ids = _TOKENIZER("谢🙂", add_special_tokens=False)["input_ids"]
    assert len(ids) > 2
    pieces = [piece for piece in pieces_of(ids) if piece]
    assert "".join(pieces) == "谢🙂"
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.text(max_size=40))
def test_any_text_comes_through_in_whole_characters(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    ids = _TOKENIZER(text, add_special_tokens=False)["input_ids"]
    pieces = pieces_of(ids)
    assert "".join(pieces) == decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.integers(0, len(_TOKENIZER) - 1), max_size=60))
def test_noise_comes_through_as_when_decoded_at_once(ids: list[int]) -> None:
    assert "".join(pieces_of(ids)) == decode(ids)


def test_a_long_run_of_broken_bytes_is_let_go_and_not_decoded_again_and_again() -> None:
    (broken,) = _TOKENIZER.convert_tokens_to_ids(["\u00ff"])  # byte 0xFF in the byte-level alphabet
    calls: list[int] = []

    def counting(ids: Sequence[int]) -> str:
        calls.append(len(ids))
        return decode(ids)

    stream = Detokenizer(counting)
    shown = "".join(stream.feed(broken) for _ in range(1000)) + stream.finish()
    assert shown == "\ufffd" * 1000
    assert max(calls) <= 200


def test_raw_text_goes_on_where_the_prompt_ended() -> None:
    def words(ids: Sequence[int]) -> str:  # a decoder that strips a text's first space, as sentencepiece ones do
        return "".join(f" word{i}" for i in ids)[1:]

    assert "".join(pieces_of([7, 8], before=[5, 6])) != ""
    stream = Detokenizer(words, [5, 6])
    assert stream.feed(7) + stream.feed(8) + stream.finish() == " word7 word8"
    stream = Detokenizer(words)
    assert stream.feed(7) + stream.feed(8) + stream.finish() == "word7 word8"


def test_what_may_begin_a_stop_string_is_held_back_until_it_is_known() -> None:
    stops = StopStrings(["END", "停止"])
    assert stops.feed("so E") == "so "
    assert stops.feed("N") == ""
    assert stops.feed("d, ") == "ENd, "
    assert stops.feed("停") == ""
    assert not stops.found
    assert stops.feed("止 and more") == ""
    assert stops.found
    assert stops.finish() == ""


def test_what_was_held_back_and_never_became_a_stop_string_is_shown_in_the_end() -> None:
    stops = StopStrings(["\n\nUser:"])
    assert stops.feed("hello\n") + stops.feed("\nUse") == "hello"
    assert stops.finish() == "\n\nUse"


@given(
    st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.randoms()
)
def test_text_is_cut_at_the_first_stop_string_wherever_the_pieces_break(
    text: str, strings: list[str], chance: random.Random
) -> None:
    cuts = sorted(chance.sample(range(len(text) + 1), chance.randint(0, len(text))))
    stops = StopStrings(strings)
    shown = "".join(stops.feed(text[a:b]) for a, b in pairwise([0, *cuts, len(text)])) + stops.finish()
    first = min((text.find(stop) for stop in strings if stop in text), default=None)
    if first is None:
        assert (shown, stops.found) == (text, False)
    else:
        assert stops.found
        assert text.startswith(shown)
        assert not any(stop in shown for stop in strings)
