"""Uploads that lie, never end, or blow up."""

import gzip
import io
import json
import socket
import time
import zipfile

import psutil
import pytest

from tests.attacks.conftest import API, Attacker, refused, tree
from tests.server import Server, wait_until

MEBI = 1 << 20
# resident bytes the server and its children may grow by while they refuse a file
ROOM = 120 * MEBI


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.json", b"0" * (10 * MEBI))
    return buffer.getvalue()


BROKEN = {
    "empty": (b"", "json"),
    "only white space": (b" \n\t\n", "json"),
    "cut json": (b'[{"a": 1}, {"a": ', "json"),
    "two arrays": (b'[{"a": 1}][{"a": 2}]', "json"),
    "not json": (b"hello", "json"),
    "a number": (b"5", "json"),
    "numbers for rows": (b"[1, 2, 3]", "json"),
    "nested a million deep": (b'[{"a": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}]", "json"),
    "braces a million deep": (b'{"a":' * 1_000_000, "json"),
    "one huge row": (b'[{"a": "' + b"x" * (6 * MEBI) + b'"}]', "json"),
    "one endless line": (b'{"a": "' + b"x" * (6 * MEBI), "json"),
    "lone surrogate": (b'[{"a": "\\ud800"}]', "json"),
    "not utf-8": (b'[{"a": "\xff\xfe"}]', "json"),
    "utf-16": ('[{"a": 1}]'.encode("utf-16"), "json"),
    "utf-32": ('[{"a": 1}]'.encode("utf-32"), "json"),
    "nul bytes": (b"\x00" * 1000, "json"),
    "nul inside": (b'[{"a": 1}]\x00', "json"),
    "gzip": (gzip.compress(b"0" * (10 * MEBI)), "json"),
    "zip": (zipped(), "json"),
    "not a number": (b'[{"a": NaN}]', "json"),
    "csv with an unclosed quote": (b'a,b\n"x,y\n' + b"1,2\n" * 1000, "csv"),
    "csv with a million columns": (b",".join(b"c%d" % n for n in range(1_000_000)) + b"\n1\n", "csv"),
    "csv with one huge cell": (b"a,b\n" + b"x" * (6 * MEBI) + b",y\n", "csv"),
    "csv with columns named alike": (b"a,a\n1,2\n", "csv"),
    "csv with too few cells": (b"a,b\n1\n", "csv"),
    "csv of a header alone": (b"a,b\n", "csv"),
    "csv that is json": (b'[{"a": 1}]', "csv"),
    "json that is csv": (b"a,b\n1,2\n", "json"),
    "csv not utf-8": (b"a,b\n\xff,2\n", "csv"),
    "csv with nul": (b"a,b\n\x00,2\n", "csv"),
}


def resident(server: Server) -> int:
    """Bytes the server and its children hold."""
    process = psutil.Process(server.process.pid)
    total, own = process.memory_info().rss, process.cmdline()
    for each in process.children(recursive=True):
        try:
            rss = each.memory_info().rss
            # one that has not begun its own program yet still shows the server's memory
            total += rss if each.cmdline() != own else 0
        except psutil.NoSuchProcess:
            continue
    return total


@pytest.mark.parametrize("label", BROKEN)
def test_a_broken_file_is_refused_with_the_reason_and_leaves_nothing(
    server: Server, mallory: Attacker, label: str
) -> None:
    content, kind = BROKEN[label]
    before = tree(server.home)
    error = refused(mallory.upload(content, f"broken.{kind}", name=f"broken {label}", format=kind), 400)
    assert error["message"] and error["code"] == "INVALID_REQUEST"
    assert tree(server.home) == before
    assert resident(server) < psutil.virtual_memory().total
    listed = mallory.send("GET", f"{API}/datasets").json()["datasets"]
    assert not [each for each in listed if each["name"] == f"broken {label}"]


GOOD = {
    "byte order mark": ("\ufeff".encode() + b'[{"a": 1}, {"a": 2}]', "json", 2),
    "lines": (b'{"a": 1}\n{"a": 2}\n\n{"a": 3}', "json", 3),
    "mixed newlines": (b'{"a": 1}\r\n{"a": 2}\n{"a": 3}\r\n', "json", 3),
    "csv with quoted line breaks": (b'a,b\n"x\ny",2\r\n3,4\n', "csv", 2),
    "names that repeat in json": (b'[{"a": 1, "a": 2}]', "json", 1),
}


@pytest.mark.parametrize("label", GOOD)
def test_an_odd_but_honest_file_is_counted_truly(mallory: Attacker, label: str) -> None:
    content, kind, samples = GOOD[label]
    answer = mallory.upload(content, f"good.{kind}", name=f"good {label}", format=kind)
    assert (answer.status_code, answer.json().get("samples_count")) == (200, samples), answer.text


def test_a_duplicate_name_is_a_conflict(server: Server, mallory: Attacker) -> None:
    assert mallory.upload(b'[{"a": 1}]', name="twice").status_code == 200
    before = tree(server.home)
    assert refused(mallory.upload(b'[{"a": 1}]', name="twice"), 409)["code"] == "CONFLICT"
    assert tree(server.home) == before


@pytest.mark.parametrize("name", ["", " ", "x" * 129, "a\nb", "\u202ex", "\x1b[31m"])
def test_a_name_that_cannot_be_shown_is_refused(mallory: Attacker, name: str) -> None:
    refused(mallory.upload(b'[{"a": 1}]', name=name), 400)


def test_markup_in_a_name_stays_text(mallory: Attacker) -> None:
    name = "<img src=x onerror=alert(1)>"
    answer = mallory.upload(b'[{"a": 1}]', name=name)
    assert answer.json()["name"] == name and answer.headers["content-type"] == "application/json"


def test_an_unknown_format_is_refused(mallory: Attacker) -> None:
    for kind in ("parquet", "pickle", "exe", ""):
        refused(mallory.upload(b'[{"a": 1}]', name=f"kind {kind}", format=kind), 400)


def test_an_upload_that_is_cut_leaves_nothing(server: Server, mallory: Attacker) -> None:
    before = tree(server.home)
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        f"POST {API}/datasets/upload HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: {mallory.headers['Authorization']}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="cut.json"\r\n\r\n'
    )
    with socket.create_connection((host, int(port))) as cut:
        cut.sendall(head.encode() + b"[" + b'{"a": 1},' * 300_000)
        wait_until(lambda: tree(server.home) != before, "the upload did not begin", 10)
    wait_until(lambda: tree(server.home) == before, f"left: {tree(server.home) - before}", 10)


def test_a_body_longer_than_allowed_is_refused_before_it_is_read(mallory: Attacker) -> None:
    answer = mallory.send("POST", f"{API}/generate", data=b" " * (17 * MEBI))
    assert refused(answer, 413)["code"] == "INVALID_REQUEST"


def test_an_upload_over_the_limit_is_refused_and_leaves_nothing(server: Server, mallory: Attacker) -> None:
    before = tree(server.home)
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        f"POST {API}/datasets/upload HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: {mallory.headers['Authorization']}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {10 << 40}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as huge:
        huge.sendall(head.encode())
        huge.settimeout(10)
        assert huge.recv(64).split()[1] == b"413"
    assert tree(server.home) == before


def test_memory_stays_flat_while_fifty_megabytes_come(server: Server, mallory: Attacker) -> None:
    row = json.dumps({"instruction": "q" * 400, "input": "", "output": "a" * 600}).encode()
    content = b"[" + b",".join([row] * 50_000) + b"]"
    before, most = resident(server), 0
    host, port = server.url.removeprefix("http://").split(":")
    body = (
        b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nlarge\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="large.json"\r\n\r\n'
        + content
        + b"\r\n--b--\r\n"
    )
    head = (
        f"POST {API}/datasets/upload HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: {mallory.headers['Authorization']}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as sending:
        sending.sendall(head.encode())
        for at in range(0, len(body), MEBI):
            sending.sendall(body[at : at + MEBI])
            most = max(most, resident(server))
        sending.settimeout(0.2)
        answer = b""
        while not answer.endswith(b"}"):
            try:
                piece = sending.recv(65536)
            except TimeoutError:
                piece = b""
            answer += piece
            most = max(most, resident(server))
            assert time.monotonic() > 0
    assert b"200 OK" in answer and b'"samples_count":50000' in answer.replace(b": ", b":")
    assert most - before < ROOM


def test_a_formula_in_a_cell_is_kept_as_it_came(server: Server, mallory: Attacker) -> None:
    """Nothing is exported as CSV; what lies on disk is what was sent."""
    content = b"instruction,output\n=cmd|' /C calc'!A0,+1\n"
    answer = mallory.upload(content, "formula.csv", name="formula", format="csv")
    assert (server.home / answer.json()["path"]).read_bytes() == content
