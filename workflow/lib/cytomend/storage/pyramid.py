"""The corrected section on disk: OME-Zarr 0.5 (Zarr v3, sharded), all levels written in one pass, with its labels.

The shards of level 0 are asked for in Morton order, so that a shard of a further level is complete, and written, as
soon as its four are: every pixel is read once and encoded once, and one shard a level is in memory, besides the next
that is being read and the last two that are being encoded. Exactly one process writes a store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from cytomend.geometry import Box
from cytomend.overlap import overlapped
from cytomend.storage.encoder import encoder, errors_of_the_system

Pixels = NDArray[Any]
VERSION = "0.5"
WRITERS = 2
"""Shards that are encoded at a time: while one is stored, another is compressed."""


@dataclass(frozen=True, slots=True)
class Grid:
    """How a pyramid is cut: ``chunk_px`` is the unit of reading, ``shard_px`` of writing, a multiple of it."""

    chunk_px: int
    shard_px: int

    def of_pixels(self, pixel_bytes: int) -> Grid:
        """Return the grid for pixels of so many bytes, all channels together.

        A shard holds at most twice as many bytes as ``shard_px`` squared, so that writing colour or 16 bit takes no
        more memory than writing grey of 8.

        >>> [Grid(512, 2048).of_pixels(count).shard_px for count in (1, 2, 3, 6)]
        [2048, 2048, 1536, 1024]
        """
        side = isqrt(2 * self.shard_px**2 // pixel_bytes) // self.chunk_px * self.chunk_px
        return Grid(self.chunk_px, max(min(side, self.shard_px), self.chunk_px))

    @property
    def sparse(self) -> Grid:
        """How a pyramid is cut in which little is not zero: only shards that hold something are made and stored."""
        return Grid(self.chunk_px, min(self.shard_px, 2 * self.chunk_px))

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
    even = _even(pixels)
    rows: NDArray[Any] = even[..., ::2, :].astype(np.uint16 if pixels.dtype == np.uint8 else np.uint32)
    rows += even[..., 1::2, :]
    sums: NDArray[Any] = rows[..., ::2] + rows[..., 1::2]
    sums += 2
    sums >>= 2
    return sums.astype(pixels.dtype)


def halve_by_maximum(numbers: Pixels) -> Pixels:
    """Return the largest number of squares of four: a mended pixel is never lost from sight, at any level."""
    even = _even(numbers)
    rows: NDArray[Any] = np.maximum(even[..., ::2, :], even[..., 1::2, :])  # rows first: seven times as fast
    pairs: NDArray[Any] = np.maximum(rows[..., ::2], rows[..., 1::2])
    return pairs


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
    """Return the four pixels of each square, (..., h, w) each."""
    even = _even(array)
    return even[..., ::2, ::2], even[..., ::2, 1::2], even[..., 1::2, ::2], even[..., 1::2, 1::2]


def _even(array: Pixels) -> Pixels:
    """Return an array whose odd sides are extended by their last line."""
    odd = [(0, 0)] * (array.ndim - 2) + [(0, side % 2) for side in array.shape[-2:]]
    return np.pad(array, odd, mode="edge") if any(after for _, after in odd) else array


class Shard(NamedTuple):
    """A shard that is to be written: its level, its place there, and its pixels, or None where there are none."""

    level: int
    box: Box
    pixels: Pixels | None


@dataclass(frozen=True, slots=True)
class Pyramid:
    """A pyramid while it is written.

    Attributes
    ----------
    levels : its arrays, (y, x) or (c, y, x), each half the one before
    sides : side of a shard, of each
    halve : how four pixels become one
    parents : of each level, the shard that is not yet whole
    """

    levels: list[zarr.Array[Any]]
    sides: list[int]
    halve: Callable[[Pixels], Pixels]
    parents: dict[int, Pixels] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        group: zarr.Group,
        channels: int | None,
        shape: tuple[int, int],
        dtype: np.dtype[np.generic],
        grid: Grid,
        halve: Callable[[Pixels], Pixels],
    ) -> Pyramid:
        """Create the empty arrays ``0``, ``1``, ... of a group.

        Parameters
        ----------
        group : receives the arrays
        channels : None for (y, x) arrays, a number for (c, y, x)
        shape : (height, width) of level 0
        halve : how four pixels become one; of zeros it makes zeros
        """
        shapes = level_shapes(*shape, grid.chunk_px)
        sides = [grid.shard_for(*shape) for shape in shapes]
        lead = () if channels is None else (channels,)
        with encoder():
            levels = [
                cls._array(group, level, (*lead, *shape), side, dtype, grid)
                for level, (shape, side) in enumerate(zip(shapes, sides, strict=True))
            ]
        return cls(levels, sides, halve)

    @staticmethod
    def _array(
        group: zarr.Group,
        level: int,
        shape: tuple[int, ...],
        side: int,
        dtype: np.dtype[np.generic],
        grid: Grid,
    ) -> zarr.Array[Any]:
        lead = shape[:-2]
        return group.create_array(
            str(level),
            shape=shape,
            dtype=dtype,
            chunks=(*(1,) * len(lead), grid.chunk_px, grid.chunk_px),
            shards=(*lead, side, side),
            compressors=ZstdCodec(level=1),
            fill_value=0,
            dimension_names=("c", "y", "x")[-2 - len(lead) :],
            config={"write_empty_chunks": False},
        )

    def fill(self, base: Callable[[Box], Pixels | None]) -> list[zarr.Array[Any]]:
        """Write level 0 and the levels above it; return the arrays.

        ``base`` gives the pixels of a shard of level 0, (h, w) or (C, h, w), or None for zeros; it is asked once for
        each, one after another, in a thread of its own.
        """
        overlapped(self.bases(), lambda box: Shard(0, box, base(box)), self.completed, self.write, WRITERS)
        return self.levels

    def bases(self) -> Iterator[Box]:
        """Yield the shards of level 0 in Morton order: those of a further level's shard one after another."""
        top = len(self.levels) - 1
        for box in Box(0, 0, *self._shape(top)).tiles(self.sides[top]):
            yield from self._bases(top, box)

    def _bases(self, level: int, box: Box) -> Iterator[Box]:
        if level == 0:
            yield box
            return
        for part in self._below(level, box).tiles(self.sides[level - 1]):
            yield from self._bases(level - 1, part)

    def _below(self, level: int, box: Box) -> Box:
        """Return which part of the level below a box is made of."""
        return Box(2 * box.y0, 2 * box.x0, 2 * box.y1, 2 * box.x1).clip(self._shape(level - 1))

    def _shape(self, level: int) -> tuple[int, int]:
        height, width = self.levels[level].shape[-2:]
        return height, width

    def completed(self, base: Shard) -> list[Shard]:
        """Return a shard of level 0, asked in order, and those of further levels that it completes."""
        done = [base]
        while done[-1].level < len(self.levels) - 1 and (parent := self._put(done[-1])):
            done.append(parent)
        return done

    def _put(self, part: Shard) -> Shard | None:
        """Halve a shard into the one above it, and return that if it is whole now."""
        level, side = part.level + 1, self.sides[part.level + 1]
        y0, x0 = (edge // 2 // side * side for edge in (part.box.y0, part.box.x0))
        box = Box(y0, x0, y0 + side, x0 + side).clip(self._shape(level))
        if part.pixels is not None:
            if level not in self.parents:
                self.parents[level] = np.zeros((*part.pixels.shape[:-2], *box.shape), part.pixels.dtype)
            halved, y, x = self.halve(part.pixels), part.box.y0 // 2 - y0, part.box.x0 // 2 - x0
            self.parents[level][..., y : y + halved.shape[-2], x : x + halved.shape[-1]] = halved
        below = self._below(level, box)
        if (part.box.y1, part.box.x1) < (below.y1, below.x1):
            return None
        return Shard(level, box, self.parents.pop(level, None))

    def write(self, shards: Iterable[Shard]) -> None:
        """Write shards."""
        for level, box, pixels in shards:
            if pixels is not None:
                with errors_of_the_system():
                    self.levels[level][(..., *box.slices)] = pixels


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
