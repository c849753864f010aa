"""Bases and adapters to export: small, random, real."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import make_tiny_base, tiny_tokenizer
from tunesmith.kernel.home import Home
from tunesmith.models.model import Adapter, BaseModel
from tunesmith.models.registry import Registry

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MakeAdapter = Callable[..., Adapter]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A Qwen2 of two layers with tied embeddings, float32."""
    home = tmp_path_factory.mktemp("tiny")
    make_tiny_base(home / "models" / "tiny")
    return Registry(Home(home)).base("tiny")


@pytest.fixture
def make_adapter(tmp_path: Path) -> MakeAdapter:
    """Makes an adapter with PEFT: both halves random, DoRA's magnitudes moved; all in the folder of one test."""

    def make(base: BaseModel, name: str = "town", *, std: float = 0.3, **config: Any) -> Adapter:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        wanted = {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "task_type": "CAUSAL_LM", **config}
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(7)
            loaded = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
            model = get_peft_model(loaded, LoraConfig(**wanted))
            for place, weight in model.named_parameters():
                if "lora_B" in place:
                    torch.nn.init.normal_(weight, std=std)
                if "magnitude" in place:
                    weight.data *= 1 + 0.2 * torch.rand_like(weight)
            model.peft_config["default"].base_model_name_or_path = base.name
            model.save_pretrained(tmp_path / "adapters" / name, save_embedding_layers=False)
        return Registry(Home(tmp_path)).adapter(f"adapters/{name}")

    return make


def random_model(folder: Path, kind: str, **changes: Any) -> BaseModel:
    """A random model of that architecture in ``folder``: two layers, heads of 16 shared in pairs, ChatML, float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer()
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    numbers = {
        "vocab_size": len(tokenizer) + 5,  # more rows than tokens, as padded models have
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "eos_token_id": stop,
        "bos_token_id": None,
        "pad_token_id": None,
        **changes,
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **numbers))
        for name, weight in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # zeros and ones would hide where they go
                torch.nn.init.uniform_(weight.data, 0.5, 1.5)
        with torch.no_grad():
            model.get_output_embeddings().weight[len(tokenizer) :] = 0  # rows without a token are never said
    # llama.cpp takes both of them for an end, whatever the model says
    model.generation_config.eos_token_id = [stop, tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return BaseModel(folder.name, folder, kind, 0, 512)


def change_json(file: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
