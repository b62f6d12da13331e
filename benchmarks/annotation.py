"""How long planning takes with a large annotation: a thousand outlines with a million corners on the largest section.

    python benchmarks/annotation.py [--size 80000 100000] [--regions 1000] [--corners 1000000] [--radius 150]

The scan is an OME-Zarr of that size without a chunk in it, so that reading and hashing it costs nothing: what is left
is parsing, drawing, finding regions, laying windows and writing the plan. Each case is a process of its own.

| row | what |
|---|---|
| ``outlines`` | GeoJSON as QuPath writes it |
| ``mask image`` | the same as an image, reduced 16 times (TIFF) |
| ``(whole)`` | for comparison, all outlines drawn at once by rasterio on a section of a sixteenth of the pixels |
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
import zarr
from gigapixel import cost_of
from PIL import Image, ImageDraw

from cytomend.settings import checked
from cytomend.sheet import settings_of

REDUCED = 16
WHOLE = """
import json, sys, numpy as np
from rasterio.features import rasterize
height, width = int(sys.argv[2]) // 4, int(sys.argv[3]) // 4
shapes = [feature["geometry"] for feature in json.load(open(sys.argv[1]))["features"]]
rasterize([(s, n + 1) for n, s in enumerate(shapes)], (height, width), transform=(4, 0, 0, 0, 4, 0), dtype="uint32")
"""


def write_scan(path: Path, shape: tuple[int, int]) -> None:
    """Write an OME-Zarr image without a chunk."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", shape=shape, dtype="uint8", chunks=(512, 512), fill_value=128, dimension_names=("y", "x"))
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


def outlines(shape: tuple[int, int], regions: int, corners: int, radius_px: float) -> list[np.ndarray]:
    """Return closed rings (n, 2) of x and y: jagged circles, each in a field of its own."""
    draw, each = np.random.default_rng(0), corners // regions
    columns = int(np.ceil(np.sqrt(regions * shape[1] / shape[0])))
    field = np.array([shape[1] / columns, shape[0] / -(-regions // columns)])
    angle = np.linspace(0, 2 * np.pi, each - 1, endpoint=False)
    rings = []
    for number in range(regions):
        radius = radius_px * draw.uniform(0.6, 1.4) * draw.uniform(0.9, 1.1, each - 1)
        centre = (np.array([number % columns, number // columns]) + 0.5) * field
        ring = centre + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        rings.append(np.concatenate([ring, ring[:1]]).round(2))
    return rings


def main() -> None:
    """Print a row a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=[80_000, 100_000], metavar=("H", "W"))
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--corners", type=int, default=1_000_000)
    parser.add_argument("--radius", type=float, default=150.0, help="of an outline, in px (default: 150)")
    args = parser.parse_args()
    shape = (args.size[0], args.size[1])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_scan(folder / "scan.ome.zarr", shape)
        rings = outlines(shape, args.regions, args.corners, args.radius)
        features = [
            {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring.tolist()]}, "properties": {}}
            for ring in rings
        ]
        (folder / "outlines.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        image = Image.new("1", (-(-shape[1] // REDUCED), -(-shape[0] // REDUCED)))
        for ring in rings:
            ImageDraw.Draw(image).polygon((ring / REDUCED).ravel().tolist(), fill=1)
        tifffile.imwrite(folder / "mask.tif", np.array(image, np.uint8), tile=(512, 512), compression="zlib")
        print("| | s | core s | peak MiB |\n|---|---|---|---|")
        for name, annotation in (("outlines", "outlines.geojson"), ("mask image", "mask.tif")):
            row = {"section": "s", "image": str(folder / "scan.ome.zarr"), "annotation": str(folder / annotation)}
            row = checked({**row, "pixel_size_um": 1.0}, "sections", "benchmark")
            settings = settings_of(row, checked({}, "config", "benchmark"), "benchmark").plan
            stage = [sys.executable, "-m", "cytomend", "plan-section", "--image", row["image"]]
            given = ["--annotation", row["annotation"], "--settings", json.dumps(settings)]
            cost = cost_of([*stage, *given, "--out", str(folder / f"plan of {name}")])
            print(f"| {name} | {cost.seconds:.1f} | {cost.processor_s:.1f} | {cost.peak_mib:.0f} |")
        words = [str(folder / "outlines.geojson"), *map(str, shape)]
        cost = cost_of([sys.executable, "-c", WHOLE, *words])
        print(f"| (whole) | {cost.seconds:.1f} | {cost.processor_s:.1f} | {cost.peak_mib:.0f} |")


if __name__ == "__main__":
    main()
