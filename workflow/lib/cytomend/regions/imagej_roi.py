"""Outlines from ImageJ: a ``.roi`` file, or a ``.zip`` of them as its ROI Manager saves it.

ImageJ counts the corners of polygons, rectangles and traced outlines at the corners of pixels, as QuPath does: the
square of pixel (0, 0) is (0, 0) to (1, 1). Nothing in a file decides a name on disk, and a zip is unpacked in memory
only as far as it is small.
"""

from __future__ import annotations

import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from roifile import ROI_SUBTYPE, ROI_TYPE, ImagejRoi
from shapely.geometry.base import BaseGeometry

from cytomend.errors import InputError
from cytomend.regions.geojson import Feature

MAGIC = b"Iout"
AUTOMATIC = re.compile(r"\d+(-\d+){0,3}")
LARGEST_BYTES, LARGEST_ZIP_BYTES = 64 << 20, 512 << 20
"""A million corners take 8 MB; what is larger is no outline."""
OVAL_CORNERS = 720
WITHOUT_AREA = {
    ROI_TYPE.LINE: "a line",
    ROI_TYPE.FREELINE: "a line",
    ROI_TYPE.POLYLINE: "a line",
    ROI_TYPE.ANGLE: "an angle",
    ROI_TYPE.POINT: "a point",
    ROI_TYPE.NOROI: "no outline",
}

OVERLAYS = {ROI_SUBTYPE.TEXT: "a text", ROI_SUBTYPE.IMAGE: "a picture"}
UNREADABLE = (ValueError, IndexError, KeyError, struct.error, TypeError, RuntimeError, shapely.errors.ShapelyError)
"""What a damaged outline may make of its reader; NotImplementedError, of a composite with curves, is a RuntimeError."""


def is_imagej_roi(path: Path) -> bool:
    """Whether a name promises outlines of ImageJ."""
    return path.suffix.lower() in {".roi", ".zip"}


def read_rois(path: Path, warnings: list[str]) -> list[Feature]:
    """Read all outlines of a file, each as a feature with a polygon.

    Its classes are ``group N``, if it is in a group, and its name, unless ImageJ made that of its position.

    Parameters
    ----------
    path : ``.roi`` or ``.zip``
    warnings : receives a sentence for what has no area

    Raises
    ------
    InputError
        If the file cannot be read, or one of its outlines is damaged or unreasonably large.
    """
    features, seen = [], 0
    for name, data in _stored(path):
        place, seen = f"outline {name!r}", seen + 1
        try:
            roi = ImagejRoi.frombytes(data)
            kind = WITHOUT_AREA.get(roi.roitype) or OVERLAYS.get(roi.subtype)
            geometry = None if kind else _geometry(roi)
        except UNREADABLE as error:
            raise InputError(f"{path}: {place}: expected an outline of ImageJ ({error}); save it again") from error
        if geometry is None:
            warnings.append(f"{path}: {place} is {kind or 'an outline without corners'} and has no area; skipped")
        else:
            names = ([f"group {roi.group}"] if roi.group else []) + _own_names(name, roi.name)
            features.append(Feature(place, names[0] if names else None, geometry, also=tuple(names[1:])))
    if not seen:
        raise InputError(f"{path}: expected outlines of ImageJ, found none in it; save them with the ROI Manager")
    return features


def _own_names(*names: str) -> list[str]:
    """Return the names that a person gave, each once: ImageJ calls outlines by numbers, such as 0123-0456."""
    given = (" ".join(name.split()) for name in names if name)
    return list(dict.fromkeys(name for name in given if not AUTOMATIC.fullmatch(name)))


def _stored(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each outline of a file."""
    try:
        if path.suffix.lower() == ".roi":
            _refuse_large(path, path.name, path.stat().st_size, LARGEST_BYTES)
            yield path.stem, path.read_bytes()
            return
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _refuse_large(path, "all of it", sum(member.file_size for member in members), LARGEST_ZIP_BYTES)
            for member in members:
                _refuse_large(path, member.filename, member.file_size, LARGEST_BYTES)
                data = archive.read(member)
                if data.startswith(MAGIC):  # a zip of a Mac holds other files too
                    yield Path(member.filename).stem, data
    except OSError as error:
        found = error.strerror or error
        raise InputError(f"{path}: expected outlines of ImageJ, found: {found}; check path and file") from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise InputError(
            f"{path}: expected a zip of outlines, as ImageJ's ROI Manager saves it, found another or a damaged one"
            f" ({error}); save it again"
        ) from error


def _refuse_large(path: Path, name: str, size: int, most: int) -> None:
    if size > most:
        raise InputError(f"{path}: {name}: expected outlines of at most {most >> 20} MiB, found {size >> 20} MiB")


def _geometry(roi: ImagejRoi) -> dict[str, Any] | None:
    """Return the area of an outline as GeoJSON: rings of a composite outline count where an odd number of them lie."""
    if roi.roitype == ROI_TYPE.OVAL:
        rings = [_oval(roi)]
    else:
        found = roi.coordinates(multi=True)
        if not all(np.isfinite(ring).all() for ring in found):
            raise ValueError("corners that are no numbers")
        rings = [np.asarray(ring, np.float64) for ring in found if len(ring) >= 3]
    if not rings:
        return None
    area: BaseGeometry = shapely.Polygon()
    for ring in rings:
        area = area.symmetric_difference(shapely.make_valid(shapely.Polygon(ring)))
    parts = [part for part in shapely.get_parts(area) if part.geom_type == "Polygon"]
    polygons = [[list(map(list, edge.coords)) for edge in (part.exterior, *part.interiors)] for part in parts]
    return {"type": "MultiPolygon", "coordinates": polygons} if polygons else None


def _oval(roi: ImagejRoi) -> NDArray[np.float64]:
    """Return the corners of an ellipse in its bounding box."""
    subpixel = roi.subpixelrect
    x, y = (roi.xd, roi.yd) if subpixel else (roi.left, roi.top)
    width, height = (roi.widthd, roi.heightd) if subpixel else (roi.right - roi.left, roi.bottom - roi.top)
    angle = np.linspace(0, 2 * np.pi, OVAL_CORNERS, endpoint=False)
    return np.stack([x + width / 2 * (1 + np.cos(angle)), y + height / 2 * (1 + np.sin(angle))], axis=1)
