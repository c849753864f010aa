"""Between text and token ids: the base model's own chat template and tokenizer."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.inference.worker.loading import reason
from tunesmith.inference.worker.rehearsal import rehearse
from tunesmith.kernel.problems import Invalid, Unsupported

# Composing characters (NFC and the like) makes one of at most four.
_COMPOSED = 4
# Tokenizers other than BPE may make one unknown token of a whole word.
_WORD = 100


class Tokens:
    """A model folder's tokenizer. Safe to use from several threads: nothing in it changes after loading.

    Attributes:
        context: most tokens a prompt may have; longer texts are refused before they are tokenized. None lets all pass.

    Raises:
        Invalid: the tokenizer files cannot be loaded, or the chat template takes too much memory or time.
        Unsupported: it is not one the ``tokenizers`` library runs.
    """

    context: int | None = None

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer, self.ends = _read(folder)
        except MemoryError:
            raise
        except Exception as error:  # what broken files set off in the library may be of any class
            said = reason(error) or type(error).__name__
            raise Invalid(f"分词器无法加载：{said}", f"the tokenizer cannot be loaded: {said}") from error
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise Unsupported("内置引擎需要 tokenizer.json", "the built-in engine needs a tokenizer.json")
        # Transformers' own encode sets truncation on every call, which is not safe beside another thread.
        backend.no_truncation()
        backend.no_padding()
        self._backend: Any = backend
        longest = max(map(len, backend.get_vocab(with_added_tokens=True)), default=1)
        if type(backend.model).__name__ != "BPE":
            longest = max(longest, _WORD)
        self._widest = longest * (_COMPOSED if backend.normalizer is not None else 1)
        if isinstance(self._tokenizer.chat_template, str):
            special = self._tokenizer.special_tokens_map
            rehearse(
                self._tokenizer.chat_template, {name: text for name, text in special.items() if isinstance(text, str)}
            )

    def render(self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> list[int]:
        """The conversation in the base model's chat template, as token ids.

        Raises:
            Invalid: the template refuses the conversation or fails, the model has none, or the context is too short.
        """
        if not self._tokenizer.chat_template:
            raise Invalid(
                "该基础模型没有对话模板，请使用原始文本补全",
                "this base model has no chat template; complete raw text instead",
            )
        self._require_room(max(self._fewest(sum(len(message["content"]) for message in messages)), len(messages)))
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # a template is a program, and may fail in any way
            said = reason(error) or type(error).__name__
            raise Invalid(
                f"对话模板拒绝了该对话：{said}", f"the chat template refuses this conversation: {said}"
            ) from error
        return self.encode(text, special=False)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids of ``text``; with ``special`` the tokenizer adds what it puts around raw text (often nothing).

        Raises:
            Invalid: it is so long that it cannot fit the context.
        """
        self._require_room(self._fewest(len(text)))
        ids: list[int] = self._backend.encode(text, add_special_tokens=special).ids
        return ids

    def _fewest(self, characters: int) -> int:
        """Fewest tokens a text of that length has: none stands for more characters than the widest."""
        return math.ceil(characters / self._widest)

    def _require_room(self, fewest: int) -> None:
        if self.context is not None and fewest > self.context:
            raise Invalid(
                f"输入过长：提示至少有 {fewest} 个 token，模型上下文为 {self.context} 个",
                f"the prompt has at least {fewest} tokens; the model's context is {self.context}",
                context_length=self.context,
            )

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` without special tokens."""
        text: str = self._backend.decode(ids if isinstance(ids, list) else list(ids), skip_special_tokens=True)
        return text


def _read(folder: Path) -> tuple[Any, frozenset[int]]:
    """The tokenizer in ``folder``, and the tokens that end a completion."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    ends = _ids(tokenizer.eos_token_id)
    if (folder / "generation_config.json").is_file():
        ends |= _ids(GenerationConfig.from_pretrained(folder).eos_token_id)
    return tokenizer, ends


def _ids(value: int | list[int] | None) -> frozenset[int]:
    return frozenset(() if value is None else (value,) if isinstance(value, int) else map(int, value))
