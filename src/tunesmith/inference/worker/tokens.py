"""Between text and token ids: the base model's own chat template and tokenizer."""

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tunesmith.inference.worker.grammar import Grammars
from tunesmith.inference.worker.loading import reason
from tunesmith.inference.worker.records import Records
from tunesmith.inference.worker.words import spoken
from tunesmith.kernel.problems import Conflict, Invalid, Problem

# Composing characters (NFC and the like) makes one of at most four.
_COMPOSED = 4
# Tokenizers other than BPE may make one unknown token of a whole word.
_WORD = 100
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # how byte fallback names a token of one byte
_FACTS = "tunesmith.json"  # beside the weights of an adapter that was trained here
_MAX_FACTS_BYTES = 4 << 20


class Tokens:
    """A model folder's tokenizer. Safe to use from several threads: nothing in it changes after loading.

    Args:
        records: where it is kept what transformers makes of the files; None asks it each time.

    Attributes:
        context: most tokens a prompt may have; longer texts are refused before they are tokenized. None lets all pass.
        ends: token ids that end a completion.
        grammars: what completions may be made to satisfy.
        joins: see ``Detokenizer``.

    Raises:
        Invalid: the tokenizer files cannot be loaded, or the chat template takes too much memory or time.
        Unsupported: it is not one the ``tokenizers`` library runs.
    """

    context: int | None = None

    def __init__(self, folder: Path, records: Path | None = None) -> None:
        try:
            found = spoken(folder, None if records is None else Records(records, folder))
        except (MemoryError, Problem):
            raise
        except Exception as error:  # what broken files set off in the library may be of any class
            said = reason(error) or type(error).__name__
            raise Invalid(f"分词器无法加载：{said}", f"the tokenizer cannot be loaded: {said}") from error
        self._backend, self._render, self.ends = found.backend, found.render, found.ends
        backend = found.backend
        self.grammars = Grammars(backend.to_str, self.ends)
        self._spelled: dict[int, bytes] = {}
        self._letters = _byte_letters(backend.decoder)
        self.joins = type(backend.decoder).__name__ == "ByteLevel"
        self._added = frozenset(backend.get_added_tokens_decoder())
        longest = max(map(len, backend.get_vocab(with_added_tokens=True)), default=1)
        if type(backend.model).__name__ != "BPE":
            longest = max(longest, _WORD)
        self._widest = longest * (_COMPOSED if backend.normalizer is not None else 1)
        template = found.template
        self._template_sha256 = None if template is None else hashlib.sha256(template.encode()).hexdigest()

    def require_template_of(self, name: str, folder: Path) -> None:
        """Refuse an adapter that was trained with another chat template than this one.

        A conversation would be put to it in a form it has not learned, and it would answer, worse, and nobody would
        know. Adapters that do not say what they were trained with are taken as they are.

        Raises:
            Conflict: the adapter in ``folder`` was trained with another.
        """
        trained = _recorded(folder / _FACTS)
        if trained is None or trained == self._template_sha256:
            return
        now = self._template_sha256
        raise Conflict(
            f"适配器 {name} 训练时用的对话模板（sha256 {trained[:12]}）与基础模型现在的（{(now or '无')[:12]}）不同，"
            f"回答会悄悄变差；请恢复基础模型的对话模板或重新训练，"
            f"确认改动无害时把 {_FACTS} 的 chat_template_sha256 改为 {now}",
            f"adapter {name} was trained with another chat template (sha256 {trained[:12]}) than the base model has now "
            f"({(now or 'none')[:12]}), and would silently answer worse; put the base's template back or train again, "
            f"or, where the change is known to be harmless, set chat_template_sha256 in {_FACTS} to {now}",
            adapter=name,
        )

    def render(self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> list[int]:
        """The conversation in the base model's chat template, as token ids.

        Raises:
            Invalid: the template refuses the conversation or fails, the model has none, or the context is too short.
        """
        if self._render is None:
            raise Invalid(
                "该基础模型没有对话模板，请使用原始文本补全",
                "this base model has no chat template; complete raw text instead",
            )
        self._require_room(max(self._fewest(sum(len(message["content"]) for message in messages)), len(messages)))
        try:
            text = self._render(messages, add_generation_prompt)
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

    def spell(self, token: int) -> bytes:
        """The bytes one token stands for, which need not be whole characters; b"" for an id that is no token's."""
        if token not in self._spelled:
            self._spelled[token] = self._bytes_of(token)
        return self._spelled[token]

    def _bytes_of(self, token: int) -> bytes:
        name: str | None = self._backend.id_to_token(token)
        if name is None:
            return b""
        if token in self._added:
            return name.encode()
        if self._letters:
            return b"".join(self._letters.get(letter, letter.encode()) for letter in name)
        byte = _BYTE.fullmatch(name)
        return bytes.fromhex(byte[1]) if byte else name.replace("\u2581", " ").encode()


def _byte_letters(decoder: Any) -> dict[str, bytes]:
    """Which letter stands for which byte in the names of byte-level tokens; empty where the tokenizer is none."""
    if decoder is None or b'"ByteLevel"' not in decoder.__getstate__():
        return {}
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in plain]
    letters = {chr(byte): bytes([byte]) for byte in plain}
    return letters | {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(others)}


def _recorded(facts: Path) -> str | None:
    """The template an adapter says it was trained with; None where it says nothing that can be read."""
    try:
        if not facts.is_file() or facts.stat().st_size > _MAX_FACTS_BYTES:
            return None
        found = msgspec.json.decode(facts.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    digest = found.get("chat_template_sha256") if isinstance(found, dict) else None
    return digest if isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest) else None
