"""From squares that a detector marked to outlines that a person can correct.

Each tile gives polygons along the lattice, with sums of whole numbers. Polygons that meet at the border of tiles are
joined, and their sums added; so nothing depends on where the tiles lie.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes
from rasterio.transform import Affine
from scipy import ndimage
from shapely.geometry.base import BaseGeometry

from cytomend.geometry import Box
from cytomend.screening.settings import COLOURS
from cytomend.screening.tiles import Seen

EVIDENCE_STEPS = 1000
MOST_EVIDENCE = 8.0
COORDINATE_GRID_PX = 0.01


@dataclass(frozen=True, slots=True)
class Fragment:
    """The part of a proposal that one tile holds.

    Parameters
    ----------
    area : Polygon
        Along the lattice, in pixels of the scan.
    sums : (4,) int64
        Squares, evidence in steps, squares that are seeds, squares that speak for a natural cause.
    """

    area: BaseGeometry
    sums: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Found:
    """One connected area that a detector marked.

    Parameters
    ----------
    area : Polygon
        In pixels of the scan.
    evidence : float
        Mean over its squares; 1 at the detector's limit.
    seeds : float in [0, 1]
        Share of squares that are seeds; a proposal needs some.
    aside : float in [0, 1]
        Share of squares that speak for a natural cause.
    """

    area: BaseGeometry
    evidence: float
    seeds: float
    aside: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """An outline with a class and a score, ready to be written."""

    class_name: str
    score: float
    area: BaseGeometry


def fragments(seen: Seen, core: Box, factor: int) -> Iterator[Fragment]:
    """Yield the polygons of a tile.

    Parameters
    ----------
    seen : what a detector saw in the tile
    core : the tile, in pixels of the scan
    factor : pixels a side of the lattice's squares
    """
    if not seen.mask.any():
        return
    labels, count = ndimage.label(seen.mask)
    own = labels[seen.mask]
    steps = np.rint(seen.evidence[seen.mask].clip(0, MOST_EVIDENCE) * EVIDENCE_STEPS).astype(np.int64)
    weights = (np.ones_like(steps), steps, seen.seed[seen.mask], seen.aside[seen.mask])
    # Sums of whole numbers below 2**53 are exact in any order.
    sums = np.stack([np.bincount(own, weight, minlength=count + 1) for weight in weights], 1).astype(np.int64)
    place = Affine(factor, 0, core.x0, 0, factor, core.y0)
    for geometry, label in shapes(labels.astype(np.int32), mask=seen.mask, connectivity=4, transform=place):
        rings = geometry["coordinates"]
        yield Fragment(shapely.Polygon(rings[0], rings[1:]), sums[int(label)])


def joined(parts: Sequence[Fragment], *, near_px: float) -> list[Found]:
    """Join fragments that touch, or come as near as twice ``near_px``."""
    return [group.found for group in _groups(parts, near_px)]


def settled(parts: Sequence[Fragment], core: Box, *, near_px: float) -> tuple[list[Found], list[Fragment]]:
    """Join the fragments of a tile as far as no other tile can tell more, and return the other fragments as they are.

    Most of what is seen is a speck within a tile; settled at once it takes no memory.
    """
    found, others = list[Found](), list[Fragment]()
    for group in _groups(parts, near_px):
        x0, y0, x1, y1 = group.bounds
        # Outside fragments reach into the tile by near_px, grown as they are.
        apart = x0 > core.x0 + near_px and y0 > core.y0 + near_px and x1 < core.x1 - near_px and y1 < core.y1 - near_px
        if apart:
            found.append(group.found)
        else:
            others += group.members
    return found, others


class _Group(NamedTuple):
    """Fragments that are one: what they make, the fragments, and the bounds of them grown (x0, y0, x1, y1)."""

    found: Found
    members: list[Fragment]
    bounds: tuple[float, float, float, float]


def _groups(parts: Sequence[Fragment], near_px: float) -> Iterator[_Group]:
    """Yield the groups of fragments that touch, or come as near as twice ``near_px``."""
    if not parts:
        return
    whole = shapely.disjoint_subset_union_all([part.area for part in parts])
    # Each by itself: of many pieces at once a buffer takes a thousand times as long.
    grown = (
        shapely.disjoint_subset_union_all(shapely.buffer(shapely.get_parts(whole), near_px, quad_segs=4))
        if near_px
        else whole
    )
    groups = shapely.get_parts(grown)
    tree = shapely.STRtree(groups)
    points = shapely.point_on_surface([part.area for part in parts])
    owner, total = np.full(len(parts), -1), np.zeros((len(groups), 4), np.int64)
    part_index, group_index = tree.query(points, predicate="intersects")
    owner[part_index] = group_index
    np.add.at(total, owner, np.stack([part.sums for part in parts]))
    pieces = shapely.get_parts(whole)
    _, home = tree.query(shapely.point_on_surface(pieces), predicate="intersects")
    order = np.argsort(home, kind="stable")
    starts = np.searchsorted(home[order], np.arange(len(groups) + 1))
    members: list[list[Fragment]] = [[] for _ in groups]
    for part, number in zip(parts, owner.tolist(), strict=True):
        members[number].append(part)
    for number, (a, b) in enumerate(pairwise(starts)):
        found = _found(shapely.disjoint_subset_union_all(pieces[order[a:b]]), total[number])
        yield _Group(found, members[number], groups[number].bounds)


def in_reading_order(found: Iterable[Found]) -> list[Found]:
    """Return areas from top to bottom, left to right by their first corner."""
    return sorted(found, key=lambda one: (one.area.bounds[1], one.area.bounds[0], one.area.bounds[2:]))


def _found(area: BaseGeometry, sums: NDArray[np.int64]) -> Found:
    count = max(int(sums[0]), 1)
    # Corners that only tiles made are dropped: a ring begins at its lowest left corner, which is a true one. They had a
    # say in the order of the parts.
    plain = area.normalize().simplify(0).normalize()
    return Found(plain, float(sums[1]) / (count * EVIDENCE_STEPS), float(sums[2]) / count, float(sums[3]) / count)


def score_of(evidence: float) -> float:
    """Return evidence as a score in [0, 1): 0.5 at a detector's limit, 0.8 at twice, 0.94 at four times.

    >>> [score_of(e) for e in (0.0, 1.0, 2.0)]
    [0.0, 0.5, 0.8]
    """
    return evidence**2 / (1 + evidence**2)


def outlined(area: BaseGeometry, *, grow_px: float, simplify_px: float, frame: BaseGeometry) -> BaseGeometry:
    """Return an outline that encloses an area and the margin around it, with few corners, inside the section.

    The simplified line departs from the grown one by at most ``simplify_px``, so the area is grown by that much more.
    Holes that are larger than the margin stay.
    """
    grown = _buffered(area, grow_px + simplify_px).simplify(simplify_px)
    inside = shapely.set_precision(shapely.intersection(shapely.make_valid(grown), frame), COORDINATE_GRID_PX)
    # What only touches the frame leaves lines and points.
    flat = shapely.get_parts(shapely.get_parts(inside))
    areas = [part for part in flat if isinstance(part, shapely.Polygon)]
    return areas[0] if len(areas) == 1 else shapely.MultiPolygon(areas)


def _buffered(area: BaseGeometry, distance: float) -> BaseGeometry:
    """Return an area grown: its outer rings grown, its holes shrunk.

    Ring by ring: of many rings at once a buffer takes a thousand times as long.
    """
    grown = []
    for part in shapely.get_parts(area):
        outer = shapely.Polygon(part.exterior).buffer(distance, quad_segs=4)
        holes = [shapely.Polygon(ring).buffer(-distance, quad_segs=4) for ring in part.interiors]
        grown.append(outer.difference(shapely.disjoint_subset_union_all(holes)))
    return shapely.disjoint_subset_union_all(grown)


def features(proposals: Iterable[Proposal], pixel_size_um: float) -> list[dict[str, Any]]:
    """Return proposals as QuPath writes annotations, numbered within their class."""
    counts: dict[str, int] = {}
    return [_feature(proposal, counts, pixel_size_um) for proposal in proposals]


def _feature(proposal: Proposal, counts: dict[str, int], pixel_size_um: float) -> dict[str, Any]:
    name = proposal.class_name
    counts[name] = counts.get(name, 0) + 1
    geometry = json.loads(shapely.to_geojson(proposal.area))
    digest = blake2b(f"{name}{json.dumps(geometry)}".encode(), digest_size=16).digest()
    return {
        "type": "Feature",
        "id": str(uuid.UUID(bytes=digest, version=4)),
        "geometry": geometry,
        "properties": {
            "objectType": "annotation",
            "name": f"{name} {counts[name]}, score {proposal.score:.2f}",
            "classification": {"name": name, "color": list(COLOURS[name])},
            "isLocked": False,
            "measurements": {
                "score": round(proposal.score, 4),
                "area µm^2": round(proposal.area.area * pixel_size_um**2, 1),
            },
        },
    }
