"""What doctor says of a machine."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Invoke
from tunesmith.accounts.vault import Vault
from tunesmith.cli import checks as looked_at
from tunesmith.cli import service_checks
from tunesmith.kernel.db import Database

KEY = "sk-or-v1-0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine that tests has, no service is configured."""
    for name in (
        "OLLAMA_HOST",
        "OPENROUTER_API_KEY",
        "TOGETHER_API_KEY",
        "FIREWORKS_API_KEY",
        "TUNESMITH_REDIS_URL",
        "http_proxy",
        "HTTP_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def serving(answers: Mapping[str, tuple[int, Mapping[str, str], bytes]], asked: list[str]) -> Iterator[str]:
    """A server on this machine that answers each path with a status, headers and a body; gives its host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, headers, body = answers.get(self.path, (404, {}, b"{}"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


Serve = Callable[[Mapping[str, Any]], tuple[str, list[str]]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server for JSON values, or for triples of status, headers and body; gives its address and what was asked."""
    with ExitStack() as stack:

        def start(answers: Mapping[str, Any]) -> tuple[str, list[str]]:
            asked: list[str] = []
            whole = {
                path: answer if isinstance(answer, tuple) else (200, {}, json.dumps(answer).encode())
                for path, answer in answers.items()
            }
            return stack.enter_context(serving(whole, asked)), asked

        yield start


@pytest.fixture
def nobody() -> Iterator[str]:
    """Host and port where nobody listens, and nobody will."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def slow() -> Iterator[str]:
    """Host and port of an Ollama that speaks one letter at a time, and would need seconds for all of them."""
    body = b'{"version": "0.12.3", "models": [{}]}'
    answer = b"HTTP/1.0 200 OK\r\nX-Wait: " + b"." * 60 + b"\r\n\r\n" + body
    left = threading.Event()

    def speak() -> None:
        for _ in ("/api/version", "/api/tags"):
            try:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    for letter in answer:
                        if left.wait(0.02):
                            return
                        connection.sendall(bytes([letter]))
            except OSError:
                return  # whoever asked has gone

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        thread = threading.Thread(target=speak)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        left.set()
        thread.join()


def checks(output: str) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(output)["checks"]}


def test_json_names_every_finding_with_its_level(tunesmith: Invoke) -> None:
    result = tunesmith("doctor", "--json")
    found = checks(result.stdout)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["ok"] is True
    assert {"python", "tunesmith", "torch", "transformers", "peft", "cpu", "memory", "disk", "gpu"} <= set(found)
    assert {"home", "database", "tunesmith-small", "[postgres]", "[quantization]"} <= set(found)
    assert {check["level"] for check in found.values()} <= {"ok", "info", "warning"}


def test_it_looks_without_making_the_home_folder(tunesmith: Invoke, home: Path) -> None:
    tunesmith("doctor", "--json")
    assert not home.exists()


def test_a_home_folder_that_cannot_be_made_is_an_error_and_exit_1(tunesmith: Invoke, home: Path) -> None:
    home.write_text("a file where the folder should be")
    result = tunesmith("doctor", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False
    assert checks(result.stdout)["home"]["level"] == "error"


def test_a_broken_database_is_an_error(tunesmith: Invoke, home: Path) -> None:
    home.mkdir()
    (home / "tunesmith.db").write_bytes(b"not a database" * 100)
    result = tunesmith("doctor", "--json")
    assert result.exit_code == 1
    assert checks(result.stdout)["database"]["level"] == "error"


def test_secrets_in_settings_are_never_shown(tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_DATABASE_URL", "postgresql://someone:hunter2@localhost:1/x")
    result = tunesmith("doctor", "--json")
    assert "hunter2" not in result.output


def test_a_setting_that_cannot_be_read_is_named(tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_MAX_ROWS", "many")
    result = tunesmith("doctor", "--json")
    assert result.exit_code == 1
    assert "TUNESMITH_MAX_ROWS" in checks(result.stdout)["settings"]["advice"]


def test_without_json_a_person_can_read_it(tunesmith: Invoke) -> None:
    result = tunesmith("doctor")
    assert result.exit_code == 0
    assert "everything is in order" in result.stdout or "warnings" in result.stdout


def test_deep_says_what_engine_and_trainer_compute_with(tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tunesmith.inference.worker.native import library as engine
    from tunesmith.training.loop.native import library as trainer

    found = checks(tunesmith("doctor", "--deep", "--json").stdout)
    in_either = trainer.reason() and trainer.reason(torch.bfloat16)
    for name, missing in (("kernels", engine.reason()), ("training kernels", in_either)):
        assert found[name]["value"] == (missing or "compiled"), name
        assert (found[name]["level"], bool(found[name]["advice"])) == (("info", True) if missing else ("ok", False))
    # torch takes this for the processor's word, and neither library is for one without vectors
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    found = checks(tunesmith("doctor", "--deep", "--json").stdout)
    for name, why in (
        ("kernels", "the processor has DEFAULT alone"),
        ("training kernels", "the processor has DEFAULT alone"),
    ):
        assert (found[name]["level"], found[name]["value"]) == ("info", why), name


@pytest.mark.parametrize("engine, trainer", [("", "no file"), ("no file", ""), ("", "")])
def test_deep_tells_the_engines_kernels_from_the_trainers(
    tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch, engine: str, trainer: str
) -> None:
    monkeypatch.setattr(looked_at, "_TRY_TORCH", f"print('2.13.0 cpu 2'); print({engine!r}); print({trainer!r})")
    result = tunesmith("doctor", "--deep", "--json")
    found = checks(result.stdout)
    assert result.exit_code == 0, "no kernel is no error"
    assert found["torch runs"]["facts"] == {"device": "cpu", "threads": 2}
    for name, missing, effect in (
        ("kernels", engine, "the engine computes through torch"),
        ("training kernels", trainer, "training computes through torch"),
    ):
        check = found[name]
        assert (check["level"], check["value"]) == (("info", missing) if missing else ("ok", "compiled")), name
        assert check["advice"].startswith(effect) if missing else check["advice"] == "", name


def test_ollama_unset_is_no_fault_and_says_what_to_set(tunesmith: Invoke) -> None:
    found = checks(tunesmith("doctor", "--json").stdout)["ollama"]
    assert found["level"] == "info" and "OLLAMA_HOST" in found["advice"]


def test_an_ollama_that_answers_is_named_with_its_version_and_models(
    tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    address, _ = serve({"/api/version": {"version": "0.12.3"}, "/api/tags": {"models": [{}, {}]}})
    monkeypatch.setenv("OLLAMA_HOST", address)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # a proxy is not asked for what is on this network
    found = checks(tunesmith("doctor", "--json").stdout)["ollama"]
    assert (found["level"], found["advice"]) == ("ok", "")
    assert found["facts"] == {"url": f"http://{address}", "version": "0.12.3", "models": 2}


def test_an_ollama_without_a_model_is_a_warning(
    tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", serve({"/api/version": {"version": "1"}, "/api/tags": {"models": None}})[0])
    found = checks(tunesmith("doctor", "--json").stdout)["ollama"]
    assert found["level"] == "warning" and "ollama pull" in found["advice"]


def test_an_ollama_that_nobody_answers_for_is_a_warning(
    tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch, nobody: str
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", nobody)
    result = tunesmith("doctor", "--json")
    found = checks(result.stdout)["ollama"]
    assert result.exit_code == 0
    assert found["level"] == "warning" and nobody in found["value"] and "OLLAMA_HOST" in found["advice"]


def test_an_ollama_that_takes_too_long_is_not_waited_for(
    tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    monkeypatch.setattr(service_checks, "_ANSWER_S", 0.5)  # no pause is so long
    monkeypatch.setenv("OLLAMA_HOST", slow)
    found = checks(tunesmith("doctor", "--json").stdout)["ollama"]
    assert found["level"] == "warning" and "does not answer" in found["value"]


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, b"<html>"),
        (200, {}, b"\xff"),
        (200, {}, b"[" * 100_000),
        (200, {}, b'["0.12.3"]'),
        (200, {}, b'{"version": 3}'),
        (500, {}, b'{"version": "0.12.3"}'),
        (401, {}, b"{}"),
    ],
)
def test_what_is_not_ollama_is_not_taken_for_it(
    tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch, serve: Serve, answer: tuple[int, Mapping[str, str], bytes]
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", serve({"/api/version": answer, "/api/tags": {"models": [{}]}})[0])
    found = checks(tunesmith("doctor", "--json").stdout)["ollama"]
    assert found["level"] == "warning" and "is not Ollama" in found["value"]


def test_a_redirect_of_ollama_is_not_followed(tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    elsewhere, asked = serve({"/api/version": {"version": "9"}, "/api/tags": {"models": [{}]}})
    moved = {path: (302, {"Location": f"http://{elsewhere}{path}"}, b"") for path in ("/api/version", "/api/tags")}
    monkeypatch.setenv("OLLAMA_HOST", serve(moved)[0])
    assert checks(tunesmith("doctor", "--json").stdout)["ollama"]["level"] == "warning"
    assert asked == []


def test_without_a_key_openrouter_is_no_fault_and_says_how_to_set_one(tunesmith: Invoke, home: Path) -> None:
    found = checks(tunesmith("doctor", "--json").stdout)["openrouter"]
    assert (found["level"], found["facts"]) == ("info", {"key": None})
    assert "OPENROUTER_API_KEY" in found["advice"] and "set-key" in found["advice"]
    assert not home.exists()


def test_a_key_of_the_environment_is_said_and_not_shown(tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", KEY)
    for result in (tunesmith("doctor", "--json"), tunesmith("doctor")):
        assert KEY not in result.output and KEY[-4:] not in result.output
    found = checks(tunesmith("doctor", "--json").stdout)["openrouter"]
    assert (found["level"], found["facts"]) == ("ok", {"key": "environment"})


@pytest.fixture
def stored(home: Path) -> Path:
    """The file that opens a key stored in a home folder."""
    home.mkdir(mode=0o700)
    (home / "secrets").mkdir(mode=0o700)
    database = Database(f"sqlite:///{home / 'tunesmith.db'}")
    database.migrate()
    Vault(database, home / "secrets", {}).put("openrouter", KEY, "admin")
    database.close()
    return home / "secrets" / "vault.key"


def test_a_stored_key_is_said_and_not_shown(tunesmith: Invoke, stored: Path) -> None:
    result = tunesmith("doctor", "--json")
    found = checks(result.stdout)["openrouter"]
    assert (found["level"], found["facts"]) == ("ok", {"key": "stored"})
    assert KEY not in result.output and KEY[-4:] not in result.output


def test_a_stored_key_that_cannot_be_opened_is_a_warning_that_says_what_to_do(tunesmith: Invoke, stored: Path) -> None:
    stored.unlink()
    found = checks(tunesmith("doctor", "--json").stdout)["openrouter"]
    assert found["level"] == "warning" and "set-key" in found["advice"]
    assert not stored.exists()


def test_a_database_of_an_older_version_holds_no_key(tunesmith: Invoke, stored: Path, home: Path) -> None:
    database = Database(f"sqlite:///{home / 'tunesmith.db'}")
    with database.write() as connection:
        connection.exec_driver_sql("DROP TABLE provider_keys")
    database.close()
    assert checks(tunesmith("doctor", "--json").stdout)["openrouter"]["level"] == "info"


@pytest.mark.parametrize("name", ["TOGETHER_API_KEY", "FIREWORKS_API_KEY"])
def test_a_key_of_a_provider_that_tunes_is_said_and_not_shown(
    tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place = {"TOGETHER_API_KEY": "together_ai", "FIREWORKS_API_KEY": "fireworks_ai"}[name]
    without = checks(tunesmith("doctor", "--json").stdout)[place]
    assert (without["level"], without["facts"]) == ("info", {"key": None})
    assert name in without["advice"] and f"set-key {place}" in without["advice"]
    monkeypatch.setenv(name, KEY)
    result = tunesmith("doctor", "--json")
    found = checks(result.stdout)
    assert (found[place]["level"], found[place]["facts"]) == ("ok", {"key": "environment"})
    assert found["openrouter"]["facts"] == {"key": None} and KEY not in result.output


def test_redis_is_named_only_where_it_is_configured(tunesmith: Invoke) -> None:
    assert "redis" not in checks(tunesmith("doctor", "--json").stdout)


def test_a_redis_that_does_not_answer_is_a_warning_without_its_password(
    tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch, nobody: str
) -> None:
    monkeypatch.setenv("TUNESMITH_REDIS_URL", f"redis://:hunter2@{nobody}/0")
    result = tunesmith("doctor", "--json")
    assert checks(result.stdout)["redis"]["level"] == "warning"
    assert result.exit_code == 0 and "hunter2" not in result.output


def test_a_redis_url_that_is_none_is_an_error_as_at_the_servers_start(
    tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_REDIS_URL", "http://:hunter2@localhost")
    result = tunesmith("doctor", "--json")
    assert (result.exit_code, checks(result.stdout)["redis"]["level"]) == (1, "error")
    assert "hunter2" not in result.output


def test_a_redis_that_answers_is_well(tunesmith: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                while got := connection.recv(65536):
                    # as many replies as commands were sent in one write; PING is the last of them
                    commands = got.count(b"*")
                    connection.sendall(b"+OK\r\n" * (commands - 1) + (b"+PONG\r\n" if b"PING" in got else b"+OK\r\n"))

        thread = threading.Thread(target=answer)
        thread.start()
        monkeypatch.setenv("TUNESMITH_REDIS_URL", f"redis://127.0.0.1:{listening.getsockname()[1]}/0?protocol=2")
        found = checks(tunesmith("doctor", "--json").stdout)["redis"]
        thread.join()
    assert (found["level"], found["advice"]) == ("ok", "")
