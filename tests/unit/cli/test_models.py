"""Bringing base models in and taking adapters out."""

import json
import warnings
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Invoke, error_of


def make_base(folder: Path, *, weights: str = "model.safetensors") -> Path:
    """A folder that looks like a model; nothing reads the weights."""
    folder.mkdir(parents=True)
    config = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 128}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / weights).write_bytes(b"weights")
    return folder


def make_adapter(folder: Path, base: str = "tunesmith-small") -> Path:
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_list_gives_bases_and_adapters(tunesmith: Invoke, home: Path) -> None:
    make_adapter(home / "adapters" / "town")
    result = tunesmith("models", "list", "--json")
    found = json.loads(result.stdout)
    assert [base["name"] for base in found["bases"]] == ["tunesmith-small"]
    assert [adapter["name"] for adapter in found["adapters"]] == ["adapters/town"]
    assert "adapters/town" in tunesmith("models", "list").stdout


def test_an_added_model_is_listed_and_holds_no_code(tunesmith: Invoke, home: Path, tmp_path: Path) -> None:
    source = make_base(tmp_path / "given")
    (source / "modeling_evil.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    result = tunesmith("models", "add", "mine", str(source), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["name"] == "mine"
    copied = {file.name for file in (home / "models" / "mine").iterdir()}
    assert copied == {"config.json", "tokenizer.json", "model.safetensors"}
    listed = json.loads(tunesmith("models", "list", "--json").stdout)["bases"]
    assert "mine" in [base["name"] for base in listed]


@pytest.mark.parametrize("name", ["mine", "tunesmith-small"])
def test_a_name_that_is_taken_is_refused(tunesmith: Invoke, tmp_path: Path, name: str) -> None:
    source = make_base(tmp_path / "given")
    tunesmith("models", "add", "mine", str(source))
    assert error_of(tunesmith("models", "add", name, str(source), "--json"))["kind"] == "conflict"


@pytest.mark.parametrize("name", ["../outside", "/abs", "a/b/c", ".hidden", ""])
def test_a_name_that_leaves_the_models_folder_is_refused(tunesmith: Invoke, tmp_path: Path, name: str) -> None:
    source = make_base(tmp_path / "given")
    assert error_of(tunesmith("models", "add", name, str(source), "--json"))["kind"] == "invalid"


def test_a_model_without_safetensors_is_refused_and_leaves_nothing(
    tunesmith: Invoke, home: Path, tmp_path: Path
) -> None:
    source = make_base(tmp_path / "given", weights="pytorch_model.bin")
    error = error_of(tunesmith("models", "add", "mine", str(source), "--json"))
    assert "safetensors" in error["message"]
    assert not (home / "models").exists()


def test_a_model_that_asks_for_its_own_code_is_refused(tunesmith: Invoke, tmp_path: Path) -> None:
    source = make_base(tmp_path / "given")
    (source / "config.json").write_text(json.dumps({"model_type": "qwen2", "trust_remote_code": True}))
    assert error_of(tunesmith("models", "add", "mine", str(source), "--json"))["kind"] == "invalid"


def test_a_folder_that_is_not_there_is_named(tunesmith: Invoke) -> None:
    error = error_of(tunesmith("models", "add", "mine", "/no/such/folder", "--json"))
    assert error["kind"] == "not_found"
    assert "/no/such/folder" in error["message"]


def test_an_exported_adapter_is_the_same_files(tunesmith: Invoke, home: Path, tmp_path: Path) -> None:
    made = make_adapter(home / "adapters" / "town")
    out = tmp_path / "deep" / "out"
    result = tunesmith("models", "export", "adapters/town", str(out), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["folder"] == str(out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        file.name: file.read_bytes() for file in made.iterdir()
    }


def test_export_replaces_nothing(tunesmith: Invoke, home: Path, tmp_path: Path) -> None:
    make_adapter(home / "adapters" / "town")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    error = error_of(tunesmith("models", "export", "adapters/town", str(tmp_path / "out"), "--json"))
    assert error["kind"] == "conflict"
    assert (tmp_path / "out" / "precious").read_text() == "mine"


def test_an_unknown_adapter_is_not_found(tunesmith: Invoke, tmp_path: Path) -> None:
    assert error_of(tunesmith("models", "export", "adapters/no", str(tmp_path / "x"), "--json"))["kind"] == "not_found"


def test_a_merged_model_says_what_base_and_adapter_say(tunesmith: Invoke, home: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tests.tiny_model import make_tiny_adapter, make_tiny_base

    torch.set_num_threads(1)
    base = make_tiny_base(home / "models" / "tiny")
    adapter = make_tiny_adapter(base, home / "adapters" / "town", seed=3)
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": "tiny"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))

    result = tunesmith("models", "export", "town", str(tmp_path / "out"), "--merged", "--json")

    assert result.exit_code == 0, result.output
    tokens = torch.tensor([[5, 17, 40, 300, 8]])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        bare = AutoModelForCausalLM.from_pretrained(base)(tokens).logits
        worn = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)(tokens).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(tokens).logits
    assert not torch.allclose(bare, worn, atol=1e-2)
    torch.testing.assert_close(merged, worn, atol=1e-3, rtol=1e-3)
    assert (tmp_path / "out" / "tokenizer.json").is_file()
