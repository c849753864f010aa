"""``tunesmith providers``: keys of the services that answer elsewhere."""

import getpass
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.screen import HomeOption, JsonOption, line, note, say, show_json, table, verb, wrong_usage
from tunesmith.cli.session import opened

if TYPE_CHECKING:
    from tunesmith.accounts.vault import HeldKey, Vault

app = typer.Typer(
    no_args_is_help=True, help=say("外部服务商的密钥", "Keys of providers: services that answer elsewhere.")
)

_MOST = 8192  # bytes read of standard input: no key is as long

ProviderArgument = Annotated[
    str, typer.Argument(metavar="PROVIDER", help=say("服务商，如 openrouter", "The provider, such as openrouter."))
]


@app.command("list", help=say("列出已有的密钥（不显示密钥本身）", "List the keys held, never the keys themselves."))
@verb
def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Of two keys of one provider the environment's is used."""
    with opened(home) as services:
        held = services.vault.held()
    if as_json:
        show_json({"keys": held})
        return
    columns = [
        say("服务商", "provider"),
        say("来源", "source"),
        say("末尾", "ends with"),
        say("状态", "state"),
        say("设置者", "set by"),
        say("时间", "set"),
    ]
    table(columns, [_row(key) for key in held])


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
