"""A random but real llama model of half a megabyte in GGUF, for a real llama.cpp to serve. Nothing is downloaded."""

from pathlib import Path

CONTEXT = 2048
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
_WIDTH, _LAYERS, _HEADS, _INNER = 64, 2, 4, 128
_BYTES = 256
_SPECIAL = ("<unk>", "<s>", "</s>")
_WORDS = [
    "▁hello",
    "▁world",
    "▁the",
    "▁model",
    "▁says",
    "▁a",
    "▁b",
    "你好",
    "世界",
    "，",
    "。",
    "▁token",
    "▁stream",
    "▁",
    "学习",
    "率",
    "微调",
    "市长",
    "河流",
    "▁adapter",
    "▁rank",
]


def make_tiny_gguf(folder: Path, *, seed: int = 0) -> Path:
    """Write ``tiny.gguf`` to ``folder`` (made if absent) and give its path.

    2 layers, width 64, 4 heads, about 370 tokens of a SentencePiece-like vocabulary with every byte, a chat template,
    float32, context 2,048. The weights depend on ``seed`` only. Greedy answers repeat; ``ignore_eos`` and
    ``max_tokens`` make their length certain.
    """
    import gguf
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.gguf"
    dice = np.random.default_rng(seed)
    vocabulary = _vocabulary()
    ordinary = len(_SPECIAL) + _BYTES

    def weights(*shape: int, scale: float) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        return (dice.standard_normal(shape) * scale).astype(np.float32)

    writer = gguf.GGUFWriter(str(path), "llama")
    _describe(writer, vocabulary)
    writer.add_tensor("token_embd.weight", weights(len(vocabulary), _WIDTH, scale=0.3))
    head = weights(len(vocabulary), _WIDTH, scale=0.3)
    head[len(_SPECIAL) : ordinary] *= 0.01  # single bytes are seldom text
    writer.add_tensor("output.weight", head)
    writer.add_tensor("output_norm.weight", np.ones(_WIDTH, np.float32))
    square, up, down = (_WIDTH, _WIDTH), (_INNER, _WIDTH), (_WIDTH, _INNER)
    shapes = {"attn_q": square, "attn_k": square, "attn_v": square, "attn_output": square}
    shapes |= {"ffn_gate": up, "ffn_up": up, "ffn_down": down}
    for layer in range(_LAYERS):
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(*shape, scale=0.1))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(_WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _vocabulary() -> list[str]:
    single = [chr(code) for code in range(33, 127)]
    tokens = [*_SPECIAL, *(f"<0x{code:02X}>" for code in range(_BYTES)), *_WORDS, *single]
    assert len(set(tokens)) == len(tokens)  # llama.cpp aborts the whole process on a token that comes twice
    return tokens


def _describe(writer: "gguf.GGUFWriter", vocabulary: list[str]) -> None:  # type: ignore[name-defined]  # noqa: F821
    import gguf

    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * _BYTES]
    kinds += [gguf.TokenType.NORMAL] * (len(vocabulary) - len(kinds))
    writer.add_name("tiny-random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_vocab_size(len(vocabulary))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocabulary)
    writer.add_token_scores([-float(max(0, place - 258)) for place in range(len(vocabulary))])
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(TEMPLATE)
