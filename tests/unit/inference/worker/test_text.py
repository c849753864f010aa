"""Text as it streams: whole characters, nothing of a stop string, and in the end exactly what was said."""

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.tiny_model import tiny_tokenizer
from tunesmith.inference.engine import TokenLogprob
from tunesmith.inference.worker.logprobs import Likely
from tunesmith.inference.worker.text import Detokenizer, StopStrings, Transcript
from tunesmith.inference.worker.tokens import Tokens

_TOKENIZER = tiny_tokenizer()
_BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}


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


@given(
    st.lists(st.integers(0, len(_TOKENIZER) - 1), max_size=30),
    st.lists(st.integers(0, len(_TOKENIZER) - 1), max_size=4),
)
def test_tokens_whose_bytes_join_are_told_without_their_neighbours_as_with_them(
    ids: list[int], before: list[int]
) -> None:
    joining = Detokenizer(decode, before, joins=True)
    assert [*(joining.feed(token) for token in ids), joining.finish()] == pieces_of(ids, before)


@given(
    st.lists(st.lists(st.integers(0, len(_TOKENIZER) - 1), min_size=1, max_size=8), max_size=8),
    st.booleans(),
)
def test_several_tokens_at_once_say_what_they_say_one_by_one(some: list[list[int]], joins: bool) -> None:
    at_once, one_by_one = Detokenizer(decode, joins=joins), Detokenizer(decode, joins=joins)
    for ids in some:
        assert at_once.feed_all(ids) == "".join(one_by_one.feed(token) for token in ids)
    assert at_once.finish() == one_by_one.finish()


def test_a_tokenizer_says_whether_its_bytes_join(base: Path) -> None:
    assert Tokens(base).joins


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
        letterwise = StopStrings(strings)
        assert shown == "".join(letterwise.feed(letter) for letter in text)


@given(st.text("ab", max_size=60), st.text("ab", min_size=1, max_size=6))
def test_no_more_is_held_back_than_may_begin_a_stop_string(text: str, stop: str) -> None:
    stops, shown = StopStrings([stop]), ""
    for at, letter in enumerate(text, 1):
        shown += stops.feed(letter)
        if stops.found:
            break
        held = text[len(shown) : at]
        assert stop.startswith(held)
        assert not any(stop.startswith(text[i:at]) for i in range(len(shown)))


def test_hostile_stop_strings_cost_as_much_as_the_text_is_long() -> None:
    class Letter(str):
        """Counts how often letters are compared."""

        compared = 0

        def __ne__(self, other: object) -> bool:
            Letter.compared += 1
            return not str.__eq__(self, other)

        __eq__ = str.__eq__
        __hash__ = str.__hash__

    class Text(str):
        def __add__(self, other: str) -> "Text":
            return Text(str(self) + other)

        def __radd__(self, other: str) -> "Text":
            return Text(other + str(self))

        def __getitem__(self, at: object) -> str:
            found = str.__getitem__(self, at)  # type: ignore[index]
            return Letter(found) if isinstance(at, int) else Text(found)

    strings = ["a" * 999 + "b", "a" * 500 + "c", "ab" * 400]
    text = Text(("a" * 600 + "x") * 40)
    stops = StopStrings(strings)
    shown = "".join(stops.feed(Text(text[i : i + 3])) for i in range(0, len(text), 3)) + stops.finish()
    assert shown == text
    assert len(text) < Letter.compared <= 3 * len(strings) * len(text)


def told(
    ids: Sequence[int], stop: Sequence[str] = (), *, finish: bool = True
) -> list[tuple[str, tuple[TokenLogprob, ...]]]:
    """What a transcript shows of ``ids``, whose log-probabilities are -1, -2, ..."""

    def spell(token: int) -> bytes:
        letters = _TOKENIZER.convert_ids_to_tokens(token)
        raw: bytes = bytes(_BYTES[letter] for letter in letters)
        return raw

    transcript = Transcript(Detokenizer(decode), StopStrings(stop), spell)
    pieces = []
    for at, token in enumerate(ids, 1):
        pieces.append(transcript.feed(token, Likely(-float(at), ((token, -float(at)),))))
        if transcript.stopped:
            break
    pieces.append(transcript.finish() if finish else None)
    return [(piece.text, piece.logprobs) for piece in pieces if piece is not None]


def ids_of(text: str) -> list[int]:
    ids: list[int] = _TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return ids


def test_log_probabilities_come_with_the_text_their_tokens_stand_for() -> None:
    ids = ids_of("Hello, how are you 谢🙂 fine")
    pieces = told(ids)
    assert "".join(text for text, _ in pieces) == "Hello, how are you 谢🙂 fine"
    shares = [token for _, tokens in pieces for token in tokens]
    assert [token.logprob for token in shares] == [-float(at) for at in range(1, len(ids) + 1)]
    assert b"".join(token.raw for token in shares).decode() == "Hello, how are you 谢🙂 fine"
    shown = raw = 0
    for text, tokens in pieces:  # never ahead of the text, never behind it by more than a character's bytes
        shown += len(text.encode())
        raw += sum(len(token.raw) for token in tokens)
        assert raw <= shown
        assert shown - raw < 4
    assert all(token.top[0].text == token.text for token in shares)


def test_tokens_that_a_stop_string_cuts_off_are_not_told() -> None:
    ids = ids_of("one two three four five")
    for stop in ("three", "wo th", " five", "o"):
        whole = "one two three four five"
        kept = whole[: whole.index(stop)]
        pieces = told(ids, [stop])
        assert "".join(text for text, _ in pieces) == kept
        spelled = b"".join(token.raw for _, tokens in pieces for token in tokens).decode()
        assert kept.startswith(spelled)
        ends = [len("".join(decode(ids[: i + 1]))) for i in range(len(ids))]
        assert len(spelled) == max((end for end in ends if end <= len(kept)), default=0)


def test_tokens_held_back_for_a_stop_string_that_never_came_are_told_with_it() -> None:
    ids = ids_of("two three")
    pieces = told(ids, ["three!"])
    assert [token.logprob for _, tokens in pieces for token in tokens] == [-float(at) for at in range(1, len(ids) + 1)]
    assert pieces[-1][0].endswith("three")
    assert pieces[-1][1]


@given(
    st.lists(st.integers(3, len(_TOKENIZER) - 1), max_size=40),
    st.lists(st.text("abe o", min_size=1, max_size=3), max_size=2),
)
def test_every_token_is_told_once_and_in_order_whatever_is_said(ids: list[int], stop: list[str]) -> None:
    shares = [token.logprob for _, tokens in told(ids, stop) for token in tokens]
    assert shares == [-float(at) for at in range(1, len(shares) + 1)]
    if not any(one in decode(ids) for one in stop):
        assert len(shares) == len(ids)


def test_nothing_is_told_where_nothing_was_asked() -> None:
    transcript = Transcript(Detokenizer(decode), StopStrings([]))
    piece = transcript.feed(ids_of("one")[0])
    assert piece is not None
    assert piece.logprobs == ()
