"""``python -m tunesmith.training.data.examining``: one Look from standard input, its answer on standard output.

The child ends when its standard input does: whoever asked is gone then.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from tunesmith.datasets.example import Example
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.preferences import Preference, holds_preferences, read_preferences
from tunesmith.datasets.reading import read_examples
from tunesmith.datasets.window import window
from tunesmith.datasets.worker.tasks import Done, Said, encode, failed
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Problem
from tunesmith.training.data.doctor import Doctor, Preview, end_tokens, previews
from tunesmith.training.data.encoding import Encoder
from tunesmith.training.data.examiner import Look
from tunesmith.training.data.tokenizing import load_tokenizer

_MOST_TEXT = 15_000  # characters of a preview; answers are lines of bounded length


def main() -> None:
    """Read the task, do it, answer."""
    answers = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not be taken for an answer
    look = msgspec.json.decode(sys.stdin.buffer.readline(), type=Look)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    said: Said
    try:
        said = Done(msgspec.Raw(encode(perform(look))))
    except Problem as problem:
        said = failed(problem)
    line = encode(said) + b"\n"
    while line:
        line = line[os.write(answers, line) :]


def perform(look: Look) -> dict[str, Any]:
    """The answer to ``look``: a report, or previews.

    Raises:
        Problem: the base model or the data cannot be used at all.
    """
    home, folder = Home(Path(look.home)), Path(look.base_path)
    tokenizer = load_tokenizer(folder)
    if look.shown is not None:
        found = window(home, look.parts[0][0], *look.shown).rows
        rows = [row for row in found if not isinstance(row, BadRow)]
        shown = previews(tokenizer, rows, look.max_length)
        return {"max_length": look.max_length, "preview": [_shortened(each) for each in shown]}
    doctor = Doctor(Encoder(tokenizer, look.max_length), look.base, look.max_length, end_tokens(tokenizer, folder))
    for name, role in look.parts:
        if len(look.parts) == 1 and holds_preferences(home, name):
            doctor.examine_pairs(_pairs(home, name), name, role)  # type: ignore[arg-type]
        else:
            doctor.examine(_examples(home, name), name, role)  # type: ignore[arg-type]
    report = doctor.report()
    said: dict[str, Any] = msgspec.to_builtins(report)
    return {"ok": report.sound, "line": {"zh": report.line("zh"), "en": report.line("en")}, **said}


def _shortened(preview: Preview) -> dict[str, Any]:
    """With its text up to a length that a person reads; ``shortened`` says whether any is left out."""
    left, pieces = _MOST_TEXT, []
    for piece in preview.pieces:
        if left > 0:
            pieces.append(replace(piece, text=piece.text[:left]))
        left -= len(piece.text)
    said: dict[str, Any] = msgspec.to_builtins(replace(preview, pieces=tuple(pieces)))
    return {**said, "shortened": left < 0}


def _examples(home: Home, name: str) -> Callable[[Callable[[BadRow], None]], Iterator[Example]]:
    return lambda on_bad: read_examples(home, name, on_bad=on_bad)


def _pairs(home: Home, name: str) -> Callable[[Callable[[BadRow], None]], Iterator[Preference]]:
    return lambda on_bad: read_preferences(home, name, on_bad=on_bad)


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
