"""One region before and after, pixel for pixel, as two plain pictures: for a slide, or where there is no viewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cytomend.geometry import Box
from cytomend.regions.plan import SectionFacts
from cytomend.report.corrected import CorrectedSection
from cytomend.report.outlines import at_level
from cytomend.report.pictures import to_display
from cytomend.report.regions import RegionFacts
from cytomend.storage.images import SectionImage

SEARCHED_PX = 512


def write_pictures(
    region: RegionFacts,
    image: SectionImage,
    corrected: CorrectedSection,
    facts: SectionFacts,
    folder: Path,
    *,
    context_px: int,
    crop_px: int,
) -> None:
    """Write ``NUMBER-before.png`` and ``NUMBER-after.png`` of a region with its context; see `choose_crop`."""
    folder.mkdir(parents=True, exist_ok=True)
    crop = choose_crop(region, corrected, facts.shape, context_px=context_px, crop_px=crop_px)
    for name, pixels in (("before", image.read(crop)), ("after", corrected.read(crop))):
        Image.fromarray(to_display(pixels, facts.value_range)).save(folder / f"{region.number}-{name}.png")


def choose_crop(
    region: RegionFacts, corrected: CorrectedSection, shape: tuple[int, int], *, context_px: int, crop_px: int
) -> Box:
    """Return the region's box with its context; where that is too long, the part around the region's middle.

    The middle is the region's own pixel nearest to the centre of its box: that of a bent tear may be intact tissue.
    """
    wanted = region.box.grow(context_px).clip(shape)
    if max(wanted.shape) <= crop_px:
        return wanted
    middle = _middle(region, corrected)
    y0, y1 = _part(wanted.y0, wanted.y1, middle[0], crop_px)
    x0, x1 = _part(wanted.x0, wanted.x1, middle[1], crop_px)
    return Box(y0, x0, y1, x1)


def _middle(region: RegionFacts, corrected: CorrectedSection) -> tuple[int, int]:
    """Return the (y, x) of the region's pixel nearest to its box's centre, on a level where the box is small."""
    level = next(
        (n for n in range(len(corrected.levels)) if max(at_level(region.box, n).shape) <= SEARCHED_PX),
        len(corrected.levels) - 1,
    )
    box = at_level(region.box, level)
    places = np.argwhere(corrected.read_labels(box, level) == region.number)
    centre = (np.array(box.shape) - 1) / 2
    nearest = places[((places - centre) ** 2).sum(axis=1).argmin()] if len(places) else centre
    y, x = ((nearest + (box.y0, box.x0) + 0.5) * 2**level).astype(int)
    return int(y), int(x)


def _part(start: int, stop: int, middle: int, longest: int) -> tuple[int, int]:
    """Return the part of an interval around a point, no longer than ``longest``."""
    length = min(longest, stop - start)
    first = min(max(middle - length // 2, start), stop - length)
    return first, first + length
