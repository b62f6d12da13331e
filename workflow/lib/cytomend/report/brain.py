"""What the page of all sections says: numbers over all of them, and a record of each for the table in the browser.

The records travel as one JSON object, in which a row is a list: 7,404 sections take 2 MB, a third of what named entries
would. Numbers are rounded to what the page shows; those of ``metrics.tsv`` are whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cytomend.costs import Hours
from cytomend.evaluation.measurement import FLOOR
from cytomend.evaluation.placement import INTACT, SMALL
from cytomend.evaluation.summary import ALL
from cytomend.evaluation.tables import read_facts, read_table
from cytomend.report.metrics import SectionMetrics

COMPARED = {"density": "cell density", "cell_area": "cell area"}
"""Statistics of an evaluation that the table shows."""
DIGITS = 5
SOURCE_CHARACTERS = 12
"""As many of a scan's hash stand in the name under which a browser keeps decisions."""


class SectionErrors(NamedTuple):
    """Median relative error of the small trials on a section's intact tissue, of 1, and that of the floor beside it."""

    density_error: float | None = None
    density_floor: float | None = None
    cell_area_error: float | None = None
    cell_area_floor: float | None = None

    @classmethod
    def read(cls, evaluation: Path) -> SectionErrors:
        """Read the errors of the section's sampler, as the first segmenter of `evaluate_section` sees them.

        Raises
        ------
        InputError
            If the evaluation is not whole.
        """
        summary = read_table(evaluation, "summary")
        if summary.empty:
            return cls()
        intact = (summary["kind"] == INTACT) & (summary["size"] == SMALL)
        of_all = (summary["bin"] == ALL) & intact & (summary["reference"] == "original")
        told = summary[of_all & (summary["segmenter"] == summary["segmenter"].iloc[0])]
        medians = dict(zip(zip(told["filler"], told["statistic"], strict=True), told["median_error"], strict=True))
        fillers = {"error": str(read_facts(evaluation)["filler"]), "floor": FLOOR}
        return cls(
            **{
                f"{short}_{kind}": _finite(medians.get((filler, statistic)))
                for short, statistic in COMPARED.items()
                for kind, filler in fillers.items()
            }
        )


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


class Row(NamedTuple):
    """A section's row: its numbers, the address of its page, what it took and cost, the errors of its trials."""

    section: SectionMetrics
    page: str
    hours: Hours
    cost: float | None
    errors: SectionErrors

    @property
    def way(self) -> str:
        """How it was mended."""
        own = self.section
        return f"{own.model} ({own.checkpoint_sha256[:12]}), {own.sampler}, {own.sampler_steps} steps"


class Totals(NamedTuple):
    """Numbers over all sections.

    ``ways`` are the different ways of mending, each with its number of sections; ``wrong`` the names and pages of those
    whose verdict does not hold.
    """

    sections: int
    mended_sections: int
    regions: int
    flagged: int
    to_review: int
    decided: int
    mended_px: int
    mended_share: float
    mended_mm2: float
    warned_sections: int
    wrong: list[tuple[str, str]]
    proved_sections: int
    evaluated_sections: int
    ways: list[tuple[str, int]]
    hours: Hours
    cost: float | None


def total(rows: Sequence[Row]) -> Totals:
    """Return the numbers over all sections."""
    sections, costs = [row.section for row in rows], [row.cost for row in rows if row.cost is not None]
    mended_px = sum(section.mended_px for section in sections)
    all_px = sum(section.shape[0] * section.shape[1] for section in sections)
    return Totals(
        sections=len(sections),
        mended_sections=sum(section.regions > 0 for section in sections),
        regions=sum(section.regions for section in sections),
        flagged=sum(section.flagged for section in sections),
        to_review=sum(section.regions_to_review for section in sections),
        decided=sum(section.regions_accepted + section.regions_left for section in sections),
        mended_px=mended_px,
        mended_share=mended_px / all_px if all_px else 0.0,
        mended_mm2=sum(section.mended_mm2 for section in sections),
        warned_sections=sum(bool(section.warnings) for section in sections),
        wrong=[(row.section.section, row.page) for row in rows if row.section.proved is False],
        proved_sections=sum(section.proved is True for section in sections),
        evaluated_sections=sum(section.evaluated for section in sections),
        ways=Counter(row.way for row in rows).most_common(),
        hours=sum((row.hours for row in rows), Hours()),
        cost=sum(costs) if costs else None,
    )


def brain_record(rows: Sequence[Row], thumbnail: str) -> dict[str, Any]:
    """Return what the script of the page must know.

    Parameters
    ----------
    rows : of all sections
    thumbnail : address of a section's small picture, from its page

    Returns
    -------
    dict
        ``columns`` names the entries of each of the ``rows``; in these, ``way``, ``stain`` and ``warnings`` are numbers
        of entries in the lists of that name: thousands of sections have few different ones.
    """
    lists = {
        "ways": _numbered(row.way for row in rows),
        "stains": _numbered(row.section.stain for row in rows),
        "warnings": _numbered(warning for row in rows for warning in row.section.warnings),
    }
    records = [_record(row, **lists) for row in rows]
    return {
        "thumbnail": thumbnail,
        "columns": list(records[0]) if records else [],
        "rows": [list(record.values()) for record in records],
        **{name: list(numbers) for name, numbers in lists.items()},
    }


def _record(
    row: Row, ways: Mapping[str, int], stains: Mapping[str, int], warnings: Mapping[str, int]
) -> dict[str, Any]:
    own = row.section
    height_px, width_px = own.shape
    numbers = {
        "width_mm": width_px * own.pixel_size_um / 1000,
        "height_mm": height_px * own.pixel_size_um / 1000,
        "mended_mm2": own.mended_mm2,
        "mended_share": own.mended_share,
        "gpu_hours": row.hours.gpu,
        "cpu_hours": row.hours.cpu,
        "cost": row.cost,
        **row.errors._asdict(),
    }
    return {
        "section": own.section,
        "page": row.page,
        "stain": stains[own.stain],
        "way": ways[row.way],
        "regions": own.regions,
        "flagged": own.flagged,
        "accepted": own.regions_accepted,
        "left": own.regions_left,
        "redrawn": own.regions_redrawn,
        "undecided": own.regions_undecided,
        **{name: None if value is None else float(f"{value:.{DIGITS}g}") for name, value in numbers.items()},
        "warnings": [warnings[warning] for warning in own.warnings],
        "source": own.source_blake2b[:SOURCE_CHARACTERS],
        "reviewed_until": own.reviewed_until,
    }


def _numbered(texts: Iterable[str]) -> dict[str, int]:
    """Return each different text with its number, in the order in which they come."""
    return {text: number for number, text in enumerate(dict.fromkeys(texts))}
