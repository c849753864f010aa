"""A whole step in one call of the compiled library, for decoders all of whose products it computes."""

import ctypes
import struct
from array import array
from collections.abc import Callable, Sequence
from ctypes import c_int32, c_void_p
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from tunesmith.inference.worker.block import Decoder, Norm, Product
from tunesmith.inference.worker.cache import Arena
from tunesmith.inference.worker.lora import AdapterWeights, Site
from tunesmith.inference.worker.native import library as c
from tunesmith.inference.worker.step import Predictions, Step
from tunesmith.inference.worker.weights import Panels

_CPU = torch.device("cpu")
_ROTATIONS = 2  # kinds a step may have
_ROW = struct.Struct("PPqqiii4x")  # ``c.Row``: all fields of a row at once take a third of the time of one by one


class Program:
    """What the library is told of a decoder, once; then steps.

    Args:
        decoder: one all of whose products and activations the library computes, which ``program`` sees to.

    Attributes:
        cached: what its steps keep keys and values in: bfloat16 where products are made by tiles, which then attend too.
    """

    def __init__(self, decoder: Decoder, native: c.Library) -> None:
        self._decoder, self._native = decoder, native
        self._kinds = list(dict.fromkeys(layer.attention.rotary for layer in decoder.layers))
        self._sites = [site.site for layer in decoder.layers for site in _products(layer)]
        self._worn: WeakKeyDictionary[AdapterWeights, _Worn] = WeakKeyDictionary()
        self._layers = (c.Layer * len(decoder.layers))(*(self._layer(layer) for layer in decoder.layers))
        first = decoder.layers[0]
        head, embedding = _panels(decoder.head), decoder.embedding.table()
        assert head is not None and embedding is not None
        cached = c.Kind.BFLOAT16 if c.Kind(head.product.kind).tiled else c.Kind.FLOAT32
        self.cached = cached.dtype
        self._no_logits = torch.empty(0, head.product.outputs)
        self._model = c.Model(
            layers=self._layers,
            embedding=embedding,
            head=head.product,
            norm=decoder.norm.weight.data_ptr(),
            eps=decoder.norm.eps,
            count=len(decoder.layers),
            width=first.gate_up.site.inputs,
            heads=first.attention.heads,
            kv_heads=first.attention.kv_heads,
            head_width=first.attention.width,
            inner=first.down.site.inputs,
            activation=_activation(first.activation),
            cached=cached,
        )

    def takes(self, step: Step) -> bool:
        """Whether it can run this one: a DoRA's products are torch's."""
        return not any(self._worn_by(segment.adapter).weighs for segment in step.segments)

    def __call__(self, step: Step) -> Predictions:
        """Run the step."""
        given = step.lasting.get(self) if step.lasting is not None else None
        if given is None or not given.follow():
            given = self._given(step)
            if step.lasting is not None:
                step.lasting[self] = given
        self._native.step(self._model, given.step)
        self._decoder.embedding.looked_up(len(step.tokens))
        found: Sequence[int | None] = given.likeliest.tolist()
        if -1 in found:
            found = [token if token != -1 else None for token in found]
        return Predictions(given.logits, found)

    def _given(self, step: Step) -> "_Given":
        kept = len(step.keep)
        tokens: Any = array("i", step.tokens) if step.lasting is None else step.tokens
        tables, turns, known = self._rotations(step)
        logits = torch.empty(kept, self._model.head.outputs) if step.logits else self._no_logits
        likeliest = array("i", bytes(4 * kept))
        row_bytes, addresses = _rows(step)
        rows = (c.Row * (len(row_bytes) // _ROW.size)).from_buffer(row_bytes)
        segments = (c.Segment * len(step.segments))()
        for segment, one in zip(segments, step.segments, strict=True):
            segment.begin, segment.end = one.begin, one.end
            segment.worn = ctypes.addressof(self._worn_by(one.adapter).table)
        given = c.Step(
            tokens=len(tokens), rows=len(rows), segments=len(segments), kept=kept,
            token=tokens.buffer_info()[0], turn=turns.buffer_info()[0], row=rows, segment=segments,
            keep=(c_int32 * kept)(*step.keep), logits=logits.data_ptr() if step.logits else None,
            likeliest=(c_int32 * kept).from_buffer(likeliest),
        )  # fmt: skip
        for n, table in enumerate(tables):
            cos = table.data_ptr()
            given.cos[n], given.sin[n], given.rotated[n] = cos, cos + table.nbytes // 2, table.shape[-1]
        starts = np.frombuffer(row_bytes, dtype=np.int32)[c.Row.start.offset // 4 :: _ROW.size // 4]
        return _Given(given, logits, likeliest, step.positions, starts, known, (tokens, tables, turns, addresses))

    def _rotations(self, step: Step) -> tuple[list[Tensor], Any, int]:
        """Cosines and sines of each kind, (2, .., 1, width), where in them each position's are, and below which position
        they are in these tables.
        """
        longest = max(step.positions) + 1
        tables = [self._decoder.rotations(kind, longest, _CPU) for kind in self._kinds]
        known = [table for table in tables if table is not None]
        if len(known) == len(tables):
            turns = array("i", step.positions) if step.lasting is None else step.positions
            return known, turns, min(table.shape[1] for table in known)
        positions_T = torch.tensor(step.positions)
        computed = [torch.stack(self._decoder.turns(positions_T, kind)) for kind in self._kinds]
        return computed, array("i", range(len(step.positions))), 0

    def _layer(self, layer: Any) -> c.Layer:
        at = layer.attention
        return c.Layer(
            products=(c.Product * c.SITES)(*(_known(one).product for one in _products(layer))),
            before_attention=_address(layer.before_attention),
            after_attention=_address(layer.after_attention),
            before_mlp=_address(layer.before_mlp),
            after_mlp=_address(layer.after_mlp),
            q_norm=_address(at.q_norm),
            k_norm=_address(at.k_norm),
            scaling=at.scaling,
            window=at.window or 0,
            rotary=self._kinds.index(at.rotary),
        )

    def _worn_by(self, adapter: AdapterWeights) -> "_Worn":
        found = self._worn.get(adapter)
        if found is None:
            found = self._worn[adapter] = _Worn(adapter, self._sites)
        return found


class _Given:
    """What the library is given for a step, and where it leaves what it finds.

    Args:
        positions: the step's.
        starts: of each row in ``step``, 32 bits.
        known: positions below which have their rotations in the tables that ``step`` names.
        kept: what else ``step`` points at.
    """

    __slots__ = ("_kept", "_known", "_positions", "_starts", "likeliest", "logits", "step")

    def __init__(
        self, step: c.Step, logits: Tensor, likeliest: "array[int]", positions: Any, starts: Any, known: int, kept: Any
    ) -> None:
        self.step, self.logits, self.likeliest = step, logits, likeliest
        self._positions, self._starts, self._known, self._kept = positions, starts, known, kept

    def follow(self) -> bool:
        """Take over the positions of a lasting step; False where it is to be given anew."""
        if max(self._positions) >= self._known:
            return False
        self._starts[:] = self._positions
        return True


class _Worn:
    """An adapter as the library reads it; its tensors belong to the adapter, which outlives this.

    Attributes:
        table: the address of what it has at each site, layer by layer; None where it has nothing.
        weighs: it is a DoRA.
    """

    def __init__(self, adapter: AdapterWeights, sites: Sequence[Site]) -> None:
        self.table = (c_void_p * len(sites))()
        self._kept = list[Any]()
        self.weighs = any(part.share is not None for worn in adapter.sites.values() for part in worn.parts)
        for n, site in enumerate(sites):
            worn = adapter.sites.get(site)
            if worn is None:
                continue
            parts = (c.Part * len(worn.parts))(
                *(c.Part(part.begin, part.end, part.low, part.high, part.B.data_ptr()) for part in worn.parts)
            )
            one = c.Worn(worn.A.data_ptr(), parts, worn.A.shape[1], len(parts))
            self._kept.append((one, parts))
            self.table[n] = ctypes.addressof(one)


def program(decoder: Decoder) -> Program | None:
    """The decoder as a program; None where there is no library, or it does not compute all of the decoder."""
    native = c.library()
    return Program(decoder, native) if native is not None and _fits(decoder) else None


def _fits(decoder: Decoder) -> bool:
    first = decoder.layers[0]
    shape = (first.attention.heads, first.attention.kv_heads, first.attention.width, first.down.site.inputs)
    for layer in decoder.layers:
        at = layer.attention
        norms = [layer.before_attention, layer.after_attention, layer.before_mlp, layer.after_mlp, at.q_norm, at.k_norm]
        if (at.heads, at.kv_heads, at.width, layer.down.site.inputs) != shape:
            return False
        if any(norm is not None and norm.eps != decoder.norm.eps for norm in norms):
            return False
        if any(_panels(one.kernel) is None for one in _products(layer)) or _activation(layer.activation) is None:
            return False
    return (
        _panels(decoder.head) is not None
        and decoder.embedding.table() is not None
        and first.attention.width % c.PANEL == 0
        and first.down.site.inputs % c.PANEL == 0
        and first.attention.heads % first.attention.kv_heads == 0
        and len({layer.attention.rotary for layer in decoder.layers}) <= _ROTATIONS
    )


def _rows(step: Step) -> tuple[bytearray, Any]:
    """The step's rows as ``c.Row`` lie in memory, and what they point at."""
    kept: list[Any] = []
    known: dict[Arena, tuple[int, int, int]] = {}
    spans = [(one.lease, one.begin, one.end, one.start) for one in step.chunks]
    spans += [(lease, token, token + 1, lease.length) for lease, token in step.decoding]
    rows = bytearray(_ROW.size * len(spans))
    for at, (lease, begin, end, start) in enumerate(spans):
        arena = lease.arena
        if arena not in known:
            keys, values = _addresses(arena.keys), _addresses(arena.values)
            kept += (keys, values)
            known[arena] = ctypes.addressof(keys), ctypes.addressof(values), arena.capacity
        at_keys, at_values, capacity = known[arena]
        _ROW.pack_into(rows, at * _ROW.size, at_keys, at_values, lease.slot, capacity, begin, end, start)
    return rows, kept


def _products(layer: Any) -> tuple[Product, Product, Product, Product]:
    return layer.attention.qkv, layer.attention.out, layer.gate_up, layer.down


def _panels(kernel: Any) -> Panels | None:
    return kernel if isinstance(kernel, Panels) else None


def _known(product: Product) -> Panels:
    assert isinstance(product.kernel, Panels)
    return product.kernel


def _activation(function: Callable[[Tensor], Tensor]) -> int | None:
    """Which of the library's it is, by what it gives: transformers has several names for each."""
    x = torch.linspace(-6, 6, 97)
    known = {c.SILU: torch.nn.functional.silu(x), c.GELU: torch.nn.functional.gelu(x, approximate="tanh")}
    found = function(x)
    return next((name for name, like in known.items() if torch.allclose(found, like, rtol=0, atol=1e-6)), None)


def _address(norm: Norm | None) -> int | None:
    return None if norm is None else norm.weight.data_ptr()


def _addresses(tensors: Sequence[Tensor]) -> Any:
    return (c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
