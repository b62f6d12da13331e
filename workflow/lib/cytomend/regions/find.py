"""Find the regions of a section: connected components of the grown artefact mask, joined across tiles.

Memory grows with the damage, whose numbers are kept compressed until all are known, and one tile; never with the
section.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import imagecodecs
import numpy as np
import zarr
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cytomend.geometry import Box
from cytomend.overlap import overlapped
from cytomend.regions.annotation import ArtefactMask, extent

Int = NDArray[np.int64]
TILE_PX = 1024
EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=int)


@dataclass(slots=True)
class Region:
    """One connected component of the grown artefact mask.

    ``box`` holds it; ``area_px`` counts its pixels; ``centre_px`` is their mean (y, x); ``cells`` (n, 2) are the
    lattice cells it touches.
    """

    number: int
    box: Box
    area_px: int
    centre_px: tuple[float, float]
    cells: Int


@dataclass(slots=True)
class _Parts:
    """Components of single tiles, before they are joined: one row a component, provisional numbers from 1."""

    boxes: list[Box] = field(default_factory=list)
    areas: list[int] = field(default_factory=list)
    sums: list[tuple[float, float]] = field(default_factory=list)
    cells: list[Int] = field(default_factory=list)
    edges: dict[tuple[int, int], dict[str, NDArray[np.uint32]]] = field(default_factory=dict)


class Digest(Protocol):
    """What sums up which pixels are masked, such as ``hashlib.blake2b()``."""

    def update(self, data: bytes, /) -> object:
        """Take more of them."""
        ...


def find_regions(
    mask: ArtefactMask, labels: zarr.Array[Any], cell_px: int, digest: Digest | None = None
) -> list[Region]:
    """Number the regions in reading order of their boxes and write their numbers into ``labels``.

    Parameters
    ----------
    mask : the grown artefact mask
    labels : (H, W) uint32, all zero, chunked by `TILE_PX`; receives region numbers
    cell_px : side of a lattice cell
    digest : is told of every tile that holds masked pixels, and of these

    Returns
    -------
    list of Region
        Numbered from 1; empty if nothing is masked.
    """
    parts = _Parts()
    tiles = list(_label_tiles(mask, cell_px, parts))
    count, component = _join(parts)
    regions = sorted(
        (_merge(parts, np.flatnonzero(component == i)) for i in range(count)), key=lambda r: (r.box, r.area_px)
    )
    number_of = np.zeros(len(parts.boxes) + 1, dtype=np.uint32)
    for number, region in enumerate(regions, start=1):
        members = region.number  # the component, until now
        region.number = number
        number_of[1:][component == component[members]] = number

    def unpacked(tile: _Tile) -> tuple[_Tile, NDArray[np.uint32]]:
        return tile, number_of[tile.numbers()]

    def digested(tile: _Tile, numbers: NDArray[np.uint32]) -> tuple[_Tile, NDArray[np.uint32]]:
        if digest:
            masked = np.zeros(tile.box.shape, np.bool_)
            masked[tile.part.relative_to(tile.box).slices] = numbers > 0
            digest.update(repr(tile.box).encode() + np.packbits(masked).tobytes())
        return tile, numbers

    def write(tile: _Tile, numbers: NDArray[np.uint32]) -> None:
        whole = np.zeros(tile.box.shape, np.uint32)
        whole[tile.part.relative_to(tile.box).slices] = numbers
        labels[tile.box.slices] = whole

    overlapped(tiles, unpacked, lambda tile: digested(*tile), lambda tile: write(*tile), writers=2)
    return regions


class _Tile(NamedTuple):
    """A tile that holds damage: where it lies, which part of it does, and the components of that, compressed."""

    box: Box
    part: Box
    packed: bytes

    def numbers(self) -> NDArray[np.uint32]:
        """Return the provisional numbers of the part, (h, w)."""
        return np.frombuffer(imagecodecs.blosc_decode(self.packed), np.uint32).reshape(self.part.shape)


def _label_tiles(mask: ArtefactMask, cell_px: int, parts: _Parts) -> Iterator[_Tile]:
    """Label each tile on its own, by provisional numbers, and yield the tiles that hold any."""
    for box in mask.candidate_boxes(TILE_PX):
        damaged = mask.read(box)
        if not damaged.any():
            continue
        # Labelling a whole tile for the sake of a corner of it would take most of the time.
        inside = extent(damaged)
        part = inside.relative_to(Box(-box.y0, -box.x0, 0, 0))
        numbers, found = ndimage.label(damaged[inside.slices], EIGHT_NEIGHBOURS)
        first = len(parts.boxes) + 1
        _measure(numbers, found, part, cell_px, parts)
        numbers = np.where(numbers > 0, numbers + (first - 1), 0).astype(np.uint32)
        parts.edges[box.y0 // TILE_PX, box.x0 // TILE_PX] = _edges(numbers, inside, box.shape)
        packed = imagecodecs.blosc_encode(numbers.tobytes(), level=1, compressor="lz4", typesize=4)
        yield _Tile(box, part, bytes(packed))


def _edges(numbers: NDArray[np.uint32], inside: Box, shape: tuple[int, int]) -> dict[str, NDArray[np.uint32]]:
    """Return the first and last lines of a tile that is zero but for these numbers."""
    height, width = shape
    lines = {
        "top": (numbers[0], inside.y0 == 0, inside.x0, width),
        "bottom": (numbers[-1], inside.y1 == height, inside.x0, width),
        "left": (numbers[:, 0], inside.x0 == 0, inside.y0, height),
        "right": (numbers[:, -1], inside.x1 == width, inside.y0, height),
    }
    edges = {}
    for side, (line, at_the_rim, first, length) in lines.items():
        edges[side] = np.zeros(length, np.uint32)
        if at_the_rim:
            edges[side][first : first + len(line)] = line
    return edges


def _measure(tile: Int, found: int, box: Box, cell_px: int, parts: _Parts) -> None:
    """Add size, place and cells of every component of a box, from the runs of equal numbers in its rows."""
    number, y, x, length = _runs(tile)
    y, x = y + box.y0, x + box.x0
    areas, sums_y, sums_x = (
        np.bincount(number, weights=weights, minlength=found + 1)
        for weights in (length, length * y, length * (2 * x + length - 1) / 2)
    )
    first, last = x // cell_px, (x + length - 1) // cell_px
    each = last - first + 1
    column = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each) + np.repeat(first, each)
    touched = _distinct(np.repeat(number, each), np.repeat(y // cell_px, each), column)
    ends = np.searchsorted(touched[:, 0], np.arange(1, found + 2))
    for i, (rows, columns) in enumerate(ndimage.find_objects(tile), start=1):
        parts.boxes.append(Box(box.y0 + rows.start, box.x0 + columns.start, box.y0 + rows.stop, box.x0 + columns.stop))
        parts.areas.append(int(areas[i]))
        parts.sums.append((float(sums_y[i]), float(sums_x[i])))
        parts.cells.append(touched[ends[i - 1] : ends[i], 1:].astype(np.int64))


def _runs(tile: Int) -> tuple[Int, Int, Int, Int]:
    """Return number, row, first column and length of all runs of the same number in rows, without those of 0."""
    padded = np.pad(tile, ((0, 0), (1, 1)))
    # A step lies where a run ends or begins; padding makes sure that no run passes from a row to the next.
    row, column = np.nonzero(padded[:, 1:] != padded[:, :-1])
    number = padded[row, column + 1].astype(np.int64)
    length = np.diff(column, append=0)
    inside = number > 0
    return number[inside], row[inside], column[inside], length[inside]


def _distinct(number: Int, row: Int, column: Int) -> Int:
    """Return the different triples, (n, 3), in order."""
    y0, x0 = row.min(), column.min()
    rows, columns = row.max() - y0 + 1, column.max() - x0 + 1
    whole = (number.astype(np.int64) * rows + (row - y0)) * columns + (column - x0)
    whole = np.unique(whole)
    return np.stack([whole // (rows * columns), whole // columns % rows + y0, whole % columns + x0], axis=1)


def _join(parts: _Parts) -> tuple[int, NDArray[np.int32]]:
    """Return the number of regions and, for each component of a tile, the region it belongs to."""
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for (row, column), edges in parts.edges.items():
        for neighbour, mine, theirs in (((row, column + 1), "right", "left"), ((row + 1, column), "bottom", "top")):
            if neighbour in parts.edges:
                pairs.append(_touching(edges[mine], parts.edges[neighbour][theirs]))
        for corner, here, there in (((row + 1, column + 1), -1, 0), ((row + 1, column - 1), 0, -1)):
            if corner in parts.edges:
                pairs.append(np.array([[edges["bottom"][here], parts.edges[corner]["top"][there]]], dtype=np.int64))
    joined = np.concatenate(pairs)
    joined = joined[(joined > 0).all(axis=1)] - 1
    size = len(parts.boxes)
    graph = coo_array((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(size, size))
    count, component = connected_components(graph, directed=False)
    return int(count), component


def _touching(mine: NDArray[np.uint32], theirs: NDArray[np.uint32]) -> Int:
    """Return the pairs of components that are neighbours, also diagonally, across a shared border."""
    shifted = [(mine, theirs), (mine[:-1], theirs[1:]), (mine[1:], theirs[:-1])]
    return np.concatenate([np.stack(pair, axis=1).astype(np.int64) for pair in shifted])


def _merge(parts: _Parts, members: NDArray[np.intp]) -> Region:
    """Join components of tiles into one region; its number is provisionally its first component."""
    box = parts.boxes[members[0]]
    for i in members[1:]:
        box = box.union(parts.boxes[i])
    area = sum(parts.areas[i] for i in members)
    centre = (sum(parts.sums[i][0] for i in members) / area, sum(parts.sums[i][1] for i in members) / area)
    return Region(
        int(members[0]), box, area, centre, np.unique(np.concatenate([parts.cells[i] for i in members]), axis=0)
    )
