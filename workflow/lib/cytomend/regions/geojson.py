"""Polygons from GeoJSON as QuPath exports it: level-0 pixels, origin at the top left corner, x before y."""

from __future__ import annotations

import gc
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, Polygon

from cytomend.errors import InputError
from cytomend.regions.notation import ANNOTATION, UNDRAWN, NotationError, class_of, entries_of, kind_of

LARGEST_PX = 1e9
"""No section is as large; coordinates beyond are of another unit, or broken."""
LARGEST_BYTES = 512 << 20
"""A million corners take 22 MB."""

DEEPEST = 32
"""Collections inside of collections; deeper ones are no annotation."""

GZIP_MAGIC = b"\x1f\x8b"

GEOMETRIES = {"Polygon", "MultiPolygon", "GeometryCollection"}

# They mark places and paths, and have no area that could be mended.
_WITHOUT_AREA = {"Point", "MultiPoint", "LineString", "MultiLineString"}


@dataclass(frozen=True)
class Feature:
    """One annotated object before its geometry is looked at.

    Parameters
    ----------
    place : str
        How messages call it: its number in the file and what is known of it.
    class_name : str or None
        The class, or where there is none the name; derived classes are joined as ``Cell: Positive``.
    geometry : object
        GeoJSON, unchecked.
    kind : str
        What it is: `cytomend.regions.notation.ANNOTATION`, one of ``UNDRAWN``, or a word that is not known.
    also : tuple of str
        Further names that count as its class.
    """

    place: str
    class_name: str | None
    geometry: object
    kind: str = ANNOTATION
    also: tuple[str, ...] = ()

    @property
    def is_detection(self) -> bool:
        """Whether a program found it, such as a cell or a tile, and nobody drew it as damage."""
        return self.kind in UNDRAWN

    @property
    def classes(self) -> tuple[str, ...]:
        """All that counts as its class."""
        return self.also if self.class_name is None else (self.class_name, *self.also)


def read_features(path: Path) -> list[Feature]:
    """Read all features of a FeatureCollection, a bare list of features, a single one or its geometry, gzipped or not.

    Raises
    ------
    InputError
        The file cannot be read, is no JSON, or holds no features.
    """
    data = _parse(path, _text(path))
    if isinstance(data, dict) and data.get("type") == "FeatureCollection":
        data = data.get("features")
    elif isinstance(data, dict) and (data.get("type") == "Feature" or _is_geometry(data)):
        data = [data]
    if not isinstance(data, list):
        raise InputError(
            f"{path}: expected a GeoJSON FeatureCollection, a list of features or one feature, found {_kind(data)};"
            " export the annotations from QuPath as GeoJSON"
        )
    return list(_features(path, "", data))


def _features(path: Path, within: str, items: list[object], depth: int = 1) -> Iterator[Feature]:
    """Yield the features of a list, also of collections and lists in it, whose numbers are joined by points."""
    if depth > DEEPEST:
        raise InputError(f"{path}: expected features, found collections nested more than {DEEPEST} deep; export again")
    for position, item in enumerate(items, 1):
        number = f"{within}{position}"
        members = item.get("features") if isinstance(item, dict) and item.get("type") == "FeatureCollection" else item
        if isinstance(members, list):
            yield from _features(path, f"{number}.", members, depth + 1)
        else:
            yield _feature(path, number, item)


def polygon_of(path: Path, feature: Feature, warnings: list[str]) -> MultiPolygon | None:
    """Return the area of a feature, repaired where it crosses itself; None where it has none.

    Parameters
    ----------
    path : Path
        Named in messages.
    feature : Feature
        Its geometry is checked here.
    warnings : list of str
        Receives a sentence for everything that is repaired or skipped.

    Raises
    ------
    InputError
        The geometry is malformed.
    """
    parts = list(_polygons(path, feature, feature.geometry, warnings))
    if not parts:
        return None
    wrong = [part for part in parts if not part.is_valid]
    area = MultiPolygon(parts)
    if wrong or len(parts) > 1:  # parts may overlap
        area = _only_polygons(shapely.union_all(shapely.make_valid(parts)))
    if wrong:
        warnings.append(
            f"{path}: {feature.place} is not a simple outline ({shapely.is_valid_reason(wrong[0])}); repaired to"
            f" {area.area:.0f} px², in which areas that the outline winds around twice are left out"
        )
    if area.area == 0:
        warnings.append(f"{path}: {feature.place} encloses no area; skipped")
        return None
    return area


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data.startswith(GZIP_MAGIC):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(LARGEST_BYTES + 1)
        if len(data) > LARGEST_BYTES:
            raise InputError(f"{path}: expected GeoJSON of at most {LARGEST_BYTES >> 20} MiB, found more; split it")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: expected a GeoJSON file, found nothing at this path; check it") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: expected a gzipped GeoJSON file, found a damaged or truncated one ({error}); copy it again"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected GeoJSON in UTF-8, found other bytes at {error.start}; export it again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: expected a GeoJSON file that may be read, found: {error.strerror}; check its permissions"
        ) from error


def _parse(path: Path, text: str) -> object:
    gc.disable()  # a million corners are as many lists: to look for garbage among them takes as long as they do
    try:
        data: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: expected GeoJSON, found at line {error.lineno}, column {error.colno}: {error.msg};"
            " export it again"
        ) from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: expected GeoJSON, found JSON that cannot be parsed; export it again") from error
    finally:
        gc.enable()
    return data


def _feature(path: Path, number: str, item: object) -> Feature:
    if isinstance(item, dict) and _is_geometry(item):
        return Feature(f"feature {number}", None, item)
    if not isinstance(item, dict) or item.get("type") != "Feature":
        raise InputError(
            f"{path}: expected feature {number} to be a GeoJSON Feature, found {_kind(item)}; export it again"
        )
    try:
        entries = entries_of(item)
        class_name = class_of(entries)
    except NotationError as error:
        raise InputError(f"{path}: feature {number}: expected {error}; correct or export it again") from error
    name = entries.get("name")
    known = [repr(name)] if isinstance(name, str) else []
    known += [f"class {class_name!r}"] if class_name and class_name != name else []
    place = f"feature {number}" + (f" ({', '.join(known)})" if known else "")
    return Feature(place, class_name, item.get("geometry"), kind_of(entries, class_name))


def _is_geometry(item: dict[str, Any]) -> bool:
    """Whether an object is a bare geometry."""
    kind = item.get("type")
    return (
        isinstance(kind, str) and kind in GEOMETRIES | _WITHOUT_AREA and bool({"coordinates", "geometries"} & {*item})
    )


def _polygons(path: Path, feature: Feature, geometry: object, warnings: list[str]) -> Iterator[Polygon]:
    """Yield the polygons of a geometry, with a warning for each part that has no area."""
    kind = str(geometry.get("type")) if isinstance(geometry, dict) else None
    if geometry is None:
        warnings.append(f"{path}: {feature.place} has no geometry; skipped")
    elif not isinstance(geometry, dict):
        raise _malformed(path, feature, "a geometry object", _kind(geometry))
    elif kind in _WITHOUT_AREA:
        warnings.append(f"{path}: {feature.place} is a {kind} and has no area; skipped")
    elif kind == "GeometryCollection":
        members = _list(path, feature, geometry.get("geometries"), "geometries")
        if not members:
            warnings.append(f"{path}: {feature.place} has no geometry; skipped")
        for part in members:
            yield from _polygons(path, feature, part, warnings)
    elif kind == "Polygon":
        yield from _polygon(path, feature, geometry.get("coordinates"), warnings)
    elif kind == "MultiPolygon":
        members = _list(path, feature, geometry.get("coordinates"), "polygons")
        if not members:
            warnings.append(f"{path}: {feature.place} has no coordinates; skipped")
        for part in members:
            yield from _polygon(path, feature, part, warnings)
    else:
        raise _malformed(path, feature, "a Polygon or MultiPolygon", repr(kind))


def _polygon(path: Path, feature: Feature, rings: object, warnings: list[str]) -> Iterator[Polygon]:
    """Yield one polygon; empty coordinates are skipped with a warning, as an empty hole is."""
    rings = _list(path, feature, rings, "rings")
    outlines = [_ring(path, feature, ring) for ring in rings if ring != []]
    if not rings or rings[0] == []:
        warnings.append(f"{path}: {feature.place} has no coordinates, or a part without them; skipped")
        return
    if len(outlines) < len(rings):
        warnings.append(f"{path}: {feature.place} has a hole without coordinates; skipped")
    yield Polygon(outlines[0], outlines[1:])


def _ring(path: Path, feature: Feature, ring: object) -> NDArray[np.float64]:
    """Return the (n, 2) corners of a ring, x before y, first and last alike."""
    try:
        corners = np.asarray(_list(path, feature, ring, "corners"))
    except ValueError:
        raise _malformed(path, feature, "corners as [x, y]", "lists of unequal length") from None
    if corners.ndim != 2 or corners.shape[1] < 2 or corners.dtype.kind not in "iuf":
        raise _malformed(path, feature, "corners as [x, y] numbers", repr(ring)[:60])
    corners = corners[:, :2].astype(np.float64)
    if not np.isfinite(corners).all():
        raise _malformed(path, feature, "finite coordinates", "NaN or infinity")
    if (np.abs(corners) > LARGEST_PX).any():
        raise _malformed(
            path, feature, f"coordinates in pixels, up to {LARGEST_PX:.0e}", f"{np.abs(corners).max():.3g}"
        )
    if len(corners) < 4:
        raise _malformed(path, feature, "rings of at least 4 corners", f"{len(corners)}")
    if not np.array_equal(corners[0], corners[-1]):
        raise _malformed(
            path,
            feature,
            "a closed ring",
            f"one that begins at {corners[0].tolist()} and ends at {corners[-1].tolist()}",
        )
    return corners


def _list(path: Path, feature: Feature, values: object, name: str) -> list[Any]:
    if not isinstance(values, list):
        raise _malformed(path, feature, f"a list of {name}", _kind(values))
    return values


def _malformed(path: Path, feature: Feature, expected: str, found: str) -> InputError:
    return InputError(f"{path}: {feature.place}: expected {expected}, found {found}; correct or export it again")


def _only_polygons(geometry: Any) -> MultiPolygon:  # noqa: ANN401 - make_valid returns any kind of geometry
    """Drop the lines and points that a repair leaves where an outline touches itself."""
    parts = shapely.get_parts(geometry)
    flat = shapely.get_parts(parts)  # a collection may hold multipolygons
    return MultiPolygon([part for part in flat if isinstance(part, Polygon)])


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return f"an object of type {value.get('type')!r}"
    return f"{type(value).__name__} {repr(value)[:40]}"
