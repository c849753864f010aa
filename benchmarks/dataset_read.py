"""Rows a second of our streaming reader beside its peers, on one generated file, in one run.

    python benchmarks/dataset_read.py [--rows 200000]

Ours reads, validates and gives Examples; the peers only read: json.loads line by line, and pyarrow's read_json.
Each reader runs in a process of its own, so that its peak memory is its own; the best of three runs counts.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 3


def generate(folder: Path, rows: int) -> dict[str, Path]:
    """The same rows as JSON Lines, as an array on one line, and as an indented array."""
    rng = random.Random(7)
    words = ["retrieval", "gradient", "学习率", "适配器", "tokenizer", "语料", "harbour", "lantern", "评估", "baseline"]
    paths = {name: folder / name for name in ("rows.jsonl", "array.json", "indented.json")}
    with (
        paths["rows.jsonl"].open("w", encoding="utf-8") as lines,
        paths["array.json"].open("w", encoding="utf-8") as array,
        paths["indented.json"].open("w", encoding="utf-8") as indented,
    ):
        for number in range(rows):
            row = {
                "instruction": f'{number}: say "{rng.choice(words)}"\n{" ".join(rng.choices(words, k=20))}',
                "input": rng.choice(("", "context {braces} [brackets]")),
                "output": " ".join(rng.choices(words, k=40)),
            }
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            array.write(("[" if number == 0 else ", ") + json.dumps(row, ensure_ascii=False))
            indented.write(("[\n" if number == 0 else ",\n") + json.dumps(row, ensure_ascii=False, indent=2))
        array.write("]")
        indented.write("\n]\n")
    return paths


def read(reader: str, path: Path) -> int:
    """Rows that ``reader`` finds in ``path``."""
    if reader == "json":
        with path.open("rb") as file:
            return sum(1 for line in file if json.loads(line))
    if reader == "pyarrow":
        from pyarrow import json as arrow

        return int(arrow.read_json(path).num_rows)
    from tunesmith.datasets.reading import read_file

    return sum(1 for _ in read_file(path))


def measured(reader: str, path: Path) -> tuple[int, float, float]:
    """Rows, seconds and peak resident MB of one read in a fresh process (start-up not timed)."""
    command = [sys.executable, __file__, "--reader", reader, "--path", str(path)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(answer[0]), float(answer[1]), float(answer[2])


def child(reader: str, path: Path) -> None:
    """Read once, print rows, seconds and peak MB."""
    import resource

    started = time.perf_counter()
    rows = read(reader, path)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(rows, seconds, peak / (1 << 20 if sys.platform == "darwin" else 1 << 10))


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, default=200_000)
    arguments.add_argument("--reader", help=argparse.SUPPRESS)
    arguments.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.reader:
        child(given.reader, given.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = generate(Path(folder), given.rows)
        size = paths["rows.jsonl"].stat().st_size / 1e6
        print(f"{given.rows} rows, {size:.0f} MB as JSON Lines; best of {RUNS}")
        print(f"{'reader':<34}{'rows/s':>10}{'peak MB':>9}{'ours (JSONL) / it':>19}")
        cases = [
            ("tunesmith, JSON Lines", "tunesmith", "rows.jsonl"),
            ("tunesmith, array on one line", "tunesmith", "array.json"),
            ("tunesmith, indented array", "tunesmith", "indented.json"),
            ("json.loads by line, unchecked", "json", "rows.jsonl"),
            ("pyarrow read_json, unchecked", "pyarrow", "rows.jsonl"),
        ]
        ours = 0.0
        for title, reader, name in cases:
            runs = [measured(reader, paths[name]) for _ in range(RUNS)]
            if any(rows != given.rows for rows, _, _ in runs):
                raise SystemExit(f"{title}: read {runs[0][0]} rows of {given.rows}")
            rate = given.rows / min(seconds for _, seconds, _ in runs)
            ours = ours or rate
            print(f"{title:<34}{rate:>10.0f}{max(peak for _, _, peak in runs):>9.0f}{ours / rate:>19.2f}")


if __name__ == "__main__":
    main()
