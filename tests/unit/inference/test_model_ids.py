"""Which model a client means by the name it wrote."""

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tunesmith.inference import model_ids
from tunesmith.inference.model_ids import DOCUMENT, Listed, Resolved, hosted, local, needs_list, pull_name
from tunesmith.kernel.problems import Invalid

DEFAULT = "mistralai/mistral-7b-instruct"


def these(*ids: str) -> list[Listed]:
    return [Listed(each) for each in ids]


def test_no_name_and_a_blank_one_mean_the_default() -> None:
    for asked in (None, "", "  "):
        assert hosted(asked, these("a/b"), DEFAULT) == Resolved(DEFAULT, "default")


def test_a_full_id_passes_as_it_is_listed_or_not() -> None:
    assert hosted("new/model-9:free", these("a/b"), DEFAULT) == Resolved("new/model-9:free", "asked")
    assert hosted(" a/b ", these("a/b"), DEFAULT) == Resolved("a/b", "asked")


def test_a_full_id_is_mended_where_only_its_letter_case_is_wrong() -> None:
    assert hosted("OpenAI/GPT-4o", these("openai/gpt-4o", "x/y"), DEFAULT) == Resolved("openai/gpt-4o", "listed")


def test_a_full_id_is_not_mended_where_two_differ_only_in_letter_case() -> None:
    assert hosted("A/B", these("a/B", "A/b"), DEFAULT) == Resolved("A/B", "asked")


def test_a_full_id_that_is_listed_is_not_mended_into_another() -> None:
    for listed in (these("Qwen/Q"), these("Qwen/Q", "qwen/q")):
        assert hosted("Qwen/Q", listed, DEFAULT) == Resolved("Qwen/Q", "asked")


def test_a_full_id_in_small_letters_is_taken_at_its_word() -> None:
    assert hosted("qwen/q", these("Qwen/Q"), DEFAULT) == Resolved("qwen/q", "asked")


@pytest.mark.parametrize("full", DOCUMENT)
def test_the_documents_short_names_come_before_the_upstreams_list(full: str) -> None:
    short = full.partition("/")[2]
    for asked in (short, short.upper()):
        for listed in ([], these(f"somebody/{short}"), these(f"a/{short}", f"b/{short}", short)):
            assert hosted(asked, listed, "d/d") == Resolved(full, "document")


def test_the_document_lists_ten_models_with_different_short_names() -> None:
    assert len({full.partition("/")[2] for full in DOCUMENT}) == 10


def test_a_short_id_or_alias_is_found_exactly() -> None:
    listed = [Listed("vicuna"), Listed("other/vicuna"), Listed("z/zephyr", aliases=("zeph",)), Listed("other/zeph")]
    assert hosted("vicuna", listed, DEFAULT) == Resolved("vicuna", "listed")
    assert hosted("zeph", listed, DEFAULT) == Resolved("z/zephyr", "listed")


def test_a_short_name_is_found_behind_its_provider_in_any_letter_case() -> None:
    listed = these("openai/gpt-4o", "openai/gpt-4o-mini", "Qwen/QwQ-32B")
    assert hosted("GPT-4O", listed, DEFAULT) == Resolved("openai/gpt-4o", "listed")
    assert hosted("qwq-32b", listed, DEFAULT) == Resolved("Qwen/QwQ-32B", "listed")


def test_a_short_name_is_found_behind_the_provider_of_an_alias() -> None:
    listed = [Listed("anthropic/claude-4.5", aliases=("anthropic/claude-4.5-20250929",)), Listed("a/b")]
    assert hosted("claude-4.5-20250929", listed, DEFAULT) == Resolved("anthropic/claude-4.5", "listed")


def test_of_models_that_share_an_alias_the_one_that_is_not_free_is_preferred() -> None:
    listed = [Listed(each, aliases=("a/x-2025", "x25")) for each in ("a/x:free", "a/x", "a/x:thinking")]
    for short in ("x-2025", "x25"):
        assert hosted(short, listed, DEFAULT) == Resolved("a/x", "listed")
        assert hosted(f"{short}:free", listed, DEFAULT) == Resolved("a/x:free", "listed")


def test_an_id_comes_before_an_alias_of_that_name() -> None:
    listed = [Listed("a/x", aliases=("a/y",)), Listed("b/y")]
    assert hosted("y", listed, DEFAULT) == Resolved("b/y", "listed")


@pytest.mark.parametrize(
    ("asked", "ids", "model"),
    [
        ("x", ("a/x:free", "a/x"), "a/x"),
        ("x:free", ("a/x:free", "a/x"), "a/x:free"),
        ("X:FREE", ("a/x:free", "a/x"), "a/x:free"),
        ("x", ("a/x:free", "b/x"), "b/x"),
        ("x", ("a/x:free",), "a/x:free"),
        ("x", ("a/x:free", "a/x:thinking"), "a/x:thinking"),
        ("x:free", ("a/x", "a/x:thinking"), "a/x"),
        ("x:nitro", ("a/x:free", "a/x"), "a/x"),
    ],
)
def test_a_variant_need_not_be_named_and_free_is_chosen_only_when_asked_or_alone(
    asked: str, ids: tuple[str, ...], model: str
) -> None:
    assert hosted(asked, these(*ids), DEFAULT) == Resolved(model, "listed")
    assert hosted(asked, these(*reversed(ids)), DEFAULT) == Resolved(model, "listed")


def test_several_providers_of_one_short_name_are_not_clear_and_are_named() -> None:
    listed = these(*(f"{provider}/x" for provider in "gfedcba"), "h/x:free")
    candidates = tuple(f"{provider}/x" for provider in "abcdefg")
    assert hosted("x", listed, DEFAULT) == Resolved(DEFAULT, "default", candidates)


def test_a_model_listed_twice_is_one_model() -> None:
    assert hosted("x", these("a/x", "a/x"), DEFAULT) == Resolved("a/x", "listed")


def test_a_short_name_of_the_document_with_a_variant_nobody_lists_is_the_documents() -> None:
    assert hosted("phi-2:free", these("a/b"), DEFAULT) == Resolved("microsoft/phi-2", "document")
    assert hosted("phi-2:free", these("c/phi-2:free"), DEFAULT) == Resolved("c/phi-2:free", "listed")


def test_an_unknown_short_name_means_the_default() -> None:
    assert hosted("nobody-has-this", these("a/b"), DEFAULT) == Resolved(DEFAULT, "default")
    assert hosted("nobody-has-this", [], DEFAULT) == Resolved(DEFAULT, "default")


def test_a_list_is_needed_only_for_names_it_can_change() -> None:
    assert [needs_list(asked) for asked in (None, " ", "a/b", "Phi-2", "x" * 201)] == [False] * 5
    assert [needs_list(asked) for asked in ("gpt-4o", "A/b", "phi-2:free")] == [True] * 3


HOSTILE = ["x" * 201, "a\nb", "a/\x00", "\x1b[2Ja", "a\ud800/b", "a\u202eb", "a\u2028b", "a\x7f", "a\x9bb"]


@pytest.mark.parametrize("asked", HOSTILE)
def test_hostile_names_are_refused(asked: str) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: hosted(asked, [], DEFAULT),
        lambda: local(asked, [], DEFAULT),
    )
    for call in calls:
        with pytest.raises(Invalid) as caught:
            call()
        assert caught.value.details == {"field": "model"}
        assert "\n" not in caught.value.zh and asked not in caught.value.en
    with pytest.raises(Invalid) as caught:
        pull_name(asked)
    assert caught.value.details == {"field": "model_name"}


def test_a_name_of_200_characters_is_taken() -> None:
    assert hosted("a/" + "b" * 198, [], DEFAULT).how == "asked"


INSTALLED = these("qwen3:8b", "llama3.2:latest", "Gemma:2b", "user/tuned:latest", "hf.co/bart/Llama-GGUF:Q4_K_M")


@pytest.mark.parametrize(
    ("asked", "model"),
    [
        ("qwen3:8b", "qwen3:8b"),
        ("llama3.2", "llama3.2:latest"),
        ("LLAMA3.2", "llama3.2:latest"),
        ("gemma:2B", "Gemma:2b"),
        ("qwen3", "qwen3:8b"),
        ("gemma", "Gemma:2b"),
        ("user/tuned", "user/tuned:latest"),
        ("hf.co/bart/llama-gguf", "hf.co/bart/Llama-GGUF:Q4_K_M"),
        ("registry.ollama.ai/library/qwen3:8b", "qwen3:8b"),
        ("library/llama3.2", "llama3.2:latest"),
    ],
)
def test_an_installed_model_is_found_by_less_than_its_name(asked: str, model: str) -> None:
    assert local(asked, INSTALLED, "other") == Resolved(model, "listed")


def test_the_exact_name_comes_before_one_in_other_letters() -> None:
    assert local("Q:1", these("q:1", "Q:1"), None) == Resolved("Q:1", "listed")
    assert local("Q", these("q:latest", "Q:latest"), None) == Resolved("Q:latest", "listed")
    assert local("q", these("q:latest", "q"), None) == Resolved("q", "listed")
    assert local("q", these("q:8b", "q:latest"), None) == Resolved("q:latest", "listed")
    assert local("q:LATEST", these("Q", "q"), "d") == Resolved("d", "default", ("Q", "q"))


def test_a_name_without_tag_is_not_clear_where_several_tags_are_there() -> None:
    assert local("q", these("q:8b", "q:4b", "r:1b"), "d") == Resolved("d", "default", ("q:4b", "q:8b"))


def test_another_tag_than_the_one_named_is_never_answered_with() -> None:
    assert local("qwen3:4b", INSTALLED, "d") == Resolved("d", "default")


def test_an_unlisted_name_is_never_sent() -> None:
    assert local("mistral", INSTALLED, "llama3.2:latest") == Resolved("llama3.2:latest", "default")
    assert local("mistral", [], "d") == Resolved("d", "default")


def test_the_default_is_made_whole() -> None:
    assert local(None, INSTALLED, "LLAMA3.2") == Resolved("llama3.2:latest", "default")
    assert local(" ", INSTALLED, "missing") == Resolved("missing", "default")


def test_without_a_default_the_model_in_memory_answers_or_else_the_first() -> None:
    assert local(None, INSTALLED, None) == Resolved("qwen3:8b", "default")
    assert local("mistral", [*INSTALLED, Listed("warm:1b", loaded=True)], None) == Resolved("warm:1b", "default")


def test_there_is_no_model_where_nothing_is_listed_and_nothing_is_the_default() -> None:
    assert local(None, [], None) is None
    assert local("qwen3", [], None) is None


STRANGERS = [
    "evil.example/x",
    "evil.example/ns/x",
    "evil.example:8080/ns/x:tag",
    "localhost/x",
    "LOCALHOST/ns/x",
    "localhost:5000/x",
    "intranet/ns/x",
    "10.0.0.1/ns/x",
    "[::1]/ns/x",
    "http://evil.example/ns/x",
    "https://hf.co/ns/x",
    "hf.co.evil.example/ns/x",
    "hf.co:8080/ns/x",
    "a/b/c/d",
    "/ns/x",
    "//x",
]


@pytest.mark.parametrize("name", STRANGERS)
def test_a_registry_of_a_stranger_is_refused_installed_or_not(name: str) -> None:
    for listed in ([], these(name)):
        with pytest.raises(Invalid) as caught:
            local(name, listed, "d")
        assert caught.value.details == {"field": "model"}
    with pytest.raises(Invalid) as caught:
        pull_name(name)
    assert caught.value.details == {"field": "model_name"}


@pytest.mark.parametrize(
    "name",
    [
        "qwen3",
        "qwen3:8b",
        "user/name:tag",
        "registry.ollama.ai/library/qwen3:latest",
        "hf.co/bart/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
        "HuggingFace.co/u/n",
        "ollama.com/u/n",
        "a" * 80 + ":" + "b" * 80,
    ],
)
def test_what_ollama_may_fetch_is_taken_as_it_is(name: str) -> None:
    assert pull_name(f" {name} ") == name


@pytest.mark.parametrize(
    "name",
    ["", " ", ":", "a:", ":b", "a:b:c", "a b", "-a", ".", "..", "a/..", "../a", "a/", "/a", "a:b/", "a\\b", "a@sha256:0",
     "a" * 81, "a:" + "b" * 81, "hf.co/x", "us.er/x", "hf.co/us.er/x", "hf.co/u/n/m", "hf.co//n", "模型", "a\u00e9", "a%2fb",
     "a?insecure=1", "a\u0661"],
)  # fmt: skip
def test_what_is_no_name_of_ollama_is_not_fetched(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        pull_name(name)
    assert caught.value.details == {"field": "model_name"}


# names that meet: few letters, and every separator that means something
_WORDS = st.sampled_from(["a", "A", "b", "phi-2", "PHI-2", "x", "free", "latest", "hf.co", "evil.example", "localhost"])
_NAMES = st.lists(_WORDS | st.sampled_from(["/", ":", " "]), min_size=1, max_size=6).map("".join)
_ANY = st.text(max_size=220) | st.text(st.characters(codec=None), max_size=20) | _NAMES
_LISTED = st.lists(
    st.builds(Listed, _NAMES, aliases=st.lists(_NAMES, max_size=2).map(tuple), loaded=st.booleans()), max_size=6
)


@given(st.none() | _ANY, _LISTED, _NAMES)
@example("\ud800", [], "d")
@example("x", these("x", "X", "a/x"), "d")
def test_whatever_is_asked_of_openrouter_the_answer_is_listed_asked_documented_or_the_default(
    asked: str | None, listed: list[Listed], default: str
) -> None:
    ids = {each.id for each in listed}
    try:
        found = hosted(asked, listed, default)
    except Invalid as problem:
        assert problem.details == {"field": "model"}
        assert asked is not None and (len(asked) > 200 or not asked.isprintable())
        return
    allowed = {"asked": {(asked or "").strip()}, "listed": ids, "document": set(DOCUMENT), "default": {default}}
    assert found.model in allowed[found.how]
    assert found.how != "asked" or "/" in found.model
    assert set(found.candidates) <= ids and len(found.candidates) != 1
    assert not found.candidates or found.how == "default"


@given(st.none() | _ANY, _LISTED, _LISTED)
def test_a_name_that_needs_no_list_means_the_same_with_any(
    asked: str | None, listed: list[Listed], other: list[Listed]
) -> None:
    if needs_list(asked):
        return
    try:
        found = hosted(asked, listed, "d/d")
    except Invalid:
        with pytest.raises(Invalid):
            hosted(asked, other, "d/d")
        return
    assert hosted(asked, other, "d/d") == found


@given(st.none() | _ANY, _LISTED, st.none() | _NAMES)
def test_whatever_is_asked_of_ollama_the_answer_is_listed_or_the_default(
    asked: str | None, listed: list[Listed], default: str | None
) -> None:
    ids = {each.id for each in listed}
    try:
        found = local(asked, listed, default)
    except Invalid as problem:
        assert problem.details == {"field": "model"}
        return
    if found is None:
        assert not ids and default is None
        return
    assert found.how in ("listed", "default")
    assert found.model in ids or (found.how, found.model) == ("default", default)
    assert set(found.candidates) <= ids and len(found.candidates) != 1


@given(_ANY)
def test_whatever_is_to_be_fetched_is_refused_or_harmless(text: str) -> None:
    try:
        name = pull_name(text)
    except Invalid as problem:
        assert problem.details == {"field": "model_name"}
        return
    assert name.isascii() and name.isprintable() and name == text.strip()
    assert name.count("/") < 2 or name.lower().startswith(tuple(f"{host}/" for host in model_ids._HOSTS))
    assert not {"\\", "%", "?", "#", "@", " "} & set(name) and "//" not in name and "/." not in name
