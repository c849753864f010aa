"""The files of one checkpoint, and what lies beside them; no torch here."""

import os
from pathlib import Path
from typing import Any

import msgspec

POSITION, TENSORS = "position.json", "state.safetensors"
BASE_MARGINS = "base-margins"  # of all checkpoints of a run


def whole(checkpoint: Path) -> bool:
    """Whether all that belongs to a checkpoint is there, as far as lengths tell."""
    try:
        position = msgspec.json.decode((checkpoint / POSITION).read_bytes(), type=dict[str, Any])
        with (checkpoint / TENSORS).open("rb") as file:
            # safetensors: the length of a JSON header, the header, the numbers it tells the places of
            length = int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
            header = msgspec.json.decode(file.read(length)) if length < size else None
    except (OSError, msgspec.DecodeError):
        return False
    if not isinstance(header, dict) or not isinstance(position.get("metrics_bytes"), int):
        return False
    places = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return size == 8 + length + max(places, default=0)
