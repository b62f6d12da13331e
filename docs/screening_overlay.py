"""Draw proposals over a scan: ``python docs/screening_overlay.py SCAN PROPOSALS.geojson OUT.png``."""

import argparse
import json
from pathlib import Path

import numpy as np
import shapely
from PIL import Image, ImageDraw

from cytomend.geometry import Box
from cytomend.storage.images import open_image


def draw(scan: Path, proposals: Path, widest_px: int) -> Image.Image:
    """Return a picture of a scan with the outlines of all proposals in the colours of their classes."""
    with open_image(scan) as image:
        step = -(-max(image.shape) // widest_px)
        pixels = np.moveaxis(image.read(Box(0, 0, *image.shape))[:, ::step, ::step], 0, -1)
    if pixels.dtype != np.uint8:
        pixels = (pixels // 256).astype(np.uint8)
    picture = Image.fromarray(np.repeat(pixels, 3 // pixels.shape[-1], -1))
    pen = ImageDraw.Draw(picture)
    for feature in json.loads(proposals.read_text())["features"]:
        colour = tuple(feature["properties"]["classification"]["color"])
        for part in shapely.get_parts(shapely.from_geojson(json.dumps(feature["geometry"]))):
            for ring in (part.exterior, *part.interiors):
                pen.line([(x / step, y / step) for x, y in ring.coords], fill=colour, width=2)
    return picture


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("proposals", type=Path, help="GeoJSON of screen-section")
    parser.add_argument("out", type=Path, help="PNG")
    parser.add_argument("--widest-px", type=int, default=1600, help="longer side of the picture at most (default 1600)")
    args = parser.parse_args()
    draw(args.scan, args.proposals, args.widest_px).save(args.out, optimize=True)
