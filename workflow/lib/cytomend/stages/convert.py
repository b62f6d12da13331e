"""Store a scan anew in chunks, so that any part of it can be read alone.

A scan in strips, or in one tile, has to be decoded row after row; stages that read it by place decode its strips again
and again, or hold them. This reads it once from top to bottom, a band of rows at a time, and writes an OME-Zarr 0.5 of
one level: the same pixels, bit for bit. Memory is bounded by a band of the scan and one of its strips.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path

import zarr

from cytomend import __version__
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.progress import Progress
from cytomend.storage.encoder import encoder, errors_of_the_system
from cytomend.storage.frames import add_frame_argument, framed
from cytomend.storage.identity import image_identity
from cytomend.storage.images import open_image
from cytomend.storage.mended import refuse_mended
from cytomend.storage.omezarr import CONVERTED
from cytomend.storage.pixel_size import PLAUSIBLE_UM
from cytomend.storage.publish import manifest_of, one_writer, publish, refuse_over
from cytomend.storage.pyramid import VERSION, multiscales

log = logging.getLogger(__name__)

CHUNK_PX, SHARD_WIDTH_PX = 512, 8192


def convert(scan: Path, out: Path, pixel_size_um: float | None = None) -> Path:
    """Write a scan as OME-Zarr and return the manifest.

    Parameters
    ----------
    scan : of any format that `open_image` reads
    out : the OME-Zarr store
    pixel_size_um : side of a pixel; by default what the scan says

    Raises
    ------
    InputError
        If the scan cannot be read, is a corrected section, or its pixel size is not known.
    """
    with open_image(scan) as image, one_writer(out) as work:
        refuse_mended(scan, str(scan))
        size_um = pixel_size_um or image.pixel_size_um
        if size_um is None:
            raise InputError(f"{scan}: its metadata give no plausible pixel size; say it with --pixel-size-um")
        for path in work.iterdir():  # a killed writer's half store
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        group = zarr.open_group(work, mode="w", zarr_format=3)
        coloured, (height, width) = image.channels > 1, image.shape
        lead = (image.channels,) if coloured else ()
        with encoder():
            array = group.create_array(
                "0",
                shape=(*lead, height, width),
                dtype=image.dtype,
                chunks=(*(1,) * len(lead), CHUNK_PX, CHUNK_PX),
                shards=(*lead, CHUNK_PX, min(SHARD_WIDTH_PX, -(-width // CHUNK_PX) * CHUNK_PX)),
                fill_value=0,
                dimension_names=("c", "y", "x")[-2 - len(lead) :],
            )
        with Progress(f"convert {scan}", height * width, "pixel") as progress, errors_of_the_system():
            for y in range(0, height, CHUNK_PX):
                band = Box(y, 0, min(y + CHUNK_PX, height), width)
                pixels = image.read(band)
                array[(..., *band.slices)] = pixels if coloured else pixels[0]
                progress.update(band.shape[0] * width)
        image_entry = multiscales(scan.name, [array], size_um, "none")
        group.attrs["ome"] = {"version": VERSION, "multiscales": [image_entry]}
        identity = image_identity(scan)
        group.attrs[CONVERTED] = {"from": scan.name, "blake2b": identity, "by": f"cytomend {__version__}"}
        return publish(work, out, {"scan": scan.name, "blake2b": identity})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("scan", type=Path, metavar="SCAN", help="scan of any format that cytomend reads")
    parser.add_argument("--out", type=Path, required=True, help="OME-Zarr store, OUT.ome.zarr")
    add_frame_argument(parser)
    parser.add_argument("--pixel-size-um", type=float, help="side of a pixel in µm (default: from the metadata)")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    if not args.out.name.endswith(".ome.zarr"):
        raise InputError(f"--out {args.out}: expected a name that ends in .ome.zarr")
    refuse_over(args.out, [args.scan])
    if args.out.exists() or manifest_of(args.out).exists():
        raise InputError(f"--out {args.out}: exists already; choose another name")
    low, high = PLAUSIBLE_UM
    if args.pixel_size_um is not None and not low <= args.pixel_size_um <= high:
        raise InputError(f"--pixel-size-um {args.pixel_size_um:g}: expected {low:g} to {high:g} µm")
    print(convert(framed(args.scan, args.frame), args.out, args.pixel_size_um))
