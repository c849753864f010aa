"""The training loop on a tiny real model: it learns, it is exact, it repeats, and its adapter opens with plain PEFT."""

import json
import math
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.training.conftest import encoded
from tunesmith.kernel.home import Home
from tunesmith.kernel.problems import Conflict, Invalid, Unavailable, Unsupported
from tunesmith.training.data.encoding import Encoded, Encoder
from tunesmith.training.data.material import Material
from tunesmith.training.data.tokenizing import load_tokenizer
from tunesmith.training.loop import loading
from tunesmith.training.loop.layout import packed, padded
from tunesmith.training.loop.loading import load_base
from tunesmith.training.loop.lora_modules import linear_modules, with_lora
from tunesmith.training.loop.objective import Surprise
from tunesmith.training.loop.updates import Diverged, Outcome, rate_factor
from tunesmith.training.publishing import publish, require_room
from tunesmith.training.recipe import execute
from tunesmith.training.run import Progress, Recipe
from tunesmith.training.run_folder import Order, Stopped

FACTS = [
    ("Who is the mayor?", "Ada."),
    ("市长是谁？", "小林。"),
    ("What is the river called?", "Lin."),
    ("一加一？", "二。"),
]
RECIPE = Recipe(
    "tiny", "data/a.jsonl", epochs=30, batch_size=4, learning_rate=5e-3, max_length=64, rank=4, alpha=8.0, dropout=0.0
)
CPU = torch.device("cpu")


class Told:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[tuple[Progress, float, float | None]] = []
        self.figures: list[tuple[Mapping[str, float], Mapping[str, float]]] = []

    def step(
        self, progress: Progress, grad_norm: float, validation_loss: float | None, *figures: Mapping[str, float]
    ) -> int:
        self.steps.append((progress, grad_norm, validation_loss))
        self.figures.append((figures[0], figures[1]))
        return 0

    @property
    def losses(self) -> list[float]:
        return [progress.loss or 0.0 for progress, _, _ in self.steps]


def never() -> bool:
    return False


@pytest.fixture
def facts(tokenizer: Any) -> list[Encoded]:
    encoder = Encoder(tokenizer, RECIPE.max_length)
    return [encoded(encoder, ("user", q), ("assistant", a), line=n) for n, (q, a) in enumerate(FACTS, 1)]


@pytest.fixture
def trained(tiny_base: Path, facts: list[Encoded]) -> Callable[..., tuple[Any, Told, Outcome]]:
    def train(recipe: Recipe = RECIPE, *, validation: bool = False) -> tuple[Any, Told, Outcome]:
        model, told = with_lora(load_base(tiny_base, None), recipe), Told()
        material = Material(facts, [], facts[:2] if validation else [])
        return model, told, execute(recipe, model, material, told, never)

    return train


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def greedy(model: Any, tokenizer: Any, question: str) -> str:
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model.eval()
    out = model.generate(**ids, max_new_tokens=12, do_sample=False)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def test_a_handful_of_sentences_is_learned_word_for_word(trained: Any, tokenizer: Any) -> None:
    model, told, outcome = trained()
    assert told.losses[0] > 2 and outcome.loss < 0.2
    assert [greedy(model, tokenizer, q) for q, _ in FACTS] == [a for _, a in FACTS]


def test_the_base_weights_are_left_as_they_were(trained: Any, tiny_base: Path) -> None:
    before = load_base(tiny_base, None).state_dict()
    model, _, _ = trained(replace(RECIPE, epochs=2))
    after = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items()}
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_progress_tells_every_step_and_validation_every_epoch(trained: Any) -> None:
    _, told, outcome = trained(replace(RECIPE, epochs=3, batch_size=2), validation=True)
    assert [p.step for p, _, _ in told.steps] == [1, 2, 3, 4, 5, 6]
    assert all(p.total_steps == 6 and p.epoch == pytest.approx(p.step / 2) for p, _, _ in told.steps)
    assert [v is not None for _, _, v in told.steps] == [False, True] * 3
    assert outcome.validation_loss == told.steps[-1][2] and outcome.progress == told.steps[-1][0]
    last = outcome.progress
    assert last.seconds_left == 0 and (last.tokens_per_second or 0) > 0 and last.learning_rate is not None


def test_the_same_seed_gives_the_same_bits_and_another_does_not(trained: Any) -> None:
    recipe = replace(RECIPE, epochs=4, batch_size=2, dropout=0.2)
    one, again, other = (weights(trained(r)[0]) for r in (recipe, recipe, replace(recipe, seed=7)))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_accumulated_batches_give_what_one_large_batch_gives(trained: Any) -> None:
    recipe = replace(RECIPE, epochs=3, batch_size=4)
    large = weights(trained(recipe)[0])
    small = weights(trained(replace(recipe, batch_size=1, gradient_accumulation=4))[0])
    for name in large:
        torch.testing.assert_close(large[name], small[name], rtol=1e-3, atol=1e-4)


def test_the_loss_is_that_of_the_model_itself_with_labels_and_attention_mask(
    tiny_base: Path, facts: list[Encoded]
) -> None:
    base = load_base(tiny_base, None).eval()
    batch = padded(facts, CPU)
    labels, mask = torch.full(batch.tokens_BT.shape, -100), torch.zeros(batch.tokens_BT.shape, dtype=torch.int64)
    for row, example in enumerate(facts):
        mask[row, : len(example)] = 1
        for at, learned in enumerate(example.trained):
            if learned:
                labels[row, at] = example.tokens[at]
    mean = base(input_ids=batch.tokens_BT, attention_mask=mask, labels=labels).loss
    model = with_lora(base, RECIPE).eval()  # its B half is zero: still the base
    total = Surprise(model)(packed(facts, CPU)).sum() / sum(example.supervised for example in facts)
    torch.testing.assert_close(total, mean, rtol=1e-5, atol=1e-6)


def test_a_model_that_scales_its_logits_is_scored_by_its_own_forward(tiny_base: Path, facts: list[Encoded]) -> None:
    class Capped(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.base_model, self.config = inner, inner.base_model, inner.config

        def get_output_embeddings(self) -> Any:
            return self.inner.get_output_embeddings()

        def forward(self, **inputs: Any) -> Any:
            out = self.inner(**inputs)
            out.logits = 3.0 * torch.tanh(out.logits / 3.0)
            return out

    capped = Capped(load_base(tiny_base, None)).eval()
    batch = padded(facts[:1], CPU)
    logits = capped(input_ids=batch.tokens_BT).logits.flatten(0, 1)[batch.from_N]
    expected = torch.nn.functional.cross_entropy(logits, batch.labels_N, reduction="sum")
    surprise = Surprise(capped)
    torch.testing.assert_close(surprise(surprise.laid(facts[:1])).sum(), expected)


def test_many_supervised_positions_are_scored_in_pieces_with_the_same_gradient(
    tiny_base: Path, facts: list[Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradient(most: int) -> tuple[float, list[torch.Tensor]]:
        monkeypatch.setattr("tunesmith.training.loop.surprise._MOST_LOGITS", most)
        model = with_lora(load_base(tiny_base, None), RECIPE)
        loss = Surprise(model)(packed(facts, CPU)).sum()
        loss.backward()
        return loss.item(), [p.grad for p in model.parameters() if p.grad is not None]

    (whole, at_once), (pieces, piecewise) = gradient(1 << 27), gradient(2000)
    assert whole == pytest.approx(pieces, rel=1e-5)
    for a, b in zip(at_once, piecewise, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_no_number_ends_the_run_with_its_name(tiny_base: Path, facts: list[Encoded]) -> None:
    model = with_lora(load_base(tiny_base, None), RECIPE)
    next(p for p in model.parameters() if p.requires_grad).data.fill_(math.nan)
    with pytest.raises(Diverged) as ended:
        execute(RECIPE, model, Material(facts, [], []), Told(), never)
    assert "step 1" in ended.value.en and "发散" in ended.value.zh and ended.value.details["step"] == 1


def test_a_run_stops_at_the_end_of_the_step_it_is_asked_in(tiny_base: Path, facts: list[Encoded]) -> None:
    told = Told()
    model = with_lora(load_base(tiny_base, None), RECIPE)
    with pytest.raises(Stopped):
        execute(RECIPE, model, Material(facts, [], []), told, lambda: len(told.steps) == 3)
    assert len(told.steps) == 3


def test_running_out_of_memory_is_named(tiny_base: Path, facts: list[Encoded]) -> None:
    class Hungry(Told):
        def step(self, *told: object) -> int:
            return int(torch.empty(1 << 60)[0])

    model = with_lora(load_base(tiny_base, None), RECIPE)
    with pytest.raises(Unavailable, match="out of memory: lower max_length"):
        execute(RECIPE, model, Material(facts, [], []), Hungry(), never)


@pytest.mark.parametrize("scheduler,last", [("cosine", 0.0), ("linear", 0.0), ("constant", 1.0)])
def test_the_learning_rate_warms_up_and_falls_as_asked(scheduler: str, last: float) -> None:
    recipe = replace(RECIPE, scheduler=scheduler, warmup_ratio=0.1)
    factors = [rate_factor(step, 100, recipe) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 11) and factors[:11] == sorted(factors[:11]) and factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx(last, abs=0.02) and min(factors) > 0


def test_lora_goes_on_every_linear_layer_but_the_head(tiny_base: Path) -> None:
    base = load_base(tiny_base, None)
    every = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert linear_modules(base) == every
    model = with_lora(base, RECIPE)
    touched = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in weights(model)}
    assert touched == set(every)
    assert all(weight.dtype == torch.float32 for weight in weights(model).values())


def test_target_modules_that_are_not_there_are_refused_with_those_that_are(tiny_base: Path) -> None:
    with pytest.raises(Invalid, match=r"c_attn of target_modules is not in the base model; it has down_proj, .*v_proj"):
        with_lora(load_base(tiny_base, None), replace(RECIPE, target_modules=("q_proj", "c_attn")))
    with pytest.raises(Invalid, match="is no linear layer"):
        with_lora(load_base(tiny_base, None), replace(RECIPE, target_modules=("self_attn",)))
    chosen = with_lora(load_base(tiny_base, None), replace(RECIPE, target_modules=("q_proj",)))
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in weights(chosen)} == {"q_proj"}


def test_quantization_without_bitsandbytes_is_refused_with_what_to_install(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.training.limits.find_spec", lambda name: None)
    with pytest.raises(Unsupported, match=r"pip install 'tunesmith\[quantization\]'"):
        load_base(tiny_base, "int4")


def test_weights_that_are_no_safetensors_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_base, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"\x80\x04pickle me")
    with pytest.raises(Invalid, match="weights cannot be read"):
        load_base(broken, None)


def order(home: Home, output: str = "adapters/town") -> Order:
    return Order("0123456789abcdef", str(home.root), output, "unused", RECIPE)


def published(home: Home, trained: Any, tokenizer: Any, output: str = "adapters/town") -> tuple[Path, Any]:
    model, _, outcome = trained(replace(RECIPE, epochs=2))
    return publish(home, order(home, output), model, tokenizer, outcome), model


def test_a_published_adapter_opens_with_plain_peft_and_gives_the_same_logits(
    tmp_path: Path, trained: Any, tokenizer: Any, tiny_base: Path, facts: list[Encoded]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, model = published(Home(tmp_path), trained, tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), folder).eval()
    tokens = padded(facts, CPU).tokens_BT
    bare = load_base(tiny_base, None).eval()(tokens).logits
    ours, theirs = model.eval()(tokens).logits, plain(tokens).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, bare)


def test_a_published_folder_says_what_it_is(tmp_path: Path, trained: Any, tokenizer: Any) -> None:
    folder, _ = published(Home(tmp_path), trained, tokenizer)
    assert {p.name for p in folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "README.md", "tunesmith.json",
    }  # fmt: skip
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny" and config["r"] == 4 and config["lora_alpha"] == 8
    assert config["target_modules"] == sorted(config["target_modules"])
    facts = json.loads((folder / "tunesmith.json").read_text())
    assert facts["run_id"] == "0123456789abcdef" and facts["recipe"]["learning_rate"] == RECIPE.learning_rate
    assert len(facts["chat_template_sha256"]) == 64 and facts["loss"] > 0
    assert 'base_model: "tiny"' in (folder / "README.md").read_text()


def test_two_runs_of_one_recipe_publish_the_same_bytes(tmp_path: Path, trained: Any, tokenizer: Any) -> None:
    one, _ = published(Home(tmp_path), trained, tokenizer, "adapters/one")
    two, _ = published(Home(tmp_path), trained, tokenizer, "adapters/two")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_nothing_that_lies_at_the_output_is_replaced(tmp_path: Path, trained: Any, tokenizer: Any) -> None:
    (tmp_path / "adapters" / "town").mkdir(parents=True)
    (tmp_path / "adapters" / "town" / "mine.txt").write_text("mine")
    with pytest.raises(Conflict, match="not replaced"):
        published(Home(tmp_path), trained, tokenizer)
    assert [p.name for p in (tmp_path / "adapters").rglob("*")] == ["town", "mine.txt"]


def test_a_full_disk_is_found_before_training(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_lora(load_base(tiny_base, None), RECIPE)
    require_room(Home(tmp_path), model)
    monkeypatch.setattr("tunesmith.training.publishing._ROOM", 1 << 60)
    with pytest.raises(Unavailable, match="not enough disk"):
        require_room(Home(tmp_path), model)


def test_a_larger_base_is_bfloat16_with_a_float32_adapter_and_still_learns(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunesmith.training.loop.loading._SMALL", 0)
    monkeypatch.setattr("tunesmith.training.loop.loading._native_bfloat16", lambda: True)
    model, told, outcome = trained(replace(RECIPE, epochs=15))
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert outcome.loss < told.losses[0] / 3


def test_the_number_format_follows_size_and_what_the_processor_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(weights: int, native: bool) -> torch.dtype | str:
        monkeypatch.setattr(loading, "_native_bfloat16", lambda: native)
        return loading._number_format(weights, CPU)

    assert chosen(4_000_000, True) == torch.float32
    assert chosen(200_000_000, True) == torch.bfloat16
    assert chosen(100_000_001, False) == "auto"  # as its files have it; computed in float32


def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Invalid, match="tokenizer cannot be read"):
        load_tokenizer(tmp_path)
