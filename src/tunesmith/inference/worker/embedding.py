"""What the layers begin with: the embedding's rows of the tokens."""

import torch
from torch import Tensor

from tunesmith.inference.worker.native import library as c
from tunesmith.inference.worker.pages import give_back, pages_of
from tunesmith.inference.worker.weights import Kernel, Panels

_KEPT = 128  # tokens looked up before pages are given back; the system maps up to some hundreds of KB around each
_LARGE = 64 << 20  # bytes of a table from which on that is worth three microseconds a token
_KINDS = {torch.float32: c.Kind.FLOAT32, torch.float16: c.Kind.FLOAT16, torch.bfloat16: c.Kind.BFLOAT16}


class Embedding:
    """Rows of the checkpoint's table, or of the output head where that holds the same: then nothing of the checkpoint
    stays in memory. Of a table that is mapped only what was looked up lately does.

    Args:
        weight_VI: the table.
        head: the output head, where its weights are the table; None where they are others.
        scale: of all numbers.
        computed: the type of what it gives.
    """

    def __init__(self, weight_VI: Tensor, head: Kernel | None, scale: float, computed: torch.dtype) -> None:
        self._scale, self._computed = scale, computed
        self._head = head if isinstance(head, Panels) and head.keeps(weight_VI) else None
        self._weight = None if self._head is not None else weight_VI.contiguous()
        large = [] if self._weight is None or self._weight.nbytes < _LARGE else [self._weight]
        self._pages = pages_of(large)
        self._looked_up = 0

    def __call__(self, tokens_T: Tensor) -> Tensor:
        """(tokens, width)."""
        if self._head is not None:
            x = self._head.rows(tokens_T)
        else:
            assert self._weight is not None
            x = torch.embedding(self._weight, tokens_T).to(self._computed)
            self.looked_up(len(tokens_T))
        return x if self._scale == 1.0 else x.mul_(self._scale)

    def looked_up(self, tokens: int) -> None:
        """Note that so many more tokens were, here or in ``table``."""
        self._looked_up += tokens
        if self._pages and self._looked_up >= _KEPT:
            give_back(self._pages)
            self._looked_up = 0

    def table(self) -> c.Embedding | None:
        """As the compiled library looks it up, for as long as this is there; None where it cannot."""
        if self._head is not None:
            return c.Embedding(self._head.product, self._scale, True)
        assert self._weight is not None
        kind = _KINDS.get(self._weight.dtype)
        if kind is None:
            return None
        vocabulary, width = self._weight.shape
        return c.Embedding(
            c.Product(self._weight.data_ptr(), None, None, None, kind, width, vocabulary), self._scale, False
        )
