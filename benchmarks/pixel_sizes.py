"""Joints of grafts at several pixel sizes: drawn by the network, faded, and left as they were cut.

    python benchmarks/pixel_sizes.py --pictures 3 --pixel-sizes 0.25 0.5 1 2
    python benchmarks/pixel_sizes.py --tile test.tif --pictures 3

A hole of 180 x 200 µm in the middle of each picture is filled. A phantom of one seed has the same cells at the same
places at every pixel size. Its texture and noise are those of a scanner with such pixels. So fine phantoms have fine
grain. With ``--tile`` the pictures are parts of a grey scan of 1 µm instead. They are interpolated to finer pixels, or
averaged to coarser ones. So fine ones have no detail below 1 µm.

All rows of a picture hold the same grafts. Columns:

- step: root of the mean squared difference of neighbouring pixels, across the outline and across cuts, over that of the
  undamaged picture at the same places. ``px`` compares pixels as they are, ``1 µm`` after a Gaussian of 1 µm, which
  removes grain. 1 is intact tissue.
- grain: median absolute response to a filter that straight edges and slopes do not pass (Immerkaer 1996), in joints
  over that in intact tissue. ``px`` is that of pixels as they are, ``1 µm`` that of means over 1 µm (fine pictures).
- dark: share of dark pixels in joints, over that of the grafts as they were cut. Above 1, bodies were added.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from grafts import VALUE_RANGE, InMemory, Undamaged
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from cytomend.diffusion.checkpoint import load_model
from cytomend.diffusion.samplers import SAMPLERS
from cytomend.diffusion.windows import WindowDenoise, window_denoiser
from cytomend.evaluation.mending import Grafting, TrialMender, without_trial
from cytomend.evaluation.placement import INTACT, Placement
from cytomend.geometry import Box
from cytomend.grafts.join import Joining, alike
from cytomend.grafts.joints import joints
from cytomend.grafts.network_grid import NetworkGrid
from cytomend.grafts.region import Grafted, Tissue, graft_region
from cytomend.grafts.settings import GraftSettings
from cytomend.phantom import render_tissue
from cytomend.places import model_file
from cytomend.regions.lattice import Lattice
from cytomend.storage.images import open_image

SIDE_UM, FIRST_SEED = 560, 9_300_000
JOINT_UM = 3.0
DARK_PERCENTILE = 15
GRAIN = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])

Grey = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Float = NDArray[np.float64]


def hole(shape: tuple[int, int], pixel_size_um: float) -> Mask:
    """The hole of every picture."""
    y, x = ((np.arange(n) + 0.5) * pixel_size_um - SIDE_UM / 2 for n in shape)
    return np.asarray((y[:, None] / 90) ** 2 + (x / 100) ** 2 < 1)


def part_of(tile: Grey, number: int, pixel_size_um: float) -> Grey:
    """Return a part of a tile of 1 µm at another pixel size."""
    rng = np.random.default_rng([FIRST_SEED, number])
    y, x = (int(rng.integers(n - SIDE_UM + 1)) for n in tile.shape)
    part = tile[y : y + SIDE_UM, x : x + SIDE_UM].astype(np.float32)
    shape, size = (SIDE_UM, SIDE_UM), round(SIDE_UM / pixel_size_um)
    grid = NetworkGrid(shape, 1.0, pixel_size_um, Lattice(4, 4))
    box = Box(0, 0, size, size)
    if pixel_size_um >= 1:
        found = grid.to_network(box, part[None, *grid.scan_box(box).slices])[0]
    else:
        at = (np.arange(size) + 0.5) * pixel_size_um - 0.5
        found = ndimage.map_coordinates(part, np.meshgrid(at, at, indexing="ij"), order=3, mode="nearest")
    return np.clip(np.rint(found), 0, 255).astype(np.uint8)


def grafts_of(tissue: Tissue, place: Placement, settings: GraftSettings) -> Grafted:
    """Return the grafts of a picture, as they were cut."""
    rows, columns = (np.flatnonzero(place.mask.any(axis=axis)) for axis in (1, 0))
    box = Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    plain = replace(settings, joint_um=0.0, narrow_um=0.0)
    done = graft_region(without_trial(tissue, place), box, place.mask[box.slices], plain, 0, 0)
    assert done is not None
    return done


def pairs(number: NDArray[np.uint32], own: Mask) -> Iterator[tuple[str, int, Mask]]:
    """Yield, for each axis, which pixels and their next ones lie across the outline, and across a cut."""
    for axis in (0, 1):
        one, other = np.s_[:-1] if axis == 0 else np.s_[:, :-1], np.s_[1:] if axis == 0 else np.s_[:, 1:]
        yield "outline", axis, own[one] != own[other]
        yield "cut", axis, own[one] & own[other] & (number[one] != number[other])


def squares(picture: Float, number: NDArray[np.uint32], own: Mask) -> dict[str, float]:
    """Return the mean squared difference across outline and cuts."""
    sums: dict[str, list[float]] = {"outline": [0, 0], "cut": [0, 0]}
    for name, axis, there in pairs(number, own):
        sums[name][0] += float((np.diff(picture, axis=axis)[there] ** 2).sum())
        sums[name][1] += int(there.sum())
    return {name: total / max(count, 1) for name, (total, count) in sums.items()}


def grain(picture: Float, there: Mask) -> float:
    """Return the median absolute response to `GRAIN`."""
    return float(np.median(np.abs(ndimage.convolve(picture, GRAIN, mode="nearest"))[there]))


def at_network(grid: NetworkGrid, picture: Float) -> Float:
    """Return means over network pixels."""
    box = Box(0, 0, *grid.network_shape)
    return grid.to_network(box, picture[None].astype(np.float32))[0].astype(np.float64)


def measured(
    filled: Grey, truth: Grey, cut: Grey, number: NDArray[np.uint32], own: Mask, pixel_size_um: float
) -> dict[str, float]:
    """Return what is reported of a filled picture; see the columns of the module."""
    found = dict[str, float]()
    for label, sigma in (("px", 0.0), ("1 µm", 1 / pixel_size_um)):
        parts = [ndimage.gaussian_filter(p.astype(np.float64), sigma) if sigma else p * 1.0 for p in (filled, truth)]
        fill, base = (squares(part, number, own) for part in parts)
        found |= {f"{name} {label}": fill[name] for name in fill} | {
            f"{name} {label} truth": base[name] for name in base
        }
    joint = joints(number, own, JOINT_UM / pixel_size_um)
    intact = ~own & (ndimage.distance_transform_edt(~own) > 2 * JOINT_UM / pixel_size_um)
    found |= {"grain px": grain(filled * 1.0, joint), "grain px truth": grain(filled * 1.0, intact)}
    if pixel_size_um < 1 and not alike(pixel_size_um, 1.0):
        grid = NetworkGrid((filled.shape[0], filled.shape[1]), pixel_size_um, 1.0, Lattice(4, 4))
        picture = at_network(grid, filled * 1.0)
        inner, outer = (at_network(grid, mask * 1.0) > 0.99 for mask in (joint, intact))
        found |= {"grain 1 µm": grain(picture, inner), "grain 1 µm truth": grain(picture, outer)}
    dark = np.percentile(truth, DARK_PERCENTILE)
    return found | {"dark": float((filled[joint] < dark).mean()), "dark truth": float((cut[joint] < dark).mean())}


def rows_of(
    pixels: Grey, pixel_size_um: float, ask: WindowDenoise, lattice: Lattice, model_um: float, steps: int
) -> Iterator[tuple[str, Grey, dict[str, float]]]:
    """Yield a name, a filled picture and what was measured, for each way to join."""
    shape = (pixels.shape[0], pixels.shape[1])
    own, image, box = hole(shape, pixel_size_um), InMemory(pixels), Box(0, 0, *shape)
    shown, place = Undamaged(shape), Placement(0, INTACT, box, 0, own, box)
    tissue = Tissue(image.read, shown.read, shown.read, shape, pixel_size_um, VALUE_RANGE)
    settings, since = GraftSettings(), time.monotonic()
    done = grafts_of(tissue, place, settings)
    number, cut = np.zeros(shape, np.uint32), pixels.copy()
    number[done.box.slices] = done.number
    cut[own] = done.over(box, pixels[None])[0][0][own]
    told = measured(cut, pixels, cut, number, own, pixel_size_um)
    yield "none", cut, told | {"seconds": time.monotonic() - since}
    # Also where `Joining.of` would choose the blend.
    grid = None if alike(pixel_size_um, model_um) else NetworkGrid(shape, pixel_size_um, model_um, lattice)
    for joining in (Joining("blend"), Joining("network", grid)):
        since = time.monotonic()
        mender = TrialMender(
            image,  # type: ignore[arg-type]
            shown,
            lattice,
            VALUE_RANGE,
            ask,
            replace(SAMPLERS["timemap"], steps=steps),
            0,
            torch.device("cpu"),
            256,
            Grafting(settings, tissue, joining),
        )
        filled = np.where(own, mender([place])[0][0], pixels)
        seconds = time.monotonic() - since
        yield joining.name, filled, measured(filled, pixels, cut, number, own, pixel_size_um) | {"seconds": seconds}


def report(rows: pd.DataFrame) -> str:
    """Return the table: ratios of sums over pictures; differences as roots."""
    steps = [f"{place} {scale}" for scale in ("px", "1 µm") for place in ("outline", "cut")]
    shares = ["grain px", "grain 1 µm", "dark"]
    header = ["pixel, µm", "joints", *(f"step: {name}" for name in steps), *shares, "s"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for (size, name), part in rows.groupby(["pixel_size_um", "joints"], sort=False):
        sums = part.sum(numeric_only=True)
        cells = [f"{np.sqrt(sums[step] / sums[f'{step} truth']):.2f}" for step in steps]
        for share in shares:
            there = share in part and bool(part[share].notna().all())
            cells.append(f"{sums[share] / sums[f'{share} truth']:.2f}" if there else "")
        lines.append(f"| {size:g} | {name} | {' | '.join(cells)} | {part['seconds'].mean():.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Fill the pictures and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=3)
    parser.add_argument("--pixel-sizes", type=float, nargs="+", default=[0.25, 0.5, 1.0, 2.0])
    parser.add_argument("--tile", type=Path, help="grey scan of 1 µm, instead of phantoms")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder of the filled pictures (PNG)")
    args = parser.parse_args()
    denoiser, record = load_model(model_file(args.model), torch.device("cpu"))
    ask = window_denoiser(denoiser, torch.device("cpu"), batch=4, threads=args.threads, precision="float32")
    lattice = Lattice(record.window_px, record.window_px * 3 // 4)
    tile = None
    if args.tile:
        with open_image(args.tile) as image:
            tile = np.asarray(image.read(Box(0, 0, *image.shape))[0]).astype(np.uint8)
    rows = []
    for size in args.pixel_sizes:
        for number in range(args.pictures):
            side = round(SIDE_UM / size)
            seed = FIRST_SEED + number
            drawn = render_tissue((side, side), seed, pixel_size_um=size).image if tile is None else None
            pixels = part_of(tile, number, size) if tile is not None else drawn
            assert pixels is not None
            for name, filled, told in rows_of(pixels, size, ask, lattice, record.pixel_size_um, args.steps):
                rows.append({"pixel_size_um": size, "joints": name, "picture": number, **told})
                if args.out:
                    args.out.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(filled).save(args.out / f"{size:g}-{number}-{name}.png")
    print(report(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
