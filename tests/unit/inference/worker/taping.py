"""A stand-in for CUDA graphs on machines without a GPU: a tape of torch's operations.

Like a graph it knows nothing of Python: it does again exactly the operations that ran while it was recorded, on the same
tensors. A number that Python worked out, a tensor made outside and a cache that was filled before stay what they were. What
a GPU refuses while it is recorded (waiting for a result, copying Python's numbers) is refused here too. What was computed
while recording is spoiled afterwards, since a GPU only notes it. Tensors that were there before are not kept alive.

It shows nothing of CUDA itself: which kernels torch takes there, their streams, pools and speed.
"""

import inspect
import weakref
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_REFUSED = frozenset(
    {
        "aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::nonzero",
        "aten::masked_select", "aten::lift_fresh", "aten::pin_memory", "aten::_unique2",
    }
)  # fmt: skip


class Refused(RuntimeError):
    """As a GPU refuses: operation not permitted when stream is capturing."""


class Tape(TorchDispatchMode):
    """What ran while it was entered."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, list[Any]]] = []
        self._made: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        chosen = args[1] if func._schema.name in ("aten::index", "aten::index_put_") else ()
        if func._schema.name in _REFUSED or any(one is not None and one.dtype == torch.bool for one in chosen):
            raise Refused(f"operation not permitted when stream is capturing: {func}")
        given = tree_map_only(Tensor, self._held, (args, kwargs or {}))
        before = {id(one) for one in tree_leaves((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        after = tree_leaves(out)
        self._made |= {id(one): one for one in after if id(one) not in before}
        self._operations.append((func, given, after if all(id(one) in self._made for one in after) else []))
        return out

    def _held(self, tensor: Tensor) -> "_Held":
        return _Held(self._made.get(id(tensor)), weakref.ref(tensor))

    def replay(self) -> None:
        for func, given, before in self._operations:
            args, kwargs = tree_map_only(_Held, _Held.tensor, given)
            for old, new in zip(before, tree_leaves(func(*args, **kwargs)), strict=bool(before)):
                assert old.shape == new.shape
                if old.data_ptr() != new.data_ptr():  # else it is a view, or was changed in place
                    old.copy_(new)

    def spoil(self) -> None:
        """Nothing of what was computed is left, but for what was there before."""
        there = {one.untyped_storage().data_ptr() for one in self._outside()}
        for tensor in self._made.values():
            if tensor.numel() and tensor.untyped_storage().data_ptr() not in there:
                tensor.fill_(float("nan") if tensor.is_floating_point() else tensor.dtype == torch.bool or 1 << 30)

    def _outside(self) -> list[Tensor]:
        held = [one for _, given, _ in self._operations for one in tree_leaves(given) if isinstance(one, _Held)]
        return [one.tensor() for one in held if one.made is None]


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """An operation's argument: ``made`` while recording, or there before."""

    made: Tensor | None
    there: "weakref.ref[Tensor]"

    def tensor(self) -> Tensor:
        tensor = self.there() if self.made is None else self.made
        if tensor is None:
            raise RuntimeError("an illegal memory access was encountered: a tensor that was recorded is gone")
        return tensor


class Taping:
    """Records on tapes. ``fails``: as a device that cannot."""

    def __init__(self, fails: Sequence[BaseException] = ()) -> None:
        self.tapes = 0
        self._fails = list(fails)

    def __call__(self, run: Callable[[], None]) -> Tape:
        if self._fails:
            raise self._fails.pop(0)
        run()  # as on a GPU, where the first time makes what kernels keep
        tape = Tape()
        with tape:
            run()
        tape.spoil()
        self.tapes += 1
        return tape


class Cuda:
    """Notes what is asked of ``torch.cuda``, with arguments that the real functions take; records nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream, self.asked, self.pools = "usual", list[str](), 0
        self.graphs: list[Any] = []
        real, cuda = inspect.signature(torch.cuda.graph), torch.cuda

        class Stream:
            def __init__(self, name: str = "side") -> None:
                self.name = name

            def wait_stream(self, other: Any) -> None:
                self_.asked.append(f"{self.name} waits for {other.name}")

        class Graph:
            def replay(self) -> None: ...

        self_ = self

        @contextmanager
        def on(stream: Any) -> Any:
            before, self.stream = self.stream, stream.name
            try:
                yield
            finally:
                self.stream = before

        @contextmanager
        def recording(*given: Any, **named: Any) -> Any:
            bound = real.bind(*given, **named).arguments
            self.graphs.append((bound["cuda_graph"], bound["pool"]))
            before, self.stream = self.stream, f"{bound['stream'].name}, recording {bound['capture_error_mode']}"
            yield  # what raises inside leaves the stream as it is, as torch does
            self.stream = before

        def pool() -> int:
            self.pools += 1
            return self.pools

        monkeypatch.setattr(cuda, "Stream", lambda device: Stream())
        monkeypatch.setattr(cuda, "current_stream", lambda device: Stream("usual"))
        monkeypatch.setattr(cuda, "stream", on)
        monkeypatch.setattr(cuda, "graph", recording)
        monkeypatch.setattr(cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(cuda, "graph_pool_handle", pool)

    def work(self) -> None:
        self.asked.append(self.stream)
