"""``tunesmith providers``: the services that answer or train elsewhere, their keys, and what they train."""

import getpass
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli import completing
from tunesmith.cli.screen import (
    PROBLEM,
    HomeOption,
    JsonOption,
    language,
    line,
    note,
    say,
    show_json,
    table,
    verb,
    wrong_usage,
)
from tunesmith.cli.session import opened, run_inside

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunesmith.accounts.vault import HeldKey, Vault
    from tunesmith.app import Services
    from tunesmith.training.executor import Parameter
    from tunesmith.training.hosted.catalog import Offer
    from tunesmith.training.hosted.provider import HostedModel

app = typer.Typer(
    no_args_is_help=True,
    help=say("外部服务商：密钥、可微调的模型与参数", "Services elsewhere: their keys, and what they tune."),
)

TrainerArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[PROVIDER]",
        autocompletion=completing.trainers,
        help=say("提供商，或 local；默认全部", "together_ai, fireworks_ai or local; all when not given."),
    ),
]
_MOST = 8192  # bytes read of standard input: no key is as long

ProviderArgument = Annotated[
    str,
    typer.Argument(
        metavar="PROVIDER",
        autocompletion=completing.providers,
        help=say("服务商：openrouter、together_ai、fireworks_ai", "openrouter, together_ai or fireworks_ai."),
    ),
]


@app.command(
    "list",
    help=say("列出服务商与已有的密钥（不显示密钥本身）", "List providers and which keys are held, never the keys."),
)
@verb
def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Of two keys of one provider the environment's is used. Nobody is asked whether a key is accepted."""
    from tunesmith.accounts.vault import PROVIDERS

    with opened(home) as services:
        held = services.vault.held()
        tunes = [name for name in PROVIDERS if name.upper() in services.hosted.catalog.labels()]
    without = [name for name in PROVIDERS if name not in {key.provider for key in held}]
    if as_json:
        show_json({"keys": held, "without_key": without, "tunes": tunes})
        return
    columns = [
        say("服务商", "provider"),
        say("来源", "source"),
        say("末尾", "ends with"),
        say("状态", "state"),
        say("设置者", "set by"),
        say("时间", "set"),
    ]
    missing = [(name, None, None, say("没有密钥", "no key"), None, None) for name in without]
    table(columns, [*(_row(key) for key in held), *missing])


@app.command("models", help=say("列出可以微调的模型", "List the models that can be tuned."))
@verb
def models(
    provider: TrainerArgument = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """At one provider, or everywhere; asked now. What cannot be asked is told, and exit 1 where nothing is left."""

    async def work(services: "Services") -> "Sequence[Offer]":
        catalog = services.hosted.catalog
        return await catalog.offers() if provider is None else [await catalog.offer(provider)]

    offers = run_inside(home, work)
    if as_json:
        show_json({"providers": [_offer(each) for each in offers]})
    else:
        columns = [say("提供商", "provider"), say("模型", "model"), say("名称", "name"), say("策略", "strategies")]
        columns += [say("工具", "tools"), say("上下文", "context")]
        table(columns, [_model(offer, model) for offer in offers for model in offer.models])
        for offer in offers:
            if offer.problem is not None:
                note(f"{offer.id}: {offer.problem.message(language())}")
    if not any(offer.enabled and offer.models for offer in offers):
        raise typer.Exit(PROBLEM)


@app.command("parameters", help=say("列出微调时可以设置的参数", "List what a job may set there."))
@verb
def parameters(
    provider: Annotated[
        str,
        typer.Argument(
            metavar="PROVIDER",
            autocompletion=completing.trainers,
            help=say("提供商，或 local", "together_ai, fireworks_ai or local."),
        ),
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """For ``tunesmith jobs create --set NAME=VALUE``."""
    with opened(home) as services:
        found = services.hosted.catalog.parameters(provider)
    if as_json:
        show_json({"parameters": [asdict(each) for each in found]})
        return
    columns = [
        say("名称", "name"),
        say("类型", "kind"),
        say("默认", "default"),
        say("范围", "range"),
        say("含义", "meaning"),
    ]
    table(columns, [_parameter(each) for each in found])


@app.command("set-key", help=say("保存服务商的密钥（在终端中询问）", "Keep a provider's key; it is asked for."))
@verb
def set_key(
    provider: ProviderArgument,
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help=say("从标准输入读取密钥", "Read the key from standard input."))
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sealed in the database; a server that runs uses it within five seconds."""
    from tunesmith.accounts.vault import check_provider
    from tunesmith.kernel.caller import LOCAL

    check_provider(provider)  # before a key is asked for
    with opened(home) as services:
        services.vault.put(provider, _key(provider, key_stdin), by=LOCAL.name)
        kept = _stored(services.vault, provider)
        shadowed = _in_environment(services.vault, provider)
    if as_json:
        show_json(kept)
    else:
        line(say(f"已保存 {provider} 的密钥", f"stored the key of {provider}"))
    if shadowed:
        note(
            say(
                f"环境变量中也有 {provider} 的密钥，且优先使用它",
                f"the environment holds a key of {provider} too, and that one is used",
            )
        )


@app.command("forget-key", help=say("删除保存的密钥", "Remove a provider's stored key."))
@verb
def forget_key(provider: ProviderArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Forgetting twice is fine; a key in the environment stays."""
    with opened(home) as services:
        forgotten = services.vault.forget(provider)
        remaining = _in_environment(services.vault, provider)
    if as_json:
        show_json({"provider": provider, "forgotten": forgotten})
    elif forgotten:
        line(say(f"已删除 {provider} 的密钥", f"removed the key of {provider}"))
    else:
        line(say(f"没有保存 {provider} 的密钥", f"no key of {provider} was stored"))
    if remaining:
        note(
            say(
                f"环境变量中仍有 {provider} 的密钥，会继续使用",
                f"the environment still holds a key of {provider}, which stays in use",
            )
        )


def _key(provider: str, from_stdin: bool) -> str:
    """The new key: standard input without the blanks around it, or what is typed unseen.

    Raises:
        typer.Exit: 2, there is no terminal to ask on, or nothing was given.
    """
    if from_stdin:
        text = sys.stdin.buffer.read(_MOST).decode("utf-8", "replace")
    elif sys.stdin.isatty():
        try:
            text = getpass.getpass(say(f"{provider} 的密钥：", f"key of {provider}: "))
        except EOFError:
            note()
            text = ""
    else:
        raise wrong_usage("没有终端可询问密钥；请使用 --key-stdin", "no terminal to ask for a key on; use --key-stdin")
    if not text.strip():
        raise wrong_usage("没有输入密钥", "no key was given")
    return text.strip()


def _stored(vault: "Vault", provider: str) -> "HeldKey | None":
    return next((key for key in vault.held() if (key.provider, key.source) == (provider, "stored")), None)


def _in_environment(vault: "Vault", provider: str) -> bool:
    return any((key.provider, key.source) == (provider, "environment") for key in vault.held())


def _row(key: "HeldKey") -> tuple[object, ...]:
    source = say("环境变量", "environment") if key.source == "environment" else say("已保存", "stored")
    state = say("可用", "good") if key.opens else say("无法解开，请重新设置", "cannot be opened: set it again")
    set_at = f"{key.set_at:%Y-%m-%d %H:%M}" if key.set_at else None
    return key.provider, source, f"…{key.hint}" if key.hint else None, state, key.set_by, set_at


def _model(offer: "Offer", model: "HostedModel") -> tuple[object, ...]:
    tools = say("支持", "yes") if model.tools else ""
    return offer.id, model.id, model.name, ", ".join(model.strategies), tools, model.context_length or ""


def _offer(offer: "Offer") -> dict[str, Any]:
    problem = None if offer.problem is None else offer.problem.message(language())
    told = {"id": offer.id, "label": offer.label, "enabled": offer.enabled, "problem": problem}
    return told | {"models": [asdict(model) for model in offer.models]}


def _parameter(each: "Parameter") -> tuple[object, ...]:
    ends = [f"{end:g}" if end is not None else "" for end in (each.minimum, each.maximum)]
    allowed = ", ".join(each.choices) if each.choices else "..".join(ends) if any(ends) else ""
    default = "" if each.default is None else str(each.default)
    return each.name, each.kind, default, allowed, say(each.description_zh or each.description, each.description)
