"""``tunesmith keys``: API keys, for programs that ask in somebody's name."""

from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.screen import HomeOption, JsonOption, line, moment, note, say, show_json, table, verb
from tunesmith.cli.session import opened

if TYPE_CHECKING:
    from tunesmith.accounts.keys import ApiKey

app = typer.Typer(no_args_is_help=True, help=say("API 密钥：供程序使用", "API keys, for programs."))


@app.command("create", help=say("创建密钥，只显示这一次", "Make a key; it is shown this once."))
@verb
def create(
    user: Annotated[str, typer.Option("--user", help=say("以谁的名义", "In whose name it asks."))],
    label: Annotated[str, typer.Option("--label", help=say("用途说明", "What it is for."))] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sent as ``Authorization: Bearer KEY``; good until it is revoked."""
    with opened(home) as services:
        user = services.accounts.get(user).name
        made = services.accounts.create_key(user, label)
    if as_json:
        show_json({"id": made.id, "key": made.secret, "user": user})
    else:
        line(made.secret)
    note(
        say(
            f"请现在保存：之后无法再次查看。撤销：tunesmith keys revoke {made.id}",
            f"keep it now: it cannot be shown again. To revoke it: tunesmith keys revoke {made.id}",
        )
    )


@app.command("list", help=say("列出密钥", "List keys."))
@verb
def list_(
    user: Annotated[str | None, typer.Option("--user", help=say("只列出此用户的", "Only this user's."))] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Newest first, revoked ones too; never the keys themselves."""
    with opened(home) as services:
        kept = services.accounts.keys(user)
    if as_json:
        show_json({"keys": kept})
        return
    columns = [say("编号", "id"), say("用户", "user"), say("说明", "label"), say("状态", "state"), say("时间", "made")]
    columns.append(say("上次使用", "last used"))
    rows = [(k.id, k.user, k.label, _state(k), moment(k.created_at), moment(k.last_used_at)) for k in kept]
    table(columns, rows)


@app.command("revoke", help=say("撤销密钥，立即失效", "Revoke a key; it stops at once."))
@verb
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help=say("密钥编号", "The key's id."))],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoking twice is fine."""
    with opened(home) as services:
        key = services.accounts.revoke_key(id)
    if as_json:
        show_json(key)
    else:
        line(say(f"已撤销密钥 {key.id}（{key.user}）", f"revoked key {key.id} of {key.user}"))


def _state(key: "ApiKey") -> str:
    return say("有效", "good") if key.revoked_at is None else say("已撤销", "revoked")
