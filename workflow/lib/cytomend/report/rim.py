"""A region and its *rim*, the intact tissue around it, read part by part: what is measured of both.

The rim are the pixels within `RIM_UM` of the region that are neither mended nor an artefact. The *picture* is the box
of region and rim with a guard, so that cells at the rim's outer edge are whole. It is read in parts of at most
`PART_PX` a side; each part owns what lies in its core and sees `MARGIN_UM` more, by which it finds the same cells as
one that sees everything (see `cytomend.segmentation.blocks`). Parts without region and rim cost a look at the labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.geometry import Box
from cytomend.grafts.record import DRAWN
from cytomend.regions.annotation import Masked
from cytomend.regions.plan import SectionFacts
from cytomend.regions.tissue import SQUARE_PX, tissue_share
from cytomend.report.corrected import CorrectedSection
from cytomend.segmentation.stain import SectionStain

RIM_UM = 64.0
"""Some five cells wide: enough of them to compare with, and mostly of the same layer."""
GUARD_UM = 48.0
MARGIN_UM = 160.0
ALIGNED_PX = 32
"""Parts begin at multiples of it, so that a network's poolings fall on the section's lattice."""
PART_PX = 704
"""With its margins 1024 px, which a network of ours sees at once."""
MOST_SQUARES = 256
"""Squares of tissue that a segmenter may take its threshold from."""

Mask = NDArray[np.bool_]
Float = NDArray[np.float64]
Grey = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Part:
    """Pixels of a picture's part; all arrays are of its window.

    Attributes
    ----------
    core, window : what it owns and what is read, boxes in the section
    own, intact, rim : (h, w), which pixels are the region's, tissue as scanned, and the rim's
    far_px : (h, w) distance from the region, infinite where it is out of sight
    pixels : (h, w) grey values of the corrected section; of an RGB section its stain
    """

    core: Box
    window: Box
    own: Mask
    intact: Mask
    rim: Mask
    far_px: Float
    pixels: Grey

    @property
    def within(self) -> tuple[slice, slice]:
        """The core as an index of the window's arrays."""
        return self.core.relative_to(self.window).slices

    def focused(self, margin_px: int) -> Part:
        """Return the part cut down to where region and rim are, with a margin."""
        rows, columns = (np.flatnonzero((self.own | self.rim)[self.within].any(axis=axis)) for axis in (1, 0))
        y, x = self.core.y0, self.core.x0
        core = Box(y + int(rows[0]), x + int(columns[0]), y + int(rows[-1]) + 1, x + int(columns[-1]) + 1)
        seen = core.grow(margin_px)
        window = Box(_lowered(seen.y0), _lowered(seen.x0), seen.y1, seen.x1).intersect(self.window)
        at = window.relative_to(self.window).slices
        return Part(core, window, self.own[at], self.intact[at], self.rim[at], self.far_px[at], self.pixels[at])


class Neighbourhood:
    """A region with its rim.

    Parameters
    ----------
    number, box : of the region
    corrected, facts : the section
    stain : how its cells are shown
    artefacts : pixels that are no tissue although nothing was mended there
    part_px : side of a part's core; a multiple of `ALIGNED_PX`
    """

    def __init__(
        self,
        number: int,
        box: Box,
        corrected: CorrectedSection,
        facts: SectionFacts,
        stain: SectionStain,
        artefacts: Masked | None = None,
        part_px: int = PART_PX,
    ) -> None:
        if part_px % ALIGNED_PX:
            raise ValueError(f"part_px is {part_px}, expected a multiple of {ALIGNED_PX}")
        self.number, self.corrected, self.facts, self.artefacts = number, corrected, facts, artefacts
        self.stain = stain
        self.part_px = part_px
        self.rim_px, self.guard_px, margin_px = (
            math.ceil(length / facts.pixel_size_um) for length in (RIM_UM, GUARD_UM, MARGIN_UM)
        )
        self.margin_px = _raised(margin_px)
        self.rimmed = box.grow(self.rim_px).clip(facts.shape)
        wanted = self.rimmed.grow(self.guard_px)
        corner = (_lowered(wanted.y0), _lowered(wanted.x0))
        self.picture = Box(*corner, wanted.y1, wanted.x1).clip(facts.shape)
        self._last: Part | None = None

    def parts(self) -> Iterator[Part]:
        """Yield the parts that hold some of region or rim, row by row."""
        picture = self.picture
        for y in range(picture.y0, picture.y1, self.part_px):
            for x in range(picture.x0, picture.x1, self.part_px):
                core = Box(y, x, y + self.part_px, x + self.part_px).intersect(picture)
                # A picture of one part is looked at twice; it is read once.
                part = self._last if self._last is not None and self._last.core == core else self._part(core)
                self._last = part
                if part is not None:
                    yield part

    def _part(self, core: Box) -> Part | None:
        window = core.grow(self.margin_px).intersect(self.picture)
        labels = self.corrected.read_labels(window)
        own, intact = labels == self.number, labels == 0
        if not own.any():
            return None
        if self.artefacts is not None:
            intact &= own | ~self.artefacts.read(window)
        far_px = np.asarray(ndimage.distance_transform_edt(~own), np.float64)
        rim = intact & (far_px <= self.rim_px)
        within = core.relative_to(window).slices
        if not (own[within].any() or rim[within].any()):
            return None
        return Part(core, window, own, intact, rim, far_px, self.stain.grey(self.corrected.read(window)))


GREY_SUMS = (
    "own_px",
    "own_grey",
    "own_squares",
    "rim_px",
    "rim_grey",
    "rim_squares",
    "outline_step",
    "outline_pairs",
    "own_step",
    "own_pairs",
    "rim_step",
    "rim_pairs",
)
"""What is added up over parts: pixels, grey values and their squares, both from the middle of the value range; mean
steps between neighbouring pixels are ``step`` over ``pairs``, across the outline, within the region and its rim."""


def grey_sums(part: Part, middle: float) -> Float:
    """Return the sums of a part, in the order of `GREY_SUMS`."""
    values = part.pixels.astype(np.float64) - middle
    sums = list[float]()
    for mask in (part.own, part.rim):
        inside = values[part.within][mask[part.within]]
        sums += [float(len(inside)), float(inside.sum()), float((inside**2).sum())]
    outline, own, rim = np.zeros((3, 2))
    for axis in (0, 1):
        one, other = _sides(part, axis)
        steps = np.abs(values[one] - values[other])
        outline += _summed(steps, (part.own[one] & part.intact[other]) | (part.own[other] & part.intact[one]))
        own += _summed(steps, part.own[one] & part.own[other])
        rim += _summed(steps, part.rim[one] & part.rim[other])
    return np.array([*sums, *outline, *own, *rim])


class Squares:
    """Squares of intact tissue around a region, the same ones whatever the parts; and how many of the rim are blank."""

    def __init__(self, facts: SectionFacts) -> None:
        self.facts = facts
        self.in_rim = self.blank = 0
        self._kept: list[Grey] = []
        self._every, self._seen = 1, 0

    def add(self, part: Part, rim_px: int, near_px: int) -> None:
        """Look at the squares of a part's core whose middle lies near the region."""
        for y in range(part.core.y0, part.core.y1 - SQUARE_PX + 1, SQUARE_PX):
            for x in range(part.core.x0, part.core.x1 - SQUARE_PX + 1, SQUARE_PX):
                square = Box(y, x, y + SQUARE_PX, x + SQUARE_PX).relative_to(part.window).slices
                far_px = part.far_px[square][SQUARE_PX // 2, SQUARE_PX // 2]
                if far_px <= near_px and part.intact[square].all():
                    self._take(part.pixels[square], is_in_rim=bool(far_px <= rim_px))

    def _take(self, pixels: Grey, *, is_in_rim: bool) -> None:
        is_blank = tissue_share(pixels[np.newaxis], self.facts.value_range) == 0
        if is_in_rim:
            self.in_rim += 1
            self.blank += is_blank
        if is_blank:
            return
        if self._seen % self._every == 0:
            self._kept.append(pixels.copy())
            if len(self._kept) > MOST_SQUARES:
                self._kept, self._every = self._kept[::2], 2 * self._every
        self._seen += 1

    @property
    def mosaic(self) -> Grey | None:
        """Return the kept squares side by side, or None if there are too few for a threshold."""
        rows = math.isqrt(len(self._kept))
        if rows < 3:
            return None
        return np.block([self._kept[i * rows : (i + 1) * rows] for i in range(rows)])


def is_wide(region: int, box: Box, corrected: CorrectedSection, facts: SectionFacts, tile_px: int = PART_PX) -> bool:
    """Whether the network drew some pixel of a region farther than half a window from the nearest that it did not draw.

    Copied pixels are known to the network, as intact ones are. The section's border is no source: beyond it the network
    saw a mirror image.
    """
    most_px = facts.window_px / 2
    if min(box.shape) <= facts.window_px:
        return False
    margin_px = math.ceil(most_px) + 1
    for tile in box.tiles(tile_px):
        window = tile.grow(margin_px).clip(facts.shape)
        own = corrected.read_labels(tile) == region
        if not own.any():
            continue
        drawn = corrected.read_origin(window) == DRAWN
        if drawn.all():
            return True
        far_px = ndimage.distance_transform_edt(drawn)[tile.relative_to(window).slices]
        if (far_px[own] > most_px).any():
            return True
    return False


def _sides(part: Part, axis: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the two sides of all pairs of neighbours along an axis whose first pixel lies in the core, as indices."""
    (rows, columns), (height, width) = part.within, part.own.shape
    if axis == 0:
        last = min(rows.stop, height - 1)
        return (slice(rows.start, last), columns), (slice(rows.start + 1, last + 1), columns)
    last = min(columns.stop, width - 1)
    return (rows, slice(columns.start, last)), (rows, slice(columns.start + 1, last + 1))


def _summed(steps: Float, pairs: Mask) -> Float:
    return np.array([steps[pairs].sum(), pairs.sum()], np.float64)


def _lowered(place_px: int) -> int:
    return max(place_px, 0) // ALIGNED_PX * ALIGNED_PX


def _raised(length_px: int) -> int:
    return -(-length_px // ALIGNED_PX) * ALIGNED_PX
