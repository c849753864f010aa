"""Which files under home a person may name, who is no admin."""

import hashlib
import os
import unicodedata

from tunesmith.datasets.dataset import FOLDER, MANIFEST, read_manifest
from tunesmith.datasets.upload import FOLDER as RAW
from tunesmith.datasets.upload_store import UploadStore
from tunesmith.kernel.caller import Caller
from tunesmith.kernel.home import Home, parse_name
from tunesmith.kernel.problems import NotFound, Problem

# what others made and what the server keeps for itself; each has a service that shows their owners their own
_PRIVATE = frozenset({"runs", "evaluations", "engines", "secrets", "usage"})
FORMATTED = "data/formatted"


def check_may_read(home: Home, uploads: UploadStore, name: str, caller: Caller) -> None:
    """Refuse the name of a file, folder or dataset that belongs to somebody else, in whatever spelling.

    What has no record (the machine's owner put it there) is everybody's to read.

    Raises:
        NotFound: it is another's, or the server's own. Invalid: not a name.
    """
    if caller.admin:
        return
    # some file systems take another case or another composition of a letter for the same name
    parts = [unicodedata.normalize("NFC", part) for part in parse_name(name, "dataset").parts]
    folded = [part.casefold() for part in parts]
    if any(part.startswith(".") for part in parts) or folded[0] in _PRIVATE or folded[0].startswith("tunesmith.db"):
        raise _absent(name)
    if folded[: (depth := RAW.count("/") + 1)] == RAW.split("/"):
        upload = uploads.at("/".join([RAW, *parts[depth:]]))
        if upload is not None and not caller.sees(upload.owner):
            raise _absent(name)
        return
    if folded[: (depth := FORMATTED.count("/") + 1)] == FORMATTED.split("/"):
        if folded[depth:] and folded[depth] != owner_folder(caller.name):
            raise _absent(name)
        return
    kept = folded[: (depth := FOLDER.count("/") + 1)] == FOLDER.split("/")
    dataset = parts[depth:] if kept else parts
    if dataset and not _sees_dataset(home, dataset[0], caller):
        raise _absent(name)


def owner_folder(owner: str) -> str:
    """The folder under ``data/formatted`` that holds what ``owner`` had written; nobody else may read in it.

    Owners may be called anything, so its name is a digest of theirs: 16 hexadecimal digits.
    """
    return hashlib.sha256(owner.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _sees_dataset(home: Home, name: str, caller: Caller) -> bool:
    """Whether the dataset is the caller's; a name that is none belongs to nobody."""
    for spelled in _spellings(home, name):
        if not os.path.lexists(home.datasets / spelled / MANIFEST):
            continue
        try:
            manifest = read_manifest(home, spelled)
        except Problem:
            return False  # damaged: whose it is cannot be told
        if manifest is not None and not caller.sees(manifest.owner):
            return False
    return True


def _spellings(home: Home, name: str) -> list[str]:
    """The name, and the datasets that differ from it by their case alone."""
    wanted = unicodedata.normalize("NFC", name).casefold()
    others = (folder.name for folder in home.datasets.iterdir())
    return [name, *(o for o in others if o != name and unicodedata.normalize("NFC", o).casefold() == wanted)]


def _absent(name: str) -> NotFound:
    return NotFound(f"dataset 不存在：{name}", f"dataset does not exist: {name}", field="dataset")
