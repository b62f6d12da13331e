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

LARGEST_PX = 1e9
"""No section is as large; coordinates beyond are of another unit, or broken."""
LARGEST_BYTES = 512 << 20
"""A million corners take 22 MB."""

DETECTIONS = {"detection", "cell", "tile"}
"""Kinds of objects that QuPath makes by the thousand."""

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
        The QuPath class; derived classes are joined as ``Cell: Positive``.
    geometry : object
        GeoJSON, unchecked.
    is_detection : bool
        Whether QuPath found it, as a cell or a tile, and nobody drew it.
    """

    place: str
    class_name: str | None
    geometry: object
    is_detection: bool = False


def read_features(path: Path) -> list[Feature]:
    """Read all features of a FeatureCollection, a bare list of features, a single one or its geometry, gzipped or not.

    Raises
    ------
    InputError
        The file cannot be read, is no JSON, or holds no features.
    """
    data = _parse(path, _text(path))
    kind = str(data.get("type")) if isinstance(data, dict) else None
    if isinstance(data, dict) and kind == "FeatureCollection":
        data = data.get("features")
    elif kind == "Feature":
        data = [data]
    elif kind in GEOMETRIES:
        data = [{"type": "Feature", "geometry": data, "properties": {}}]
    if not isinstance(data, list):
        raise InputError(
            f"{path}: expected a GeoJSON FeatureCollection, a list of features or one feature, found {_kind(data)};"
            " export the annotations from QuPath as GeoJSON"
        )
    return [_feature(path, number, item) for number, item in enumerate(data, 1)]


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


def _feature(path: Path, number: int, item: object) -> Feature:
    if not isinstance(item, dict) or item.get("type") != "Feature":
        raise InputError(
            f"{path}: expected feature {number} to be a GeoJSON Feature, found {_kind(item)}; export it again"
        )
    properties = item.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    class_name = _class_name(properties.get("classification"))
    known = [repr(properties["name"])] if isinstance(properties.get("name"), str) else []
    known += [f"class {class_name!r}"] if class_name else []
    place = f"feature {number}" + (f" ({', '.join(known)})" if known else "")
    is_detection = str(properties.get("objectType", properties.get("object_type"))) in DETECTIONS
    return Feature(place, class_name, item.get("geometry"), is_detection)


def _class_name(classification: object) -> str | None:
    """Return the class, from a name, an object with a name, or one with the names of a derived class."""
    if isinstance(classification, str):
        return classification
    if isinstance(classification, dict):
        if isinstance(classification.get("name"), str):
            return str(classification["name"])
        names = classification.get("names")
        if isinstance(names, list) and names:
            return ": ".join(str(name) for name in names)
    return None


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
        for part in _list(path, feature, geometry.get("geometries"), "geometries"):
            yield from _polygons(path, feature, part, warnings)
    elif kind == "Polygon":
        yield from _polygon(path, feature, geometry.get("coordinates"))
    elif kind == "MultiPolygon":
        for part in _list(path, feature, geometry.get("coordinates"), "polygons"):
            yield from _polygon(path, feature, part)
    else:
        raise _malformed(path, feature, "a Polygon or MultiPolygon", repr(kind))


def _polygon(path: Path, feature: Feature, rings: object) -> Iterator[Polygon]:
    outlines = [_ring(path, feature, ring) for ring in _list(path, feature, rings, "rings")]
    if outlines:
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
