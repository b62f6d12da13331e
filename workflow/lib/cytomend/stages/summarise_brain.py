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
| ``grow_px``, ``window_px``, ``stride_px`` | px | margin around the annotation, the windows and their distance |
| ``source_blake2b``, ``mask_blake2b`` | | identity of the scan and of the grown mask |
| ``cytomend`` | | version that mended |
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
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cytomend.errors import InputError
from cytomend.evaluation.summary import summaries
from cytomend.evaluation.tables import FACTS, GATHERED, joined, read_facts, read_table, total_facts, write_tables
from cytomend.report.evaluation_drawing import draw_evaluation
from cytomend.report.evaluation_shown import FIGURES, EvaluationShown
from cytomend.report.metrics import SectionMetrics
from cytomend.report.pages import link, write_page
from cytomend.storage.publish import one_writer, publish, require_intact, write_whole

log = logging.getLogger(__name__)

TEMPLATE = "brain.html.j2"
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
    "grow_px",
    "window_px",
    "stride_px",
    "source_blake2b",
    "mask_blake2b",
    "cytomend",
    "warnings",
)


@dataclass(frozen=True, slots=True)
class Totals:
    """Numbers over all sections; ``settings`` are the different ways of mending, each with its number of sections."""

    sections: int
    mended_sections: int
    regions: int
    mended_px: int
    mended_share: float
    mended_mm2: float
    warned_sections: int
    settings: list[tuple[str, int]]


def summarise_brain(
    metrics: Sequence[Path],
    pages: Sequence[Path],
    out_table: Path,
    out_page: Path,
    evaluations: Sequence[Path] = (),
    out_evaluation: Path | None = None,
) -> Path:
    """Join the numbers and the evaluations of all sections into tables and a page; return the page.

    Parameters
    ----------
    metrics, pages : of each section, in the same order
    out_table, out_page : the table and the page
    evaluations : of the sections that were evaluated
    out_evaluation : folder for what is said of all their trials together

    Raises
    ------
    InputError
        If metrics and pages do not pair, a file is damaged, or a section occurs twice.
    """
    if len(metrics) != len(pages):
        raise InputError(f"expected a page for each of the {len(metrics)} metrics, found {len(pages)} pages")
    sections = [SectionMetrics.read(path) for path in metrics]
    _refuse_doubles(sections, metrics)
    rows = ((section, link(page, out_page)) for section, page in zip(sections, pages, strict=True))
    if out_evaluation is not None:
        summarise_evaluations(evaluations, out_evaluation)
    write_whole(out_table, lambda path: _write_table(path, sections))
    write_page(
        TEMPLATE,
        out_page,
        totals=total(sections),
        rows=rows,
        table=link(out_table, out_page),
        evaluation=EvaluationShown.read(out_evaluation, out_page) if evaluations and out_evaluation else None,
    )
    log.info("%d sections: %s, %s", len(sections), out_table, out_page)
    return out_page


def summarise_evaluations(evaluations: Sequence[Path], out: Path) -> Path:
    """Write the summaries and figures of all trials of all sections into a folder and return its manifest."""
    for folder in evaluations:
        require_intact(folder)
    facts = [read_facts(folder) for folder in evaluations]
    if len({told["section"] for told in facts}) < len(facts):
        raise InputError("--evaluations: a section is evaluated twice; give each once")
    with one_writer(out) as work:
        shutil.rmtree(work)
        (work / FIGURES).mkdir(parents=True)
        tables = {name: joined(name, [read_table(folder, name) for folder in evaluations]) for name in GATHERED}
        tables |= summaries(tables)
        write_tables(work, tables)
        segmenters = list(dict.fromkeys(tables["measurements"]["segmenter"]))
        record = total_facts(facts)
        draw_evaluation(work / FIGURES, tables, segmenters[0] if segmenters else "", record["model_fillers"])
        (work / FACTS).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return publish(work, out, {"sections": len(evaluations)})


def total(sections: Sequence[SectionMetrics]) -> Totals:
    """Return the numbers over all sections."""
    mended_px = sum(section.mended_px for section in sections)
    all_px = sum(section.shape[0] * section.shape[1] for section in sections)
    ways = Counter(
        f"{section.model} ({section.checkpoint_sha256[:12]}), {section.sampler}, {section.sampler_steps} steps"
        for section in sections
    )
    return Totals(
        sections=len(sections),
        mended_sections=sum(section.regions > 0 for section in sections),
        regions=sum(section.regions for section in sections),
        mended_px=mended_px,
        mended_share=mended_px / all_px if all_px else 0.0,
        mended_mm2=sum(section.mended_mm2 for section in sections),
        warned_sections=sum(bool(section.warnings) for section in sections),
        settings=ways.most_common(),
    )


def _write_table(path: Path, sections: Iterable[SectionMetrics]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(
            file, COLUMNS, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
        )
        table.writeheader()
        table.writerows(_row(section) for section in sections)


def _row(section: SectionMetrics) -> dict[str, Any]:
    height_px, width_px = section.shape
    record = {**asdict(section), "height_px": height_px, "width_px": width_px, "warnings": " | ".join(section.warnings)}
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
    # A shell takes no command of more than 128 KiB, and a brain has thousands of sections: @FILE stands for its lines.
    parser.fromfile_prefix_chars = "@"
    parser.add_argument(
        "--metrics",
        type=Path,
        nargs="+",
        required=True,
        help="metrics.json of every section, or @FILE",
    )
    parser.add_argument(
        "--pages", type=Path, nargs="+", required=True, help="page of every section, in the same order, or @FILE"
    )
    parser.add_argument("--out-table", type=Path, required=True, help="table of all sections (.tsv)")
    parser.add_argument(
        "--evaluations", type=Path, nargs="*", default=[], help="folders of the sections' evaluations, or @FILE"
    )
    parser.add_argument("--out-evaluation", type=Path, help="folder for what is said of all trials")
    parser.add_argument("--out-page", type=Path, required=True, help="page of all sections (.html)")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    print(
        summarise_brain(args.metrics, args.pages, args.out_table, args.out_page, args.evaluations, args.out_evaluation)
    )
