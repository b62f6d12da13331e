"""Write a corrected section as a TIFF with levels, and the outlines of what is synthetic in it.

| file | what |
|---|---|
| the TIFF | all levels of the corrected section; see `cytomend.storage.tiff_pyramid` |
| the outlines | GeoJSON for QuPath: an annotation a mended region, class ``Mended (synthetic)``, in pixels |
"""

from __future__ import annotations

import argparse
import glob
import json
import logging
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import shapely
import zarr
from rasterio.features import shapes
from rasterio.transform import Affine
from shapely.geometry.base import BaseGeometry

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.progress import Progress
from cytomend.storage.omezarr import attributes_of
from cytomend.storage.publish import add_key_arguments, locked, refuse_over, require_intact, require_key, write_whole
from cytomend.storage.tiff_pyramid import Kind, is_mended_tiff, write_tiff_pyramid

log = logging.getLogger(__name__)

TILE_PX = 2048
ENDING = r"(\.ome)?\.tiff?$"
CLASS, COLOUR = "Mended (synthetic)", [230, 97, 1]


def export(corrected: Path, out: Path, outlines: Path, kind: Kind, *, overwrite: bool = False) -> Path:
    """Write the TIFF of a corrected section and the outlines of its mended regions; return the TIFF.

    Raises
    ------
    InputError
        If there is no finished corrected section, a file of it is missing or altered, or something stands in the place
        of the results that may not be replaced.
    """
    _check_places(corrected, out, outlines, overwrite=overwrite)
    require_intact(corrected)
    told = attributes_of(corrected).get("cytomend")
    if not isinstance(told, dict):
        raise InputError(f"{corrected}: expected a corrected section, found none; give a finished corrected.ome.zarr")
    group = zarr.open_group(corrected, mode="r")
    ome: Any = group.attrs["ome"]
    image = ome["multiscales"][0]
    levels: list[zarr.Array[Any]] = [group[entry["path"]] for entry in image["datasets"]]  # type: ignore[misc]
    pixel_size_um = float(image["datasets"][0]["coordinateTransformations"][0]["scale"][-1])
    says = {"synthetic": f"pixels inside the outlines of {outlines.name} are synthetic, drawn by a model", **told}
    if kind == "classic" and levels[0].dtype.itemsize > 1:
        log.warning(
            "%s: OpenSlide takes the right and lower rim of TIFFs of 16 bit for black; libvips and tifffile do not",
            out,
        )
    pixels = sum(level.shape[-2] * level.shape[-1] for level in levels)
    labels: zarr.Array[Any] = group["labels/mended/0"]  # type: ignore[assignment]
    with locked(out), locked(outlines), Progress(f"export {corrected}", pixels, "pixel") as progress:
        _check_places(corrected, out, outlines, overwrite=overwrite)
        for left in out.parent.glob(f".{glob.escape(out.name)}.*"):  # gigabytes, by one that was killed
            if re.fullmatch(r"\d+", left.name[len(out.name) + 2 :].removesuffix(out.suffix)):
                left.unlink()
        features = [_feature(number, area) for number, area in sorted(region_outlines(labels).items())]
        collection = {"type": "FeatureCollection", "features": features}

        def write(path: Path) -> None:
            write_tiff_pyramid(path, levels, pixel_size_um, kind, says, progress.update)
            out.unlink(missing_ok=True)  # outlines of one section must not stand beside the TIFF of another
            write_whole(outlines, lambda place: place.write_text(json.dumps(collection), encoding="utf-8"))

        write_whole(out, write)
    return out


def _check_places(corrected: Path, out: Path, outlines: Path, *, overwrite: bool) -> None:
    """Refuse to replace anything but earlier exports, if these."""
    for path, is_ours in ((out, is_mended_tiff), (outlines, _is_outlines)):
        refuse_over(path, [corrected])
        if path.is_dir() or (path.exists() and not overwrite):
            raise InputError(f"{path}: exists already; choose another name, or give --overwrite")
        if path.exists() and not is_ours(path):
            raise InputError(f"{path}: exists and was not exported by cytomend; it is not overwritten")


def region_outlines(labels: zarr.Array[Any]) -> dict[int, BaseGeometry]:
    """Return the outline of each region of a label image (y, x), along the rims of its pixels, tile by tile."""
    pieces: defaultdict[int, list[BaseGeometry]] = defaultdict(list)
    height, width = labels.shape
    for box in Box(0, 0, height, width).tiles(TILE_PX):
        numbers = np.asarray(labels[box.slices]).astype(np.int32)
        if not numbers.any():
            continue
        place = Affine.translation(box.x0, box.y0)
        for geometry, number in shapes(numbers, mask=numbers > 0, connectivity=4, transform=place):
            rings = geometry["coordinates"]
            pieces[int(number)].append(shapely.Polygon(rings[0], rings[1:]))
    return {number: shapely.union_all(parts) for number, parts in pieces.items()}


def _feature(number: int, area: BaseGeometry) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": json.loads(shapely.to_geojson(area)),
        "properties": {
            "objectType": "annotation",
            "name": f"region {number}",
            "classification": {"name": CLASS, "color": COLOUR},
            "isLocked": True,
        },
    }


def _is_outlines(path: Path) -> bool:
    """Whether a file holds outlines of mended regions and nothing else."""
    try:
        features = json.loads(path.read_bytes())["features"]
        return all(feature["properties"]["classification"]["name"] == CLASS for feature in features)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("corrected", type=Path, metavar="CORRECTED", help="corrected section (OME-Zarr)")
    parser.add_argument("--out", type=Path, required=True, help="the TIFF")
    parser.add_argument("--outlines", type=Path, help="GeoJSON of mended regions (default: OUT with .geojson)")
    parser.add_argument("--kind", choices=get_args(Kind), default="ome", help="how levels are stored (default: ome)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_key_arguments(parser, after="a corrected section")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    require_key(args.corrected, args.after)
    outlines = args.outlines or args.out.with_name(f"{re.sub(ENDING, '', args.out.name)}.geojson")
    if outlines.resolve() == args.out.resolve():
        raise InputError(f"--outlines {outlines}: expected another file than the TIFF")
    if args.out.suffix.lower() not in {".tif", ".tiff"}:
        raise InputError(f"--out {args.out}: expected a name that ends in .tif")
    print(export(args.corrected, args.out, outlines, args.kind, overwrite=args.overwrite))
