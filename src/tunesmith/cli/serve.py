"""``tunesmith serve``: every dialect on one or several ports of one server process."""

import errno
import gc
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.screen import HomeOption, JsonOption, line, note, say, show_json, verb, wrong_usage
from tunesmith.cli.session import compose_failures
from tunesmith.kernel.problems import Conflict, Invalid, Unavailable

if TYPE_CHECKING:
    from uvicorn import Config, Server

HELP = say(
    "启动服务：所有接口在同一端口上（--port 可重复）",
    "Start the server. Every dialect and path on one port; --port may be repeated.",
)
# running answers get so long to finish after SIGTERM before they are cut off
_GRACE_S = 10
_MOST_CONNECTIONS = 4096  # beyond, 503 at once
_OWN_FILES = 256  # descriptors for everything but connections
# objects between two looks for cycles, of which answers leave few; the usual 700 costs a twentieth of a short answer
_GARBAGE = 10_000
_STUCK_MS = 90_000  # a client that takes nothing of what is sent to it, for so long, is gone


@verb
def serve(
    host: Annotated[
        str,
        typer.Option(help=say("监听地址；默认只有本机能访问", "Address to listen on; only this machine by default.")),
    ] = "127.0.0.1",
    port: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help=say(
                "端口，可重复；默认 8000，0 由系统选择",
                "Port, may be repeated; 8000 when not given, 0 lets the system choose.",
            ),
        ),
    ] = None,
    insecure_open: Annotated[
        bool,
        typer.Option(
            "--insecure-open",
            help=say(
                "监听非本机地址时也不要求令牌：网络上的任何人都能使用（/api/v1 始终要求令牌）",
                "Want no token on an address others can reach: anyone on the network may use it "
                "(/api/v1 always wants one).",
            ),
        ),
    ] = False,
    require_token: Annotated[
        bool,
        typer.Option(
            "--require-token",
            help=say(
                "监听本机地址时也要求令牌：前面有反向代理时请使用",
                "Want a token on a loopback address too: use it behind a reverse proxy.",
            ),
        ),
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """See HELP."""
    if require_token and insecure_open:
        raise wrong_usage(
            "--require-token 与 --insecure-open 不能同时使用", "--require-token and --insecure-open exclude each other"
        )
    wants_token = require_token or (not is_loopback(host) and not insecure_open)
    if not is_loopback(host) and insecure_open:
        _shout(host)
    # order matters: a port in use must be known before a database is made
    sockets = [listening(host, number) for number in port or [8000]]
    try:
        _run(host, sockets, home, wants_token=wants_token, as_json=as_json)
    finally:
        for each in sockets:
            each.close()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``; a name counts when all its addresses do.

    Raises:
        Invalid: the name has no address.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Invalid(f"无法解析主机名 {host!r}", f"no address for the host {host!r}", field="host") from error
    return all(ipaddress.ip_address(str(entry[4][0])).is_loopback for entry in found)


def listening(host: str, port: int) -> socket.socket:
    """A listening TCP socket; who connects before the server is ready waits for it.

    Raises:
        Conflict: the port is in use. Invalid: the address is not one of this machine's, or the port is not allowed.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # accepted connections inherit it
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STUCK_MS)
        made.bind(address)
        # at once: between a bind and a later listen another process could take the port
        made.listen(1024)
    except OSError as error:
        made.close()
        kind_of = Conflict if error.errno == errno.EADDRINUSE else Invalid
        raise kind_of(
            f"无法监听 {host}:{port}（{error.strerror}）；请用 --port 换一个端口",
            f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port",
            host=host,
            port=port,
        ) from error
    return made


def _most_connections() -> int:
    """As many as there are file descriptors for, two each: an answer may be another server's. As many descriptors as
    the system lets us have are asked for; a server without any answers nobody."""
    if os.name != "posix":
        return _MOST_CONNECTIONS
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * _MOST_CONNECTIONS + _OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    files = wanted if soft == resource.RLIM_INFINITY else min(soft, wanted)
    return max(64, (files - _OWN_FILES) // 2)


def url_of(host: str, bound: socket.socket) -> str:
    """The address a person opens; the wildcard address is shown as this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{bound.getsockname()[1]}" if ":" in shown else f"http://{shown}:{bound.getsockname()[1]}"


def _run(host: str, sockets: Sequence[socket.socket], home: Path | None, *, wants_token: bool, as_json: bool) -> None:
    gc.disable()  # nothing made while starting is garbage; looking through it again and again costs a tenth of the start
    import uvicorn

    from tunesmith.app import compose
    from tunesmith.asgi import create_app
    from tunesmith.http.patience import PatientProtocol
    from tunesmith.kernel.logs import log_to_stderr
    from tunesmith.settings import Settings

    log_to_stderr("info")
    settings = Settings.read(os.environ, home=home)
    with compose_failures(settings):
        services = compose(settings)
        app = create_app(services, wants_token=wants_token)
        no_users = not services.accounts.any_users()
    urls = [url_of(host, each) for each in sockets]
    server = _announcing(
        uvicorn.Config(
            app,
            http=PatientProtocol,
            ws="none",
            lifespan="on",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            log_level="warning",
            timeout_graceful_shutdown=_GRACE_S,
            limit_concurrency=_most_connections(),
        ),
        lambda: _ready(urls, settings.home, no_users=no_users, wants_token=wants_token, as_json=as_json),
    )
    # uvicorn raises the signal again after it has shut down: a SIGTERM that was obeyed is no failure
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        server.run(sockets=list(sockets))
    except SystemExit as error:
        raise _not_started() from error
    if not server.started:
        raise _not_started()


def _announcing(config: "Config", ready: Callable[[], None]) -> "Server":
    """A server that calls ``ready`` once it accepts connections."""
    import uvicorn

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                ready()

    return Announcing(config)


def _ready(urls: Sequence[str], home: Path, *, no_users: bool, wants_token: bool, as_json: bool) -> None:
    gc.freeze()
    gc.set_threshold(_GARBAGE, 10, 10)
    gc.enable()
    if no_users:
        note(
            say(
                f"还没有用户，{'所有接口' if wants_token else '/api/v1'} 暂不可用。创建第一个管理员：tunesmith users add 名称 --admin",
                f"there is no user yet, and {'every path' if wants_token else '/api/v1'} wants one. "
                "Make the first admin: tunesmith users add NAME --admin",
            )
        )
    if as_json:
        show_json({"urls": urls, "home": str(home), "pid": os.getpid()})
        return
    for url in urls:
        line(say(f"Tunesmith 已就绪：{url}", f"Tunesmith is ready: {url}"))
    line(say(f"主目录：{home}（Ctrl-C 停止）", f"home folder: {home} (Ctrl-C stops)"))
    sys.stdout.flush()


def _shout(host: str) -> None:
    bar = "!" * 100
    note(bar)
    note(
        say(
            f"!! 警告：服务在 {host} 上对网络开放，没有任何鉴权。能连接到它的任何人都可以使用模型、读写主目录中的数据。",
            f"!! WARNING: serving on {host}, open to the network WITHOUT authentication. Anyone who can connect may "
            "use the models and read and write the data in the home folder.",
        )
    )
    note(bar)


def _not_started() -> Unavailable:
    return Unavailable("服务未能启动，原因见上方日志", "the server did not start; the log above says why")
