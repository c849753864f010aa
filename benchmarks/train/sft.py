"""TRL's side, in a virtual environment of its own: ``SFTTrainer`` with PEFT, timed step by step. No Tunesmith here."""

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    """Train as the job on the command line says; the last line printed is the result."""
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    warnings.filterwarnings("ignore")
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    until = time.monotonic() + job["budget_s"]
    seconds: list[float] = []
    tokens: list[int] = []
    padded: list[int] = []
    learned: list[int] = []
    losses: list[float] = []

    class Counting(SFTTrainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *more: Any, **options: Any) -> Any:
            mask = inputs.get("attention_mask")
            ids = inputs["input_ids"]
            tokens[-1] += int(ids.numel() if mask is None else mask.sum())
            padded[-1] += int(ids.numel())
            learned[-1] += int((inputs["labels"] != -100).sum())
            return super().training_step(model, inputs, *more, **options)

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            for column in (tokens, padded, learned):
                column.append(0)
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seconds.append(time.perf_counter() - self.began)
            if len(seconds) >= 2 and time.monotonic() > until:
                control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                losses.append(float(logs["loss"]))

    data = load_dataset("json", data_files=job["data"], split="train")
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_length": 1024, "seed": job.get("seed", 42), **job["settings"]}
        config = SFTConfig(
            output_dir=folder, max_steps=job["steps"] + 1, report_to=[], save_strategy="no", logging_steps=1,
            disable_tqdm=True, use_cpu=not torch.cuda.is_available(), **options,
        )  # fmt: skip
        lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
        trainer = Counting(
            model=job["model"], args=config, train_dataset=data, peft_config=lora, callbacks=[Clock()],
            processing_class=AutoTokenizer.from_pretrained(job["model"]),
        )  # fmt: skip
        model = trainer.model
        trainer.train()
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))
    base = next(weight for weight in model.parameters() if not weight.requires_grad)
    result = {
        "seconds": seconds,
        "tokens": tokens,
        "padded": padded,
        "learned": learned,
        "losses": losses,
        "peak_bytes": peak,
        "computes_in": f"{base.dtype}" + (" under bf16 autocast" if config.bf16 else ""),
    }
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
