"""A client that takes hardly any time from the processors it shares with the server: sockets alone, looked into later."""

import json
import selectors
import socket
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from serve.client import Answer, Door, Heard, Wrong, understood


def asked(door: Door, questions: Sequence[tuple[str, str]], most: int, limit_s: float) -> list[Answer]:
    """As ``client.asked``, of a server that listens on a port."""
    place = urlsplit(str(door.address))
    selector = selectors.DefaultSelector()
    heard = [list[tuple[float, bytes]]() for _ in questions]
    began = time.perf_counter()
    for into, (model, prompt) in zip(heard, questions, strict=True):
        path, body = door.body(model, prompt, most)
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        connection = socket.create_connection((place.hostname or "", place.port or 80))
        connection.sendall(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, into)
    while selector.get_map():
        if time.perf_counter() - began > limit_s:
            raise Wrong(f"{len(questions)} streams are not done within {limit_s:.0f} s")
        for key, _ in selector.select(1.0):
            assert isinstance(key.fileobj, socket.socket)
            block = key.fileobj.recv(1 << 16)
            if block:
                key.data.append((time.perf_counter(), block))
            else:
                selector.unregister(key.fileobj)
                key.fileobj.close()
    return [understood(_body(blocks), began, most) for blocks in heard]


def _body(blocks: Sequence[tuple[float, bytes]]) -> Heard:
    """The answer without head and chunks; when its parts came is known of the first and the last alone."""
    head, _, rest = b"".join(block for _, block in blocks).partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        raise Wrong("the server closed the connection")
    chunked, text = b"transfer-encoding: chunked" in head.lower(), b""
    while chunked and rest:
        size, _, rest = rest.partition(b"\r\n")
        text, rest = text + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return Heard(int(head.split()[1]), [(blocks[-1][0], text if chunked else rest)])
