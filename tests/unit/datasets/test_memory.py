"""Files larger than memory: what is held at once does not grow with the file."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunesmith.datasets.reading import read_file

SIZE = 60_000_000
ROW = {"instruction": 'say "hello" ' * 60, "input": "多" * 200, "output": "{[x]} " * 300}


@pytest.fixture
def written(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Path, int]]:
    """About 60 MB of rows in the layout asked for, and how many rows they are."""
    path, row = tmp_path / "big.json", json.dumps(ROW, indent=2 if request.param == "indented" else None)
    rows = SIZE // len(row)
    begin, between, end = {"lines": ("", "\n", "\n"), "one line": ("[", ", ", "]"), "indented": ("[\n", ",\n", "\n]")}[
        request.param
    ]
    with path.open("w", encoding="utf-8") as file:
        file.write(begin)
        for number in range(rows):
            file.write(row if number == 0 else between + row)
        file.write(end)
    yield path, rows
    path.unlink()


@pytest.mark.parametrize("written", ["lines", "one line", "indented"], indirect=True)
def test_sixty_megabytes_are_read_within_eight(written: tuple[Path, int]) -> None:
    path, rows = written
    tracemalloc.start()
    try:
        found = sum(1 for _ in read_file(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == rows
    assert peak < 8_000_000


def test_parquet_is_read_a_batch_at_a_time(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "big.parquet"
    schema = pa.schema({"prompt": pa.string(), "completion": pa.string()})
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for group in range(30):
            prompts = [f"{group}-{n}-" + "p" * 900 for n in range(1000)]
            writer.write_table(pa.table({"prompt": prompts, "completion": prompts}, schema=schema))
    assert path.stat().st_size > 50_000_000
    before = pa.total_allocated_bytes()
    most = 0
    tracemalloc.start()
    try:
        for number, _ in enumerate(read_file(path)):
            if number % 100 == 0:
                most = max(most, pa.total_allocated_bytes() - before)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert number == 29_999
    assert most + peak < 16_000_000, (most, peak)
