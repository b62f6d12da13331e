"""An artefact mask of polygons, drawn box by box with the same pixels whatever the box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.regions.classes import Placed
from cytomend.regions.geojson import Feature, polygon_of
from cytomend.storage.raster import require_inside


class PolygonMask:
    """Damage outlined by polygons: a pixel belongs to it when its centre (x + 0.5, y + 0.5) lies inside one.

    Parameters
    ----------
    areas : sequence of shapely MultiPolygon
        Valid, in level-0 pixels; they may overlap and reach outside the section.
    shape : (height, width)
        Size of the section in pixels.
    warnings : list of str
        What was repaired or skipped on the way here.
    """

    def __init__(self, areas: Sequence[MultiPolygon], shape: tuple[int, int], warnings: list[str]) -> None:
        self.shape = shape
        self.warnings = warnings
        self._areas = np.array(areas, dtype=object)
        shapely.prepare(self._areas)
        self._tree = shapely.STRtree(list(areas))
        self._bounds = [_pixel_bounds(area).clip(shape) for area in areas]
        self._edges = [_Edges(area) for area in areas]

    @property
    def area(self) -> MultiPolygon:
        """All of it as one, in pixels."""
        whole = shapely.get_parts(shapely.union_all(self._areas))
        return MultiPolygon([part for part in whole if isinstance(part, shapely.Polygon)])

    def __len__(self) -> int:
        """Return the number of polygons."""
        return len(self._areas)

    def filled(self) -> PolygonMask:
        """Return the mask of these outlines without their holes, as one area."""
        outer = [shapely.Polygon(part.exterior) for area in self._areas for part in area.geoms]
        whole = shapely.union_all(outer)
        parts = [part for part in shapely.get_parts(whole) if isinstance(part, shapely.Polygon)]
        return PolygonMask([MultiPolygon(parts)], self.shape, self.warnings)

    def mostly_outside(self, other: PolygonMask) -> int:
        """Return how many of these polygons lie outside of all of another mask's by more than half of their area."""
        within = shapely.union_all(other._areas)
        return sum(area.difference(within).area > area.area / 2 for area in self._areas)

    def candidate_boxes(self, tile_px: int, margin_px: int = 0) -> Iterator[Box]:
        """Yield the tiles of the absolute grid that a margin joins to a polygon, row by row, without drawing any."""
        height, width = self.shape
        last = (width - 1) // tile_px
        for y in range(0, height, tile_px):
            row = Box(y, 0, min(y + tile_px, height), width)
            touched: set[int] = set()
            around = row.grow(margin_px)
            for number in self._meeting(around):
                bounds = self._bounds[number].grow(margin_px)
                columns = np.arange(max(bounds.x0 // tile_px, 0), min((bounds.x1 - 1) // tile_px, last) + 1)
                left = columns * tile_px - margin_px
                top, bottom = np.full(len(columns), around.y0), np.full(len(columns), around.y1)
                tiles = shapely.box(left, top, left + tile_px + 2 * margin_px, bottom)
                touched.update(columns[shapely.intersects(self._areas[number], tiles)].tolist())
            for column in sorted(touched):
                yield Box(row.y0, column * tile_px, row.y1, min((column + 1) * tile_px, width))

    def read(self, box: Box) -> NDArray[np.bool_]:
        """Draw the mask of one box, (h, w); ValueError when the box is empty or reaches outside the section."""
        require_inside(box, self.shape)
        mask = np.zeros(box.shape, np.bool_)
        for number in self._meeting(box):
            part = self._bounds[number].intersect(box)
            if not part.is_empty:
                mask[part.relative_to(box).slices] |= self._edges[number].fill(part)
        return mask

    def _meeting(self, box: Box) -> list[int]:
        """Return the numbers of the polygons whose bounds meet a box."""
        found: list[int] = self._tree.query(shapely.box(box.x0, box.y0, box.x1, box.y1)).tolist()
        return sorted(found)


class _Edges:
    """The edges of one polygon, holes included, for even-odd filling along pixel rows.

    Where an edge crosses a row is computed from its own two ends alone, never from an edge clipped or moved to a box:
    a box therefore equals the crop of the whole to the last pixel, also for centres that lie exactly on an edge.
    (Clipping to the box and rasterising with GDAL, the usual way, loses that for such centres.)
    """

    def __init__(self, area: MultiPolygon) -> None:
        ends = [shapely.get_coordinates(ring) for ring in shapely.get_rings(shapely.get_parts(area))]
        start = np.concatenate([corners[:-1] for corners in ends])  # (n, 2), x before y
        stop = np.concatenate([corners[1:] for corners in ends])
        downward = (start[:, 1] <= stop[:, 1])[:, np.newaxis]
        upper, lower = np.where(downward, start, stop), np.where(downward, stop, start)
        # Pixel rows whose centre line y + 0.5 lies in [upper, lower); int64, because coordinates may lie far outside.
        first_row = np.ceil(upper[:, 1] - 0.5).astype(np.int64)
        end_row = np.ceil(lower[:, 1] - 0.5).astype(np.int64)
        crossing = end_row > first_row
        self._x, self._y = upper[crossing, 0], upper[crossing, 1]
        self._dx, self._dy = (lower - upper)[crossing].T
        self._first_row, self._end_row = first_row[crossing], end_row[crossing]

    def fill(self, box: Box) -> NDArray[np.bool_]:
        """Return which pixel centres of a box lie inside, (h, w)."""
        height, width = box.shape
        near = np.flatnonzero((self._end_row > box.y0) & (self._first_row < box.y1))
        first = np.maximum(self._first_row[near], box.y0)
        rows_each = np.minimum(self._end_row[near], box.y1) - first
        edge = np.repeat(near, rows_each)
        rows = (
            np.arange(len(edge)) - np.repeat(np.cumsum(rows_each) - rows_each, rows_each) + np.repeat(first, rows_each)
        )
        x = (rows + 0.5 - self._y[edge]) * self._dx[edge] / self._dy[edge] + self._x[edge]
        # The first pixel whose centre lies right of the crossing; a centre on the edge counts as left, as in GDAL.
        columns = np.clip(np.floor(x + 0.5) - box.x0, 0, width).astype(np.int64)
        crossings = np.zeros(height * (width + 1), np.uint8)  # their number may overflow, its lowest bit does not
        np.add.at(crossings, (rows - box.y0) * (width + 1) + columns, 1)
        odd = (crossings & 1).reshape(height, width + 1)
        inside: NDArray[np.bool_] = np.bitwise_xor.accumulate(odd, axis=1)[:, :width].view(np.bool_)
        return inside


def polygon_mask(placed: Sequence[Placed], shape: tuple[int, int], warnings: list[str]) -> PolygonMask:
    """Return the mask of annotated objects; see `cytomend.regions.annotation.open_mask`.

    Parameters
    ----------
    placed : the objects, each with its file
    shape : (height, width) of the section in pixels
    warnings : sentences, to which those about outlines are added
    """
    areas: list[MultiPolygon] = []
    for path, feature in placed:
        area = polygon_of(path, feature, warnings)
        if area is not None:
            _check_place(path, feature, area, shape, warnings)
            areas.append(area)
    return PolygonMask(areas, shape, warnings)


def _check_place(path: Path, feature: Feature, area: MultiPolygon, shape: tuple[int, int], warnings: list[str]) -> None:
    """Refuse a polygon that lies outside the section, which tells of another scan or another scale."""
    height, width = shape
    x0, y0, x1, y1 = area.bounds
    where = f"x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}, of an image of {width} x {height} pixels (width x height)"
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise InputError(
            f"{path}: {feature.place}: expected coordinates inside the image, found {where}; check that the annotation"
            " belongs to this image and is in full-resolution pixels"
        )
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        warnings.append(f"{path}: {feature.place} reaches outside the image ({where}); clipped")


def _pixel_bounds(area: MultiPolygon) -> Box:
    x0, y0, x1, y1 = area.bounds
    return Box(int(np.floor(y0)), int(np.floor(x0)), int(np.ceil(y1)), int(np.ceil(x1)))
