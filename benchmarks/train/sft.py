"""TRL's side, in a virtual environment of its own: ``SFTTrainer`` with PEFT, timed step by step. No Tunesmith here."""

import json
import sys
import tempfile
import warnings

from steps import Steps

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    """Train as the job on the command line says; the last line printed is the result."""
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    warnings.filterwarnings("ignore")
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    steps = Steps(job["budget_s"])
    data = load_dataset("json", data_files=job["data"], split="train")
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_length": 1024, "seed": job.get("seed", 42), **job["settings"]}
        config = SFTConfig(
            output_dir=folder, max_steps=job["steps"] + 1, report_to=[], save_strategy="no", logging_steps=1,
            disable_tqdm=True, use_cpu=not torch.cuda.is_available(), **options,
        )  # fmt: skip
        lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
        trainer = steps.counting(SFTTrainer)(
            model=job["model"], args=config, train_dataset=data, peft_config=lora, callbacks=[steps.clock()],
            processing_class=AutoTokenizer.from_pretrained(job["model"]),
        )  # fmt: skip
        model = trainer.model
        trainer.train()
    steps.tell(model, " under bf16 autocast" if config.bf16 else "")


if __name__ == "__main__":
    main()
