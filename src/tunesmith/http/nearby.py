"""Whether others on the network can reach this server, and whether a request came straight from this machine.

Where no token is wanted everybody is the admin ``local``. What must not be had by merely reaching the server, such as
making somebody an admin for good, asks here first. A proxy in front makes everybody come from this machine, so what
looks like one is refused; it is no proof that there is none, which is why a proxy wants ``--require-token``.
"""

import ipaddress
import socket

from fastapi import Request

from tunesmith.kernel.problems import Forbidden

# what proxies add: RFC 7239, RFC 9110 (7.6.3), and what came before them
_OF_PROXIES = (
    "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port",
    "x-forwarded-server", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip", "x-original-forwarded-for",
)  # fmt: skip


def open_to_network() -> bool:
    """Whether this process listens on an address that is not this machine's alone, as the system says."""
    import psutil

    found = psutil.Process().net_connections("inet")
    listening = [
        each.laddr.ip for each in found if each.status == psutil.CONN_LISTEN and each.type == socket.SOCK_STREAM
    ]
    return any(not _is_loopback(ip.partition("%")[0]) for ip in listening)


def check_nearby(request: Request) -> None:
    """Let a request pass that came straight from this machine, to a server that only this machine can reach.

    Blocks for as long as the system takes to list the process's sockets.

    Raises:
        Forbidden: others can reach the server, or the request came through a proxy, from another machine, to a name
            that is not this machine's own, or from a page of another origin, listed or not.
    """
    if open_to_network():
        raise Forbidden(
            "此服务器对网络开放且不要求令牌，不能在此管理用户与密钥。请去掉 --insecure-open（或改用 --require-token）"
            "重新启动并以管理员身份登录，或在服务器上使用 tunesmith users 与 tunesmith keys",
            "this server is open to the network and wants no token, so users and keys cannot be managed here. Start it"
            " without --insecure-open (or with --require-token) and log in as an admin, or use tunesmith users and"
            " tunesmith keys on the machine itself",
            reason="open_to_network",
        )
    if not _came_straight(request):
        raise Forbidden(
            "此服务器不要求令牌，只有直接来自本机的请求才能管理用户与密钥（请打开 http://127.0.0.1）。"
            "前面有代理时请以 --require-token 启动并以管理员身份登录，或在服务器上使用 tunesmith users 与 tunesmith keys",
            "this server wants no token, so users and keys are managed only by requests that come straight from this"
            " machine (open it as http://127.0.0.1). Behind a proxy, start it with --require-token and log in as an"
            " admin, or use tunesmith users and tunesmith keys on the machine itself",
            reason="not_from_this_machine",
        )


def _came_straight(request: Request) -> bool:
    host = request.headers.get("host", "").lower()
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return (
        request.client is not None
        and _is_loopback(request.client.host)
        and not any(header in request.headers for header in _OF_PROXIES)
        and (name == "localhost" or _is_loopback(name.strip("[]")))
        # the door lets listed pages use the models; they may not make users
        and request.headers.get("origin", f"http://{host}").lower() in (f"http://{host}", f"https://{host}")
        and request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
