"""What every contestant serves: a base model of random weights that never ends by itself, adapters for it, prompts."""

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

from train.material import SAMPLES, SHIPPED, write_model

BASE = "bench"
ADAPTERS = tuple(f"adapters/a{number}" for number in range(1, 9))
RANK, ALPHA = 8, 16
_UNSAID = (0, 1, 2)  # the special tokens of the shipped tokenizer
_EDITION = "2"  # of what is written; another one is written anew
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_home(folder: Path, shape: str) -> Path:
    """A home folder of Tunesmith with the model and eight adapters in it, which the peers read where it lies; nothing
    where it is there already.

    The weights are those that training is measured on, changed so that greedy answers never end and never repeat
    themselves, whoever asks. Every row of the embedding has a token of the tokenizer.
    """
    model, home = folder / "home" / "models" / BASE, folder / "home"
    if (folder / ".written").exists() and (folder / ".written").read_text() == _EDITION:
        return home
    shutil.rmtree(folder, ignore_errors=True)  # with what was exported of other weights
    write_model(model, shape)
    config = json.loads((model / "config.json").read_text())
    _fill_tokenizer(model, config["vocab_size"])
    # enough for answers that hardly repeat, and little enough for rounding to change nothing but the last digits
    _quieten(model, sharpness=8 if config["num_hidden_layers"] < 8 else 2)
    for number, name in enumerate(ADAPTERS):
        _write_adapter(home / name, config, seed=number + 1)
    (folder / ".written").write_text(_EDITION)
    return home


def write_shipped(folder: Path) -> Path:
    """A home folder with the shipped model in it, but for its end tokens, which are never the likeliest."""
    home = folder / "home"
    model = home / "models" / BASE
    if not (folder / ".written").exists():
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(SHIPPED, model)
        _quieten(model)
        (folder / ".written").touch()
    return home


def numbers(model: Path) -> int:
    """How many weights the model has; a decode step reads each of them once (the tied embedding as the output head)."""
    from safetensors import safe_open

    with safe_open(str(model / "model.safetensors"), framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


class Prompts:
    """Questions of a wanted length; no two of them begin alike, so that nobody's prefix cache knows one already."""

    def __init__(self, model: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        rows = [line for path in sorted(SAMPLES.glob("*.jsonl")) for line in path.read_text().splitlines()]
        said = [message["content"] for row in rows for message in json.loads(row)["messages"]]
        self._words = [word for text in said for word in text.split() if len(word) < 12]

    def one(self, seed: str, tokens: int = 128) -> str:
        """Always the same text for a seed, of so many tokens or a few less, without the chat template."""
        draw = random.Random(seed)
        text = ""
        while True:
            longer = f"{text} {draw.choice(self._words)}".strip()
            if len(self._tokenizer.encode(longer, add_special_tokens=False).ids) > tokens:
                return text
            text = longer

    def many(self, seed: str, count: int) -> list[str]:
        """``count`` of 112 to 144 tokens."""
        draw = random.Random(seed)
        return [self.one(f"{seed}-{number}", draw.randint(112, 144)) for number in range(count)]


def _quieten(model: Path, sharpness: int = 0) -> None:
    """Zero the rows of what must not be said: end tokens, and pieces of characters, which a stream holds back.

    Args:
        sharpness: where given, fresh weights are made to say ever new things. As they are they repeat one token for
            ever, which whoever looks drafts up in the text would know beforehand: the embedding is made small, and
            queries and keys so many times larger.
    """
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer

    weights = load_file(model / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    decode = Tokenizer.from_file(str(model / "tokenizer.json")).decode
    unsaid = [token for token in range(len(embedding)) if "\ufffd" in decode([token], skip_special_tokens=False)]
    embedding[sorted({*_UNSAID, *unsaid})] = 0
    if sharpness:
        embedding /= 16
        for name, weight in weights.items():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight *= sharpness
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def _fill_tokenizer(model: Path, rows: int) -> None:
    """Words that no merge makes, so that text is cut as before, but every id says something."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(SHIPPED / name, model / name)
    told = json.loads((model / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = told["model"]["vocab"]
    number = 0
    while len(vocabulary) < rows:
        place, word = number, ""
        for _ in range(4):
            place, letter = divmod(place, len(_LETTERS))
            word += _LETTERS[letter]
        vocabulary.setdefault(f"Ġ{word}", len(vocabulary))
        number += 1
    (model / "tokenizer.json").write_text(json.dumps(told, ensure_ascii=False))
    settings = json.loads((model / "tokenizer_config.json").read_text()) | {"model_max_length": 32_768}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))


def _write_adapter(folder: Path, config: dict[str, Any], seed: int) -> None:
    """LoRA on every linear layer as PEFT writes it; both halves are random, so it changes what the base says."""
    import torch
    from safetensors.torch import save_file

    hidden, wide = config["hidden_size"], config["intermediate_size"]
    narrow = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    shapes = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (hidden, narrow), "self_attn.v_proj": (hidden, narrow),
        "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (hidden, wide), "mlp.up_proj": (hidden, wide),
        "mlp.down_proj": (wide, hidden),
    }  # fmt: skip
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        for name, (inward, outward) in shapes.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            weights[f"{prefix}.lora_A.weight"] = torch.randn(RANK, inward, generator=draw) / math.sqrt(inward)
            weights[f"{prefix}.lora_B.weight"] = torch.randn(outward, RANK, generator=draw) * 0.02
    folder.mkdir(parents=True)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    about = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": BASE, "r": RANK, "lora_alpha": ALPHA,
        "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "inference_mode": True, "use_rslora": False,
        "target_modules": sorted({name.rpartition(".")[2] for name in shapes}),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(about, indent=2))
