"""Tokens a second of the built-in engine beside transformers and PEFT, on one model, in one run.

    python benchmarks/engine_generate.py [--tokens 64] [--hidden 640] [--layers 12]

A Qwen2 model of random weights (about 60 million by default, float32) that never ends by itself answers greedily.
Ours is asked as the server asks it: a process of its own, the OpenAI wire, one stream a row. The peers get the same
prompts as one padded batch in this process: ``generate`` for base rows; for base and LoRA rows together PEFT's
``adapter_names``, the only mixed batch a user of these libraries has. Same threads for all; the best of three counts.
"""

import argparse
import asyncio
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tiny_model import make_tiny_adapter, tiny_tokenizer

from tunesmith.datasets.example import Message
from tunesmith.inference.engine import Delta, Request, Sampling
from tunesmith.inference.supervisor import Supervisor
from tunesmith.kernel.home import Home
from tunesmith.models.model import Model
from tunesmith.models.registry import Registry
from tunesmith.settings import Settings

RUNS = 3
ROWS = (1, 8, 32)
BASE, ADAPTER = "bench", "adapters/bench"


def make_model(home: Path, hidden: int, layers: int) -> None:
    """A base model under ``home`` whose end tokens are never the likeliest, and an adapter for it."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    tokenizer = tiny_tokenizer()
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    config = Qwen2Config(
        vocab_size=8192,
        hidden_size=hidden,
        intermediate_size=hidden * 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ends[0],
        pad_token_id=ends[1],
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[ends] = 0
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[1])
    folder = home / "models" / BASE
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    make_tiny_adapter(folder, home / ADAPTER, seed=1, rank=8)


def prompts(rows: int) -> list[str]:
    return [f"question {row}: " + "what is the capital of the town? " * (3 + row % 4) for row in range(rows)]


async def ours(home: Path, tokens: int) -> dict[tuple[str, int], float]:
    """Tokens a second by (kind, rows)."""
    settings = Settings.read({}, home=home)
    engine = Supervisor(Registry(Home(home)), Home(home), settings)
    sampling = Sampling(max_new_tokens=tokens, temperature=0, top_p=1, top_k=0, repetition_penalty=1)
    found: dict[tuple[str, int], float] = {}

    async def ask(kind: str, rows: int) -> tuple[float, int]:
        requests = []
        for prompt in prompts(rows):
            adapters = {"base": (None,), "mixed": (None, ADAPTER)}[kind]
            requests += [Request((Message("user", prompt),), Model(BASE, adapter), sampling) for adapter in adapters]
        began, count = time.perf_counter(), 0
        async for event in engine.generate(requests):
            if not isinstance(event, Delta):
                count += event.completion_tokens
        return time.perf_counter() - began, count

    try:
        for kind in ("base", "mixed"):
            await ask(kind, 2)
            for rows in ROWS:
                runs = [await ask(kind, rows) for _ in range(RUNS)]
                found[kind, rows] = max(count / seconds for seconds, count in runs)
    finally:
        await engine.close()
    return found


def peers(home: Path, tokens: int) -> dict[tuple[str, int], float]:
    """The same for transformers (base rows) and PEFT (base and LoRA rows in one batch)."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(os.cpu_count() or 1)
    folder = home / "models" / BASE
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found: dict[tuple[str, int], float] = {}

    def measure(kind: str, model: Any, texts: Callable[[int], list[str]], **options: Callable[[int], Any]) -> None:
        for rows in (2, *ROWS):
            chats = [[{"role": "user", "content": text}] for text in texts(rows)]
            ids = tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, return_tensors="pt", padding=True, return_dict=True
            )
            more = {name: value(rows) for name, value in options.items()}
            best = 0.0
            for _ in range(RUNS):
                began = time.perf_counter()
                with torch.inference_mode():
                    out = model.generate(**ids, max_new_tokens=tokens, do_sample=False, **more)
                made = (out.shape[1] - ids["input_ids"].shape[1]) * out.shape[0]
                best = max(best, made / (time.perf_counter() - began))
            found[kind, rows] = best

    measure("base", model, prompts)
    tuned = PeftModel.from_pretrained(model, home / ADAPTER).eval()
    measure(
        "mixed",
        tuned,
        lambda rows: [text for text in prompts(rows) for _ in range(2)],
        adapter_names=lambda rows: ["__base__", "default"] * rows,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=640)
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make_model(home, options.hidden, options.layers)
        print(f"load average before: {os.getloadavg()[0]:.2f}")
        mine = asyncio.run(ours(home, options.tokens))
        theirs = peers(home, options.tokens)
    print(f"{'rows':>12} {'ours tok/s':>12} {'peer tok/s':>12} {'ratio':>7}  peer")
    for (kind, rows), speed in mine.items():
        label = f"{rows}" if kind == "base" else f"{rows}+{rows}"
        peer = "transformers generate" if kind == "base" else "PEFT adapter_names"
        print(f"{label:>12} {speed:>12.0f} {theirs[kind, rows]:>12.0f} {speed / theirs[kind, rows]:>7.2f}  {peer}")


if __name__ == "__main__":
    main()
