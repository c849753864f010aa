"""Settings: frozen, read from the environment once, at the composition root."""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tunesmith.kernel.problems import Invalid

OPENROUTER_URL = "https://openrouter.ai/api/v1"
TOGETHER_URL = "https://api.together.ai/v1"
FIREWORKS_URL = "https://api.fireworks.ai"
OPENROUTER_MODEL = "mistralai/mistral-7b-instruct"  # the first of the document's list
_OLLAMA_PORT = 11434
EngineKind = Literal["builtin", "vllm"]
PRECISIONS = ("auto", "float32", "bfloat16", "float16", "int8")


@dataclass(frozen=True, slots=True)
class UpstreamLimits:
    """How long and how often one upstream is asked.

    Attributes:
        connect_s: for the connection.
        first_s: from the request to the first token; a cold model has to be loaded first.
        idle_s: of silence between tokens.
        total_s: for a whole answer.
        in_flight: answers at once; more are refused.
    """

    connect_s: float = 5.0
    first_s: float = 120.0
    idle_s: float = 60.0
    total_s: float = 600.0
    in_flight: int = 1024


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """vLLM as the engine.

    Attributes:
        url: of one that runs already; None starts one for every base model.
        key: sent to the one that runs already, where it wants one.
        command: what starts one, before ``serve``.
        arguments: of ``serve`` beyond ours; they win over ours.
    """

    url: str | None = None
    key: str | None = field(default=None, repr=False)
    command: tuple[str, ...] = ("vllm",)
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the environment decides.

    Attributes:
        home: the folder all names on the wire live under.
        database_url: SQLAlchemy URL; None for SQLite in ``home``.
        threads: CPU threads of an engine or trainer process; 0 lets torch decide.
        trainer_processes: processes that train one run together (``torchrun``), each with a GPU of its own.
        warm_trainer: keep a trainer ready beside ``serve`` while nothing trains and memory is plentiful.
        concurrent_runs: runs training at once on this machine.
        checkpoint_s: seconds between two checkpoints of a run, at least.
        lease_s: a server that has not been heard of for so long loses its runs to another on the same database.
        engine_start_s: longest wait for an engine process to become ready.
        engine_idle_s: an engine nobody asked for so long is ended; 0 keeps it for ever.
        max_rows: rows an engine decodes at once; more wait their turn.
        precision: in which numbers an engine keeps its weights; "auto" never rounds what the checkpoint holds.
        eager: on a graphics card, an engine launches the kernels of each step one by one, not as a CUDA graph.
        engine: what runs this machine's models: our own worker, or vLLM.
        environment: "dev" shows error details to clients; anything else does not.
        allowed_hosts: names the server answers to, beside this machine's own names and plain addresses.
        cors_origins: web origins whose pages may call the server; none by default.
        redis_url: shares rate limits between servers; None counts in memory.
        rate_training, rate_inference, rate_other: requests a user may make in an hour, a minute and a minute.
        max_upload_bytes: largest file taken.
        ollama_url: where Ollama listens; None where none is configured.
        ollama_model: what Ollama answers with when a request names none it knows; None lets it be found.
        openrouter_key: wins over the key an admin has stored.
        openrouter_url: up to and with ``/v1``.
        openrouter_model: what OpenRouter answers with when a request names none it knows.
        together_key, fireworks_key: win over the keys an admin has stored.
        together_url: up to and with ``/v1``.
        fireworks_url: without a path.
        fireworks_account: the account jobs belong to; None asks the service which accounts the key opens.
        public_url: this service's own address, which OpenRouter attributes requests to.
        upstream: how long and how often Ollama and OpenRouter are asked.
    """

    home: Path
    database_url: str | None = None
    threads: int = 0
    trainer_processes: int = 1
    warm_trainer: bool = True
    concurrent_runs: int = 1
    checkpoint_s: float = 30.0
    lease_s: float = 30.0
    engine_start_s: float = 300.0
    engine_idle_s: float = 0.0
    max_rows: int = 64
    precision: str = "auto"
    eager: bool = False
    engine: EngineKind = "builtin"
    vllm: VllmSettings = VllmSettings()
    environment: str = "production"
    finetuning_base_model: str | None = None
    finetuning_lora_path: str | None = None
    finetuning_model_name: str | None = None
    hf_home: Path | None = None
    ollama_url: str | None = None
    ollama_model: str | None = None
    openrouter_key: str | None = field(default=None, repr=False)
    openrouter_url: str = OPENROUTER_URL
    openrouter_model: str = OPENROUTER_MODEL
    together_key: str | None = field(default=None, repr=False)
    together_url: str = TOGETHER_URL
    fireworks_key: str | None = field(default=None, repr=False)
    fireworks_url: str = FIREWORKS_URL
    fireworks_account: str | None = None
    public_url: str | None = None
    upstream: UpstreamLimits = UpstreamLimits()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    redis_url: str | None = None
    rate_training: int = 10
    rate_inference: int = 60
    rate_other: int = 120
    max_upload_bytes: int = 4 << 30

    @staticmethod
    def read(environ: Mapping[str, str] = os.environ, *, home: Path | None = None) -> "Settings":
        """Settings from ``environ``; ``home`` wins over TUNESMITH_HOME.

        Raises:
            Invalid: a value cannot be read; the variable is named.
        """

        def number(name: str, default: float) -> float:
            text = environ.get(name, "")
            try:
                value = float(text) if text else default
            except ValueError:
                value = -1.0
            if not 0 <= value < 1e9:
                raise Invalid(
                    f"环境变量 {name} 应为非负数，得到 {text!r}", f"{name} must be a number >= 0, got {text!r}"
                )
            return value

        def patience(name: str, default: float) -> float:
            seconds = number(name, default)
            if not seconds:  # elsewhere 0 is no limit; here every answer would be too late
                raise Invalid(f"环境变量 {name} 应大于 0", f"{name} must be more than 0", field=name)
            return seconds

        def listed(name: str) -> tuple[str, ...]:
            return tuple(part for part in (each.strip() for each in environ.get(name, "").split(",")) if part)

        limits = UpstreamLimits()
        chosen = home or Path(environ.get("TUNESMITH_HOME") or "~/.tunesmith")
        hf_home = environ.get("HF_HOME")
        return Settings(
            home=chosen.expanduser().absolute(),
            database_url=environ.get("TUNESMITH_DATABASE_URL") or None,
            threads=int(number("TUNESMITH_THREADS", 0)),
            trainer_processes=max(1, int(number("TUNESMITH_TRAINER_PROCESSES", 1))),
            warm_trainer=number("TUNESMITH_WARM_TRAINER", 1) > 0,
            concurrent_runs=max(1, int(number("TUNESMITH_CONCURRENT_RUNS", 1))),
            checkpoint_s=number("TUNESMITH_CHECKPOINT_SECONDS", 30.0),
            lease_s=patience("TUNESMITH_LEASE_SECONDS", 30.0),
            engine_start_s=number("TUNESMITH_ENGINE_START_SECONDS", 300.0),
            engine_idle_s=number("TUNESMITH_ENGINE_IDLE_SECONDS", 0.0),
            max_rows=max(1, int(number("TUNESMITH_MAX_ROWS", 64))),
            precision=_precision(environ.get("TUNESMITH_ENGINE_PRECISION") or "auto"),
            eager=number("TUNESMITH_ENGINE_EAGER", 0) > 0,
            engine=_engine(environ.get("TUNESMITH_ENGINE", "")),
            vllm=VllmSettings(
                url=_url("TUNESMITH_VLLM_URL", environ),
                key=_key("TUNESMITH_VLLM_API_KEY", environ),
                command=_words("TUNESMITH_VLLM_COMMAND", environ) or VllmSettings().command,
                arguments=_words("TUNESMITH_VLLM_ARGS", environ),
            ),
            environment=environ.get("TUNESMITH_ENV") or "production",
            finetuning_base_model=environ.get("FINETUNING_BASE_MODEL") or None,
            finetuning_lora_path=environ.get("FINETUNING_LORA_PATH") or None,
            finetuning_model_name=environ.get("FINETUNING_MODEL_NAME") or None,
            hf_home=Path(hf_home).expanduser() if hf_home else Path("~/.cache/huggingface").expanduser(),
            ollama_url=_ollama_url(environ.get("OLLAMA_HOST", "")),
            ollama_model=environ.get("TUNESMITH_OLLAMA_MODEL") or None,
            openrouter_key=_key("OPENROUTER_API_KEY", environ),
            openrouter_url=_url("OPENROUTER_BASE_URL", environ) or OPENROUTER_URL,
            openrouter_model=environ.get("TUNESMITH_OPENROUTER_MODEL") or OPENROUTER_MODEL,
            together_key=_key("TOGETHER_API_KEY", environ),
            together_url=_url("TOGETHER_BASE_URL", environ) or TOGETHER_URL,
            fireworks_key=_key("FIREWORKS_API_KEY", environ),
            fireworks_url=_fireworks_url(environ) or FIREWORKS_URL,
            fireworks_account=_account(environ.get("FIREWORKS_ACCOUNT_ID", "")),
            public_url=_url("TUNESMITH_PUBLIC_URL", environ),
            upstream=UpstreamLimits(
                connect_s=patience("TUNESMITH_UPSTREAM_CONNECT_SECONDS", limits.connect_s),
                first_s=patience("TUNESMITH_UPSTREAM_FIRST_TOKEN_SECONDS", limits.first_s),
                idle_s=patience("TUNESMITH_UPSTREAM_IDLE_SECONDS", limits.idle_s),
                total_s=patience("TUNESMITH_UPSTREAM_TOTAL_SECONDS", limits.total_s),
                in_flight=max(1, int(number("TUNESMITH_UPSTREAM_IN_FLIGHT", limits.in_flight))),
            ),
            allowed_hosts=listed("TUNESMITH_ALLOWED_HOSTS"),
            cors_origins=listed("TUNESMITH_CORS_ORIGINS"),
            redis_url=environ.get("TUNESMITH_REDIS_URL") or None,
            rate_training=max(1, int(number("TUNESMITH_RATE_TRAINING", 10))),
            rate_inference=max(1, int(number("TUNESMITH_RATE_INFERENCE", 60))),
            rate_other=max(1, int(number("TUNESMITH_RATE_OTHER", 120))),
            max_upload_bytes=max(1, int(number("TUNESMITH_MAX_UPLOAD_MB", 4096) * (1 << 20))),
        )


def _engine(text: str) -> EngineKind:
    if text in ("", "builtin"):
        return "builtin"
    if text == "vllm":
        return "vllm"
    raise Invalid(
        f"环境变量 TUNESMITH_ENGINE 应为 builtin 或 vllm，得到 {text!r}",
        f"TUNESMITH_ENGINE must be builtin or vllm, got {text!r}",
    )


def _words(name: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The words of a command line, read as a shell reads them."""
    try:
        return tuple(shlex.split(environ.get(name, "")))
    except ValueError as error:
        raise Invalid(f"环境变量 {name} 的引号不成对", f"the quotes in {name} do not match", field=name) from error


def _key(name: str, environ: Mapping[str, str]) -> str | None:
    """A key from the environment; what no HTTP header can carry is refused now, without quoting it."""
    text = environ.get(name, "").strip()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise Invalid(f"环境变量 {name} 含有不允许的字符", f"{name} holds characters that no key has", field=name)
    return text or None


def _account(text: str) -> str | None:
    """A name that becomes part of a path."""
    text = text.strip()
    if text and not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", text):
        raise Invalid(
            "环境变量 FIREWORKS_ACCOUNT_ID 应由小写字母、数字和连字符组成",
            "FIREWORKS_ACCOUNT_ID must consist of lower-case letters, digits and hyphens",
            field="FIREWORKS_ACCOUNT_ID",
        )
    return text or None


def _url(name: str, environ: Mapping[str, str]) -> str | None:
    """An http or https address, without a slash at its end."""
    text = environ.get(name, "").strip()
    if not text:
        return None
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        plain = not (parts.query or parts.fragment or parts.username or parts.password) and len(text.split()) == 1
    except ValueError:
        good = plain = False
    if not (good and plain):
        # not quoted: people put passwords into addresses
        raise Invalid(
            f"环境变量 {name} 应为 http:// 或 https:// 地址，不含用户名、查询与片段",
            f"{name} must be an http:// or https:// address without user name, query and fragment",
            field=name,
        )
    return text.rstrip("/")


def _fireworks_url(environ: Mapping[str, str]) -> str | None:
    """The address without a path: jobs and chat live under different ones, which are added."""
    url = _url("FIREWORKS_BASE_URL", environ)
    if url is not None and re.search(r"/inference(/v1)?$", url):
        raise Invalid(
            "环境变量 FIREWORKS_BASE_URL 应为不含路径的地址（例如 https://api.fireworks.ai）：/inference 与 /inference/v1 "
            "只是对话的路径，会自动加上",
            "FIREWORKS_BASE_URL must be the address without a path, such as https://api.fireworks.ai: /inference and "
            "/inference/v1 are the paths of chat alone, and are added where they belong",
            field="FIREWORKS_BASE_URL",
        )
    return url


def _precision(text: str) -> str:
    if text not in PRECISIONS:
        names = ", ".join(PRECISIONS)
        raise Invalid(
            f"环境变量 TUNESMITH_ENGINE_PRECISION 应为 {names} 之一，得到 {text!r}",
            f"TUNESMITH_ENGINE_PRECISION must be one of {names}, got {text!r}",
        )
    return text


def _ollama_url(host: str) -> str | None:
    """The address in OLLAMA_HOST, read as Ollama's own client does (envconfig.Host): port 11434 unless a scheme or a
    port is given; an address to listen on everywhere is asked at this machine."""
    host = host.strip().strip("\"'")
    if not host:
        return None
    scheme, found, rest = host.partition("://")
    if not found:
        scheme, rest = "http", host
    rest, _, path = rest.partition("/")
    name, colon, port = rest.rpartition(":")
    if not colon or "]" in port:
        name, port = rest, "" if not found else {"http": "80", "https": "443"}.get(scheme, "")
    elif ":" in name and not name.startswith("["):  # an IPv6 address without a port
        name, port = f"[{rest}]", ""
    name = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(name, name)
    url = f"{scheme}://{name}:{port or _OLLAMA_PORT}{'/' + path if path else ''}"
    return _url("OLLAMA_HOST", {"OLLAMA_HOST": url})
