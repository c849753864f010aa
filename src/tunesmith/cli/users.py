"""``tunesmith users``: who may sign in."""

import getpass
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.screen import HomeOption, JsonOption, line, moment, note, say, show_json, table, verb, wrong_usage
from tunesmith.cli.session import opened

if TYPE_CHECKING:
    from tunesmith.accounts.user import User

app = typer.Typer(no_args_is_help=True, help=say("用户：谁可以登录", "Users: who may sign in."))

_MOST = 8192  # bytes read of standard input: no password is as long

NameArgument = Annotated[str, typer.Argument(help=say("用户名", "The user's name."))]
PasswordStdinOption = Annotated[
    bool,
    typer.Option("--password-stdin", help=say("从标准输入读取密码", "Read the password from standard input.")),
]


@app.command("add", help=say("添加用户（密码在终端中询问）", "Add a user; the password is asked for on the terminal."))
@verb
def add(
    name: NameArgument,
    admin: Annotated[
        bool, typer.Option("--admin", help=say("可看到所有人的记录", "May see what everybody made."))
    ] = False,
    password_stdin: PasswordStdinOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Members see their own runs, datasets and evaluations; admins see all."""
    from tunesmith.accounts.user import parse_user_name

    name = parse_user_name(name)  # before a password is asked for
    with opened(home) as services:
        user = services.accounts.add(name, _password(name, password_stdin), "admin" if admin else "member")
    _tell(user, say(f"已添加用户 {name}（{_role(user)}）", f"added user {name} ({_role(user)})"), as_json)


@app.command("list", help=say("列出用户", "List users."))
@verb
def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """By name."""
    with opened(home) as services:
        users = services.accounts.list()
    if as_json:
        show_json({"users": users})
        return
    table(
        [
            say("用户名", "name"),
            say("角色", "role"),
            say("状态", "state"),
            say("添加时间", "added"),
            say("上次登录", "last login"),
        ],
        [(u.name, _role(u), _state(u), moment(u.created_at), moment(u.last_login_at)) for u in users],
    )


@app.command(
    "disable", help=say("停用用户，其令牌与密钥立即失效", "Let a user in no more; tokens and keys stop at once.")
)
@verb
def disable(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """The last admin who may sign in cannot be disabled."""
    with opened(home) as services:
        user = services.accounts.disable(name)
    _tell(user, say(f"已停用用户 {user.name}", f"disabled user {user.name}"), as_json)


@app.command("enable", help=say("重新启用用户", "Let a disabled user in again."))
@verb
def enable(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """The password and the API keys are those of before."""
    with opened(home) as services:
        user = services.accounts.enable(name)
    _tell(user, say(f"已启用用户 {user.name}", f"enabled user {user.name}"), as_json)


@app.command("passwd", help=say("更换密码，其令牌立即失效", "Change a user's password; their tokens stop at once."))
@verb
def passwd(
    name: NameArgument,
    password_stdin: PasswordStdinOption = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """API keys stay good: revoke them one by one."""
    with opened(home) as services:
        name = services.accounts.get(name).name  # before a password is asked for
        user = services.accounts.set_password(name, _password(name, password_stdin))
    _tell(user, say(f"已更换 {user.name} 的密码", f"changed the password of {user.name}"), as_json)


def _password(name: str, from_stdin: bool) -> str:
    """The new password: standard input without its last line break, or what is typed twice unseen.

    Raises:
        typer.Exit: 2, there is no terminal to ask on, or nothing was given, or the two differ.
    """
    if from_stdin:
        try:
            text = sys.stdin.buffer.read(_MOST).decode()
        except UnicodeDecodeError:
            raise wrong_usage("标准输入中的密码不是 UTF-8", "the password on standard input is not UTF-8") from None
        return text.removesuffix("\n").removesuffix("\r")
    if not sys.stdin.isatty():
        raise wrong_usage(
            "没有终端可询问密码；请使用 --password-stdin", "no terminal to ask for a password on; use --password-stdin"
        )
    try:
        first = getpass.getpass(say(f"{name} 的新密码：", f"new password for {name}: "))
        if getpass.getpass(say("再输入一次：", "once more: ")) == first:
            return first
    except EOFError:
        note()
        raise wrong_usage("没有输入密码", "no password was given") from None
    raise wrong_usage("两次输入的密码不同", "the two passwords differ")


def _tell(user: "User", text: str, as_json: bool) -> None:
    if as_json:
        show_json(user)
    else:
        line(text)


def _role(user: "User") -> str:
    return say("管理员", "admin") if user.role == "admin" else say("成员", "member")


def _state(user: "User") -> str:
    return say("已停用", "disabled") if user.disabled else say("可登录", "may sign in")
