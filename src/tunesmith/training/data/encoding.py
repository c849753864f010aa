"""Examples as token ids and a mask of what is learned, from the tokenizer's own chat template. No torch here.

Only the text of assistant turns and the token that ends each of them is learned. Where the template marks its
``{% generation %}`` parts, they say which tokens that is; elsewhere every assistant turn is found by rendering the
conversation up to it, and what was found is checked against the conversation rendered whole.
"""

import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from jinja2 import TemplateError

from tunesmith.datasets.example import Example, Source
from tunesmith.datasets.formats import BadRow
from tunesmith.datasets.reading import LISTED, refusal
from tunesmith.kernel.problems import Invalid

_Row = TypeVar("_Row")
_Tokens = TypeVar("_Tokens")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# private use characters: no template touches them and no sensible text holds them
_MARK = "\ue0a7\ue1b3\ue0a7"
_THOUGHT = "<think>"
_EMPTY_THOUGHT = re.compile(r"<think>\s*</think>")


class _Unrenderable(Exception):
    """The chat template cannot make text of this conversation."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What ``max_length`` took off the end of an example.

    Attributes:
        tokens: how many. supervised: how many of them would have been learned.
        answers: assistant turns of which nothing is left.
    """

    tokens: int
    supervised: int
    answers: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example, ready to be learned.

    Attributes:
        tokens: ids, at most ``max_length`` of them.
        trained: as long as ``tokens``; 1 where the token is to be predicted, else 0. The first is never 1.
        cut: what did not fit; None where all of it did.
        empty_thoughts: thoughts without a word (``<think></think>``) that are learned.
    """

    tokens: "array[int]"
    trained: bytes
    source: Source
    cut: Cut | None = None
    empty_thoughts: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def supervised(self) -> int:
        """How many tokens are learned; at least 1."""
        return self.trained.count(1)

    @property
    def whole(self) -> int:
        """How many tokens it had before it was cut."""
        return len(self.tokens) + (self.cut.tokens if self.cut else 0)


class Encoder:
    """Encodes examples with one tokenizer.

    Args:
        tokenizer: a fast tokenizer of transformers, with a chat template.
        max_length: most tokens of an example; the rest is cut off.

    Attributes:
        template: the chat template.

    Raises:
        Invalid: the tokenizer has no chat template, so nobody can say what a conversation looks like to this model.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        template = tokenizer.get_chat_template() if tokenizer.chat_template else None
        if not isinstance(template, str):
            raise Invalid(
                "基座模型没有对话模板（chat_template），无法训练对话；请换用对话（instruct/chat）模型",
                "the base model has no chat template, so it cannot be tuned on conversations; use a chat model",
                field="base_model",
            )
        self._tokenizer, self._max_length = tokenizer, max_length
        self.template = template
        self._marked = _GENERATION.search(template) is not None
        self._thinks = _THOUGHT in template
        special = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
        self._ends = tuple({*special, *tokenizer.all_special_tokens})

    def encode(self, example: Example) -> Encoded | BadRow:
        """The example in tokens, or why it cannot be learned."""
        messages = [message.as_dict() for message in example.messages]
        try:
            tokens, trained = self._by_marks(messages) if self._marked else self._by_turns(messages)
        except _Unrenderable as error:
            return _bad(
                example,
                f"对话模板无法处理这段对话：{error}；请按模板的要求改写",
                f"the chat template refuses it: {error}; write it as the template wants it",
            )
        trained[:1] = b"\0"  # nothing comes before the first token to predict it from
        first = trained.find(1)
        if first < 0:
            return _bad(
                example,
                "没有可训练的词元：对话模板没有输出助手的回答；请检查模板或换用别的基座",
                "no token to learn: the chat template leaves the answers out; look at the template or use another base",
            )
        if first >= self._max_length:
            return _bad(
                example,
                f"助手回答之前已有 {first} 个词元，max_length={self._max_length} 会切掉整个回答；"
                f"请增大 max_length 或缩短对话",
                f"{first} tokens come before the assistant's first word, so max_length {self._max_length} would cut "
                f"the whole answer off; raise max_length or shorten the conversation",
            )
        thoughts = self._empty_thoughts(messages, tokens, trained)
        most = self._max_length
        cut = _cut(trained, most) if len(tokens) > most else None
        return Encoded(array("i", tokens[:most]), bytes(trained[:most]), example.source, cut, thoughts)

    def pieces(self, encoded: Encoded) -> list[tuple[str, bool]]:
        """The text of ``encoded`` from beginning to end, special tokens included, and whether it is learned."""
        runs = groupby(zip(encoded.tokens, encoded.trained, strict=True), key=lambda pair: pair[1])
        return [(self._text([token for token, _ in run]), bool(learned)) for learned, run in runs]

    def token(self, token: int) -> str:
        """The text of one token."""
        return self._text([token])

    def served(self, example: Example, encoded: Encoded) -> tuple[str, str] | None:
        """How what stands before the last answer differs from what the model is given when it is to answer.

        Returns:
            The ends of both, as learned and as served, from where they part; None where they are the same, or the
            last answer was cut off.
        """
        begin = encoded.trained.rfind(b"\0\1") + 1
        if not begin or (encoded.cut and encoded.cut.answers):
            return None
        learned = encoded.tokens.tolist()[:begin]
        try:
            asked = self._render([message.as_dict() for message in example.prompt], answer_next=True)
        except _Unrenderable as error:
            return self._text(learned), str(error)
        served = self._tokenizer(asked, add_special_tokens=False, verbose=False)["input_ids"]
        if learned == served:
            return None
        pairs = enumerate(zip(learned, served, strict=False))
        same = next((at for at, (a, b) in pairs if a != b), min(len(learned), len(served)))
        return self._text(learned[same:]), self._text(served[same:])

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _empty_thoughts(self, messages: list[dict[str, str]], tokens: list[int], trained: bytearray) -> int:
        if not self._thinks and not any(_THOUGHT in message["content"] for message in messages):
            return 0  # nearly every example: nothing is made text again
        return len(
            _EMPTY_THOUGHT.findall(self._text([t for t, learned in zip(tokens, trained, strict=True) if learned]))
        )

    def _by_marks(self, messages: list[dict[str, str]]) -> tuple[list[int], bytearray]:
        rendered = self._apply(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        return list(rendered["input_ids"]), bytearray(rendered["assistant_masks"])

    def _by_turns(self, messages: list[dict[str, str]]) -> tuple[list[int], bytearray]:
        whole = self._render(messages)
        spans = [self._span(messages, turn, whole) for turn, said in enumerate(messages) if said["role"] == "assistant"]
        encoding = self._tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        tokens, offsets = list(encoding["input_ids"]), encoding["offset_mapping"]
        starts = [start for start, _ in offsets]
        trained = bytearray(len(tokens))
        for begin, end in spans:
            first, last = bisect_left(starts, begin), bisect_left(starts, end)
            if first and offsets[first - 1][1] > begin:
                # a token reaches from the header into the answer: when answering, the model starts after the header
                return self._in_pieces(whole, spans) or (tokens, trained)
            trained[first:last] = b"\1" * (last - first)
        return tokens, trained

    def _in_pieces(self, whole: str, spans: list[tuple[int, int]]) -> tuple[list[int], bytearray] | None:
        """Tokenized span by span, as the model meets it: prompt first, answer after. None if the text would change."""
        tokens: list[int] = []
        trained = bytearray()
        at = 0
        for begin, end in [*spans, (len(whole), len(whole))]:
            for piece, learned in ((whole[at:begin], 0), (whole[begin:end], 1)):
                ids = self._tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"] if piece else []
                tokens += ids
                trained += bytes([learned]) * len(ids)
            at = end
        return (tokens, trained) if self._text(tokens) == whole else None

    def _span(self, messages: list[dict[str, str]], turn: int, whole: str) -> tuple[int, int]:
        """Where the answer of ``turn`` stands in ``whole``, with the token that ends it: [begin, end) in characters."""
        try:
            before = self._render(messages[:turn], answer_next=True) if turn else None
        except _Unrenderable:
            before = None  # some templates refuse a conversation that is not whole
        if before is not None:
            until = self._render(messages[: turn + 1])
            if until.startswith(before) and whole.startswith(until):
                return len(before), len(before) + self._without_tail(until[len(before) :])
        # this template renders a turn differently once others follow it: find the turn by its place instead
        return self._span_by_mark(messages, turn, whole)

    def _span_by_mark(self, messages: list[dict[str, str]], turn: int, whole: str) -> tuple[int, int]:
        said = messages[turn]["content"]
        marked = self._render([*messages[:turn], {**messages[turn], "content": _MARK}, *messages[turn + 1 :]])
        begin, _, after = marked.partition(_MARK)
        for text in (said, said.strip()):
            if marked.count(_MARK) == 1 and begin + text + after == whole:
                end = len(begin) + len(text)
                follows = next((token for token in self._ends if after.startswith(token)), "")
                return len(begin), end + len(follows)
        raise _Unrenderable(f"message {turn} cannot be found again in the rendered conversation")

    def _render(self, messages: list[dict[str, str]], *, answer_next: bool = False) -> str:
        return str(self._apply(messages, tokenize=False, add_generation_prompt=answer_next))

    def _apply(self, messages: list[dict[str, str]], **options: bool) -> Any:
        try:
            return self._tokenizer.apply_chat_template(messages, **options)
        except (TemplateError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            # a template is a program of the model's author: whatever it trips over, the row is what we can name
            raise _Unrenderable(str(error) or type(error).__name__) from error

    def _without_tail(self, answer: str) -> int:
        """Length of ``answer`` up to its end token; white space after that belongs to the template."""
        said = answer.rstrip()
        return len(said) if said.endswith(self._ends) else len(answer)


def encode_all(
    examples: Iterable[Example],
    encoder: Encoder,
    label: str,
    on_bad: Callable[[BadRow], None] | None = None,
    on_good: Callable[[Example, Encoded], None] = lambda example, encoded: None,
) -> list[Encoded]:
    """Every example in tokens.

    Args:
        label: what messages call the file.
        on_bad: is handed each example that cannot be learned, which is then left out; None refuses the file.
        on_good: is handed each other one, while its text is still at hand.

    Raises:
        Invalid: examples cannot be learned (the first twenty are listed), or none is left.
    """
    return learnable(examples, encoder.encode, label, on_bad, on_good)


def learnable(
    rows: Iterable[_Row],
    encode: Callable[[_Row], _Tokens | BadRow],
    label: str,
    on_bad: Callable[[BadRow], None] | None,
    on_good: Callable[[_Row, _Tokens], None],
) -> list[_Tokens]:
    """What ``encode`` makes of ``rows``; otherwise as ``encode_all``."""
    encoded: list[_Tokens] = []
    bad: list[BadRow] = []
    left_out: BadRow | None = None
    for row in rows:
        found = encode(row)
        if not isinstance(found, BadRow):
            encoded.append(found)
            on_good(row, found)
        elif on_bad is not None:
            left_out = left_out or found
            on_bad(found)
        else:
            bad.append(found)
            if len(bad) == LISTED:
                break
    if bad:
        raise refusal(bad, label)
    if not encoded:
        zh, en = f"{label} 中没有可训练的样本", f"{label} holds no example to learn from"
        if left_out is not None:
            zh, en = f"{zh}，例如 {left_out.text('zh')}", f"{en}, e.g. {left_out.text('en')}"
        raise Invalid(zh, en, file=label)
    return encoded


def _cut(trained: bytearray, most: int) -> Cut:
    """What lies beyond the first ``most`` tokens."""
    # a turn begins where 1 follows 0
    return Cut(len(trained) - most, trained.count(1, most), trained.count(b"\0\1", most - 1))


def _bad(example: Example, zh: str, en: str) -> BadRow:
    return BadRow(example.source, "messages", zh, en, {"messages": [message.as_dict() for message in example.messages]})
