"""GGUF files: a real llama.cpp says what transformers says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.models.export.conftest import MakeAdapter, change_json, random_model
from tests.upstreams.tiny_gguf import make_tiny_llama
from tunesmith.kernel.problems import Invalid, Unsupported
from tunesmith.models.export import answers, children, gguf_files, llama
from tunesmith.models.export.adapter import read_adapter
from tunesmith.models.export.architecture import architecture
from tunesmith.models.export.checking import ended
from tunesmith.models.export.parity import BOUNDS, Answer, compared
from tunesmith.models.export.vocabulary import read_vocabulary
from tunesmith.models.model import BaseModel

LENGTH = 24
# long enough that a rotation which is wrong at far positions shows
QUESTIONS = [
    [{"role": "user", "content": "Hello, who is the mayor of the town?"}],
    [
        {"role": "system", "content": "one two three " * 12},
        {"role": "user", "content": "你好，请问今天天气怎么样？"},
        {"role": "assistant", "content": "天气很好，谢谢你。"},
        {"role": "user", "content": "Thank you! 一加一等于几?\n"},
    ],
]


def inf(row: int, place: int) -> float:
    return float("inf")


def of_llama(model: Path, lora: Path | None = None, texts: list[str] | None = None) -> list[Answer]:
    questions = QUESTIONS if texts is None else [[{"role": "user", "content": text}] for text in texts]
    order = llama.Order(
        str(model), str(lora) if lora else None, 512, 1, LENGTH if texts is None else 1, questions, texts is None
    )
    return children.asked("tunesmith.models.export.llama", order, list[Answer], threads=1)


def of_transformers(base: BaseModel, wear: Any = lambda model: model) -> list[Answer]:
    tokens = answers.Tokens(base.path)
    prompts = [tokens.prompt(question) for question in QUESTIONS]
    with torch.inference_mode():
        speaker = answers.Speaker(wear(answers.loaded(base.path)), tokens.ends)
        return [speaker.answer(prompt, LENGTH) for prompt in prompts]


def assert_same(base: BaseModel, heard: list[Answer], expected: list[Answer]) -> None:
    ends = answers.Tokens(base.path).ends
    other = [[0.0] * len(answer.tokens) for answer in expected]
    found = compared(
        [ended(answer, ends) for answer in heard], expected, other, bound=BOUNDS["f32"], margin=inf, text=str
    )
    assert found.state == "same", found
    assert min(len(answer.tokens) for answer in expected) > 4  # an answer that is over at once would prove nothing


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 128}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"tie_word_embeddings": False, "rope_parameters": LLAMA3}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 32, "rope_parameters": LINEAR}),
        ("mistral", {"num_key_value_heads": 1, "sliding_window": None}),
        ("qwen2", {"tie_word_embeddings": True, "rope_parameters": YARN}),
        ("qwen3", {"tie_word_embeddings": True, "head_dim": 32}),
    ],
    ids=["llama3", "llama-biased-linear", "mistral", "qwen2-yarn", "qwen3"],
)
def test_llama_cpp_answers_as_transformers_does(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    base = random_model(tmp_path / "base", kind, **changes)
    gguf_files.write_model(base, None, tmp_path / "model.gguf", type="f32", name="base")
    assert_same(base, of_llama(tmp_path / "model.gguf"), of_transformers(base))


def test_an_adapter_alone_does_in_llama_cpp_what_it_does_here(tmp_path: Path, make_adapter: MakeAdapter) -> None:
    """On a llama, whose rows are in another order there, with a scaling that is not the same for all layers."""
    base = random_model(tmp_path / "base", "llama", tie_word_embeddings=False)
    adapter = make_adapter(
        base, use_rslora=True, rank_pattern={"k_proj": 2}, alpha_pattern={"q_proj": 3}, target_modules="all-linear"
    )
    lora = read_adapter(adapter)
    gguf_files.write_model(base, None, tmp_path / "base.gguf", type="f32", name="base")
    gguf_files.write_adapter(base, lora, tmp_path / "adapter.gguf", name="town")
    gguf_files.write_model(base, lora, tmp_path / "merged.gguf", type="f32", name="town")
    expected = of_transformers(base, lambda model: answers.with_ours(model, lora))
    assert_same(base, of_llama(tmp_path / "base.gguf", tmp_path / "adapter.gguf"), expected)
    assert_same(base, of_llama(tmp_path / "merged.gguf"), expected)
    assert expected != of_transformers(base)


QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "Hello world's  best   TEST-case, we've got 12345 apples & 67.89% of it!\r\n\r\n  indented\t\ttabs  ",
    "你好，世界！2024年10月的学习率是0.001。こんにちは 안녕하세요 Привет, мир",
    "def f(x_1: int) -> str:\n    return f'{x_1}...'  # comment\n\n\nHTTPServer camelCase /usr/bin ///\n",
    "éàü ñandú İstanbul ﬁ Ⅷ ² ½ 👩‍🚀🌍 'S 'Ll don'T I'M",
    "   \n \n\t x \u3000全角　空格\u00a0nbsp",
    "<|im_start|>user\nhi<|im_end|>\n",
]


def tokenizer_that_cuts(folder: Path, pre: str) -> None:
    """Replace the tokenizer by one with that way to cut, whose merges go across every cut: a wrong one shows."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    learned.train_from_iterator([text[: len(text) // 2] for text in TEXTS] * 2, trainer)
    whole = {"llama-bpe", "tekken"}
    model = json.loads(learned.to_str())["model"]
    made = Tokenizer(models.BPE(model["vocab"], [tuple(pair) for pair in model["merges"]], ignore_merges=pre in whole))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cuts = {"qwen2": QWEN2, "llama-bpe": QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|"), "tekken": TEKKEN}
    if pre in cuts:
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(cuts[pre]), "isolated"), plain])
    else:
        digits = [pre_tokenizers.Digits(individual_digits=True)] if pre == "smollm" else []
        made.pre_tokenizer = pre_tokenizers.Sequence([*digits, words])
    made.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')


@pytest.mark.parametrize("pre", ["qwen2", "llama-bpe", "tekken", "gpt-2", "smollm"])
def test_llama_cpp_cuts_real_text_into_the_same_tokens(tmp_path: Path, pre: str) -> None:
    from tokenizers import Tokenizer

    folder = make_tiny_llama(tmp_path / "base")
    tokenizer_that_cuts(folder, pre)
    rows = 338  # of the random model's embedding
    vocabulary = read_vocabulary(folder, rows)
    assert vocabulary.pre == pre
    base = BaseModel("base", folder, "llama", 0, 512)
    gguf_files.write_model(base, None, tmp_path / "model.gguf", type="q8_0", name="base")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = [tokenizer.encode(text).ids for text in TEXTS]
    assert [answer.prompt for answer in of_llama(tmp_path / "model.gguf", texts=TEXTS)] == expected


def test_a_way_to_cut_that_llama_cpp_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path)
    change_json(folder / "tokenizer.json", pre_tokenizer={"type": "Whitespace"})
    with pytest.raises(Unsupported, match=r"qwen2, llama-bpe.*Whitespace"):
        read_vocabulary(folder, 338)


def test_an_architecture_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(Unsupported, match=r"gpt_neox.*llama, mistral, qwen2, qwen3"):
        architecture({"model_type": "gpt_neox"})


@pytest.mark.parametrize(
    "changes", [{"rope_scaling": {"type": "dynamic", "factor": 2.0}}, {"hidden_act": "gelu"}, {"model_type": None}]
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = json.loads((make_tiny_llama(tmp_path) / "config.json").read_text())
    with pytest.raises(Unsupported):
        architecture({**config, **changes})


def test_a_config_without_its_numbers_is_refused(tmp_path: Path) -> None:
    config = json.loads((make_tiny_llama(tmp_path) / "config.json").read_text())
    del config["num_attention_heads"]
    with pytest.raises(Invalid, match="num_attention_heads"):
        architecture(config)


def test_the_context_ends_where_a_sliding_window_would_begin_to_matter(tmp_path: Path) -> None:
    config = json.loads((make_tiny_llama(tmp_path) / "config.json").read_text())
    assert architecture({**config, "model_type": "mistral", "sliding_window": 128}).context == 128
    qwen = {**config, "model_type": "qwen2", "sliding_window": 128, "use_sliding_window": False}
    assert architecture(qwen).context == 2048


def test_a_dora_is_never_written_as_an_adapter_of_its_own(
    tiny: BaseModel, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    lora = read_adapter(make_adapter(tiny, use_dora=True))
    with pytest.raises(Unsupported, match="--separate"):
        gguf_files.write_adapter(tiny, lora, tmp_path / "a.gguf", name="a")
    assert not (tmp_path / "a.gguf").exists()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unsupported, match=r"tunesmith\[export\]"):
        gguf_files.require_gguf()
