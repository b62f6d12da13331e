"""One region with grafts laid into it: what is read around it, what is copied, and which pixels are to be drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.geometry import Box
from cytomend.grafts.context import coarsest, grid_of
from cytomend.grafts.joints import joints
from cytomend.grafts.match import whole_squares, windows_within
from cytomend.grafts.network_grid import NetworkGrid
from cytomend.grafts.quilt import Area, Graft, block_px, quilt
from cytomend.grafts.settings import GraftSettings
from cytomend.regions.canvas import read_cells
from cytomend.regions.plan import Plan
from cytomend.regions.tissue import tissue_squares
from cytomend.storage.images import SectionImage
from cytomend.values import ValueRange

WIDER = (1, 2, 4)
"""Times `GraftSettings.search_um`: how far tissue is looked for, the nearest first."""
SMALLER = (1.0, 0.5, 0.25)
"""Parts of the settings' blocks that are tried where larger ones have no room in what is intact."""
MOST_PX = 64_000_000
"""The search goes no wider than that many pixels while there is room for a block nearer by: about 600 MB."""
CHOICE_PER_BLOCK = 16
"""Blocks of tissue side by side that there should be to choose from, for each that is laid; with fewer the search
goes wider."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Tissue:
    """What grafts are cut from: a section, and which of its pixels may be copied.

    Attributes
    ----------
    read : pixels of a box inside the section, (C, h, w) in the scanner's dtype
    damaged : which of them are damage of any kind, (h, w)
    barred : which of them may not be copied: damage, and what lies outside of outlined tissue
    shape : (height, width) of the section
    pixel_size_um, value_range : of the scan
    """

    read: Callable[[Box], NDArray[Any]]
    damaged: Callable[[Box], Mask]
    barred: Callable[[Box], Mask]
    shape: tuple[int, int]
    pixel_size_um: float
    value_range: ValueRange

    @classmethod
    def of(cls, image: SectionImage, plan: Plan) -> Self:
        """Return the tissue of a planned section."""
        facts = plan.facts
        barred = plan.not_intact()
        return cls(image.read, plan.mask.read, barred.read, facts.shape, facts.pixel_size_um, facts.value_range)


class Grafted(NamedTuple):
    """A region, and some tissue around it, after grafting.

    Attributes
    ----------
    box : what the arrays cover, on the section
    pixels : (C, H, W) in the scanner's dtype: the scan, with grafts in the region; not read at other damage
    blended : the same, where neighbouring grafts fade into each other and into the tissue around the region
    hole : (H, W), the region's own pixels
    kept : (H, W), those that leave as they were copied; the network draws the rest
    number : (H, W) uint32, the graft of each kept pixel, counted from 1 in the region; 0 elsewhere
    grafts : in the order of their numbers
    """

    box: Box
    pixels: NDArray[Any]
    blended: NDArray[Any]
    hole: Mask
    kept: Mask
    number: NDArray[np.uint32]
    grafts: list[Graft]

    def cells(self, array: NDArray[Any], corners: NDArray[np.int64], cell_px: int) -> NDArray[Any]:
        """Return (k, C, c, c), the cells of one of the arrays, (C, H, W), mirrored beyond it."""

        def read(box: Box) -> NDArray[Any]:
            return array[(slice(None), *box.slices)]

        return read_cells(read, self.box.shape, corners - (self.box.y0, self.box.x0), cell_px)

    def over(self, box: Box, pixels: NDArray[Any]) -> tuple[NDArray[Any], Mask, Mask]:
        """Return the pixels of a box, (C, h, w), with the region filled, and which of them are ``hole`` and ``kept``.

        Joints hold what is ``blended``.
        """
        hole, kept, filled = np.zeros(box.shape, dtype=bool), np.zeros(box.shape, dtype=bool), pixels.copy()
        part = box.intersect(self.box)
        if not part.is_empty:
            there, here = part.relative_to(self.box).slices, part.relative_to(box).slices
            hole[here], kept[here] = self.hole[there], self.kept[there]
            grafts = np.where(kept[here], self.pixels[:, *there], self.blended[:, *there])
            filled[:, *here] = np.where(hole[here], grafts, pixels[:, *here])
        return filled, hole, kept


def graft_region(
    tissue: Tissue,
    box: Box,
    hole: Mask,
    settings: GraftSettings,
    seed: int,
    sample: int,
    grid: NetworkGrid | None = None,
) -> Grafted | None:
    """Lay grafts into a region; return None if all of it is to be drawn.

    That is so if it is nowhere wider than `GraftSettings.narrow_um`, or nothing around it may be copied.

    Parameters
    ----------
    tissue : the section
    box, hole : of the region; ``hole`` (h, w) marks its pixels in the box
    settings : see `GraftSettings`
    seed, sample : of the choice among sources that fit alike
    grid : of the network, if its pixels are not those of the scan: joints then consist of whole network pixels
    """
    wide = wide_part(hole, settings.narrow_um / tissue.pixel_size_um)
    if not wide.any():
        return None
    area = _area(tissue, box, hole, settings)
    wanted = np.zeros(area.hole.shape, dtype=bool)
    wanted[box.relative_to(area.box).slices] = wide
    for part in SMALLER:
        blocks = replace(settings, block_um=settings.block_um * part, step_um=settings.step_um * part)
        if has_room(area, block_px(blocks, tissue.pixel_size_um), tissue.pixel_size_um):
            break
    else:
        return None
    done = quilt(area, wanted, tissue.pixel_size_um, blocks, seed, sample)
    filled = done.box.relative_to(area.box).slices
    own = area.hole[filled]
    kept = own & wanted[filled] & ~joints(done.number, own, settings.joint_um / tissue.pixel_size_um)
    if grid is not None:
        inner = box.relative_to(done.box).slices
        kept[inner] &= ~grid.whole(box, (own & ~kept)[inner])
    number = np.where(kept, done.number, np.uint32(0))
    return Grafted(done.box, done.pixels, done.blended, own, kept, number, done.grafts)


def wide_part(hole: Mask, narrow_px: float) -> Mask:
    """Return the parts of a hole in which a disk of this diameter has room (its morphological opening)."""
    padded = np.pad(hole, 1)
    deep = ndimage.distance_transform_edt(padded) > narrow_px / 2
    if not deep.any():
        return np.zeros_like(hole)
    return np.asarray((ndimage.distance_transform_edt(~deep) <= narrow_px / 2)[1:-1, 1:-1] & hole)


def snapped(box: Box, grid_px: int) -> Box:
    """Return the least box around this one whose corners lie on a grid of the section."""
    return Box(
        box.y0 // grid_px * grid_px,
        box.x0 // grid_px * grid_px,
        -(-box.y1 // grid_px) * grid_px,
        -(-box.x1 // grid_px) * grid_px,
    )


def has_room(area: Area, side_px: int, pixel_size_um: float) -> bool:
    """Whether some block of this side lies wholly on tissue that may be copied, at the level where it is looked for."""
    factor = coarsest(pixel_size_um)
    squares = whole_squares(area.source, factor)
    return min(area.box.shape) >= side_px and bool(windows_within(squares, side_px // factor).any())


def _area(tissue: Tissue, box: Box, hole: Mask, settings: GraftSettings) -> Area:
    """Read what lies around a region, wider until there is something to choose from."""
    side = block_px(settings, tissue.pixel_size_um)
    reach_px = settings.px(settings.search_um, tissue.pixel_size_um)
    wanted = CHOICE_PER_BLOCK * max(int(hole.sum()), side**2)
    area = None
    for times in WIDER:
        around = snapped(box.grow(reach_px * times), grid_of(tissue.pixel_size_um)).clip(tissue.shape)
        if area is not None and around == area.box:
            break
        large = around.shape[0] * around.shape[1] > MOST_PX
        if area is not None and large and has_room(area, side, tissue.pixel_size_um):
            break
        area = _read(tissue, around, box, hole)
        if area.source.sum() >= wanted:
            break
    assert area is not None
    return area


def _read(tissue: Tissue, around: Box, box: Box, hole: Mask) -> Area:
    pixels, damaged = tissue.read(around), tissue.damaged(around)
    own = np.zeros(around.shape, dtype=bool)
    own[box.relative_to(around).slices] = hole
    intact = ~(damaged | own)
    source = ~(tissue.barred(around) | own)
    shows, side = tissue_squares(pixels, tissue.value_range)
    for row, squares in enumerate(shows):
        # A square that damage reaches into says nothing of glass.
        source[row * side : (row + 1) * side, : squares.size * side] &= np.repeat(squares, side)
    return Area(around, pixels, own, intact, source)
