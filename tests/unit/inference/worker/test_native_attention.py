"""Attention in the compiled library by itself: keys and values of 32 bits, and of 16 by tiles."""

import ctypes
from collections.abc import Iterator, Sequence
from ctypes import c_void_p
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch

from tunesmith.inference.worker.native import library as native
from tunesmith.inference.worker.native.library import Kind, Layer, Model, Row, Step

pytestmark = pytest.mark.skipif(native.library() is None, reason="nothing is compiled here")
without_tiles = pytest.mark.skipif(not native.tiles(), reason="no tiles are multiplied here")
KINDS = [pytest.param(Kind.FLOAT32, id="float32"), pytest.param(Kind.BFLOAT16, marks=without_tiles, id="tiles")]
# heads, heads of keys and values, their width: whole tiles and broken ones
HEADS = [(7, 1, 64), (4, 4, 16), (2, 1, 32), (6, 2, 48), (3, 1, 80), (8, 1, 128), (2, 2, 256), (66, 1, 16), (5, 1, 96)]
CAPACITY = 210  # not whole blocks


@dataclass
class Text:
    """One row's queries, keys and values for all its positions, (tokens, heads + 2 kv_heads, width)."""

    qkv: torch.Tensor
    slot: int


class Attention:
    """One layer's cache, all of it no numbers at first, and steps over it."""

    def __init__(self, kind: Kind, heads: tuple[int, int, int], window: int = 0, slots: int = 1) -> None:
        self.heads, self.kv_heads, self.width = heads
        self.kind, self.window = kind, window
        size = (slots, self.kv_heads, CAPACITY, self.width)
        self.keys = torch.full(size, float("nan"), dtype=kind.dtype)
        self.values = torch.full(size, float("nan"), dtype=kind.dtype)
        self._layers = (Layer * 1)(Layer(scaling=self.width**-0.5, window=window))
        self._model = Model(
            layers=self._layers, count=1, heads=self.heads, kv_heads=self.kv_heads, head_width=self.width, cached=kind
        )

    def text(self, tokens: int, slot: int = 0, seed: int = 0) -> Text:
        numbers = torch.Generator().manual_seed(seed)
        qkv = torch.randn(tokens, self.heads + 2 * self.kv_heads, self.width, generator=numbers)
        qkv[:, : self.heads] *= 3  # shares that differ
        return Text(qkv, slot)

    def step(self, pieces: Sequence[tuple[Text, int, int]], threads: int = 1) -> list[torch.Tensor]:
        """Positions [begin, end) of each text: what its queries see, (tokens, heads, width)."""
        qkv = torch.cat([text.qkv[begin:end] for text, begin, end in pieces])
        seen = torch.empty(len(qkv), self.heads, self.width)
        keys, values = (c_void_p * 1)(self.keys.data_ptr()), (c_void_p * 1)(self.values.data_ptr())
        rows, at = [], 0
        for text, begin, end in pieces:
            tables = ctypes.addressof(keys), ctypes.addressof(values)
            rows.append(Row(*tables, text.slot, CAPACITY, at, at + end - begin, begin))
            at += end - begin
        step = Step(tokens=at, rows=len(rows), row=(Row * len(rows))(*rows))
        attend = native._loaded().engine_attention
        attend.argtypes = (ctypes.c_int, ctypes.POINTER(Model), ctypes.POINTER(Step), c_void_p, c_void_p)
        assert attend(threads, self._model, step, qkv.data_ptr(), seen.data_ptr()) == 0
        return list(seen.split([end - begin for _, begin, end in pieces]))

    def right(self, text: Text) -> tuple[torch.Tensor, torch.Tensor]:
        """What all of the text sees, in float64 of the rounded numbers, and how far each number may be from it."""
        q, k, v = text.qkv.to(self.kind.dtype).double().split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        k, v = (one.repeat_interleave(self.heads // self.kv_heads, dim=1) for one in (k, v))
        if self.kind is Kind.FLOAT32:
            q = text.qkv[:, : self.heads].double()
        at = torch.arange(len(q))
        hidden = at[None] > at[:, None]
        if self.window:
            hidden |= at[None] <= at[:, None] - self.window
        scores = torch.einsum("qhd,khd->hqk", q, k) * self.width**-0.5
        shares = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        # bfloat16: shares and their sum are each rounded by at most 2^-9 of them
        exact = 1e-5 if self.kind is Kind.FLOAT32 else 2.0**-8
        return torch.einsum("hqk,khd->qhd", shares, v), torch.einsum("hqk,khd->qhd", shares, v.abs()) * exact + 1e-6


def cuts(tokens: int, *sizes: int) -> Iterator[tuple[int, int]]:
    """[0, tokens) in pieces of these sizes, again and again."""
    ends = [0]
    while ends[-1] < tokens:
        ends.append(min(tokens, ends[-1] + sizes[len(ends) % len(sizes)]))
    return pairwise(ends)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [0, 1, 16, 63, 100])
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_all_queries_see_what_they_may(kind: Kind, heads: tuple[int, int, int], window: int) -> None:
    attention = Attention(kind, heads, window)
    text = attention.text(200)
    right, allowed = attention.right(text)
    (whole,) = attention.step([(text, 0, 200)])
    assert bool(((whole - right).abs() <= allowed).all())
    stored = attention.keys[0, :, :200].transpose(0, 1), attention.values[0, :, :200].transpose(0, 1)
    assert torch.equal(torch.cat(stored, dim=1), text.qkv[:, heads[0] :].to(kind.dtype))
    assert bool(attention.keys[0, :, 200:].isnan().all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize("heads", HEADS[:6], ids=str)
def test_what_is_seen_is_the_same_to_the_last_bit_however_a_text_is_cut(
    kind: Kind, heads: tuple[int, int, int], window: int
) -> None:
    attention = Attention(kind, heads, window)
    text = attention.text(200)
    (whole,) = attention.step([(text, 0, 200)])
    for sizes in ((1,), (15, 17), (31, 1, 64, 5), (130, 3)):
        for table in (attention.keys, attention.values):
            table.fill_(float("nan"))
        found = [attention.step([(text, begin, end)])[0] for begin, end in cuts(200, *sizes)]
        assert torch.equal(torch.cat(found), whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heads", HEADS[:6], ids=str)
def test_what_is_seen_depends_on_no_other_row_and_no_thread(kind: Kind, heads: tuple[int, int, int]) -> None:
    attention = Attention(kind, heads, slots=5)
    texts = [attention.text(length, slot, slot) for slot, length in enumerate((200, 33, 64, 1, 140))]
    alone = [attention.step([(text, 0, len(text.qkv))])[0] for text in texts]
    (split,) = attention.step([(texts[0], 199, 200)], threads=8)  # heads that share keys read them each for itself
    assert torch.equal(split, alone[0][-1:])
    texts[1].qkv[20, -1] = float("inf")  # a value that spoils its own row
    for threads in (1, 3):
        found = attention.step([(text, 0, len(text.qkv)) for text in texts], threads)
        last = attention.step([(text, len(text.qkv) - 1, len(text.qkv)) for text in texts], threads)
        for n, (one, end, right) in enumerate(zip(found, last, alone, strict=True)):
            same = torch.equal(one, right) and torch.equal(end, right[-1:])
            assert same if n != 1 else not bool(one[20:].isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spoilt", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_stay_so_for_who_sees_them(kind: Kind, spoilt: float) -> None:
    attention = Attention(kind, (7, 1, 64))
    text = attention.text(150)
    right, allowed = attention.right(text)
    text.qkv[100, 7] = spoilt  # a key
    found = torch.cat([attention.step([(text, begin, end)])[0] for begin, end in cuts(150, 100)])
    assert bool(((found - right).abs() <= allowed)[:100].all())
    assert not bool(found[100].isfinite().all())
    text.qkv[100, 7] = 0.0  # another row in its place
    (found,) = attention.step([(text, 0, 100)])
    assert bool(((found - right[:100]).abs() <= allowed[:100]).all())


@without_tiles
def test_scores_far_apart_are_shared_out() -> None:
    attention = Attention(Kind.BFLOAT16, (7, 1, 64))
    text = attention.text(150)
    text.qkv[:, :7] *= 50  # some thousands: e to their power is no number
    right, allowed = attention.right(text)
    (found,) = attention.step([(text, 0, 150)])
    assert bool(((found - right).abs() <= allowed * 2).all())


@without_tiles
def test_equal_values_are_seen_as_they_are() -> None:
    attention = Attention(Kind.BFLOAT16, (7, 1, 64))
    text = attention.text(150)
    text.qkv[:, -1] = 0.75
    (found,) = attention.step([(text, 0, 150)])
    assert torch.allclose(found, torch.tensor(0.75), rtol=1e-6, atol=0)  # shares make up one as they were rounded
