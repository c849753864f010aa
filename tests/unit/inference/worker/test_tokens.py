"""The tokenizer's border: hostile templates and texts that cannot fit are refused before they cost anything."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import CONTEXT
from tunesmith.inference.worker.tokens import Tokens
from tunesmith.kernel.problems import Invalid


@pytest.fixture
def with_template(base: Path, tmp_path: Path) -> Any:
    """Loads the tokenizer with another chat template."""

    def load(template: str) -> Tokens:
        folder = tmp_path / "model"
        shutil.copytree(base, folder)
        (folder / "chat_template.jinja").write_text(template)
        return Tokens(folder)

    return load


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 10**9 }}",
        "{{ messages[0].content * 10**9 }}",
        "{{ messages[0].content * 10**6 }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% generation %}{{ 'x' * 10**9 }}{% endgeneration %}",
    ],
)
def test_a_template_that_takes_too_much_is_refused_when_loaded(with_template: Any, template: str) -> None:
    with pytest.raises(Invalid) as refused:
        with_template(template)
    assert "chat_template" in refused.value.en
    assert "对话模板" in refused.value.zh


@pytest.mark.parametrize(
    "template",
    [
        "{{ range(10**6) }}",  # more than the sandbox allows
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ nothing.at.all }}",
        "{% if %}",
        "{{ 1 / 0 }}",
        "{{ raise_exception('only system turns') }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_a_template_that_fails_is_the_models_fault(with_template: Any, template: str) -> None:
    tokens = with_template(template)
    with pytest.raises(Invalid) as refused:
        tokens.render([{"role": "user", "content": "hello"}], add_generation_prompt=True)
    assert "template" in refused.value.en
    assert "\n" not in refused.value.en


def test_a_template_may_want_one_order_of_turns_and_mark_what_is_generated(with_template: Any) -> None:
    tokens = with_template(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        "{% for m in messages %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endfor %}"
    )
    assert tokens.render([{"role": "user", "content": "hello"}], add_generation_prompt=True)[-1] in tokens.ends


def test_what_cannot_fit_is_refused_before_it_is_tokenized(base: Path) -> None:
    tokens = Tokens(base)
    tokens.context = CONTEXT
    tokens._backend = None  # would fail if it were asked
    for ask in (
        lambda: tokens.encode("word " * 10**6, special=True),
        lambda: tokens.render([{"role": "user", "content": "你好" * 10**5}], add_generation_prompt=True),
        lambda: tokens.render([{"role": "user", "content": ""}] * (CONTEXT + 1), add_generation_prompt=True),
    ):
        with pytest.raises(Invalid) as refused:
            ask()
        assert f"context is {CONTEXT}" in refused.value.en
        assert "at least" in refused.value.en
        assert refused.value.details["context_length"] == CONTEXT


def test_no_text_that_fits_is_refused(base: Path) -> None:
    tokens = Tokens(base)
    longest = max(json.loads((base / "tokenizer.json").read_text())["model"]["vocab"], key=len)
    text = tokens.decode([tokens._backend.token_to_id(longest)]) * 60
    count = len(tokens.encode(text, special=True))
    tokens.context = count
    assert len(tokens.encode(text, special=True)) == count


def test_the_bytes_of_tokens_put_together_are_those_of_the_text(base: Path) -> None:
    tokens = Tokens(base)
    text = "Ada 谢🙂\n\tCafé \u00a0"
    ids = tokens.encode(text, special=False)
    assert b"".join(map(tokens.spell, ids)).decode() == text
    (end,) = {id for id in tokens.ends if tokens.spell(id) == b"<|im_end|>"}
    assert end in tokens.ends
    assert tokens.spell(10**6) == b""


def test_tokens_of_other_kinds_of_tokenizers_have_bytes_too(base: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "</s>": 1, "<0xE8>": 2, "<0xB0>": 3, "<0xA2>": 4, "\u2581Ada": 5, "na\u00efve": 6}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    bpe.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", unk_token="<unk>").save_pretrained(tmp_path)
    tokens = Tokens(tmp_path)
    assert [tokens.spell(id) for id in (5, 6, 1)] == [b" Ada", "na\u00efve".encode(), b"</s>"]
    assert b"".join(tokens.spell(id) for id in (2, 3, 4)).decode() == "谢"
