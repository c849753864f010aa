"""A real Ollama is used where the environment names one, and only there."""

import pytest
import requests

from tests.server import free_port
from tests.upstreams.real_ollama import real_ollama
from tests.upstreams.running import ollama_skin


def test_without_the_variable_tests_are_skipped_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    with pytest.raises(pytest.skip.Exception, match="NOT RUN"):
        real_ollama()


def test_an_address_that_does_not_answer_is_a_failure_and_no_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    with pytest.raises(AssertionError, match="does not answer"):
        real_ollama()


def test_addresses_are_read_as_ollama_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with ollama_skin() as skin:
        port = skin.facts["port"]
        for written in (f"http://127.0.0.1:{port}/", f"127.0.0.1:{port}", f"0.0.0.0:{port}", f":{port}"):
            monkeypatch.setenv("OLLAMA_HOST", written)
            found = real_ollama()
            assert (found.url, ":" in found.model) == (skin.url, True)


@pytest.mark.ollama
def test_a_real_ollama_speaks_as_the_fake_does() -> None:
    real = real_ollama()
    body = {
        "model": real.model,
        "messages": [{"role": "user", "content": "hello"}],
        "stream": False,
        "options": {"num_predict": 4},
    }
    answers = [requests.post(real.url + "/api/chat", json=body, timeout=110).json()]
    with ollama_skin(models=[real.model]) as skin:
        answers.append(requests.post(skin.url + "/api/chat", json=body, timeout=30).json())
    assert set(answers[1]) <= set(answers[0]) and answers[0]["done"] is answers[1]["done"] is True
    missing = requests.post(real.url + "/api/show", json={"model": "never-heard-of"}, timeout=30)
    assert missing.status_code == 404 and missing.json() == {"error": "model 'never-heard-of' not found"}
