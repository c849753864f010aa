"""A whole step in the compiled library: a row's numbers are the same to the last bit, whatever the step holds beside it."""

import gc
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from tests.unit.inference.worker.narrow_memory import room_for
from tests.unit.inference.worker.narrow_vectors import narrow_vectors
from tunesmith.inference.engine import Sampling
from tunesmith.inference.worker import block
from tunesmith.inference.worker.attention import Chunk
from tunesmith.inference.worker.block import Decoder
from tunesmith.inference.worker.cache import Lease
from tunesmith.inference.worker.events import RowEvent
from tunesmith.inference.worker.lora import AdapterWeights, Segment, Worn, WornPart
from tunesmith.inference.worker.model import LanguageModel
from tunesmith.inference.worker.native import library as native
from tunesmith.inference.worker.native.library import Library
from tunesmith.inference.worker.native.program import Program
from tunesmith.inference.worker.row import Row
from tunesmith.inference.worker.scheduler import Scheduler
from tunesmith.inference.worker.step import Step
from tunesmith.inference.worker.weights import Panels

VOCABULARY = 97
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 40,  # not whole panels
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOWS: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 70, "max_window_layers": 1}
BOOK = [5 + (7 * i * i + 3 * i) % 90 for i in range(900)]

without_tiles = pytest.mark.skipif(not native.tiles(), reason="no tiles are multiplied here")
by_precision = pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=without_tiles)])
pytestmark = pytest.mark.skipif(native.library() is None, reason="nothing is compiled here")


def written(config: Any, folder: Path, change: Callable[[Any], None] = lambda hf: None) -> Path:
    """A model of random weights, changed."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        hf = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        change(hf)
    hf.save_pretrained(folder)
    return folder


def loaded(config: Any, folder: Path, precision: str = "float32") -> LanguageModel:
    model = LanguageModel(written(config, folder), cache_bytes=1 << 26, precision=precision)
    assert model._program is not None
    return model


def adapter(
    model: LanguageModel, rank: int, *, only: str = "", share: float | None = None, cut: bool = False
) -> AdapterWeights:
    """Random weights for every layer in whose name ``only`` is; those of a DoRA with ``share``.

    Args:
        cut: each is two parts that meet within a panel.
    """
    assert model._program is not None
    numbers = torch.Generator().manual_seed(rank)
    sites = {}
    for site in model._program._sites:
        parts = [part for part in site.parts if only in part.name]
        if cut:
            middles = [(part, (part.begin + part.end) // 2 + 3) for part in parts]
            parts = [half for part, at in middles for half in (replace(part, end=at), replace(part, begin=at))]
        if parts:
            worn = [
                WornPart(
                    part.begin, part.end, n * rank, (n + 1) * rank,
                    torch.randn(rank, part.end - part.begin, generator=numbers) / rank,
                    None if share is None else torch.full((part.end - part.begin,), share),
                )
                for n, part in enumerate(parts)
            ]  # fmt: skip
            sites[site] = Worn(torch.randn(site.inputs, rank * len(parts), generator=numbers) * 0.2, tuple(worn))
    return AdapterWeights(f"rank{rank}", Path("/"), rank, sites)


@dataclass
class Piece:
    """Tokens of one row in a step: those from ``lease.length`` on, then ``guess``, which the row does not keep."""

    lease: Lease
    tokens: Sequence[int]
    worn: AdapterWeights | None = None
    guess: Sequence[int] = ()
    keep: Sequence[int] | None = None  # None: all


def ran(model: LanguageModel, pieces: Sequence[Piece]) -> list[torch.Tensor]:
    """One step; of each piece the logits of the tokens it wants."""
    tokens: list[int] = []
    positions: list[int] = []
    keep: list[int] = []
    chunks, decoding, segments, wanted = [], [], [], [0]
    for piece in pieces:
        lease, begin, start = piece.lease, len(tokens), piece.lease.length
        tokens += [*piece.tokens, *piece.guess]
        end = len(tokens)
        positions += range(start, start + end - begin)
        model.cache.reserve(lease, start + end - begin)
        if end - begin == 1:
            decoding.append((lease, begin))
        else:
            chunks.append(Chunk(lease, begin, end, start))
        if piece.worn is not None:
            segments.append(Segment(begin, end, piece.worn))
        keep += [begin + one for one in (range(len(piece.tokens)) if piece.keep is None else piece.keep)]
        wanted.append(len(keep))
    with torch.inference_mode():
        predicted = model.forward(Step(tokens, positions, chunks, decoding, segments, keep))
    logits = predicted.logits
    assert logits.shape == (len(keep), model.vocabulary)
    assert predicted.likeliest is None or predicted.likeliest == likeliest_of(logits)
    for piece in pieces:
        piece.lease.length += len(piece.tokens)
    return [logits[begin:end] for begin, end in pairwise(wanted)]


def likeliest_of(logits_KV: torch.Tensor) -> list[int | None]:
    """As numpy finds it, which takes the first of equal ones and what is not a number before all."""
    best = logits_KV.numpy().argmax(-1) if len(logits_KV) else []
    return [int(token) if bool(logits_KV[k, token].isfinite()) else None for k, token in enumerate(best)]


def alone(model: LanguageModel, tokens: Sequence[int], worn: AdapterWeights | None = None) -> torch.Tensor:
    """Logits of all ``tokens``, read at once in a step of their own."""
    lease = model.cache.lease(len(tokens))
    (found,) = ran(model, [Piece(lease, tokens, worn)])
    model.cache.release(lease)
    return found


@dataclass(frozen=True)
class Reading:
    """A row: which tokens, worn what, in which pieces, with how many wrong guesses, from which step on.

    Attributes:
        every: of each piece's tokens the logits of so many are wanted: each, each second, ... 0 for none.
    """

    first: int
    count: int
    worn: int
    pieces: tuple[int, ...]
    guesses: tuple[int, ...]
    every: int
    wait: int


readings = st.builds(
    Reading,
    first=st.integers(0, 50),
    count=st.one_of(st.integers(1, 80), st.integers(200, 300)),
    worn=st.integers(0, 3),
    pieces=st.lists(st.one_of(st.integers(1, 3), st.integers(1, 140)), min_size=1, max_size=5).map(tuple),
    guesses=st.lists(st.sampled_from([0, 0, 1, 5]), min_size=1, max_size=3).map(tuple),
    every=st.sampled_from([1, 1, 2, 7, 0]),
    wait=st.integers(0, 3),
)


@pytest.mark.parametrize(
    ("config", "precision"),
    [
        (Qwen3Config(**SIZES, **WINDOWS), "float32"),
        (Gemma3TextConfig(**SIZES, sliding_window=9, layer_types=["sliding_attention", "full_attention"]), "int8"),
        (LlamaConfig(**SIZES | {"num_key_value_heads": 1, "dtype": "bfloat16"}, attention_bias=True), "float16"),
        (Qwen2Config(**SIZES | {"hidden_size": 128}), "float16"),
        pytest.param(MistralConfig(**SIZES, sliding_window=65), "bfloat16", marks=without_tiles),
        pytest.param(Qwen3Config(**SIZES | {"head_dim": 48}, **WINDOWS), "bfloat16", marks=without_tiles),
    ],
    ids=["qwen3", "gemma3-int8", "llama-bfloat16", "qwen2-float16", "mistral-tiles", "qwen3-tiles"],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_reads_the_same_to_the_last_bit_however_it_is_cut_and_whatever_is_beside_it(
    config: Any, precision: str, threads: int, tmp_path: Path
) -> None:
    model = loaded(config, tmp_path / "model", precision)
    assert isinstance(model._run, Decoder)
    worn = [None, adapter(model, 3), adapter(model, 17, only="v_proj"), adapter(model, 40, only="layers.1.mlp")]

    @cache
    def right(first: int, count: int, wears: int) -> torch.Tensor:
        return alone(model, BOOK[first : first + count], worn[wears])

    @settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(readings, min_size=1, max_size=4))
    def any_cut(rows: list[Reading]) -> None:
        leases = [model.cache.lease(1) for _ in rows]
        sizes = [cycle(row.pieces) for row in rows]
        guesses = [cycle(row.guesses) for row in rows]
        step = 0
        while any(lease.length < row.count for lease, row in zip(leases, rows, strict=True)):
            step += 1
            pieces, places = [], []
            for n, (row, lease) in enumerate(zip(rows, leases, strict=True)):
                begin, end = lease.length, min(lease.length + next(sizes[n]), row.count)
                if step <= row.wait or begin == end:
                    continue
                keep = [one for one in range(end - begin) if row.every and (begin + one) % row.every == 0]
                tokens = BOOK[row.first + begin : row.first + end]
                pieces.append(Piece(lease, tokens, worn[row.worn], BOOK[: next(guesses[n])], keep))
                places.append((row, [begin + one for one in keep]))
            if not pieces:
                continue
            for found, (row, kept) in zip(ran(model, pieces), places, strict=True):
                assert torch.equal(found, right(row.first, row.count, row.worn)[kept])
        for lease in leases:
            model.cache.release(lease)

    if threads > 1:
        one_thread = right(0, 300, 1)
        model._program = Program(model._run, Library(native._loaded(), threads))
        assert torch.equal(alone(model, BOOK[:300], worn[1]), one_thread)
    any_cut()
    assert model.cache.allocated == 0


@pytest.mark.parametrize(
    ("config", "precision"),
    [
        (Qwen3Config(**SIZES, **WINDOWS), "float32"),
        (Gemma3TextConfig(**SIZES, sliding_window=9, layer_types=["sliding_attention", "full_attention"]), "float32"),
        (LlamaConfig(**SIZES | {"hidden_size": 56, "head_dim": 64, "num_attention_heads": 14}), "float16"),
        (LlamaConfig(**SIZES | {"num_key_value_heads": 1, "head_dim": 80}, attention_bias=True), "float32"),
        (Phi3Config(**SIZES | {"hidden_size": 128}, partial_rotary_factor=0.5), "float32"),
    ],
    ids=["qwen3", "gemma3", "llama-float16", "llama-biased", "phi3"],
)
def test_a_row_reads_the_same_to_the_last_bit_with_avx512_and_avx2(config: Any, precision: str, tmp_path: Path) -> None:
    model = LanguageModel(written(config, tmp_path / "model"), cache_bytes=1 << 26, precision=precision)
    worn = [None, *(adapter(model, rank) for rank in (1, 8, 16, 19)), adapter(model, 16, cut=True)]
    spoilt = adapter(model, 16, only="v_proj")
    for site in spoilt.sites.values():
        site.parts[0].B.fill_(float("inf"))
    cases = [(worn[n % 6], 1 + 23 * n % 97) for n in range(14)] + [(spoilt, 9), (None, 300)]

    def all_of() -> list[torch.Tensor]:
        """Of prompts and then of some tokens of each row together."""
        rows = [(model.cache.lease(310), one, count) for one, count in cases]
        found = ran(model, [Piece(lease, BOOK[:count], one) for lease, one, count in rows])
        for more in (1, 1, 5):
            found += ran(model, [Piece(lease, BOOK[lease.length : lease.length + more], one) for lease, one, _ in rows])
        for lease, _, _ in rows:
            model.cache.release(lease)
        return found

    wide = all_of()
    with narrow_vectors():
        narrow = all_of()
    for n, (one, other) in enumerate(zip(wide, narrow, strict=True)):
        bad = cases[n % len(cases)][0] is spoilt
        assert bool(one.isfinite().all()) != bad
        assert torch.equal(one.isfinite(), other.isfinite()) if bad else torch.equal(one, other)


@pytest.mark.parametrize(
    "config", [Qwen3Config(**SIZES), LlamaConfig(**SIZES | {"vocab_size": 700})], ids=["97", "700"]
)
@pytest.mark.parametrize(("threads", "narrow"), [(1, False), (3, False), (3, True)])
def test_the_likeliest_token_is_the_first_of_the_best_and_none_where_a_logit_is_no_number(
    config: Any, threads: int, narrow: bool, tmp_path: Path
) -> None:
    model = loaded(config, tmp_path / "model")
    assert isinstance(model._run, Decoder)
    native_library = Library(native._loaded(), threads)
    cases: list[dict[int, float]] = [{}, {0: -5.0}, {config.vocab_size - 1: -5.0}, {17: -5.0, 33: -5.0, 49: -5.0}]
    for number in (float("nan"), float("inf")):
        cases += [{place: number} for place in (0, 15, 16, 40, config.vocab_size - 1)]
        cases += [{place: -float("inf") for place in range(config.vocab_size)} | {50: number}]
    cases += [{place: -float("inf") for place in range(config.vocab_size)}]
    for case in cases:  # all below zero: what a broken panel is filled up with is not among them
        bias = torch.full((config.vocab_size,), -9.0)
        for place, number in case.items():
            bias[place] = number
        weight = torch.zeros(config.vocab_size, config.hidden_size)
        model._run.head = Panels([weight], bias, model.precision, native_library)
        model._program = Program(model._run, native_library)
        with narrow_vectors() if narrow else nullcontext():
            found = alone(model, BOOK[:21])
        assert torch.equal(found, bias.expand(21, -1)) or bool(bias.isnan().any())


@pytest.mark.parametrize(
    ("config", "precision"),
    [
        (Qwen3Config(**SIZES), "float32"),
        (LlamaConfig(**SIZES | {"vocab_size": 4000, "dtype": "bfloat16"}), "auto"),
        (LlamaConfig(**SIZES | {"vocab_size": 4000}), "int8"),
    ],
    ids=["float32", "auto", "int8"],
)
def test_a_step_that_wants_no_logits_finds_the_same_tokens(config: Any, precision: str, tmp_path: Path) -> None:
    model = loaded(config, tmp_path / "model", precision)
    for count, keep in ((1, [0]), (2, [1]), (17, [3, 16]), (70, range(70)), (300, range(5, 300))):
        lease = model.cache.lease(count)
        step = Step(BOOK[:count], range(count), [Chunk(lease, 0, count, 0)], [], [], keep)
        with torch.inference_mode():
            both, alone = model.forward(step), model.forward(replace(step, logits=False))
        assert both.likeliest == alone.likeliest == likeliest_of(both.logits)
        assert alone.logits.shape == (0, config.vocab_size)
        model.cache.release(lease)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_step_begins_with_the_checkpoints_embedding_times_its_scale(stored: str, tied: bool, tmp_path: Path) -> None:
    sizes = SIZES | {"dtype": stored, "num_hidden_layers": 1, "tie_word_embeddings": tied}
    config = Gemma3TextConfig(**sizes, sliding_window=9, layer_types=["sliding_attention"])
    folder = written(config, tmp_path / "model")
    weight = AutoModelForCausalLM.from_pretrained(folder).model.embed_tokens.weight.detach()
    model = LanguageModel(folder, cache_bytes=1 << 24, precision="auto")
    assert isinstance(model._run, Decoder)
    tokens = torch.tensor([0, VOCABULARY - 1, 15, 16, 40, 40, 7])
    found = model._run.embedding(tokens)
    assert found.dtype == torch.float32 and torch.equal(found, weight[tokens].float() * 40**0.5)
    table = model._run.embedding.table()
    assert table is not None and bool(table.panels) == tied
    assert torch.equal(native.Library.embedded(model._run.head._native, table, tokens), found)  # type: ignore[attr-defined]


def test_a_token_outside_the_vocabulary_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model = loaded(Qwen3Config(**SIZES), tmp_path / "model")
    lease = model.cache.lease(90)
    ran(model, [Piece(lease, BOOK[:70])])
    before = [one.clone() for one in lease.arena.keys]
    for token in (-1, VOCABULARY, 1 << 30):
        with pytest.raises(IndexError), torch.inference_mode():
            model.forward(Step([3, token], [70, 71], [Chunk(lease, 0, 2, 70)], [], [], [1]))
    assert all(map(torch.equal, before, lease.arena.keys))


def test_positions_beyond_those_whose_rotations_are_kept_are_read_as_by_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "_TABLE", 256)
    kinds = {"sliding_window": 300, "layer_types": ["sliding_attention", "full_attention"]}
    model = loaded(Gemma3TextConfig(**SIZES, **kinds), tmp_path / "model")
    lease = model.cache.lease(600)
    found = torch.cat([ran(model, [Piece(lease, BOOK[begin : begin + 200])])[0] for begin in (0, 200, 400)])
    monkeypatch.setattr(model, "_program", None)
    assert torch.allclose(found, alone(model, BOOK[:600]), atol=1e-4, rtol=1e-4)


@by_precision
def test_a_beginning_used_again_gives_the_same_bits(precision: str, tmp_path: Path) -> None:
    model = loaded(Qwen3Config(**SIZES, **WINDOWS), tmp_path / "model", precision)
    right = alone(model, BOOK[:300])
    first, again = model.cache.lease(300), model.cache.lease(300)
    ran(model, [Piece(first, BOOK[:230])])
    for kept in (1, 64, 100, 229):
        again.length = 0
        model.cache.copy_in(model.cache.copy_out(first, kept), again, kept)
        (found,) = ran(model, [Piece(again, BOOK[kept:300])])
        assert torch.equal(found, right[kept:])


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES | {"hidden_size": 56, "head_dim": 64, "num_attention_heads": 7, "num_key_value_heads": 1}),
        LlamaConfig(**SIZES | {"hidden_size": 66, "head_dim": 16, "num_attention_heads": 66, "num_key_value_heads": 1}),
        Qwen3Config(**SIZES | {"head_dim": 128}),
        GemmaConfig(**SIZES | {"head_dim": 256, "num_attention_heads": 2, "num_key_value_heads": 1}),
        Gemma3TextConfig(**SIZES, sliding_window=100, layer_types=["sliding_attention", "full_attention"]),
        MistralConfig(**SIZES | {"num_key_value_heads": 4}, sliding_window=65),
        Qwen2Config(**SIZES | {"hidden_size": 128}, tie_word_embeddings=True),
        Phi3Config(**SIZES | {"hidden_size": 128}, partial_rotary_factor=0.5),
    ],
    ids=lambda config: f"{config.model_type}-{config.num_attention_heads}-heads",
)
def test_a_long_text_in_growing_arenas_reads_as_in_transformers(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(config, tmp_path / "model")
    with torch.no_grad():
        right = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(torch.tensor([BOOK])).logits[0]
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(model, "_program", None)
        lease, other, found = model.cache.lease(1), model.cache.lease(1), []
        for count in (200, 1, 55, 1, 1, 400, 242):
            begin = lease.length
            pieces = [Piece(lease, BOOK[begin : begin + count]), Piece(other, BOOK[:3])]
            found.append(ran(model, pieces[: 1 + begin % 2])[0])
        assert lease.arena.capacity == 1024 and len(torch.cat(found)) == 900
        assert torch.linalg.vector_norm(torch.cat(found) - right) < 1e-5 * torch.linalg.vector_norm(right)
        model.cache.release(other)
        model.cache.release(lease)


@without_tiles
@pytest.mark.parametrize(
    "config",
    [
        Qwen3Config(**SIZES | {"dtype": "bfloat16"}),
        GemmaConfig(**SIZES | {"head_dim": 64, "dtype": "bfloat16"}),
        Gemma3TextConfig(
            **SIZES | {"dtype": "bfloat16"}, sliding_window=9, layer_types=["sliding_attention", "full_attention"]
        ),
        MistralConfig(**SIZES | {"dtype": "bfloat16"}, sliding_window=65),
        Qwen2Config(**SIZES | {"hidden_size": 72, "dtype": "bfloat16"}, tie_word_embeddings=True),
        Phi3Config(**SIZES | {"hidden_size": 128, "dtype": "bfloat16"}),
    ],
    ids=lambda config: config.model_type,
)
def test_by_tiles_a_text_reads_as_in_transformers_but_for_the_rounding_of_inputs(
    config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(config, tmp_path / "model", "auto")
    assert (model.precision.name, model.dtype) == ("bfloat16", torch.float32)
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
        right = plain(torch.tensor([BOOK[:300]])).logits[0]
    compiled = alone(model, BOOK[:300])
    assert torch.linalg.vector_norm(compiled - right) < 0.03 * torch.linalg.vector_norm(right)
    worn = adapter(model, 8)
    wearing = alone(model, BOOK[:300], worn)
    monkeypatch.setattr(model, "_program", None)  # the same products, and torch between them
    for found, by_torch in ((compiled, alone(model, BOOK[:300])), (wearing, alone(model, BOOK[:300], worn))):
        assert torch.linalg.vector_norm(found - by_torch) < 0.02 * torch.linalg.vector_norm(by_torch)


def test_adapters_of_any_rank_add_what_torch_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(Qwen3Config(**SIZES), tmp_path / "model")
    worn = [adapter(model, rank) for rank in (1, 2, 15, 16, 64, 256)]
    worn += [adapter(model, 5, only="o_proj"), adapter(model, 6, only="k_proj"), adapter(model, 7, only="layers.1")]
    worn += [adapter(model, 8, cut=True), adapter(model, 20, cut=True, only="mlp")]
    counts = [30, 1, 17, 2, 9, 40, 1, 5, 70, 20, 1]

    def all_of(count: int) -> list[torch.Tensor]:
        leases = [model.cache.lease(80) for _ in range(count)]
        pieces = [Piece(lease, BOOK[:n], one) for lease, n, one in zip(leases, counts, worn, strict=False)]
        found = ran(model, pieces)
        for lease in leases:
            model.cache.release(lease)
        return found

    together = all_of(len(worn))
    bare = alone(model, BOOK[:70])
    for found, one, count in zip(together, worn, counts, strict=True):
        assert torch.equal(found, alone(model, BOOK[:count], one))
        assert not torch.allclose(found, bare[:count], atol=1e-2)
    monkeypatch.setattr(model, "_program", None)
    for found, right in zip(together, all_of(len(worn)), strict=True):
        assert torch.allclose(found, right, atol=1e-4, rtol=1e-4)


@by_precision
def test_a_step_with_a_dora_is_left_to_torch_and_its_other_rows_go_on(precision: str, tmp_path: Path) -> None:
    model = loaded(Qwen3Config(**SIZES), tmp_path / "model", precision)
    lora, dora = adapter(model, 4), adapter(model, 5, share=0.9)
    rows = [Piece(model.cache.lease(90), BOOK[60:80], one) for one in (None, lora, dora)]
    assert model._program is not None
    assert not model._program.takes(Step([], [], [], [], [Segment(0, 1, lora), Segment(1, 2, dora)], []))
    ran(model, [Piece(row.lease, BOOK[:50], row.worn, keep=[]) for row in rows])
    ran(model, [Piece(row.lease, BOOK[50:60], row.worn) for row in rows])
    right = [alone(model, BOOK[:80], row.worn) for row in rows]
    for row, expected in zip(rows, right, strict=True):  # each by itself again
        (found,) = ran(model, [row])
        if precision == "float32":
            assert torch.allclose(found, expected[60:], atol=1e-4, rtol=1e-4)
        else:  # torch does not round what is multiplied with keys and values
            assert torch.linalg.vector_norm(found - expected[60:]) < 0.02 * torch.linalg.vector_norm(expected[60:])


@by_precision
def test_a_version_of_an_adapter_is_forgotten_when_its_last_step_has_run(precision: str, tmp_path: Path) -> None:
    model = loaded(Qwen3Config(**SIZES), tmp_path / "model", precision)
    assert model._program is not None
    right = {rank: alone(model, BOOK[:9], adapter(model, rank)) for rank in (3, 4)}
    gc.collect()
    assert len(model._program._worn) == 0
    lease = model.cache.lease(9)
    for turn in range(60):  # their memory is soon used again for the next
        rank = 3 + turn % 2
        step = Step(BOOK[:9], range(9), [Chunk(lease, 0, 9, 0)], [], [Segment(0, 9, adapter(model, rank))], range(9))
        with torch.inference_mode():
            assert torch.equal(model.forward(step).logits, right[rank])
            assert torch.equal(model.forward(step).logits, right[rank])
    del step
    gc.collect()
    assert len(model._program._worn) == 0


@by_precision
@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e38])
def test_a_row_whose_numbers_are_none_spoils_no_other_and_nobody_after_it(
    number: float, precision: str, tmp_path: Path
) -> None:
    model = loaded(Qwen3Config(**SIZES, **WINDOWS), tmp_path / "model", precision)
    good, bad = adapter(model, 3), adapter(model, 17)
    next(iter(bad.sites.values())).parts[2].B.fill_(number)  # its values
    leases = [model.cache.lease(150) for _ in range(4)]
    right = alone(model, BOOK[:120]), alone(model, BOOK[:50], good)
    for begin, end in ((0, 40), (40, 41), (41, 50)):
        both = [
            Piece(leases[0], BOOK[begin:end]),
            Piece(leases[1], BOOK[begin:end], bad),
            Piece(leases[2], BOOK[begin:end], good),
            Piece(leases[3], BOOK[begin:end], bad),
        ]
        bare, spoilt, worn, _ = ran(model, both)
        assert torch.equal(bare, right[0][begin:end])
        assert torch.equal(worn, right[1][begin:end])
        assert not bool(spoilt.isfinite().all())
    slot = leases[1].slot
    leases[1].length = 0  # as if another row had come to its place, and nobody had cleared it
    for begin, end in ((0, 1), (1, 30), (30, 31), (31, 120)):
        (found,) = ran(model, [Piece(leases[1], BOOK[begin:end])])
        assert torch.equal(found, right[0][begin:end])
    assert leases[1].slot == slot


def test_a_step_that_wants_no_logits_writes_what_the_next_one_reads(tmp_path: Path) -> None:
    model = loaded(Qwen3Config(**SIZES), tmp_path / "model")
    right = alone(model, BOOK[:90])
    lease = model.cache.lease(90)
    assert ran(model, [Piece(lease, BOOK[:70], keep=[])])[0].shape == (0, VOCABULARY)
    assert ran(model, [Piece(lease, BOOK[70:71], keep=[])])[0].shape == (0, VOCABULARY)
    assert torch.equal(ran(model, [Piece(lease, BOOK[71:90], keep=[3, 18])])[0], right[[74, 89]])


def test_a_step_without_memory_is_cut_smaller_and_every_row_still_says_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = SIZES | {"hidden_size": 16, "intermediate_size": 1 << 15, "initializer_range": 0.05}
    model = loaded(LlamaConfig(**sizes), tmp_path / "model")
    assert isinstance(model._run, Decoder)
    failed: list[int] = []

    class Narrow(Library):
        def step(self, model: Any, step: Any) -> None:
            try:
                with room_for(40 << 20):
                    super().step(model, step)
            except MemoryError:
                failed.append(step.tokens)
                raise

    def said() -> list[list[int]]:
        events: list[tuple[Row, RowEvent]] = []
        scheduler = Scheduler(model, lambda ids: "x" * len(ids), frozenset(), max_rows=4, deliver=events.extend)
        greedy = Sampling(max_new_tokens=4, temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
        rows = [Row(BOOK[first : first + 450], greedy) for first in (0, 7)]
        with torch.inference_mode():
            for row in rows:
                scheduler.add(row)
            while not scheduler.idle:
                scheduler.step()
        return [row.tokens for row in rows]

    right = said()
    assert [len(tokens) for tokens in right] == [4, 4]
    model._program = Program(model._run, Narrow(native._loaded(), 1))
    assert said() == right
    assert failed and max(failed) >= 400


@pytest.mark.parametrize(
    ("precision", "kept"),
    [
        ("float32", torch.float32),
        ("float16", torch.float32),
        pytest.param("bfloat16", torch.bfloat16, marks=without_tiles),
        pytest.param("int8", torch.bfloat16, marks=without_tiles),
    ],
)
def test_keys_and_values_take_half_the_memory_where_tiles_are_multiplied(
    precision: str, kept: torch.dtype, tmp_path: Path
) -> None:
    model = loaded(Qwen3Config(**SIZES), tmp_path / "model", precision)
    lease = model.cache.lease(10)
    ran(model, [Piece(lease, BOOK[:10])])
    parts = model.cache.copy_out(lease, 10)
    assert {part.dtype for part in (*parts, *lease.arena.keys, *lease.arena.values)} == {kept}
    assert sum(part.nbytes for part in parts) == model.cache.size(10) == 10 * 2 * 2 * 2 * 32 * kept.itemsize
    assert model.cache.cost(10) == model.cache.allocated == 25.6 * model.cache.size(10)
    plain = LanguageModel(tmp_path / "model", cache_bytes=1 << 24, precision="float32")
    assert model.cache.size(10) * torch.float32.itemsize == plain.cache.size(10) * kept.itemsize


def test_scores_that_lie_far_apart_are_shared_out_as_in_transformers(tmp_path: Path) -> None:
    def sharpen(hf: Any) -> None:
        for layer in hf.model.layers:
            layer.self_attn.q_norm.weight.mul_(50)  # scores of some hundreds: e to their power is no number

    folder = written(Qwen3Config(**SIZES), tmp_path / "model", sharpen)
    model = LanguageModel(folder, cache_bytes=1 << 24)
    assert model._program is not None
    with torch.no_grad():
        right = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([BOOK[:300]])).logits[0]
    assert torch.linalg.vector_norm(alone(model, BOOK[:300]) - right) < 1e-3 * torch.linalg.vector_norm(right)


def test_what_the_library_does_not_compute_is_left_to_torch(tmp_path: Path) -> None:
    def fits(name: str, **other: Any) -> bool:
        model = LanguageModel(written(LlamaConfig(**SIZES | other), tmp_path / name), cache_bytes=1 << 24)
        assert model.fused
        return model._program is not None

    assert fits("all")
    assert not fits("narrow heads", head_dim=8)
    assert not fits("broken panels", intermediate_size=50)
    assert not fits("activation", hidden_act="relu")
