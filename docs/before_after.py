"""Draw a scan, the mended scan, and where it is synthetic, side by side: ``python docs/before_after.py --help``."""

import argparse
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image

from cytomend.geometry import Box
from cytomend.storage.images import open_image

GAP_PX = 8
ORANGE = (230, 97, 1)


def outlined(picture: NDArray[np.uint8], mended: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the picture (h, w, 3) with the rim of the mended pixels in orange."""
    inside = mended.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            inside &= np.roll(mended, step, axis)
    coloured = picture.copy()
    coloured[mended & ~inside] = ORANGE
    return coloured


def shown(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return grey (h, w), (1, h, w) or RGB (3, h, w) pixels as a picture (h, w, 3)."""
    return np.moveaxis(np.broadcast_to(pixels, (3, *pixels.shape[-2:])), 0, -1)


def draw(scan: Path, corrected: Path, box: Box | None, scale: int, *, outline: bool) -> Image.Image:
    """Return the pictures of a box of an 8-bit section."""
    with open_image(scan) as image:
        part = (box or Box(0, 0, *image.shape)).clip(image.shape)
        before = shown(image.read(part))
    after = shown(np.asarray(zarr.open_array(corrected / "0", mode="r")[..., *part.slices]))
    mended = np.asarray(zarr.open_array(corrected / "labels" / "mended" / "0", mode="r")[part.slices]) > 0
    panels = [before, after] + [outlined(after, mended)] * outline
    gap = np.full((before.shape[0], GAP_PX, 3), 255, dtype=np.uint8)
    joined = np.concatenate([piece for panel in panels for piece in (panel, gap)][:-1], axis=1)
    return Image.fromarray(joined).resize((joined.shape[1] * scale, joined.shape[0] * scale), Image.Resampling.NEAREST)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("corrected", type=Path, help="corrected.ome.zarr of the same section")
    parser.add_argument("out", type=Path, help="PNG or WebP")
    parser.add_argument("--box", type=int, nargs=4, metavar=("Y0", "X0", "Y1", "X1"), help="part to show, in px")
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--outline", action="store_true", help="add a third picture with the mended pixels outlined")
    args = parser.parse_args()
    box = Box(*args.box) if args.box else None
    draw(args.scan, args.corrected, box, args.scale, outline=args.outline).save(args.out, optimize=True, quality=88)
