"""Which pixels of a region were drawn and which were copied, and from where: numbers, and what a page knows of copies.

The label ``origin`` of a corrected section (`cytomend.grafts.record`) tells it of each pixel. Regions are read tile by
tile, so that memory is bounded by a tile. A page holds the outline of each copy, as far as it has room for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.geometry import Box
from cytomend.grafts.record import DRAWN, FIRST
from cytomend.report.corrected import CorrectedSection
from cytomend.report.outlines import outline

COUNTED_PX = 1024
"""Side of the tiles in which pixels are counted."""

TRACED_PX = 2048
"""Longest side of a region's box that is read at once to trace its copies; of a larger region each copy is read."""

OUTLINE_TOLERANCE_PX = 1.0
"""How far the outline of a copy may depart from its pixels; joints of several px separate copies."""

MOST_GRAFT_CHARACTERS = 700_000
"""Of all copies on a page: about a byte each, so that the page stays below 3 MB."""

LEAST_CHARACTERS = 60
"""That any copy takes: its numbers, and a path of four corners."""

PackedGraft = list[int | str]
"""y, x, source_y, source_x, side_px, mirrored, the place of the copy's deepest pixel from y, x, and the path around all
of its pixels, in half pixels."""


@dataclass(frozen=True, slots=True)
class RegionOrigin:
    """Where the pixels of a region come from.

    Attributes
    ----------
    drawn_px, copied_px : pixels that the network drew, and that were copied
    farthest_um : between a copy and its source, at most; None without any copy
    grafts : the rows of the table of grafts that left a pixel, (n,)
    """

    drawn_px: int
    copied_px: int
    farthest_um: float | None
    grafts: NDArray[np.intp]

    @property
    def count(self) -> int:
        """How many copies there are."""
        return len(self.grafts)


@dataclass(frozen=True, slots=True)
class OriginTotals:
    """The same over regions."""

    grafts: int
    drawn_px: int
    copied_px: int


def region_origin(region: int, box: Box, corrected: CorrectedSection, pixel_size_um: float) -> RegionOrigin:
    """Return where the pixels of a region come from; all are drawn if the section has no label ``origin``.

    Parameters
    ----------
    region, box : its number and box
    corrected : the section
    pixel_size_um : side of a pixel
    """
    table = corrected.origin.grafts if corrected.origin else None
    px = np.zeros(FIRST + (0 if table is None else len(table)), np.int64)
    for tile in box.tiles(COUNTED_PX):
        own = corrected.read_labels(tile) == region
        if own.any():
            # A damaged label may hold numbers that the table lacks; the verdict says so.
            values = np.minimum(corrected.read_origin(tile)[own], len(px))
            px += np.bincount(values, minlength=len(px) + 1)[: len(px)]
    rows = np.flatnonzero(px[FIRST:])
    farthest_um = (
        float(distances_px(table.iloc[rows]).max() * pixel_size_um) if table is not None and len(rows) else None
    )
    return RegionOrigin(int(px[DRAWN]), int(px[FIRST:].sum()), farthest_um, rows)


def total_origin(origins: Iterable[RegionOrigin]) -> OriginTotals:
    """Return the sums over regions."""
    listed = list(origins)
    return OriginTotals(
        grafts=sum(one.count for one in listed),
        drawn_px=sum(one.drawn_px for one in listed),
        copied_px=sum(one.copied_px for one in listed),
    )


def source_boxes(corrected: CorrectedSection, origins: Iterable[RegionOrigin]) -> list[Box]:
    """Return the boxes that the copies of regions come from."""
    if corrected.origin is None:
        return []
    table = corrected.origin.grafts
    rows = np.concatenate([np.zeros(0, np.intp), *(one.grafts for one in origins)])
    corners = table.iloc[rows][["source_y", "source_x", "side_px"]].to_numpy(np.int64).tolist()
    return [Box(y, x, y + side, x + side) for y, x, side in corners]


def distances_px(grafts: pd.DataFrame) -> NDArray[np.float64]:
    """Return how far each copy lies from its source, (n,) in px."""
    down, right = (grafts[f"source_{axis}"].to_numpy() - grafts[axis].to_numpy() for axis in ("y", "x"))
    return np.asarray(np.hypot(down, right), np.float64)


class GraftOutlines:
    """Packs the copies of regions, until a page holds as many as it may."""

    def __init__(self, corrected: CorrectedSection, most_characters: int = MOST_GRAFT_CHARACTERS) -> None:
        self.corrected, self.left = corrected, most_characters
        self.packed = self.written = 0

    def pack(self, origin: RegionOrigin, box: Box) -> list[PackedGraft] | None:
        """Return the copies of a region, in the order of the table; None where the page has no room for all of them."""
        section = self.corrected.origin
        if section is None or not origin.count:
            return []
        # Tracing takes some milliseconds a copy: it is left out where there is hardly room, by the copies so far.
        typical = self.written / self.packed if self.packed else LEAST_CHARACTERS
        if typical * origin.count > self.left:
            return None
        whole = self.corrected.read_origin(box) if max(box.shape) <= TRACED_PX else None
        packed = list[PackedGraft]()
        for row in origin.grafts.tolist():
            graft = section.grafts.iloc[row]
            y, x, side = (int(graft[name]) for name in ("y", "x", "side_px"))
            target = Box(y, x, y + side, x + side).intersect(box)
            values = self.corrected.read_origin(target) if whole is None else whole[target.relative_to(box).slices]
            own = values == row + FIRST
            path = outline(own, (target.y0, target.x0), 1, OUTLINE_TOLERANCE_PX)
            source = (int(graft[name]) for name in ("source_y", "source_x"))
            deepest_y, deepest_x = _deepest(own)
            deepest = target.y0 + deepest_y - y, target.x0 + deepest_x - x
            packed.append([y, x, *source, side, int(graft["mirrored"]), *deepest, path])
        length = len(json.dumps(packed))
        self.packed, self.written = self.packed + origin.count, self.written + length
        if length > self.left:
            return None
        self.left -= length
        return packed


def _deepest(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the (y, x) of the marked pixel that lies deepest in a mask; what lies beyond its border is not marked."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(y), int(x)
