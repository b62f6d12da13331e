"""What `benchmarks/gigapixel.py` compares with, each in a process that imports nothing else.

python benchmarks/gigapixel_peers.py copy|libvips|tensorstore FOLDER SHARD_PX
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytomend.geometry import Box
from cytomend.storage.images import open_image
from cytomend.storage.pyramid import halve_by_mean, level_shapes

CHUNK_PX = 512


def copy(scan: Path, folder: Path) -> None:
    """Copy the file and flush it to disk."""
    with scan.open("rb") as source, (folder / "copy.tif").open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 22)
        os.fsync(target.fileno())


def libvips(scan: Path, folder: Path) -> None:
    """Write a pyramid by libvips. Its wheels lack zstd."""
    import pyvips

    image = pyvips.Image.new_from_file(str(scan), access="sequential")
    cut = {"tile": True, "tile_width": CHUNK_PX, "tile_height": CHUNK_PX}
    image.tiffsave(str(folder / "vips.tif"), **cut, pyramid=True, bigtiff=True, compression="jpeg", Q=90)


def tensorstore(scan: Path, folder: Path, shard_px: int) -> None:
    """Write a pyramid by tensorstore, cut and encoded as the corrected section is."""
    import tensorstore as ts

    compressor = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
    context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})

    def create(level: int, shape: tuple[int, int]) -> ts.TensorStore:
        side = min(shard_px, -(-max(shape) // CHUNK_PX) * CHUNK_PX)
        inner = {"chunk_shape": [CHUNK_PX, CHUNK_PX], "codecs": [{"name": "bytes"}, compressor]}
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(folder / "ts.zarr" / str(level))},
            "metadata": {
                "shape": shape,
                "data_type": "uint8",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [side, side]}},
                "codecs": [{"name": "sharding_indexed", "configuration": inner}],
            },
        }
        return ts.open(spec, create=True, context=context).result()

    with open_image(scan) as image:
        levels = [create(level, shape) for level, shape in enumerate(level_shapes(*image.shape, CHUNK_PX))]

        def write(level: int, box: Box) -> NDArray[np.uint8]:
            """Write a shard and all below it, so that every pixel is read once."""
            if level == 0:
                pixels = image.read(box)[0]
            else:
                pixels = np.zeros(box.shape, np.uint8)
                below = Box(2 * box.y0, 2 * box.x0, 2 * box.y1, 2 * box.x1).clip(levels[level - 1].shape)
                for part in below.tiles(shard_px):
                    halved = halve_by_mean(write(level - 1, part))
                    y, x = part.y0 // 2 - box.y0, part.x0 // 2 - box.x0
                    pixels[y : y + halved.shape[0], x : x + halved.shape[1]] = halved
            levels[level][box.slices].write(pixels).result()
            return pixels

        write(len(levels) - 1, Box(0, 0, *levels[-1].shape))


if __name__ == "__main__":
    name, folder, shard_px = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if name == "tensorstore":
        tensorstore(folder / "scan.tif", folder, shard_px)
    else:
        {"copy": copy, "libvips": libvips}[name](folder / "scan.tif", folder)
