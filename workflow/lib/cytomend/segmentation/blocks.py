"""Which pixels a block of a picture must see so that its cells are those of the whole picture.

A block owns the cells that are proposed from within its core. It sees the core, then ``3 reach`` more (a rival reaches
into the core's cells from up to twice the reach of a contour, and its own contour goes one reach further), then the
receptive field of the network. Cores lie on an absolute lattice; at the rim of the picture both end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cytomend.geometry import Box
from cytomend.segmentation.record import CpnSettings

BLOCK_PX = 1024

Read = Callable[[Box], NDArray[np.generic]]
"""Returns the grey pixels (h, w) of a box inside a picture."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a picture, as boxes in px.

    ``core`` is where its cells are proposed, ``rivals`` where cells that compete with them are, ``window`` what the
    network sees.
    """

    core: Box
    rivals: Box
    window: Box


def blocks(shape: tuple[int, int], settings: CpnSettings, block_px: int = BLOCK_PX) -> Iterator[Block]:
    """Yield the blocks of a picture, row by row.

    Parameters
    ----------
    shape : (height, width) in px
    settings : of the network
    block_px : side of a core; a multiple of the network's divisor
    """
    if block_px % settings.divisor_px:
        raise ValueError(f"block_px is {block_px}, expected a multiple of {settings.divisor_px}")
    margin = margin_px(settings)
    for core in Box(0, 0, *shape).tiles(block_px):
        yield Block(core, core.grow(2 * settings.reach_px).clip(shape), core.grow(margin).clip(shape))


def margin_px(settings: CpnSettings) -> int:
    """Return how far around its core a block sees; a multiple of the divisor, so that poolings fall on one lattice."""
    least = 3 * settings.reach_px + settings.receptive_px
    return -(-least // settings.divisor_px) * settings.divisor_px


def inside(place: NDArray[np.float32], box: Box) -> NDArray[np.bool_]:
    """Whether places (n, 2) of (y, x) lie in a box."""
    y, x = place.T
    return np.asarray((y >= box.y0) & (y < box.y1) & (x >= box.x0) & (x < box.x1))


def even(values: NDArray[np.float32], divisor_px: int) -> NDArray[np.float32]:
    """Return pixels (h, w) whose last rows and columns are repeated up to multiples of the divisor."""
    return np.pad(values, [(0, -side % divisor_px) for side in values.shape], mode="edge")
