"""A real llama.cpp server (``xllamacpp``) on a tiny random model, speaking the OpenAI wire at ``/v1``."""

import argparse
import sys
import threading
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from tests.upstreams.lifetime import announce, end_with_parent
from tests.upstreams.tiny_gguf import CONTEXT, make_tiny_gguf

SLOTS = 4
START_S = 30.0


def serve(model: Path, port: int) -> str:
    """Start a server in this process and give its address once it answers; 4 answers at once, 1 thread."""
    import xllamacpp  # type: ignore[import-untyped]

    wanted = xllamacpp.CommonParams()
    wanted.model.path = str(model)
    wanted.hostnames = ["127.0.0.1"]
    wanted.port = port
    wanted.n_parallel = SLOTS
    wanted.n_ctx = CONTEXT * SLOTS
    wanted.warmup = False
    wanted.verbosity = 0
    wanted.use_jinja = True
    wanted.cpuparams.n_threads = 1
    wanted.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(wanted)
    _kept.append(server)
    url = str(server.listening_address)
    _wait_until_loaded(url)
    return url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="where the model is, or is made")
    given = parser.parse_args()
    end_with_parent()
    model = given.folder / "tiny.gguf"
    url = serve(model if model.exists() else make_tiny_gguf(given.folder), given.port)
    announce({"url": url, "port": int(url.rsplit(":", 1)[1]), "model": str(model)})
    threading.Event().wait()


_kept: list[object] = []  # a server ends when nothing holds it


def _wait_until_loaded(url: str) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            with urlopen(url + "/health", timeout=5):
                return
        except HTTPError as still_loading:
            still_loading.close()
        except URLError:
            pass
        time.sleep(0.02)
    sys.exit("llama.cpp did not come up")


if __name__ == "__main__":
    main()
