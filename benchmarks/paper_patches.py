"""How near do fills come on patches as large as those of the paper? At least 200 trials of 1 mm² on phantom tissue.

    python benchmarks/paper_patches.py --trials 200 --samplers timemap:steps=25 timemap:steps=50 --out results/patches
    python benchmarks/paper_patches.py --out results/patches --report

Each phantom section is intact, has known cells and room for four patches, so that each trial's floor lies right beside
it. Every sampler named fills all trials, as do the simple fillers; floor, pasted tissue and the re-noised original are
always there. A run goes on where it was stopped: a section that is finished is left as it is, and of an unfinished one
the trials that are drawn. Several processes share the sections by ``--part 0/2``, ``--part 1/2``, and so on.

Printed, and written to ``report.md``: pooled errors with intervals, medians of absolute errors, orientation, large
cells, flips. A mask holds hundreds of cells, so that the medians can be read beside the paper's 8 %. All tables and
figures lie in ``brain/``.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from cytomend.errors import InputError
from cytomend.evaluation.areas import DENSITIES, SHARES
from cytomend.evaluation.measurement import ORIGINAL, TRUTH
from cytomend.evaluation.orientation import ORIENTATION_STATISTICS
from cytomend.evaluation.placement import LARGE, MARGIN_UM
from cytomend.evaluation.summary import ALL
from cytomend.evaluation.tables import read_facts, read_table
from cytomend.report.evaluation_shown import square_mm
from cytomend.report.evaluation_text import error_table, error_text, markdown, share_text
from cytomend.settings import checked
from cytomend.sheet import SectionSettings, settings_of
from cytomend.stages.evaluate_section import EvaluateSettings, Sources, evaluate_section
from cytomend.stages.mend_shard import Machine, MendSettings
from cytomend.stages.mend_trials import TrialSettings, mend_trials
from cytomend.stages.phantom import OUTPUTS, make_phantom
from cytomend.stages.plan_section import PlanSettings, plan_section
from cytomend.stages.summarise_brain import summarise_evaluations
from cytomend.storage.publish import manifest_of

FIRST_SEED = 950_000
"""Of the phantoms; none that were trained on."""
ROOM = 2
"""Patches with their margins along the side of a section."""
STATISTICS = ("cell density", "cell area")
LARGE_CELLS = (*SHARES.values(), *DENSITIES.values())
UNDAMAGED = {"type": "FeatureCollection", "features": []}
PAPER = ["Kropp et al. 2024 (human brain, their model)", "10,000", "< 8", "< 8"]

Settings = dict[str, Any]


def study_settings(args: argparse.Namespace) -> Settings:
    """Return all that the numbers depend on: another study must not go into the same folder."""
    names = ("trials", "patch_um", "model", "steps", "samplers", "segmenters", "classifier", "fillers")
    return {name: getattr(args, name) for name in names}


def keep_settings(path: Path, settings: Settings) -> None:
    """Write the settings beside the results, or check that they are those of the folder's study.

    Raises
    ------
    InputError
        If the folder holds another study.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    elif (kept := json.loads(path.read_text(encoding="utf-8"))) != settings:
        differ = "; ".join(f"{k} was {kept.get(k)!r}, is {v!r}" for k, v in settings.items() if kept.get(k) != v)
        raise InputError(f"{path}: holds another study ({differ}); give the same options, or another --out")


def trials_by_section(trials: int) -> list[int]:
    """Return how many trials each section has.

    >>> trials_by_section(6)
    [4, 2]
    """
    full, rest = divmod(trials, ROOM**2)
    return [ROOM**2] * full + [rest] * (rest > 0)


def phantom_section(folder: Path, number: int, trials: int, settings: Settings) -> SectionSettings:
    """Return an intact phantom section with room for its trials; made if it is not there."""
    side_px = ROOM * (round(settings["patch_um"]) + 2 * round(MARGIN_UM))
    if not all((folder / name).exists() for name in OUTPUTS):
        make_phantom((side_px, side_px), FIRST_SEED + number, folder, overwrite=True)
    intact = folder / "intact.geojson"
    intact.write_text(json.dumps(UNDAMAGED), encoding="utf-8")
    named = {name: settings[name] for name in ("samplers", "segmenters", "classifier", "fillers", "patch_um")}
    count = {"trials": 0, "patch_trials": trials, "sampler_trials": trials}
    mend = {"model": settings["model"], "steps": settings["steps"]}
    config = checked({"mend": mend, "evaluate": {**named, **count}}, "config", "benchmark")
    row = {"section": folder.name, "image": str(folder / "truth.tif"), "annotation": str(intact), "pixel_size_um": 1.0}
    known = {"cells": str(folder / "cells.parquet")}
    return settings_of(checked({**row, **known}, "sections", "benchmark"), config, "benchmark")


def evaluate_phantom(folder: Path, section: SectionSettings, machine: Machine) -> None:
    """Plan, mend and evaluate one section; what is finished is left as it is."""
    plan, store, out = folder / "plan", folder / "trials.zarr", folder / "evaluation"
    if not manifest_of(plan).exists():
        plan_section(section.image, section.annotations, PlanSettings(**section.plan), plan)
    if not manifest_of(store).exists():
        mend, trials = MendSettings(**section.mend), TrialSettings(**section.trials)
        mend_trials(section.image, plan, section.model, mend, trials, machine, store)
    if not manifest_of(out).exists():
        looks = EvaluateSettings(**section.evaluate)
        evaluate_section(Sources(section.image, cells=section.cells), plan, store, looks, machine.threads, out)


def study(args: argparse.Namespace) -> None:
    """Do the sections of this part that are not done."""
    settings = study_settings(args)
    keep_settings(args.out / "study.json", settings)
    first, step = map(int, args.part.split("/"))
    machine = Machine.of(args.device, args.threads, args.batch_windows)
    for number, trials in list(enumerate(trials_by_section(args.trials)))[first::step]:
        folder = args.out / f"phantom-{number:03d}"
        if not manifest_of(folder / "evaluation").exists():
            evaluate_phantom(folder, phantom_section(folder, number, trials, settings), machine)


def report(out: Path) -> str:
    """Sum up all sections that are finished and return the text.

    Raises
    ------
    InputError
        If none is finished.
    """
    folders = sorted(folder for folder in out.glob("phantom-*/evaluation") if manifest_of(folder).exists())
    if not folders:
        raise InputError(f"{out}: expected finished sections of this benchmark, found none; run it without --report")
    brain = out / "brain"
    summarise_evaluations(folders, brain)
    summary, classes, facts = read_table(brain, "summary"), read_table(brain, "class_summary"), read_facts(brain)
    summary = summary[(summary["bin"] == ALL) & (summary["size"] == LARGE)]
    classes = classes[(classes["bin"] == ALL) & (classes["size"] == LARGE)]
    areas = read_table(brain, "area_summary")
    areas = areas[(areas["size"] == LARGE) & (areas["reference"] == ORIGINAL)]
    # Orientation is that of the picture, whatever finds the cells.
    one = summary[(summary["segmenter"] == summary["segmenter"].iloc[0]) & (summary["reference"] == ORIGINAL)]
    trials, wanted = facts["patches"]["trials"], json.loads((out / "study.json").read_text())["trials"]
    parts = [
        f"{trials} of {wanted} trials of {square_mm(facts['patches']['patch_um'])} on {facts['sections']} phantom"
        f" sections from seed {FIRST_SEED}; {', '.join(facts['ways'])}.",
        f"All trials together against the original, relative error in %:\n\n{errors(summary, ORIGINAL, 'pooled')}",
        f"The median of a single trial against the original, in %:\n\n{errors(summary, ORIGINAL, 'median', PAPER)}",
        f"All trials together against the known cells, relative error in %:\n\n{errors(summary, TRUTH, 'pooled')}",
        f"Orientation, all trials together against the original, relative error in %:\n\n"
        f"{error_table(one, 'pooled', ORIENTATION_STATISTICS)}",
        *(
            f"Large cells by {segmenter}, the same:\n\n{error_table(part, 'pooled', LARGE_CELLS)}"
            for segmenter, part in areas.groupby("segmenter", sort=False)
        ),
        f"The classifier (the paper: flips up to about 15 %, top-2 > 98 %):\n\n{flips(classes)}",
    ]
    text = "\n\n".join(parts) + "\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    return text


def errors(summary: pd.DataFrame, reference: str, error: str, paper: list[str] | None = None) -> str:
    """Return fillers x (trials, density and area by each segmenter); ``error`` is ``pooled`` or ``median``."""
    part = summary[summary["reference"] == reference]
    cells = {(row["filler"], row["segmenter"], row["statistic"]): row for _, row in part.iterrows()}
    columns = [(segmenter, name) for segmenter in dict.fromkeys(part["segmenter"]) for name in STATISTICS]
    trials = part.groupby("filler")["trials"].max()
    rows = [
        [name, str(trials[name]), *(error_text(cells.get((name, *column)), error) for column in columns)]
        for name in dict.fromkeys(part["filler"])
    ]
    header = ["filler", "trials", *(f"{name}, {segmenter}" for segmenter, name in columns)]
    last = [[*paper, *["–"] * (len(header) - len(paper))]] if paper else []
    return markdown(header, [*rows, *last])


def flips(classes: pd.DataFrame) -> str:
    """Return fillers x (trials, flips, top-2)."""
    rows = [
        [
            str(row["filler"]),
            str(row["trials"]),
            share_text(row["flip_rate"], row["flip_low"], row["flip_high"]),
            share_text(row["top2_rate"], row["top2_low"], row["top2_high"]),
        ]
        for _, row in classes.iterrows()
    ]
    return markdown(["filler", "trials", "flips, %", "top-2, %"], rows)


def arguments() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="over all sections, four each")
    parser.add_argument("--patch-um", type=float, default=1000.0, help="side of a patch")
    parser.add_argument(
        "--samplers", nargs="*", default=[], help="beside timemap: NAME, NAME:setting=value,... or module:name"
    )
    parser.add_argument("--steps", type=int, default=25, help="of timemap; the demo's")
    parser.add_argument(
        "--fillers", nargs="*", default=["nearest tissue", "local mean"], help="biharmonic takes 3 GB a patch"
    )
    parser.add_argument("--segmenters", nargs="+", default=["cpn", "classical"])
    parser.add_argument("--classifier", default="layers")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--threads", type=int, default=1, help="trials that are looked at at a time, and threads of the network"
    )
    parser.add_argument("--batch-windows", type=int, default=64, help="windows in a GPU's network call")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="do every N-th section from the I-th on")
    parser.add_argument("--report", action="store_true", help="only report what the folder holds")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def main(words: list[str] | None = None) -> None:
    """Run the benchmark, or report on what is there."""
    args = arguments().parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        if not args.report:
            study(args)
        print(report(args.out))
    except InputError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
