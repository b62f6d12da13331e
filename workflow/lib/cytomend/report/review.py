"""The checks of each mended region: how it differs from its rim, its cells before and after, and what looks wrong.

Regions come one at a time, and a large one in parts (`cytomend.report.rim`), so that memory is bounded by a part and
the cells of a region. Cells belong to region or rim by their centre.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import prod

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.measure import approximate_polygon

from cytomend.evaluation.arrangement import lying_in
from cytomend.evaluation.measurement import PLACES, checked_cells
from cytomend.geometry import Box
from cytomend.plugins import blamed_on
from cytomend.regions.annotation import Masked
from cytomend.regions.plan import SectionFacts
from cytomend.report.comparison import choose_crop
from cytomend.report.corrected import CorrectedSection
from cytomend.report.depth import surroundings
from cytomend.report.flags import GRAVE, Flag, Numbers, flags_of
from cytomend.report.orientation import ORIENTATION_SUMS, Orientation, orientation_sums, orientations
from cytomend.report.regions import RegionFacts
from cytomend.report.rim import GREY_SUMS, PART_PX, Neighbourhood, Part, Squares, grey_sums, is_wide
from cytomend.segmentation.segmenters import Segmenter
from cytomend.segmentation.stain import SectionStain
from cytomend.segmentation.table import table_contours
from cytomend.storage.images import SectionImage

__all__ = ["CROP_PX", "Flag", "RegionReview", "flagged_first", "review_regions"]

CROP_PX = 2048
"""Longest side of the crop whose cells have contours; of a larger region the part around its middle."""
TOLERANCE_PX = 0.5

Grey = NDArray[np.generic]
Contours = tuple[NDArray[np.int_], ...]


@dataclass(frozen=True, slots=True)
class RegionReview:
    """The checks of a region; None where there is nothing to measure.

    Attributes
    ----------
    region : its number
    seam : mean absolute grey step between neighbouring pixels across the outline, over that within the rim
    spread : standard deviation of greys inside over that in the rim
    shift : mean grey inside minus that in the rim, in standard deviations of the rim
    density_inside, density_rim : cells/mm²
    area_inside_um2, area_rim_um2 : median area of a cell
    cells_inside, cells_rim : cells whose centre lies there
    share : of the section's pixels
    uncertainty_grey : how far samples differ, in grey values
    flags : what should be looked at
    contours_before, contours_after : polygons (n, 2) of (y, x) in px of the section, of cells of scan and corrected
        section whose centre lies in region or rim, and in the crop
    depth_um : how far its deepest pixel lies from intact tissue
    degrees_inside, degrees_rim : direction in which structures run, counterclockwise from the horizontal
    coherence_inside, coherence_rim : how strongly that direction prevails, from 0 to 1
    """

    region: int
    seam: float | None
    spread: float | None
    shift: float | None
    density_inside: float | None
    density_rim: float | None
    area_inside_um2: float | None
    area_rim_um2: float | None
    cells_inside: int
    cells_rim: int
    share: float
    uncertainty_grey: float | None
    flags: tuple[Flag, ...] = ()
    contours_before: Contours = ()
    contours_after: Contours = ()
    depth_um: float = 0.0
    degrees_inside: float | None = None
    degrees_rim: float | None = None
    coherence_inside: float | None = None
    coherence_rim: float | None = None

    @property
    def graves(self) -> int:
        """How many flags say that the filling is wrong; others are reasons for doubt."""
        return sum(flag.key in GRAVE for flag in self.flags)


def review_regions(
    regions: Iterable[RegionFacts],
    image: SectionImage,
    corrected: CorrectedSection,
    facts: SectionFacts,
    segmenter: Segmenter,
    stain: SectionStain,
    *,
    artefacts: Masked | None = None,
    crop_px: int = CROP_PX,
    part_px: int = PART_PX,
) -> Iterator[RegionReview]:
    """Yield the checks of regions, in their order, one at a time.

    Parameters
    ----------
    regions : mended ones
    image, corrected, facts : scan, corrected section and plan
    segmenter : finds the cells of both
    stain : how they are shown to it
    artefacts : the plan's mask, if some of its regions were not mended: those are no tissue to compare with
    crop_px : longest side of the crop whose cells have contours
    part_px : side of a part in which pixels are read; changes no number

    Raises
    ------
    InputError
        If the segmenter fails, or gives no table of cells.
    """
    for region in regions:
        around = Neighbourhood(region.number, region.box, corrected, facts, stain, artefacts, part_px)
        numbers, found = measure_region(region, around, image, segmenter, crop_px)
        yield RegionReview(
            region=region.number,
            seam=numbers.seam,
            spread=numbers.spread,
            shift=numbers.shift,
            density_inside=_quotient(numbers.cells_inside, numbers.area_um2 * 1e-6),
            density_rim=_quotient(numbers.cells_rim, numbers.rim_um2 * 1e-6),
            area_inside_um2=numbers.area_inside_um2,
            area_rim_um2=numbers.area_rim_um2,
            cells_inside=numbers.cells_inside,
            cells_rim=numbers.cells_rim,
            share=region.area_px / prod(facts.shape),
            uncertainty_grey=numbers.uncertainty_grey,
            flags=flags_of(numbers),
            contours_before=tuple(found.before),
            contours_after=tuple(found.after),
            depth_um=numbers.depth_um,
            degrees_inside=numbers.inside.degrees if numbers.inside else None,
            degrees_rim=numbers.rim.degrees if numbers.rim else None,
            coherence_inside=numbers.inside.coherence if numbers.inside else None,
            coherence_rim=numbers.rim.coherence if numbers.rim else None,
        )


def flagged_first(reviews: Iterable[RegionReview]) -> list[RegionReview]:
    """Return reviews as they should be looked at: by flags that say that the filling is wrong, by flags, by area."""

    def urgency(review: RegionReview) -> tuple[int, int, float, int]:
        return -review.graves, -len(review.flags), -review.share, review.region

    return sorted(reviews, key=urgency)


def measure_region(
    region: RegionFacts, around: Neighbourhood, image: SectionImage, segmenter: Segmenter, crop_px: int = 0
) -> tuple[Numbers, Found]:
    """Return what is measured of a region and its rim, and its cells; see `review_regions`."""
    facts, corrected = around.facts, around.corrected
    middle = sum(facts.value_range) / 2
    squares, total, directed = Squares(facts), np.zeros(len(GREY_SUMS)), np.zeros(len(ORIENTATION_SUMS))
    for part in around.parts():
        total += grey_sums(part, middle)
        directed += orientation_sums(part, facts.pixel_size_um)
        squares.add(part, around.rim_px, around.rim_px + around.guard_px)
    crop = choose_crop(region, corrected, facts.shape, context_px=around.rim_px, crop_px=crop_px)
    finder = Finder(segmenter, facts, squares.mosaic, crop)
    found = Found()
    for part in around.parts():
        found.add(part.focused(around.margin_px), finder, around.stain.grey, image)
    sums = dict(zip(GREY_SUMS, total.tolist(), strict=True))
    return _numbers(region, around, sums, orientations(directed, facts.pixel_size_um), squares, found), found


@dataclass(frozen=True, slots=True)
class Finder:
    """Finds cells of parts; ``tissue`` is intact tissue for thresholds, ``crop`` where contours are wanted."""

    segmenter: Segmenter
    facts: SectionFacts
    tissue: Grey | None
    crop: Box

    def cells(self, part: Part, pixels: Grey) -> pd.DataFrame:
        """Return the cells of pixels (h, w) of a part's window whose centre lies in its core; places in µm there."""
        size = self.facts.pixel_size_um
        with blamed_on("segmenter", self.segmenter.name):
            cells = self.segmenter.find(
                pixels, pixel_size_um=size, value_range=self.facts.value_range, surroundings=self.tissue
            )
            cells = checked_cells(cells, max(part.window.shape) * size)
        core, (y, x) = part.core.relative_to(part.window), cells[["y_um", "x_um"]].to_numpy(np.float64).T / size
        owned: pd.DataFrame = cells.loc[(y >= core.y0) & (y < core.y1) & (x >= core.x0) & (x < core.x1)]
        return owned

    def contours(self, part: Part, cells: pd.DataFrame) -> Iterator[NDArray[np.int_]]:
        """Yield the contours of cells that lie in the crop, in px of the section."""
        size, corner = self.facts.pixel_size_um, (part.window.y0, part.window.x0)
        y, x = cells[["y_um", "x_um"]].to_numpy(np.float64).T / size
        crop = self.crop.relative_to(part.window)
        shown = (y >= crop.y0) & (y < crop.y1) & (x >= crop.x0) & (x < crop.x1)
        last = (self.crop.y1, self.crop.x1)
        for contour in table_contours(cells.loc[shown], size):
            points = np.clip(_simple(contour) + corner, (self.crop.y0, self.crop.x0), last)
            if len(points) > 2:
                yield points


@dataclass
class Found:
    """The cells of a region and its rim, gathered part by part."""

    inside_um2: list[NDArray[np.float64]] = field(default_factory=list)
    rim_um2: list[NDArray[np.float64]] = field(default_factory=list)
    before: list[NDArray[np.int_]] = field(default_factory=list)
    after: list[NDArray[np.int_]] = field(default_factory=list)

    @property
    def areas(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Areas in µm² of the cells inside and in the rim."""
        none = np.zeros(0)
        return np.concatenate([none, *self.inside_um2]), np.concatenate([none, *self.rim_um2])

    def add(self, part: Part, finder: Finder, shown: Callable[[Grey], Grey], image: SectionImage) -> None:
        """Find the cells of a part, and in the crop also those of the scan."""
        cells, size = finder.cells(part, part.pixels), finder.facts.pixel_size_um
        inside, rim = _lying(cells, part.own, size), _lying(cells, part.rim, size)
        areas = cells["area_um2"].to_numpy(np.float64)
        self.inside_um2.append(areas[inside])
        self.rim_um2.append(areas[rim])
        if finder.crop.intersect(part.core).is_empty:
            return
        self.after += finder.contours(part, cells.loc[inside | rim])
        scanned = finder.cells(part, shown(image.read(part.window)))
        self.before += finder.contours(part, scanned.loc[_lying(scanned, part.own | part.rim, size)])


def _numbers(
    region: RegionFacts,
    around: Neighbourhood,
    sums: dict[str, float],
    directions: tuple[Orientation | None, Orientation | None],
    squares: Squares,
    found: Found,
) -> Numbers:
    facts, uncertainty = around.facts, around.corrected.uncertainty
    pixel_um2 = facts.pixel_size_um**2
    inside, rim = found.areas
    (mean, deviation), (rim_mean, rim_deviation) = (_moments(sums, where) for where in ("own", "rim"))
    compared = bool(sums["own_px"] and rim_deviation)
    outline_step, own_step, rim_step = (
        _quotient(sums[f"{where}_step"], sums[f"{where}_pairs"]) for where in ("outline", "own", "rim")
    )
    depth_um, tissue_um2 = surroundings(
        region.number, region.box, region.area_um2, around.corrected, facts, around.artefacts
    )
    return Numbers(
        area_um2=sums["own_px"] * pixel_um2,
        rim_um2=sums["rim_px"] * pixel_um2,
        outline_pairs=sums["outline_pairs"],
        seam=None if outline_step is None or not rim_step else outline_step / rim_step,
        grain=None if own_step is None or not rim_step else own_step / rim_step,
        spread=deviation / rim_deviation if compared else None,
        shift=(mean - rim_mean) / rim_deviation if compared else None,
        cells_inside=len(inside),
        cells_rim=len(rim),
        area_inside_um2=float(np.median(inside)) if len(inside) else None,
        area_rim_um2=float(np.median(rim)) if len(rim) else None,
        blank_share=squares.blank / max(squares.in_rim, 1),
        window_um=facts.window_px * facts.pixel_size_um,
        touches_border=region.touches_border,
        is_wide=is_wide(region.number, region.box, around.corrected, facts, around.part_px),
        uncertainty_grey=uncertainty.regions.get(region.number) if uncertainty else None,
        others_grey=tuple(uncertainty.regions.values()) if uncertainty else (),
        depth_um=depth_um,
        tissue_um2=tissue_um2,
        inside=directions[0],
        rim=directions[1],
    )


def _moments(sums: dict[str, float], where: str) -> tuple[float, float]:
    """Return mean (from the middle of the value range) and standard deviation of greys; 0 of nothing."""
    count = max(sums[f"{where}_px"], 1.0)
    mean = sums[f"{where}_grey"] / count
    return mean, float(np.sqrt(max(sums[f"{where}_squares"] / count - mean**2, 0.0)))


def _quotient(top: float, bottom: float) -> float | None:
    return top / bottom if bottom else None


def _lying(cells: pd.DataFrame, mask: NDArray[np.bool_], pixel_size_um: float) -> NDArray[np.bool_]:
    return lying_in(cells[PLACES].to_numpy(np.float64), mask, pixel_size_um)


def _simple(contour: NDArray[np.floating]) -> NDArray[np.int_]:
    """Return a closed polygon (n, 2) with few corners at whole pixels, the first not repeated."""
    closed = np.vstack([contour, contour[:1]])
    corners = np.rint(approximate_polygon(closed, TOLERANCE_PX)[:-1]).astype(int)  # type: ignore[no-untyped-call]
    return np.asarray(corners[np.any(corners != np.roll(corners, 1, axis=0), axis=1)])
