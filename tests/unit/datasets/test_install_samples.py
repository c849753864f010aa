"""The sample files, laid out under home."""

from pathlib import Path

import pytest

from tunesmith.datasets.reading import read_examples
from tunesmith.datasets.samples import install_samples
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Forbidden

PURPOSES = {"train", "validation", "test", "control", "general"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_every_sample_is_installed_and_can_be_trained_on(home: Home) -> None:
    names = install_samples(home)
    assert set(names) == PURPOSES
    assert names["train"] == "data/samples/facts.train.jsonl"
    for name in names.values():
        assert len(list(read_examples(home, name))) > 50


def test_installing_again_touches_nothing_but_mends_what_was_damaged(home: Home) -> None:
    names = install_samples(home)
    whole, cut = home.root / names["train"], home.root / names["test"]
    before, content = whole.stat(), cut.read_bytes()
    cut.write_bytes(content[:100])
    assert install_samples(home) == names
    assert whole.stat().st_mtime_ns == before.st_mtime_ns
    assert cut.read_bytes() == content
    assert {path.name for path in cut.parent.iterdir()} == {Path(name).name for name in names.values()}


def test_a_symbolic_link_in_the_way_is_not_written_through(home: Home, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (home.root / "data").mkdir()
    (home.root / "data" / "samples").symlink_to(outside)
    with pytest.raises(Forbidden):
        install_samples(home)
    assert list(outside.iterdir()) == []


def test_a_sample_that_became_a_link_is_replaced_and_its_target_kept(home: Home, tmp_path: Path) -> None:
    names = install_samples(home)
    target = tmp_path / "precious"
    target.write_text("precious")
    (home.root / names["train"]).unlink()
    (home.root / names["train"]).symlink_to(target)
    install_samples(home)
    assert target.read_text() == "precious"
    assert not (home.root / names["train"]).is_symlink()
