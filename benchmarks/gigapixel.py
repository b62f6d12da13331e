"""What a section of gigapixels costs, stage by stage, beside what reads and writes as many pixels.

    python benchmarks/gigapixel.py [--gigapixels 1 8.05] [--damage 0.001] [--rounds 2] [--strips] [--folder FOLDER]

Streams a phantom section of each size to disk (an uncompressed, tiled BigTIFF: decoding a scan is not what is
measured), with tears on the given share of it, and takes it through the stages' own commands, each a process of its
own. The network that mends is untrained and tiny: as many pixels are stored and put back, but they are no tissue, and
what a real one costs is told by `benchmarks/mend.py`. Then the peers read the same scan:

| row | what |
|---|---|
| ``copy`` | the file, copied and flushed to disk |
| ``libvips`` | a pyramidal tiled TIFF in lossy JPEG, which is its fastest; one file, no label, no checksums |
| ``tensorstore`` | levels, chunks, shards, codec and means of the corrected section; no label, no checksums |

With ``--strips`` the scan is one in zstd strips of the section's width, and `cytomend convert` of it the only row.

`screen-section`, which proposes tears and missing tissue, is no part of the way to a corrected section; its proposals
are thrown away.

Columns: seconds on the clock, seconds of all cores, peak resident memory (MiB), megapixels a second. All in one run and
in this order; the page cache is as the step before leaves it. Blending and its peers take turns for ``--rounds``
rounds, and the quickest of each counts: a virtual machine may get its memory from its host only when it is first used,
so that whoever writes first pays for all. The last table gives each row's growth from the first size to the last.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from shapely import Polygon, affinity, to_geojson

from cytomend.diffusion.checkpoint import save_model
from cytomend.diffusion.record import ModelSettings, UNetSettings
from cytomend.diffusion.unet import UNet
from cytomend.geometry import Box
from cytomend.phantom import render_tissue
from cytomend.regions.annotation import open_mask
from cytomend.settings import checked
from cytomend.sheet import settings_of

TILE_PX, STRIP_PX, TISSUE_PX, TISSUES = 512, 64, 1024, 6
GLASS = 242
SEED = 7
PEERS = Path(__file__).with_name("gigapixel_peers.py")
FIELD_PX = 2200
"""Every tear lies in a field of its own, so that none meets another."""


class Cost(NamedTuple):
    """What a process took: seconds on the clock and of all cores, peak memory in MiB."""

    seconds: float
    processor_s: float
    peak_mib: float


class Section(NamedTuple):
    """A section on disk, and what it is mended by."""

    scan: Path
    annotation: Path
    model: Path
    shape: tuple[int, int]


# --- the section ------------------------------------------------------------------------------------------------------


def shape_of(gigapixels: float) -> tuple[int, int]:
    """Return height and width of a section of so many pixels, of the proportions of BigBrain's, in whole tiles."""
    width = math.sqrt(gigapixels * 1e9 * 6 / 5)
    return round(width * 5 / 6 / TILE_PX) * TILE_PX, round(width / TILE_PX) * TILE_PX


def tears(shape: tuple[int, int], share: float) -> list[Polygon]:
    """Return tears, 100 to 2,000 px long, on a share of the section; wider ones if it asks for more."""
    draw = np.random.default_rng(SEED)
    down, across = (range(0, side - FIELD_PX, FIELD_PX) for side in shape)
    corners = [(x, y) for y in down for x in across]
    found: list[Polygon] = []
    left = share * shape[0] * shape[1]
    for x, y in draw.permutation(corners):
        if left <= 0:
            return found
        tear = affinity.translate(_tear(draw, thick=share > 0.005), x + FIELD_PX / 2, y + FIELD_PX / 2)
        found.append(tear)
        left -= tear.area
    sys.exit(f"--damage {share}: expected a share that tears can cover, {left:,.0f} px are left")


def _tear(draw: np.random.Generator, *, thick: bool) -> Polygon:
    length, points = 100 * 20 ** draw.random(), 40
    half = length * (0.35 if thick else 0.05) * np.sin(np.linspace(0.1, np.pi - 0.1, points))
    half *= draw.uniform(0.6, 1.4, points)
    bend = ndimage.gaussian_filter1d(draw.normal(0, length / 4, points), 8)
    along = np.linspace(-length / 2, length / 2, points)
    outline = [*zip(bend - half, along, strict=True), *reversed([*zip(bend + half, along, strict=True)])]
    return affinity.rotate(Polygon(outline), draw.uniform(0, 180), origin=(0, 0))


def tiles(shape: tuple[int, int], annotation: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the tiles row by row: pieces of phantom tissue, turned at random, with glass in the tears.

    Seams show between tiles; to time and memory they do not matter.
    """
    tissue = [render_tissue((TISSUE_PX, TISSUE_PX), SEED + number).image for number in range(TISSUES)]
    draw, torn = np.random.default_rng(SEED), open_mask(annotation, shape)
    for box in Box(0, 0, *shape).tiles(TILE_PX):
        y, x = draw.integers(0, TISSUE_PX - TILE_PX, 2)
        piece = tissue[draw.integers(TISSUES)][y : y + TILE_PX, x : x + TILE_PX]
        yield np.where(torn.read(box), np.uint8(GLASS), np.rot90(piece, draw.integers(4)))


def strips(shape: tuple[int, int], annotation: Path) -> Iterator[bytes]:
    """Yield the same pixels in strips of the section's width, compressed by zstd."""
    for band in batched(tiles(shape, annotation), shape[1] // TILE_PX):
        for strip in np.split(np.concatenate(band, axis=1), TILE_PX // STRIP_PX):
            yield bytes(imagecodecs.zstd_encode(strip, level=1))


def batched(items: Iterator[NDArray[np.uint8]], count: int) -> Iterator[list[NDArray[np.uint8]]]:
    """Yield so many items at a time."""
    while batch := list(islice(items, count)):
        yield batch


def make(folder: Path, gigapixels: float, share: float, *, in_strips: bool = False) -> Section:
    """Write scan, annotation and network."""
    shape = shape_of(gigapixels)
    made = Section(folder / "scan.tif", folder / "tears.geojson", folder / "model.safetensors", shape)
    features = [
        {"type": "Feature", "geometry": json.loads(to_geojson(tear)), "properties": {}} for tear in tears(shape, share)
    ]
    made.annotation.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    tifffile.imwrite(
        made.scan,
        strips(shape, made.annotation) if in_strips else tiles(shape, made.annotation),
        shape=shape,
        dtype=np.uint8,
        **({"rowsperstrip": STRIP_PX, "compression": "zstd"} if in_strips else {"tile": (TILE_PX, TILE_PX)}),
        bigtiff=True,
        photometric="minisblack",
        resolution=(1e4, 1e4),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    os.utime(made.scan, (1_600_000_000, 1_600_000_000))  # a file is trusted by its time once it is some seconds old
    network = UNetSettings(channels=1, widths=(8,), attention=(), heads=1)
    save_model(made.model, UNet(network).state_dict(), ModelSettings(network, 256, 64, 1.0))
    return made


# --- the stages ------------------------------------------------------------------------------------------------------


LAUNCHER = """
import os, sys, time
since = time.perf_counter()
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(process, 0)
print("\\n", time.perf_counter() - since, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A process inherits the peak memory of the one that starts it, so a small one does."""


def cost_of(command: list[str]) -> Cost:
    """Run a command and return what it took."""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", LAUNCHER, *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return Cost(*map(float, done.stdout.splitlines()[-1].split()))


def stages(section: Section, folder: Path, pyramid: dict[str, int]) -> dict[str, list[str]]:
    """Return the commands of the stages, with the settings that the workflow would hand them."""
    config = checked({"mend": {"model": str(section.model), "steps": 1}}, "config", "benchmark")
    row = {"section": "gigapixel", "image": str(section.scan), "annotation": str(section.annotation)}
    row = checked({**row, "pixel_size_um": 1.0}, "sections", "benchmark")
    settings = settings_of(row, config, "benchmark")
    plan, mended, corrected = folder / "plan", folder / "0.zarr", folder / "corrected.ome.zarr"
    given: dict[str, dict[str, object]] = {
        "screen-section": {
            "pixel-size-um": 1,
            "settings": json.dumps(settings.screen),
            "out": folder / "proposals.geojson",
        },
        "plan-section": {"annotation": section.annotation, "settings": json.dumps(settings.plan), "out": plan},
        "mend-shard": {
            "plan": plan,
            "shard": 0,
            "model": section.model,
            "settings": json.dumps(settings.mend),
            "out": mended,
        },
        "blend-section": {
            "plan": plan,
            "shards": mended,
            "settings": json.dumps(pyramid),
            "out": corrected,
        },
        "verify-section": {"plan": plan, "corrected": corrected, "out": folder / "verdict.json"},
    }
    return {
        name: [
            *(sys.executable, "-m", "cytomend", name, "--image", str(section.scan)),
            *(word for option, value in options.items() for word in (f"--{option}", str(value))),
        ]
        for name, options in given.items()
    }


# --- the tables -------------------------------------------------------------------------------------------------------


PEER_FILES = {"copy": "copy.tif", "libvips": "vips.tif", "tensorstore": "ts.zarr"}
"""What each peer makes."""


def measure(
    gigapixels: float, share: float, folder: Path, pyramid: dict[str, int], *, rounds: int, in_strips: bool = False
) -> dict[str, Cost]:
    """Print and return what each row costs on a section of a size."""
    section = make(folder, gigapixels, share, in_strips=in_strips)
    megapixels = section.shape[0] * section.shape[1] / 1e6
    stored = section.scan.stat().st_size / 2**30
    print(f"\n{section.shape[0]:,} x {section.shape[1]:,} px, {stored:.2f} GiB, tears on {share:.2%}\n")
    print("| | s | core s | peak MiB | Mpx/s |\n|---|---|---|---|---|")
    if in_strips:
        command = [
            sys.executable,
            "-m",
            "cytomend",
            "convert",
            str(section.scan),
            "--out",
            str(folder / "chunks.ome.zarr"),
        ]
        return {"convert": told("convert", cost_of(command), megapixels)}
    commands = stages(section, folder, pyramid)
    blend, verify = commands.pop("blend-section"), commands.pop("verify-section")
    costs = {name: told(name, cost_of(command), megapixels) for name, command in commands.items()}
    best: dict[str, Cost] = {}
    for _ in range(rounds):
        for name, made in {"blend-section": "", **PEER_FILES}.items():
            peer = [sys.executable, str(PEERS), name, str(folder), str(pyramid["shard_px"])]
            cost = cost_of(peer if made else blend)
            best[name] = min(cost, best.get(name, cost))
            if made:
                remove(folder / made)
    costs |= {name: told(name, cost, megapixels) for name, cost in best.items()}
    costs["verify-section"] = told("verify-section", cost_of(verify), megapixels)
    if not json.loads((folder / "verdict.json").read_text())["holds"]:
        sys.exit(f"{folder / 'verdict.json'}: expected a section that holds, found a wrong one")
    return costs


def remove(made: Path) -> None:
    """Remove a file or a store."""
    shutil.rmtree(made) if made.is_dir() else made.unlink()


def told(name: str, cost: Cost, megapixels: float) -> Cost:
    """Print a row and return its cost."""
    rate = megapixels / cost.seconds
    print(f"| {name} | {cost.seconds:.1f} | {cost.processor_s:.1f} | {cost.peak_mib:.0f} | {rate:.0f} |", flush=True)
    return cost


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigapixels", type=float, nargs="+", default=[1.0, 8.05], help="sizes (default: 1 8.05)")
    parser.add_argument("--damage", type=float, default=0.001, help="share that is torn (default: 0.001)")
    parser.add_argument("--rounds", type=int, default=2, help="of blending and its peers, in turns (default: 2)")
    parser.add_argument("--strips", action="store_true", help="measure the conversion of a scan in strips instead")
    parser.add_argument("--folder", type=Path, help="where to work and leave everything; by default a passing one")
    parser.add_argument("--shard-px", type=int, help="side of a shard, instead of the configuration's")
    args = parser.parse_args()
    pyramid = checked({"pyramid": {"shard_px": args.shard_px} if args.shard_px else {}}, "config", "benchmark")[
        "pyramid"
    ]
    found = []
    with tempfile.TemporaryDirectory(dir=args.folder) as passing:
        for gigapixels in args.gigapixels:
            folder = (args.folder or Path(passing)) / f"{gigapixels:g}"
            folder.mkdir()
            found.append(measure(gigapixels, args.damage, folder, pyramid, rounds=args.rounds, in_strips=args.strips))
            if not args.folder:
                shutil.rmtree(folder)
    if len(found) > 1:
        growth = args.gigapixels[-1] / args.gigapixels[0]
        print(f"\nFrom {args.gigapixels[0]:g} to {args.gigapixels[-1]:g} Gpx, {growth:.1f} times the pixels:\n")
        print("| | time grows | memory grows |\n|---|---|---|")
        for name, first in found[0].items():
            last = found[-1][name]
            print(f"| {name} | {last.seconds / first.seconds:.1f} | {last.peak_mib / first.peak_mib:.2f} |")


if __name__ == "__main__":
    main()
