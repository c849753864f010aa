"""Rows of any shape become conversations, each with the two marks by which it is dealt to a split."""

import unicodedata
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import msgspec

from tunesmith.datasets.example import Message, Source
from tunesmith.datasets.formats import PAIRS, BadRow
from tunesmith.datasets.reading import LISTED
from tunesmith.datasets.template import Template, conversation
from tunesmith.datasets.worker.spans import Pace, bad_of, opened
from tunesmith.datasets.worker.tasks import Bad, Convert, Read, Report, encode

MARK_BYTES = 16  # where the prompt lies, then what tells the line from others; 8 bytes each, most significant first
LENGTH_BITS = 32  # the lower bits of what tells a line from others; a row is far shorter
_BUFFER = 1 << 20
_PLAIN = {"alpaca": ("instruction", "output"), **PAIRS}
_ELSEWHERE = frozenset({"system", "history", "label"})  # fields that make a row more than a question and an answer
_BLANKS = b"\t\n\v\f\r\x1c\x1d\x1e\x1f"
_LOWER = bytes(32 if byte in _BLANKS else byte for byte in range(256)).lower()  # of ASCII; white space is a blank
_RARE_BLANKS = "\x85\u1680\u2028\u2029"  # those that NFKC leaves as they are
# UTF-8 of ASCII and of U+3000 to U+9FFF and U+B000 to U+DFFF (the CJK scripts and nearly all of Hangul): nothing of it
# but ASCII has case, or is a rare blank
_CASELESS = bytes([*range(0xC0), *range(0xE3, 0xEA), *range(0xEB, 0xEE)])


class Conversation(msgspec.Struct, gc=False):
    """A line of the splits."""

    messages: Sequence[Message]


def convert(task: Convert, report: Report) -> Read:
    """Write the conversations and their marks, in the order of the rows; stop at the twentieth bad row."""
    template = None if task.template is None else Template.parse(task.template)
    key, shape, label = seed_key(task.seed), task.shape, task.span.label
    rows = 0
    bad: list[Bad] = []
    marks = bytearray()
    with (
        opened(task.span) as (file, readings),
        Path(task.lines).open("wb", buffering=_BUFFER) as lines_file,
        Path(task.marks).open("wb") as marks_file,
    ):
        pace = Pace("converting", task.span, file, report)
        for reading in readings:
            if isinstance(reading, BadRow):
                turns: Sequence[Message] | BadRow = reading
            elif template is None and (plain := plain_turns(reading[1], shape)):
                turns = plain
            else:
                turns = conversation(reading[1], shape, Source(label, reading[0]), template)
            if isinstance(turns, BadRow):
                bad.append(bad_of(turns))
                if len(bad) == LISTED:
                    break
                continue
            line = encode(Conversation(turns)) + b"\n"
            lines_file.write(line)
            marks += prompt_mark(turns, key) + line_mark(line).to_bytes(8, "big")
            if len(marks) >= _BUFFER:
                marks_file.write(marks)
                marks.clear()
            rows += 1
            pace.passed(rows)
        marks_file.write(marks)
        pace.ended(rows)
    return Read(rows, tuple(bad))


def plain_turns(row: object, shape: str) -> tuple[Message, Message] | None:
    """The turns of a row that is one question and one answer in two or three fields, as nearly all rows are.

    A shorter way to what ``to_example`` finds, where there is nothing to find fault with; None for every other row.
    """
    if type(row) is not dict or not row.keys().isdisjoint(_ELSEWHERE):
        return None
    asked_field, answered_field = _PLAIN.get(shape, ("", ""))
    asked, answered = row.get(asked_field), row.get(answered_field)
    if type(asked) is not str or type(answered) is not str:
        return None
    if shape == "alpaca" and (given := row.get("input")):
        if type(given) is not str or given.isspace() or not asked or asked.isspace():
            return None
        asked = f"{asked}\n{given}"
    if not asked or not answered or asked.isspace() or answered.isspace() or "\0" in asked or "\0" in answered:
        return None
    return Message("user", asked), Message("assistant", answered)


def seed_key(seed: int) -> bytes:
    """The seed as the key of a hash; any integer will do."""
    return (seed % (1 << 64)).to_bytes(8, "big")


def prompt_mark(turns: Sequence[Message], key: bytes) -> bytes:
    """Where a conversation lies among all: decided by its prompt and the seed, equal for prompts that read alike.

    Args:
        turns: the last one is the assistant's.
    """
    # NUL is in no turn, so no two conversations run into one
    several = len(turns) > 2
    text = "\0".join(f"{turn.role}\0{turn.content}" for turn in turns[:-1]) if several else turns[0].content
    return blake2b(folded(text), digest_size=8, key=key).digest()


def line_mark(line: bytes | memoryview) -> int:
    """The CRC-32 of a kept line, its end included, and its length: what a damaged line has not, and few others have."""
    return crc32(line) << LENGTH_BITS | len(line)


def folded(text: str) -> bytes:
    """What remains of ``text`` when it is only compared: NFKC (Unicode Annex 15), case folded, white space squeezed."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    data = text.encode()
    if data.translate(None, _CASELESS):
        text = text.casefold()
        for blank in _RARE_BLANKS:
            if blank in text:
                text = text.replace(blank, " ")
        data = text.encode()
    data = data.translate(_LOWER)
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    if b"\0" in data:  # several turns, each trimmed
        data = data.replace(b" \0", b"\0").replace(b"\0 ", b"\0")
    return data.strip(b" ")
