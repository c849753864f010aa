import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Forbidden, Invalid, NotFound, Problem
from tunesmith.models.model import Model, model_id
from tunesmith.models.registry import SHIPPED, Registry


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def base(home: Home, name: str, **config: Any) -> Path:
    folder = home.root / "models" / name
    folder.mkdir(parents=True)
    whole = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 512, **config}
    (folder / "config.json").write_text(json.dumps(whole))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def adapter(home: Home, name: str, *, on: str, **config: Any) -> Path:
    folder = home.root / name
    folder.mkdir(parents=True)
    whole = {"peft_type": "LORA", "base_model_name_or_path": on, "r": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(whole))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_the_shipped_model_is_always_there(home: Home) -> None:
    found = Registry(home).base(SHIPPED)
    assert found.architecture == "Qwen2ForCausalLM" and found.size_bytes < 12_000_000
    assert Registry(home).bases()[0].name == SHIPPED


def test_models_under_home_answer_with_and_without_the_folders_name(home: Home) -> None:
    base(home, "Qwen/Qwen2-7B-Instruct")
    registry = Registry(home)
    assert registry.base("Qwen/Qwen2-7B-Instruct") == registry.base("models/Qwen/Qwen2-7B-Instruct")
    assert [each.name for each in registry.bases()] == [SHIPPED, "Qwen/Qwen2-7B-Instruct"]


def test_the_hugging_face_cache_is_read(home: Home, tmp_path: Path) -> None:
    commit = "a" * 40
    snapshot = base(home, "elsewhere")
    cached = tmp_path / "hf" / "hub" / "models--Org--Name"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots").mkdir()
    snapshot.rename(cached / "snapshots" / commit)
    assert Registry(home, tmp_path / "hf").base("Org/Name").context_length == 512
    (cached / "refs" / "main").write_text("../../../..")
    with pytest.raises(NotFound):
        Registry(home, tmp_path / "hf").base("Org/Name")


@pytest.mark.parametrize(
    "name", ["", "/etc", "../x", "a/../../x", "C:\\x", "a\0b", "models/../../x", "%2e%2e/x", "x" * 5000]
)
def test_a_base_name_that_is_no_name_is_invalid(home: Home, name: str) -> None:
    with pytest.raises(Invalid):
        Registry(home).base(name)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "x\nimport os"},
        {"model_type": None},
        {"trust_remote_code": True},
        {"text_config": {"trust_remote_code": True}},
        {"_attn_implementation_internal": "x"},
    ],
)
def test_a_config_that_could_run_code_is_refused_and_not_listed(home: Home, config: dict[str, Any]) -> None:
    base(home, "evil", **config)
    with pytest.raises(Invalid):
        Registry(home).base("evil")
    assert [each.name for each in Registry(home).bases()] == [SHIPPED]


def test_pickled_weights_are_refused(home: Home) -> None:
    folder = base(home, "old")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Invalid, match="safetensors"):
        Registry(home).base("old")


def test_an_index_that_climbs_out_of_its_folder_is_refused(home: Home) -> None:
    folder = base(home, "sharded")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(Invalid, match="outside"):
        Registry(home).base("sharded")


def test_a_config_nested_a_million_deep_is_one_clear_error(home: Home) -> None:
    folder = base(home, "deep")
    (folder / "config.json").write_text("[" * 1_000_000)
    with pytest.raises(Invalid, match="cannot be read"):
        Registry(home).base("deep")


def test_adapters_are_found_anywhere_under_home_but_not_in_work_folders_or_half_written(home: Home) -> None:
    adapter(home, "adapters/town", on=SHIPPED)
    adapter(home, "models/checkpoints/task1", on=SHIPPED)
    adapter(home, "runs/1/adapter", on=SHIPPED)
    adapter(home, "adapters/.partial-1-x", on=SHIPPED)
    (adapter(home, "adapters/half", on=SHIPPED) / "adapter_model.safetensors").unlink()
    assert {each.name for each in Registry(home).adapters()} == {"adapters/town", "models/checkpoints/task1"}
    assert Registry(home).adapter("town").name == "adapters/town"
    with pytest.raises(NotFound):
        Registry(home).adapter("adapters/half")


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "IA3"},
        {"r": 10**9},
        {"r": 0},
        {"r": "8"},
        {"auto_mapping": {"x": "y"}},
        {"base_model_name_or_path": None},
    ],
)
def test_an_adapter_that_is_no_lora_is_refused(home: Home, config: dict[str, Any]) -> None:
    adapter(home, "adapters/odd", on=SHIPPED, **config)
    with pytest.raises(Problem):
        Registry(home).adapter("adapters/odd")


def test_an_adapter_behind_a_symbolic_link_is_refused(home: Home, tmp_path: Path) -> None:
    adapter(home, "adapters/town", on=SHIPPED)
    (home.root / "adapters" / "link").symlink_to(home.root / "adapters" / "town")
    with pytest.raises(Forbidden):
        Registry(home).adapter("adapters/link")


def test_an_adapter_of_another_base_is_a_conflict(home: Home) -> None:
    base(home, "other")
    adapter(home, "adapters/town", on=SHIPPED)
    registry = Registry(home)
    registry.check(Model(SHIPPED, "adapters/town"))
    with pytest.raises(Conflict, match="trained on tunesmith-small"):
        registry.check(Model("other", "adapters/town"))


def test_a_replaced_adapter_has_another_version(home: Home) -> None:
    folder = adapter(home, "adapters/town", on=SHIPPED)
    before = Registry(home).adapter("adapters/town").version
    folder.rename(home.root / "old")
    adapter(home, "adapters/town", on=SHIPPED)
    assert Registry(home).adapter("adapters/town").version != before


def test_an_id_is_safe_in_a_url_and_always_the_same_for_a_name() -> None:
    assert model_id(SHIPPED) == "model_e7d0eb2500cb"
    names = ["adapters/town", "adapters/Town", "模型", "Qwen/Qwen2.5-0.5B-Instruct", "\ud800", ""]
    ids = {model_id(name) for name in names}
    assert len(ids) == len(names) and all(re.fullmatch("model_[0-9a-f]{12}", each) for each in ids)


def test_adapters_and_bases_are_found_by_id(home: Home) -> None:
    base(home, "other")
    adapter(home, "models/checkpoints/town/final", on="other")
    registry = Registry(home)
    for found in (*registry.adapters(), *registry.bases()):
        assert registry.with_id(model_id(found.name)) == found
    assert registry.with_id(model_id("models/checkpoints/town/final")).name == "models/checkpoints/town/final"


@pytest.mark.parametrize("wanted", ["", "model_", "model_000000000000", "../../etc/passwd", "\x1b[31m", "x" * 10_000])
def test_an_id_of_no_model_is_not_found(home: Home, wanted: str) -> None:
    with pytest.raises(NotFound) as refused:
        Registry(home).with_id(wanted)
    assert len(refused.value.en) < 100 and "\x1b" not in refused.value.zh


def test_a_name_is_known_where_a_base_or_an_adapter_answers_to_it_usable_or_not(home: Home) -> None:
    base(home, "mine")
    adapter(home, "adapters/town", on=SHIPPED)
    base(home, "evil", trust_remote_code=True)
    registry = Registry(home)
    assert [registry.knows(name) for name in (SHIPPED, "mine", "town", "evil", "prod")] == [True] * 4 + [False]


def test_an_adapter_that_is_removed_while_it_is_read_is_not_there(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = adapter(home, "adapters/v1", on=SHIPPED)
    looked = Path.is_file

    def looked_and_gone(path: Path) -> bool:
        found = looked(path)
        if path.parent == folder:
            shutil.rmtree(folder, ignore_errors=True)
        return found

    monkeypatch.setattr(Path, "is_file", looked_and_gone)
    with pytest.raises(NotFound):
        Registry(home).adapter("adapters/v1")
