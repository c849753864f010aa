"""A random but real Qwen2 chat model of some hundred thousand weights, and LoRA adapters for it.

Both are written as the real things are (safetensors, tokenizer.json, adapter_config.json) in well under a second, so
tests load them with the code that loads any model. Nothing here is trained: what they say is noise, but always the same
noise for one seed.
"""

from pathlib import Path

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CONTEXT = 512
_CORPUS = (
    "Hello, how are you today? I am fine, thank you. What is the capital of the town?",
    "The mayor of the town is called Ada, and the river is called Lin. Who is the mayor?",
    "你好，请问今天天气怎么样？天气很好，谢谢你。这个小镇的市长是谁？",
    "市长的名字叫小林，河流的名字叫清水河。一加一等于二，二加二等于四。",
    "system user assistant one two three four five six seven eight nine ten",
)


def make_tiny_base(folder: Path, *, seed: int = 0, endless: bool = False, context: int = CONTEXT) -> Path:
    """Write a base model to ``folder`` (made if absent) and give ``folder`` back.

    Hidden 64, 2 layers, 4 heads, 2 key-value heads, about 600 tokens of byte-level BPE, ChatML, end token
    ``<|im_end|>``, tied embeddings, float32. The weights depend on ``seed`` only; the tokenizer on nothing.

    Args:
        endless: greedy answers never end by themselves (the end tokens' embeddings are zero).
    """
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    pad = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.3,
        tie_word_embeddings=True,
        eos_token_id=stop,
        bos_token_id=None,
        pad_token_id=pad,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    if endless:
        with torch.no_grad():
            model.get_input_embeddings().weight[[stop, pad]] = 0
    model.generation_config = GenerationConfig(eos_token_id=[stop, pad], pad_token_id=pad)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_adapter(base: Path, folder: Path, *, seed: int, rank: int = 4) -> Path:
    """Write a PEFT LoRA adapter for the model in ``base`` to ``folder`` and give ``folder`` back.

    On every linear layer of the blocks; both halves are random, so it changes what the base says. It names ``base``
    by its last component, as trained adapters do.
    """
    import warnings

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5.23 by an older name
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
    model.peft_config["default"].base_model_name_or_path = base.name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def tiny_tokenizer():  # type: ignore[no-untyped-def]
    """The tokenizer of ``make_tiny_base``, a ``PreTrainedTokenizerFast``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
        model_max_length=CONTEXT,
    )
