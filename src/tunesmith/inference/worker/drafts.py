"""Guessing what a row will say from what it has said: speculation by looking up the prompt.

Where a text repeats (code, quotations, extraction), what follows the last few tokens is often what followed them before.
A step that checks a guess of k tokens beside the next one costs little more than a step of one token while the weights
are what takes the time; every token is still drawn as it would be without, so the answer is the same.
"""

from collections.abc import Sequence

import numpy as np

from tunesmith.inference.worker.sampling import Picker, pick
from tunesmith.inference.worker.step import Predictions

_LONGEST_MATCH, _SHORTEST_MATCH = 4, 2  # tokens; one token alone follows too much by chance
_LONGEST_GUESS = 8
_FIRST_RATE, _FIRST_WEIGHT = 0.6, 2.0  # of guessed tokens come true, as long as nothing is known; in tokens tried
_KEPT, _KEPT_QUIET = 0.9, 0.98  # of what was learned stays after a guess, and after a step that was not worth one
_WORTH_IT = 1.05
_FRESH = 0.2  # weight of the newest time
_LATELY = 1000  # steps
_LARGEST = 64  # tokens; steps of more make no guesses


def propose(tokens_N: "np.ndarray[tuple[int], np.dtype[np.int64]]", most: int) -> list[int]:
    """What followed when the last tokens were last said, at most ``most`` tokens; empty when they are new.

    Args:
        tokens_N: prompt and completion.
    """
    count = len(tokens_N)
    for size in range(min(_LONGEST_MATCH, count - 1), _SHORTEST_MATCH - 1, -1):
        # where each beginning of a match may lie so that at least one token follows it
        same_M = tokens_N[: count - size] == tokens_N[count - size]
        for offset in range(1, size):
            same_M &= tokens_N[offset : count - size + offset] == tokens_N[count - size + offset]
        found = np.flatnonzero(same_M)
        if len(found):
            follows = int(found[-1]) + size
            # a text that goes round in circles: the guess follows itself
            period = count - follows
            return [int(tokens_N[follows + i % period]) for i in range(most)]
    return []


def accept(
    predicted: Predictions, guesses: Sequence[tuple[int, Sequence[int]]], rows: Sequence[Picker]
) -> list[list[int | None]]:
    """The tokens that each row draws: at least one, and one more for each of its guesses that came true.

    Args:
        predicted: its logits are changed in place.
        guesses: for each row where its predictions begin, and the tokens it guessed. What follows are those after its
            last token, after the first guessed token, and so on.
    """
    if not any(guess for _, guess in guesses):
        some = predicted.at([begin for begin, _ in guesses])
        return [[token] for token in pick(some.logits, rows, some.likeliest)]
    drawn: list[list[int | None]] = [[] for _ in rows]
    going = list(range(len(rows)))
    done = 0
    while going:
        some = predicted.at([guesses[r][0] + done for r in going])
        right = []
        for r, token in zip(going, pick(some.logits, [rows[r] for r in going], some.likeliest), strict=True):
            drawn[r].append(token)
            if done < len(guesses[r][1]) and token == guesses[r][1][done]:
                right.append(r)
        going, done = right, done + 1
    return drawn


class StepTimes:
    """How long steps take by how many tokens they hold, as this machine has shown.

    On some, a step of nine tokens takes as long as one of one; on others, two tokens take twice as long.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, tuple[float, int]] = {}  # and when it was seen last
        self._begun: set[int] = set()
        self._steps = 0

    def saw(self, tokens: int, seconds: float) -> None:
        """A step of ``tokens`` tokens took so long."""
        if tokens > _LARGEST:
            return
        self._steps += 1
        if tokens not in self._begun:  # the first of a size makes ready what the next ones use
            self._begun.add(tokens)
            return
        before = self._seconds.get(tokens, (seconds, 0))[0]
        self._seconds[tokens] = (before + _FRESH * (seconds - before), self._steps)

    def of(self, tokens: int) -> float:
        """Seconds, or at least in proportion. A size that was not seen lately is taken to be as fast as the next
        smaller one, and so is tried.
        """
        known = {
            size: seconds
            for size, (seconds, at) in self._seconds.items()
            if size <= tokens and self._steps - at < _LATELY
        }
        return known[max(known)] if known else 1.0


class Drafter:
    """One row's guesses, as long as they come true often enough for what they cost.

    Args:
        prompt: token ids the row begins with.
        said: those it goes on with, as they grow.
    """

    def __init__(self, prompt: Sequence[int], said: Sequence[int] = ()) -> None:
        self._prompt, self._said = len(prompt), said
        self._tokens = np.array(prompt, dtype=np.int64)
        self._count = len(prompt)  # in the array; the rest is looked at when somebody guesses, which many rows never do
        self._right = self._tried = 0.0  # what became of guessed tokens lately

    def guess(self, most: int, times: StepTimes, *, tokens: int = 1, said: float = 1.0) -> list[int]:
        """At most ``most`` tokens that may come next: as many as make the step say most in its time; often none.

        Args:
            tokens: how many the step holds without them.
            said: how many it will say without them, as far as can be expected.
        """
        found = propose(self._known(), min(most, _LONGEST_GUESS)) if most > 0 else []
        best, fastest = 0, _WORTH_IT * said / times.of(tokens)
        for count in range(1, len(found) + 1):
            speed = (said + self.gain(count)) / times.of(tokens + count)
            if speed > fastest:
                best, fastest = count, speed
        if found and not best:  # some time later it may be worth another try
            self._right, self._tried = self._right * _KEPT_QUIET, self._tried * _KEPT_QUIET
        return found[:best]

    def _known(self) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """Prompt and completion."""
        count = self._prompt + len(self._said)
        if count > len(self._tokens):
            self._tokens = np.concatenate([self._tokens[: self._count], np.zeros(count, dtype=np.int64)])
        self._tokens[self._count : count] = self._said[self._count - self._prompt :]
        self._count = count
        return self._tokens[:count]

    def gain(self, count: int) -> float:
        """How many of ``count`` guessed tokens can be expected to come true."""
        rate = (self._right + _FIRST_RATE * _FIRST_WEIGHT) / (self._tried + _FIRST_WEIGHT)
        return sum(rate**n for n in range(1, count + 1))

    def learn(self, guessed: int, right: int) -> None:
        """Of ``guessed`` tokens the first ``right`` came true."""
        if guessed:
            self._right = self._right * _KEPT + right
            self._tried = self._tried * _KEPT + min(right + 1, guessed)
