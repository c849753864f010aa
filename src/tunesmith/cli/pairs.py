"""A file of preferences, brought under home for training."""

import shutil
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from tunesmith.cli import data
from tunesmith.cli.screen import note, say

if TYPE_CHECKING:
    from tunesmith.app import Services


def kept_name(services: "Services", text: str) -> str:
    """The name training knows the file of preferences by; one from outside home is copied to ``data/`` first.

    The name holds a digest of its bytes, so the same file is copied once. The trainer reads every row.

    Raises:
        NotFound: there is no such file.
        Unavailable: the disk is nearly full.
    """
    from tunesmith.kernel.files import require_free, sync, written_whole

    path = data.outside_home(services.home, text)
    if path is None:
        return text
    name = PurePosixPath("data") / f"{data.name_of(path)}{path.suffix.lower()}"
    place = services.home.path(str(name), "dataset")
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        require_free(place.parent, path.stat().st_size)
        with written_whole(place) as temporary:
            shutil.copyfile(path, temporary)
            sync(temporary)
        note(say(f"已复制为 {name}", f"copied to {name}"))
    return str(name)
