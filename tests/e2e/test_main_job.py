"""What a newcomer runs first, and what must be true of what it leaves behind."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.server import serving
from tunesmith.models.registry import SHIPPED, Registry

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # peft's and transformers' own, in the plain PEFT check
]


@dataclass(frozen=True)
class Demo:
    home: Path
    report: dict[str, Any]
    said: str


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    home = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "tunesmith.cli", "demo", "--home", str(home), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TUNESMITH_LANG": "en"})
    assert done.returncode == 0, done.stderr
    return Demo(home, json.loads(done.stdout.strip().splitlines()[-1]), done.stderr)


def test_the_demo_learns_the_facts_in_phrasings_it_was_never_trained_on(demo: Demo) -> None:
    assert demo.report["questions"] >= 100
    assert demo.report["base"]["exact_match"] <= 0.1
    assert demo.report["tuned"]["exact_match"] >= 0.9
    assert demo.report["tuned"]["perplexity"] < demo.report["base"]["perplexity"]


def test_the_demo_keeps_what_the_base_knew(demo: Demo) -> None:
    assert demo.report["control_questions"] >= 100
    assert demo.report["control"]["drop"] <= 0.15


def test_the_demo_reports_what_the_contract_names(demo: Demo) -> None:
    assert {"base_model", "adapter", "run_id", "base", "tuned", "train_seconds"} <= set(demo.report)
    assert demo.report["base_model"] == SHIPPED
    assert (demo.home / demo.report["adapter"] / "adapter_model.safetensors").is_file()
    picture = Path(demo.report["loss_png"])
    assert (picture if picture.is_absolute() else demo.home / picture).read_bytes().startswith(b"\x89PNG")
    assert len(demo.report["examples"]) == 5


def test_the_adapter_gives_the_same_greedy_tokens_in_plain_peft(demo: Demo) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tunesmith.kernel.home import Home

    folder = Registry(Home(demo.home)).base(SHIPPED).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, demo.home / demo.report["adapter"])
    changed = 0
    with serving(demo.home) as server:
        for example in demo.report["examples"]:
            messages = [{"role": "user", "content": example["question"]}]
            ids = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            whole = tuned.generate(**ids, max_new_tokens=48, do_sample=False)
            expected = tokenizer.decode(whole[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
            body = {"messages": messages, "options": {"temperature": 0, "repeat_penalty": 1.0, "num_predict": 48}}
            answer = server.post("/ai/finetuning/chat", body).json()
            assert answer["lora"] == expected
            changed += answer["base"] != answer["lora"]
    assert changed >= len(demo.report["examples"]) - 1  # one in a hundred is still answered as before


def test_a_second_demo_in_the_same_home_stands_beside_the_first(demo: Demo) -> None:
    adapters = {adapter.name for adapter in Registry(_home(demo)).adapters()}
    assert demo.report["adapter"] in adapters


def _home(demo: Demo) -> Any:
    from tunesmith.kernel.home import Home

    return Home(demo.home)
