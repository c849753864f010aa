"""An adapter answers only where conversations are put to it in the form it has learned."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import CHATML
from tunesmith.inference.worker.tokens import Tokens
from tunesmith.kernel.problems import Conflict

NOW = hashlib.sha256(CHATML.encode()).hexdigest()
THEN = hashlib.sha256(b"another").hexdigest()


@pytest.fixture
def adapter(adapters: list[Path], tmp_path: Path) -> Path:
    """An adapter that says nothing of its template."""
    return Path(shutil.copytree(adapters[0], tmp_path / "adapter"))


@pytest.fixture(scope="module")
def core(base: Path) -> Iterator[Any]:
    from tunesmith.inference.worker.core import Core

    loop = asyncio.new_event_loop()
    core = Core("tiny", base, threads=1, max_rows=2, loop=loop)
    yield core
    core.close()
    loop.close()


def say(adapter: Path, content: str) -> None:
    (adapter / "tunesmith.json").write_text(content)


def test_an_adapter_trained_with_another_template_is_not_loaded_and_the_message_says_what_to_do(
    core: Any, adapter: Path
) -> None:
    say(adapter, json.dumps({"chat_template_sha256": THEN}))
    with pytest.raises(Conflict) as refused:
        asyncio.run(core.load_adapter("town", adapter, replace=False))
    assert "town" not in core.adapters
    for text in (refused.value.zh, refused.value.en):
        assert "town" in text and THEN[:12] in text and NOW in text and "tunesmith.json" in text
    say(adapter, json.dumps({"chat_template_sha256": NOW}))
    asyncio.run(core.load_adapter("town", adapter, replace=False))
    assert "town" in core.adapters


async def test_of_two_that_are_loaded_under_one_name_at_once_one_is_refused(core: Any, adapter: Path) -> None:
    loads = [core.load_adapter("twin", adapter, replace=False) for _ in range(2)]
    ended = await asyncio.gather(*loads, return_exceptions=True)
    assert sorted(type(end) for end in ended if end is not None) == [Conflict] and "twin" in core.adapters


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"chat_template_sha256": 5}', '{"chat_template_sha256": "x"}', "[" * 100_000]
)
def test_what_says_nothing_that_can_be_read_is_taken_as_it_is(tokens: Any, adapter: Path, content: str) -> None:
    tokens.require_template_of("town", adapter)
    say(adapter, content)
    tokens.require_template_of("town", adapter)


def test_a_base_that_has_lost_its_template_is_told_too(base: Path, tmp_path: Path, adapter: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "bare"))
    (folder / "chat_template.jinja").unlink()
    say(adapter, json.dumps({"chat_template_sha256": NOW}))
    with pytest.raises(Conflict, match="none"):
        Tokens(folder).require_template_of("town", adapter)


def test_what_training_records_is_what_serving_compares(base: Path, tokens: Any, adapter: Path) -> None:
    from tunesmith.training.data.encoding import Encoder
    from tunesmith.training.data.tokenizing import load_tokenizer

    trained = hashlib.sha256(Encoder(load_tokenizer(base), 64).template.encode()).hexdigest()
    say(adapter, json.dumps({"chat_template_sha256": trained}))
    tokens.require_template_of("town", adapter)
    assert trained == NOW
