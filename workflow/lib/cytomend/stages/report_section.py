"""Write the page of one section, on which a neuroanatomist compares before and after and sees what is synthetic.

| file | what |
|---|---|
| ``index.html`` | the page, with the viewer's script in it: regions with their checks and decisions, provenance |
| ``images/`` | beside it: tiles (`cytomend.report.tiles`) in a folder named by the corrected section; overviews, |
| | figures, ``regions/NUMBER-before.png`` |
| ``metrics.json`` | beside it: the section's numbers for the brain's page |

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
| ``grafts`` | | copies of the section's own tissue |
| ``copied_px``, ``drawn_px`` | px | pixels of these copies, and pixels that the network drew |
| ``region_grafts`` | | of each region with copies, by its number: ``grafts``, ``copied_px``, ``drawn_px``, and |
| | | ``farthest_um``, the largest distance between a copy and its source; empty where all was drawn |
| ``grow_px``, ``window_px``, ``stride_px`` | px | margin around the annotation, the windows and their distance |
| ``source_blake2b``, ``mask_blake2b`` | | identity of the scan and of the grown mask |
| ``cytomend`` | | version that mended |
| ``evaluated`` | | whether the page shows an evaluation |
| ``proved`` | | whether the verdict on the corrected section holds; null without one |
| ``warnings`` | | sentences |
| ``flagged`` | | regions that look wrong |
| ``regions_accepted``, ``regions_left``, ``regions_redrawn``, ``regions_undecided`` | | what was decided of them |
| ``reviewed_until`` | UTC | by reviewer, the time of the last row in the decisions |
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from PIL import Image

from cytomend.costs import elapsed_s, shard_benchmark
from cytomend.decisions import section_decisions
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.heat import RAMP
from cytomend.regions.plan import Plan, SectionFacts
from cytomend.report.assets import Asset
from cytomend.report.comparison import write_pictures
from cytomend.report.corrected import CorrectedSection
from cytomend.report.decisions import decisions_shown
from cytomend.report.evaluation_shown import FIGURES, EvaluationShown
from cytomend.report.metrics import measure
from cytomend.report.origin import GraftOutlines, RegionOrigin, region_origin, source_boxes
from cytomend.report.outlines import left_outline, region_outline
from cytomend.report.overview import PLAIN_PX, THUMBNAIL_PX, draw_overview
from cytomend.report.pages import write_page
from cytomend.report.palette import COPIED_RGB, DRAWN_RGB
from cytomend.report.pictures import PREVIEW_QUALITY
from cytomend.report.regions import RegionFacts, largest_first, left_facts, region_facts
from cytomend.report.review import flagged_first, review_regions
from cytomend.report.tiles import TileIndex, TileWriter
from cytomend.report.viewer import Contours, Reviewed, ShownRegion, region_record, section_record, shares_of_time
from cytomend.segmentation.segmenters import open_segmenter
from cytomend.segmentation.stain import SectionStain, section_stain
from cytomend.stains import MEASURED
from cytomend.storage.edition import require_planned
from cytomend.storage.images import SectionImage, open_image
from cytomend.storage.publish import manifest_of, one_writer, publish, read_manifest, require_key, write_whole
from cytomend.verdict import Verdict

log = logging.getLogger(__name__)

TEMPLATE = "section.html.j2"
METRICS = "metrics.json"
IMAGES, OVERVIEW, THUMBNAIL = "images", "overview.webp", "thumbnail.webp"
STYLE = ("page.css", "viewer.css", "decisions.css")
SCRIPTS = ("viewer.js", "decisions.js")
VIEWER, LICENCE = "vendor/openseadragon/openseadragon.min.js", "vendor/openseadragon/LICENSE.txt"


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What the page shows; see the block ``report`` of ``workflow/schemas/config.schema.yaml``."""

    overview_px: int
    context_px: int
    crop_px: int
    pictures: int
    segmenter: str = "cpn"
    stain: str = MEASURED


def report_section(
    image_path: Path,
    plan_folder: Path,
    corrected: Path,
    settings: ReportSettings,
    out: Path,
    evaluation: Path | None = None,
    decisions: Path | None = None,
    benchmarks: Path | None = None,
    verdict: Verdict | None = None,
) -> Path:
    """Write the page of a section, its pictures and ``metrics.json`` beside it, and return the page.

    Parameters
    ----------
    image_path : the scan
    plan_folder, corrected : what `plan_section` and `blend_section` made of it
    settings : what is shown
    out : the page
    evaluation : what `evaluate_section` made of the section, if it was evaluated
    decisions : what reviewers decided, a table or a folder of tables
    benchmarks : folder where Snakemake writes what jobs took, if it did
    verdict : what was proved of the corrected section, if it was

    Raises
    ------
    InputError
        If scan, plan, corrected section and verdict do not belong together, or the segmenter is unknown.
    """
    plan = Plan.read(plan_folder)
    require_planned(image_path, manifest_of(plan_folder))
    facts, regions = plan.facts, region_facts(plan.regions)
    mended = CorrectedSection.open(corrected, facts)
    made = str(read_manifest(manifest_of(corrected))["sha256"])
    if verdict and verdict.corrected_sha256 != made:
        raise InputError(
            f"{corrected}: expected the section that the verdict speaks of ({verdict.corrected_sha256[:16]}...), found"
            f" another ({made[:16]}...); run `cytomend verify-section` on it"
        )
    said = decisions_shown(section_decisions(decisions, facts.section), plan, mended.provenance)
    with open_image(image_path) as image:
        # What the plan says of the scan comes first; opening it again may repeat some of it.
        warnings = tuple(dict.fromkeys((*facts.warnings, *image.warnings, *said.warnings)))
        stain = section_stain(image, plan.not_intact(), facts.value_range, settings.stain)
        reviewed = _most_urgent_first(list(_reviews(regions, image, mended, plan, stain, settings)))
        shown = [one.region for one in reviewed][: settings.pictures]
        origins = {one.number: region_origin(one.number, one.box, mended, facts.pixel_size_um) for one in regions}
        sources = source_boxes(mended, (origins[one.number] for one in shown))
        with one_writer(out.parent / IMAGES) as work:
            shutil.rmtree(work)
            # A page that is open while another is written must not show the other's tiles.
            tiled = made[:12]
            tiles = _write_images(work, tiled, shown, sources, image, mended, facts, settings, evaluation)
            publish(work, out.parent / IMAGES, {"section": facts.section})
    listed = [*_mended_regions(reviewed, len(shown), mended, facts, origins), *_left_regions(plan)]
    flagged = sum(one.looks_wrong for one in listed)
    metrics = measure(
        facts, regions, mended, origins, warnings, said, verdict, flagged=flagged, evaluated=bool(evaluation)
    )
    seconds = _seconds(plan, regions, benchmarks)
    records = [region_record(one, mended, facts, seconds.get(one.facts.number)) for one in listed]
    write_page(
        TEMPLATE,
        out,
        facts=facts,
        metrics=metrics,
        regions=regions,
        listed_regions=listed,
        flagged=flagged,
        native=len(shown),
        section={
            **section_record(facts, tiles, mended, settings.context_px, records),
            "folder": IMAGES,
            "tiled": f"{IMAGES}/{tiled}",
            "sampler": metrics.sampler,
        },
        folder=IMAGES,
        decisions=said,
        verdict=verdict,
        uncertainty=mended.uncertainty,
        heat_ramp=RAMP,
        origin_colours={"drawn": DRAWN_RGB, "copied": COPIED_RGB} if mended.origin else None,
        evaluation=EvaluationShown.read(evaluation, out, out.parent / IMAGES / FIGURES) if evaluation else None,
        provenance=mended.provenance,
        settings=asdict(settings),
        warnings=warnings,
        style=Asset.of(*STYLE),
        scripts=[Asset.licensed(VIEWER, LICENCE), *(Asset.of(name) for name in SCRIPTS)],
    )
    write_whole(out.with_name(METRICS), metrics.write)
    log.info(
        "section %s: %d regions, %d flagged, %d at full resolution, %d tiles: %s",
        facts.section,
        len(regions),
        flagged,
        len(shown),
        sum(map(len, tiles.before.values())),
        out,
    )
    return out


def _reviews(
    regions: list[RegionFacts],
    image: SectionImage,
    corrected: CorrectedSection,
    plan: Plan,
    stain: SectionStain,
    settings: ReportSettings,
) -> Iterator[Reviewed]:
    """Check one region after the other; of its cells only the packed contours are kept."""
    if not regions:
        return
    contours, ordered, segmenter = Contours(), largest_first(regions), open_segmenter(settings.segmenter)
    artefacts = plan.mask if plan.facts.left else None
    reviews = review_regions(ordered, image, corrected, plan.facts, segmenter, stain, artefacts=artefacts)
    for region, review in zip(ordered, reviews, strict=True):
        cells = contours.pack(review)
        yield Reviewed(region, replace(review, contours_before=(), contours_after=()), cells)


def _most_urgent_first(reviewed: list[Reviewed]) -> list[Reviewed]:
    by_number = {one.region.number: one for one in reviewed}
    return [by_number[review.region] for review in flagged_first(one.review for one in reviewed)]


def _write_images(
    work: Path,
    tiled: str,
    shown: list[RegionFacts],
    sources: list[Box],
    image: SectionImage,
    corrected: CorrectedSection,
    facts: SectionFacts,
    settings: ReportSettings,
    evaluation: Path | None,
) -> TileIndex:
    """Write all pictures into the work folder, tiles into one of this name, and return which tiles there are."""
    tiles = TileWriter(
        image=image,
        corrected=corrected,
        value_range=facts.value_range,
        shown={region.number for region in shown},
        overview_px=settings.overview_px,
        context_px=settings.context_px,
        folder=work / tiled,
        sources=sources,
    ).write()
    for region in shown:
        write_pictures(
            region, image, corrected, facts, work / "regions", context_px=settings.context_px, crop_px=settings.crop_px
        )
    for name, longest_px in ((OVERVIEW, PLAIN_PX), (THUMBNAIL, THUMBNAIL_PX)):
        Image.fromarray(draw_overview(corrected, facts, longest_px)).save(work / name, quality=PREVIEW_QUALITY)
    if evaluation:
        shutil.copytree(evaluation / FIGURES, work / FIGURES)
    return tiles


def _mended_regions(
    reviewed: Sequence[Reviewed],
    native: int,
    corrected: CorrectedSection,
    facts: SectionFacts,
    origins: Mapping[int, RegionOrigin],
) -> Iterator[ShownRegion]:
    """Outline the mended regions and their copies; the first regions are shown at full resolution."""
    outlines = GraftOutlines(corrected)
    for place, one in enumerate(reviewed):
        outline, origin = region_outline(one.region, corrected, facts), origins[one.region.number]
        grafts = outlines.pack(origin, one.region.box)
        yield ShownRegion(one.region, outline, reviewed=one, is_native=place < native, origin=origin, grafts=grafts)


def _left_regions(plan: Plan) -> Iterator[ShownRegion]:
    """Outline the regions that stay as they were scanned."""
    return (ShownRegion(region, left_outline(region, plan)) for region in left_facts(plan.facts))


def _seconds(plan: Plan, regions: list[RegionFacts], benchmarks: Path | None) -> dict[int, float | None]:
    """Return what mending each region took, as far as its shard's job says."""
    if benchmarks is None:
        return {}
    name = plan.facts.section
    took: dict[int, float | None] = {
        shard: elapsed_s(shard_benchmark(benchmarks, name, shard)) for shard in range(plan.facts.shards)
    }
    shards = {region.number: region.shard for region in regions if region.shard is not None}
    return shares_of_time({region.number: region.windows for region in regions}, shards, took)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--image", type=Path, required=True, help="scan of the section")
    parser.add_argument("--plan", type=Path, required=True, help="folder of the plan")
    parser.add_argument("--corrected", type=Path, required=True, help="corrected section (OME-Zarr)")
    parser.add_argument("--evaluation", type=Path, help="folder of its evaluation, if it has one")
    parser.add_argument("--verdict", type=Path, help="what `cytomend verify-section` says of the corrected section")
    parser.add_argument("--proved", metavar="KEY", help="refuse a verdict that was made from something else")
    parser.add_argument("--after", metavar="KEY", help="refuse a corrected section that was made from something else")
    parser.add_argument("--evaluated", metavar="KEY", help="refuse an evaluation that was made from something else")
    parser.add_argument("--decisions", type=Path, help="table of reviewers' decisions, or a folder of them")
    parser.add_argument("--benchmarks", type=Path, help="folder where Snakemake writes what jobs took, if it did")
    entries = ", ".join(field.name for field in fields(ReportSettings))
    parser.add_argument("--settings", required=True, help=f"JSON object with {entries}")
    parser.add_argument("--out", type=Path, required=True, help=f"the page; {IMAGES}, {METRICS} come beside it")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    require_key(args.corrected, args.after)
    if args.evaluation:
        require_key(args.evaluation, args.evaluated)
    page = report_section(
        args.image,
        args.plan,
        args.corrected,
        ReportSettings(**json.loads(args.settings)),
        args.out,
        args.evaluation,
        args.decisions,
        args.benchmarks,
        Verdict.read(args.verdict, args.proved) if args.verdict else None,
    )
    print(page)
