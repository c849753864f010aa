"""The tokenizer of the small model: byte-level BPE that keeps Chinese characters and digits apart."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tools.small_base import names
from tools.small_base.corpus import Mix, Stream

VOCABULARY = 4000
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (PAD, START, END)

# How text is cut while the merges are learned: a word with its leading space, one digit, one Chinese character, or a
# run of punctuation. Chinese is cut into characters because merges across words would split the same name differently
# from one phrasing to the next.
LEARNING_SPLIT = (
    r"'(?i:s|t|re|ve|m|ll|d)|[\u3400-\u4dbf\u4e00-\u9fff]| ?[^\W\d_\u3400-\u4dbf\u4e00-\u9fff]+|\d| ?[^\s\w]+[\r\n]*"
    r"|_|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# How text is cut afterwards: as in every Qwen2 model, which loaders assume whatever tokenizer.json says. The result is
# the same, for no merge reaches over one of the cuts above.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- endif %}"
)


def _cut(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train(mix: Mix | None = None, chats: int = 30_000) -> Tokenizer:
    """Learn the merges from the beginning of the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _cut(LEARNING_SPLIT)
    tokenizer.decoder = decoders.ByteLevel()
    stream = itertools.islice(Stream(mix, seed=0), chats)
    texts = itertools.chain(
        ("\n".join(f"{role}\n{text}" for role, text in chat) for chat in stream),
        # Once more every common character, so that almost all of them get a token of their own.
        ("".join(names.ZH_COMMON),) * 40,
    )
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.pre_tokenizer = _cut(SPLIT)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": 1024,
        "pad_token": PAD,
        "tokenizer_class": "Qwen2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def prompt(turns: list[tuple[str, str]]) -> str:
    """The text of a chat up to the point where the assistant speaks."""
    text = "".join(f"{START}{role}\n{content}{END}\n" for role, content in turns)
    return f"{text}{START}assistant\n"
