"""What transformers makes of a tokenizer's files, from a record where there is one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import structlog

from tunesmith.inference.worker.records import Records, Words
from tunesmith.inference.worker.rehearsal import conversations, rehearse
from tunesmith.inference.worker.templates import Template
from tunesmith.kernel.imports import importing
from tunesmith.kernel.problems import Unsupported

_NAME = "words"
_ODD = (
    "  <b>&'\" \\n</b>\n\n\t<|im_end|></s><eos> \u4f60\U0001f642 {{ 1 }} "  # what templates treat in a way of their own
)
log = structlog.get_logger(__name__)

Render: TypeAlias = Callable[[Sequence[Mapping[str, str]], bool], str]


@dataclass(frozen=True, slots=True)
class Spoken:
    """A model's tokenizer and template.

    Attributes:
        backend: of the tokenizers library; it neither cuts nor pads.
        template: the source of the one in use; None where there is none, or none of several is the usual one.
        render: a conversation and whether the assistant comes next, as text; None without any template.
        ends: tokens that end a completion.
    """

    backend: Any
    template: str | None
    render: Render | None
    ends: frozenset[int]


def spoken(folder: Path, records: Records | None = None) -> Spoken:
    """What lies in ``folder``.

    Args:
        records: where it is looked for, and kept for the next time.

    Raises:
        Unsupported: it is no tokenizer that the tokenizers library runs.
        Invalid: its template takes too much memory or time.
        Exception: whatever broken files set off in the libraries.
    """
    words = None if records is None else records.read(_NAME, Words)
    if words is not None:
        from tokenizers import Tokenizer

        return _said(words, Tokenizer.from_str(words.tokenizer))
    with importing():
        from transformers import AutoTokenizer, GenerationConfig

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    ends = _ids(tokenizer.eos_token_id)
    if (folder / "generation_config.json").is_file():
        ends |= _ids(GenerationConfig.from_pretrained(folder).eos_token_id)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise Unsupported("内置引擎需要 tokenizer.json", "the built-in engine needs a tokenizer.json")
    # Transformers' own encode sets truncation on every call, which is not safe beside another thread.
    backend.no_truncation()
    backend.no_padding()
    special = {name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
    if isinstance(tokenizer.chat_template, str):
        rehearse(tokenizer.chat_template, special)
    found = Spoken(backend, _template(tokenizer), _renders(tokenizer) if tokenizer.chat_template else None, ends)
    if records is not None and isinstance(tokenizer.chat_template, str | None):
        words = Words(backend.to_str(), found.template, special, sorted(ends))
        if _same(words, found):
            records.write(_NAME, words)
    return found


def _said(words: Words, backend: Any) -> Spoken:
    render = None
    if words.template:
        template = Template(words.template, words.special)

        def render(messages: Sequence[Mapping[str, str]], next_is_assistant: bool) -> str:
            return template.render(messages, add_generation_prompt=next_is_assistant)

    return Spoken(backend, words.template, render, frozenset(words.ends))


def _renders(tokenizer: Any) -> Render:
    def render(messages: Sequence[Mapping[str, str]], next_is_assistant: bool) -> str:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=next_is_assistant
        )
        return text

    return render


def _same(words: Words, found: Spoken) -> bool:
    """Whether all that ``words`` leads to is what transformers does."""
    from tokenizers import Tokenizer

    backend = found.backend
    if (
        getattr(backend, "encode_special_tokens", False)
        or Tokenizer.from_str(words.tokenizer).to_str() != words.tokenizer
    ):
        return False
    if found.render is None:
        return not words.template
    try:
        own = _said(words, backend).render
    except Exception:  # no template at all, which transformers says when it is asked
        return False
    said = [[{**turn, "content": _ODD} for turn in turns] for turns in conversations()]
    for messages in (*conversations(), *said):
        for ask in (True, False):
            if _tried(own, messages, ask) != _tried(found.render, messages, ask):
                return False
    return True


def _tried(render: Render | None, messages: Sequence[Mapping[str, str]], ask: bool) -> str | tuple[str, str]:
    try:
        return "" if render is None else render(messages, ask)
    except Exception as error:  # a template is a program, and may fail in any way: it has to be the same way
        return type(error).__name__, str(error)


def _template(tokenizer: Any) -> str | None:
    try:
        template = tokenizer.get_chat_template() if tokenizer.chat_template else None
    except ValueError:  # several, and none of them is the usual one
        return None
    return template if isinstance(template, str) else None


def _ids(value: int | list[int] | None) -> frozenset[int]:
    return frozenset(() if value is None else (value,) if isinstance(value, int) else map(int, value))
