"""The corrected section on disk: OME-Zarr 0.5 (Zarr v3, sharded), streamed level by level, with its labels.

Level 0 arrives as shard-aligned boxes; every further level is built from the one below, so that no more than a few
shards are in memory. Exactly one process writes a store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from cytomend.geometry import Box

Pixels = NDArray[np.generic]
VERSION = "0.5"


@dataclass(frozen=True, slots=True)
class Grid:
    """How a pyramid is cut: ``chunk_px`` is the unit of reading, ``shard_px`` of writing, a multiple of it."""

    chunk_px: int
    shard_px: int

    def shard_for(self, height: int, width: int) -> int:
        """Return the shard side for a level: no larger than the level needs."""
        needed = -(-max(height, width) // self.chunk_px) * self.chunk_px
        return min(self.shard_px, needed)


def level_shapes(height: int, width: int, smallest_px: int) -> list[tuple[int, int]]:
    """Return (height, width) of every level, halved and rounded up until both fit in ``smallest_px``.

    >>> level_shapes(1500, 1001, 512)
    [(1500, 1001), (750, 501), (375, 251)]
    """
    shapes = [(height, width)]
    while max(shapes[-1]) > smallest_px:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def halve_by_mean(pixels: Pixels) -> Pixels:
    """Return the rounded mean of squares of four, ``(a + b + c + d + 2) >> 2``; an odd rim counts twice."""
    a, b, c, d = (part.astype(np.uint32) for part in _quarters(pixels))
    return ((a + b + c + d + 2) >> 2).astype(pixels.dtype)


def halve_by_maximum(numbers: Pixels) -> Pixels:
    """Return the largest number of squares of four: a mended pixel is never lost from sight, at any level."""
    a, b, c, d = _quarters(numbers)
    return np.maximum(np.maximum(a, b), np.maximum(c, d))


def halve_by_pooling(deviations: Pixels) -> Pixels:
    """Return the root of the mean square of those of four that are not 0, rounded.

    Zero means that there is no deviation to tell of, as in all pixels that were not mended: taken into the mean, they
    would make a thin tear look certain from afar; the maximum would make all of it look as uncertain as its worst
    pixel.
    """
    quarters = np.stack(_quarters(deviations)).astype(np.float64)
    square = (quarters**2).sum(axis=0) / np.maximum((quarters > 0).sum(axis=0), 1)
    pooled: Pixels = np.rint(np.sqrt(square)).astype(deviations.dtype)
    return pooled


def _quarters(array: Pixels) -> tuple[Pixels, Pixels, Pixels, Pixels]:
    """Return the four pixels of each square, (..., h, w) each; odd sides are extended by their last line."""
    odd = [(0, 0)] * (array.ndim - 2) + [(0, side % 2) for side in array.shape[-2:]]
    even = np.pad(array, odd, mode="edge") if any(after for _, after in odd) else array
    return even[..., ::2, ::2], even[..., ::2, 1::2], even[..., 1::2, ::2], even[..., 1::2, 1::2]


def write_levels(
    group: zarr.Group,
    channels: int | None,
    shape: tuple[int, int],
    dtype: np.dtype[np.generic],
    grid: Grid,
    base: Iterable[tuple[Box, Pixels]],
    halve: Callable[[Pixels], Pixels],
) -> list[zarr.Array[Any]]:
    """Write level 0 from boxes and the levels above it; return the arrays.

    Parameters
    ----------
    group : receives arrays ``0``, ``1``, ...
    channels : None for (y, x) arrays, a number for (c, y, x)
    shape : (height, width) of level 0
    base : boxes of `shard_boxes` with their pixels, (h, w) or (C, h, w); boxes left out stay zero
    halve : how four pixels become one
    """
    arrays: list[zarr.Array[Any]] = []
    for level, (height, width) in enumerate(level_shapes(*shape, grid.chunk_px)):
        side = grid.shard_for(height, width)
        lead = () if channels is None else (channels,)
        array = group.create_array(
            str(level),
            shape=(*lead, height, width),
            dtype=dtype,
            chunks=(*(1,) * len(lead), grid.chunk_px, grid.chunk_px),
            shards=(*lead, side, side),
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle="noshuffle"),
            fill_value=0,
            dimension_names=("c", "y", "x")[-2 - len(lead) :],
            config={"write_empty_chunks": False},
        )
        boxes = base if level == 0 else _halved(arrays[-1], array, side, halve)
        for box, pixels in boxes:
            if level == 0 or pixels.any():
                array[(..., *box.slices)] = pixels
        arrays.append(array)
    return arrays


def shard_boxes(shape: tuple[int, int], grid: Grid) -> Iterable[Box]:
    """Yield the boxes of level 0, one a shard, in reading order."""
    return Box(0, 0, *shape).tiles(grid.shard_for(*shape))


def _halved(
    below: zarr.Array[Any], array: zarr.Array[Any], side: int, halve: Callable[[Pixels], Pixels]
) -> Iterable[tuple[Box, Pixels]]:
    for box in Box(0, 0, *array.shape[-2:]).tiles(side):
        height, width = below.shape[-2:]
        source = Box(2 * box.y0, 2 * box.x0, 2 * box.y1, 2 * box.x1).clip((height, width))
        yield box, halve(np.asarray(below[(..., *source.slices)]))


def multiscales(name: str, arrays: list[zarr.Array[Any]], pixel_size_um: float, downscaling: str) -> dict[str, Any]:
    """Return the multiscales entry of OME-Zarr 0.5: axes in µm, and where each level's pixels lie."""
    coloured = arrays[0].ndim == 3
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}] if coloured else []
    axes += [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    datasets = []
    for level in range(len(arrays)):
        scale, offset = pixel_size_um * 2**level, pixel_size_um * (2**level - 1) / 2
        transformations = [{"type": "scale", "scale": [1.0] * coloured + [scale, scale]}]
        if level > 0:  # the centre of a mean of 2**level pixels
            transformations.append({"type": "translation", "translation": [0.0] * coloured + [offset, offset]})
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    return {"name": name, "axes": axes, "datasets": datasets, "type": downscaling}
