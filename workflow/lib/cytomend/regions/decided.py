"""What reviewers decided, applied to the regions of a plan: which are left as scanned, which are drawn again.

A region is known again by its box and area, whatever its number is now: a further annotation shifts numbers. A decision
about a region that is no more is not applied, and a warning says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from cytomend.geometry import Box
from cytomend.regions.find import Region

LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class Decided:
    """One decision that reaches pixels; ``draw`` counts how often the region is drawn again, 0 where it is left."""

    region: int
    box: Box
    area_px: int
    decision: str
    draw: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Return the decision of a plain record, whose ``box`` is [y0, x0, y1, x1]."""
        return cls(**{**record, "box": Box(*record["box"])})


@dataclass(frozen=True, slots=True)
class Applied:
    """Regions after decisions.

    Attributes
    ----------
    mended : regions that are mended
    left : regions that stay as they were scanned
    draws : of mended regions that are drawn again, how often, by number
    warnings : sentences about decisions that were not applied
    """

    mended: list[Region]
    left: list[Region]
    draws: dict[int, int]
    warnings: tuple[str, ...]


def apply_decisions(regions: list[Region], decisions: Iterable[Decided]) -> Applied:
    """Return which of the regions are mended, how, and which are left."""
    at: dict[tuple[Box, int], list[Region]] = {}
    for region in regions:
        at.setdefault((region.box, region.area_px), []).append(region)
    left, draws, warnings = set[int](), dict[int, int](), []
    for decided in decisions:
        found = at.get((decided.box, decided.area_px), [])
        # Two regions may lie in each other with one box and area: then only the number tells them apart.
        same = found if len(found) == 1 else [region for region in found if region.number == decided.region]
        if not same:
            warnings.append(not_applied(decided.region, decided.box, decided.area_px, decided.decision))
        elif decided.decision == LEAVE:
            left.add(same[0].number)
        else:
            draws[same[0].number] = decided.draw
    return Applied(
        [region for region in regions if region.number not in left],
        [region for region in regions if region.number in left],
        draws,
        tuple(warnings),
    )


def not_applied(number: int, box: Box, area_px: int, decision: str) -> str:
    """Return the sentence about a decision whose region is no more."""
    return (
        f"A decision was not applied: {decision!r} was said of region {number} when it had {area_px} px from"
        f" y {box.y0}, x {box.x0} to y {box.y1}, x {box.x1}, and the mask has no such region now; look at the place"
    )
