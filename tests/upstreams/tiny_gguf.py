"""A random but real llama model of half a megabyte in GGUF, for a real llama.cpp to serve. Nothing is downloaded.

It is made as any base model is kept (safetensors, tokenizer.json) and written as any base model is exported.
"""

import json
from pathlib import Path

CONTEXT = 2048
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
_WIDTH, _LAYERS, _HEADS, _INNER = 64, 2, 4, 128
_SPECIAL = ("<unk>", "<s>", "</s>")
_WORDS = [
    " hello",
    " world",
    " the",
    " model",
    " says",
    " a",
    " b",
    "你好",
    "世界",
    "，",
    "。",
    " token",
    " stream",
    "学习",
    "率",
    "微调",
    "市长",
    "河流",
    " adapter",
    " rank",
]


def make_tiny_gguf(folder: Path, *, seed: int = 0) -> Path:
    """Write ``tiny.gguf`` to ``folder`` (made if absent) and give its path.

    2 layers, width 64, 4 heads, about 340 tokens of a byte-level BPE, a chat template, float32, context 2,048. The
    weights depend on ``seed`` only. Greedy answers repeat; ``ignore_eos`` and ``max_tokens`` make their length certain.
    """
    from tunesmith.models.export.gguf_files import write_model
    from tunesmith.models.model import BaseModel

    model = make_tiny_llama(folder / "model", seed=seed)
    path = folder / "tiny.gguf"
    write_model(BaseModel("tiny", model, "LlamaForCausalLM", 0, CONTEXT), None, path, type="f32", name="tiny-random")
    return path


def make_tiny_llama(folder: Path, *, seed: int = 0) -> Path:
    """Write that model as transformers keeps it to ``folder`` (made if absent) and give ``folder`` back."""
    import numpy as np

    from tunesmith.models.export.tensors import write

    folder.mkdir(parents=True, exist_ok=True)
    tokens, merges, likely = _vocabulary()
    dice = np.random.default_rng(seed)

    def weights(*shape: int, scale: float) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        return (dice.standard_normal(shape) * scale).astype(np.float32)

    head = weights(len(tokens), _WIDTH, scale=0.3)
    head[[place for place, text in enumerate(tokens) if text not in likely]] *= 0.01  # parts of words are seldom text
    tensors = {
        "model.embed_tokens.weight": weights(len(tokens), _WIDTH, scale=0.3),
        "lm_head.weight": head,
        "model.norm.weight": np.ones(_WIDTH, np.float32),
    }
    square, up, down = (_WIDTH, _WIDTH), (_INNER, _WIDTH), (_WIDTH, _INNER)
    shapes = {f"self_attn.{name}_proj": square for name in "qkvo"}
    shapes |= {"mlp.gate_proj": up, "mlp.up_proj": up, "mlp.down_proj": down}
    for layer in range(_LAYERS):
        for name, shape in shapes.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = weights(*shape, scale=0.1)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = np.ones(_WIDTH, np.float32)
    write(folder / "model.safetensors", [(name, "F32", it.shape) for name, it in tensors.items()], tensors.__getitem__)
    _describe(folder, tokens, merges)
    return folder


def _vocabulary() -> tuple[list[str], list[tuple[str, str]], set[str]]:
    """Tokens by id, merges in order, and the tokens that are whole words or printable characters."""
    from tokenizers.pre_tokenizers import ByteLevel

    words = ["".join(piece for piece, _ in ByteLevel(False, use_regex=False).pre_tokenize_str(it)) for it in _WORDS]
    tokens, merges = [*_SPECIAL, *sorted(ByteLevel.alphabet())], list[tuple[str, str]]()
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    return tokens, merges, {*_SPECIAL, *words, *(chr(code) for code in range(33, 127))}


def _describe(folder: Path, tokens: list[str], merges: list[tuple[str, str]]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.BPE({text: place for place, text in enumerate(tokens)}, merges))
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(tokens),
        "hidden_size": _WIDTH,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": TEMPLATE}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
