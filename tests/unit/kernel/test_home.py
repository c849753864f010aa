"""Names from outside: what is refused, and that nothing outside home is ever opened."""

import os
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.kernel import home as module
from tunesmith.kernel.home import Home, parse_name
from tunesmith.kernel.problems import Forbidden, Invalid, NotFound, Problem

HOSTILE = [
    *(
        "",
        "..",
        "../x",
        "a/../b",
        "a/..",
        "a/../../x",
        "...",
        "a/.../b",
        ". .",
        "a/ ../b",
        ".\u2024",
        "\u2025/x",
        "\uff0e\uff0e/x",
    ),
    *("/", "/etc/passwd", "//x", "~", "~/x", "~root/x", "C:\\x", "C:/x", "c:", "\\\\server\\x", "a\\b", "..\\x"),
    *("%2e%2e/x", "a%2fb", "%252e", "a%00", "a\0", "a\0.json", "a\nb", "a\rb", "a\tb", "\x1b[31m", "a\x7f"),
    *("\ud800", "a/\udfff", "x" * 256, "é" * 128, "x" * 1025, "字" * 342, "x" * 10_000),
    *("con", "CON", "nul.txt", "a/PRN", "aux.tar.gz", "Com1", "lpt9.log", "name.", "name ", "a./b", "dir /x"),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_is_refused_with_its_field_in_both_languages(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_name(text, "dataset_path")
    assert caught.value.details["field"] == "dataset_path"
    assert caught.value.en.startswith("dataset_path is not valid: ")
    assert caught.value.zh.startswith("dataset_path 无效：")
    assert len(caught.value.en) < 200
    assert caught.value.en.isprintable()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("data/train.json", "data/train.json"),
        ("数据/训练 1.json", "数据/训练 1.json"),
        (".hidden", ".hidden"),
        ("a/./b//c/", "a/b/c"),
        ("a..b/c...d", "a..b/c...d"),
        ("x" * 255, "x" * 255),
        ("console/com10/nulls.txt", "console/com10/nulls.txt"),
    ],
)
def test_an_honest_name_is_taken(text: str, name: str) -> None:
    assert str(parse_name(text, "f")) == name


@given(text=st.text(max_size=40) | st.text("./\\~%:a \0\u2024\uff0e", max_size=12))
def test_no_name_that_is_taken_leads_out_of_home(text: str) -> None:
    try:
        name = parse_name(text, "f")
    except Invalid:
        return
    assert not name.is_absolute()
    assert ".." not in name.parts
    assert os.path.normpath(f"/home/{name}").startswith("/home")


@pytest.fixture(params=["openat2", "walk"])
def home(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home opened by each of the two ways."""
    if request.param == "walk":
        monkeypatch.setattr(module, "_openat2", lambda *_: None)
    home = Home(tmp_path / "home")
    (home.root / "data").mkdir()
    (home.root / "data" / "train.json").write_text("inside")
    (tmp_path / "home_evil").mkdir()
    (tmp_path / "home_evil" / "train.json").write_text("outside")
    return home


def test_home_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "a" / "b")
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    for folder in (home.runs, home.datasets, home.uploads, home.adapters, home.engines, home.secrets, home.usage):
        assert folder.is_relative_to(home.root) and folder != home.root
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert Home(tmp_path / "a" / "b").root == home.root


def test_a_file_is_opened_by_its_name_and_named_by_its_path(home: Home) -> None:
    with home.open("data/train.json", "f") as file:
        assert file.read() == b"inside"
    assert home.path("data/train.json", "f") == home.root / "data" / "train.json"
    assert home.name(home.root / "data" / "train.json") == "data/train.json"
    assert home.folder("data", "f") == home.root / "data"


@pytest.mark.parametrize("text", [text for text in HOSTILE if len(text) < 300])
def test_nothing_is_opened_by_a_hostile_name(home: Home, text: str) -> None:
    for use in (home.open, home.path, home.folder):
        with pytest.raises(Invalid):
            use(text, "f")


@pytest.mark.parametrize("text", ["no", "no/no", "data/no", "data/train.json/x"])
def test_what_is_not_there_is_not_found(home: Home, text: str) -> None:
    with pytest.raises(NotFound) as caught:
        home.open(text, "f")
    assert text in caught.value.en
    with pytest.raises(NotFound):
        home.folder(text, "f")


def test_a_symbolic_link_is_followed_nowhere(home: Home, tmp_path: Path) -> None:
    (home.root / "link.json").symlink_to(tmp_path / "home_evil" / "train.json")
    (home.root / "folder").symlink_to(tmp_path / "home_evil")
    (home.root / "inner").symlink_to("data")
    (home.root / "loop").symlink_to("loop")
    (home.root / "dangling").symlink_to("nothing")
    for text in ("link.json", "loop", "dangling"):
        with pytest.raises(Forbidden):
            home.open(text, "f")
    for text in ("folder/train.json", "inner/train.json"):
        with pytest.raises((Forbidden, NotFound)):
            home.open(text, "f")
    for text in ("link.json", "folder", "folder/train.json", "inner/train.json", "loop", "dangling"):
        for use in (home.path, home.folder):
            with pytest.raises(Forbidden):
                use(text, "f")


def test_what_is_no_regular_file_is_refused_and_nothing_hangs(home: Home, tmp_path: Path) -> None:
    os.mkfifo(home.root / "pipe")
    for text in ("pipe", "data"):
        with pytest.raises(Invalid, match="not a regular file"):
            home.open(text, "f")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(home.root)  # socket paths are short
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        with pytest.raises(Problem):
            home.open("socket", "f")


def test_no_descriptor_is_left_open_by_a_refusal(home: Home) -> None:
    import psutil

    os.mkfifo(home.root / "pipe")
    (home.root / "deep" / "er").mkdir(parents=True)
    process = psutil.Process()
    before = process.num_fds()
    for text in ("pipe", "no", "data", "deep/er/no", "deep/er", "data/train.json/x"):
        for _ in range(5):
            with pytest.raises(Problem):
                home.open(text, "f")
    assert process.num_fds() == before


@pytest.fixture
def swapping(home: Home, tmp_path: Path) -> Iterator[None]:
    """Somebody who swaps ``home/data`` for a link to a folder outside, over and over."""
    data, aside, stop = home.root / "data", home.root / "aside", threading.Event()

    def swap() -> None:
        while not stop.is_set():
            data.rename(aside)
            data.symlink_to(tmp_path / "home_evil")
            data.unlink()
            aside.rename(data)
            time.sleep(0.0001)  # let the reader see the folder in its place, too

    thread = threading.Thread(target=swap)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.mark.usefixtures("swapping")
def test_a_folder_swapped_for_a_link_between_check_and_use_never_leads_outside(home: Home) -> None:
    outcomes = Counter[bytes | type[Problem]]()
    while outcomes[b"inside"] < 2000 or outcomes.total() - outcomes[b"inside"] < 2000:
        try:
            with home.open("data/train.json", "f") as file:
                outcomes[file.read()] += 1
        except Problem as problem:
            outcomes[type(problem)] += 1
    assert outcomes[b"outside"] == 0
