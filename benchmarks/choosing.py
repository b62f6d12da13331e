"""What choosing grafts costs: seconds and memory by the width of the hole and the pixel size of the scan.

    python benchmarks/choosing.py --holes-um 300 3000
    python benchmarks/choosing.py --holes-um 300 --pixel-size-um 0.25 --channels 3

The section is a phantom, mirrored to the size that is wanted; smaller pixels repeat those of 1 µm. Memory is the peak
of the process less what it took before, with the section itself in memory.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytomend.geometry import Box
from cytomend.grafts.region import Tissue, graft_region
from cytomend.grafts.settings import GraftSettings
from cytomend.phantom import render_tissue

PHANTOM_PX, SEED = 1024, 9_400_000
AROUND_UM = 3000
"""Tissue on every side of the hole."""


def section(side_px: int, pixel_size_um: float, channels: int) -> NDArray[np.uint8]:
    """Return a section (C, side, side)."""
    tissue = render_tissue((PHANTOM_PX, PHANTOM_PX), SEED).image
    times = round(1 / pixel_size_um)
    large = np.repeat(np.repeat(tissue, times, axis=0), times, axis=1)
    missing = max(side_px - len(large), 0)
    mirrored = np.pad(large, ((0, missing), (0, missing)), mode="symmetric")[:side_px, :side_px]
    return np.stack([mirrored] * channels)


def peak_mb() -> float:
    """Return the most memory that the process has taken since `forget_peak`."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def forget_peak() -> None:
    """Let the peak be what is taken now (Linux), so that it is not that of making the section."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def main(words: list[str] | None = None) -> None:
    """Print a row a hole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--holes-um", type=int, nargs="+", default=[300, 1000, 3000])
    parser.add_argument("--pixel-size-um", type=float, default=1.0)
    parser.add_argument("--channels", type=int, default=1)
    args = parser.parse_args(words)
    print("| hole, µm | grafts | processor seconds | seconds a mm² | peak, MB |\n|---|---|---|---|---|")
    for hole_um in sorted(args.holes_um):
        hole_px, around_px = (round(length / args.pixel_size_um) for length in (hole_um, AROUND_UM))
        pixels = section(hole_px + 2 * around_px, args.pixel_size_um, args.channels)
        box = Box(around_px, around_px, around_px + hole_px, around_px + hole_px)
        damaged = np.zeros(pixels.shape[1:], dtype=bool)
        damaged[box.slices] = True
        height, width = damaged.shape
        tissue = Tissue(
            lambda b, of=pixels: of[:, *b.slices],  # type: ignore[misc]
            lambda b, of=damaged: of[b.slices].copy(),  # type: ignore[misc]
            lambda b, of=damaged: of[b.slices].copy(),  # type: ignore[misc]
            (height, width),
            args.pixel_size_um,
            (0.0, 255.0),
        )
        forget_peak()
        before, since = peak_mb(), time.process_time()
        done = graft_region(tissue, box, damaged[box.slices].copy(), GraftSettings(), 0, 0)
        seconds = time.process_time() - since
        assert done is not None
        per_mm2 = seconds / (hole_um / 1000) ** 2
        print(
            f"| {hole_um} | {len(done.grafts)} | {seconds:.1f} | {per_mm2:.0f} | {peak_mb() - before:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
