"""The lattice of windows: where the network looks, and how much each look counts. Geometry only, no pixels.

Windows of ``window_px`` stand at every multiple of ``stride_px`` from the section's origin, also where they reach
outside. A *cell* is the largest square of which both are multiples: the unit in which a canvas is stored, so that the
canvas of a long thin tear is as large as its windows, not as its bounding box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cytomend.geometry import Box

Int = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Lattice:
    """Squares of ``window_px`` at every ``stride_px``; neighbours overlap by the difference.

    Raises
    ------
    ValueError
        If the stride is less than half a window (more than two windows would meet on an axis) or more than a window,
        or if the cells would not be multiples of four pixels, which the noise is drawn in.
    """

    window_px: int
    stride_px: int

    def __post_init__(self) -> None:
        if not self.window_px / 2 <= self.stride_px <= self.window_px:
            raise ValueError(
                f"stride_px is {self.stride_px}, expected half a window to a window, "
                f"{self.window_px // 2} to {self.window_px}"
            )
        if self.cell_px % 4:
            raise ValueError(f"window_px {self.window_px} and stride_px {self.stride_px} must both be multiples of 4")

    @property
    def cell_px(self) -> int:
        """Side of a cell."""
        return math.gcd(self.window_px, self.stride_px)

    @property
    def cells_per_side(self) -> int:
        """Cells along one side of a window."""
        return self.window_px // self.cell_px

    def window_box(self, row: int, column: int) -> Box:
        """Return the pixels that the window at this place of the lattice sees; they may lie outside the section."""
        y, x = row * self.stride_px, column * self.stride_px
        return Box(y, x, y + self.window_px, x + self.window_px)

    def windows_over(self, cells: Int) -> Int:
        """Return the windows that see any of these cells.

        Parameters
        ----------
        cells : (n, 2) rows and columns of cells

        Returns
        -------
        (m, 2) rows and columns of windows, sorted
        """
        step = self.stride_px // self.cell_px
        reach = -(-self.cells_per_side // step)
        last = cells // step
        windows = np.concatenate([last - (dy, dx) for dy in range(reach) for dx in range(reach)])
        source = np.tile(cells, (reach * reach, 1))
        sees = ((windows * step <= source) & (source < windows * step + self.cells_per_side)).all(axis=1)
        return np.unique(windows[sees], axis=0)

    def weights(self) -> NDArray[np.float32]:
        """Return the (window_px, window_px) share of a window's prediction at each pixel.

        Sine-squared ramps over the overlap: shares of all windows of the lattice add up to one everywhere.
        """
        overlap = self.window_px - self.stride_px
        side = np.ones(self.window_px)
        ramp = np.sin((np.arange(overlap) + 0.5) / max(overlap, 1) * np.pi / 2) ** 2
        side[:overlap] *= ramp
        side[self.window_px - overlap :] *= ramp[::-1]
        return np.outer(side, side).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the cells of one canvas make up its windows, as index tables.

    ``cells`` (k, 2): rows and columns on the section's lattice. ``members`` (n, s * s): for each window, its cells,
    row by row. ``sources`` (k, 4): for each cell, the places ``window * s * s + part`` at which it occurs among the
    members; one past the last where there are fewer than four.
    """

    lattice: Lattice
    cells: Int
    members: Int
    sources: Int

    @property
    def corners_px(self) -> Int:
        """(k, 2) absolute pixel of each cell's corner."""
        return self.cells * self.lattice.cell_px

    @classmethod
    def of(cls, lattice: Lattice, windows: Int) -> Layout:
        """Lay out the canvas of these windows, (n, 2) rows and columns."""
        side = lattice.cells_per_side
        parts = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)
        step = lattice.stride_px // lattice.cell_px
        seen = (windows[:, None] * step + parts).reshape(-1, 2)
        cells, members = np.unique(seen, axis=0, return_inverse=True)
        members = members.reshape(-1)
        order = np.argsort(members, kind="stable")
        first = np.searchsorted(members[order], np.arange(len(cells)))
        rank = np.arange(len(members)) - first[members[order]]
        sources = np.full((len(cells), 4), len(members), dtype=np.int64)
        sources[members[order], rank] = order
        return cls(lattice, cells, members.reshape(len(windows), side * side), sources)

    @classmethod
    def joined(cls, layouts: Sequence[Layout]) -> Layout:
        """Lay out several canvases of one lattice as one, in which none knows of the others.

        Cells keep their places on the section and may occur more than once; every cell's windows are added up in the
        same order as in its own canvas.
        """
        first_cell = np.cumsum([0, *(len(layout.cells) for layout in layouts)])
        first_part = np.cumsum([0, *(layout.members.size for layout in layouts)])
        return cls(
            layouts[0].lattice,
            np.concatenate([layout.cells for layout in layouts]),
            np.concatenate([layout.members + first for layout, first in zip(layouts, first_cell, strict=False)]),
            np.concatenate(
                [
                    np.where(layout.sources < layout.members.size, layout.sources + first, first_part[-1])
                    for layout, first in zip(layouts, first_part, strict=False)
                ]
            ),
        )
