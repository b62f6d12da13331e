"""Slides that OpenSlide reads: MIRAX, DICOM, NDPI, VMS, SCN, BIF, Philips, Trestle, Sakura. `tiff` reads other TIFFs.

A slide is one file and what lies beside it: the folder of a MIRAX slide bears its name, the levels of a DICOM slide
are other files of the same folder. Scanners leave places out that they took for glass; these get the background colour
that the slide names, or white.

QuPath shows the bounds of what was scanned (``openslide.bounds-*``) and counts from their corner; so do we. The frame
``canvas`` is all that OpenSlide shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.storage.frames import BOUNDS, CANVAS, require_frame
from cytomend.storage.pixel_size import credible_size_um
from cytomend.storage.raster import PixelKind, SectionImage, check_pixels, first_line

SUFFIXES = (".mrxs", ".dcm", ".ndpi", ".vms", ".vmu", ".scn", ".bif", ".svslide")
"""Of files that only OpenSlide can read; what it says of a file that it does not know is then of use."""
VENDORS = frozenset({"dicom", "hamamatsu", "leica", "mirax", "philips", "sakura", "trestle", "ventana"})
"""OpenSlide's names of the formats that are left to it: in most of them tiles overlap, or lie in other files."""
CACHE_BYTES = 64 << 20
TILE_PX = 512
LARGEST_LOOK_PX = 4 << 20
"""So much of a slide's smallest level is looked at to tell how much of it was scanned."""


class SlideImage(SectionImage):
    """A frame of level 0 of a slide, in RGB of 8 bit."""

    def __init__(self, path: Path, slide: openslide.OpenSlide, place: Box) -> None:
        told = slide.properties
        super().__init__(
            path,
            shape=place.shape,
            channels=3,
            dtype=np.dtype(np.uint8),
            pixel_size_um=credible_size_um(
                _number(told.get(openslide.PROPERTY_NAME_MPP_Y)), _number(told.get(openslide.PROPERTY_NAME_MPP_X))
            ),
            block_px=(
                int(told.get("openslide.level[0].tile-height", TILE_PX)),
                int(told.get("openslide.level[0].tile-width", TILE_PX)),
            ),
        )
        self.ground = str(told.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF"))
        self._ground = np.frombuffer(bytes.fromhex(self.ground), np.uint8)
        self._slide, self._place = slide, place

    def close(self) -> None:
        """Release the slide; later reads fail."""
        self._slide.close()

    def _read(self, box: Box) -> NDArray[Any]:
        seen = _seen(self._slide, box, self._place)
        colour, is_scanned = seen[..., :3], seen[..., 3:] > 0
        return np.ascontiguousarray(np.moveaxis(np.where(is_scanned, colour, self._ground), -1, 0))


def vendor_of(path: Path) -> str | None:
    """Return OpenSlide's name of a file's format, or None if it does not know it."""
    try:
        return openslide.OpenSlide.detect_format(path)
    except (openslide.OpenSlideError, OSError):
        return None


def open_slide(path: Path, kind: PixelKind, frame: str = "") -> SlideImage:
    """Open a frame of a slide; see `cytomend.storage.images.open_image`.

    Raises
    ------
    InputError
        If OpenSlide cannot read it, it is to be a mask, or has no such frame.
    """
    require_frame(path, frame, BOUNDS, CANVAS)
    try:
        slide = openslide.OpenSlide(path)
        slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
    except (openslide.OpenSlideError, OSError) as error:
        raise InputError(
            f"{path}: expected a slide that OpenSlide can read (MIRAX, DICOM, NDPI, VMS, SCN, BIF, Philips, Trestle,"
            f" Sakura), found {first_line(error)}; copy it again with all files that belong to it, or export it as"
            " OME-TIFF with the scanner's program or with Bio-Formats (bfconvert)"
        ) from error
    canvas = Box(0, 0, *slide.dimensions[::-1])
    bounds = _bounds(slide, canvas)
    image = SlideImage(path, slide, canvas if frame == CANVAS else bounds)
    check_pixels(path, kind, shape=image.shape, channels=3, dtype=image.dtype)
    image.warnings += _frame_warnings(path, slide, canvas, bounds, frame)
    if (glass := _unscanned(slide, canvas if frame == CANVAS else bounds)) > 0:
        image.warnings.append(
            f"{path}: about {max(glass, 0.01):.0%} of the frame was not scanned, and is read as ground of the colour"
            f" {image.ground}"
        )
    return image


def _bounds(slide: openslide.OpenSlide, canvas: Box) -> Box:
    """Return the part of the canvas that was scanned, or all of it if the slide does not say."""
    names = ("BOUNDS_Y", "BOUNDS_X", "BOUNDS_HEIGHT", "BOUNDS_WIDTH")
    numbers = [_number(slide.properties.get(getattr(openslide, f"PROPERTY_NAME_{name}"))) for name in names]
    if any(number is None for number in numbers):
        return canvas
    y, x, height, width = (int(number) for number in numbers if number is not None)
    bounds = Box(y, x, y + height, x + width).clip(canvas.shape)
    return canvas if bounds.is_empty else bounds


def _frame_warnings(path: Path, slide: openslide.OpenSlide, canvas: Box, bounds: Box, frame: str) -> list[str]:
    """Say which of two frames is read, if nobody chose one, and that a slide has several regions."""
    said = []
    if not frame and bounds != canvas:
        said.append(
            f"{path}: coordinates count from the corner of what was scanned, as in QuPath: y {bounds.y0}-{bounds.y1},"
            f" x {bounds.x0}-{bounds.x1} of a canvas of {canvas.y1} x {canvas.x1} px (height x width); for annotations"
            f" drawn on the whole canvas, name the frame canvas, as in {path.name}#canvas"
        )
    if "openslide.region[1].x" in slide.properties:
        count = sum(name.startswith("openslide.region[") and name.endswith("].x") for name in slide.properties)
        said.append(
            f"{path}: holds {count} scanned regions, which are read in one common frame, as OpenSlide shows them; an"
            " annotation drawn on one region alone (Bio-Formats shows each as an image) does not fit it"
        )
    return said


def _unscanned(slide: openslide.OpenSlide, place: Box) -> float:
    """Return the share of a frame that holds no pixels, seen in the smallest level; 0 if that is large to read."""
    level = slide.level_count - 1
    factor = slide.level_downsamples[level]
    height, width = (max(1, int(side / factor)) for side in place.shape)
    if height * width > LARGEST_LOOK_PX:
        return 0.0
    try:
        seen = np.asarray(slide.read_region((place.x0, place.y0), level, (width, height)))
    except openslide.OpenSlideError:  # OpenSlide does not read on after an error; who reads level 0 is told of it
        return 0.0
    return float((seen[..., 3] == 0).mean())


def _seen(slide: openslide.OpenSlide, box: Box, place: Box) -> NDArray[Any]:
    """Return the pixels of a box of a frame with their opacity, (h, w, 4)."""
    height, width = box.shape
    return np.asarray(slide.read_region((place.x0 + box.x0, place.y0 + box.y0), 0, (width, height)))


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
