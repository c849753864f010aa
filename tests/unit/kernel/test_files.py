"""Files and folders that are whole or absent, whatever fails in between."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunesmith.kernel.files import PARTIAL, folder_published_whole, require_free, sync, write_json, written_whole
from tunesmith.kernel.problems import Unavailable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with written_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(PARTIAL)
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.json"]


def test_a_writer_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "replace", "open"])
def test_a_disk_that_fails_at_any_step_leaves_old_or_new_never_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"), written_whole(path) as temporary:
        temporary.write_text("new")
        if step == "replace":
            patch.setattr(Path, "replace", fail)
        else:
            patch.setattr(os, step, fail)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_a_symbolic_link_is_replaced_not_written_through(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    path.symlink_to(target)
    with written_whole(path) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "precious"
    assert not path.is_symlink()
    assert path.read_text() == "new"


def test_json_is_written_to_be_read_by_people_and_programs(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"城": [1, None], "x": "\n"})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"城": [1, None], "x": "\n"}
    assert "城" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")


def test_what_json_cannot_hold_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert json.loads((tmp_path / "a.json").read_bytes()) == 1
    assert names(tmp_path) == ["a.json"]


def test_a_folder_appears_whole_with_everything_in_it(tmp_path: Path) -> None:
    path = tmp_path / "made" / "adapter"
    with folder_published_whole(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a").write_text("a")
        assert not path.exists()
    assert (path / "inner" / "a").read_text() == "a"
    assert names(path.parent) == ["adapter"]


def test_an_empty_folder_is_replaced_and_any_other_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with folder_published_whole(tmp_path / "empty") as temporary:
        (temporary / "a").write_text("a")
    assert names(tmp_path / "empty") == ["a"]
    (tmp_path / "file").write_text("x")
    for taken in ("empty", "file"):
        with pytest.raises(FileExistsError), folder_published_whole(tmp_path / taken) as temporary:
            (temporary / "b").write_text("b")
    assert names(tmp_path / "empty") == ["a"]
    assert (tmp_path / "file").read_text() == "x"
    assert names(tmp_path) == ["empty", "file"]


def test_a_folder_whose_filling_fails_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), folder_published_whole(tmp_path / "x") as temporary:
        (temporary / "a").write_text("a")
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_everything_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str | int] = []  # inode numbers synced, and the moments of naming
    real_fsync, real_rename, real_replace = os.fsync, Path.rename, Path.replace

    def fsync(descriptor: int) -> None:
        done.append(os.fstat(descriptor).st_ino)
        real_fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        done.append("named")
        return real_rename(self, target)

    def replace(self: Path, target: Path) -> Path:
        done.append("named")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(Path, "replace", replace)
    with folder_published_whole(tmp_path / "x") as temporary:
        (temporary / "a").write_text("a")
    made, parent = tmp_path / "x", tmp_path.stat().st_ino
    assert done == [(made / "a").stat().st_ino, made.stat().st_ino, "named", parent]
    done.clear()
    write_json(tmp_path / "y", 1)
    assert done == [(tmp_path / "y").stat().st_ino, "named", parent]


def test_room_is_asked_for_before_it_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_free(tmp_path, 1)
    with pytest.raises(Unavailable) as caught:
        require_free(tmp_path, 1 << 60)
    assert caught.value.details["needed_bytes"] == 1 << 60
    assert caught.value.details["free_bytes"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.5)
    assert "磁盘空间不足" in caught.value.zh


def test_files_and_folders_can_be_synced(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    sync(tmp_path / "a")
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "no")


WRITER = """
import sys
from pathlib import Path
from tunesmith.kernel.files import folder_published_whole, write_json
folder = Path(sys.argv[1])
print("ready", flush=True)
for number in range(1000000):
    write_json(folder / "state.json", {"number": number, "twice": [number] * 2000})
    with folder_published_whole(folder / f"made-{number}") as temporary:
        for name in "abc":
            (temporary / name).write_text(str(number) * 1000)
"""


@pytest.mark.crash
@pytest.mark.parametrize("delay", [0.03, 0.08, 0.17])
def test_kill_9_leaves_whole_files_and_whole_folders(tmp_path: Path, delay: float) -> None:
    write_json(tmp_path / "state.json", {"number": -1, "twice": [-1] * 2000})
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
    state = json.loads((tmp_path / "state.json").read_bytes())
    assert state["twice"] == [state["number"]] * 2000
    for folder in tmp_path.glob("made-*"):
        number = folder.name.removeprefix("made-")
        assert {path.name: path.read_text() for path in folder.iterdir()} == dict.fromkeys("abc", number * 1000)
