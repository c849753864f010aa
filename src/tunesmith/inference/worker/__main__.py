"""``python -m tunesmith.inference.worker``: serve one base model on a private socket."""

import argparse
import asyncio
import gc
import os
import signal
import sys
from pathlib import Path

from aiohttp import web

from tunesmith.inference.worker import lean  # noqa: F401  (first)
from tunesmith.inference.worker.parent import end_with
from tunesmith.inference.worker.server import Worker
from tunesmith.kernel.logs import log_to_stderr

_BACKLOG = 2048  # callers that connect in one moment: a full queue of a unix socket turns the next away
_FAILED_LINGER_S = 10.0  # a worker that could not load tells why for so long


def main() -> None:
    """Parse the command line and serve until told to stop."""
    parser = argparse.ArgumentParser(prog="tunesmith.inference.worker", description=__doc__)
    parser.add_argument("--base-name", required=True, help="what callers call the base model")
    parser.add_argument("--base-path", required=True, type=Path, help="its folder")
    parser.add_argument("--socket", required=True, type=Path, help="unix socket to listen on; made with mode 0600")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 lets torch decide")
    parser.add_argument("--max-rows", type=int, default=64, help="rows decoded at once")
    parser.add_argument("--precision", default="auto", help="auto, float32, bfloat16, float16 or int8")
    parser.add_argument("--records", type=Path, help="where it is kept what transformers says of models")
    parser.add_argument("--eager", action="store_true", help="record no steps as CUDA graphs")
    parser.add_argument("--parent-watch", type=int, metavar="PID", help="end when this process does")
    arguments = parser.parse_args()
    if arguments.parent_watch:
        end_with(arguments.parent_watch)
    if arguments.threads:  # before torch is imported: OpenMP reads it once
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # threads that spin at barriers would wait for the scheduler whenever another process is busy
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    log_to_stderr("info")
    asyncio.run(_serve(arguments))


async def _serve(arguments: argparse.Namespace) -> None:
    worker = Worker(
        arguments.base_name,
        arguments.base_path,
        threads=arguments.threads,
        max_rows=arguments.max_rows,
        precision=arguments.precision,
        records=arguments.records,
        eager=arguments.eager,
    )
    runner = web.AppRunner(worker.app(), handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    before = os.umask(0o177)  # the socket is its owner's alone
    await web.UnixSite(runner, str(arguments.socket), backlog=_BACKLOG).start()
    os.umask(before)  # folders made later, as for compiled modules, must stay usable
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    loading = asyncio.create_task(_load(worker, stop))
    await stop.wait()
    worker.close()
    await runner.cleanup()
    loading.cancel()
    arguments.socket.unlink(missing_ok=True)
    # The loading thread may be deep in an import: there is nothing to save, so do not wait for it.
    sys.stderr.flush()
    os._exit(0)


async def _load(worker: Worker, stop: asyncio.Event) -> None:
    await worker.load()
    gc.collect()  # what importing has left, while the collector rested
    gc.freeze()  # libraries and model stay to the end: no step waits while all of them are looked through
    if worker.failed:
        await asyncio.sleep(_FAILED_LINGER_S)
        stop.set()


if __name__ == "__main__":
    main()
