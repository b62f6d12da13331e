"""The whole corrected section in one small picture, with the outline of every region."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cytomend.geometry import Box
from cytomend.regions.plan import SectionFacts
from cytomend.report.corrected import CorrectedSection
from cytomend.report.outlines import box_outline, outline
from cytomend.report.pictures import Picture, fitted, preview_picture, to_display
from cytomend.report.regions import RegionFacts
from cytomend.report.scale import ScaleBar, scale_bar

THUMBNAIL_PX = 96


@dataclass(frozen=True, slots=True)
class RegionOutline:
    """A region on the overview: its outline, and its highest place (x, y), where its number stands."""

    number: int
    path: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Overview:
    """The overview of a section; one of its pixels stands for ``reduction`` x ``reduction`` pixels of the scan."""

    picture: Picture
    thumbnail: Picture
    outlines: list[RegionOutline]
    scale_bar: ScaleBar
    reduction: float


def draw_overview(
    corrected: CorrectedSection, facts: SectionFacts, regions: list[RegionFacts], longest_px: int
) -> Overview:
    """Draw the overview from the nearest larger level of the pyramid.

    Parameters
    ----------
    corrected, facts : the section
    regions : all of them
    longest_px : the longer side of the picture is no longer
    """
    level = corrected.level_for(longest_px)
    whole = corrected.whole(level)
    image = fitted(to_display(corrected.read(whole, level), facts.value_range), longest_px)
    scale = image.shape[1] / whole.shape[1]
    numbers = corrected.read_labels(whole, level)
    return Overview(
        picture=preview_picture(image),
        thumbnail=preview_picture(fitted(image, THUMBNAIL_PX)),
        outlines=list(_outlines(numbers, regions, level, scale)),
        scale_bar=scale_bar(facts.shape[1] * facts.pixel_size_um),
        reduction=2**level / scale,
    )


def _outlines(
    numbers: NDArray[np.uint32], regions: list[RegionFacts], level: int, scale: float
) -> Iterator[RegionOutline]:
    """Outline every region on a level's numbers, (h, w); ``scale`` is overview pixels a pixel of the level."""
    for region in regions:
        box = at_level(region.box, level)
        own = numbers[box.slices] == region.number
        path = outline(own, origin=(box.y0, box.x0), scale=scale)
        # On a coarse level a larger neighbour's number may stand in all of a small region's pixels.
        y, x = _highest(own)
        yield RegionOutline(
            region.number, path or box_outline(box, scale), x=(box.x0 + x) * scale, y=(box.y0 + y) * scale
        )


def _highest(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the (y, x) of the middle pixel of a mask's first marked row, or of the upper side if none is marked."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return 0.0, mask.shape[1] / 2
    columns = np.flatnonzero(mask[rows[0]])
    return float(rows[0]), float(columns[len(columns) // 2]) + 0.5


def at_level(box: Box, level: int) -> Box:
    """Return the pixels of a level that a box of level 0 touches."""
    side = 2**level
    return Box(box.y0 // side, box.x0 // side, -(-box.y1 // side), -(-box.x1 // side))
