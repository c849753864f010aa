"""An adapter out of an archive that somebody else packed: plain files of known kinds, and never more than expected."""

import lzma
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from tunesmith.kernel.files import require_free
from tunesmith.kernel.problems import Invalid

_KINDS = frozenset({".json", ".safetensors", ".md", ".txt", ".model", ".jinja"})  # no pickles
_NEEDED = ("adapter_config.json", "adapter_model.safetensors")
_MOST_MEMBERS = 1000
_SPARE = 256 << 20  # bytes left free on the disk
_ZSTD = b"\x28\xb5\x2f\xfd"
_LARGEST_WINDOW = 128 << 20  # bytes of memory; zstd itself unpacks no more unless it is told to
_LONGEST_HEADER = 1 << 20
_NAMES = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)


class _Header(tarfile.TarInfo):
    """A header whose names fit into memory: tarfile reads them whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        found = super().frombuf(buf, encoding, errors)
        if found.type in _NAMES and found.size > _LONGEST_HEADER:
            raise tarfile.HeaderError("names too long")
        return found


def unpack_adapter(archive: Path, to: Path, most: int) -> None:
    """The files of a PEFT adapter, out of a tar (plain, gzip, bzip2, xz or Zstandard).

    A folder around them is left out; so are files of other kinds, such as pickles.

    Args:
        to: an empty folder.
        most: bytes of all unpacked files.

    Raises:
        Invalid: the archive is broken, holds links or names that lead elsewhere, is too large, or holds no adapter.
        Unavailable: the disk is nearly full.
    """
    try:
        with _opened(archive) as tar:
            _unpack(tar, to, most)
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError) as error:
        raise _refused("无法解开", "it cannot be unpacked") from error
    missing = [name for name in _NEEDED if not (to / name).is_file()]
    if missing:
        raise _refused(f"缺少 {'、'.join(missing)}", f"{', '.join(missing)} is missing")


def _unpack(tar: tarfile.TarFile, to: Path, most: int) -> None:
    left, members = most, 0
    for member in tar:
        members += 1
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\\" in member.name or "\0" in member.name:
            raise _refused("含有指向别处的文件名", "it holds a name that leads elsewhere")
        if not (member.isreg() or member.isdir()):
            raise _refused("含有链接或特殊文件", "it holds a link or a special file")
        left -= max(0, member.size)
        if left < 0 or members > _MOST_MEMBERS:
            raise _refused("内容过大", "it holds too much")
        if not member.isreg() or path.suffix not in _KINDS or path.name.startswith("."):
            continue
        require_free(to, member.size + _SPARE)
        source = tar.extractfile(member)
        assert source is not None  # of a regular file
        with source, (to / path.name).open("xb") as file:  # two of one name are refused
            shutil.copyfileobj(source, file, 1 << 20)
    while tar.fileobj is not None and (rest := tar.fileobj.read(1 << 20)):  # to its end, where the checksum is
        left -= len(rest)
        if left < 0:
            raise _refused("内容过大", "it holds too much")


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    with archive.open("rb") as file:
        packed_so = file.read(4) == _ZSTD
    if not packed_so:
        with tarfile.open(archive, "r:*", tarinfo=_Header) as tar:
            yield tar
        return
    import zstandard

    unpacking = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    try:
        with (
            archive.open("rb") as file,
            unpacking.stream_reader(file, read_across_frames=True) as stream,
            tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar,
        ):
            yield tar
    except zstandard.ZstdError as error:
        raise tarfile.ReadError(str(error)) from error


def _refused(zh: str, en: str) -> Invalid:
    return Invalid(f"适配器压缩包不可用：{zh}", f"the archive of the adapter is not usable: {en}")
