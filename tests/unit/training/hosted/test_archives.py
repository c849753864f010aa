"""An adapter out of an archive that somebody else packed."""

import io
import random
import tarfile
from pathlib import Path

import pytest

from tests.upstreams.together_words import adapter_files, tarred
from tunesmith.kernel.problems import Invalid
from tunesmith.training.hosted.archives import unpack_adapter

MOST = 1 << 20


def unpacked(folder: Path, data: bytes, most: int = MOST) -> dict[str, bytes]:
    (folder / "archive").write_bytes(data)
    to = folder / "to"
    to.mkdir()
    unpack_adapter(folder / "archive", to, most)
    return {path.name: path.read_bytes() for path in to.iterdir()}


def with_member(member: tarfile.TarInfo, data: bytes = b"") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
        for name, content in adapter_files().items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "zst"])
@pytest.mark.parametrize("folder", ["", "job/adapter/"])
def test_an_adapter_is_unpacked_however_it_was_packed(tmp_path: Path, mode: str, folder: str) -> None:
    assert unpacked(tmp_path, tarred(adapter_files(), mode=mode, folder=folder)) == adapter_files()


def test_other_kinds_of_files_are_left_out(tmp_path: Path) -> None:
    files = {"optimizer.bin": b"pickle", "training_args.pt": b"pickle", ".hidden.json": b"{}", **adapter_files()}
    assert unpacked(tmp_path, tarred(files)) == adapter_files()


@pytest.mark.parametrize("name", ["/etc/evil.json", "../evil.json", "a/../../evil.json", "..\\evil.json"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid, match="leads elsewhere"):
        unpacked(tmp_path, with_member(tarfile.TarInfo(name), b"{}"))
    assert not list(tmp_path.rglob("evil.json"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_special_files_are_refused(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("adapter_config.json")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(Invalid, match="link or a special file"):
        unpacked(tmp_path, with_member(member))


def test_what_grows_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    bomb = tarred({"huge.json": bytes(50 << 20), **adapter_files()})
    assert len(bomb) < 1 << 20
    with pytest.raises(Invalid, match="too much"):
        unpacked(tmp_path, bomb)
    assert not (tmp_path / "to" / "huge.json").exists()


def test_endless_names_are_not_read_into_memory(tmp_path: Path) -> None:
    member = tarfile.TarInfo("././@PaxHeader")
    member.type = tarfile.XHDTYPE
    with pytest.raises(Invalid, match="cannot be unpacked"):
        unpacked(tmp_path, with_member(member, bytes(2 << 20)), most=64 << 20)


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", tarred(adapter_files())[:-40], tarred({"adapter_config.json": b"{}"})],
    ids=["empty", "text", "cut", "half"],
)
def test_what_is_no_whole_adapter_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Invalid):
        unpacked(tmp_path, data)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        unpacked(tmp_path, tarred({**adapter_files(), "other/adapter_config.json": b"{}"}))


def test_broken_zstandard_is_refused(tmp_path: Path) -> None:
    packed = tarred(adapter_files(), mode="zst")
    for number, data in enumerate((b"\x28\xb5\x2f\xfd" + bytes(100), packed[: len(packed) // 2], packed[:-3])):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(Invalid):
            unpacked(folder, data)


@pytest.mark.parametrize("window, taken", [(0x58, True), (0xA8, False)], ids=["2 MiB", "2 GiB"])
def test_zstandard_that_wants_gigabytes_of_memory_is_refused(tmp_path: Path, window: int, taken: bool) -> None:
    tar = tarred(adapter_files(), mode="w")
    block = (1 | len(tar) << 3).to_bytes(3, "little") + tar  # the last one, as it is (RFC 8878, 3.1.1.2)
    frame = b"\x28\xb5\x2f\xfd" + bytes([0x00, window]) + block
    if taken:
        assert unpacked(tmp_path, frame) == adapter_files()
    else:
        with pytest.raises(Invalid, match="cannot be unpacked"):
            unpacked(tmp_path, frame)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_an_archive_that_was_damaged_on_its_way_is_refused_wherever_it_was(tmp_path: Path, mode: str) -> None:
    files = {**adapter_files(), "notes.txt": random.Random(1).randbytes(40_000)}
    whole = tarred(files, mode=mode)
    refused = 0
    for number, at in enumerate(range(len(whole) // 20, len(whole), len(whole) // 20)):
        folder = tmp_path / str(number)
        folder.mkdir()
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        try:
            assert unpacked(folder, bytes(damaged)) == files  # padding that nobody reads
        except Invalid:
            refused += 1
    assert refused >= 17
