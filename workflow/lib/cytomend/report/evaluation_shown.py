"""What a page shows of an evaluation: a line a filler, and the figures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd

from cytomend.errors import InputError
from cytomend.evaluation.measurement import ORIGINAL
from cytomend.evaluation.placement import ARTEFACT, INTACT, LARGE, SIZES
from cytomend.evaluation.summary import ALL
from cytomend.evaluation.tables import read_facts, read_table
from cytomend.report.pages import link

FIGURES = "figures"
CAPTIONS = "captions.json"
SHOWN = ("cell density", "cell area", "neighbour distance", "close pairs", "rim matched", "grey mean", "grey std")
FEWEST = 5
"""Trials below which an interval says nothing."""
TITLES = {
    "errors": "Errors against how much is masked",
    "errors-truth": "Errors against the known cells",
    "errors-artefact": "Errors under the artefacts themselves",
    "classes": "Classes before and after",
    "distributions": "Density and size of cells",
    "arrangement": "Arrangement of cells",
    "exemplars": "Some trials",
}


class Share(NamedTuple):
    """A number in per cent with its interval, or nothing where it is not defined."""

    value: float
    low: float
    high: float
    trials: int
    signed: bool = False

    @property
    def text(self) -> str:
        """The number alone."""
        return self._of(self.value) if np.isfinite(self.value) else "–"

    @property
    def interval(self) -> str:
        """Its interval; nothing where that would say nothing."""
        if self.trials < FEWEST or not np.isfinite(self.value):
            return ""
        return f"{self._of(self.low)} to {self._of(self.high)}"

    def _of(self, share: float) -> str:
        return f"{100 * share:{'+' if self.signed else ''}.1f}"


class FillerLine(NamedTuple):
    """One filler: errors of all trials together and median errors by statistic, flips and top-2 agreement."""

    filler: str
    trials: int
    pooled: dict[str, Share]
    medians: dict[str, Share]
    flips: Share | None
    top2: Share | None


class ColourLine(NamedTuple):
    """How far one filler shifts the channels, in values of the scan: each with its interval, as text."""

    size: str
    kind: str
    filler: str
    trials: int
    shifts: dict[str, tuple[str, str]]


class EvaluationFigure(NamedTuple):
    """A figure as a page shows it, by its address there, and the address of its file among the results."""

    name: str
    title: str
    caption: str
    src: str
    href: str


class EvaluationLines(NamedTuple):
    """A table: how large its patches are, where its trials lie and what errors are taken against."""

    size: str
    kind: str
    reference: str
    lines: list[FillerLine]


@dataclass(frozen=True, slots=True)
class EvaluationShown:
    """An evaluation on a page.

    ``cells`` is how many cells all masks on intact tissue hold in the originals, by size of the patches; ``large`` says
    how large a large patch is, ``folder`` is the address of the tables.
    """

    facts: dict[str, Any]
    segmenter: str
    statistics: list[str]
    cells: dict[str, int]
    large: str
    tables: list[EvaluationLines]
    colours: list[ColourLine]
    figures: list[EvaluationFigure]
    folder: str

    @classmethod
    def read(cls, folder: Path, page: Path, beside: Path | None = None) -> Self:
        """Read what `evaluate_section` or `summarise_brain` wrote, to be shown on a page.

        Parameters
        ----------
        folder : of the evaluation
        page : on which it is shown
        beside : folder beside the page that holds copies of the figures; without one, its own are shown

        Raises
        ------
        InputError
            If it is not whole.
        """
        summary, classes, facts = read_table(folder, "summary"), read_table(folder, "class_summary"), read_facts(folder)
        large = square_mm(facts["patches"]["patch_um"])
        segmenter = str(summary["segmenter"].iloc[0]) if len(summary) else ""
        shown = summary[(summary["bin"] == ALL) & (summary["segmenter"] == segmenter)]
        return cls(
            facts=facts,
            large=large,
            segmenter=segmenter,
            cells=_original_cells(folder, segmenter),
            statistics=[name for name in SHOWN if name in set(shown["statistic"])],
            tables=[
                EvaluationLines(size, kind, reference, lines)
                for size in SIZES
                for kind, reference in ((INTACT, "original"), (ARTEFACT, "original"), (ARTEFACT, "truth"))
                if (lines := _lines(shown[shown["size"] == size], classes[classes["size"] == size], kind, reference))
            ],
            colours=_colours(read_table(folder, "colour_summary")),
            figures=_figures(folder, page, beside, large),
            folder=link(folder, page),
        )


def _original_cells(folder: Path, segmenter: str) -> dict[str, int]:
    """Return how many cells all masks on intact tissue together hold in the originals, by size of the patches."""
    rows = read_table(folder, "measurements")
    own = rows[(rows["filler"] == ORIGINAL) & (rows["segmenter"] == segmenter) & (rows["kind"] == INTACT)]
    return {size: int(own.loc[own["size"] == size, "cells"].sum()) for size in SIZES}


def _lines(summary: pd.DataFrame, classes: pd.DataFrame, kind: str, reference: str) -> list[FillerLine]:
    part = summary[(summary["kind"] == kind) & (summary["reference"] == reference)]
    of_kind = classes[(classes["bin"] == ALL) & (classes["kind"] == kind)].set_index("filler")
    lines = []
    for filler, rows in part.groupby("filler", sort=False):
        pooled, medians = {}, {}
        for _, r in rows.iterrows():
            pooled[r["statistic"]] = Share(
                r["pooled_error"], r["pooled_low"], r["pooled_high"], r["trials"], signed=True
            )
            medians[r["statistic"]] = Share(r["median_error"], r["median_low"], r["median_high"], r["median_trials"])
        flips = top2 = None
        if filler in of_kind.index and reference == "original":
            row: Any = of_kind.loc[filler]
            flips = Share(row["flip_rate"], row["flip_low"], row["flip_high"], row["trials"])
            top2 = Share(row["top2_rate"], row["top2_low"], row["top2_high"], row["trials"])
        lines.append(FillerLine(str(filler), int(rows["trials"].max()), pooled, medians, flips, top2))
    return lines


def _colours(summary: pd.DataFrame) -> list[ColourLine]:
    return [
        ColourLine(
            str(size),
            str(kind),
            str(filler),
            int(rows["trials"].max()),
            {
                row["channel"]: (
                    f"{row['shift']:+.1f}",
                    f"{row['shift_low']:+.1f} to {row['shift_high']:+.1f}" if row["trials"] >= FEWEST else "",
                )
                for _, row in rows.iterrows()
            },
        )
        for (size, kind, filler), rows in summary.groupby(["size", "kind", "filler"], sort=False)
    ]


def square_mm(side_um: float) -> str:
    """Return the area of a square patch.

    >>> square_mm(1000)
    '1 mm²'
    """
    return f"{(side_um / 1000) ** 2:.3g} mm²"


def _title(name: str, large: str) -> str:
    """Return the title of a figure; those of large patches say how large."""
    plain = name.removesuffix(f"-{LARGE}")
    return TITLES.get(plain, plain) + (f", patches of {large}" if name != plain else "")


def _figures(folder: Path, page: Path, beside: Path | None, large: str) -> list[EvaluationFigure]:
    place = folder / FIGURES
    try:
        captions: dict[str, str] = json.loads((place / CAPTIONS).read_text(encoding="utf-8"))
        return [
            EvaluationFigure(
                name,
                _title(name, large),
                caption,
                link((beside or place) / f"{name}.svg", page),
                link(place / f"{name}.svg", page),
            )
            for name, caption in captions.items()
        ]
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: expected the figures of an evaluation ({error}); evaluate again") from error
