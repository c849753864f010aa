"""What ``doctor`` looks at. Each check gives its finding and never raises; none imports torch into this process."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tunesmith.cli.screen import language, megabytes, say
from tunesmith.kernel.problems import Problem

if TYPE_CHECKING:
    from tunesmith.kernel.db import Database
    from tunesmith.settings import Settings

Level = Literal["ok", "info", "warning", "error"]

_NEEDED = {"torch": "2.6", "transformers": "5.3", "peft": "0.18", "tokenizers": "0.21", "safetensors": "0.5"}
# extra -> the distribution that shows it is installed, and what it is for
_EXTRAS = {
    "postgres": ("psycopg", "PostgreSQL 数据库", "a PostgreSQL database"),
    "quantization": ("bitsandbytes", "int8 与 int4 基座", "int8 and int4 bases"),
}
_TRY_TORCH = (
    "import torch; x = torch.randn(256, 256); y = (x @ x).sum().item(); "
    "print(torch.__version__, 'cuda' if torch.cuda.is_available() else "
    "'mps' if torch.backends.mps.is_available() else 'cpu', torch.get_num_threads()); "
    "from tunesmith.inference.worker.native.library import reason; print(reason()); "
    "from tunesmith.training.loop.native.library import reason; print(reason() and reason(torch.bfloat16))"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Attributes:
        level: "error" means the main job does not work here; "warning" that something else does not.
        advice: what would not work, why, and what to do; empty when all is well.
        facts: the same for programs.
    """

    name: str
    level: Level
    value: str
    advice: str = ""
    facts: Mapping[str, object] | None = None

    def as_dict(self) -> dict[str, object]:
        """The JSON form."""
        return {
            "name": self.name,
            "level": self.level,
            "value": self.value,
            "advice": self.advice,
            **({"facts": dict(self.facts)} if self.facts else {}),
        }


def machine() -> Iterator[Check]:
    """The processor, memory and graphics card."""
    import psutil

    yield Check("system", "info", f"{platform.system()} {platform.release()} ({platform.machine()})")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("TUNESMITH_THREADS") or os.environ.get("OMP_NUM_THREADS") or say("自动", "automatic")
    yield Check(
        "cpu", "ok", say(f"{cores} 核，线程 {threads}", f"{cores} cores, threads {threads}"), facts={"cores": cores}
    )
    memory = psutil.virtual_memory()
    short = memory.available < 1.5e9
    yield Check(
        "memory",
        "warning" if short else "ok",
        say(
            f"共 {megabytes(memory.total)}，可用 {megabytes(memory.available)}",
            f"{megabytes(memory.total)} in all, {megabytes(memory.available)} available",
        ),
        say("可用内存不足 1.5 GB：训练可能被系统终止", "less than 1.5 GB available: training may be killed")
        if short
        else "",
        {"total_bytes": memory.total, "available_bytes": memory.available},
    )
    yield _gpu()


def software() -> Iterator[Check]:
    """Python, this package, the libraries it needs, and the extras."""
    version = platform.python_version()
    old = sys.version_info < (3, 11)
    yield Check(
        "python", "error" if old else "ok", version, say("需要 3.11 或更新", "3.11 or newer is needed") if old else ""
    )
    yield Check("tunesmith", "ok", _version("tunesmith") or say("未安装", "not installed"))
    for name, least in _NEEDED.items():
        found = _version(name)
        usable = found is not None and _numbers(found) >= _numbers(least)
        yield Check(
            name,
            "ok" if usable else "error",
            found or say("未安装", "not installed"),
            "" if usable else say(f"训练与推理需要 {name}>={least}", f"training and inference need {name}>={least}"),
        )
    for extra, (name, zh, en) in _EXTRAS.items():
        found = _version(name)
        yield Check(
            f"[{extra}]",
            "ok" if found else "info",
            found or say("未安装", "not installed"),
            ""
            if found
            else say(f"用于{zh}：pip install 'tunesmith[{extra}]'", f"for {en}: pip install 'tunesmith[{extra}]'"),
        )


def home_folder(home: Path | None) -> Iterator[Check]:
    """Whether the home folder can be written, its database opened, and a model found."""
    from tunesmith.settings import Settings

    try:
        settings = Settings.read(os.environ, home=home)
    except Problem as problem:
        yield Check("settings", "error", say("无法读取", "cannot be read"), problem.message(language()))
        return
    writable = _writable(settings.home)
    yield writable
    if writable.level == "error":
        return
    yield _disk(settings.home)
    yield _database(settings)
    yield from _models(settings)


def opened(settings: "Settings") -> "Database | None":
    """The database, where one has been made."""
    from tunesmith.kernel.db import Database

    file = settings.home / "tunesmith.db"
    if settings.database_url is None and not file.exists():
        return None
    return Database(settings.database_url or f"sqlite:///{file}")


def torch_works() -> Iterator[Check]:
    """Imports torch in another process and multiplies a matrix, then looks for the compiled kernels."""
    broken = say("torch 无法运行", "torch does not run")
    try:
        done = subprocess.run([sys.executable, "-c", _TRY_TORCH], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Check("torch runs", "error", type(error).__name__, broken)
        return
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        yield Check(
            "torch runs", "error", last, say("torch 无法导入，请重新安装", "torch cannot be imported; reinstall it")
        )
        return
    first, missing, unused = done.stdout.splitlines()[:3]
    version, device, threads = first.split()
    yield Check("torch runs", "ok", f"{version}, {device}", facts={"device": device, "threads": int(threads)})
    yield Check(
        "kernels",
        "info" if missing else "ok",
        missing or say("已编译", "compiled"),
        say(
            "引擎改用 torch 计算，较慢：在有 C 编译器的 x86 机器上重新安装即可编译",
            "the engine computes through torch, slower: they are compiled by an install on x86 with a C compiler",
        )
        if missing
        else "",
    )
    yield Check(
        "training kernels",
        "info" if unused else "ok",
        unused or say("已编译", "compiled"),
        say(
            "训练改用 torch 计算，较慢：需在有 C 编译器的 x86 机器上安装，处理器支持 AMX，或支持 AVX2 而无 AVX-512",
            "training computes through torch, slower: they are compiled by an install on x86 with a C compiler, for "
            "processors with AMX, or with AVX2 and without AVX-512",
        )
        if unused
        else "",
    )


def _gpu() -> Check:
    if shutil.which("nvidia-smi") is None:
        return Check(
            "gpu", "info", say("没有 NVIDIA GPU，使用 CPU", "no NVIDIA GPU; the CPU is used"), facts={"gpus": []}
        )
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done is None or done.returncode:
        return Check(
            "gpu", "warning", say("nvidia-smi 没有应答", "nvidia-smi does not answer"),
            say("驱动可能有问题，将使用 CPU", "the driver may be broken; the CPU is used"),
        )  # fmt: skip
    gpus = [row.strip() for row in done.stdout.splitlines() if row.strip()]
    return Check("gpu", "ok", "; ".join(gpus) or say("无", "none"), facts={"gpus": gpus})


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers: ``2.13.0+cpu`` is (2, 13, 0)."""
    parts: list[int] = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)


def _writable(root: Path) -> Check:
    """Made on first use, so an absent folder is fine where it could be made."""
    there = root
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Check(
            "home", "error", str(root),
            say(f"{there} 不可写：用 --home 或 TUNESMITH_HOME 换一个目录",
                f"{there} cannot be written: choose another with --home or TUNESMITH_HOME"),
        )  # fmt: skip
    value = str(root) if there == root else say(f"{root}（首次使用时创建）", f"{root} (made on first use)")
    return Check("home", "ok", value, facts={"path": str(root), "exists": there == root})


def _disk(root: Path) -> Check:
    there = root
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    short = free < 1e9
    advice = say("不足 1 GB：训练与导出可能失败", "under 1 GB: training and exporting may fail") if short else ""
    value = say(f"剩余 {megabytes(free)}", f"{megabytes(free)} free")
    return Check("disk", "warning" if short else "ok", value, advice, {"free_bytes": free})


def _database(settings: "Settings") -> Check:
    """Looks without making anything: a home that does not exist yet has no database yet."""
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        database = opened(settings)
        if database is None:
            return Check("database", "ok", say("SQLite（首次使用时创建）", "SQLite (made on first use)"))
        with database.read() as connection:
            connection.execute(text("SELECT 1 FROM alembic_version"))
        kind = "SQLite" if database.sqlite else "PostgreSQL"
        database.close()
    except (SQLAlchemyError, ImportError) as error:
        # only the driver's own words: a database URL may hold a password
        reason = str(getattr(error, "orig", None) or type(error).__name__).splitlines()[0]
        return Check(
            "database", "error", reason, say("数据库无法打开：检查文件或 TUNESMITH_DATABASE_URL",
            "the database cannot be opened: check the file or TUNESMITH_DATABASE_URL"),
        )  # fmt: skip
    return Check("database", "ok", kind)


def _models(settings: "Settings") -> Iterator[Check]:
    from tunesmith.kernel.home import Home
    from tunesmith.models.registry import SHIPPED, Registry

    with tempfile.TemporaryDirectory() as empty:  # stands for a home folder not made yet
        registry = Registry(Home(settings.home if settings.home.is_dir() else Path(empty)), settings.hf_home)
        bases, adapters = registry.bases(), registry.adapters()
    try:
        found = registry.base(SHIPPED)
        yield Check(SHIPPED, "ok", f"{megabytes(found.size_bytes)}, {found.architecture}")
    except Problem as problem:
        yield Check(SHIPPED, "error", say("缺失", "missing"), problem.message(language()))
    yield Check(
        "models",
        "info",
        say(f"{len(bases)} 个基座，{len(adapters)} 个适配器", f"{len(bases)} base models, {len(adapters)} adapters"),
        facts={"bases": [b.name for b in bases], "adapters": [a.name for a in adapters]},
    )
