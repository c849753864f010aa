"""A tokenizer from its record says and renders what transformers does, and transformers is not imported for it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import tunesmith.models
from tests.tiny_model import CHATML
from tunesmith.inference.worker.tokens import Tokens
from tunesmith.kernel.problems import Invalid

TEXTS = ("Ada 谢🙂\n\tCafé \u00a0", "<|im_start|>user\nhello<|im_end|>", "", " two  spaces ", "你好" * 30)
SHIPPED = Path(tunesmith.models.__file__).parent / "shipped" / "tunesmith-small"
TEMPLATES = {
    "chatml": CHATML,
    "blocks": "{%- for m in messages %}\n  {%- if m.role == 'user' %}\n[U] {{ m.content }}\n  {% endif %}\n{%- endfor %}",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ messages[0].content | tojson(ensure_ascii=true) }}",
    "marks": "{% for m in messages %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endfor %}",
    "loops": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m['content'] | trim }}{% endfor %}",
    "names": "{% set it = namespace(n=0) %}{% for m in messages %}{% set it.n = it.n + 1 %}{% endfor %}{{ it.n }}",
    "dict": "{{ dict(a=1) }}{{ dict.fromkeys('ab') }}",
    "refuses": "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}{{ messages[-1].content }}",
    "absent": "{{ tools }}{{ documents }}{{ nothing }}{% if add_generation_prompt %}>{% endif %}",
    "escapes": "{{ messages.__class__ }}{% set it = namespace(_x=1) %}",
    "changes": "{{ messages.append(1) }}",
    "broken": "{% if %}",
    "divides": "{{ 1 / 0 }}",
}  # fmt: skip
CHATS = (
    [{"role": "user", "content": "hello <b>&\"' 你好\n"}],
    [{"role": "system", "content": " be kind "}, {"role": "user", "content": "{{ 7 * 7 }}<|im_end|>"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}, {"role": "user", "content": "b"}],
)


class Asked(BaseException):
    """Transformers was asked."""


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called on, transformers may not be asked for a tokenizer."""

    def never(*given: Any, **named: Any) -> Any:
        raise Asked

    return lambda: monkeypatch.setattr(AutoTokenizer, "from_pretrained", never)


def rendered(tokens: Tokens, chat: list[dict[str, str]], ask: bool) -> list[int] | str:
    try:
        return tokens.render(chat, add_generation_prompt=ask)
    except Invalid as refused:
        return refused.en


@pytest.mark.parametrize("template", TEMPLATES)
def test_chats_are_rendered_as_transformers_renders_them(
    base: Path, tmp_path: Path, template: str, unasked: Callable[[], None]
) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(TEMPLATES[template])
    first = Tokens(folder, tmp_path / "records")
    if template == "broken":  # which is told by transformers, each time
        assert not (tmp_path / "records").exists()
        return
    unasked()
    second = Tokens(folder, tmp_path / "records")
    for chat in CHATS:
        for ask in (True, False):
            assert rendered(first, chat, ask) == rendered(second, chat, ask)


@pytest.mark.parametrize("model", ["tiny", "shipped"])
def test_a_tokenizer_from_its_record_is_the_same(
    base: Path, tmp_path: Path, model: str, unasked: Callable[[], None]
) -> None:
    folder = base if model == "tiny" else SHIPPED
    first = Tokens(folder, tmp_path / "records")
    unasked()
    second = Tokens(folder, tmp_path / "records")
    for text in TEXTS:
        for special in (True, False):
            ids = first.encode(text, special=special)
            assert second.encode(text, special=special) == ids
            assert second.decode(ids) == first.decode(ids)
            assert [*map(second.spell, ids)] == [*map(first.spell, ids)]
    assert (second.ends, second._widest, second._template_sha256) == (first.ends, first._widest, first._template_sha256)


@pytest.mark.parametrize("changed", ["chat_template.jinja", "tokenizer_config.json", "generation_config.json"])
def test_other_files_are_read_anew(base: Path, tmp_path: Path, changed: str, unasked: Callable[[], None]) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    Tokens(folder, tmp_path / "records")
    unasked()
    Tokens(folder, tmp_path / "records")
    with (folder / changed).open("a") as file:
        file.write(" ")
    with pytest.raises(Asked):
        Tokens(folder, tmp_path / "records")


def test_what_is_kept_of_a_damaged_folder_is_nothing(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    (folder / "tokenizer.json").write_text("{")
    for _ in range(2):
        with pytest.raises(Invalid):
            Tokens(folder, tmp_path / "records")
    assert not (tmp_path / "records").exists()


def test_an_engine_that_has_the_records_of_its_model_imports_no_transformers(base: Path, tmp_path: Path) -> None:
    """Importing it takes seconds and a hundred megabytes."""
    script = """
import asyncio, json, sys
from pathlib import Path
from tunesmith.inference.worker.core import Core
core = Core("tiny", Path(sys.argv[1]), threads=1, max_rows=2, records=Path(sys.argv[2]), loop=asyncio.new_event_loop())
ids = core.tokens.render([{"role": "user", "content": "hello"}], add_generation_prompt=True)
core.close()
print(json.dumps([ids, "transformers" in sys.modules]))
"""
    command = [sys.executable, "-c", script, str(base), str(tmp_path / "records")]
    told = [subprocess.run(command, capture_output=True, check=True, text=True).stdout for _ in range(2)]
    (ids, first), (again, second) = (json.loads(each.splitlines()[-1]) for each in told)
    assert first and not second and ids == again
