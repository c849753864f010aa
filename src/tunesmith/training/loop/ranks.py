"""Several processes that train one model together, as ``torchrun`` starts them (torch.distributed).

Each holds the whole model and does its share of the parts of every step; gradients are summed. What a part's dropout
drops follows from the recipe's seed, the step and the part, so two processes train what one would, up to the order
sums are made in.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

_Some = TypeVar("_Some")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together; alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that tells, keeps and publishes."""
        return self.rank == 0

    def share(self, parts: Sequence[_Some]) -> Iterator[tuple[int, _Some]]:
        """The parts this process does, with their numbers."""
        return ((number, part) for number, part in enumerate(parts) if number % self.size == self.rank)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Sum each over all processes, in place."""
        if self.size == 1:
            return
        together = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(together)
        for tensor, found in zip(tensors, together.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(found.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether any of them says so."""
        if self.size == 1:
            return flag
        told = torch.tensor([float(flag)], device=_device())
        torch.distributed.all_reduce(told)
        return bool(told.item())


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that ``torchrun`` started with this one; alone where it did not start this one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(torch.distributed.get_rank(), size)
    finally:
        torch.distributed.destroy_process_group()


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
