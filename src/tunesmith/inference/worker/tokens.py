"""Between text and token ids: the base model's own chat template and tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.kernel.problems import Invalid, Unsupported


class Tokens:
    """A model folder's tokenizer. Safe to use from several threads: nothing in it changes after loading.

    Raises:
        Invalid: the tokenizer files cannot be loaded.
        Unsupported: it is not one the ``tokenizers`` library runs.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer, GenerationConfig

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            reason = str(error).strip().split("\n")[0][:300]
            raise Invalid(f"分词器无法加载：{reason}", f"the tokenizer cannot be loaded: {reason}") from error
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise Unsupported("内置引擎需要 tokenizer.json", "the built-in engine needs a tokenizer.json")
        # Transformers' own encode sets truncation on every call, which is not safe beside another thread.
        backend.no_truncation()
        backend.no_padding()
        self._backend: Any = backend
        self.ends = frozenset(_ids(self._tokenizer.eos_token_id))
        if (folder / "generation_config.json").is_file():
            self.ends |= frozenset(_ids(GenerationConfig.from_pretrained(folder).eos_token_id))

    def render(self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> list[int]:
        """The conversation in the base model's chat template, as token ids.

        Raises:
            Invalid: the template refuses the conversation, or the model has none.
        """
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            raise Invalid(
                "该基础模型没有对话模板，请使用原始文本补全",
                "this base model has no chat template; complete raw text instead",
            )
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            reason = str(error)[:300]
            raise Invalid(
                f"对话模板拒绝了该对话：{reason}", f"the chat template refuses this conversation: {reason}"
            ) from error
        return self.encode(text, special=False)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of ``text``; with ``special`` the tokenizer adds what it puts around raw text (often nothing)."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` without special tokens."""
        text: str = self._backend.decode(ids if isinstance(ids, list) else list(ids), skip_special_tokens=True)
        return text


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)
