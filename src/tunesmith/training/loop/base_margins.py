"""What the base makes of a run's pairs, kept in the run's folder: measured once, whatever happens to the trainer.

The file is a seal, the SHA-256 of what the numbers are of and of the numbers, and then the numbers, 4 bytes each.
One that is damaged, or is of another base, other data or another template, has another seal and counts as none.
"""

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tunesmith.kernel.files import written_whole
from tunesmith.training import run_folder
from tunesmith.training.loop.checkpoint_files import BASE_MARGINS

_SEAL = hashlib.sha256().digest_size


class BaseMargins:
    """The file beside the checkpoints in ``folder``, a run's.

    Args:
        of: all that the numbers follow from, as anything msgspec encodes.
    """

    def __init__(self, folder: Path, of: object) -> None:
        self._path = folder / run_folder.CHECKPOINTS / BASE_MARGINS
        self._of = hashlib.sha256(msgspec.json.encode(of, order="deterministic")).digest()

    def read(self, count: int) -> list[float] | None:
        """The margins of so many pairs, in nats; None where there are none to be trusted."""
        try:
            content = self._path.read_bytes()
        except OSError:
            return None
        seal, numbers = content[:_SEAL], content[_SEAL:]
        margins = array("f")
        if seal != self._seal(numbers) or len(numbers) != count * margins.itemsize:
            return None
        margins.frombytes(numbers)
        return margins.tolist()

    def write(self, margins: Sequence[float]) -> None:
        """Keep them, whole or not at all.

        Raises:
            OSError: the disk has no room.
        """
        numbers = array("f", margins).tobytes()
        self._path.parent.mkdir(exist_ok=True)
        with written_whole(self._path) as temporary:
            temporary.write_bytes(self._seal(numbers) + numbers)

    def _seal(self, numbers: bytes) -> bytes:
        return hashlib.sha256(self._of + numbers).digest()
