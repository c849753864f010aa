"""Exact match of a model folder on question files, and the LoRA recipe that is measured with it.

``python -m tools.small_base.measure --model build/small`` measures the base,
``--lora --seeds 0 1 2 --world 5`` trains adapters as well, on the shipped facts or on a fresh random world.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from tools.small_base import samples as sample_files
from tools.small_base.samples import Pair, Samples, normalised
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A LoRA fine-tuning on all linear layers with replayed general chat."""

    rank: int = 16
    alpha: int = 32
    rate: float = 1e-3
    steps: int = 320
    batch: int = 16
    replay: float = 0.5
    warmup: float = 0.05
    floor: float = 0.05
    decay: float = 0.0
    bf16: bool = True


def _chat(tokenizer: PreTrainedTokenizerBase, pair: Pair) -> tuple[list[int], list[int]]:
    """Token ids and labels of one exchange; only the answer and its end are labels."""
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": pair[0]}], add_generation_prompt=True, tokenize=False
    )
    head = tokenizer.encode(asked, add_special_tokens=False)
    body = tokenizer.encode(pair[1] + tokenizer.eos_token, add_special_tokens=False)
    return head + body, [IGNORED] * len(head) + body


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chats: list[list[Message]], batch: int = 64
) -> list[str]:
    """Greedy answers of at most 48 new tokens."""
    model.eval()
    tokenizer.padding_side = "left"
    found: list[str] = []
    for start in range(0, len(chats), batch):
        asked = [
            tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            for chat in chats[start : start + batch]
        ]
        inputs = tokenizer(
            asked, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False
        )
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=48, do_sample=False)
        found += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return found


def exact_match(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Pair],
    show: int = 0,
    before: list[Message] | None = None,
) -> float:
    """The share of questions answered exactly right after normalisation, each asked after the turns ``before``."""
    got = answers(model, tokenizer, [[*(before or []), {"role": "user", "content": question}] for question, _ in rows])
    wrong = [(row, text) for row, text in zip(rows, got, strict=True) if normalised(row[1]) != normalised(text)]
    for (question, answer), text in wrong[:show]:
        print(f"    {question!r} wanted {answer!r} got {text!r}")
    return 1 - len(wrong) / len(rows)


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in float32 and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def tune(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: Samples, recipe: Recipe, seed: int
) -> tuple[PreTrainedModel, float, float]:
    """Train an adapter; returns the wrapped model, seconds of wall clock and of processor time."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    wrapped = get_peft_model(
        model, LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    weights = [value for value in wrapped.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=recipe.decay)
    learned = [_chat(tokenizer, pair) for pair in data.train]
    kept = [_chat(tokenizer, pair) for pair in data.general]
    replayed = round(recipe.batch * recipe.replay)
    queues: dict[bool, list[tuple[list[int], list[int]]]] = {False: [], True: []}
    wrapped.train()
    wall, processor = time.monotonic(), time.process_time()
    for step in range(recipe.steps):
        warm = min(1.0, (step + 1) / max(1, recipe.steps * recipe.warmup))
        cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * warm * (recipe.floor + (1 - recipe.floor) * cosine)
        rows = []
        for is_replay, count in ((False, recipe.batch - replayed), (True, replayed)):
            for _ in range(count):
                if not queues[is_replay]:
                    queues[is_replay] = list(kept if is_replay else learned)
                    rng.shuffle(queues[is_replay])
                rows.append(queues[is_replay].pop())
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in rows])
        labels = torch.tensor([row + [IGNORED] * (width - len(row)) for _, row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row, _ in rows])
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            logits = wrapped(input_ids=ids, attention_mask=mask).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return wrapped, time.monotonic() - wall, time.process_time() - processor


def surroundings(data: Samples) -> dict[str, list[Message]]:
    """What may stand before a question in a chat, to see whether it disturbs the answer."""

    def talk(pairs: list[Pair]) -> list[Message]:
        return [
            message
            for question, answer in pairs
            for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        ]

    return {
        "system prompt": [{"role": "system", "content": "You are a friendly and patient assistant for a small town."}],
        "one turn": talk(data.general[:1]),
        "four turns": talk(data.general[1:5]),
        "forty turns": talk(data.general[5:45]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--world", type=int, help="seed of a fresh random world instead of the shipped facts")
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print per file")
    parser.add_argument("--set", nargs="*", default=[], help="recipe fields, such as rate=1e-3")
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = sample_files.world() if args.world is None else sample_files.fresh_world(args.world)
    data = sample_files.build(made)
    recipe = Recipe()
    for item in args.set:
        key, value = item.split("=")
        recipe = replace(recipe, **{key: type(getattr(recipe, key))(float(value))})
    model, tokenizer = load(args.model)
    for name, rows in (("test", data.test), ("control", data.control), ("general", data.general)):
        print(f"base {name} {exact_match(model, tokenizer, rows, args.show):.3f} of {len(rows)}", flush=True)
    for name, before in surroundings(data).items():
        score = exact_match(model, tokenizer, data.control, before=before)
        print(f"base control after {name} {score:.3f}", flush=True)
    if not args.lora:
        return
    print(recipe)
    for seed in args.seeds:
        model, tokenizer = load(args.model)
        tuned, wall, processor = tune(model, tokenizer, data, recipe, seed)
        scores = {
            name: exact_match(tuned, tokenizer, rows, args.show)
            for name, rows in (
                ("train", data.train[:100]),
                ("validation", data.validation),
                ("test", data.test),
                ("control", data.control),
                ("general", data.general[:100]),
            )
        }
        print(
            f"seed {seed} wall {wall:.0f} cpu {processor:.0f} "
            + " ".join(f"{name} {score:.3f}" for name, score in scores.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
