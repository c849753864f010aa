"""Settings: frozen, read from the environment once, at the composition root."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.kernel.problems import Invalid


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the environment decides.

    Attributes:
        home: the folder all names on the wire live under.
        database_url: SQLAlchemy URL; None for SQLite in ``home``.
        threads: CPU threads of an engine or trainer process; 0 lets torch decide.
        concurrent_runs: runs training at once on this machine.
        engine_start_s: longest wait for an engine process to become ready.
        engine_idle_s: an engine nobody asked for so long is ended; 0 keeps it for ever.
        max_rows: rows an engine decodes at once; more wait their turn.
        environment: "dev" shows error details to clients; anything else does not.
        allowed_hosts: names the server answers to, beside this machine's own names and plain addresses.
        cors_origins: web origins whose pages may call the server; none by default.
        redis_url: shares rate limits between servers; None counts in memory.
        rate_training, rate_inference, rate_other: requests a user may make in an hour, a minute and a minute.
        max_upload_bytes: largest file taken.
    """

    home: Path
    database_url: str | None = None
    threads: int = 0
    concurrent_runs: int = 1
    engine_start_s: float = 300.0
    engine_idle_s: float = 0.0
    max_rows: int = 64
    environment: str = "production"
    finetuning_base_model: str | None = None
    finetuning_lora_path: str | None = None
    finetuning_model_name: str | None = None
    hf_home: Path | None = None
    ollama_host: str | None = None
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

        def listed(name: str) -> tuple[str, ...]:
            return tuple(part for part in (each.strip() for each in environ.get(name, "").split(",")) if part)

        chosen = home or Path(environ.get("TUNESMITH_HOME") or "~/.tunesmith")
        hf_home = environ.get("HF_HOME")
        return Settings(
            home=chosen.expanduser().absolute(),
            database_url=environ.get("TUNESMITH_DATABASE_URL") or None,
            threads=int(number("TUNESMITH_THREADS", 0)),
            concurrent_runs=max(1, int(number("TUNESMITH_CONCURRENT_RUNS", 1))),
            engine_start_s=number("TUNESMITH_ENGINE_START_SECONDS", 300.0),
            engine_idle_s=number("TUNESMITH_ENGINE_IDLE_SECONDS", 0.0),
            max_rows=max(1, int(number("TUNESMITH_MAX_ROWS", 64))),
            environment=environ.get("TUNESMITH_ENV") or "production",
            finetuning_base_model=environ.get("FINETUNING_BASE_MODEL") or None,
            finetuning_lora_path=environ.get("FINETUNING_LORA_PATH") or None,
            finetuning_model_name=environ.get("FINETUNING_MODEL_NAME") or None,
            hf_home=Path(hf_home).expanduser() if hf_home else Path("~/.cache/huggingface").expanduser(),
            ollama_host=environ.get("OLLAMA_HOST") or None,
            allowed_hosts=listed("TUNESMITH_ALLOWED_HOSTS"),
            cors_origins=listed("TUNESMITH_CORS_ORIGINS"),
            redis_url=environ.get("TUNESMITH_REDIS_URL") or None,
            rate_training=max(1, int(number("TUNESMITH_RATE_TRAINING", 10))),
            rate_inference=max(1, int(number("TUNESMITH_RATE_INFERENCE", 60))),
            rate_other=max(1, int(number("TUNESMITH_RATE_OTHER", 120))),
            max_upload_bytes=max(1, int(number("TUNESMITH_MAX_UPLOAD_MB", 4096) * (1 << 20))),
        )
