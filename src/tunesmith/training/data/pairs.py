"""Preferences in tokens: two answers to one conversation; no torch here."""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from tunesmith.datasets.example import Source
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.preferences import Preference
from tunesmith.training.data.encoding import Encoded, Encoder, learnable


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Two examples of which the first ends better. Only what they do not share is scored: the rest cancels out."""

    chosen: Encoded
    rejected: Encoded

    def __len__(self) -> int:
        return len(self.chosen) + len(self.rejected)

    @property
    def tokens(self) -> "array[int]":
        """Of both, one after the other."""
        return self.chosen.tokens + self.rejected.tokens

    @property
    def trained(self) -> bytes:
        return self.chosen.trained + self.rejected.trained

    @property
    def supervised(self) -> int:
        return self.chosen.supervised + self.rejected.supervised

    @property
    def source(self) -> Source:
        return self.chosen.source


def encode_pair(preference: Preference, encoder: Encoder) -> EncodedPair | BadRow:
    """The preference in tokens, or why it cannot be learned."""
    chosen, rejected = encoder.encode(preference.chosen), encoder.encode(preference.rejected)
    if isinstance(chosen, BadRow):
        return replace(chosen, field="chosen")
    if isinstance(rejected, BadRow):
        return replace(rejected, field="rejected")
    shared = next(
        (at for at, (one, other) in enumerate(zip(chosen.tokens, rejected.tokens, strict=False)) if one != other),
        min(len(chosen), len(rejected)),
    )
    pair = EncodedPair(*(replace(each, trained=bytes(shared) + each.trained[shared:]) for each in (chosen, rejected)))
    if not pair.supervised:
        return BadRow(
            preference.source,
            "rejected",
            "在 max_length 之内与 chosen 相同；请增大 max_length 或删去这一行",
            "is the same as chosen within max_length; raise max_length or remove the row",
        )
    return pair


def encode_pairs(
    preferences: Iterable[Preference],
    encoder: Encoder,
    label: str,
    on_bad: Callable[[BadRow], None] | None = None,
    on_good: Callable[[Preference, EncodedPair], None] = lambda preference, pair: None,
) -> list[EncodedPair]:
    """Every preference in tokens; otherwise as ``encode_all``.

    Raises:
        Invalid: rows cannot be learned (the first twenty are listed), or none is left.
    """
    return learnable(preferences, lambda preference: encode_pair(preference, encoder), label, on_bad, on_good)
