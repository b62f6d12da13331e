"""Joints of grafts where scan and network differ in pixel size: drawn on the network's grid, laid back on the scan's.

For each region:

1. Grafts are laid at the scan's own resolution, and fade into each other in the joints, as where no network fits
   (`cytomend.grafts.quilt`). This is the *base*.
2. The base goes to the network's grid (`cytomend.grafts.network_grid`). A network pixel is known if all pixels that it
   is computed from are intact or kept. The sampler draws the others. It sees a canvas like any other: windows lie on
   a lattice from the section's origin, and the noise is that of the network pixel's place.
3. What the network changed, ``drawn - base`` on its grid, comes back to the scan's grid and is added to the base, in
   joints alone. So structure that the network can show is the network's, and grain finer than that is the base's.

In a network pixel on the outline the base is the mean of what lies inside alone, so that the joint as a whole comes to
what was drawn. The change is carried on beyond the outline of the region, where nothing may change, before it is
interpolated: tissue and base differ there, so that the change must be whole up to the outline. Towards kept pixels of a
graft the base has no step, so that the change falls to 0 within half a network pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.geometry import Box
from cytomend.grafts.network_grid import CUBIC, NetworkGrid
from cytomend.grafts.region import Grafted, Tissue
from cytomend.regions.canvas import read_cells
from cytomend.regions.lattice import Layout
from cytomend.values import ValueRange, to_model

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]


class NetworkCanvas(NamedTuple):
    """What the network is given for the joints of a region.

    Attributes
    ----------
    layout : cells and windows on the network's grid
    image : (k, C, c, c) in [-1, 1], the base
    known : (k, 1, c, c), which pixels the network is given
    own : (k, 1, c, c), which pixels hold any of the region
    free : (k, 1, c, c), which of them are unknown and share nothing with a kept pixel: what changes the scan
    """

    layout: Layout
    image: Float32
    known: Mask
    own: Mask
    free: Mask


def network_canvas(tissue: Tissue, grafted: Grafted, grid: NetworkGrid) -> NetworkCanvas:
    """Return the canvas of a region's joints; without cells if it has none.

    Parameters
    ----------
    tissue : the section
    grafted : the region
    grid : of the network
    """
    cells = grid.cells_over(grafted.box, grafted.hole & ~grafted.kept)
    layout = Layout.of(grid.lattice, grid.lattice.windows_over(cells))
    side, channels = grid.lattice.cell_px, len(grafted.pixels)
    if not len(layout.cells):
        nothing = np.zeros((0, 1, side, side), dtype=bool)
        return NetworkCanvas(layout, np.zeros((0, channels, side, side), np.float32), *[nothing] * 3)

    def read(box: Box) -> Float32:
        source = grid.scan_box(box)
        pixels, hole, kept = grafted.over(source, tissue.read(source))
        given, joint = ~tissue.damaged(source) | kept, hole & ~kept
        planes = np.stack([*(pixels * given), *(pixels * joint), given, joint, ~given, hole], dtype=np.float32)
        touched = grid.touches(box, kept)[None].astype(np.float32)
        return np.concatenate([grid.to_network(box, planes), touched])

    planes = read_cells(read, grid.network_shape, layout.corners_px, side)
    ends = np.cumsum([channels, channels, 1, 1, 1, 1])
    given, joint, given_share, joint_share, unknown, hole, touched = np.split(planes, ends, axis=1)
    known, own = unknown == 0, hole > 0
    base = np.where(known, given / some(given_share), joint / some(joint_share))
    image = to_model(base, tissue.value_range)
    return NetworkCanvas(layout, image, known, own, own & ~known & (touched == 0))


def some(share: Float32) -> Float32:
    """Return a share that may be divided by."""
    return np.maximum(share, np.float32(1e-6))


def laid_back(
    canvas: NetworkCanvas, drawn: Float32, grid: NetworkGrid, value_range: ValueRange
) -> Callable[[Box], Float32]:
    """Return what reads by how much the network changed pixels of the scan, (C, h, w) in grey values.

    Parameters
    ----------
    canvas : of the region
    drawn : (k, C, c, c) in [-1, 1], what the network made of it
    grid : of the network
    value_range : the grey values that mean -1 and 1
    """
    low, high = value_range
    channels = drawn.shape[1]
    change = np.where(canvas.free, drawn - canvas.image, np.float32(0)) * np.float32((high - low) / 2)
    planes = np.concatenate([change, canvas.free, canvas.own], axis=1, dtype=np.float32)
    read_planes = _reader(planes, canvas.layout)

    def read(box: Box) -> Float32:
        needed = grid.network_box(box)
        around = needed.grow(CUBIC)
        inner = (slice(None), *needed.relative_to(around).slices)
        planes = read_planes(around)
        carried = carried_on(planes[:channels], planes[channels] > 0)[inner]
        share, whole = grid.share_on_scan(box, planes[channels:][inner])
        fade = np.clip(2 * share / some(whole) - 1, 0, 1)
        return np.asarray(fade * grid.to_scan(box, carried))

    return read


def changed(pixels: NDArray[Any], change: NDArray[Any]) -> NDArray[Any]:
    """Return pixels in the scanner's dtype with a change added, rounded to the nearest."""
    limits = np.iinfo(pixels.dtype)
    return np.asarray(np.clip(np.rint(pixels + change.astype(np.float64)), limits.min, limits.max).astype(pixels.dtype))


def carried_on(change: Float32, own: Mask) -> Float32:
    """Return a change (C, h, w) carried on over `CUBIC` pixels beyond where it is known, (h, w), as local means."""
    found, there = np.where(own, change, np.float32(0)), own
    for _ in range(CUBIC):
        weight = _blurred(there[None].astype(np.float32))
        found = np.where(there, found, _blurred(found) / some(weight))
        there = there | (weight[0] > 0)
    return found


def _blurred(planes: Float32) -> Float32:
    """Return planes (C, h, w) smoothed by 1 2 1 on both axes; nothing lies outside."""
    for axis in (1, 2):
        planes = ndimage.correlate1d(planes, [0.25, 0.5, 0.25], axis, mode="constant")
    return planes


def _reader(cells: Float32, layout: Layout) -> Callable[[Box], Float32]:
    """Return what reads boxes (C, h, w) of a layout's cells, (k, C, c, c); 0 where there is none."""
    side = layout.lattice.cell_px
    row_of = {(int(y), int(x)): row for row, (y, x) in enumerate(layout.cells)}

    def read(box: Box) -> Float32:
        found = np.zeros((cells.shape[1], *box.shape), np.float32)
        for y in range(box.y0 // side, -(-box.y1 // side)):
            for x in range(box.x0 // side, -(-box.x1 // side)):
                row = row_of.get((y, x))
                cell = Box(y * side, x * side, (y + 1) * side, (x + 1) * side)
                shown = cell.intersect(box)
                if row is not None and not shown.is_empty:
                    part: NDArray[Any] = cells[row][(slice(None), *shown.relative_to(cell).slices)]
                    found[(slice(None), *shown.relative_to(box).slices)] = part
        return found

    return read
