"""What ``doctor`` says of the services this one asks: Ollama, the providers, Redis."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tunesmith.cli.checks import Check, opened
from tunesmith.cli.screen import language, say
from tunesmith.kernel.problems import Problem

if TYPE_CHECKING:
    from tunesmith.settings import Settings

T = TypeVar("T")
_ANSWER_S = 2.0  # a service on this network that takes longer is not well
_MOST_BYTES = 4 << 20


def services(home: Path | None) -> Iterator[Check]:
    """Whether Ollama answers, whose keys are held, and whether Redis answers where one is configured.

    Nothing outside this network is called.
    """
    from tunesmith.settings import Settings

    try:
        settings = Settings.read(os.environ, home=home)
    except Problem:
        return  # home_folder names it
    yield _ollama(settings.ollama_url)
    for asked in _keyed(settings):
        yield _key(settings, asked)
    if settings.redis_url is not None:
        yield _redis(settings, settings.redis_url)


def _ollama(url: str | None) -> Check:
    if url is None:
        return Check(
            "ollama", "info", say("未配置", "not configured"),
            say("要使用 Ollama 的模型：设置 OLLAMA_HOST，例如 127.0.0.1:11434",
                "to use Ollama's models set OLLAMA_HOST, for example to 127.0.0.1:11434"),
        )  # fmt: skip
    try:
        version, models = _within(_ANSWER_S, lambda: _ask_ollama(url))
    except ValueError:
        value = say(f"{url} 的应答不像 Ollama", f"what answers at {url} is not Ollama")
    except Exception as error:
        value = say(f"{url} 没有应答", f"{url} does not answer") + f" ({type(error).__name__})"
    else:
        value = say(f"{version}，{models} 个模型（{url}）", f"{version}, {models} models ({url})")
        advice = "" if models else say("还没有模型：ollama pull <模型>", "it has no model yet: ollama pull <model>")
        facts = {"url": url, "version": version, "models": models}
        return Check("ollama", "ok" if models else "warning", value, advice, facts)
    return Check(
        "ollama", "warning", value,
        say("本地 AI 不可用：启动它（ollama serve），或更正 OLLAMA_HOST",
            "local models do not answer: start it (ollama serve), or correct OLLAMA_HOST"),
        {"url": url},
    )  # fmt: skip


def _ask_ollama(url: str) -> tuple[str, int]:
    """Its version, and how many models it has.

    Raises:
        ValueError: the answer is not Ollama's. OSError, HTTPException: there is none.
    """
    version = _asked(f"{url}/api/version").get("version")
    models = _asked(f"{url}/api/tags").get("models") or []
    if not isinstance(version, str) or not isinstance(models, list):
        raise ValueError(url)
    return version[:40], len(models)


def _asked(url: str) -> dict[str, object]:
    """The JSON object there. A proxy is not used and a redirect not followed: either leads somewhere else."""
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, ProxyHandler, build_opener

    class Stay(HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    try:
        with build_opener(ProxyHandler({}), Stay).open(url, timeout=_ANSWER_S) as answer:
            found = json.loads(answer.read(_MOST_BYTES))
    except HTTPError as error:
        error.close()
        raise ValueError(url) from None
    except RecursionError:
        raise ValueError(url) from None
    if not isinstance(found, dict):
        raise ValueError(url)
    return found


def _within(limit_s: float, ask: Callable[[], T]) -> T:
    """What ``ask`` gives or raises; TimeoutError after ``limit_s``, whatever it is still waiting for."""
    given: list[T] = []
    raised: list[Exception] = []

    def run() -> None:
        try:
            given.append(ask())
        except Exception as error:
            raised.append(error)

    # a socket's time limit is for each read, and looking up a name has none at all
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if raised:
        raise raised[0]
    if not given:
        raise TimeoutError
    return given[0]


@dataclass(frozen=True, slots=True)
class _Keyed:
    """A provider that wants a key.

    Attributes:
        key: the environment's.
        zh, en: what it is good for.
    """

    name: str
    variable: str
    key: str | None
    zh: str
    en: str


def _keyed(settings: "Settings") -> Iterator[_Keyed]:
    yield _Keyed(
        "openrouter", "OPENROUTER_API_KEY", settings.openrouter_key, "使用 OpenRouter 的模型", "use OpenRouter's models"
    )
    yield _Keyed("together_ai", "TOGETHER_API_KEY", settings.together_key, "在 Together AI 微调", "tune at Together AI")
    yield _Keyed(
        "fireworks_ai", "FIREWORKS_API_KEY", settings.fireworks_key, "在 Fireworks AI 微调", "tune at Fireworks AI"
    )


def _key(settings: "Settings", asked: _Keyed) -> Check:
    """Where its key comes from; the key itself is never shown, and whether it is accepted not asked."""
    source = "environment" if asked.key else None
    if source is None:
        try:
            source = "stored" if _stored_key(settings, asked.name) else None
        except Problem as problem:
            return Check(
                asked.name, "warning", say("密钥不可用", "its key cannot be used"), problem.message(language())
            )
    value = {
        "environment": say(f"密钥来自 {asked.variable}", f"key from {asked.variable}"),
        "stored": say("密钥已保存", "key stored"),
        None: say("没有密钥", "no key"),
    }[source]
    command = f"tunesmith providers set-key {asked.name} --key-stdin"
    advice = say(
        f"要{asked.zh}：设置 {asked.variable}，或运行 {command}", f"to {asked.en} set {asked.variable}, or: {command}"
    )
    return Check(asked.name, "ok" if source else "info", value, "" if source else advice, {"key": source})


def _stored_key(settings: "Settings", provider: str) -> bool:
    """Whether a key of the provider is stored.

    Raises:
        Unavailable: one is, but cannot be opened.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from tunesmith.accounts.vault import Vault

    try:
        database = opened(settings)
        if database is None:
            return False
        try:
            return Vault(database, settings.home / "secrets", {}).get(provider) is not None
        finally:
            database.close()
    except (SQLAlchemyError, ImportError):
        return False  # the database's own check says what is wrong with it


def _redis(settings: "Settings", url: str) -> Check:
    """Its URL may hold a password: neither it nor the driver's words are shown."""
    from tunesmith.http.rates import Rates

    try:
        Rates.of(settings)
    except Problem as problem:
        return Check("redis", "error", say("无法使用", "cannot be used"), problem.message(language()))
    try:
        _within(_ANSWER_S, lambda: _ping(url))
    except Exception as error:
        return Check(
            "redis", "warning", say("没有应答", "does not answer") + f" ({type(error).__name__})",
            say("各服务器只能各自计数限流：检查 Redis 或 TUNESMITH_REDIS_URL",
                "each server counts rate limits alone: check Redis or TUNESMITH_REDIS_URL"),
        )  # fmt: skip
    return Check("redis", "ok", say("有应答", "answers"))


def _ping(url: str) -> None:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    once = Retry(NoBackoff(), 0)
    with Redis.from_url(url, socket_connect_timeout=_ANSWER_S, socket_timeout=_ANSWER_S, retry=once) as redis:
        redis.ping()
