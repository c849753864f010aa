"""Splits as Parquet: one column ``messages``, a list of {role, content}, as ``datasets`` and pandas read it."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from tunesmith.datasets.example import Message
from tunesmith.datasets.worker.tasks import Progress, Read, Report, Tabulate

_ROWS = 1000  # made into a table at once: what is held as Python objects stays in the cache
_GROUP_BYTES = 8 << 20
_BUFFER = 1 << 20


class _Row(msgspec.Struct, gc=False):
    messages: tuple[Message, ...]


def tabulate(task: Tabulate, report: Report) -> Read:
    """Write the tables; decoding and compressing run side by side."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_memory_pool(pa.system_memory_pool())  # a third less memory than the default, which keeps what was freed
    folder = Path(task.folder)
    total = sum((folder / f"{name}.jsonl").stat().st_size for name in task.names)
    schema = pa.schema([("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])))])
    rows = done = 0
    with ThreadPoolExecutor(1) as pool:
        for name in task.names:
            waiting: Future[None] | None = None
            with pq.ParquetWriter(
                folder / f"{name}.parquet",
                schema,
                compression="zstd",  # a quarter smaller than snappy for a fifth more time
                compression_level=1,
                use_dictionary=["messages.list.element.role"],
                write_statistics=False,  # the least and greatest conversation tell nobody anything
            ) as table:
                for group, size in _groups(folder / f"{name}.jsonl", schema):
                    if waiting:
                        waiting.result()
                    waiting = pool.submit(table.write_table, group)
                    rows, done = rows + group.num_rows, done + size
                    report(Progress("writing", done, total, rows))
                if waiting:
                    waiting.result()
    return Read(rows)


def _groups(file: Path, schema: Any) -> Iterator[tuple[Any, int]]:
    """Tables of about _GROUP_BYTES, and the bytes each was read from."""
    import pyarrow as pa

    decode = msgspec.json.Decoder(_Row).decode
    batches, size, rows = [], 0, []
    with file.open("rb", buffering=_BUFFER) as lines:
        for line in lines:
            rows.append(decode(line).messages)
            size += len(line)
            if len(rows) == _ROWS:
                batches.append(_batch(rows, schema))
                rows = []
                if size >= _GROUP_BYTES:
                    yield pa.Table.from_batches(batches, schema), size
                    batches, size = [], 0
    if rows:
        batches.append(_batch(rows, schema))
    if batches:
        yield pa.Table.from_batches(batches, schema), size


def _batch(rows: list[tuple[Message, ...]], schema: Any) -> Any:
    import pyarrow as pa

    turns = list(chain.from_iterable(rows))
    ends, end = [0], 0
    for row in rows:
        end += len(row)
        ends.append(end)
    struct = pa.StructArray.from_arrays(
        [pa.array([turn.role for turn in turns], pa.string()), pa.array([turn.content for turn in turns], pa.string())],
        fields=list(schema.field("messages").type.value_type),
    )
    column = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), struct, type=schema.field("messages").type)
    return pa.RecordBatch.from_arrays([column], schema=schema)
