"""Splits as Parquet: one column ``messages``, a list of {role, content}, as ``datasets`` and pandas read it."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import msgspec

from tunesmith.datasets.example import Message
from tunesmith.datasets.worker.tasks import Progress, Read, Report, Tabulate
from tunesmith.datasets.worker.texts import pairs_of

_READ = 512 << 10  # bytes made into a table at once: what is held as Python objects stays in the cache
_GROUP_BYTES = 8 << 20


class _Row(msgspec.Struct, gc=False):
    messages: tuple[Message, ...]


_decode = msgspec.json.Decoder(_Row).decode_lines


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

    batches, size, rest = [], 0, b""
    with file.open("rb", buffering=0) as written:
        while block := written.read(_READ):
            block = rest + block
            end = block.rfind(b"\n") + 1
            lines, rest = block[:end], block[end:]
            if lines:
                batches.append(_plain_batch(lines, schema) or _batch(lines, schema))
                size += len(lines)
            if size >= _GROUP_BYTES:
                yield pa.Table.from_batches(batches, schema), size
                batches, size = [], 0
    if rest:
        batches.append(_batch(rest, schema))
    if batches:
        yield pa.Table.from_batches(batches, schema), size + len(rest)


def _plain_batch(lines: bytes, schema: Any) -> Any:
    """What _batch makes, at half the price; None where there is more than a question and an answer in a line."""
    import numpy as np
    import pyarrow as pa

    found = pairs_of(lines)
    if found is None:
        return None
    offsets, texts = found
    turns = len(offsets) - 1
    contents = pa.StringArray.from_buffers(turns, pa.py_buffer(offsets), pa.py_buffer(texts))
    roles = pa.array(["user", "assistant"], pa.string()).take(pa.array(np.arange(turns) % 2))
    return _rows(np.arange(0, turns + 1, 2, dtype=np.int32), roles, contents, schema)


def _batch(lines: bytes, schema: Any) -> Any:
    import pyarrow as pa

    rows = [row.messages for row in _decode(lines)]
    turns = list(chain.from_iterable(rows))
    ends = [0, *accumulate(map(len, rows))]
    roles = pa.array([turn.role for turn in turns], pa.string())
    return _rows(ends, roles, pa.array([turn.content for turn in turns], pa.string()), schema)


def _rows(ends: Any, roles: Any, contents: Any, schema: Any) -> Any:
    import pyarrow as pa

    kind = schema.field("messages").type
    struct = pa.StructArray.from_arrays([roles, contents], fields=list(kind.value_type))
    column = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), struct, type=kind)
    return pa.RecordBatch.from_arrays([column], schema=schema)
