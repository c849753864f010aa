"""A real Ollama, where the environment names one: ``OLLAMA_HOST``, as Ollama's own programs read it."""

import os
from dataclasses import dataclass

import pytest
import requests

PORT = 11434


@dataclass(frozen=True, slots=True)
class RealOllama:
    """Where it is, and the smallest model on it."""

    url: str
    model: str


def real_ollama() -> RealOllama:
    """The Ollama of ``OLLAMA_HOST``; skips the test when the variable is not set.

    Raises:
        AssertionError: the variable is set, but nothing answers there or no model is there. Who asks for these tests
            wants to know.
    """
    host = os.environ.get("OLLAMA_HOST", "").strip()
    if not host:
        pytest.skip("NOT RUN: this needs a real Ollama; set OLLAMA_HOST to its address")
    url = _address(host)
    try:
        listed = requests.get(url + "/api/tags", timeout=10).json()["models"]
    except requests.RequestException as unreachable:
        raise AssertionError(f"OLLAMA_HOST is {host}, but {url} does not answer: {unreachable}") from unreachable
    here = [model for model in listed if not model.get("remote_host")]
    assert here, f"no model is at {url}; pull one, for instance: ollama pull qwen2.5:0.5b"
    return RealOllama(url, min(here, key=lambda model: int(model["size"]))["name"])


def _address(host: str) -> str:
    scheme, _, rest = host.rpartition("://")
    rest = rest.rstrip("/")
    name, _, port = rest.rpartition(":") if ":" in rest.rsplit("]", 1)[-1] else (rest, "", "")
    default = {"http": 80, "https": 443}.get(scheme, PORT)
    # what a server listens on everywhere is not an address to call
    return f"{scheme or 'http'}://{'127.0.0.1' if name in ('', '0.0.0.0') else name}:{port or default}"
