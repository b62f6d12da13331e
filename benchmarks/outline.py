"""How well the network uses the clean pixels beside the damage.

    python benchmarks/outline.py SCAN --box Y0 X0 Y1 X1

Asks once, at several times, for the clean image of intact windows in which a mask in the shape of an artefact is
noised, and prints the error (root mean square, of values in [-1, 1]) by distance from the nearest known pixel. Beside
it stands the best *linear* predictor that knows the tissue's own covariance (Wiener), for a straight outline. A network
that errs more than that beside known pixels leaves a visible outline, by whatever sampler.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from study_samplers import scan_trials

from cytomend.diffusion.checkpoint import load_model
from cytomend.diffusion.precondition import diffuse
from cytomend.diffusion.windows import window_denoiser
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.places import model_file
from cytomend.storage.images import open_image
from cytomend.values import to_model

TIMES = (10, 40, 80, 130, 180, 220)
DISTANCES = {"1": (1, 1), "2": (2, 2), "3": (3, 3), "4-6": (4, 6), "8+": (8, 1000)}
WIENER_PX = 24


def linear_errors(tissue: NDArray[np.float32], alpha_bar: float) -> dict[str, float]:
    """Return the error of the best linear predictor at some distances from a straight outline.

    Parameters
    ----------
    tissue : (Y, X) in [-1, 1], taken as one draw of a stationary field
    alpha_bar : share of signal variance left at unknown pixels
    """
    power = np.abs(np.fft.fft2(tissue - tissue.mean())) ** 2
    covariance = np.fft.ifft2(power).real / tissue.size
    at = np.stack(np.mgrid[:WIENER_PX, :WIENER_PX], -1).reshape(-1, 2)
    dy, dx = (at[:, None] - at[None]).transpose(2, 0, 1)
    field = covariance[dy, dx]
    known = at[:, 1] < WIENER_PX // 2
    noise = np.where(known, 1e-6, (1 - alpha_bar) / alpha_bar)
    left = field - field @ np.linalg.solve(field + np.diag(noise), field)
    row = np.sqrt(np.diag(left).clip(0)).reshape(WIENER_PX, WIENER_PX)[WIENER_PX // 2, WIENER_PX // 2 :]
    return {name: float(row[low - 1]) for name, (low, high) in DISTANCES.items() if low == high}


def main(scan: Path, box: Box | None, model: str, trials: int, seed: int) -> None:
    """Print the table."""
    denoiser, record = load_model(model_file(model))
    ask = window_denoiser(denoiser, torch.device("cpu"), batch=1, threads=torch.get_num_threads())
    drawn = list(scan_trials(scan, None, box, trials, record.window_px, record.pixel_size_um, seed))
    with open_image(scan) as image:
        values = (0, float(np.iinfo(image.dtype).max))
        tissue = to_model(image.read((box or Box(0, 0, *image.shape)).clip(image.shape)), values)[0]
    x0 = torch.from_numpy(np.stack([to_model(trial.patch[None], values) for trial in drawn]))
    masks = np.stack([trial.mask for trial in drawn])[:, None]
    depth = np.stack([ndimage.distance_transform_cdt(mask[0], "chessboard") for mask in masks])[:, None]
    known = torch.from_numpy(~masks)
    print("\t".join(["time", "who", *DISTANCES]))
    for time in TIMES:
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed + time))
        noised = torch.where(known, x0, diffuse(x0, noise, denoiser.alpha_bar[time]))
        error = (ask(noised, torch.where(known, 0, time)) - x0).numpy()
        found = [np.sqrt((error[(depth >= low) & (depth <= high)] ** 2).mean()) for low, high in DISTANCES.values()]
        linear = linear_errors(tissue, float(denoiser.alpha_bar[time]))
        print("\t".join([str(time), model, *(f"{value:.3f}" for value in found)]))
        print(
            "\t".join([str(time), "linear", *(f"{linear[name]:.3f}" if name in linear else "" for name in DISTANCES)])
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--box", type=int, nargs=4, metavar=("Y0", "X0", "Y1", "X1"), help="part of the scan, in px")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        main(args.scan, Box(*args.box) if args.box else None, args.model, args.trials, args.seed)
    except InputError as error:
        sys.exit(str(error))
