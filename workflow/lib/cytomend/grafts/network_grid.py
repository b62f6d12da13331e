"""The network's pixel grid over a section whose pixels have another size.

Both grids start at the section's upper left corner. Pixel ``i`` of a grid with pixels of ``p`` µm covers ``i p`` to
``(i + 1) p`` µm. `NetworkGrid.step` is the side of a network pixel in pixels of the scan. It need not be whole.

Values go from the finer grid to the coarser one as means, in which each fine pixel counts by the length that it shares
with the coarse one. Values go from the coarser grid to the finer one by interpolation between pixel centres: linear on
the way to the network, cubic (Keys 1981, a = -1/2) on the way back. At the section's border the last pixel is repeated.

Each row of the weights depends on the place of its pixel alone, so that a value is the same bit for bit in every box.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cytomend.geometry import Box
from cytomend.regions.lattice import Lattice

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]

SLIVER = 1e-6
"""Share of a pixel below which two pixels only touch: places are computed as floats."""
LINEAR, CUBIC = 1, 2
"""Pixels on either side of a place that interpolation reads."""


@dataclass(frozen=True, slots=True)
class NetworkGrid:
    """Where the pixels of the network lie on a section.

    Attributes
    ----------
    shape : (height, width) of the section, in pixels of the scan
    scan_um, network_um : side of a pixel of either grid
    lattice : of the network's windows, in network pixels
    """

    shape: tuple[int, int]
    scan_um: float
    network_um: float
    lattice: Lattice

    @property
    def step(self) -> float:
        """Pixels of the scan to one of the network."""
        return self.network_um / self.scan_um

    @property
    def network_shape(self) -> tuple[int, int]:
        """(height, width) of the section in network pixels; the last ones may lie partly outside."""
        height, width = (max(math.ceil(n / self.step - SLIVER), 1) for n in self.shape)
        return height, width

    def scan_box(self, box: Box) -> Box:
        """Return the pixels of the scan that network pixels are computed from."""
        return _scaled(box, self.step).grow(LINEAR).clip(self.shape)

    def network_box(self, box: Box) -> Box:
        """Return the network pixels that pixels of the scan are computed from."""
        return _scaled(box, 1 / self.step).grow(CUBIC).clip(self.network_shape)

    def to_network(self, box: Box, values: Float32) -> Float32:
        """Return values on network pixels, (C, h, w), from those on `scan_box`, (C, H, W).

        No weight is negative: a network pixel is above 0 if any pixel that it is computed from is.
        """
        return _applied(box, self.scan_box(box), values, _weights(self.step, self.shape, LINEAR))

    def to_scan(self, box: Box, values: Float32) -> Float32:
        """Return values on pixels of the scan, (C, H, W), from those on `network_box`, (C, h, w)."""
        return _applied(box, self.network_box(box), values, _weights(1 / self.step, self.network_shape, CUBIC))

    def share_on_scan(self, box: Box, values: Float32) -> Float32:
        """Return `to_scan` without overshoot, for shares: linear where the scan is finer."""
        return _applied(box, self.network_box(box), values, _weights(1 / self.step, self.network_shape, LINEAR))

    def whole(self, box: Box, mask: Mask) -> Mask:
        """Return a mask (H, W) of a box of the scan, widened to all pixels that share a network pixel with it.

        Parameters
        ----------
        box : inside the section
        mask : (H, W), of that box
        """
        rows, columns = self._shared(_scaled(box, 1 / self.step).clip(self.network_shape), box)
        touched = rows @ mask.astype(np.float32) @ columns.T > 0
        return np.asarray(rows.T @ touched.astype(np.float32) @ columns > 0)

    def touches(self, box: Box, mask: Mask) -> Mask:
        """Return which network pixels of a box share any of a masked pixel, (h, w); ``mask`` is that of `scan_box`."""
        rows, columns = self._shared(box, self.scan_box(box))
        return np.asarray(rows @ mask.astype(np.float32) @ columns.T > 0)

    def _shared(self, network: Box, scan: Box) -> tuple[sparse.csr_array, sparse.csr_array]:
        """Return the length that rows, and columns, of both grids share."""
        rows = _overlaps(network.y0, network.y1, self.step, scan.y0, scan.y1)
        return rows, _overlaps(network.x0, network.x1, self.step, scan.x0, scan.x1)

    def cells_over(self, box: Box, mask: Mask) -> NDArray[np.int64]:
        """Return the cells (n, 2) of the lattice that hold a network pixel which is computed from a masked pixel.

        Parameters
        ----------
        box : of the scan
        mask : (H, W), of that box
        """
        margin = 0 if self.step >= 1 else LINEAR
        ys, xs = np.nonzero(mask)
        if not len(ys):
            return np.zeros((0, 2), np.int64)
        (low_y, rows), (low_x, columns) = (
            self._cells_along(at + start, margin) for at, start in ((ys, box.y0), (xs, box.x0))
        )
        found = np.zeros((rows.max() + 1, columns.max() + 1), dtype=bool)
        for of_row in rows:
            for of_column in columns:
                found[of_row, of_column] = True
        return np.asarray(np.argwhere(found) + (low_y, low_x))  # noqa: RUF005

    def _cells_along(self, at: NDArray[np.int64], margin: int) -> tuple[int, NDArray[np.int64]]:
        """Return the first cell of an axis, and the cells (m, n) from there that hold pixels of the scan, (n,)."""
        first, last = (
            np.floor((at + end) / self.step).astype(np.int64) // self.lattice.cell_px for end in (-margin, 1 + margin)
        )
        low, most = int(first.min()), int((last - first).max())
        return low, np.minimum(first + np.arange(most + 1)[:, None], last) - low


Weights = Callable[[int, int, int, int, int], sparse.csr_array]
"""(axis, start, stop, first, last) -> weights of pixels ``first`` to ``last`` in pixels ``start`` to ``stop``."""


def _weights(step: float, shape: tuple[int, int], taps: int) -> Weights:
    """Return the weights of pixels of a grid of this shape in pixels whose side is ``step`` of them."""

    def of_axis(axis: int, start: int, stop: int, first: int, last: int) -> sparse.csr_array:
        if step >= 1:
            return averaging(start, stop, step, first, last)
        return interpolating(start, stop, step, first, last, shape[axis], taps)

    return of_axis


def averaging(start: int, stop: int, step: float, first: int, last: int) -> sparse.csr_array:
    """Return the weights, (stop - start, last - first), of pixels in means over pixels whose side is ``step`` of them.

    Pixel ``i`` covers ``i step`` to ``(i + 1) step``. Pixels outside ``first`` to ``last`` do not count.
    """
    shared = _overlaps(start, stop, step, first, last)
    total = np.asarray(shared.sum(axis=1)).reshape(-1)
    scale = sparse.diags_array(1 / np.where(total > 0, total, 1))
    return sparse.csr_array(scale @ shared, dtype=np.float32)


def _overlaps(start: int, stop: int, step: float, first: int, last: int) -> sparse.csr_array:
    """Return the length that each pixel of ``step`` shares with each pixel of 1, (stop - start, last - first)."""
    ends = np.arange(start, stop + 1) * step
    most = math.ceil(step) + 1
    source = np.floor(ends[:-1, None] + SLIVER).astype(np.int64) + np.arange(most)
    shared = np.minimum(source + 1, ends[1:, None]) - np.maximum(source, ends[:-1, None])
    there = (shared > SLIVER) & (source >= first) & (source < last)
    target = np.broadcast_to(np.arange(stop - start)[:, None], source.shape)
    return sparse.csr_array((shared[there], (target[there], source[there] - first)), shape=(stop - start, last - first))


def interpolating(
    start: int, stop: int, step: float, first: int, last: int, length: int, taps: int
) -> sparse.csr_array:
    """Return the weights, (stop - start, last - first), of an axis of this length at pixels whose side is ``step``.

    The centre of pixel ``i`` lies at ``(i + 1/2) step - 1/2``.
    """
    centre = (np.arange(start, stop) + 0.5) * step - 0.5
    left = np.floor(centre)
    beyond = np.arange(1 - taps, taps + 1)
    source = left.astype(np.int64)[:, None] + beyond
    apart = np.abs((centre - left)[:, None] - beyond)
    weight = np.maximum(1 - apart, 0) if taps == LINEAR else keys(apart)
    target = np.broadcast_to(np.arange(stop - start)[:, None], source.shape)
    there = np.abs(weight) > SLIVER
    index = np.clip(source, 0, length - 1)[there] - first
    return sparse.csr_array(  # sums up weights of the same pixel
        (weight[there].astype(np.float32), (target[there], index)), shape=(stop - start, last - first)
    )


def keys(apart: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of cubic interpolation at these distances, in pixels (Keys 1981, Eq. 15).

    >>> keys(np.array([0.0, 0.5, 1.0, 1.5, 2.0])).tolist()
    [1.0, 0.5625, 0.0, -0.0625, 0.0]
    """
    near = (1.5 * apart - 2.5) * apart**2 + 1
    far = ((-0.5 * apart + 2.5) * apart - 4) * apart + 2
    return np.where(apart < 1, near, np.where(apart < 2, far, 0.0))


def _applied(box: Box, source: Box, values: Float32, weights: Weights) -> Float32:
    """Return values (C, h, w) of a box from those of its source, (C, H, W)."""
    down = weights(0, box.y0, box.y1, source.y0, source.y1)
    along = weights(1, box.x0, box.x1, source.x0, source.x1)
    return np.stack([(along @ (down @ plane).T).T for plane in values]).astype(np.float32, copy=False)


def _scaled(box: Box, step: float) -> Box:
    """Return the least box of pixels of 1 that covers a box of pixels of ``step``."""
    low_y, low_x = (math.floor(at * step + SLIVER) for at in (box.y0, box.x0))
    high_y, high_x = (math.ceil(at * step - SLIVER) for at in (box.y1, box.x1))
    return Box(low_y, low_x, high_y, high_x)
