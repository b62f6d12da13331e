"""Scans of Zeiss (CZI), read by their maker's library, which is an extra: ``pip install 'cytomend[czi]'``.

Only the first scene's plane is read, at full resolution. Places between its tiles are white, or black in a grey scan.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomend.errors import InputError, ResourceError
from cytomend.geometry import Box
from cytomend.storage.pixel_size import credible_size_um
from cytomend.storage.raster import PixelKind, SectionImage, check_pixels, first_line

MAGIC = b"ZISRAWFI"
KINDS = {"Gray8": (1, "uint8"), "Gray16": (1, "uint16"), "Bgr24": (3, "uint8"), "Bgr48": (3, "uint16")}
"""Channels and dtype of the kinds of pixels that can be tissue."""
BLOCK_PX = 1024


class CziImage(SectionImage):
    """The plane of a scan."""

    def __init__(self, path: Path, reader: Any, opened: Any, place: Box, kind: str) -> None:  # noqa: ANN401 - untyped
        channels, dtype = KINDS[kind]
        super().__init__(
            path,
            shape=place.shape,
            channels=channels,
            dtype=np.dtype(dtype),
            pixel_size_um=_pixel_size_um(reader.metadata),
            block_px=(BLOCK_PX, BLOCK_PX),
        )
        self._reader, self._opened, self._place = reader, opened, place

    def close(self) -> None:
        """Release the file; later reads fail."""
        self._opened.__exit__(None, None, None)

    def _read(self, box: Box) -> NDArray[Any]:
        height, width = box.shape
        roi = (self._place.x0 + box.x0, self._place.y0 + box.y0, width, height)
        ground = (1.0, 1.0, 1.0) if self.channels == 3 else (0.0, 0.0, 0.0)
        pixels = self._reader.read(roi=roi, plane={"C": 0, "Z": 0, "T": 0}, background_pixel=ground)  # (h, w, C), BGR
        return np.ascontiguousarray(np.moveaxis(pixels, -1, 0)[::-1].astype(self.dtype, copy=False))


def open_czi(path: Path, kind: PixelKind) -> CziImage:
    """Open a scan of Zeiss.

    Raises
    ------
    ResourceError
        If the library is not installed.
    InputError
        If the file cannot be read, or is no plane of tissue.
    """
    try:
        from pylibCZIrw import czi
    except ImportError as error:
        raise ResourceError(
            f"{path}: reading CZI needs a library that is not installed; run: pip install 'cytomend[czi]'"
        ) from error
    try:
        opened = czi.open_czi(str(path))
        reader = opened.__enter__()
        found = reader.get_channel_pixel_type(0)
        box = reader.total_bounding_rectangle
    except Exception as error:  # the library raises RuntimeError, and others
        raise InputError(
            f"{path}: expected a CZI scan, found one that cannot be read ({first_line(error)}); copy it again"
        ) from error
    bounds = reader.total_bounding_box
    extent = {axis: low_high[1] - low_high[0] for axis, low_high in bounds.items() if axis not in "XY"}
    if found not in KINDS or any(extent.get(axis, 1) > 1 for axis in "ZT") or extent.get("C", 1) > 1:
        opened.__exit__(None, None, None)
        raise InputError(
            f"{path}: expected one plane of {', '.join(KINDS)}, found {found} with {extent}; export one plane"
        )
    image = CziImage(path, reader, opened, Box(box.y, box.x, box.y + box.h, box.x + box.w), found)
    check_pixels(path, kind, shape=image.shape, channels=image.channels, dtype=image.dtype)
    return image


def _pixel_size_um(metadata: Any) -> float | None:  # noqa: ANN401 - parsed XML
    """Return the pixel size from the metadata's distances, which are in metres."""
    try:
        items = metadata["ImageDocument"]["Metadata"]["Scaling"]["Items"]["Distance"]
        size = {item["@Id"]: float(item["Value"]) * 1e6 for item in items}
        return credible_size_um(size.get("Y"), size.get("X"))
    except (KeyError, TypeError, ValueError):
        return None
