"""The model that ships keeps its promises of size and safety."""

from pathlib import Path

from safetensors import safe_open

from tunesmith.models import registry

FOLDER = Path(registry.__file__).parent / "shipped" / registry.SHIPPED


def test_it_is_small_safe_and_documented() -> None:
    files = {file.name: file.stat().st_size for file in FOLDER.iterdir()}
    assert sum(files.values()) < 12_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl", ".py"))]


def test_it_has_two_to_six_million_weights_in_bfloat16() -> None:
    with safe_open(FOLDER / "model.safetensors", framework="pt") as weights:
        shapes = [weights.get_slice(name) for name in weights.keys()]  # noqa: SIM118 (not a mapping)
        assert {each.get_dtype() for each in shapes} == {"BF16"}
        count = 0
        for each in shapes:
            size = 1
            for side in each.get_shape():
                size *= side
            count += size
    assert 2_000_000 <= count <= 6_000_000
