"""Write the table and the page of all sections.

Reads the ``metrics.json`` of every section and writes one page that links to every section's page, and ``metrics.tsv``,
tab-separated with a header, one row a section in the order given. Columns, always in this order:

| column | unit | what |
|---|---|---|
| ``section``, ``stain`` | | from the sheet of sections |
| ``height_px``, ``width_px`` | px | size of the scan |
| ``channels``, ``dtype`` | | of the scan |
| ``pixel_size_um`` | µm | side of a pixel |
| ``regions``, ``windows`` | | mended regions, and windows of the network laid over them |
| ``mended_px`` | px | generated pixels |
| ``mended_share`` | of 1 | their share of all pixels |
| ``mended_mm2`` | mm² | their area |
| ``largest_region_um2`` | µm² | area of the largest region, 0 without any |
| ``model``, ``checkpoint_sha256`` | | the network |
| ``sampler``, ``sampler_steps``, ``sampler_jump``, ``sampler_resample`` | | how it drew |
| ``network_calls`` | | calls a window |
| ``seed`` | | of the noise |
| ``samples`` | | how often each region was mended |
| ``precision`` | | of the network's arithmetic |
| ``uncertainty_grey`` | grey values | mean deviation of mended pixels between samples; empty with one sample |
| ``grafts`` | | copies of the section's own tissue |
| ``copied_px``, ``drawn_px`` | px | their pixels, and pixels that the network drew |
| ``grow_px``, ``window_px``, ``stride_px`` | px | margin around the annotation, the windows and their distance |
| ``source_blake2b``, ``mask_blake2b`` | | identity of the scan and of the grown mask |
| ``cytomend`` | | version that mended |
| ``proved`` | | whether the verdict on the corrected section holds; empty without one |
| ``flagged`` | | regions that look wrong |
| ``regions_accepted``, ``regions_left``, ``regions_redrawn``, ``regions_undecided`` | | what was decided of them |
| ``density_error``, ``density_floor`` | of 1 | median error of cell density in small intact trials, and of the floor |
| ``cell_area_error``, ``cell_area_floor`` | of 1 | the same of the cells' areas; all four empty without such trials |
| ``gpu_hours`` | h | GPU time of the finished jobs that mended regions and trials |
| ``cpu_hours`` | h | processor time of those that had no GPU |
| ``cost`` | ``brain.currency`` | of the GPU hours; empty without a price |
| ``warnings`` | | sentences, parted by `` | `` |

The trials of all sections' evaluations go into one folder, with summaries and figures over all of them
(`cytomend.stages.evaluate_section`).
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cytomend.costs import Hours, section_hours
from cytomend.errors import InputError
from cytomend.evaluation.placement import INTACT
from cytomend.evaluation.summary import summaries
from cytomend.evaluation.tables import (
    FACTS,
    GATHERED,
    SUMMED,
    TableFiles,
    cell_areas,
    pieces,
    read_facts,
    read_table,
    total_facts,
    write_tables,
)
from cytomend.report.archive import write_rst_captions
from cytomend.report.assets import Asset
from cytomend.report.brain import Row, SectionErrors, brain_record, total
from cytomend.report.evaluation_drawing import draw_evaluation
from cytomend.report.evaluation_shown import FIGURES, EvaluationShown
from cytomend.report.metrics import SectionMetrics
from cytomend.report.pages import link, write_page
from cytomend.sheet import named_rows
from cytomend.storage.publish import one_writer, publish, require_intact, write_whole

log = logging.getLogger(__name__)

TEMPLATE = "brain.html.j2"
STYLE, SCRIPT = ("page.css", "brain.css"), "brain.js"
THUMBNAIL = "images/thumbnail.webp"
"""From a section's page."""
COLUMNS = (
    "section",
    "stain",
    "height_px",
    "width_px",
    "channels",
    "dtype",
    "pixel_size_um",
    "regions",
    "windows",
    "mended_px",
    "mended_share",
    "mended_mm2",
    "largest_region_um2",
    "model",
    "checkpoint_sha256",
    "sampler",
    "sampler_steps",
    "sampler_jump",
    "sampler_resample",
    "network_calls",
    "seed",
    "samples",
    "precision",
    "uncertainty_grey",
    "grafts",
    "copied_px",
    "drawn_px",
    "grow_px",
    "window_px",
    "stride_px",
    "source_blake2b",
    "mask_blake2b",
    "cytomend",
    "proved",
    "flagged",
    "regions_accepted",
    "regions_left",
    "regions_redrawn",
    "regions_undecided",
    *SectionErrors._fields,
    "gpu_hours",
    "cpu_hours",
    "cost",
    "warnings",
)


@dataclass(frozen=True, slots=True)
class BrainSettings:
    """What the page shows; see the block ``brain`` of ``workflow/schemas/config.schema.yaml``."""

    gpu_hour_cost: float | None = None
    currency: str = "EUR"

    def cost(self, hours: Hours) -> float | None:
        """Return what hours cost, or None without a price."""
        return None if self.gpu_hour_cost is None else hours.gpu * self.gpu_hour_cost


def summarise_brain(
    metrics: Sequence[Path],
    pages: Sequence[Path],
    out_table: Path,
    out_page: Path,
    evaluations: Sequence[Path] = (),
    out_evaluation: Path | None = None,
    hours: Mapping[str, Hours] | None = None,
    settings: BrainSettings | None = None,
) -> Path:
    """Join the numbers and the evaluations of all sections into tables and a page; return the page.

    Parameters
    ----------
    metrics, pages : of each section, in the same order
    out_table, out_page : the table and the page
    evaluations : of the sections that were evaluated
    out_evaluation : folder for what is said of all their trials together
    hours : what mending took, by section, as far as it is known
    settings : what is shown of its cost

    Raises
    ------
    InputError
        If metrics and pages do not pair, a file is damaged, or a section occurs twice.
    """
    if len(metrics) != len(pages):
        raise InputError(f"expected a page for each of the {len(metrics)} metrics, found {len(pages)} pages")
    sections = [SectionMetrics.read(path) for path in metrics]
    _refuse_doubles(sections, metrics)
    took, settings = hours or {}, settings or BrainSettings()
    costs = [(own := took.get(section.section, Hours()), settings.cost(own)) for section in sections]
    errors = {str(read_facts(folder)["section"]): SectionErrors.read(folder) for folder in evaluations}
    rows = [
        Row(section, link(page, out_page), *cost, errors.get(section.section, SectionErrors()))
        for section, page, cost in zip(sections, pages, costs, strict=True)
    ]
    if out_evaluation is not None:
        summarise_evaluations(evaluations, out_evaluation)
    write_whole(out_table, lambda path: _write_table(path, rows))
    write_page(
        TEMPLATE,
        out_page,
        totals=total(rows),
        currency=settings.currency,
        brain=brain_record(rows, THUMBNAIL),
        table=link(out_table, out_page),
        evaluation=EvaluationShown.read(out_evaluation, out_page) if evaluations and out_evaluation else None,
        style=Asset.of(*STYLE),
        script=Asset.of(SCRIPT),
    )
    log.info("%d sections: %s, %s", len(sections), out_table, out_page)
    return out_page


def summarise_evaluations(evaluations: Sequence[Path], out: Path) -> Path:
    """Write the summaries and figures of all trials of all sections into a folder and return its manifest."""
    for folder in evaluations:
        require_intact(folder)
    facts = [read_facts(folder) for folder in evaluations]
    if len({told["section"] for told in facts}) < len(facts):
        raise InputError("a section is evaluated twice; give each once")
    with one_writer(out) as work:
        shutil.rmtree(work)
        (work / FIGURES).mkdir(parents=True)
        with TableFiles(work, GATHERED) as files:
            for name in GATHERED:
                for piece in (piece for folder in evaluations for piece in pieces(folder, name)):
                    files.add(name, piece)
        measured = {name: read_table(work, name) for name in SUMMED}
        tables = summaries(measured, pieces(work, "cells"))
        write_tables(work, tables, files.columns)
        segmenter = next(iter(measured["measurements"]["segmenter"]), "")
        record = total_facts(facts)
        draw_evaluation(
            work / FIGURES,
            {**measured, **tables},
            cell_areas(work, segmenter, INTACT),
            segmenter,
            record["model_fillers"],
            record["patches"]["patch_um"],
        )
        write_rst_captions(work / FIGURES)
        (work / FACTS).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return publish(work, out, {"sections": len(evaluations)})


def _write_table(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(
            file, COLUMNS, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
        )
        table.writeheader()
        table.writerows(map(_cells, rows))


def _cells(row: Row) -> dict[str, Any]:
    height_px, width_px = row.section.shape
    record = {
        **{field.name: getattr(row.section, field.name) for field in fields(row.section)},
        "height_px": height_px,
        "width_px": width_px,
        **row.errors._asdict(),
        "gpu_hours": round(row.hours.gpu, 4),
        "cpu_hours": round(row.hours.cpu, 4),
        "cost": None if row.cost is None else round(row.cost, 4),
        "warnings": " | ".join(row.section.warnings),
    }
    # A tab or a line break in a name would shift the cells behind it.
    return {key: "" if record[key] is None else " ".join(str(record[key]).split()) for key in COLUMNS}


def _refuse_doubles(sections: Sequence[SectionMetrics], metrics: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for section, path in zip(sections, metrics, strict=True):
        if section.section in seen:
            raise InputError(
                f"{path}: section {section.section!r} stands in {seen[section.section]} already; give each section once"
            )
        seen[section.section] = path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    # The sheet, and no list of files: a shell takes no command beyond 128 KiB, and a brain has thousands of sections.
    parser.add_argument("--sheet", type=Path, required=True, help="sheet of sections (.tsv)")
    parser.add_argument("--results", type=Path, required=True, help="folder with the results of all of them")
    parser.add_argument("--benchmarks", type=Path, help="folder where Snakemake writes what jobs took, if it did")
    entries = ", ".join(field.name for field in fields(BrainSettings))
    parser.add_argument("--settings", default="{}", help=f"JSON object with {entries}")
    parser.add_argument("--out-table", type=Path, required=True, help="table of all sections (.tsv)")
    parser.add_argument("--out-evaluation", type=Path, help="folder for what is said of all trials")
    parser.add_argument("--out-page", type=Path, required=True, help="page of all sections (.html)")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    settings, rows = BrainSettings(**json.loads(args.settings)), named_rows(args.sheet)
    names = sorted(rows)
    folders = [args.results / name for name in names]
    metrics = [folder / "report" / "metrics.json" for folder in folders]
    # Of a section that is evaluated no more, a folder may be left.
    evaluations = [
        folder / "evaluation"
        for folder, path in zip(folders, metrics, strict=True)
        if SectionMetrics.read(path).evaluated
    ]
    hours = (
        {name: section_hours(name, rows[name]["shards"], args.results, args.benchmarks) for name in names}
        if args.benchmarks
        else {}
    )
    pages = [folder / "report" / "index.html" for folder in folders]
    print(
        summarise_brain(
            metrics, pages, args.out_table, args.out_page, evaluations, args.out_evaluation, hours, settings
        )
    )
