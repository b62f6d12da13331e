"""A corrected section as one TIFF with levels, for viewers that do not read OME-Zarr.

| kind | what | read as a pyramid by |
|---|---|---|
| ``ome`` | OME-TIFF: levels as SubIFDs of the one image, OME-XML | QuPath, Bio-Formats, napari |
| ``classic`` | levels as pages, one after another | QuPath, OpenSlide, libvips |

Both are BigTIFF in tiles, compressed without loss, with the pixel size at every level. The Software tag says that the
file holds synthetic pixels, so that it is not taken for a scan; the description says which and how.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from cytomend.geometry import Box
from cytomend.storage.tiff import MAGIC

Kind = Literal["ome", "classic"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SOFTWARE = "cytomend: holds synthetic pixels"
TILE_PX, TILES_AT_ONCE = 512, 8


def write_tiff_pyramid(
    path: Path,
    levels: list[zarr.Array[Any]],
    pixel_size_um: float,
    kind: Kind,
    told: Mapping[str, Any],
    progress: Callable[[int], object],
) -> None:
    """Write levels as one file, tile by tile.

    Parameters
    ----------
    path : the file
    levels : (y, x) or (c, y, x) arrays, each half the one before
    pixel_size_um : side of a pixel of the first
    kind : see above
    told : goes into the description, as JSON
    progress : is told the number of pixels that were written, again and again
    """
    coloured = levels[0].ndim == 3
    description = json.dumps(dict(told), ensure_ascii=True)
    metadata = {
        "axes": "YXS" if coloured else "YX",
        "Description": description,
        "PhysicalSizeX": pixel_size_um,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": pixel_size_um,
        "PhysicalSizeYUnit": "µm",
    }
    with tifffile.TiffWriter(path, bigtiff=True, ome=kind == "ome") as tiff:
        for number, level in enumerate(levels):
            *_, height, width = level.shape
            # libvips refuses a tile that is far larger than its level; sides are multiples of 16.
            tile_px = min(TILE_PX, -(-max(height, width) // 16) * 16)
            per_cm = 1e4 / (pixel_size_um * 2**number)
            first: dict[str, Any] = {"software": SOFTWARE, "metadata": metadata if kind == "ome" else None}
            if kind == "classic":
                first["description"] = description
            else:
                first["subifds"] = len(levels) - 1
            tiff.write(
                _tiles(level, tile_px, progress),
                shape=(height, width, 3) if coloured else (height, width),
                dtype=level.dtype,
                tile=(tile_px, tile_px),
                photometric="rgb" if coloured else "minisblack",
                compression="adobe_deflate",
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                **(first if number == 0 else {"subfiletype": 1, "metadata": None}),
            )


def _tiles(level: zarr.Array[Any], tile_px: int, progress: Callable[[int], object]) -> Iterator[NDArray[Any]]:
    """Yield the tiles of a level row by row, decoding a stretch of several at a time."""
    *_, height, width = level.shape
    for y in range(0, height, tile_px):
        for x in range(0, width, TILES_AT_ONCE * tile_px):
            block = Box(y, x, y + tile_px, x + TILES_AT_ONCE * tile_px).clip((height, width))
            pixels = np.asarray(level[(..., *block.slices)])
            pixels = np.moveaxis(pixels, 0, -1) if level.ndim == 3 else pixels
            for left in range(0, block.shape[1], tile_px):
                yield np.ascontiguousarray(pixels[:, left : left + tile_px])
            progress(block.shape[0] * block.shape[1])


def is_mended_tiff(path: Path) -> bool:
    """Whether a file is a TIFF that `write_tiff_pyramid` wrote, whatever its name says."""
    if path.is_dir():
        return False
    with path.open("rb") as file:
        if not file.read(4).startswith(MAGIC):
            return False
    try:
        with tifffile.TiffFile(path) as tiff:
            return str(tiff.pages.first.software).startswith(SOFTWARE)
    except (ValueError, struct.error, IndexError):  # of a damaged file
        return False
