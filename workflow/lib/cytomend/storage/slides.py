"""Slides that OpenSlide reads: MIRAX (MRXS), DICOM whole-slide images and NDPI. Other TIFFs are read by `tiff`.

A slide is one file and what lies beside it: the folder of a MIRAX slide bears its name, the levels of a DICOM slide
are other files of the same folder. Scanners leave places out that they took for glass; these get the background colour
that the slide names, or white.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.storage.pixel_size import credible_size_um
from cytomend.storage.raster import PixelKind, SectionImage, check_pixels, first_line

SUFFIXES = (".mrxs", ".dcm", ".ndpi")
CACHE_BYTES = 64 << 20
TILE_PX = 512


class SlideImage(SectionImage):
    """Level 0 of a slide, in RGB of 8 bit."""

    def __init__(self, path: Path, slide: openslide.OpenSlide) -> None:
        width, height = slide.dimensions
        told = slide.properties
        super().__init__(
            path,
            shape=(height, width),
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
        colour = told.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
        self._ground = np.frombuffer(bytes.fromhex(colour), np.uint8)
        self._slide = slide

    def close(self) -> None:
        """Release the slide; later reads fail."""
        self._slide.close()

    def _read(self, box: Box) -> NDArray[Any]:
        height, width = box.shape
        seen = np.asarray(self._slide.read_region((box.x0, box.y0), 0, (width, height)))  # (h, w, 4)
        colour, is_scanned = seen[..., :3], seen[..., 3:] > 0
        return np.ascontiguousarray(np.moveaxis(np.where(is_scanned, colour, self._ground), -1, 0))


def open_slide(path: Path, kind: PixelKind) -> SlideImage:
    """Open a slide; see `cytomend.storage.images.open_image`.

    Raises
    ------
    InputError
        If OpenSlide cannot read it, or it is to be a mask.
    """
    try:
        slide = openslide.OpenSlide(path)
        slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
    except (openslide.OpenSlideError, OSError) as error:
        raise InputError(
            f"{path}: expected a slide that OpenSlide can read (MIRAX, DICOM, NDPI), found {first_line(error)};"
            " copy it again with all files that belong to it"
        ) from error
    image = SlideImage(path, slide)
    check_pixels(path, kind, shape=image.shape, channels=3, dtype=image.dtype)
    return image


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
