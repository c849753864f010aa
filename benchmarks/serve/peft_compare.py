"""PEFT's side of comparing, in an environment of its own: one process that answers as it is told. No Tunesmith here.

It reads one job a line and prints one result a line. PEFT freezes the weights, and torch's output head is then many
times slower on what transformers hands it for several rows; the copy that avoids it is made here, as its users could.
"""

import json
import sys
import time
import warnings
from contextlib import nullcontext
from typing import Any


def main() -> None:
    """Load the base and the adapters, then answer until the jobs end."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    warnings.filterwarnings("ignore")
    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    tokenizer = AutoTokenizer.from_pretrained(order["model"], padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(order["model"], dtype=getattr(torch, order["dtype"]))
    names = [f"a{number}" for number in range(1, len(order["adapters"]) + 1)]
    model = PeftModel.from_pretrained(model, order["adapters"][0], adapter_name=names[0])
    for name, folder in zip(names[1:], order["adapters"][1:], strict=True):
        model.load_adapter(folder, adapter_name=name)
    model.eval()
    model.get_output_embeddings().register_forward_pre_hook(lambda layer, inputs: (inputs[0].contiguous(),))
    print("RESULT true", flush=True)

    def answer(prompt: str, wanted: list[int], most: int) -> float:
        """Seconds for the answers of ``wanted``: 0 is the base, n the n-th adapter; several are one batch."""
        chats = [[{"role": "user", "content": prompt}]] * len(wanted)
        inputs = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        more: dict[str, Any] = {}
        if len(wanted) > 1:
            more["adapter_names"] = [names[each - 1] if each else "__base__" for each in wanted]
        elif wanted[0]:
            model.set_adapter(names[wanted[0] - 1])
        off = model.disable_adapter() if wanted == [0] else nullcontext()
        began = time.perf_counter()
        with torch.inference_mode(), off:
            said = model.generate(**inputs, max_new_tokens=most, do_sample=False, **more)
        took = time.perf_counter() - began
        made = said.shape[1] - inputs["input_ids"].shape[1]
        if made != most:
            raise SystemExit(f"{made} tokens, not {most}")
        return took

    for line in sys.stdin:
        job = json.loads(line)
        print("RESULT " + json.dumps(answer(job["prompt"], job["wanted"], job["most"])), flush=True)


if __name__ == "__main__":
    main()
