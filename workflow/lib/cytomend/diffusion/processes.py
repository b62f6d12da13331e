"""The processes that train together, as torchrun starts them: one a GPU, on one machine or many. One alone is usual."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from cytomend.errors import InputError


@dataclass(frozen=True, slots=True)
class Processes:
    """Which of ``count`` processes this one is, and where it computes; ``here`` of them are on this machine."""

    device: torch.device
    rank: int = 0
    count: int = 1
    here: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of what all processes hold, elementwise; all of them must ask."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the other processes, if torchrun started this one, and yield what this process is.

    Raises
    ------
    InputError
        If the device cannot be used, or there are more processes than GPUs on this machine.
    """
    rank, count, local, here = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
    )
    try:
        place = torch.device(device)
        if place.type == "cuda":
            if here > (found := torch.cuda.device_count()):
                raise InputError(
                    f"{here} processes on this machine, but {found} GPUs; start one a GPU (--nproc-per-node)"
                )
            place = torch.device("cuda", local) if count > 1 or place.index is None else place
            torch.cuda.set_device(place)
        torch.empty(1, device=place).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {device}: cannot be used here ({str(error).splitlines()[0]}); try cpu") from error
    if count > 1:
        distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    yield Processes(place, rank, count, here)
    if count > 1:  # not after an error: the others may be waiting, and torchrun ends them
        distributed.destroy_process_group()
