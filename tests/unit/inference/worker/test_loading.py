"""A broken base model is refused plainly, in both languages, and before it takes the machine's memory."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tunesmith.inference.worker.loading import faults_of_the_model
from tunesmith.inference.worker.model import LanguageModel
from tunesmith.kernel.problems import Invalid, Problem, Unavailable


def broken(base: Path, folder: Path, **config: Any) -> Path:
    shutil.copytree(base, folder)
    found = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(found | config))
    return folder


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"num_hidden_layers": 10**7}, "num_hidden_layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"hidden_size": 10**6}, "hidden_size"),
        ({"vocab_size": 10**8}, "vocab_size"),
        ({"text_config": {"vocab_size": 10**8}}, "vocab_size"),
        ({"num_hidden_layers": 1000, "hidden_size": 65536, "layer_types": None}, "weights do not fit"),
        ({"num_hidden_layers": 3, "layer_types": None}, "weights do not fit"),
        ({"hidden_size": 128}, "weights do not fit"),
        ({"num_attention_heads": 7}, "weights do not fit"),
        ({"dtype": "banana"}, "banana"),
        ({"hidden_act": "zz"}, "zz"),
        ({"rms_norm_eps": "a"}, "rms_norm_eps"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"intermediate_size": -3}, "intermediate_size"),
        ({"num_key_value_heads": 0}, "config.json"),
        ({"model_type": "evil"}, "evil"),
    ],
)
def test_a_config_that_cannot_be_is_the_models_fault(
    base: Path, tmp_path: Path, config: dict[str, Any], names: str
) -> None:
    with pytest.raises(Invalid) as refused:
        LanguageModel(broken(base, tmp_path / "model", **config), cache_bytes=1 << 26)
    assert names in refused.value.en
    for message in (refused.value.en, refused.value.zh):
        assert "\n" not in message
        assert "ignore_mismatched" not in message
        assert len(message) < 300
    assert "基础模型无法加载" in refused.value.zh


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("harm", ["missing", "cut", "noise"])
def test_a_missing_or_damaged_file_is_the_models_fault(base: Path, tmp_path: Path, name: str, harm: str) -> None:
    path = broken(base, tmp_path / "model") / name
    data = path.read_bytes()
    path.unlink()
    if harm != "missing":
        path.write_bytes(data[: len(data) // 2] if harm == "cut" else b"\xff" * 1_000_000)
    with pytest.raises(Invalid) as refused:
        LanguageModel(path.parent, cache_bytes=1 << 26)
    assert "\n" not in refused.value.en
    assert any("\u4e00" <= letter <= "\u9fff" for letter in refused.value.zh.removeprefix("基础模型无法加载："))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), Unavailable),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Unavailable),
        (OSError(5, "Input/output error"), Unavailable),
        (OSError("no file named model.safetensors"), Invalid),
        (ZeroDivisionError("division by zero"), Invalid),
    ],
)
def test_what_the_machine_lacks_is_not_the_models_fault(error: Exception, kind: type[Problem]) -> None:
    with pytest.raises(kind), faults_of_the_model():
        raise error
