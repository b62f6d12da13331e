"""What a page says of a region: a row of the plan's table, typed."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from cytomend.geometry import Box


@dataclass(frozen=True, slots=True)
class RegionFacts:
    """A region's number, box, centre and size; see `cytomend.stages.plan_section`."""

    number: int
    box: Box
    y_um: float
    x_um: float
    area_px: int
    area_um2: float
    windows: int
    touches_border: bool


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
        )
        for row in table.to_dict("records")
    ]


def largest_first(regions: list[RegionFacts]) -> list[RegionFacts]:
    """Return the regions by falling area; equals by number."""
    return sorted(regions, key=lambda region: (-region.area_px, region.number))
