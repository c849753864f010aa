"""What waits in place of a trainer, without importing anything: it writes down what it was given, and sleeps."""

import os
import socket
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    with socket.socket(fileno=0) as given:
        said, descriptors, _, _ = socket.recv_fds(given, 1024, 2)
    if not descriptors:
        sys.exit(0)
    os.write(descriptors[1], b"given\n")
    (Path(os.fsdecode(said)) / "given").write_text(str(os.getpid()))
    time.sleep(60)
