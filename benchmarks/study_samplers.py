"""Which sampler is good enough, at what cost: the same trials, the same weights, every sampler.

    python benchmarks/study_samplers.py --phantoms 200 --out results/study/phantoms
    python benchmarks/study_samplers.py SCAN --box 700 0 1000 1000 --trials 60 --out results/study/strip
    python benchmarks/study_samplers.py --out results/study/strip --report

A trial is an intact patch, one window of the model by default, and a mask in the shape of an artefact over 5 to 50 % of
it. Every sampler fills it. Fills are kept as they come, so that an interrupted study goes on where it stopped, and a
sampler can be added later: give the same options and name it in ``--samplers``, as NAME or NAME:setting=value,..., with
the settings of `cytomend.diffusion.samplers.Sampler`. Trials are drawn from intact tissue: with ``--mask``, outside the
annotation. Weigh the floor in the tables: another patch of the same tissue, as it stands, under the same mask.

Into the folder go:

| file | what |
|---|---|
| ``study.json`` | options, model with checksum |
| ``trials.npz`` | patches, masks, other patches |
| ``fills/SAMPLER/*.npz`` | filled patches and seconds, a chunk of trials each |
| ``results.tsv``, ``paired.tsv``, ``report.md`` | tables (see `study_report`) |
| ``calls.svg``, ``calls.png``, ``sheet.png`` | error against network calls; some trials' fills beside each other |
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from study_report import report
from tqdm import tqdm

from cytomend.diffusion.checkpoint import load_model
from cytomend.diffusion.fill import fill
from cytomend.diffusion.named_samplers import label_of, parse_sampler
from cytomend.diffusion.record import ModelSettings, checkpoint_hash, load_settings
from cytomend.diffusion.samplers import Sampler
from cytomend.diffusion.windows import window_denoiser
from cytomend.errors import InputError
from cytomend.evaluation.trials import Trial, far_from, spread_boxes, stratified_masks
from cytomend.geometry import Box
from cytomend.phantom import render_tissue
from cytomend.places import model_file
from cytomend.regions.annotation import open_mask
from cytomend.regions.lattice import Lattice, Layout
from cytomend.segmentation.classical import body_threshold
from cytomend.storage.images import open_image
from cytomend.storage.publish import write_whole
from cytomend.values import from_model, to_model

log = logging.getLogger(__name__)

STUDIED = (
    *(f"timemap:steps={steps},eta={eta}" for steps in (25, 50, 100) for eta in (0, 0.5, 1)),
    "timemap:steps=50,bend=1",
    "langevin",
    "langevin:steps=41,resample=10",
    "repaint-strided",
    "repaint",
)
PHANTOM_PX = 256
MOST_PX = 1 << 28


def phantom_trials(count: int, first_seed: int, patch_px: int, pixel_size_um: float, seed: int) -> Iterator[Trial]:
    """Yield trials on phantom tissue, each from a section of its own."""
    side = max(PHANTOM_PX, 3 * patch_px)
    for i, mask in enumerate(stratified_masks(count, patch_px, seed)):
        tissue = render_tissue((side, side), first_seed + i, pixel_size_um=pixel_size_um).image
        boxes = list(islice(spread_boxes(np.ones(tissue.shape, dtype=bool), patch_px, seed + i), 9))
        other = far_from(boxes[0], boxes, np.random.default_rng([seed, 3, i]))
        dark = body_threshold(tissue, pixel_size_um=pixel_size_um)
        yield Trial(tissue[boxes[0].slices], tissue[other.slices], mask, dark, f"phantom {first_seed + i}", boxes[0])


def scan_trials(
    path: Path, annotation: Path | None, within: Box | None, count: int, patch_px: int, pixel_size_um: float, seed: int
) -> Iterator[Trial]:
    """Yield trials on the intact tissue of a scan, side by side as long as they fit."""
    with open_image(path) as image:
        if image.channels != 1:
            raise InputError(f"{path}: expected a grey scan, found {image.channels} channels")
        box = (within or Box(0, 0, *image.shape)).clip(image.shape)
        if box.shape[0] * box.shape[1] > MOST_PX:
            raise InputError(f"{path}: {box.shape[0]} x {box.shape[1]} px are too many to hold; give a --box")
        tissue = image.read(box)[0]
        intact = ~open_mask(annotation, image.shape).read(box) if annotation else np.ones(box.shape, dtype=bool)
    boxes = list(islice(spread_boxes(intact, patch_px, seed), count))
    dark = body_threshold(tissue, pixel_size_um=pixel_size_um)
    for i, (own, mask) in enumerate(zip(boxes, stratified_masks(count, patch_px, seed), strict=True)):
        other = far_from(own, boxes, np.random.default_rng([seed, 3, i]))
        at = Box(own.y0 + box.y0, own.x0 + box.x0, own.y1 + box.y0, own.x1 + box.x0)
        yield Trial(tissue[own.slices], tissue[other.slices], mask, dark, path.name, at)


def keep_trials(trials: Iterator[Trial], count: int, path: Path) -> None:
    """Write the trials into one file."""
    rows = list(tqdm(trials, total=count, desc="trials", disable=None))
    arrays: dict[str, Any] = {
        **{name: np.stack([getattr(trial, name) for trial in rows]) for name in ("patch", "other", "mask")},
        "dark": np.array([trial.dark for trial in rows]),
        "source": np.array([trial.source for trial in rows]),
        "corner": np.array([(trial.box.y0, trial.box.x0) for trial in rows]),
    }
    write_whole(path, lambda work: np.savez_compressed(work, allow_pickle=False, **arrays))


class Filler:
    """Fills patches with one model: the one place where the study asks it.

    All patches of a call stand on one canvas, each at a place of its own, far from the others, so that noise belongs to
    the trial and no result depends on which trials are filled together.
    """

    def __init__(self, model: Path, args: argparse.Namespace) -> None:
        denoiser, record = load_model(model, args.device)
        self.device = torch.device(args.device)
        self.lattice = Lattice(record.window_px, record.window_px * 3 // 4)
        self.windows, self.seed = args.windows, args.seed
        self.denoise = window_denoiser(
            denoiser, self.device, batch=args.batch_windows, threads=args.threads, precision=args.precision
        )

    def __call__(self, sampler: Sampler, patches: NDArray[Any], masks: NDArray[np.bool_], first: int) -> NDArray[Any]:
        """Return the patches (n, P, P) with their masks filled; ``first`` is the number of the first trial."""
        n, side, cell = len(patches), patches.shape[1], self.lattice.cell_px
        square = np.stack(np.meshgrid(*[np.arange(self.windows)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
        apart = self.windows + 2
        rows = [square + np.array([(first + i) * apart, 0]) for i in range(n)]
        limits = (0.0, float(np.iinfo(patches.dtype).max))

        def cells(values: NDArray[Any]) -> NDArray[Any]:
            parts = values.reshape(n, side // cell, cell, side // cell, cell).swapaxes(2, 3)
            return np.ascontiguousarray(parts.reshape(-1, 1, cell, cell))

        filled = fill(
            cells(to_model(patches, limits)),
            cells(~masks),
            Layout.of(self.lattice, np.concatenate(rows)),
            self.denoise,
            sampler,
            self.seed,
            self.device,
        )
        parts = filled.reshape(n, side // cell, side // cell, cell, cell).swapaxes(2, 3).reshape(n, side, side)
        return np.where(masks, from_model(parts, limits, patches.dtype), patches)


def run_sampler(sampler: Sampler, filler: Filler, out: Path, chunk: int) -> None:
    """Fill all trials that this sampler has not filled yet."""
    label = label_of(sampler)
    folder = out / "fills" / label.replace(":", "_")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sampler.json").write_text(json.dumps({"label": label, "calls": sampler.calls, **asdict(sampler)}))
    with np.load(out / "trials.npz", allow_pickle=False) as trials:
        patches, masks = trials["patch"], trials["mask"]
    starts = range(0, len(patches), chunk)
    for start in tqdm(starts, desc=f"{label}, {sampler.calls} calls", disable=None):
        path = folder / f"{start:05d}.npz"
        if path.exists():
            continue
        stop, since = start + chunk, time.monotonic()
        fills = filler(sampler, patches[start:stop], masks[start:stop], start)
        keep_fills(path, fills, (time.monotonic() - since) / len(fills))


def keep_fills(path: Path, fills: NDArray[Any], seconds: float) -> None:
    """Write a chunk of fills with the seconds that each took."""
    arrays: dict[str, Any] = {"fill": fills, "seconds": seconds}
    write_whole(path, lambda work: np.savez_compressed(work, allow_pickle=False, **arrays))


def study_settings(args: argparse.Namespace, record: ModelSettings, model: Path) -> dict[str, Any]:
    """Return all that the trials and fills depend on; another study must not go into the same folder."""
    return {
        "tissue": f"{args.phantoms} phantoms from seed {args.first_seed}" if args.phantoms else args.scan.name,
        "box": args.box,
        "mask": args.mask.name if args.mask else None,
        "trials": args.phantoms or args.trials,
        "model": args.model if "/" not in args.model else Path(args.model).name,
        "checkpoint_sha256": checkpoint_hash(model),
        "pixel_size_um": record.pixel_size_um,
        "window_px": record.window_px,
        "windows": args.windows,
        "patch_px": record.window_px + (args.windows - 1) * (record.window_px * 3 // 4),
        "seed": args.seed,
        "precision": args.precision,
        "device": str(args.device),
        "chunk": args.chunk,
    }


def keep_settings(path: Path, settings: dict[str, Any]) -> None:
    """Write the settings beside the results, or check that they are those of the folder's study."""
    if not path.exists():
        path.write_text(json.dumps(settings, indent=1) + "\n")
        return
    kept = json.loads(path.read_text())
    if kept != settings:
        differ = "; ".join(f"{k} was {kept.get(k)!r}, is {v!r}" for k, v in settings.items() if kept.get(k) != v)
        raise InputError(f"{path}: holds another study ({differ}); give the same options, or another --out")


def study(args: argparse.Namespace) -> None:
    """Draw the trials, fill them with every sampler, the cheapest first, and report."""
    samplers = sorted({parse_sampler(text) for text in args.samplers}, key=lambda sampler: sampler.calls)
    model = model_file(args.model)
    settings = study_settings(args, load_settings(model), model)
    args.out.mkdir(parents=True, exist_ok=True)
    keep_settings(args.out / "study.json", settings)
    patch_px, pixel_size_um = settings["patch_px"], settings["pixel_size_um"]
    if not (args.out / "trials.npz").exists():
        box = Box(*args.box) if args.box else None
        trials = (
            phantom_trials(args.phantoms, args.first_seed, patch_px, pixel_size_um, args.seed)
            if args.phantoms
            else scan_trials(args.scan, args.mask, box, args.trials, patch_px, pixel_size_um, args.seed)
        )
        keep_trials(trials, settings["trials"], args.out / "trials.npz")
    filler = Filler(model, args)
    for sampler in samplers:
        run_sampler(sampler, filler, args.out, args.chunk)


def arguments() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, nargs="?", help="grey scan to draw trials from")
    parser.add_argument("--box", type=int, nargs=4, metavar=("Y0", "X0", "Y1", "X1"), help="part of the scan, in px")
    parser.add_argument("--mask", type=Path, help="annotation of the scan's damage, which no trial touches")
    parser.add_argument("--trials", type=int, default=60, help="trials on the scan")
    parser.add_argument("--phantoms", type=int, default=0, help="trials on phantom tissue instead of a scan")
    parser.add_argument("--first-seed", type=int, default=900_000, help="of the phantoms; none that were trained on")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--windows", type=int, default=1, help="windows along a patch's side, fused when more than one")
    parser.add_argument("--samplers", nargs="+", default=list(STUDIED), help="NAME or NAME:setting=value,...")
    parser.add_argument("--reference", default="repaint", help="sampler that others are paired with")
    parser.add_argument("--seed", type=int, default=0, help="of trials and noise")
    parser.add_argument("--chunk", type=int, default=40, help="trials filled together, and lost when interrupted")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch-windows", type=int, default=64, help="windows in a GPU's network call")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument("--report", action="store_true", help="only report what the folder holds")
    return parser


def main() -> None:
    """Run the study, or report on it."""
    parser = arguments()
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not args.report and (args.scan is None) == (args.phantoms == 0):
        parser.error("expected a scan, or --phantoms with their number")
    try:
        if not args.report:
            study(args)
        print(report(args.out, args.reference))
    except InputError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
