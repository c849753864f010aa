"""llama.cpp's own server, as the ``xllamacpp`` wheel carries it, in an environment of its own. No Tunesmith here."""

import signal
import sys


def main() -> None:
    """Serve the GGUF file until told to stop."""
    import xllamacpp

    model, port, slots, threads = sys.argv[1], *map(int, sys.argv[2:5])
    wanted = xllamacpp.CommonParams()
    wanted.model.path = model
    wanted.hostnames, wanted.port = ["127.0.0.1"], port
    wanted.n_parallel, wanted.n_ctx = slots, slots * 512
    wanted.use_jinja, wanted.verbosity = True, 0
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(wanted)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
