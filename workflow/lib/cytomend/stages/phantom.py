"""Make a phantom section: tissue with known cells, damage with known masks.

One seed decides everything. With a stain the images are RGB, (3, Y, X). Written into one folder:

| file | what |
|---|---|
| ``section.tif`` | (Y, X) uint8, dark cells on light ground, damaged; tiled, pixel size in the resolution tags |
| ``truth.tif`` | the same before the damage; outside the mask both are equal |
| ``mask.tif`` | (Y, X) uint8, 255 where a pixel's centre lies in an artefact's polygon, else 0 |
| ``mask.geojson`` | those polygons as QuPath exports them, in pixels, x before y |
| ``cells.parquet`` | every cell in focus, also those under the damage |

Columns of ``cells.parquet``:

| column | unit | what |
|---|---|---|
| ``y_um``, ``x_um`` | µm | centre of the cell body, from the upper left corner of the image |
| ``area_um2`` | µm² | area of its profile |
| ``orientation_rad`` | rad | direction of the apical dendrite, or of the long axis, from +x towards +y, in (-pi, pi] |
| ``layer`` | | ``I`` to ``VI``, or ``WM`` for the white matter |
| ``area`` | | cytoarchitectonic area, ``phantom-a`` to ``phantom-c`` |
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.phantom import Damage, Tissue, damage, render_tissue
from cytomend.stains import STAINS

log = logging.getLogger(__name__)

# The section comes last: a folder that has it has everything.
OUTPUTS = ("truth.tif", "mask.tif", "mask.geojson", "cells.parquet", "section.tif")
TILE_PX = 256
SMALLEST_PX, LARGEST_PX = 16, 16_384
FINEST_UM, COARSEST_UM = 0.5, 4.0


def make_phantom(
    size: Sequence[int],
    seed: int,
    out_dir: Path,
    *,
    pixel_size_um: float = 1.0,
    stain: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Make a phantom section in a folder and return the path of its damaged image.

    Parameters
    ----------
    size : (int, int)
        Height and width in pixels.
    seed : int
        Zero or more; the same seed gives the same files.
    out_dir : Path
        Folder to write into; made if absent.
    pixel_size_um : float
        Side of a pixel in µm.
    stain : str, optional
        Name of the stain of an RGB section (see `cytomend.stains.STAINS`); by default the section is grey. Cells and
        damage lie at the same places.
    overwrite : bool
        Replace the phantom that the folder holds.

    Raises
    ------
    InputError
        If a number is out of range, or the folder cannot be used or already holds a phantom.
    """
    shape = _check_numbers(size, seed, pixel_size_um)
    _check_folder(out_dir, overwrite=overwrite)
    log.info("phantom of %d x %d pixels of %g µm, seed %d", *shape, pixel_size_um, seed)
    tissue = render_tissue(shape, seed, pixel_size_um=pixel_size_um, stain=stain)
    damaged = damage(tissue.image, seed, pixel_size_um=pixel_size_um)
    log.info(
        "%d cells, %d artefacts on %.1f %% of it", len(tissue.cells), len(damaged.features), 100 * damaged.mask.mean()
    )
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".unfinished-") as folder:
        unfinished = Path(folder)
        _write(unfinished, tissue, damaged, pixel_size_um)
        # Old and new files never stand side by side.
        for name in reversed(OUTPUTS):
            (out_dir / name).unlink(missing_ok=True)
        for name in OUTPUTS:
            (unfinished / name).replace(out_dir / name)
    return out_dir / "section.tif"


def _check_numbers(size: Sequence[int], seed: int, pixel_size_um: float) -> tuple[int, int]:
    if len(size) != 2 or not all(SMALLEST_PX <= side <= LARGEST_PX for side in size):
        raise InputError(
            f"--size: expected height and width of {SMALLEST_PX} to {LARGEST_PX} pixels,"
            f" found {' '.join(map(str, size))}"
        )
    if seed < 0:
        raise InputError(f"--seed: expected zero or a positive whole number, found {seed}")
    if not FINEST_UM <= pixel_size_um <= COARSEST_UM:
        raise InputError(f"--pixel-size-um: expected {FINEST_UM} to {COARSEST_UM} µm, found {pixel_size_um}")
    return size[0], size[1]


def _check_folder(out_dir: Path, *, overwrite: bool) -> None:
    found = [name for name in OUTPUTS if (out_dir / name).exists()]
    if found and not overwrite:
        raise InputError(
            f"{out_dir}: expected a folder without a phantom, found {', '.join(found)};"
            " give another folder or --overwrite"
        )
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out_dir}: expected a folder that can be written to, found: {error.strerror}") from error


def _write(folder: Path, tissue: Tissue, damaged: Damage, pixel_size_um: float) -> None:
    _write_tiff(folder / "section.tif", damaged.image, pixel_size_um)
    _write_tiff(folder / "truth.tif", tissue.image, pixel_size_um)
    _write_tiff(folder / "mask.tif", damaged.mask.astype(np.uint8) * 255, pixel_size_um)
    collection = {"type": "FeatureCollection", "features": damaged.features}
    (folder / "mask.geojson").write_text(json.dumps(collection), encoding="utf-8")
    tissue.cells.to_parquet(folder / "cells.parquet", index=False)


def _write_tiff(path: Path, image: NDArray[np.uint8], pixel_size_um: float) -> None:
    per_cm = 1e4 / pixel_size_um
    tifffile.imwrite(
        path,
        image,
        tile=(TILE_PX, TILE_PX),
        compression="zlib",
        photometric="rgb" if image.ndim == 3 else "minisblack",
        planarconfig="separate" if image.ndim == 3 else None,
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
        metadata=None,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), required=True, help="height and width in pixels"
    )
    parser.add_argument("--seed", type=int, required=True, help="decides everything: place, stain, cells, damage")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--pixel-size-um", type=float, default=1.0, help="side of a pixel in µm (default 1)")
    parser.add_argument("--stain", choices=list(STAINS), help="stain of an RGB section (default: none, a grey one)")
    parser.add_argument("--overwrite", action="store_true", help="replace the phantom that the folder holds")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    look = {"pixel_size_um": args.pixel_size_um, "stain": args.stain}
    print(make_phantom(args.size, args.seed, args.out, **look, overwrite=args.overwrite))
