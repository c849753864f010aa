"""The servers that are compared: how each is installed, started, asked, and what its weights take in memory."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType

import psutil
from gateway.subjects import Running, free_port, get
from train.peers import LeftOut

from serve import environments
from serve.client import Body, Door, openai, plain
from serve.material import ADAPTERS, BASE

HERE = Path(__file__).parent
_STORED: Mapping[str, float] = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "q8_0": 34 / 32}
_SLOTS = 32
_START_S = 600.0  # some compile first


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are.

    Attributes:
        folder: the benchmark's. home: Tunesmith's, with the model. threads: for whoever wants to be told.
    """

    folder: Path
    home: Path
    threads: int

    @property
    def model(self) -> Path:
        return self.home / "models" / BASE


@dataclass(frozen=True, slots=True)
class Server:
    """One contestant.

    Attributes:
        stored: bytes of a weight in memory; None where only the running server knows.
        command: arguments and environment for a port.
        body: how it is asked; None for Tunesmith, which is looked at first.
        name_of_base: what a request calls the model.
    """

    name: str
    stored: float | None
    command: Callable[[int], tuple[Sequence[str | Path], Mapping[str, str]]]
    body: Body | None
    name_of_base: str = BASE
    health: str = "/health"

    @contextmanager
    def running(self, log: Path) -> Iterator[tuple[Running, Door]]:
        """It, serving; ended with all its children on the way out.

        Raises:
            LeftOut: it did not start; the end of its log is in the text.
        """
        port, began = free_port(), time.perf_counter()
        command, environ = self.command(port)
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env=dict(environ), stdin=subprocess.DEVNULL
            )
        try:
            while (answer := get(port, self.health)) is None or answer[0] != 200:
                late = time.perf_counter() - began > _START_S
                if late or process.poll() is not None:
                    raise LeftOut(f"it did not start{' in time' * late}: {environments.last_line(log)}")
                time.sleep(0.02)
            yield (
                Running(process, port, time.perf_counter() - began, log),
                Door(f"http://127.0.0.1:{port}", self.body or _tunesmith_body(port)),
            )
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for each in children:
        if each.is_running():
            each.kill()


def peak_bytes(it: Running) -> int:
    """Most resident memory of each process of the tree that still runs, added up: shared pages count in each."""
    total = 0
    for each in it.tree():
        try:
            status = Path(f"/proc/{each.pid}/status").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))
    return total


def clean(**more: str) -> dict[str, str]:
    """An environment without what this shell happens to configure."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "", **more}


# -- Tunesmith


def precisions() -> tuple[str, ...]:
    """Which the engine can be told; "auto" alone where it cannot be told any."""
    from tunesmith.settings import Settings

    told = any("precision" in field.name for field in fields(Settings))
    return ("float32", "bfloat16", "float16", "int8") if told else ("auto",)


def tunesmith(place: Place, precision: str, more: Mapping[str, str] = MappingProxyType({})) -> Server:
    """``tunesmith serve`` with the engine in that precision; ``more`` is environment."""

    def command(port: int) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        # counted as ever, but never reached: all clients here have one address
        limits = {"TUNESMITH_RATE_INFERENCE": "100000000", "TUNESMITH_RATE_OTHER": "100000000"}
        told = {"TUNESMITH_ENV": "dev"}  # errors say why
        told["TUNESMITH_WARM_TRAINER"] = "0"  # this is about serving: no trainer waits beside it
        told |= {} if precision == "auto" else {"TUNESMITH_ENGINE_PRECISION": precision}
        serve = [sys.executable, "-m", "tunesmith.cli", "serve", "--home", place.home, "--port", str(port)]
        return serve, clean(**limits, **told, **more)

    return Server(f"tunesmith {precision}", _STORED.get(precision), command, None)


def _tunesmith_body(port: int) -> Body:
    """How the server is asked: OpenAI's route, or its own where it has not that yet."""
    told = get(port, "/openapi.json")
    knows = told is not None and told[0] == 200 and "/v1/chat/completions" in json.loads(told[1])["paths"]
    return openai({"stream_options": {"include_usage": True}}) if knows else plain


def worker_of(it: Running) -> psutil.Process | None:
    """The engine's process among Tunesmith's."""
    return next((each for each in it.tree() if "tunesmith.inference.worker" in each.cmdline()), None)


def worker_health(worker: psutil.Process) -> dict[str, object]:
    """What the engine says of itself."""
    import asyncio

    import aiohttp

    words = worker.cmdline()
    address = words[words.index("--socket") + 1]

    async def ask() -> dict[str, object]:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(address)) as session,
            session.get("http://engine/health") as response,
        ):
            return dict(await response.json())

    return asyncio.run(ask())


def stored_by(it: Running) -> tuple[str, float]:
    """The precision that Tunesmith's engine chose, and its bytes a weight."""
    worker = worker_of(it)
    said = worker_health(worker) if worker else {}
    name = str(said.get("precision") or said.get("dtype") or "float32")
    return name, _STORED.get(name, 4)


# -- peers


def transformers(place: Place, dtype: str) -> Server:
    """``transformers serve`` with continuous batching."""
    python = environments.python_of(environments.TRANSFORMERS_PEER, place.folder)

    def command(port: int) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        options = ["--continuous-batching", "--device", "cpu", "--dtype", dtype, "--host", "127.0.0.1"]
        # pages of 256 tokens; left alone, it takes nine tenths of the machine's free memory for them
        options += ["--cb-num-blocks", str(2 * _SLOTS)]
        return [python.with_name("transformers"), "serve", place.model, *options, "--port", str(port)], clean()

    # it names the model by its folder
    return Server(f"transformers serve {dtype}", _STORED[dtype], command, openai({}), str(place.model))


def openvino(place: Place, stored: str) -> Server:
    """OpenVINO GenAI behind a small server; the weights as ``fp16`` or ``int8``."""
    python = environments.python_of(environments.OPENVINO_PEER, place.folder)
    folder = place.home.parent / f"openvino-{stored}"
    if not (folder / ".written").exists():
        optimum = environments.python_of(environments.OPTIMUM_PEER, place.folder)
        export = [optimum.with_name("optimum-cli"), "export", "openvino", "--model", place.model]
        export += ["--task", "text-generation-with-past", "--weight-format", stored, folder]
        _made(export, place.folder / "openvino-export.log")
        (folder / ".written").touch()

    def command(port: int) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        return [python, HERE / "openvino_server.py", folder, str(port)], clean()

    size = {"fp16": 2, "int8": 1}[stored]
    return Server(f"OpenVINO {stored}", size, command, openai({}))


def llamacpp(place: Place, type: str) -> Server:
    """llama.cpp's server on a GGUF file of that type."""
    python = environments.python_of(environments.LLAMA_CPP_PEER, place.folder)
    file = place.home.parent / f"{type}.gguf"
    if not file.exists():
        from tunesmith.kernel.home import Home
        from tunesmith.kernel.problems import Problem
        from tunesmith.models.export.gguf_files import write_model
        from tunesmith.models.registry import Registry

        try:
            write_model(Registry(Home(place.home)).base(BASE), None, file.with_suffix(".partial"), type=type, name=BASE)
        except Problem as problem:
            raise LeftOut(problem.en) from problem
        file.with_suffix(".partial").rename(file)

    def command(port: int) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        words = [python, HERE / "llamacpp_server.py", file, *map(str, (port, _SLOTS, place.threads))]
        return words, clean()

    more = {"ignore_eos": True, "stream_options": {"include_usage": True}}
    stored = _STORED[{"f16": "float16", "bf16": "bfloat16"}.get(type, type)]
    return Server(f"llama.cpp {type}", stored, command, openai(more))


def vllm(place: Place, dtype: str, *, adapters: bool = False) -> Server:
    """vLLM's build for CPUs; with ``adapters`` it serves ADAPTERS as well."""
    python = environments.python_of(environments.VLLM_PEER, place.folder)

    def command(port: int) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        # its `vllm serve` asks for the version of a package that has another name in this build
        serve: list[str | Path] = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", place.model]
        serve += [
            "--served-model-name",
            BASE,
            "--dtype",
            dtype,
            "--max-model-len",
            "1024",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]
        if adapters:
            modules = [f"{name}={place.home / name}" for name in ADAPTERS]
            serve += ["--enable-lora", "--max-loras", "9", "--max-lora-rank", "8", "--lora-modules", *modules]
        # by default it keeps a core for its scheduler
        return serve, clean(VLLM_CPU_NUM_OF_RESERVED_CPU="0", VLLM_CPU_KVCACHE_SPACE="1", VLLM_NO_USAGE_STATS="1")

    more = {"ignore_eos": True, "stream_options": {"include_usage": True}}
    return Server(f"vllm-cpu {dtype}", _STORED[dtype], command, openai(more))


def field(place: Place) -> dict[str, Callable[[], Server]]:
    """Everybody by name, each made when asked for."""
    found: dict[str, Callable[[], Server]] = {}
    for each in precisions():
        found[f"tunesmith {each}"] = lambda each=each: tunesmith(place, each)
    for each in ("float32", "bfloat16"):
        found[f"transformers serve {each}"] = lambda each=each: transformers(place, each)
    for each in ("fp16", "int8"):
        found[f"OpenVINO {each}"] = lambda each=each: openvino(place, each)
    for each in ("f16", "bf16", "q8_0"):
        found[f"llama.cpp {each}"] = lambda each=each: llamacpp(place, each)
    for each in ("bfloat16", "float32"):
        found[f"vllm-cpu {each}"] = lambda each=each: vllm(place, each)
    return found


def slow_here() -> dict[str, str]:
    """Who is left out unless asked for by name, and why."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "avx512_bf16" in flags or "amx_bf16" in flags:
        return {"vllm-cpu float32": "its bfloat16 is run", "llama.cpp f16": "its bf16 is run"}
    why = "this processor has no bfloat16 arithmetic"
    return {"transformers serve bfloat16": why, "llama.cpp bf16": why, "vllm-cpu bfloat16": why}


def bandwidth(place: Place, bytes_read: int) -> float:
    """Bytes a second that this machine reads with all threads from huge pages, by the fastest of several ways."""
    command = [sys.executable, HERE / "bandwidth.py", json.dumps({"bytes": bytes_read, "threads": place.threads})]
    done = subprocess.run(command, capture_output=True, check=True, env=clean(THP_MEM_ALLOC_ENABLE="1"))
    return max(json.loads(done.stdout.decode().removeprefix("RESULT ")).values())


def _made(command: Sequence[str | Path], log: Path) -> None:
    began = time.monotonic()
    with log.open("ab") as output:
        done = subprocess.run(command, stdout=output, stderr=output, check=False, env=clean())
    if done.returncode:
        raise LeftOut(f"exporting the model failed: {environments.last_line(log)}")
    print(f"exported in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
