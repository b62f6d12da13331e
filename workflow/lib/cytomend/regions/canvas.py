"""The canvas of one region: pixels and mask of its windows, read by cells, mirrored outside the section."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytomend.geometry import Box
from cytomend.regions.lattice import Layout

READ_PX = 512
"""Cells are read together by squares of this size."""

Read = Callable[[Box], NDArray[np.generic]]
"""Reads a box inside the section as (..., h, w)."""


class Canvas(NamedTuple):
    """What a sampler works on, one row a cell of the layout.

    ``pixels`` (k, C, c, c) in the scanner's dtype; ``numbers`` (k, 1, c, c) region numbers, 0 where the pixel is known.
    """

    pixels: NDArray[np.generic]
    numbers: NDArray[np.uint32]


def read_canvas(read_pixels: Read, read_labels: Read, shape: tuple[int, int], layout: Layout) -> Canvas:
    """Read the cells of a layout.

    Parameters
    ----------
    read_pixels : of the source, (C, h, w)
    read_labels : region numbers, (h, w)
    shape : (height, width) of the section
    """
    cell_px = layout.lattice.cell_px
    corners = layout.corners_px
    pixels = read_cells(read_pixels, shape, corners, cell_px)
    numbers = read_cells(lambda box: read_labels(box)[None], shape, corners, cell_px)
    return Canvas(pixels, numbers.astype(np.uint32))


def read_cells(read: Read, shape: tuple[int, int], corners: NDArray[np.int64], cell_px: int) -> NDArray[np.generic]:
    """Return (k, C, c, c), the cells with these corners, reading each square of `READ_PX` once."""
    square = corners // READ_PX
    _, member_of = np.unique(square, axis=0, return_inverse=True)
    cells: list[NDArray[np.generic] | None] = [None] * len(corners)
    for i in range(int(member_of.max()) + 1):
        members = np.flatnonzero(member_of.reshape(-1) == i)
        low, high = corners[members].min(axis=0), corners[members].max(axis=0) + cell_px
        around = read_mirrored(read, shape, Box(int(low[0]), int(low[1]), int(high[0]), int(high[1])))
        for member in members:
            y, x = corners[member] - low
            cells[member] = around[..., y : y + cell_px, x : x + cell_px]
    return np.stack([cell for cell in cells if cell is not None])


def read_mirrored(read: Read, shape: tuple[int, int], box: Box) -> NDArray[np.generic]:
    """Read a box that may reach outside the section, whose image is mirrored there, border pixels included."""
    rows, columns = mirror(box.y0, box.y1, shape[0]), mirror(box.x0, box.x1, shape[1])
    inside = Box(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
    return read(inside)[..., rows[:, None] - inside.y0, columns[None, :] - inside.x0]


def mirror(start: int, stop: int, length: int) -> NDArray[np.int64]:
    """Return indices of an axis of this length for positions that may lie outside it.

    >>> mirror(-2, 5, 3).tolist()
    [1, 0, 0, 1, 2, 2, 1]
    """
    folded = np.arange(start, stop) % (2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)
