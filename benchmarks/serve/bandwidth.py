"""How fast this machine reads memory: a process that prints bytes a second, over as much memory as the weights take."""

import json
import statistics
import sys
import time

REPEATS = 9


def main() -> None:
    """Measure what the job on the command line says; the last line printed is the result."""
    import torch

    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    rows = torch.ones(max(1, job["bytes"] // 4 // 4096), 4096)  # float32, as touched as weights are
    vector = torch.ones(4096)
    bytes_read = rows.numel() * 4
    # whichever reads fastest: what none of them does is no limit
    ways = {"sum": lambda: rows.sum(), "largest": lambda: rows.amax(), "matrix by vector": lambda: rows @ vector}
    found = {}
    for name, read in ways.items():
        took = []
        for _ in range(REPEATS + 1):
            began = time.perf_counter()
            read()
            took.append(time.perf_counter() - began)
        found[name] = bytes_read / statistics.median(took[1:])
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main()
