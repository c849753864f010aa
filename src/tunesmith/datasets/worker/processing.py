"""Files of any shape made one dataset: converted, dealt to splits, written as JSON Lines and Parquet, checked."""

from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from tunesmith.datasets.dataset import SPLITS
from tunesmith.datasets.formats import detect
from tunesmith.datasets.reading import FIRST_ROWS, open_path, rows_of
from tunesmith.datasets.rows import refused
from tunesmith.datasets.worker.converting import convert
from tunesmith.datasets.worker.crew import Crew, perform
from tunesmith.datasets.worker.dealing import check_written, deal, read_marks, write_splits
from tunesmith.datasets.worker.spans import WORTH_A_PROCESS, cut, require_good
from tunesmith.datasets.worker.tables import tabulate
from tunesmith.datasets.worker.tasks import Convert, Given, Process, Processed, Report, Span, Tabulate
from tunesmith.kernel.files import sync


def process(task: Process, report: Report) -> Processed:
    """Fill the folder with the splits; they are on the disk when this returns.

    Raises:
        Invalid: a file or its rows cannot be read or converted, or there are too few different prompts.
    """
    folder = Path(task.folder)
    names = tuple(name for name in SPLITS if name in task.ratios)
    shape, parts, marks = _convert(task, folder, report)
    places, lines = read_marks(marks)
    for file in marks:
        file.unlink()
    splits = deal(places, {name: task.ratios[name] for name in names})
    write_splits(parts, splits, lines, folder, names, report)

    tables = Tabulate(str(folder), names)
    if sum((folder / f"{name}.jsonl").stat().st_size for name in names) < WORTH_A_PROCESS:
        checked = check_written(folder, names, splits, places, lines)
        written = tabulate(tables, report)
    else:
        # what writes tables holds 60 MB more, and gives them back by ending
        with ThreadPoolExecutor(1) as pool:
            tabulating = pool.submit(Crew().ask, tables, report)
            checked = check_written(folder, names, splits, places, lines)
            written = tabulating.result()
    if written.rows != len(splits):
        raise RuntimeError(f"{written.rows} rows in the tables, {len(splits)} in the splits")
    for file in folder.iterdir():
        sync(file)
    duplicates, leaks, sha256 = checked
    counts = {name: splits.count(bytes([index])) for index, name in enumerate(names)}
    return Processed(shape, counts, duplicates, leaks, sha256)


def _convert(task: Process, folder: Path, report: Report) -> tuple[str, list[Path], list[Path]]:
    """The shape of the files, and the parts their rows and marks were written to."""
    spans: list[Span] = []
    jobs: list[Convert] = []
    shapes = [given.shape or shape_of(given) for given in task.files]
    for given, shape in zip(task.files, shapes, strict=True):
        for span in cut(given.path, given.label, given.format):
            stem = str(folder / f"part-{len(spans)}")
            spans.append(span)
            jobs.append(Convert(span, shape, task.seed, task.template, f"{stem}.lines", f"{stem}.marks"))
    found = perform(convert, jobs, report)
    require_good(spans, found)
    if not any(read.rows for read in found):
        raise refused(task.files[0].label, None, "文件里没有数据行", "the file has no rows")
    return shapes[0], [Path(job.lines) for job in jobs], [Path(job.marks) for job in jobs]


def shape_of(given: Given) -> str:
    """The shape of the file, told from its first rows.

    Raises:
        Invalid: none is known; the message says what was found.
    """
    with open_path(Path(given.path)) as file:
        first = [
            row[1] for row in islice(rows_of(file, given.label, given.format)[1], FIRST_ROWS) if type(row) is tuple
        ]
    # with no readable row the listing of bad rows says more than "unknown shape" could
    return detect(first, given.label) if first else "openai"
