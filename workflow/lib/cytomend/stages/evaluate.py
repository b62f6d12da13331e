"""Evaluate the mending of one scan without a workflow, and print the summary.

Writes what `cytomend.stages.evaluate_section` writes. Without a mask, all of the scan counts as intact.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from cytomend.errors import InputError
from cytomend.evaluation.tables import read_table
from cytomend.report.evaluation_text import summary_text
from cytomend.settings import checked
from cytomend.sheet import SectionSettings
from cytomend.stages.evaluate_section import EvaluateSettings, Sources, check_sources, evaluate_section, open_parts
from cytomend.stages.mend import annotations_in, section_of
from cytomend.stages.mend_shard import Machine, MendSettings, add_machine_arguments
from cytomend.stages.mend_trials import TrialSettings, mend_trials
from cytomend.stages.plan_section import PlanSettings, plan_section
from cytomend.storage.frames import add_frame_argument, framed
from cytomend.storage.images import SUPPORTED
from cytomend.storage.publish import locked, manifest_of, refuse_over

UNDAMAGED = {"type": "FeatureCollection", "features": []}
LISTS = ("segmenters", "fillers", "samplers")
NUMBERS = ("trials", "artefact_trials", "patch_trials", "patch_um", "windows", "sampler_trials")


def evaluate(section: SectionSettings, sources: Sources, machine: Machine, out: Path) -> Path:
    """Plan and evaluate one scan; return the folder of the evaluation.

    An interrupted evaluation goes on when it is called with the same settings.
    """
    work = out.with_name(f".{out.name}.evaluating")
    settings = EvaluateSettings(**section.evaluate)
    open_parts(settings)  # a wrong name is told before hours of mending
    with locked(work):
        value_range = section.plan["value_range"]
        plan_section(
            section.image,
            _annotations(section, work),
            PlanSettings(**{**section.plan, "value_range": value_range and tuple(value_range)}),
            work / "plan",
        )
        check_sources(sources, work / "plan")
        mend_trials(
            section.image,
            work / "plan",
            section.model,
            MendSettings(**section.mend),
            TrialSettings(**section.trials),
            machine,
            work / "trials.zarr",
        )
        evaluate_section(sources, work / "plan", work / "trials.zarr", settings, machine.threads, out)
        shutil.rmtree(work)
    return out


def _annotations(section: SectionSettings, work: Path) -> Sequence[Path]:
    """Return the annotations, or one without damage if none is given."""
    if section.annotations != (Path(),):
        return annotations_in(section, work)
    work.mkdir(parents=True, exist_ok=True)
    empty = work / "undamaged.geojson"
    empty.write_text(json.dumps(UNDAMAGED), encoding="utf-8")
    return [empty]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help=f"scan: {SUPPORTED}")
    parser.add_argument(
        "--mask", type=Path, nargs="+", action="extend", help="artefacts, which trials keep off (default: none)"
    )
    parser.add_argument("--truth", type=Path, help="the same section before it was damaged, if that is known")
    parser.add_argument("--cells", type=Path, help="its cells (Parquet), if they are known")
    parser.add_argument("--out", type=Path, required=True, help="folder of the evaluation")
    parser.add_argument("--trials", type=int, default=50, help="trials on small patches (default: 50)")
    parser.add_argument("--artefact-trials", type=int, help="trials on artefacts, if the truth is known (default: 8)")
    parser.add_argument("--patch-trials", type=int, help="trials on patches as large as the paper's (default: 0)")
    parser.add_argument("--patch-um", type=float, help="side of these patches in µm (default: 1000, which is 1 mm²)")
    parser.add_argument("--windows", type=int, help="windows along the side of a small patch (default: 2)")
    parser.add_argument("--pixel-size-um", type=float, help="side of a pixel in µm (default: from the metadata)")
    add_frame_argument(parser)
    parser.add_argument("--model", help="bundled model or checkpoint (default: tiny)")
    parser.add_argument("--fill", choices=["graft", "draw"], help="how to fill what is evaluated (default: graft)")
    parser.add_argument("--sampler", help="the sampler to evaluate (default: timemap)")
    parser.add_argument("--steps", type=int, help="its steps")
    parser.add_argument("--seed", type=int, help="seed of the noise and of the masks (default: 0)")
    parser.add_argument("--precision", help="of the network: bfloat16 or float32 (default: bfloat16)")
    parser.add_argument("--grow-px", type=int, help="margin in px around the mask (default: 3)")
    parser.add_argument("--max-covered", type=float, help="share of the tissue that masks may cover (default: 0.5)")
    parser.add_argument("--include-class", action="append", metavar="NAME", help="annotations of this class are damage")
    parser.add_argument("--exclude-class", action="append", metavar="NAME", help="annotations of this class are none")
    parser.add_argument(
        "--samplers", nargs="*", action="extend", help="more samplers: NAME, NAME:setting=value,... or module:name"
    )
    parser.add_argument("--sampler-trials", type=int, help="trials that those fill (default: 8)")
    parser.add_argument("--segmenters", nargs="+", action="extend", help="cpn, classical, a checkpoint or module:name")
    parser.add_argument("--stain", help="by which cells of RGB are seen: measured, luminance, STAIN[/COUNTERSTAIN]")
    parser.add_argument("--classifier", help="layers, a checkpoint, module:name, or none")
    parser.add_argument(
        "--fillers", nargs="*", action="extend", help="biharmonic, nearest tissue, local mean or module:name"
    )
    parser.add_argument("--realism", action="store_true", help="train a judge to tell fills from originals")
    parser.add_argument("--overwrite", action="store_true", help="replace the evaluation in OUT")
    add_machine_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    refuse_over(args.out, [args.image, *(args.mask or []), args.truth, args.cells])
    args.mask = args.mask or [Path()]
    if args.out.exists() and not manifest_of(args.out).exists():
        raise InputError(f"--out {args.out}: exists and is no evaluation; choose another name")
    if args.out.exists() and not args.overwrite:
        raise InputError(f"--out {args.out}: exists already; choose another name, or give --overwrite")
    given = {key: getattr(args, key) for key in (*LISTS, *NUMBERS, "seed", "stain") if getattr(args, key) is not None}
    if args.realism:
        given["realism"] = True
    if args.classifier is not None:
        given["classifier"] = None if args.classifier == "none" else args.classifier
    precision = {} if args.precision is None else {"precision": args.precision}
    config = checked({"mend": precision, "evaluate": given}, "config", "command line")
    machine = Machine.of(args.device, args.threads, args.batch_windows)
    evaluate(
        section_of(args, config), Sources(framed(args.image, args.frame), args.truth, args.cells), machine, args.out
    )
    names = ("summary", "class_summary", "colour_summary", "area_summary", "realism_summary")
    print(summary_text(*(read_table(args.out, name) for name in names)))
    print(args.out)
