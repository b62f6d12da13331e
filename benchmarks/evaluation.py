"""Do the cells match? The evaluation on phantom sections, whose truth is known, with the bundled models.

    python benchmarks/evaluation.py --trials 1000 --out results/evaluation
    python benchmarks/evaluation.py --out results/evaluation --report

Damaged phantom sections are made, none of which was trained on; trials are laid over their intact tissue and over their
artefacts, mended, and compared with the originals, the truth and controls, by the stages that the workflow runs. It
goes on where it was stopped. Printed, and written to ``report.md``: all tables over all sections, and errors by mask
fraction. Beside them lie what `cytomend.stages.summarise_brain` writes: tables and figures, in ``brain/``.

With ``--sections`` processes of ``--workers`` each do a section at a time.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from pathlib import Path

from cytomend.evaluation.summary import ALL
from cytomend.evaluation.tables import read_facts, read_table
from cytomend.places import model_file
from cytomend.report.evaluation_text import SHOWN, bin_table, class_table, markdown, summary_text
from cytomend.settings import checked
from cytomend.sheet import settings_of
from cytomend.stages.evaluate_section import EvaluateSettings, Sources, evaluate_section
from cytomend.stages.mend_shard import Machine, MendSettings
from cytomend.stages.mend_trials import TrialSettings, mend_trials
from cytomend.stages.phantom import OUTPUTS, make_phantom
from cytomend.stages.plan_section import PlanSettings, plan_section
from cytomend.stages.summarise_brain import summarise_evaluations
from cytomend.storage.publish import manifest_of

FIRST_SEED = 910_000
SIDE_PX = 1500


def evaluate_phantom(number: int, args: argparse.Namespace) -> Path:
    """Make, plan, mend and evaluate one phantom section; what is finished is left as it is."""
    folder = args.out / f"phantom-{number:02d}"
    if not all((folder / name).exists() for name in OUTPUTS):
        make_phantom((SIDE_PX, SIDE_PX), FIRST_SEED + number, folder, overwrite=True)
    scan, truth, cells = (folder / name for name in ("section.tif", "truth.tif", "cells.parquet"))
    evaluate = {
        "trials": args.trials // args.sections,
        "artefact_trials": args.artefact_trials // args.sections,
        "samplers": args.samplers,
        "sampler_trials": args.sampler_trials,
    }
    config = checked({"mend": {"model": args.model, "steps": args.steps}, "evaluate": evaluate}, "config", "benchmark")
    row = {
        "section": folder.name,
        "image": str(scan),
        "annotation": str(folder / "mask.tif"),
        "pixel_size_um": 1.0,
        "truth": str(truth),
        "cells": str(cells),
    }
    section = settings_of(checked(row, "sections", "benchmark"), config, "benchmark")
    plan, store, out = folder / "plan", folder / "trials.zarr", folder / "evaluation"
    if not manifest_of(plan).exists():
        plan_section(scan, section.annotations, PlanSettings(**section.plan), plan)
    machine = Machine.of(args.device, 1 if args.device == "cpu" else os.cpu_count() or 1, 64)
    mend = MendSettings(**section.mend)
    if not manifest_of(store).exists():
        # The same masks in every section, so that sections differ by their tissue alone.
        trials = TrialSettings(**{**section.trials, "seed": 0, "offset": 0.5})
        mend_trials(scan, plan, model_file(args.model), mend, trials, machine, store)
    if not args.mend_only and not manifest_of(out).exists():
        evaluate_section(Sources(scan, truth, cells), plan, store, EvaluateSettings(**section.evaluate), 1, out)
    return out


def share_sections(args: argparse.Namespace) -> None:
    """Let processes do the sections, each every n-th: one thread each is what uses the cores best."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in vars(args).items() if name in NUMBERED]
    options += ["--samplers", *args.samplers] + (["--mend-only"] if args.mend_only else [])
    command = [sys.executable, __file__, *options, "--out", str(args.out), "--model", args.model]
    running = [
        subprocess.Popen([*command, "--only", f"{i}/{args.workers}", "--device", args.device])
        for i in range(args.workers)
    ]
    codes = [process.wait() for process in running]
    if any(codes):
        sys.exit("a process failed; what it had finished is kept")


NUMBERED = ("trials", "artefact_trials", "sections", "sampler_trials", "steps")


def report(out: Path) -> str:
    """Sum up all evaluated sections and return the text."""
    folders = sorted(folder for folder in out.glob("phantom-*/evaluation") if manifest_of(folder).exists())
    brain = out / "brain"
    summarise_evaluations(folders, brain)
    summary, classes, facts = read_table(brain, "summary"), read_table(brain, "class_summary"), read_facts(brain)
    areas = read_table(brain, "area_summary")
    parts = [
        f"{facts['sections']} phantom sections of {SIDE_PX} x {SIDE_PX} px from seed {FIRST_SEED};"
        f" {', '.join(facts['ways'])}; {facts['trials']} trials.",
        summary_text(summary, classes, areas=areas),
    ]
    first = summary["segmenter"].iloc[0]
    mine = summary[
        (summary["kind"] == "intact") & (summary["reference"] == "original") & (summary["segmenter"] == first)
    ]
    for name in SHOWN[:4]:
        parts.append(f"### {name}: median error of a trial by mask fraction, %; cells by `{first}`")
        parts.append(bin_table(mine, name))
    rows = classes[(classes["kind"] == "intact") & (classes["filler"].isin([*facts["model_fillers"], "floor"]))]
    for name in dict.fromkeys(rows["bin"]):
        if name != ALL:
            parts.append(f"### Classes, {name} masked\n\n{class_table(rows[rows['bin'] == name])}")
    parts.append("### Kropp et al. 2024 (human brain, their model and classifier)")
    paper = [
        ["cell density, cell size: median error", "< 8 %"],
        ["class flips, masks of 5 to 50 %", "up to about 15 %"],
    ]
    parts.append(markdown(["", "paper"], [*paper, ["top-2 agreement", "> 98 %"]]))
    text = "\n\n".join(parts) + "\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    return text


def main() -> None:
    """Run the benchmark, or report on what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help="on intact tissue, over all sections")
    parser.add_argument("--artefact-trials", type=int, default=60, help="on artefacts, over all sections")
    parser.add_argument("--sections", type=int, default=20)
    parser.add_argument("--samplers", nargs="*", default=["timemap:steps=50"], help="beside the default")
    parser.add_argument("--sampler-trials", type=int, default=2, help="trials of each section and kind that those fill")
    parser.add_argument("--steps", type=int, default=25, help="of timemap; the demo's")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mend-only", action="store_true", help="only make and mend the trials")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--report", action="store_true", help="only report what the folder holds")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.only:
        first, step = map(int, args.only.split("/"))
        for number in range(first, args.sections, step):
            evaluate_phantom(number, args)
        return
    if not args.report:
        share_sections(args)
    if not args.mend_only:
        print(report(args.out))


if __name__ == "__main__":
    main()
