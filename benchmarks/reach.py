"""How deep into a hole the tissue around it tells what was there.

    python benchmarks/reach.py
    python benchmarks/reach.py --scan SCAN --pixel-size-um 1
    python benchmarks/reach.py --smooth-um 100

Discs are laid over intact tissue. Three features (mean grey, share of dark pixels, coherence along the two axes of the
structure tensor), each a mean over some ``--smooth-um``, are continued from around a disc to its middle by Laplace's
equation, as grafts are chosen by. Printed is, by radius, the share of the variance over the section that is foretold: 1
if the middle is known from the rim, 0 if the section's mean says as much. `cytomend.report.flags.DEEP_UM` was chosen
by it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.grafts.context import continued
from cytomend.phantom import render_tissue
from cytomend.storage.images import open_image

FEATURES = ("grey", "dark share", "direction")
GRID_UM = 16.0
DARK_PERCENTILE = 15.0
RADII_UM = (25, 50, 75, 100, 150, 200, 300)
FIRST_SEED = 930_000
SIDE_PX = 1500

Float = NDArray[np.float64]


def features(grey: Float, pixel_size_um: float) -> tuple[Float, int]:
    """Return means of squares, (F, h, w), and the side of these squares in px."""
    side = max(round(GRID_UM / pixel_size_um), 1)
    slope = np.gradient(ndimage.gaussian_filter(grey, 1.5 / pixel_size_um))
    parts = [
        grey,
        grey < np.percentile(grey, DARK_PERCENTILE),
        slope[0] ** 2 - slope[1] ** 2,
        2 * slope[0] * slope[1],
        slope[0] ** 2 + slope[1] ** 2,
    ]
    rows, columns = (n // side for n in grey.shape)
    pooled = [p[: rows * side, : columns * side].reshape(rows, side, columns, side).mean((1, 3)) for p in parts]
    return np.stack(pooled), side


def smoothed(parts: Float, known: NDArray[np.bool_], sigma: float) -> Float:
    """Return grey, dark share, and the two components of direction, each a mean over known squares, (4, h, w)."""
    weight = ndimage.gaussian_filter(known.astype(float), sigma)
    means = [ndimage.gaussian_filter(part * known, sigma) / np.maximum(weight, 1e-6) for part in parts]
    return np.stack([means[0], means[1], *(part / np.maximum(means[4], 1e-9) for part in means[2:4])])


def foretold(grey: Float, pixel_size_um: float, radius_um: float, smooth_um: float, count: int, seed: int) -> Float:
    """Return (count, 4, 2): for each disc and feature, what is continued to its middle, and what is there."""
    parts, side = features(grey, pixel_size_um)
    sigma, radius = smooth_um / GRID_UM, radius_um / (side * pixel_size_um)
    height, width = parts.shape[1:]
    truth = smoothed(parts, np.ones((height, width), dtype=bool), sigma)
    room = [n - 2 * int(np.ceil(radius + 1)) for n in (height, width)]
    rng, found = np.random.default_rng(seed), []
    for _ in range(count if min(room) > 0 else 0):
        y, x = (int(rng.integers(r)) + int(np.ceil(radius + 1)) for r in room)
        far = np.hypot(*np.ogrid[-y : height - y, -x : width - x])
        known = far > radius
        here = continued(smoothed(parts, known, sigma), known)
        found.append(np.stack([here[:, y, x], truth[:, y, x]], axis=1))
    return np.array(found).reshape(-1, 4, 2)


def explained(pairs: Float) -> Float:
    """Return the share of variance that is foretold, of each of `FEATURES`."""
    error = ((pairs[..., 0] - pairs[..., 1]) ** 2).mean(axis=0)
    variance = pairs[..., 1].var(axis=0)
    joined = [(error[0], variance[0]), (error[1], variance[1]), (error[2:].sum(), variance[2:].sum())]
    return np.array([1 - e / v for e, v in joined])


def scans(args: argparse.Namespace) -> Iterator[tuple[str, Float, float]]:
    """Yield name, grey values and pixel size of what is looked at."""
    if args.scan is None:
        for seed in range(FIRST_SEED, FIRST_SEED + args.sections):
            yield f"phantom {seed}", render_tissue((SIDE_PX, SIDE_PX), seed).image.astype(float), 1.0
        return
    with open_image(args.scan) as image:
        size = args.pixel_size_um or image.pixel_size_um
        if size is None:
            raise InputError(f"{args.scan}: says no pixel size; give --pixel-size-um")
        yield args.scan.stem, image.read(Box(0, 0, *image.shape)).mean(axis=0, dtype=float), size


def main(args: argparse.Namespace) -> None:
    """Print the table."""
    found: dict[int, list[Float]] = {radius: [] for radius in RADII_UM}
    for _, grey, size in scans(args):
        for radius in RADII_UM:
            found[radius].append(foretold(grey, size, radius, args.smooth_um, args.discs, args.seed))
    print(f"| radius (µm) | discs | {' | '.join(FEATURES)} |\n|---|---|{'---|' * len(FEATURES)}")
    for radius, each in found.items():
        # Of each section its own variance: sections differ more than places of one do.
        shares = np.mean([explained(pairs) for pairs in each if len(pairs)], axis=0)
        print(f"| {radius} | {sum(map(len, each))} | {' | '.join(f'{share:.2f}' for share in shares)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, help="a scan without damage, read whole; by default phantoms are made")
    parser.add_argument("--pixel-size-um", type=float)
    parser.add_argument("--smooth-um", type=float, default=32.0, help="32 for clusters of cells, 100 for layers")
    parser.add_argument("--sections", type=int, default=6, help="phantoms")
    parser.add_argument("--discs", type=int, default=60, help="of each section and radius")
    parser.add_argument("--seed", type=int, default=0)
    try:
        main(parser.parse_args())
    except InputError as error:
        sys.exit(str(error))
