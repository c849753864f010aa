"""Direct preference optimization (torch): Rafailov et al., arXiv:2305.18290."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tunesmith.training.data.pairs import EncodedPair
from tunesmith.training.loop.objective import Surprise
from tunesmith.training.run_folder import Stopped


class Preference:
    """Makes chosen answers likelier than rejected ones, measured from where the base stands.

    The base is the model before its first step, when LoRA's B is zero: its log-probabilities are taken once, before
    training, and no second model is held.

    Args:
        beta: how strongly the base is held on to.
    """

    def __init__(self, surprise: Surprise, beta: float) -> None:
        self._surprise, self._beta = surprise, beta
        self._base: dict[int, Tensor] = {}  # by the pair's id: how much likelier the base finds the chosen one, in nats

    def measure_base(self, pairs: Iterable[EncodedPair], stopped: Callable[[], bool] = lambda: False) -> None:
        """Remember what the model, which is the base now, makes of ``pairs``.

        Raises:
            Stopped: ``stopped()`` was true.
        """
        for part in self.parts(list(pairs)):
            if stopped():
                raise Stopped
            with torch.no_grad():
                margins = self._margins(part)
            self._base |= {id(pair): margin for pair, margin in zip(part, margins, strict=True)}

    def weight(self, examples: Sequence[EncodedPair]) -> int:
        return len(examples)

    def parts(self, examples: Sequence[EncodedPair]) -> list[list[EncodedPair]]:
        return self._surprise.parts(examples)

    def loss(self, part: Sequence[EncodedPair]) -> Tensor:
        base = torch.stack([self._base[id(pair)] for pair in part])
        return -functional.logsigmoid(self._beta * (self._margins(part) - base)).sum()

    def _margins(self, part: Sequence[EncodedPair]) -> Tensor:
        """How much likelier each chosen answer is than the rejected one, (pairs,), in nats."""
        laid = self._surprise.laid([each for pair in part for each in (pair.chosen, pair.rejected)])
        nats_N: Any = self._surprise(laid)
        sums = nats_N.new_zeros(2 * len(part)).index_add(0, laid.of_N, nats_N)
        chosen, rejected = sums.view(-1, 2).unbind(1)
        return rejected - chosen
