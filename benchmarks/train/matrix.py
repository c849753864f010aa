"""The machine's matrix rate on a model's projections: a process that prints operations a second by number format."""

import json
import statistics
import sys
import time

TOKENS = 1024
REPEATS = 9
MOST_S = 3.0  # of one shape in one format


def main() -> None:
    """Measure the shapes of the job on the command line; the last line printed is the result."""
    import torch

    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    config = job["config"]
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    shapes = [(TOKENS, hidden, wide), (TOKENS, wide, hidden), (TOKENS, hidden, hidden)]
    found: dict[str, float] = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        work = seconds = 0.0
        for m, k, n in shapes:
            a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype).t()
            took = []
            # a format that the processor has no arithmetic for takes seconds each time
            while len(took) <= REPEATS and (len(took) < 2 or sum(took) < MOST_S):
                began = time.perf_counter()
                a @ b
                took.append(time.perf_counter() - began)
            work, seconds = work + 2.0 * m * k * n, seconds + statistics.median(took[1:])
        found[name] = work / seconds
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main()
