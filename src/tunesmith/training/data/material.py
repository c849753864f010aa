"""What a recipe is executed on, in tokens; no torch here."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.training.data.encoding import Encoded
from tunesmith.training.data.pairs import EncodedPair

Learned = Encoded | EncodedPair


@dataclass(frozen=True, slots=True)
class Material:
    """The examples of a run.

    Attributes:
        main, validation: pairs where preferences are learned.
        replay: empty when nothing is replayed. validation: empty when nothing is scored during training.
        control: scored before and after training, to see what was forgotten; may be empty.
    """

    main: Sequence[Learned]
    replay: Sequence[Encoded]
    validation: Sequence[Learned]
    control: Sequence[Encoded] = ()

    def digest(self) -> str:
        """A name for just these examples in this order; a run is gone on with on no others."""
        found = hashlib.sha256()
        for examples in (self.main, self.replay, self.validation, self.control):
            found.update(len(examples).to_bytes(8, "big"))
            for example in examples:
                found.update(len(example).to_bytes(8, "big"))
                found.update(example.tokens.tobytes())
                found.update(example.trained)
        return found.hexdigest()
