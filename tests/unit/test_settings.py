"""What the environment says, and what it cannot say."""

from pathlib import Path

import pytest

from tunesmith.kernel.problems import Invalid
from tunesmith.settings import Settings, UpstreamLimits


def read(**environ: str) -> Settings:
    return Settings.read(environ, home=Path("/nowhere"))


@pytest.mark.parametrize(
    "written, meant",
    [
        ("", None),
        ("127.0.0.1", "http://127.0.0.1:11434"),
        (' "0.0.0.0:8000" ', "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:11434"),
        ("[::]:80", "http://[::1]:80"),
        ("https://ollama.example/at/", "https://ollama.example:443/at"),
    ],
)
def test_ollamas_address_is_read_as_ollama_reads_it(written: str, meant: str | None) -> None:
    assert read(OLLAMA_HOST=written).ollama_url == meant


@pytest.mark.parametrize("name", ["OLLAMA_HOST", "OPENROUTER_BASE_URL", "TUNESMITH_PUBLIC_URL"])
@pytest.mark.parametrize(
    "written", ["ftp://h", "http://me:secret@h", "http://h:99999", "http://two words", "http://h/?q"]
)
def test_what_is_no_address_is_refused_and_not_quoted(name: str, written: str) -> None:
    with pytest.raises(Invalid, match=name) as caught:
        read(**{name: written})
    assert written not in caught.value.en + caught.value.zh


@pytest.mark.parametrize("which", ["CONNECT", "FIRST_TOKEN", "IDLE", "TOTAL"])
def test_no_patience_at_all_is_refused_for_it_would_answer_nobody(which: str) -> None:
    name = f"TUNESMITH_UPSTREAM_{which}_SECONDS"
    assert read(**{name: "0.5"}).upstream != UpstreamLimits() == read(**{name: ""}).upstream
    with pytest.raises(Invalid, match=name):
        read(**{name: "0"})
