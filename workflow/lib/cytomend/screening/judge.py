"""What a connected area is, by its shape and evidence, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from cytomend.screening.proposals import Found, outlined, score_of
from cytomend.screening.settings import (
    BUBBLE,
    FOLD,
    MISSING_TISSUE,
    NATURAL_GAP,
    OUT_OF_FOCUS,
    PRECIPITATE,
    SCRATCH,
    STAIN_DROP,
    STRIPE,
    TEAR,
)

LEAST_GAP_UM2 = 1500.0
LEAST_CLEAR = 0.2
"""Share of a gap that must be plain glass and wide; pale fibres have a little of both."""
TEAR_ELONGATION = 3.2
"""Area over that of the largest disk inside: 1.2 to 2.4 for holes of 60 phantoms, 4.6 to 30 for tears."""
MOSTLY_NATURAL = 0.5
LEAST_THICK_UM2 = 6000.0
LEAST_STRIPE_UM = 900.0
FOLD_SLENDERNESS = 1.9
BAND_ASPECT, BAND_FILL = 4.0, 0.7
LEAST_LINE_UM = 300.0
LEAST_GRAINS_UM2 = 30.0
LEAST_BLUR_UM2 = 10_000.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A class and a score."""

    class_name: str
    score: float


@dataclass(frozen=True, slots=True)
class Judge:
    """How one detector's areas are judged.

    Parameters
    ----------
    near_um : float
        Areas closer than twice this are one.
    grow_um : float
        Margin that this kind of damage needs, beside that of the settings.
    classify : callable
        From an area and the pixel size to a verdict, or None for nothing.
    """

    near_um: float
    grow_um: float
    classify: Callable[[Found, float], Verdict | None]


def elongation(area: BaseGeometry) -> float:
    """Return how many of its largest inner disks an area would fill.

    >>> round(elongation(shapely.box(0, 0, 40, 4)), 0)
    13.0
    """
    circle = shapely.maximum_inscribed_circle(area, tolerance=0.02 * np.sqrt(area.area))
    return float(area.area / (np.pi * max(float(shapely.length(circle)), 1e-9) ** 2))


def slenderness(area: BaseGeometry) -> float:
    """Return the length of the narrowest rectangle around an area over its width, whatever holes or bays it has."""
    corners = shapely.get_coordinates(shapely.minimum_rotated_rectangle(area))[:3]
    short, long = sorted(np.hypot(*np.diff(corners, axis=0).T))
    return float(long / max(short, 1e-9))


def classify_gap(found: Found, pixel_size_um: float) -> Verdict | None:
    """Tell tears from missing tissue, and both from gaps that have a mirror image."""
    if found.seeds < LEAST_CLEAR or found.area.area * pixel_size_um**2 < LEAST_GAP_UM2:
        return None
    score = score_of(found.evidence)
    if found.aside > MOSTLY_NATURAL:
        return Verdict(NATURAL_GAP, score)
    largest = max(shapely.get_parts(found.area), key=lambda part: part.area)
    return Verdict(TEAR if elongation(largest) > TEAR_ELONGATION else MISSING_TISSUE, score)


def classify_thick(found: Found, pixel_size_um: float) -> Verdict | None:
    """Tell folds (long) from drops of stain (compact)."""
    if found.seeds == 0 or found.area.area * pixel_size_um**2 < LEAST_THICK_UM2:
        return None
    largest = max(shapely.get_parts(found.area), key=lambda part: part.area)
    return Verdict(FOLD if slenderness(largest) > FOLD_SLENDERNESS else STAIN_DROP, score_of(found.evidence))


def classify_stripe(found: Found, pixel_size_um: float) -> Verdict | None:
    """Keep long bands of even width."""
    x0, y0, x1, y1 = found.area.bounds
    if max(x1 - x0, y1 - y0) * pixel_size_um < LEAST_STRIPE_UM or not is_band(found.area):
        return None
    return Verdict(STRIPE, score_of(found.evidence))


def is_band(area: BaseGeometry) -> bool:
    """Whether an area is a long straight band along rows or columns.

    >>> is_band(shapely.box(0, 0, 500, 40)), is_band(shapely.box(0, 0, 60, 40))
    (True, False)
    """
    x0, y0, x1, y1 = area.bounds
    short, long = sorted((x1 - x0, y1 - y0))
    return bool(long > BAND_ASPECT * short and area.area > BAND_FILL * short * long)


def classify_line(found: Found, pixel_size_um: float) -> Verdict | None:
    """Keep long lines."""
    x0, y0, x1, y1 = found.area.bounds
    if found.seeds == 0 or np.hypot(x1 - x0, y1 - y0) * pixel_size_um < LEAST_LINE_UM:
        return None
    return Verdict(SCRATCH, score_of(found.evidence))


def classify_grains(found: Found, pixel_size_um: float) -> Verdict | None:
    """Keep grains of at least a few µm², joined to clouds."""
    if found.seeds == 0 or found.area.area * pixel_size_um**2 < LEAST_GRAINS_UM2:
        return None
    return Verdict(PRECIPITATE, score_of(found.evidence))


def classify_bubble(found: Found, pixel_size_um: float) -> Verdict | None:  # noqa: ARG001 - as the others
    """Keep every circle."""
    return Verdict(BUBBLE, score_of(found.evidence))


def classify_blur(found: Found, pixel_size_um: float) -> Verdict | None:
    """Keep areas that are no mere windows."""
    if found.area.area * pixel_size_um**2 < LEAST_BLUR_UM2:
        return None
    return Verdict(OUT_OF_FOCUS, score_of(found.evidence))


GAP = Judge(2.0, 3.0, classify_gap)
THICK = Judge(8.0, 4.0, classify_thick)
STRIPES = Judge(4.0, 2.0, classify_stripe)
LINE = Judge(12.0, 1.0, classify_line)
GRAINS = Judge(12.0, 0.0, classify_grains)
BUBBLES = Judge(0.0, 0.0, classify_bubble)
BLUR = Judge(8.0, 30.0, classify_blur)


def enclosed(
    area: BaseGeometry, grow_um: float, simplify_um: float, pixel_size_um: float, frame: BaseGeometry
) -> BaseGeometry:
    """Return the outline to be written."""
    return outlined(area, grow_px=grow_um / pixel_size_um, simplify_px=simplify_um / pixel_size_um, frame=frame)
