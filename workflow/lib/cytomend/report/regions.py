"""What a page says of a region: a row of the plan's table, typed."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from cytomend.geometry import Box
from cytomend.regions.plan import SectionFacts


@dataclass(frozen=True, slots=True)
class RegionFacts:
    """A region's number, box, centre and size; see `cytomend.stages.plan_section`.

    Of a region that stays as it was scanned ``shard`` is None and ``windows`` 0; ``draw`` is how often it was drawn
    again.
    """

    number: int
    box: Box
    y_um: float
    x_um: float
    area_px: int
    area_um2: float
    windows: int
    touches_border: bool
    shard: int | None = None
    draw: int = 0


def region_facts(table: pd.DataFrame) -> list[RegionFacts]:
    """Return the rows of the plan's table of regions."""
    return [
        RegionFacts(
            number=int(row["region"]),
            box=Box(*(int(row[side]) for side in ("y0_px", "x0_px", "y1_px", "x1_px"))),
            y_um=float(row["y_um"]),
            x_um=float(row["x_um"]),
            area_px=int(row["area_px"]),
            area_um2=float(row["area_um2"]),
            windows=int(row["windows"]),
            touches_border=bool(row["touches_border"]),
            shard=int(row["shard"]),
            draw=int(row["draw"]),
        )
        for row in table.to_dict("records")
    ]


def left_facts(facts: SectionFacts) -> list[RegionFacts]:
    """Return the regions that stay as they were scanned."""
    whole = Box(0, 0, *facts.shape)
    return [
        RegionFacts(
            number=left.number,
            box=left.box,
            y_um=left.y_um,
            x_um=left.x_um,
            area_px=left.area_px,
            area_um2=left.area_px * facts.pixel_size_um**2,
            windows=0,
            touches_border=left.box.grow(1).intersect(whole) != left.box.grow(1),
        )
        for left in facts.left
    ]


def largest_first(regions: list[RegionFacts]) -> list[RegionFacts]:
    """Return the regions by falling area; equals by number."""
    return sorted(regions, key=lambda region: (-region.area_px, region.number))
