"""PNG and JPEG: small images, decoded whole when they are opened."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.storage.frames import STORED, UPRIGHT, require_frame
from cytomend.storage.orientation import TAG, oriented
from cytomend.storage.pixel_size import size_from_density
from cytomend.storage.raster import (
    ALPHA_UNUSED,
    INDICES_READ,
    LABELS,
    PixelKind,
    SectionImage,
    check_pixels,
    first_line,
)

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"

# Neither format can be read by region.
LARGEST_BYTES = 512 << 20

PALETTE = "P"
# Pillow's names for the pixels, with the samples that are colour or grey, the samples stored, and their numpy type.
_MODES: dict[str, tuple[int, int, str]] = {
    "1": (1, 1, "bool"),
    "L": (1, 1, "uint8"),
    "LA": (1, 2, "uint8"),
    "I;16": (1, 1, "uint16"),
    PALETTE: (1, 1, "uint8"),
    "RGB": (3, 3, "uint8"),
    "RGBA": (3, 4, "uint8"),
}


def open_small(path: Path, kind: PixelKind, frame: str = "") -> SectionImage:
    """Decode a PNG or JPEG; see `cytomend.storage.images.open_image`."""
    require_frame(path, frame, STORED, UPRIGHT)
    try:
        shape, mode, density, orientation = _header(path)
    except Image.DecompressionBombError as error:
        raise _too_large(path, first_line(error)) from error
    except OSError as error:
        raise _damaged(path, error) from error
    if mode not in _MODES or (mode == PALETTE and kind is not LABELS):
        found = {PALETTE: "palette"}.get(mode, mode)
        raise InputError(f"{path}: expected plain grey or RGB values, found {found} pixels; export it as grey or RGB")
    channels, samples, _ = _MODES[mode]
    if shape[0] * shape[1] * samples > LARGEST_BYTES:
        raise _too_large(path, f"{shape[0]} x {shape[1]} pixels (height x width)")
    try:
        pixels = _decode(path.read_bytes(), mode)
    except Exception as error:  # codecs raise errors of their own
        raise _damaged(path, error) from error
    if pixels.shape[-1] == 2:  # grey of 16 bit with alpha, which Pillow calls RGBA
        channels, samples = 1, 2
    check_pixels(path, kind, shape=shape, channels=channels, dtype=pixels.dtype)
    image = SmallImage(path, np.moveaxis(pixels[..., :channels], -1, 0), size_from_density(*density, "inch"))
    if channels < samples:
        image.warnings.append(f"{path}: {ALPHA_UNUSED}")
    if mode == PALETTE:
        image.warnings.append(f"{path}: {INDICES_READ}")
    return oriented(image, orientation, frame)


class SmallImage(SectionImage):
    """An image that is held whole."""

    def __init__(self, path: Path, pixels: NDArray[Any], pixel_size_um: float | None) -> None:
        channels, height, width = pixels.shape
        super().__init__(
            path,
            shape=(height, width),
            channels=channels,
            dtype=pixels.dtype,
            pixel_size_um=pixel_size_um,
            block_px=(height, width),
        )
        self._pixels = pixels  # (C, height, width)

    def _read(self, box: Box) -> NDArray[Any]:
        return np.array(self._pixels[:, *box.slices], order="C")


def _header(path: Path) -> tuple[tuple[int, int], str, tuple[float, float], object]:
    """Return (height, width), Pillow's name of the pixels, their (y, x) number per inch, and the orientation tag."""
    with _pillow_image(path) as image:
        per_x, per_y = image.info.get("dpi", (0, 0))
        return (image.height, image.width), image.mode, (float(per_y), float(per_x)), image.getexif().get(TAG)


def _pillow_image(source: Path | io.BytesIO) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is our own
        return Image.open(source)


def _decode(data: bytes, mode: str) -> NDArray[Any]:
    """Return (height, width, samples).

    A PNG is left to imagecodecs, because Pillow reduces 16 bit RGB to 8; of one with a colour table Pillow gives the
    indices. A JPEG is left to Pillow, because imagecodecs fills
    what a truncated file lacks with grey.
    """
    if data.startswith(PNG_MAGIC) and mode != PALETTE:
        pixels = np.asarray(imagecodecs.png_decode(data))
    else:
        pixels = np.asarray(_pillow_image(io.BytesIO(data)))
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    return pixels.astype(bool) if mode == "1" else pixels


def _too_large(path: Path, found: str) -> InputError:
    return InputError(
        f"{path}: expected a PNG or JPEG of at most {LARGEST_BYTES >> 20} MiB of pixels, found {found}; save it as a"
        " tiled TIFF or OME-Zarr"
    )


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path}: expected a PNG or JPEG, found a damaged or truncated one ({first_line(error)}); copy or export it"
        " again"
    )
