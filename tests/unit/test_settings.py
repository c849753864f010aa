"""What the environment says, and what it cannot say."""

import re
from pathlib import Path

import pytest

from tunesmith.kernel.problems import Invalid
from tunesmith.settings import Settings, UpstreamLimits, VllmSettings


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


@pytest.mark.parametrize("name", ["OLLAMA_HOST", "OPENROUTER_BASE_URL", "TUNESMITH_PUBLIC_URL", "TUNESMITH_VLLM_URL"])
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


def test_vllm_is_an_engine_by_configuration() -> None:
    assert (read().engine, read().vllm) == ("builtin", VllmSettings())
    chosen = read(
        TUNESMITH_ENGINE="vllm",
        TUNESMITH_VLLM_URL="http://gpu:8000/v1/",
        TUNESMITH_VLLM_API_KEY=" sk-1 ",
        TUNESMITH_VLLM_COMMAND="docker exec gpu vllm",
        TUNESMITH_VLLM_ARGS="--max-lora-rank 128 --chat-template 'a b.jinja'",
    )
    assert chosen.engine == "vllm"
    assert chosen.vllm == VllmSettings(
        "http://gpu:8000/v1",
        "sk-1",
        ("docker", "exec", "gpu", "vllm"),
        ("--max-lora-rank", "128", "--chat-template", "a b.jinja"),
    )
    assert "sk-1" not in repr(chosen)


@pytest.mark.parametrize(
    ("name", "value"),
    [("TUNESMITH_ENGINE", "sglang"), ("TUNESMITH_VLLM_ARGS", "'open"), ("TUNESMITH_VLLM_API_KEY", "two words")],
)
def test_what_vllm_cannot_be_is_refused_by_the_name_of_the_setting(name: str, value: str) -> None:
    with pytest.raises(Invalid, match=name):
        read(**{name: value})


def test_a_trainer_is_kept_ready_unless_somebody_says_no() -> None:
    assert read().warm_trainer and read(TUNESMITH_WARM_TRAINER="1").warm_trainer
    assert not read(TUNESMITH_WARM_TRAINER="0").warm_trainer
    with pytest.raises(Invalid, match="TUNESMITH_WARM_TRAINER"):
        read(TUNESMITH_WARM_TRAINER="yes")


@pytest.mark.parametrize("path", ["/inference", "/inference/v1", "/inference/v1/", "/proxy/inference/v1"])
def test_the_address_of_chat_alone_is_no_address_of_fireworks(path: str) -> None:
    with pytest.raises(Invalid, match="without a path") as refused:
        Settings.read({"FIREWORKS_BASE_URL": f"https://api.fireworks.ai{path}"})
    assert refused.value.details["field"] == "FIREWORKS_BASE_URL"


@pytest.mark.parametrize("url", ["https://api.fireworks.ai", "http://127.0.0.1:9/proxy/inferences"])
def test_another_address_of_fireworks_is_taken(url: str) -> None:
    assert Settings.read({"FIREWORKS_BASE_URL": f"{url}/"}).fireworks_url == url


def test_an_engine_records_steps_unless_it_is_told_not_to() -> None:
    assert [read(TUNESMITH_ENGINE_EAGER=said).eager for said in ("", "0", "1")] == [False, False, True]


class _Asked(dict[str, str]):
    """An empty environment that remembers what it was asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
        self.names.add(name)
        return default


@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_every_setting_is_in_the_readme(readme: str) -> None:
    environ = _Asked()
    Settings.read(environ)
    assert len(environ.names) > 40
    told = set(re.findall(r"`([A-Z…][A-Z_]+)`", (Path(__file__).parents[2] / readme).read_text()))
    assert {name for name in environ.names if not {name, name.replace("TUNESMITH_UPSTREAM", "…")} & told} == set()
