"""LLaMA-Factory's side, in a virtual environment of its own, where it can be imported at all. No Tunesmith here."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Train as the job on the command line says; the last line printed is the result."""
    from llamafactory.train.tuner import run_exp
    from transformers import TrainerCallback

    job = json.loads(sys.argv[1])
    seconds: list[float] = []
    seen: list[int] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seconds.append(time.perf_counter() - self.began)
            seen.append(int(state.num_input_tokens_seen))

    data = Path(job["data"])
    with tempfile.TemporaryDirectory() as folder:
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
        columns = {"messages": "messages"}
        info = {"chats": {"file_name": str(data), "formatting": "sharegpt", "columns": columns, "tags": tags}}
        (Path(folder) / "dataset_info.json").write_text(json.dumps(info))
        run_exp(
            {
                "model_name_or_path": job["model"], "stage": "sft", "do_train": True, "finetuning_type": "lora",
                "lora_rank": 16, "lora_alpha": 32, "lora_target": "all", "dataset": "chats", "dataset_dir": folder,
                "template": "qwen", "cutoff_len": 1024, "output_dir": f"{folder}/out", "max_steps": job["steps"] + 1,
                "save_strategy": "no", "report_to": "none", "include_num_input_tokens_seen": "non_padding",
                "overwrite_output_dir": True, **job["settings"],
            },
            callbacks=[Clock()],
        )  # fmt: skip
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))
    tokens = [after - before for before, after in zip([0, *seen], seen, strict=False)]
    print("RESULT " + json.dumps({"seconds": seconds, "tokens": tokens, "learned": [], "losses": [],
                                  "peak_bytes": peak, "computes_in": "its defaults"}))  # fmt: skip


if __name__ == "__main__":
    main()
