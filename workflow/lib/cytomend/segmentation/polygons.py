"""Contours as polygons: how much they overlap, what a frame leaves of them, and which found cells are the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from shapely.geometry import Polygon

Polygons = NDArray[np.object_]
Points = NDArray[np.floating[Any]]


def polygons(contours: Sequence[Points] | Points) -> Polygons:
    """Return contours (n, 2) of (y, x) as valid polygons in (x, y); of one that crosses itself its largest piece."""
    found = np.empty(len(contours), dtype=object)
    for i, contour in enumerate(contours):
        found[i] = Polygon(contour[:, ::-1]) if len(contour) > 2 else Polygon()
    for i in np.flatnonzero(~shapely.is_valid(found)).tolist():
        found[i] = largest(shapely.make_valid(found[i]))
    return found


def largest(shape: shapely.Geometry) -> Polygon:
    """Return the largest polygon of a shape; an empty one if it has none."""
    parts = [
        part for part in shapely.get_parts(shape, return_index=False) if part.geom_type in {"Polygon", "MultiPolygon"}
    ]
    flat = [piece for part in parts for piece in shapely.get_parts(part)]
    return max(flat, key=lambda piece: float(piece.area), default=Polygon())


def outline(polygon: Polygon) -> NDArray[np.float32]:
    """Return the outer ring (n, 2) of (y, x), the first point not repeated."""
    return np.asarray(shapely.get_coordinates(polygon.exterior)[:-1, ::-1], np.float32)


def clipped(contour: Points, shape: tuple[int, int]) -> Points:
    """Return what a picture of (height, width) px leaves of a contour; (0, 2) if nothing."""
    if contour.min() >= 0 and contour[:, 0].max() <= shape[0] and contour[:, 1].max() <= shape[1]:
        return contour
    whole = polygons([contour])[0]
    return outline(largest(shapely.clip_by_rect(whole, 0, 0, shape[1], shape[0])))


class Overlaps(NamedTuple):
    """Pairs of polygons that overlap: indices and intersections over unions, all (pairs,)."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    iou: NDArray[np.float64]


def overlaps(first: Polygons, second: Polygons) -> Overlaps:
    """Return all pairs of overlapping polygons of two sets."""
    i, j = shapely.STRtree(second).query(first, predicate="intersects")
    shared = shapely.area(shapely.intersection(first[i], second[j]))
    union = shapely.area(first[i]) + shapely.area(second[j]) - shared
    return Overlaps(i, j, shared / np.maximum(union, 1e-9))


class Matching(NamedTuple):
    """Found against true cells: indices of the matched pairs and how many there are on each side."""

    found: NDArray[np.intp]
    true: NDArray[np.intp]
    found_count: int
    true_count: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where there is nothing to find and nothing is found."""
        total = self.found_count + self.true_count
        return 2 * len(self.found) / total if total else 1.0


def match(found: Polygons, true: Polygons, iou: float) -> Matching:
    """Match as many cells as can be, each at most once, whose intersection over union exceeds a threshold."""
    pairs = overlaps(found, true)
    value = np.zeros((len(found), len(true)))
    good = pairs.iou > iou
    # One more match outweighs any gain in overlap.
    value[pairs.first[good], pairs.second[good]] = 1 + pairs.iou[good] / (2 * max(min(value.shape), 1))
    i, j = linear_sum_assignment(-value)
    matched = value[i, j] > 0
    return Matching(i[matched], j[matched], len(found), len(true))
