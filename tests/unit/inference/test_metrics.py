"""The pages of several engines as one."""

from prometheus_client.parser import text_string_to_metric_families

from tunesmith.inference.engine_status import EnginePage
from tunesmith.inference.metrics import gathered, one_page


def engine(base: str, text: str | None) -> EnginePage:
    return EnginePage(base, None if text is None else text.encode("latin-1"), rows=3, rss=1024, crashes=0)


def tokens(model: str, count: int, prefix: str = "tunesmith") -> str:
    name = f"{prefix}:generation_tokens_total"
    return f'# HELP {name} Tokens.\n# TYPE {name} counter\n{name}{{model_name="{model}"}} {count}\n'


def read(page: bytes) -> dict[str, dict[str, float]]:
    """Values by name and model; a family that is there twice is an error, as it is to Prometheus."""
    families = list(text_string_to_metric_families(page.decode()))
    assert len({family.name for family in families}) == len(families)
    found: dict[str, dict[str, float]] = {}
    for family in families:
        for sample in family.samples:
            values = found.setdefault(sample.name, {})
            assert sample.labels["model_name"] not in values
            values[sample.labels["model_name"]] = sample.value
    return found


def test_families_of_one_name_become_one() -> None:
    found = read(one_page([engine("a", tokens("a", 1)), engine("b", tokens("b", 2)), engine("c", None)]))
    assert found["tunesmith:generation_tokens_total"] == {"a": 1, "b": 2}
    assert found["tunesmith:engine_up"] == {"a": 1, "b": 1, "c": 0}
    assert found["tunesmith:engine_rows"]["c"] == 3
    assert found["tunesmith:engine_resident_memory_bytes"]["a"] == 1024


def test_two_engines_that_are_one_server_are_not_counted_twice_and_its_process_is_left_out() -> None:
    text = "# TYPE process_open_fds gauge\nprocess_open_fds 9\n" + tokens("a", 5, "vllm")
    found = read(one_page([engine("a", text), engine("b", text)]))
    assert found["vllm:generation_tokens_total"] == {"a": 5}
    assert not any("fds" in name for name in found)


def test_a_page_that_is_none_does_not_spoil_the_rest() -> None:
    for broken in ("tunesmith:x{ 1 2 3\n", "\xff\xfe", "<html>", 'tunesmith:y{a="b"'):
        found = read(one_page([engine("a", broken), engine("b", tokens("b", 2))]))
        assert found["tunesmith:engine_up"] == {"a": 0, "b": 1}
        assert found["tunesmith:generation_tokens_total"] == {"b": 2}


async def test_without_engines_there_is_a_page_without_samples() -> None:
    class Nobody:
        async def pages(self, *, within_s: float) -> list[EnginePage]:
            return []

    assert read(await gathered(Nobody())) == {}
