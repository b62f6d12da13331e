"""One region before and after, at full resolution, pixel for pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.heat import heat
from cytomend.regions.plan import SectionFacts
from cytomend.report.corrected import CorrectedSection
from cytomend.report.outlines import outline
from cytomend.report.overview import at_level
from cytomend.report.pictures import Picture, exact_picture, to_display
from cytomend.report.regions import RegionFacts
from cytomend.report.scale import ScaleBar, scale_bar
from cytomend.storage.images import SectionImage

SEARCHED_PX = 512
COMFORTABLE_PX = 360
LARGEST_ZOOM = 4


@dataclass(frozen=True, slots=True)
class Comparison:
    """A region before and after.

    Attributes
    ----------
    region : its facts
    crop : what is shown, in pixels of the scan
    before, after : the scan and the corrected section there
    heat : the uncertainty of the mended pixels there, None where the section was mended once
    own, others : outlines of this region's mended pixels, and of other regions', in pixels of the crop
    shows_all : whether the whole region is in the crop
    scale_bar : of the crop
    zoom : how many times enlarged a small crop is shown
    """

    region: RegionFacts
    crop: Box
    before: Picture
    after: Picture
    heat: Picture | None
    own: str
    others: str
    shows_all: bool
    scale_bar: ScaleBar
    zoom: int


def compare(
    region: RegionFacts,
    image: SectionImage,
    corrected: CorrectedSection,
    facts: SectionFacts,
    *,
    context_px: int,
    crop_px: int,
) -> Comparison:
    """Cut a region with its context out of the scan and of the corrected section.

    Raises
    ------
    InputError
        If the two differ where nothing was mended: the scan is not the one that was mended.
    """
    crop = choose_crop(region, corrected, facts.shape, context_px=context_px, crop_px=crop_px)
    before, after, numbers = image.read(crop), corrected.read(crop), corrected.read_labels(crop)
    _require_untouched(before, after, numbers, image, crop)
    return Comparison(
        region=region,
        crop=crop,
        before=exact_picture(to_display(before, facts.value_range)),
        after=exact_picture(to_display(after, facts.value_range)),
        heat=_heat(corrected, crop, to_display(after, facts.value_range), numbers),
        own=outline(numbers == region.number),
        others=outline((numbers > 0) & (numbers != region.number)),
        shows_all=region.box.intersect(crop) == region.box,
        scale_bar=scale_bar(crop.shape[1] * facts.pixel_size_um),
        zoom=max(1, min(LARGEST_ZOOM, COMFORTABLE_PX // max(crop.shape))),
    )


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


def _heat(
    corrected: CorrectedSection, crop: Box, image: NDArray[np.uint8], numbers: NDArray[np.uint32]
) -> Picture | None:
    """Draw the uncertainty of mended pixels in colour, in the midst of grey tissue."""
    uncertainty = corrected.uncertainty
    if uncertainty is None:
        return None
    grey = image if image.ndim == 2 else np.rint(image.mean(axis=-1)).astype(np.uint8)
    deviation = np.asarray(uncertainty.deviation[crop.slices])
    mended = (numbers > 0)[..., np.newaxis]
    return exact_picture(np.where(mended, heat(deviation / uncertainty.full_scale), grey[..., np.newaxis]))


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


def _require_untouched(
    before: NDArray[np.generic],
    after: NDArray[np.generic],
    numbers: NDArray[np.uint32],
    image: SectionImage,
    crop: Box,
) -> None:
    altered = int(((before != after).any(axis=0) & (numbers == 0)).sum())
    if altered:
        raise InputError(
            f"{image.path}: expected the scan that was mended, found {altered} px outside the mask that "
            f"differ from the corrected section at y {crop.y0}-{crop.y1}, x {crop.x0}-{crop.x1}; "
            "run `cytomend blend-section` again"
        )
