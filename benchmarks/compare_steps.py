"""How `timemap` should step: ``python benchmarks/compare_steps.py SCAN [--box Y0 X0 Y1 X1] [--model NAME]``.

Fills the middle of intact windows and prints, for each way of stepping, grey-value statistics of the fill over those of
the tissue that was there: 1.00 is right. `bodies` are connected dark pixels, 20 or more of them; `power` is the
mean spectral power in bands of cycles per pixel: cells, their outlines, grain.
"""

import argparse
from collections import deque
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from cytomend.diffusion.checkpoint import load_model
from cytomend.diffusion.samplers import Sampler
from cytomend.diffusion.windows import OneByOne
from cytomend.geometry import Box
from cytomend.places import model_file
from cytomend.storage.images import open_image
from cytomend.values import to_model

RIM_SHARE = 0.2
BANDS = {
    "power .03-.08": (0.03, 0.08),
    "power .08-.16": (0.08, 0.16),
    "power .16-.30": (0.16, 0.3),
    "power .30-.50": (0.3, 0.5),
}
DARK = -0.4
SMALLEST_BODY_PX = 20


def statistics(fills: NDArray[np.float32]) -> dict[str, float]:
    """Return statistics of square fills, (n, h, h) in [-1, 1]."""
    side = fills.shape[-1]
    taper = np.outer(np.hanning(side), np.hanning(side))
    power = (np.abs(np.fft.fft2((fills - fills.mean((1, 2), keepdims=True)) * taper)) ** 2).mean(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    bands = {name: float(power[(frequency >= low) & (frequency < high)].mean()) for name, (low, high) in BANDS.items()}
    return {
        "mean": float((fills.mean() + 1) / 2),
        "std": float(fills.std()),
        "dark share": float((fills < DARK).mean()),
        **bodies(fills),
        **bands,
    }


def bodies(fills: NDArray[np.float32]) -> dict[str, float]:
    """Return how many dark bodies there are in a fill, and their median area in px."""
    areas = np.concatenate([np.bincount(ndimage.label(fill < DARK)[0].ravel())[1:] for fill in fills])
    areas = areas[areas >= SMALLEST_BODY_PX]
    return {"bodies": len(areas) / len(fills), "body area": float(np.median(areas))}


def normal(shape: torch.Size, seed: int, draw: int) -> torch.Tensor:
    """Return the noise of a draw: the same for every way of stepping."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed * 1000 + draw))


def main(scan: Path, box: Box | None, model: str, windows: int, seed: int) -> None:
    """Print the table."""
    denoiser, record = load_model(model_file(model))
    side = record.window_px
    with open_image(scan) as image:
        within = (box or Box(0, 0, *image.shape)).clip(image.shape)
        tissue = to_model(image.read(within), (0, float(np.iinfo(image.dtype).max)))
    rng = np.random.default_rng(seed)
    corners = [(int(rng.integers(limit - side + 1)) for limit in tissue.shape[1:]) for _ in range(windows)]
    real = torch.from_numpy(np.stack([tissue[:, y : y + side, x : x + side] for y, x in corners]))
    rim = round(side * RIM_SHARE)
    known = torch.ones(windows, 1, side, side, dtype=torch.bool)
    known[..., rim:-rim, rim:-rim] = False
    truth = statistics(real[:, 0, rim:-rim, rim:-rim].numpy())
    print("\t".join(["steps", "eta", "bend", *truth]))
    print("\t".join(["tissue", "", "", *(f"{value:.3g}" for value in truth.values())]))
    denoise = OneByOne(denoiser, torch.get_num_threads())
    for steps, eta, bend in product((25, 50, 100), (0.0, 0.5, 1.0), (1.0, 1.5)):
        noise = partial(normal, real.shape, seed)
        sampler = Sampler("timemap", steps, eta=eta, bend=bend)
        states = sampler.run(denoise, real, known, denoiser.alpha_bar.double(), noise)
        found = statistics(deque(states, maxlen=1).pop()[:, 0, rim:-rim, rim:-rim].numpy())
        print(
            "\t".join([str(steps), str(eta), str(bend), *(f"{found[name] / truth[name]:.2f}" for name in truth)]),
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--box", type=int, nargs=4, metavar=("Y0", "X0", "Y1", "X1"), help="part of the scan, in px")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--windows", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    main(args.scan, Box(*args.box) if args.box else None, args.model, args.windows, args.seed)
