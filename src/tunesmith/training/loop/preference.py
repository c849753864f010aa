"""Direct preference optimization (torch): Rafailov et al., arXiv:2305.18290."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tunesmith.training.data.encoding import Encoded
from tunesmith.training.data.material import Learned
from tunesmith.training.data.pairs import EncodedPair
from tunesmith.training.figures import ACCURACIES, MARGINS, NLL
from tunesmith.training.loop.base_margins import BaseMargins
from tunesmith.training.loop.objective import Surprise
from tunesmith.training.loop.ranks import Ranks
from tunesmith.training.run_folder import Stopped


class Preference:
    """Makes chosen answers likelier than rejected ones, measured from where the base stands.

    The base is the model before its first step, when LoRA's B is zero: its log-probabilities are taken once, before
    training, and no second model is held. A reward is beta times how much likelier an answer is than under the base.

    General examples may stand among the pairs, against forgetting. Each counts as much as a pair, with the mean surprise
    of its supervised tokens, as in Pang et al., arXiv:2404.19733: a long one does not outweigh the pairs.

    Args:
        beta: how strongly the base is held on to.

    Attributes:
        figures: as TRL names them: the share of pairs whose chosen answer has the higher reward, how much higher it is
            on the mean, and the mean loss of the general examples.
    """

    figures: tuple[str, ...] = (ACCURACIES, MARGINS, NLL)

    def __init__(self, surprise: Surprise, beta: float) -> None:
        self._surprise, self._beta = surprise, beta
        self._base: dict[int, float] = {}  # by the pair's id: how much likelier the base finds the chosen one, in nats

    def measure_base(
        self,
        examples: Sequence[Learned],
        stopped: Callable[[], bool] = lambda: False,
        ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
        kept: BaseMargins | None = None,
    ) -> None:
        """Remember what the model, which is the base now, makes of the pairs among ``examples``.

        Args:
            ranks: the processes that do this together, a share each.
            kept: where the first of them finds what was measured before, and else keeps it.

        Raises:
            Stopped: ``stopped()`` was true in one of them.
            OSError: it cannot be kept.
        """
        pairs = [example for example in examples if isinstance(example, EncodedPair)]
        margins = self._found(len(pairs), ranks, kept)
        if margins is None:
            margins = self._measured(pairs, stopped, ranks)
            if kept is not None and ranks.first:
                kept.write(margins)
        self._base = {id(pair): margin for pair, margin in zip(pairs, margins, strict=True)}

    def weight(self, examples: Sequence[Learned]) -> int:
        return len(examples)

    def parts(self, examples: Sequence[Learned]) -> list[list[Learned]]:
        return self._surprise.parts(examples)

    def loss(self, part: Sequence[Learned]) -> tuple[Tensor, Tensor]:
        pairs = [example for example in part if isinstance(example, EncodedPair)]
        general = [example for example in part if isinstance(example, Encoded)]
        margins_P, means_G = self._scored(pairs, general)
        base_P = margins_P.new_tensor([self._base[id(pair)] for pair in pairs])
        rewards_P = self._beta * (margins_P - base_P)
        loss = means_G.sum() - functional.logsigmoid(rewards_P).sum()
        with torch.no_grad():
            sums = torch.stack([(rewards_P > 0).sum(), rewards_P.sum(), means_G.sum()])
            counts = sums.new_tensor([len(pairs), len(pairs), len(general)])
        return loss, torch.stack([sums, counts], dim=1)

    def _found(self, count: int, ranks: Ranks, kept: BaseMargins | None) -> list[float] | None:
        """What was measured before, told to all processes by the first."""
        found = kept.read(count) if kept is not None and ranks.first else None
        if not ranks.any(found is not None):
            return None
        margins_P = torch.zeros(count, device=self._surprise.device)
        if found is not None:
            margins_P.copy_(torch.tensor(found))
        ranks.add([margins_P])
        return list(margins_P.tolist())

    def _measured(self, pairs: Sequence[EncodedPair], stopped: Callable[[], bool], ranks: Ranks) -> list[float]:
        numbers = {id(pair): number for number, pair in enumerate(pairs)}
        margins_P = torch.zeros(len(pairs), device=self._surprise.device)
        parts = self._surprise.parts(pairs)
        # all processes come round as often, so that they ask each other as often whether to stop
        for turn in range(0, len(parts), ranks.size):
            with torch.no_grad():
                for part in parts[turn + ranks.rank : turn + ranks.rank + 1]:
                    margins_P[[numbers[id(pair)] for pair in part]] = self._scored(part, [])[0]
            if ranks.any(stopped()):
                raise Stopped
        ranks.add([margins_P])
        return list(margins_P.tolist())

    def _scored(self, pairs: Sequence[EncodedPair], general: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """How much likelier each chosen answer is than the rejected one, in nats; the mean surprise of each other."""
        sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
        laid = self._surprise.laid([*sides, *general])
        nats_N: Any = self._surprise(laid)
        sums = nats_N.new_zeros(len(sides) + len(general)).index_add(0, laid.of_N, nats_N)
        chosen_P, rejected_P = sums[: len(sides)].view(-1, 2).unbind(1)
        learned_G = sums.new_tensor([example.supervised for example in general])
        return rejected_P - chosen_P, sums[len(sides) :] / learned_G
