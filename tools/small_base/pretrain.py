"""Pretrain the small model from nothing on one processor core.

``python -m tools.small_base.pretrain --out build/small-1 --steps 3000``
``python -m tools.small_base.pretrain --out build/small-2 --steps 900 --rate 1.5e-3 --seed 2 --finish build/small-1``
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tools.small_base import tokenizer as chatml
from tools.small_base.corpus import Chat, Mix, Stream
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

CONTEXT = 1024
IGNORED = -100
# (share of steps, tokens a row): rows of 0 tokens hold one chat each, the others several unrelated chats,
# so that all positions are trained and earlier turns do not disturb later ones.
LAYOUTS = ((0.60, 0), (0.30, 256), (0.10, CONTEXT))
CHATS_PER_STEP = 64
TOKENS_PER_STEP = 2560

Row = tuple[list[int], list[int]]


def config(vocabulary: int, end: int, pad: int) -> Qwen2Config:
    """The shape of the model: about four million parameters."""
    return Qwen2Config(
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=704,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        rope_theta=10_000.0,
    )


class Encoder:
    """Turns chats into token ids and labels; only what the assistant says is a label."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def rows(self, chats: list[Chat]) -> list[Row]:
        """One row per chat."""
        pieces = []
        for chat in chats:
            for role, text in chat:
                pieces += [f"{chatml.START}{role}\n", f"{text}{chatml.END}"]
        encoded = iter(self.tokenizer.encode_batch(pieces))
        newline = self.tokenizer.encode("\n").ids
        rows = []
        for chat in chats:
            ids: list[int] = []
            labels: list[int] = []
            for role, _ in chat:
                head, body = next(encoded).ids, next(encoded).ids
                ids += head + body + newline
                labels += [IGNORED] * len(head)
                labels += (body if role == "assistant" else [IGNORED] * len(body)) + [IGNORED] * len(newline)
            rows.append((ids[:CONTEXT], labels[:CONTEXT]))
        return rows


def _batch(rows: list[Row], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    # Few different widths: every new shape costs memory for prepared kernels.
    width = -(-max(len(ids) for ids, _ in rows) // 16) * 16
    ids = torch.tensor([row + [pad] * (width - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [IGNORED] * (width - len(row)) for _, row in rows])
    return ids, labels


def batches(stream: Stream, encoder: Encoder, pad: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches in the layouts above."""
    rng = random.Random(seed)
    chats = iter(stream)
    single: list[list[Row]] = []
    spare: list[Row] = []
    while True:
        width = rng.choices([row for _, row in LAYOUTS], [share for share, _ in LAYOUTS])[0]
        if width == 0:
            if not single:
                rows = encoder.rows(list(itertools.islice(chats, CHATS_PER_STEP * 8)))
                # Rows of like length together waste little on padding.
                rows.sort(key=lambda row: len(row[0]))
                single = [rows[start : start + CHATS_PER_STEP] for start in range(0, len(rows), CHATS_PER_STEP)]
                rng.shuffle(single)
            yield _batch(single.pop(), pad)
            continue
        packed: list[Row] = []
        while len(packed) < TOKENS_PER_STEP // width:
            ids: list[int] = []
            labels: list[int] = []
            while len(ids) < width:
                if not spare:
                    spare = encoder.rows(list(itertools.islice(chats, 256)))
                more, more_labels = spare.pop()
                ids, labels = ids + more, labels + more_labels
            packed.append((ids[:width], labels[:width]))
        yield _batch(packed, pad)


def _loss(model: Qwen2ForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
        target = labels[:, 1:]
        scored = target != IGNORED
        logits = model.lm_head(hidden[scored])
    return F.cross_entropy(logits.float(), target[scored])


def pretrain(
    out: Path, steps: int, rate: float, seed: int, mix: Mix | None = None, start: Path | None = None
) -> Qwen2ForCausalLM:
    """Train for ``steps`` steps and write the model folder; from the weights in ``start`` if given."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = chatml.train()
    chatml.save(tokenizer, out)
    pad, end = tokenizer.token_to_id(chatml.PAD), tokenizer.token_to_id(chatml.END)
    if start is None:
        model = Qwen2ForCausalLM(config(tokenizer.get_vocab_size(), end, pad))
    else:
        model = Qwen2ForCausalLM.from_pretrained(start, dtype=torch.float32)
    decayed = [value for value in model.parameters() if value.ndim > 1]
    plain = [value for value in model.parameters() if value.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    stream = batches(Stream(mix, seed), Encoder(tokenizer), pad, seed)
    model.train()
    started, mean, seen = time.monotonic(), 0.0, 0
    for step in range(steps):
        warm = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        ids, labels = next(stream)
        loss = _loss(model, ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen += ids.numel()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 99 or step == steps - 1:
            print(
                f"step {step + 1} loss {mean:.4f} tokens {seen} seconds {time.monotonic() - started:.0f} "
                f"cpu {time.process_time():.0f}",
                flush=True,
            )
        if step % 500 == 499:
            write(model, out)
    write(model, out)
    return model


def write(model: Qwen2ForCausalLM, out: Path) -> None:
    """Write weights in bfloat16 and the two configuration files."""
    end, pad = model.config.eos_token_id, model.config.pad_token_id
    copy = Qwen2ForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16)
    copy.generation_config = GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=pad, max_new_tokens=128)
    copy.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--finish", type=Path, help="go on from this model folder with the mix of the last stage")
    args = parser.parse_args()
    mix = Mix(finish=args.finish is not None)
    model = pretrain(args.out, args.steps, args.rate, args.seed, mix, args.finish)
    print(json.dumps({"parameters": sum(value.numel() for value in model.parameters())}))


if __name__ == "__main__":
    main()
