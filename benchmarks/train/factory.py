"""LLaMA-Factory's side, in a virtual environment of its own: its SFT workflow, timed step by step. No Tunesmith here."""

import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from steps import Steps


def main() -> None:
    """Train as the job on the command line says; the last line printed is the result."""
    import torch

    workflow, run_exp = _factory()
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    steps = Steps(job["budget_s"])
    settings = dict(job["settings"])
    trainers: list[Any] = []

    class Kept(steps.counting(workflow.CustomSeq2SeqTrainer)):  # type: ignore[misc]
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            trainers.append(self)

    workflow.CustomSeq2SeqTrainer = Kept
    with tempfile.TemporaryDirectory() as folder:
        dtype = settings.pop("dtype", None)
        model = _labelled(Path(job["model"]), Path(folder) / "model", dtype) if dtype else job["model"]
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        columns = {"messages": "messages"}
        info = {"chats": {"file_name": job["data"], "formatting": "sharegpt", "columns": columns, "tags": tags}}
        (Path(folder) / "dataset_info.json").write_text(json.dumps(info))
        run_exp(
            {
                "model_name_or_path": str(model), "stage": "sft", "do_train": True, "finetuning_type": "lora",
                "lora_rank": 16, "lora_target": "all", "dataset": "chats", "dataset_dir": folder, "cutoff_len": 1024,
                # no template of its own is named: it reads the model's, and the chats become the same tokens
                "output_dir": f"{folder}/out", "max_steps": job["steps"] + 1, "logging_steps": 1,
                "save_strategy": "no", "report_to": "none", "disable_tqdm": True, **settings,
            },
            callbacks=[steps.clock()],
        )  # fmt: skip
    steps.tell(trainers[0].model, " under bf16 autocast" if trainers[0].args.bf16 else "")


def _labelled(model: Path, folder: Path, dtype: str) -> Path:
    """The same model, said to be of another format: whatever it is told, LLaMA-Factory trains in the checkpoint's own."""
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).symlink_to(path)
    config = json.loads((model / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "dtype": dtype}))
    return folder


def _factory() -> tuple[Any, Any]:
    """Its SFT workflow and what runs it.

    It imports torchaudio, which its environment is without (``peers.py`` says why): while it does, an empty module has
    that name. Nothing of it is asked for; the chats have no sound. What transformers finds is found before.
    """
    import transformers  # noqa: F401

    sys.modules["torchaudio"] = ModuleType("torchaudio", "An empty stand-in.")
    from llamafactory.train.sft import workflow
    from llamafactory.train.tuner import run_exp

    del sys.modules["torchaudio"]
    return workflow, run_exp


if __name__ == "__main__":
    main()
