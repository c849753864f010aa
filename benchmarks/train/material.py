"""The base model of random weights and the chats that every contestant trains on, written once as files."""

import json
import math
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tunesmith

SHIPPED = Path(tunesmith.__file__).parent / "models" / "shipped" / "tunesmith-small"
SAMPLES = Path(tunesmith.__file__).parent / "datasets" / "samples"
MOST_TOKENS = 1024
MEDIAN, SPREAD = 150, 0.75  # of the log-normal lengths, in tokens
ASSISTANT = 0.56
# ``generation`` marks what is learned, for whoever goes by it
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPES: Mapping[str, Mapping[str, int]] = {
    "qwen2.5-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
                     "num_key_value_heads": 2, "vocab_size": 151_936},
    "small": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8,
              "num_key_value_heads": 2, "vocab_size": 32_000},
    "tiny": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 8192},
}  # fmt: skip


def write_model(folder: Path, shape: str) -> Path:
    """A Qwen2 model of random weights, bfloat16 on the disk as the real ones are; nothing where it is there already."""
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    from transformers import AutoTokenizer, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    tokenizer.chat_template = TEMPLATE
    tokenizer.model_max_length = 32_768
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    config = Qwen2Config(
        **SHAPES[shape], max_position_embeddings=32_768, rope_theta=1e6, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=end, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=tokenizer.pad_token_id)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def work_a_token(folder: Path) -> tuple[float, float]:
    """Operations of the matrix products for a token of a sequence, and for a token with loss; LoRA and attention's
    own products left out.

    Two there and two back for every frozen weight: those get no gradient.
    """
    config = json.loads((folder / "config.json").read_text())
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    narrow = hidden * config["num_key_value_heads"] // heads
    layer = 2 * hidden * hidden + 2 * hidden * narrow + 3 * hidden * config["intermediate_size"]
    return 4.0 * layer * config["num_hidden_layers"], 4.0 * hidden * config["vocab_size"]


def write_chats(path: Path, model: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """``count`` chats of one turn with log-normal lengths, as JSON Lines; what they are like in tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    draw, words = random.Random(seed), _words(random.Random(seed + 1))
    frame = len(_ids(tokenizer, [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]))
    rows, lengths = [], []
    for _ in range(count):
        wanted = max(frame + 16, min(MOST_TOKENS, round(math.exp(draw.gauss(math.log(MEDIAN), SPREAD)))))
        said = round((wanted - frame) * ASSISTANT)
        texts = [_text(tokenizer, words, wanted - frame - said), _text(tokenizer, words, said)]
        messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)]
        rows.append({"messages": messages})
        lengths.append(len(_ids(tokenizer, messages)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    lengths.sort()
    return {"chats": count, "tokens": sum(lengths), "median": lengths[count // 2], "longest": lengths[-1]}


def _ids(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"])


def _text(tokenizer: Any, words: Iterator[str], tokens: int) -> str:
    """Words that make about so many tokens, never more."""
    said: list[str] = []
    length = 0
    while length < tokens:
        word = next(words)
        length += len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"])
        said.append(word)
    return " ".join(said[:-1] or said)


def _words(draw: random.Random) -> Iterator[str]:
    text = [word for path in sorted(SAMPLES.glob("*.jsonl")) for line in path.read_text().splitlines()
            for message in json.loads(line)["messages"] for word in message["content"].split() if len(word) < 12]  # fmt: skip
    while True:
        yield draw.choice(text)
