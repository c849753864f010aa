"""What a machine has left: the least of its memory and of every control group's."""

from pathlib import Path

import numpy as np
import psutil
import pytest

from tunesmith.training.plan.room import forget_peak, free_memory, peak_memory, resident

MB = 1_000_000


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


@pytest.fixture
def process(tmp_path: Path) -> Path:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/outer/inner\n")
    return tmp_path / "self"


def test_without_limits_it_is_what_the_machine_has(tmp_path: Path, process: Path) -> None:
    group(tmp_path / "groups/outer/inner", memory_max="max\n", memory_current="5\n")
    free = free_memory(tmp_path / "groups", process)
    assert abs(free - psutil.virtual_memory().available) < 2000 * MB


def test_the_smallest_group_decides_and_pages_of_files_count_as_free(tmp_path: Path, process: Path) -> None:
    groups = tmp_path / "groups"
    group(groups / "outer", memory_max=str(90 * MB), memory_current=str(50 * MB))
    group(groups / "outer/inner", memory_max=str(80 * MB), memory_current=str(60 * MB))
    assert free_memory(groups, process) == 20 * MB
    group(groups / "outer/inner", memory_stat=f"anon 1\ninactive_file {15 * MB}\n")
    assert free_memory(groups, process) == 35 * MB


def test_a_container_finds_its_own_group_at_the_top(tmp_path: Path, process: Path) -> None:
    group(tmp_path / "groups", memory_max=str(30 * MB), memory_current=str(10 * MB))
    assert free_memory(tmp_path / "groups", process) == 20 * MB


def test_the_older_kind_of_group_is_known_too(tmp_path: Path, process: Path) -> None:
    (process / "cgroup").write_text("5:cpu:/x\n4:memory:/x\n")
    folder = tmp_path / "groups/memory/x"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(str(40 * MB))
    (folder / "memory.usage_in_bytes").write_text(str(35 * MB))
    assert free_memory(tmp_path / "groups", process) == 5 * MB


def test_a_group_that_is_over_its_limit_leaves_nothing(tmp_path: Path, process: Path) -> None:
    group(tmp_path / "groups/outer/inner", memory_max="10", memory_current="20")
    assert free_memory(tmp_path / "groups", process) == 0


def test_the_peak_is_remembered_until_it_is_forgotten() -> None:
    block = np.ones(30_000_000)  # 240 MB
    with_block = resident("RssAnon")
    del block
    assert peak_memory() >= with_block
    forget_peak()
    assert peak_memory() < with_block + 60 * MB
