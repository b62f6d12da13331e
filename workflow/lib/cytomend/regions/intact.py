"""Pieces of intact tissue, cut from a section for training: read lazily, masked tissue marked as not to be used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytomend.geometry import Box
from cytomend.regions.annotation import ArtefactMask
from cytomend.storage.images import SectionImage


class Piece(NamedTuple):
    """Pixels (C, h, w) in the scanner's dtype, and which of them are intact, (h, w) bool."""

    pixels: NDArray[np.generic]
    intact: NDArray[np.bool_]


def intact_pieces(
    image: SectionImage, mask: ArtefactMask | None, within: Box, piece_px: int, window_px: int, most: int, seed: int
) -> Iterator[Piece]:
    """Yield pieces that hold at least one intact window, in the order of a seeded shuffle, ``most`` at the most.

    Pieces of ``piece_px`` overlap by a window, so that no place of a small scan is lost between them.
    """
    step = max(piece_px - window_px, 1)
    corners = [
        (y, x)
        for y in range(within.y0, max(within.y1 - window_px, within.y0) + 1, step)
        for x in range(within.x0, max(within.x1 - window_px, within.x0) + 1, step)
    ]
    found = 0
    for i in np.random.default_rng(seed).permutation(len(corners)):
        y, x = corners[i]
        box = Box(y, x, y + piece_px, x + piece_px).intersect(within)
        intact = ~mask.read(box) if mask is not None else np.ones(box.shape, dtype=bool)
        if found < most and holds_window(intact, window_px):
            found += 1
            yield Piece(image.read(box), intact)


def holds_window(intact: NDArray[np.bool_], window_px: int) -> bool:
    """Whether some square of ``window_px`` is intact all over."""
    if min(intact.shape) < window_px:
        return False
    counts = np.pad(intact.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    squares = (
        counts[window_px:, window_px:]
        - counts[:-window_px, window_px:]
        - counts[window_px:, :-window_px]
        + counts[:-window_px, :-window_px]
    )
    return bool((squares == window_px**2).any())
