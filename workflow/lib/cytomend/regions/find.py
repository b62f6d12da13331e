"""Find the regions of a section: connected components of the grown artefact mask, joined across tiles.

Memory grows with the damage, whose numbers are kept compressed until all are known, and one tile; never with the
section.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
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
REACH = (np.minimum.at, np.minimum.at, np.maximum.at, np.maximum.at)
"""How the sides of a box move outwards: y0, x0, y1, x1."""


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
    digest : is told of the part of every tile that holds masked pixels, and of these

    Returns
    -------
    list of Region
        Numbered from 1; empty if nothing is masked.
    """
    parts = _Parts()
    tiles = _label_tiles(mask, cell_px, parts)
    count, component = _join(parts)
    by_region = np.argsort(component, kind="stable")
    ends = np.searchsorted(component[by_region], np.arange(1, count))
    regions = [_merge(parts, members) for members in np.split(by_region, ends) if len(members)]
    regions.sort(key=lambda region: (region.box, region.area_px))
    number_of_component = np.zeros(count, dtype=np.uint32)
    for number, region in enumerate(regions, start=1):
        number_of_component[component[region.number]] = number
        region.number = number
    number_of = number_of_component[component]

    def unpacked(tile: _Tile) -> tuple[_Tile, NDArray[np.uint32]]:
        return tile, np.concatenate([[np.uint32(0)], number_of[tile.components]])[tile.numbers()]

    def digested(tile: _Tile, numbers: NDArray[np.uint32]) -> tuple[_Tile, NDArray[np.uint32]]:
        if digest:
            digest.update(repr(tile.part).encode() + np.packbits(numbers > 0).tobytes())
        return tile, numbers

    def write(tile: _Tile, numbers: NDArray[np.uint32]) -> None:
        whole = np.zeros(tile.box.shape, np.uint32)
        whole[tile.part.relative_to(tile.box).slices] = numbers
        labels[tile.box.slices] = whole

    overlapped(tiles, unpacked, lambda tile: digested(*tile), lambda tile: write(*tile), writers=2)
    return regions


class _Tile(NamedTuple):
    """A tile that holds damage: where it lies, which part of it does, and which of all components that part has."""

    box: Box
    part: Box
    components: slice
    packed: bytes

    def numbers(self) -> NDArray[np.int32]:
        """Return the numbers of its own components from 1 on, (h, w) of the part."""
        return np.frombuffer(imagecodecs.blosc_decode(self.packed), np.int32).reshape(self.part.shape)


def _label_tiles(mask: ArtefactMask, cell_px: int, parts: _Parts) -> list[_Tile]:
    """Label each tile on its own, and return the tiles that hold any component."""
    tiles: list[_Tile] = []
    for box in mask.candidate_boxes(TILE_PX):
        damaged = mask.read(box)
        if not damaged.any():
            continue
        # Labelling a whole tile for the sake of a corner of it would take most of the time.
        inside = extent(damaged)
        part = inside.relative_to(Box(-box.y0, -box.x0, 0, 0))
        numbers, found = ndimage.label(damaged[inside.slices], EIGHT_NEIGHBOURS)
        before = len(parts.boxes)
        _measure(numbers, found, part, cell_px, parts)
        parts.edges[box.y0 // TILE_PX, box.x0 // TILE_PX] = _edges(numbers, before, inside, box.shape)
        packed = imagecodecs.blosc_encode(numbers, level=1, compressor="lz4", typesize=4)
        tiles.append(_Tile(box, part, slice(before, before + found), bytes(packed)))
    return tiles


def _edges(numbers: Int, before: int, inside: Box, shape: tuple[int, int]) -> dict[str, NDArray[np.uint32]]:
    """Return the first and last lines of a tile that is zero but inside, numbered on from the components before it."""
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
            edges[side][first : first + len(line)] = np.where(line > 0, line + before, 0)
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
    edges = np.full((4, found + 1), [[box.y1], [box.x1], [0], [0]])
    for edge, reach, values in zip(edges, REACH, (y, x, y + 1, x + length), strict=True):
        reach(edge, number, values)
    parts.boxes += [Box(*sides) for sides in edges.T[1:].tolist()]
    parts.areas += areas[1:].astype(int).tolist()
    parts.sums += zip(sums_y[1:].tolist(), sums_x[1:].tolist(), strict=True)
    parts.cells += [touched[first:end, 1:] for first, end in pairwise(ends)]


def _runs(tile: Int) -> tuple[Int, Int, Int, Int]:
    """Return number, row, first column and length of all runs of a component in a row; two never touch each other."""
    inside = np.pad(tile > 0, ((0, 0), (1, 1)))  # no run passes from a row to the next
    steps = np.flatnonzero(np.diff(inside.ravel()))
    row, column = np.divmod(steps[::2], inside.shape[1])
    return tile[row, column].astype(np.int64), row, column, steps[1::2] - steps[::2]


def _distinct(number: Int, row: Int, column: Int) -> Int:
    """Return the different triples, (n, 3), in order."""
    y0, x0 = row.min(), column.min()
    rows, columns = row.max() - y0 + 1, column.max() - x0 + 1
    whole = np.unique((number * rows + (row - y0)) * columns + (column - x0))
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
