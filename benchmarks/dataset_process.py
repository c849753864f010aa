"""Uploading and processing a large file beside ``datasets.load_dataset`` + ``train_test_split``, in one run.

    python benchmarks/dataset_process.py [--rows 1000000] [--bytes 1000] [--runs 1] [--folder build/dataset_process]

Ours takes the file as an upload (checks and counts every row), then processes it: converts every row, deals exact
splits in which no prompt stands twice, writes them as JSON Lines and Parquet and reads them again. The peer loads the
file and draws a split of indexes, which writes no split; in a second run it writes the splits as Parquet too. Each is a
whole process on the same file, timed from its start to its end; peak memory is of the process and all its children.
The peer lives in a virtual environment of its own, made in the folder on the first run.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
RATIOS = {"train": 0.8, "validation": 0.1, "test": 0.1}
PEER = """
import sys
import datasets
datasets.disable_progress_bars()
rows = datasets.load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2])
first = rows.train_test_split(test_size=0.2, seed=42)
second = first["test"].train_test_split(test_size=0.5, seed=42)
if sys.argv[3] == "files":
    for name, split in (("train", first["train"]), ("validation", second["train"]), ("test", second["test"])):
        split.to_parquet(f"{sys.argv[2]}/{name}.parquet")
"""


def generate(path: Path, rows: int, size: int, english: bool) -> None:
    """``rows`` seeded rows of about ``size`` bytes: an instruction, for every second row an input, an output."""
    rng = random.Random(7)
    words = [
        "retrieval",
        "gradient",
        "tokenizer",
        "harbour",
        "lantern",
        "baseline",
        "model",
        "data",
        "the",
        "of",
        "a",
        "question",
        "answer",
        "town",
    ]
    if not english:
        words += ["学习率", "适配器", "语料", "评估", "城镇", "问题"]
    a_word = sum(len(word.encode()) + 1 for word in words) / len(words)
    count = max(8, int((size - 60) / a_word))
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            asked, given = count // 4, (count // 4 if number % 2 else 0)
            row = {
                "instruction": f'{number}: say "{rng.choice(words)}"\n{" ".join(rng.choices(words, k=asked))}',
                "input": " ".join(rng.choices(words, k=given)),
                "output": " ".join(rng.choices(words, k=count - asked - given)),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def child(path: Path, home: Path) -> None:
    """Upload and process once; prints what was found and how long each took."""
    import asyncio

    from tunesmith.datasets.children import Children
    from tunesmith.datasets.service import DatasetService
    from tunesmith.datasets.uploads import UploadService
    from tunesmith.kernel.db import Database
    from tunesmith.kernel.home import Home
    from tunesmith.settings import Settings

    folder = Home(home)
    database = Database(f"sqlite:///{folder.root}/tunesmith.db")
    database.migrate()
    worker = Children()
    uploads = UploadService(database, folder, Settings(home=folder.root, max_upload_bytes=1 << 40), worker=worker)
    datasets = DatasetService(database, folder, worker=worker)
    print("idle", _resident(os.getpid()), flush=True)

    async def run() -> None:
        started = time.perf_counter()
        incoming = uploads.begin(path.name, name="benchmark")
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                incoming.write(piece)
        upload = await incoming.finish()
        uploaded = time.perf_counter()
        made = await datasets.process(upload.id, "benchmark", RATIOS)
        done = time.perf_counter()
        answer = {"rows": upload.samples, "upload_s": uploaded - started, "process_s": done - uploaded}
        print(json.dumps({**answer, "splits": made.splits, "leaks": made.leaks}), flush=True)

    asyncio.run(run())


def measured(command: list[str], environment: dict[str, str] | None = None) -> tuple[float, int, int, str]:
    """Seconds, peak bytes of the process alone and with its children, and what it printed."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        alone = together = 0
        while process.poll() is None:
            sizes = {pid: _resident(pid) for pid in _family(process.pid)}
            alone = max(alone, sizes.get(process.pid, 0))
            together = max(together, sum(sizes.values()))
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        printed = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{command[0]} failed with exit {process.returncode}")
    return seconds, alone, together, printed


def _resident(pid: int) -> int:
    """Resident bytes of the process; what several share is counted for each."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def _family(pid: int) -> list[int]:
    """The process and everything it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        threads = [Path(path, "children") for path in Path(f"/proc/{pid}/task").iterdir()]
        children += [each for path in threads if path.parent.name != str(pid) for each in path.read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(each for child in children for each in _family(int(child)))]


def peer_python(folder: Path) -> Path:
    """The interpreter of a virtual environment that has ``datasets``."""
    place = folder / "peer"
    if not (place / "bin" / "python").exists():
        print("installing the peer ...", flush=True)
        venv.create(place, with_pip=True)
        subprocess.run([place / "bin" / "pip", "install", "-q", "datasets"], check=True, stderr=subprocess.DEVNULL)
    return place / "bin" / "python"


def ours(path: Path, folder: Path) -> tuple[float, str]:
    """Seconds, and the rest of the line of the table."""
    home = Path(tempfile.mkdtemp(dir=folder, prefix="home-"))
    seconds, alone, together, printed = measured([sys.executable, __file__, "--child", str(path), str(home)])
    shutil.rmtree(home)
    first, told = printed.splitlines()
    idle, answer = int(first.split()[1]), json.loads(told)
    if answer["leaks"]:
        raise SystemExit(f"{answer['leaks']} prompts leaked")
    memory = f"{(together - idle) / 1e6:>9.0f} above idle ({(alone - idle) / 1e6:.0f} the server alone)"
    times = f"upload {answer['upload_s']:.1f} s, process {answer['process_s']:.1f} s"
    return seconds, f"{memory}; {times} = {answer['rows'] / answer['process_s']:.0f} rows/s"


def peer(python: Path, path: Path, folder: Path, what: str) -> tuple[float, str]:
    """The same of the peer."""
    cache = Path(tempfile.mkdtemp(dir=folder, prefix="cache-"))
    environment = {**os.environ, "HF_HOME": str(cache), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    seconds, _, together, _ = measured([str(python), "-c", PEER, str(path), str(cache), what], environment)
    shutil.rmtree(cache)
    return seconds, f"{together / 1e6:>9.0f}"


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--bytes", type=int, default=1000, help="of a row, about")
    arguments.add_argument("--runs", type=int, default=1, help="the best counts")
    arguments.add_argument("--english", action="store_true", help="ASCII only; else a third of the words are Chinese")
    arguments.add_argument("--folder", type=Path, default=Path("build/dataset_process"))
    arguments.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.child:
        child(*given.child)
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    python = peer_python(given.folder.resolve())
    path = given.folder.resolve() / "rows.jsonl"
    try:
        generate(path, given.rows, given.bytes, given.english)
        print(f"{given.rows} rows, {path.stat().st_size / 1e6:.0f} MB; best of {given.runs}; {os.cpu_count()} cores")
        cases = {
            "tunesmith, upload and process": lambda: ours(path, given.folder.resolve()),
            "load_dataset + split": lambda: peer(python, path, given.folder.resolve(), "indexes"),
            "load_dataset + split + to_parquet": lambda: peer(python, path, given.folder.resolve(), "files"),
        }
        best = {
            title: min((case() for _ in range(given.runs)), key=lambda run: run[0]) for title, case in cases.items()
        }
    finally:
        path.unlink(missing_ok=True)
    print(f"{'whole process':<36}{'seconds':>8}{'rows/s':>9}{'ours is':>9}  peak MB")
    first = best["tunesmith, upload and process"][0]
    for title, (seconds, rest) in best.items():
        print(f"{title:<36}{seconds:>8.1f}{given.rows / seconds:>9.0f}{seconds / first:>8.2f}x  {rest}")


if __name__ == "__main__":
    main()
