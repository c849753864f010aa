"""Which examples are learned together, and when. Decided by the seed alone; no torch here."""

import random
from bisect import bisect_left, insort
from collections.abc import Sequence, Sized
from itertools import islice
from math import ceil
from typing import TypeVar

from tunesmith.training.data.material import Learned
from tunesmith.training.data.pairs import EncodedPair

Batch = list[Learned]
_Some = TypeVar("_Some", bound=Sized)
_POOL = 50  # batches whose examples are sorted by length together: enough to save padding, too few to sort an epoch


class Plan:
    """The batches of every epoch.

    Args:
        main: what is to be learned; every epoch sees each of them once.
        replay: general examples mixed in against forgetting.
        share: fraction in [0, 1) of each epoch's examples drawn from ``replay``, without replacement while it lasts.
        accumulate: batches to one update of the weights.
    """

    def __init__(
        self,
        main: Sequence[Learned],
        replay: Sequence[Learned],
        share: float,
        batch_size: int,
        accumulate: int,
        seed: int,
    ) -> None:
        self._main, self._replay = main, replay
        self._batch_size, self._accumulate = batch_size, accumulate
        self._replayed = round(len(main) * share / (1 - share)) if replay else 0
        self._random = random.Random(seed)
        self._deck: list[Learned] = []

    @property
    def updates_per_epoch(self) -> int:
        """Updates of the weights in one epoch."""
        batches = ceil((len(self._main) + self._replayed) / self._batch_size)
        return ceil(batches / self._accumulate)

    def epoch(self) -> list[list[Batch]]:
        """The batches of the next epoch, as many as ``accumulate`` to one update (the last may have fewer).

        Examples of about equal length share a batch; batches come in random order.
        """
        examples = [*self._main, *(self._draw() for _ in range(self._replayed))]
        self._random.shuffle(examples)
        pool = self._batch_size * _POOL
        batches = [
            batch
            for start in range(0, len(examples), pool)
            for batch in in_batches(sorted(examples[start : start + pool], key=_length), self._batch_size)
        ]
        self._random.shuffle(batches)
        return [batches[i : i + self._accumulate] for i in range(0, len(batches), self._accumulate)]

    def _draw(self) -> Learned:
        if not self._deck:
            self._deck = list(self._replay)
            self._random.shuffle(self._deck)
        return self._deck.pop()


def _length(example: Learned) -> float:
    """Tokens of a conversation; of a pair half of both, so that general examples share batches with pairs."""
    return len(example) / 2 if isinstance(example, EncodedPair) else len(example)


def packs(examples: Sequence[_Some], most: int) -> list[list[_Some]]:
    """``examples`` dealt into as few packs of at most ``most`` tokens as come easily; a longer one has its own.

    Best fit, the longest first; in a pack the longest come first, so that neighbours are of about equal length.
    """
    dealt: list[list[_Some]] = []
    room: list[tuple[int, int]] = []  # free tokens and number of each pack, the fullest first
    for example in sorted(examples, key=len, reverse=True):
        best = bisect_left(room, (len(example), 0))
        if best < len(room):
            free, number = room.pop(best)
        else:
            free, number = most, len(dealt)
            dealt.append([])
        dealt[number].append(example)
        insort(room, (free - len(example), number))
    return dealt


def rectangles(examples: Sequence[_Some], most: int) -> list[list[_Some]]:
    """``examples`` dealt into batches of about equal length, of at most ``most`` tokens with what pads them."""
    batches: list[list[_Some]] = []
    for example in sorted(examples, key=len, reverse=True):
        if batches and len(batches[-1][0]) * (len(batches[-1]) + 1) <= most:
            batches[-1].append(example)
        else:
            batches.append([example])
    return batches


def in_batches(examples: Sequence[_Some], batch_size: int) -> list[list[_Some]]:
    """``examples`` in order, ``batch_size`` at a time."""
    rest = iter(examples)
    return list(iter(lambda: list(islice(rest, batch_size)), []))
