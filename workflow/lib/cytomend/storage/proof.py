"""Whether a corrected section is what it should be, pixel by pixel: one pass over scan, result and plan, tile by tile.

All pyramids of the result are walked together in the order in which they were written, from the tiles of level 0 up,
so that every tile of every level is decoded once and a few of them are in memory, whatever the size of the section.
They are decoded by zarr-python itself and not by the library that encoded them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.storage.raster import first_line

Pixels = NDArray[Any]

TILE_PX = 1024
"""Side of a tile. It is part of the checksum's definition, so it does not follow how a store is cut."""

CHECKSUM = (
    "SHA-256 of the SHA-256 digests (32 bytes each) of all tiles of {tile_px} px, cut from the upper left corner, row"
    " by row. Of a tile those pixels are hashed whose label `mended` is 0: channel by channel, row by row, little"
    " endian; of a tile that has none of them, nothing (the digest of no bytes)."
)
IMAGE, MENDED, UNCERTAINTY, ORIGIN = "image", "labels/mended", "labels/uncertainty", "labels/origin"
SCAN, PLAN = "scan", "plan"

FIRST = 5
"""So many places of each kind of fault are named."""


@dataclass(slots=True)
class Places:
    """Pixels that are wrong in one way: how many, and (y, x) of the first that were met."""

    count: int = 0
    first: list[tuple[int, int]] = field(default_factory=list)

    def add(self, wrong: NDArray[np.bool_], box: Box) -> None:
        """Count the pixels of a box, (h, w) or (c, h, w), that are wrong; of a pixel all channels count as one."""
        if not wrong.any():
            return
        flat: NDArray[np.bool_] = np.logical_or.reduce(wrong.reshape(-1, *box.shape), axis=0)
        self.count += int(np.count_nonzero(flat))
        if (room := FIRST - len(self.first)) > 0:
            self.first += [(box.y0 + y, box.x0 + x) for y, x in _first_true(flat, room)]

    def said(self) -> str:
        """Return the first places in words."""
        places = "; ".join(f"y {y}, x {x}" for y, x in self.first)
        return f"{places}; ..." if self.count > len(self.first) else places


def _first_true(wrong: NDArray[np.bool_], most: int) -> list[tuple[int, int]]:
    return [(int(y), int(x)) for y, x in np.argwhere(wrong)[:most]]


@dataclass(frozen=True, slots=True)
class Layer:
    """One pyramid of a result.

    Attributes
    ----------
    levels : its arrays, (H, W) or (C, H, W), each half the one before; those that are sound, perhaps none
    halve : how four pixels become one; of zeros it makes zeros
    """

    levels: Sequence[zarr.Array[Any]]
    halve: Callable[[Pixels], Pixels]


@dataclass(frozen=True, slots=True)
class Tile:
    """The pixels of a box, or None where all are 0, as in most of a label."""

    pixels: Pixels | None

    def whole(self, box: Box) -> Pixels:
        """Return the pixels, (h, w) or (c, h, w)."""
        return np.zeros(box.shape, np.uint8) if self.pixels is None else self.pixels


@dataclass(slots=True)
class Findings:
    """What a walk over a section found.

    Attributes
    ----------
    unmended_px : pixels outside the mask
    compared_px : of these, those that were compared with the scan
    mended_px : pixels that the label says were mended
    altered : pixels outside the mask that are not those of the scan
    mislabelled : pixels whose label is not the plan's number
    doubted : pixels outside the mask that have an uncertainty
    misplaced : pixels whose origin says mended and whose label does not, or the other way round
    deviation_sum : of the uncertainty over all mended pixels, grey values
    levels : by name of a layer and level, pixels that are not made of those below
    unreadable : by name of a layer (or `SCAN`, `PLAN`) and level, sentences about tiles that cannot be decoded
    scan_sha256, result_sha256 : of all pixels outside the mask, by `CHECKSUM`; empty if not all could be read
    """

    unmended_px: int = 0
    compared_px: int = 0
    mended_px: int = 0
    altered: Places = field(default_factory=Places)
    mislabelled: Places = field(default_factory=Places)
    doubted: Places = field(default_factory=Places)
    misplaced: Places = field(default_factory=Places)
    deviation_sum: int = 0
    levels: dict[tuple[str, int], Places] = field(default_factory=dict)
    unreadable: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    scan_sha256: str = ""
    result_sha256: str = ""


class Proof:
    """A walk over a corrected section.

    Parameters
    ----------
    shape : (height, width) of the section
    scan : gives the pixels of a box of the scan, (C, h, w)
    mended : gives the region number of each of its pixels that the plan has mended, 0 elsewhere, (h, w)
    layers : the result's pyramids `IMAGE`, `MENDED` and, where there are such, `UNCERTAINTY` and `ORIGIN`
    progress : told how many pixels of level 0 were done
    tile_px : side of a tile, even
    """

    def __init__(
        self,
        shape: tuple[int, int],
        scan: Callable[[Box], Pixels],
        mended: Callable[[Box], NDArray[np.uint32]],
        layers: dict[str, Layer],
        progress: Callable[[int], object] = lambda _: None,
        tile_px: int = TILE_PX,
    ) -> None:
        self.shape, self.scan, self.mended, self.layers = shape, scan, mended, layers
        self.progress, self.tile_px = progress, tile_px
        self.found = Findings()
        self._scan_digests = dict[Box, bytes]()
        self._result_digests = dict[Box, bytes]()

    def run(self) -> Findings:
        """Walk over all tiles of all levels and return what was found."""
        shapes = [self.shape]
        for _ in range(max(len(layer.levels) for layer in self.layers.values()) - 1):
            shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
        for box in Box(0, 0, *shapes[-1]).tiles(self.tile_px):
            self._walk(len(shapes) - 1, box, shapes)
        self.found.scan_sha256 = self._checksum(self._scan_digests)
        self.found.result_sha256 = self._checksum(self._result_digests)
        return self.found

    def _walk(self, level: int, box: Box, shapes: list[tuple[int, int]]) -> dict[str, Tile | None]:
        """Check a tile and all below it; return its pixels by layer, None where they cannot be read."""
        tiles = {name: self._read(name, level, box) for name in self.layers}
        if level == 0:
            self._check_base(box, tiles)
            return tiles
        below = Box(2 * box.y0, 2 * box.x0, 2 * box.y1, 2 * box.x1).clip(shapes[level - 1])
        for part in below.tiles(self.tile_px):
            half = Box(part.y0 // 2, part.x0 // 2, -(-part.y1 // 2), -(-part.x1 // 2))
            for name, finer in self._walk(level - 1, part, shapes).items():
                self._check_halved(name, level, half, tiles[name], finer, within=box)
        return tiles

    def _read(self, name: str, level: int, box: Box) -> Tile | None:
        levels = self.layers[name].levels
        if level >= len(levels):
            return None
        try:
            pixels = np.asarray(levels[level][(..., *box.slices)])
        except MemoryError:
            raise
        except Exception as error:  # codecs raise whatever they like on damaged data
            self._tell(
                name,
                level,
                f"{name}, level {level}: expected readable pixels at y {box.y0}-{box.y1}, x {box.x0}-{box.x1}, found"
                f" damaged data ({first_line(error)})",
            )
            return None
        return Tile(pixels if pixels.any() else None)

    def _check_halved(
        self, name: str, level: int, half: Box, coarse: Tile | None, finer: Tile | None, within: Box
    ) -> None:
        """Compare the part of a tile that a finer one covers with what it should be."""
        if coarse is None or finer is None or (coarse.pixels is None and finer.pixels is None):
            return
        here = (..., *half.relative_to(within).slices)
        stored = 0 if coarse.pixels is None else coarse.pixels[here]
        expected = 0 if finer.pixels is None else self.layers[name].halve(finer.pixels)
        self.found.levels.setdefault((name, level), Places()).add(np.not_equal(stored, expected), half)

    def _check_base(self, box: Box, tiles: dict[str, Tile | None]) -> None:
        """Compare a tile of level 0 with scan and plan."""
        self.progress(box.shape[0] * box.shape[1])
        planned, label = self._ask(PLAN, self.mended, box), tiles[MENDED]
        labels = label.whole(box) if label else planned
        if labels is None:  # nobody knows what was mended here
            self.found.unmended_px += box.shape[0] * box.shape[1]
            return
        if label:
            self.found.mended_px += int(np.count_nonzero(labels))
            if planned is not None:
                self.found.mislabelled.add(labels != planned, box)
        free = labels == 0
        self._compare(box, free, tiles[IMAGE])
        if (uncertainty := tiles.get(UNCERTAINTY)) is not None:
            deviation = uncertainty.whole(box)
            self.found.doubted.add((deviation != 0) & free, box)
            self.found.deviation_sum += int(deviation.sum(dtype=np.int64))
        if (origin := tiles.get(ORIGIN)) is not None:
            self.found.misplaced.add((origin.whole(box) == 0) != free, box)

    def _compare(self, box: Box, free: NDArray[np.bool_], tile: Tile | None) -> None:
        """Compare what was not mended with the scan, and hash both."""
        free_px = int(np.count_nonzero(free))
        self.found.unmended_px += free_px
        if (scan := self._ask(SCAN, self.scan, box)) is None or tile is None:
            return
        result = np.zeros_like(scan) if tile.pixels is None else tile.pixels.reshape(scan.shape)
        self._scan_digests[box], self._result_digests[box] = _digest(scan, free), _digest(result, free)
        self.found.compared_px += free_px
        self.found.altered.add((scan != result) & free, box)

    def _ask(self, name: str, read: Callable[[Box], Pixels], box: Box) -> Pixels | None:
        """Return what scan or plan holds in a box, or None where it cannot be read."""
        try:
            return read(box)
        except InputError as error:
            self._tell(name, 0, str(error))
            return None

    def _tell(self, name: str, level: int, sentence: str) -> None:
        told = self.found.unreadable.setdefault((name, level), [])
        if sentence not in told:
            told.append(sentence)

    def _checksum(self, digests: dict[Box, bytes]) -> str:
        """Return the checksum of all tiles, or nothing if some could not be read."""
        boxes = list(Box(0, 0, *self.shape).tiles(self.tile_px))
        return sha256(b"".join(digests[box] for box in boxes)).hexdigest() if len(digests) == len(boxes) else ""


def _digest(pixels: Pixels, free: NDArray[np.bool_]) -> bytes:
    """Return the digest of the pixels of a tile, (C, h, w), that are not mended; see `CHECKSUM`."""
    values = pixels if free.all() else pixels[:, free]
    return sha256(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()).digest()
