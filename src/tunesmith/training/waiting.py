"""A trainer that waits for its run: ``python -m tunesmith.training.waiting``, with a socket for standard input.

Most of the time from a request to the first step is the import of libraries. Here that is done before anybody asks.
The run comes through the socket, once: the path of its folder, and with it the descriptors of its lock and of its log.
From then on this is a trainer like any other. A socket that is closed instead means that nobody will ever ask.
"""

import os
import socket
import sys
from pathlib import Path

from tunesmith.kernel.imports import importing
from tunesmith.training import trainer

_LONGEST = 1 << 16  # bytes of a path


def main() -> int:
    """Wait, then execute the run; the exit status is the trainer's, 0 where no run came."""
    trainer.prepare_environment()
    with importing():
        _import_all()
    with socket.socket(fileno=0) as given:
        said, descriptors, _, _ = socket.recv_fds(given, _LONGEST, 2)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        given.detach()  # its descriptor is standard input, and nothing now
    if len(descriptors) != 2:
        return 0
    lock, log = descriptors
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    folder = Path(os.fsdecode(said))
    os.chdir(folder)
    return trainer.main(["--run-dir", str(folder), "--lock-fd", str(lock)])


def _import_all() -> None:
    """What every run needs; a model's own module comes with the run."""
    import safetensors.torch
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_utils

    from tunesmith.training import publishing, recipe
    from tunesmith.training.data import preparing
    from tunesmith.training.loop import loading, lora_modules

    del safetensors, torch, AutoModelForCausalLM, AutoTokenizer, modeling_utils
    del publishing, recipe, preparing, loading, lora_modules


if __name__ == "__main__":
    sys.exit(main())
