"""What is learned of a conversation: the assistant's words and end tokens, nothing else, never silently nothing."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_model import CHATML, tiny_tokenizer
from tests.unit.training.conftest import encoded, talk
from tunesmith.datasets.formats import BadRow
from tunesmith.kernel.problems import Invalid
from tunesmith.training.data.encoding import Encoded, Encoder, encode_all

LONG = 10_000
MARKED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}{{ '\\n' }}{% else %}{{ message['content'] }}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# as Qwen3's: the last answer is rendered with an empty thought before it, earlier ones without
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if loop.last and message['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRICT = (
    "{% if messages[0]['role'] != 'user' %}{{ raise_exception('the first turn must be the user') }}{% endif %}" + CHATML
)


def learned(tokenizer: Any, found: Encoded) -> list[str]:
    """The learned parts as text."""
    parts: list[list[int]] = []
    before = 0
    for token, trained in zip(found.tokens, found.trained, strict=True):
        if trained and not before:
            parts.append([])
        if trained:
            parts[-1].append(token)
        before = trained
    return [tokenizer.decode(part) for part in parts]


@pytest.fixture
def with_template() -> Any:
    def make(template: str) -> Any:
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.mark.parametrize(
    "question,answer", [("Who is the mayor?", "Ada."), ("市长是谁？", "市长是小林。"), ("🙂?", "👩‍🚀 ok 𝄞")]
)
def test_only_the_answer_and_its_end_token_are_learned(tokenizer: Any, question: str, answer: str) -> None:
    found = encoded(Encoder(tokenizer, LONG), ("system", "Be brief."), ("user", question), ("assistant", answer))
    assert learned(tokenizer, found) == [answer + "<|im_end|>"]
    assert tokenizer.decode(found.tokens).endswith("<|im_end|>\n")


def test_every_assistant_turn_of_a_conversation_is_learned(tokenizer: Any) -> None:
    turns = [("user", "一加一？"), ("assistant", "二。"), ("user", "And two more?"), ("assistant", "Four.")]
    found = encoded(Encoder(tokenizer, LONG), *turns)
    assert learned(tokenizer, found) == ["二。<|im_end|>", "Four.<|im_end|>"]


def test_a_conversation_that_the_assistant_opens_is_learned_from_its_first_word(tokenizer: Any) -> None:
    found = encoded(Encoder(tokenizer, LONG), ("assistant", "Hello!"), ("user", "hi"), ("assistant", "Yes?"))
    assert learned(tokenizer, found) == ["Hello!<|im_end|>", "Yes?<|im_end|>"]


def test_the_tokens_are_those_of_the_template_rendered_whole(tokenizer: Any) -> None:
    example = talk(("user", "Hello, how are you?"), ("assistant", "I am fine."))
    whole = tokenizer.apply_chat_template([m.as_dict() for m in example.messages], tokenize=True, return_dict=True)
    found = Encoder(tokenizer, LONG).encode(example)
    assert isinstance(found, Encoded) and list(found.tokens) == whole["input_ids"]


def test_a_template_that_marks_its_answers_is_believed(with_template: Any) -> None:
    tokenizer = with_template(MARKED)
    found = encoded(Encoder(tokenizer, LONG), ("user", "x"), ("assistant", "one"), ("user", "y"), ("assistant", "二"))
    assert learned(tokenizer, found) == ["one<|im_end|>", "二<|im_end|>"]


def test_a_template_that_renders_earlier_answers_otherwise_still_has_them_all_learned(with_template: Any) -> None:
    tokenizer = with_template(THINKING)
    found = encoded(Encoder(tokenizer, LONG), ("user", "x"), ("assistant", "one"), ("user", "y"), ("assistant", "two"))
    assert learned(tokenizer, found) == ["one<|im_end|>", "<think>\n\n</think>\n\ntwo<|im_end|>"]


def test_an_answer_that_begins_with_a_line_break_is_learned_with_it(with_template: Any) -> None:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # merges the header's line break with the answer's when both are seen at once
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bpe = Tokenizer(models.BPE({**letters, "ĊĊ": len(letters)}, [("Ċ", "Ċ")]))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"], chat_template=CHATML
    )
    found = encoded(Encoder(tokenizer, LONG), ("user", "x"), ("assistant", "\nyes"))
    assert learned(tokenizer, found) == ["\nyes<|im_end|>"]


def test_the_first_token_is_never_learned_for_nothing_predicts_it(with_template: Any) -> None:
    tokenizer = with_template("{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}")
    found = encoded(Encoder(tokenizer, LONG), ("assistant", "one two"), ("user", "x"))
    assert found.trained[0] == 0 and found.supervised == len(tokenizer("one two<|im_end|>")["input_ids"]) - 1


def test_a_long_example_is_cut_at_its_end(tokenizer: Any) -> None:
    turns = [("user", "Count."), ("assistant", "one two three four five six seven eight nine ten")]
    whole = encoded(Encoder(tokenizer, LONG), *turns)
    cut = encoded(Encoder(tokenizer, len(whole) - 5), *turns)
    assert list(cut.tokens) == list(whole.tokens)[:-5] and cut.trained == whole.trained[:-5]
    assert cut.supervised == whole.supervised - 4  # the line break after the end token was never learned


def test_an_example_whose_answer_would_be_cut_away_is_refused_with_its_line(tokenizer: Any) -> None:
    example = talk(("user", "Hello, how are you today? " * 5), ("assistant", "Fine."), line=17)
    whole = Encoder(tokenizer, LONG).encode(example)
    assert isinstance(whole, Encoded)
    first = whole.trained.index(1)
    assert isinstance(Encoder(tokenizer, first + 1).encode(example), Encoded)
    refused = Encoder(tokenizer, first).encode(example)
    assert isinstance(refused, BadRow)
    assert "data/train.jsonl:17" in refused.text("en") and f"max_length {first}" in refused.text("en")
    assert "max_length" in refused.text("zh")


def test_an_example_with_nothing_to_learn_is_refused(with_template: Any) -> None:
    silent = with_template(
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    refused = Encoder(silent, LONG).encode(talk(("user", "hi"), ("assistant", "hello")))
    assert isinstance(refused, BadRow)
    marked = with_template("{% for m in messages %}{{ m['content'] }}{% endfor %}{% generation %}{% endgeneration %}")
    refused = Encoder(marked, LONG).encode(talk(("user", "hi"), ("assistant", "hello"), line=4))
    assert isinstance(refused, BadRow) and "no token to learn" in refused.en and refused.source.line == 4


def test_a_conversation_the_template_refuses_is_a_bad_row_with_the_templates_reason(with_template: Any) -> None:
    refused = Encoder(with_template(STRICT), LONG).encode(talk(("system", "s"), ("user", "u"), ("assistant", "a")))
    assert isinstance(refused, BadRow) and "the first turn must be the user" in refused.en


def test_a_model_without_chat_template_is_refused(with_template: Any) -> None:
    with pytest.raises(Invalid, match="no chat template"):
        Encoder(with_template(None), LONG)


def test_twenty_bad_examples_are_listed_in_one_refusal(tokenizer: Any) -> None:
    examples = [talk(("user", "word " * 50), ("assistant", "x"), line=n) for n in range(1, 31)]
    with pytest.raises(Invalid) as refused:
        encode_all(iter(examples), Encoder(tokenizer, 20), "data/train.jsonl")
    lines = [row["line"] for row in refused.value.details["bad_rows"]]
    assert lines == list(range(1, 21))
    assert "data/train.jsonl:20" in refused.value.zh and "data/train.jsonl:21" not in refused.value.zh


def test_bad_examples_are_left_out_only_when_somebody_takes_them(tokenizer: Any) -> None:
    bad, good = talk(("user", "word " * 50), ("assistant", "x")), talk(("user", "q"), ("assistant", "a"), line=2)
    taken: list[BadRow] = []
    assert [e.source.line for e in encode_all([bad, good], Encoder(tokenizer, 20), "f", taken.append)] == [2]
    assert len(taken) == 1
    with pytest.raises(Invalid, match="no example"):
        encode_all([bad], Encoder(tokenizer, 20), "f", taken.append)


words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Co")), min_size=1, max_size=30).filter(
    lambda text: "<|" not in text
)
turns = st.lists(st.tuples(words, words), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(turns, st.booleans())
def test_whatever_is_said_exactly_the_assistants_words_are_learned(pairs: list[tuple[str, str]], marked: bool) -> None:
    tokenizer = tiny_tokenizer()
    if marked:
        tokenizer.chat_template = MARKED
    talked = [turn for question, answer in pairs for turn in (("user", question), ("assistant", answer))]
    found = encoded(Encoder(tokenizer, LONG), *talked)
    assert learned(tokenizer, found) == [answer + "<|im_end|>" for _, answer in pairs]
    whole = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in talked)
    assert tokenizer.decode(found.tokens) == whole


@settings(max_examples=60, deadline=None)
@given(words, words, st.integers(1, 80))
def test_a_cut_example_is_a_beginning_of_the_whole_and_always_teaches_something(q: str, a: str, most: int) -> None:
    tokenizer = tiny_tokenizer()
    example = talk(("user", q), ("assistant", a))
    whole, cut = Encoder(tokenizer, LONG).encode(example), Encoder(tokenizer, most).encode(example)
    assert isinstance(whole, Encoded)
    if isinstance(cut, Encoded):
        assert len(cut) == min(most, len(whole)) and cut.supervised >= 1
        assert cut.tokens == whole.tokens[:most] and cut.trained == whole.trained[:most]
    else:
        assert whole.trained.index(1) >= most
