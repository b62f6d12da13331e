"""Write the page of one section, on which a neuroanatomist compares before and after and sees what is synthetic.

| file | what |
|---|---|
| ``index.html`` | the page, one file that needs no other: overview, regions before and after, provenance |
| ``metrics.json`` | beside it: the section's numbers for the brain's page, and a ``thumbnail`` (``data:`` address) |

Entries of ``metrics.json``:

| entry | unit | what |
|---|---|---|
| ``section``, ``stain`` | | from the sheet of sections |
| ``shape`` | px | height and width |
| ``channels``, ``dtype`` | | of the scan |
| ``pixel_size_um`` | µm | side of a pixel |
| ``regions`` | | mended regions |
| ``windows`` | | windows of the network laid over them |
| ``mended_px``, ``mended_share``, ``mended_mm2`` | px, of 1, mm² | generated pixels, their share, their area |
| ``largest_region_um2`` | µm² | 0 without any region |
| ``model``, ``checkpoint_sha256`` | | the network |
| ``sampler``, ``sampler_steps``, ``sampler_jump``, ``sampler_resample`` | | how it drew |
| ``network_calls`` | | calls a window |
| ``seed`` | | of the noise |
| ``samples`` | | how often each region was mended |
| ``precision`` | | of the network's arithmetic |
| ``uncertainty_grey`` | grey values | mean standard deviation of mended pixels over the samples; null with one sample |
| ``region_uncertainty_grey`` | grey values | the same by region number; empty with one sample |
| ``grow_px``, ``window_px``, ``stride_px`` | px | margin around the annotation, the windows and their distance |
| ``source_blake2b``, ``mask_blake2b`` | | identity of the scan and of the grown mask |
| ``cytomend`` | | version that mended |
| ``evaluated`` | | whether the page shows an evaluation |
| ``warnings`` | | sentences |
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cytomend.heat import RAMP
from cytomend.regions.plan import Plan, SectionFacts
from cytomend.report.comparison import Comparison, compare
from cytomend.report.corrected import CorrectedSection
from cytomend.report.evaluation_shown import EvaluationShown
from cytomend.report.metrics import measure
from cytomend.report.overview import draw_overview
from cytomend.report.pages import write_page
from cytomend.report.regions import RegionFacts, largest_first, region_facts
from cytomend.storage.edition import require_planned
from cytomend.storage.images import SectionImage, open_image
from cytomend.storage.publish import manifest_of, require_key, write_whole

log = logging.getLogger(__name__)

TEMPLATE = "section.html.j2"
METRICS = "metrics.json"


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What the page shows; see the block ``report`` of ``workflow/schemas/config.schema.yaml``."""

    overview_px: int
    context_px: int
    crop_px: int
    pictures: int


def report_section(
    image_path: Path,
    plan_folder: Path,
    corrected: Path,
    settings: ReportSettings,
    out: Path,
    evaluation: Path | None = None,
) -> Path:
    """Write the page of a section, ``metrics.json`` beside it, and return the page.

    Parameters
    ----------
    image_path : the scan
    plan_folder, corrected : what `plan_section` and `blend_section` made of it
    settings : what is shown
    out : the page
    evaluation : what `evaluate_section` made of the section, if it was evaluated

    Raises
    ------
    InputError
        If scan, plan and corrected section do not belong together.
    """
    plan = Plan.read(plan_folder)
    require_planned(image_path, manifest_of(plan_folder))
    facts, regions = plan.facts, region_facts(plan.regions)
    mended = CorrectedSection.open(corrected, facts)
    overview = draw_overview(mended, facts, regions, settings.overview_px)
    shown = largest_first(regions)[: settings.pictures]
    with open_image(image_path) as image:
        # What the plan says of the scan comes first; opening it again may repeat some of it.
        warnings = tuple(dict.fromkeys((*facts.warnings, *image.warnings)))
        metrics = measure(facts, regions, mended, warnings, overview.thumbnail.uri, evaluated=evaluation is not None)
        write_page(
            TEMPLATE,
            out,
            facts=facts,
            metrics=metrics,
            overview=overview,
            regions=regions,
            shown={region.number for region in shown},
            comparisons=_comparisons(shown, image, mended, facts, settings),
            uncertainty=mended.uncertainty,
            heat_ramp=RAMP,
            evaluation=EvaluationShown.read(evaluation, out) if evaluation else None,
            provenance=mended.provenance,
            settings=asdict(settings),
            warnings=warnings,
        )
    write_whole(out.with_name(METRICS), metrics.write)
    log.info("section %s: %d regions, %d with pictures: %s", facts.section, len(regions), len(shown), out)
    return out


def _comparisons(
    shown: list[RegionFacts],
    image: SectionImage,
    corrected: CorrectedSection,
    facts: SectionFacts,
    settings: ReportSettings,
) -> Iterator[Comparison]:
    """Yield before and after of each region, made when the page has come to it."""
    return (
        compare(region, image, corrected, facts, context_px=settings.context_px, crop_px=settings.crop_px)
        for region in shown
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--image", type=Path, required=True, help="scan of the section")
    parser.add_argument("--plan", type=Path, required=True, help="folder of the plan")
    parser.add_argument("--corrected", type=Path, required=True, help="corrected section (OME-Zarr)")
    parser.add_argument("--evaluation", type=Path, help="folder of its evaluation, if it has one")
    parser.add_argument("--after", metavar="KEY", help="refuse a corrected section that was made from something else")
    parser.add_argument("--evaluated", metavar="KEY", help="refuse an evaluation that was made from something else")
    entries = ", ".join(field.name for field in fields(ReportSettings))
    parser.add_argument("--settings", required=True, help=f"JSON object with {entries}")
    parser.add_argument("--out", type=Path, required=True, help=f"the page; {METRICS} is written beside it")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    require_key(args.corrected, args.after)
    if args.evaluation:
        require_key(args.evaluation, args.evaluated)
    settings = ReportSettings(**json.loads(args.settings))
    print(report_section(args.image, args.plan, args.corrected, settings, args.out, args.evaluation))
