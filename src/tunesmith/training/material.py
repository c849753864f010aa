"""What a recipe is executed on, in tokens; no torch here."""

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.training.encoding import Encoded


@dataclass(frozen=True, slots=True)
class Material:
    """The examples of a run.

    Attributes:
        replay: empty when nothing is replayed. validation: empty when nothing is scored during training.
    """

    main: Sequence[Encoded]
    replay: Sequence[Encoded]
    validation: Sequence[Encoded]
