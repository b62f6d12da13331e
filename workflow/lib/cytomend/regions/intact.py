"""Intact tissue, cut from a section for training: read lazily, masked tissue marked as not to be used or left out."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytomend.geometry import Box
from cytomend.regions.annotation import ArtefactMask, Masked
from cytomend.storage.images import SectionImage

PASSES = 8
"""How often a section is gone over for patches; patches of one pass do not overlap."""


class Piece(NamedTuple):
    """Pixels (C, h, w) in the scanner's dtype, and which of them are intact, (h, w) bool."""

    pixels: NDArray[np.generic]
    intact: NDArray[np.bool_]


def intact_pieces(
    image: SectionImage, mask: ArtefactMask | None, within: Box, piece_px: int, window_px: int, seed: int
) -> Iterator[Piece]:
    """Yield pieces that hold at least one intact window, in the order of a seeded shuffle.

    Pieces of ``piece_px`` overlap by a window, so that no place of a small scan is lost between them.
    """
    step = max(piece_px - window_px, 1)
    corners = [
        (y, x)
        for y in range(within.y0, max(within.y1 - window_px, within.y0) + 1, step)
        for x in range(within.x0, max(within.x1 - window_px, within.x0) + 1, step)
    ]
    for i in np.random.default_rng(seed).permutation(len(corners)):
        y, x = corners[i]
        box = Box(y, x, y + piece_px, x + piece_px).intersect(within)
        intact = ~mask.read(box) if mask is not None else np.ones(box.shape, dtype=bool)
        if holds_window(intact, window_px):
            yield Piece(image.read(box), intact)


def intact_squares(shape: tuple[int, int], mask: Masked, side_px: int, name: str) -> Iterator[Box]:
    """Yield squares of a section without a masked pixel, in an order that follows from the section's name alone.

    The section is cut into squares, which are visited at random. Only when all are visited it is cut anew, with another
    random shift, so that squares overlap no sooner than need be; after `PASSES` cuts it is at its end.
    """
    seed = int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
    seen = set[Box]()
    for cut in range(PASSES):
        rng = np.random.default_rng([seed, cut])
        # The first cut leaves out as little as it can, so that a scan little larger than a square has one.
        room = [extent % side_px + 1 if cut == 0 and extent >= side_px else side_px for extent in shape]
        y0, x0 = (int(rng.integers(most)) for most in room)
        rows, columns = (max(shape[0] - y0, 0) // side_px, max(shape[1] - x0, 0) // side_px)
        for place in rng.permutation(rows * columns).tolist():
            y, x = y0 + place // columns * side_px, x0 + place % columns * side_px
            box = Box(y, x, y + side_px, x + side_px)
            if box not in seen and not mask.read(box).any():
                seen.add(box)
                yield box


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
