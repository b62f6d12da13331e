"""Can a judge tell fills from tissue? Windows of fills against windows of intact tissue, beside real against real.

    python benchmarks/realism.py --evaluation results/evaluation --out results/realism
    python benchmarks/realism.py --trials TRIALS.zarr SCAN [--trials ...] --out results/realism
    python benchmarks/realism.py --pictures ORIGINAL FILLED MASK [--pictures ...] --out results/realism

It takes mended trials: those of ``benchmarks/evaluation.py`` (a folder), stores of `cytomend mend-trials` each with the
undamaged scan of its section, or pairs of pictures with a mask. Of a store, trials of one ``--size`` are taken. Each
store and each pair counts as a section. A judge
never judges a section that it learned from. A single section is split by place, with a gap.

Printed, and written as ``realism.tsv`` and ``features.tsv``: the accuracy of each judge for each filler, with a 95 %
bootstrap interval, and the features that tell the fills apart. 0.5: it cannot tell; 1: it always can.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.evaluation.fillers import open_filler
from cytomend.evaluation.judge_network import NetworkLearner
from cytomend.evaluation.placement import INTACT, LARGE, SIZES, SMALL
from cytomend.evaluation.realism import Learner, LinearLearner, feature_weights, judge
from cytomend.evaluation.trial_store import MendedTrial, TrialStore
from cytomend.evaluation.window_pairs import (
    COVERED,
    ELSEWHERE,
    REAL,
    SAME,
    WINDOW_UM,
    Shown,
    WindowPairs,
    covered_corners,
)
from cytomend.geometry import Box
from cytomend.report.evaluation_text import markdown
from cytomend.storage.images import SectionImage, open_image, open_labels

CHUNK = 16
TOLD = 6
"""Features that are printed for each filler."""

Pixels = NDArray[np.generic]


def intact_trials(store: Path, size: str) -> Iterator[MendedTrial]:
    """Yield the trials of a store on intact tissue, of one size of patch; few are held at a time."""
    trials, step = TrialStore.open(store), 1 if size == LARGE else CHUNK
    for start in range(0, len(trials.places[size]), step):
        yield from (trial for trial in trials.read(size, start, start + step) if trial.place.kind == INTACT)


def of_store(section: int, store: Path, scan: Path, size: str, fillers: Sequence[str]) -> Iterator[Shown]:
    """Yield the intact trials of a store, with further fillers."""
    with open_image(scan) as image:
        for place, fills in intact_trials(store, size):
            original, other = image.read(place.view), image.read(place.other)
            pictures = {name: np.where(place.mask, pixels, original) for name, pixels in fills.items()}
            pictures |= simple_fills(original, place.mask, fillers)
            corners = ((place.view.y0, place.view.x0), (place.other.y0, place.other.x0))
            yield Shown(section, original, other, place.mask, pictures, *corners)


def simple_fills(original: Pixels, mask: NDArray[np.bool_], names: Sequence[str]) -> dict[str, Pixels]:
    """Return the picture (C, Y, X) filled by simple fillers, channel by channel."""
    return {name: np.stack([open_filler(name)(channel, mask) for channel in original]) for name in names}


def of_pictures(
    section: int, paths: Sequence[Path], side_px: int, covered: float, fillers: Sequence[str]
) -> Iterator[Shown]:
    """Yield the windows of a picture that are filled enough, each with an intact window near it."""
    first, second, third = paths
    with open_image(first) as image, open_image(second) as filled, open_labels(third) as labels:
        check_alike(image, filled, labels.shape)
        whole = Box(0, 0, *image.shape)
        original, fill, mask = image.read(whole), filled.read(whole), labels.read(whole)[0] > 0
    if (changed := ((original != fill).any(0) & ~mask).sum()) > 0:
        raise InputError(
            f"{second}: {changed} px beside the mask {third} differ from {first}; give the mask of the fill"
        )
    fills = {"fill": fill, **simple_fills(original, mask, fillers)}
    free = intact_corners(mask, side_px)
    for place in covered_corners(mask, side_px, covered)[: len(free)]:
        # Every window has tissue elsewhere of its own.
        chosen = min(free, key=lambda corner: (corner[0] - place[0]) ** 2 + (corner[1] - place[1]) ** 2)
        free.remove(chosen)
        box, there = (Box(y, x, y + side_px, x + side_px) for y, x in (place, chosen))
        at, elsewhere = ((slice(None), *b.slices) for b in (box, there))
        shown = {name: picture[at] for name, picture in fills.items()}
        yield Shown(section, original[at], original[elsewhere], mask[box.slices], shown, place, chosen)


def check_alike(image: SectionImage, filled: SectionImage, mask_shape: tuple[int, int]) -> None:
    """Refuse pictures that do not show the same."""
    if (image.shape, image.channels) != (filled.shape, filled.channels) or image.shape != mask_shape:
        raise InputError(
            f"{filled.path}: expected {image.shape} px and {image.channels} channels, as {image.path}, and a mask of"
            f" that shape; found {filled.shape} px, {filled.channels} channels, mask {mask_shape}"
        )


def intact_corners(mask: NDArray[np.bool_], side_px: int) -> list[tuple[int, int]]:
    """Return the corners (y, x) of intact squares, side by side."""
    height, width = mask.shape
    return [
        (y, x)
        for y in range(0, height - side_px + 1, side_px)
        for x in range(0, width - side_px + 1, side_px)
        if not mask[y : y + side_px, x : x + side_px].any()
    ]


def stores_of(args: argparse.Namespace) -> list[tuple[Path, Path]]:
    """Return the stores of trials that are asked for, each with the undamaged scan.

    Raises
    ------
    InputError
        If there is nothing to look at.
    """
    stores = [(Path(store), Path(scan)) for store, scan in args.trials]
    for folder in args.evaluation:
        stores += [(store, store.parent / "truth.tif") for store in sorted(folder.glob("phantom-*/trials.zarr"))]
    if not stores and not args.pictures:
        raise InputError("expected --evaluation, --trials or --pictures with mended trials, found none")
    return stores


def gather(args: argparse.Namespace) -> WindowPairs:
    """Return the windows of all sections."""
    found, stores = WindowPairs(args.pixel_size_um, args.window_um, args.covered), stores_of(args)
    for section, (store, scan) in enumerate(stores):
        for shown in of_store(section, store, scan, args.size, args.fillers):
            found.add(shown)
    for section, paths in enumerate(args.pictures, len(stores)):
        for shown in of_pictures(section, list(map(Path, paths)), found.side_px, args.covered, args.fillers):
            found.add(shown)
    return found


def verdicts(found: WindowPairs, learners: Sequence[Learner], seed: int) -> pd.DataFrame:
    """Return a row for each comparison and judge."""
    asked = [(REAL, SAME), *((name, against) for name in found.fills for against in (SAME, ELSEWHERE))]
    rows = []
    for filler, against in asked:
        pairs = found.pairs(filler, against)
        for learner in learners:
            verdict = judge(*pairs, seed, learner=learner, pixel_size_um=found.pixel_size_um)
            sections = len(
                {found.sections[i] for i in range(len(found.sections))} if filler == REAL else set(pairs.groups)
            )
            rows.append(
                {"filler": filler, "against": against, "judge": learner.name, "parts": sections, **verdict._asdict()}
            )
            print(f"{filler}, {against}, {learner.name}: {verdict.accuracy:.3f}", file=sys.stderr)
    return pd.DataFrame(rows)


def features(found: WindowPairs) -> pd.DataFrame:
    """Return what gives each filler away, against the same place."""
    rows = [
        {"filler": filler, **weight._asdict()}
        for filler in [REAL, *found.fills]
        for weight in feature_weights(*found.pairs(filler, SAME), found.pixel_size_um)
    ]
    return pd.DataFrame(rows)


def report(table: pd.DataFrame, told: pd.DataFrame) -> str:
    """Return both tables as text."""
    judges = list(dict.fromkeys(table["judge"]))
    lines = []
    for (filler, against), part in table.groupby(["filler", "against"], sort=False):
        said = {
            row["judge"]: f"{row['accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" for _, row in part.iterrows()
        }
        lines.append([str(filler), str(against), str(part["pairs"].iloc[0]), *(said[name] for name in judges)])
    give_away = [
        [str(filler), ", ".join(f"{row['feature']} {row['difference']:+.2f}" for _, row in part.head(TOLD).iterrows())]
        for filler, part in told.groupby("filler", sort=False)
    ]
    return "\n\n".join(
        [
            markdown(["filler", "against", "pairs", *(f"{name} judge" for name in judges)], lines),
            markdown(["filler", "how it differs from the same place, in standard deviations"], give_away),
        ]
    )


def main() -> None:
    """Judge and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluation", type=Path, nargs="+", default=[], help="folders of benchmarks/evaluation.py")
    parser.add_argument("--trials", nargs=2, action="append", default=[], metavar=("STORE", "SCAN"))
    parser.add_argument("--pictures", nargs=3, action="append", default=[], metavar=("ORIGINAL", "FILLED", "MASK"))
    parser.add_argument("--size", choices=SIZES, default=SMALL, help="patches of the trials that are looked at")
    parser.add_argument("--pixel-size-um", type=float, default=1.0, help="of all sections")
    parser.add_argument("--window-um", type=float, default=WINDOW_UM, help="side of a window")
    parser.add_argument("--covered", type=float, default=COVERED, help="least share of a window that is filled")
    parser.add_argument("--fillers", nargs="*", default=[], help="simple fillers to judge beside")
    parser.add_argument("--judges", nargs="+", choices=("linear", "network"), default=["linear", "network"])
    parser.add_argument("--steps", type=int, default=NetworkLearner().steps, help="of the network's training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    known: dict[str, Learner] = {"linear": LinearLearner(), "network": NetworkLearner(args.steps)}
    try:
        found = gather(args)
        table, told = verdicts(found, [known[name] for name in args.judges], args.seed), features(found)
    except InputError as error:
        sys.exit(f"{error}")
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "realism.tsv", sep="\t", index=False, float_format="%.4f")
    told.to_csv(args.out / "features.tsv", sep="\t", index=False, float_format="%.4f")
    print(report(table, told))


if __name__ == "__main__":
    main()
