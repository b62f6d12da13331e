"""What the viewer of a section's page knows of the section and its regions, as plain records that become JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytomend.regions.plan import SectionFacts
from cytomend.report.corrected import CorrectedSection
from cytomend.report.origin import PackedGraft, RegionOrigin
from cytomend.report.regions import RegionFacts
from cytomend.report.review import Flag, RegionReview
from cytomend.report.tiles import TILE_PX, TileIndex

Record = dict[str, Any]

CHECKS = (
    "seam",
    "spread",
    "shift",
    "density_inside",
    "density_rim",
    "area_inside_um2",
    "area_rim_um2",
    "cells_inside",
    "cells_rim",
    "depth_um",
    "degrees_inside",
    "degrees_rim",
    "coherence_inside",
    "coherence_rim",
)
"""Of a review, those that the page shows."""

MOST_CONTOUR_NUMBERS = 250_000
"""Numbers of all contours on a page, some 2.5 bytes each: the page stays below 3 MB."""


class Reviewed(NamedTuple):
    """A region with its checks, and the contours of its cells as far as the page has room for them."""

    region: RegionFacts
    review: RegionReview
    cells: Record | None


@dataclass(frozen=True, slots=True)
class ShownRegion:
    """A region as the page lists it.

    Attributes
    ----------
    facts : its place and size
    outline : its path, in half pixels
    reviewed : its checks; None if it stays as it was scanned, because a reviewer said so
    is_native : whether it is shown at full resolution
    origin : where its pixels come from; None if it stays as it was scanned
    grafts : its copies with their outlines, as far as the page has room for them
    """

    facts: RegionFacts
    outline: str
    reviewed: Reviewed | None = None
    is_native: bool = False
    origin: RegionOrigin | None = None
    grafts: list[PackedGraft] | None = None

    @property
    def is_left(self) -> bool:
        """Whether it stays as it was scanned."""
        return self.reviewed is None

    @property
    def looks_wrong(self) -> bool:
        """Whether a flag says that the filling is wrong."""
        return self.reviewed is not None and self.reviewed.review.graves > 0

    @property
    def flags(self) -> tuple[Flag, ...]:
        """What a reviewer should look at."""
        return self.reviewed.review.flags if self.reviewed else ()


class Contours:
    """Packs the contours of cells, until a page holds as many as it may."""

    def __init__(self, most_numbers: int = MOST_CONTOUR_NUMBERS) -> None:
        self.left = most_numbers

    def pack(self, review: RegionReview) -> Record | None:
        """Return ``before`` and ``after``, a list of numbers a cell: x, y, then steps; None where there is no room."""
        packed = {
            "before": [_steps(contour) for contour in review.contours_before],
            "after": [_steps(contour) for contour in review.contours_after],
        }
        count = sum(len(steps) for cells in packed.values() for steps in cells)
        if count > self.left:
            return None
        self.left -= count
        return packed


def region_record(
    shown: ShownRegion, corrected: CorrectedSection, facts: SectionFacts, seconds: float | None
) -> Record:
    """Return what the viewer says of a region; lengths in pixels or µm as the names tell, None where unknown.

    Parameters
    ----------
    shown : the region
    corrected, facts : the section
    seconds : what mending it took
    """
    region = shown.facts
    uncertainty = corrected.uncertainty
    record: Record = {
        "number": region.number,
        "box": [region.box.y0, region.box.x0, region.box.y1, region.box.x1],
        "outline": shown.outline,
        "native": shown.is_native,
        "left": shown.is_left,
        "area_px": region.area_px,
        "area_um2": _rounded(region.area_um2),
        "y_um": _rounded(region.y_um),
        "x_um": _rounded(region.x_um),
        "share": _rounded(region.area_px / math.prod(facts.shape)),
        "windows": region.windows,
        "calls": region.windows * facts.samples * int(corrected.provenance.get("network_calls", 0)),
        "draw": region.draw,
        "seconds": _rounded(seconds),
        "border": region.touches_border,
        "uncertainty": _rounded(uncertainty.regions.get(region.number)) if uncertainty else None,
        "flags": [[flag.key, flag.sentence] for flag in shown.flags],
        "cells": shown.reviewed.cells if shown.reviewed else None,
    }
    if corrected.origin is not None:
        record |= _origin_record(shown)
    review = shown.reviewed.review if shown.reviewed else None
    return record | {name: _rounded(getattr(review, name)) if review else None for name in CHECKS}


def _origin_record(shown: ShownRegion) -> Record:
    """Return where the pixels of a region come from, as the page says it."""
    origin = shown.origin
    return {
        "graft_count": origin.count if origin else None,
        "drawn_px": origin.drawn_px if origin else None,
        "copied_px": origin.copied_px if origin else None,
        "farthest_um": _rounded(origin.farthest_um) if origin else None,
        "grafts": shown.grafts,
    }


def section_record(
    facts: SectionFacts, tiles: TileIndex, corrected: CorrectedSection, context_px: int, regions: list[Record]
) -> Record:
    """Return what the viewer knows of a section."""
    uncertainty = corrected.uncertainty
    return {
        "section": facts.section,
        "shape": list(facts.shape),
        "pixel_size_um": facts.pixel_size_um,
        "source_blake2b": facts.source_blake2b,
        "context_px": context_px,
        "tile_px": TILE_PX,
        "levels": tiles.levels,
        "complete_from": tiles.complete_from,
        "tiles": {
            "before": tiles.runs(tiles.before, facts.shape[1]),
            "mended": tiles.runs(tiles.mended, facts.shape[1]),
        },
        "uncertainty": {"samples": uncertainty.samples, "full_scale": uncertainty.full_scale} if uncertainty else None,
        "origin": corrected.origin is not None,
        "regions": {
            "columns": list(regions[0]) if regions else [],
            "rows": [list(region.values()) for region in regions],
        },
    }


def shares_of_time(
    windows: Mapping[int, int], shard_of: Mapping[int, int], seconds: Mapping[int, float | None]
) -> dict[int, float | None]:
    """Return the seconds of each region: those of its shard, by its share of the shard's windows.

    Parameters
    ----------
    windows, shard_of : by region
    seconds : by shard; None where it is not known

    Examples
    --------
    >>> shares_of_time({1: 3, 2: 1}, {1: 0, 2: 0}, {0: 8.0})
    {1: 6.0, 2: 2.0}
    """
    total: dict[int, int] = {}
    for region, shard in shard_of.items():
        total[shard] = total.get(shard, 0) + windows[region]
    return {
        region: None if (took := seconds.get(shard)) is None else took * windows[region] / total[shard]
        for region, shard in shard_of.items()
    }


def _steps(contour: NDArray[np.int_]) -> list[int]:
    """Return a polygon (n, 2) of (y, x) as x, y of its first point and the steps to the others.

    >>> _steps(np.array([[10, 20], [10, 22], [13, 22]]))
    [20, 10, 2, 0, 0, 3]
    """
    points = contour[:, ::-1]
    return [*points[0].tolist(), *np.diff(points, axis=0).ravel().tolist()]


def _rounded(value: float | None) -> float | None:
    """Return a number with five digits that say something; None where there is none."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")
