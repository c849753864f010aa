"""Lines are the same whatever pieces they come in."""

import json
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.inference.engines.lines import LONGEST_LINE, Lines
from tunesmith.kernel.problems import Unavailable

SSE = ': ping\r\n\r\ndata: {"text":"你好🌍"}\n\nevent: x\ndata:é\n\n\ndata: [DONE]\n\n'.encode()
NDJSON = "".join(
    json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in ("你", "👩‍🚀", "\u2028", "")
).encode()
TEXTS = (SSE, NDJSON, NDJSON + b'{"half":', b"\n", b"\n\n\n", b"x", b"", b"\xff\xfe\n\x00\n")


def read(pieces: list[bytes], longest: int = LONGEST_LINE) -> list[bytes]:
    lines = Lines(longest)
    return [line for piece in pieces for line in lines.feed(piece)] + lines.end()


def right(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    return lines if lines[-1] else lines[:-1]


@pytest.mark.parametrize("text", TEXTS)
def test_a_cut_at_any_byte_changes_nothing(text: bytes) -> None:
    for at in range(len(text) + 1):
        assert read([text[:at], text[at:]]) == right(text)
    assert read([text[at : at + 1] for at in range(len(text))]) == right(text)


@given(st.sampled_from(TEXTS) | st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=12))
def test_any_number_of_cuts_changes_nothing(text: bytes, cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(text)]
    assert read([text[start:end] for start, end in pairwise(at)]) == right(text)


def test_a_line_is_given_as_soon_as_it_is_complete() -> None:
    lines = Lines()
    assert lines.feed(b"da") == []
    assert lines.feed(b"ta: a\n") == [b"data: a"]
    assert lines.feed(b"\ndata: b\nda") == [b"", b"data: b"]
    assert lines.end() == [b"da"]
    assert lines.end() == []


@given(st.lists(st.integers(0, 40), max_size=6), st.lists(st.integers(0, 200), max_size=8), st.booleans())
def test_a_line_of_more_bytes_than_allowed_is_refused_however_it_comes(
    lengths: list[int], cuts: list[int], ended: bool
) -> None:
    text = b"\n".join(b"x" * length for length in lengths) + b"\n" * ended
    at = [0, *sorted(cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(at)]
    if max(lengths, default=0) > 20:
        with pytest.raises(Unavailable):
            read(pieces, longest=20)
    else:
        assert read(pieces, longest=20) == right(text)


def test_the_longest_line_passes_and_one_byte_more_does_not() -> None:
    piece = b"x" * (1 << 16)
    assert [len(line) for line in read([*[piece] * 256, b"\n", b"y"])] == [LONGEST_LINE, 1]
    with pytest.raises(Unavailable) as refused:
        read([*[piece] * 256, b"x"])
    assert "过长" in refused.value.zh


def test_a_long_line_in_small_pieces_takes_little_more_memory_than_it_is_long() -> None:
    tracemalloc.start()
    try:
        lines = Lines()
        for at in range(1 << 16):
            lines.feed(at.to_bytes(4).replace(b"\n", b"x"))
        assert tracemalloc.get_traced_memory()[1] < 4 * (4 << 16)
    finally:
        tracemalloc.stop()
