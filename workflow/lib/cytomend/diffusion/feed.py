"""Batches drawn ahead in the background, so that the network does not wait for tissue."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator

from torch.utils.data import DataLoader, Dataset, Sampler

from cytomend.diffusion.patches import Batch, Patches

Key = tuple[int, range]
"""A step, and which samples of its batch."""
AHEAD = 4
"""Batches that each worker has ready."""


class _Drawn(Dataset[Batch]):
    """Draws by key; this is what a worker process holds."""

    def __init__(self, patches: Patches) -> None:
        self.patches = patches

    def __getitem__(self, key: Key) -> Batch:
        return self.patches.draw(*key)


class _Keys(Sampler[Key]):
    """The keys in their order, made as they are needed: a long training has millions."""

    def __init__(self, keys: Callable[[], Iterable[Key]]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys())


def feed(patches: Patches, keys: Callable[[], Iterable[Key]], workers: int, *, pin: bool) -> Iterator[Batch]:
    """Yield the batches of the keys in their order.

    Parameters
    ----------
    patches : what to draw from
    keys : returns the keys
    workers : processes that draw ahead; with 0 each batch is drawn when it is asked for
    pin : keep batches in page-locked memory, from which a GPU copies while it computes
    """
    # Forked workers share tiles in memory and open stores themselves; where there is no fork, they get copies.
    context = "fork" if workers and "fork" in multiprocessing.get_all_start_methods() else None
    return iter(
        DataLoader(
            _Drawn(patches),
            batch_size=None,
            sampler=_Keys(keys),
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            pin_memory=pin,
            multiprocessing_context=context,
        )
    )
