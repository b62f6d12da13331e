"""Which regions are mended together, so that their windows fill the network's batches. Counts only, no pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Turn(NamedTuple):
    """One sample of one region, the smallest thing that is mended; ``windows`` is what it costs."""

    region: int
    sample: int
    windows: int


def turns(windows_of: Iterable[tuple[int, int]], samples: int) -> Iterator[Turn]:
    """Yield the samples of regions, given as (number, windows), one region after the other."""
    return (Turn(region, sample, windows) for region, windows in windows_of for sample in range(samples))


def grouped(turns: Iterable[Turn], most_windows: int) -> Iterator[list[Turn]]:
    """Cut the turns, in order, into groups of at most ``most_windows``; a turn that has more is a group of its own.

    >>> [[t.region for t in group] for group in grouped([Turn(1, 0, 4), Turn(2, 0, 5), Turn(3, 0, 12)], 9)]
    [[1, 2], [3]]
    """
    group: list[Turn] = []
    for turn in turns:
        if group and sum(member.windows for member in group) + turn.windows > most_windows:
            yield group
            group = []
        group.append(turn)
    if group:
        yield group
