"""Figures of an evaluation: errors, flips, distributions, arrangement, exemplars. Vector graphics, text as text.

A filler has the same colour and marker in every figure. Models are thick lines; controls are thin lines on top of them,
so that a control that does better is seen; the floor, other real tissue as it stands, is a grey band. What a table does
not hold is a panel that says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from skimage.measure import find_contours

from cytomend.evaluation.measurement import FLOOR, KNOWN, ORIGINAL, PASTED, RENOISED
from cytomend.report.scale import scale_bar
from cytomend.storage.publish import write_whole

Float = NDArray[np.float64]

HOUSE: Any = {
    "font.family": ["sans-serif"],
    # Laid out with the metrics of the first, which matplotlib brings along; those after it are no wider.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Segoe UI", "Helvetica", "Arial"],
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5a5b62",
    "axes.axisbelow": True,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.fonttype": "none",
    "path.simplify": False,
}
WIDTH_IN = 10.0
LONGEST_NAME = 40
LEGEND_LETTERS = 126
"""What fits below a figure; a column takes eight more than its longest name."""

ALL = "all"
NO_FILLERS = (ORIGINAL, FLOOR, RENOISED)
CONTROLS = (RENOISED, PASTED, "biharmonic", "nearest tissue", "local mean")
SAID = {
    FLOOR: "floor (other tissue as it stands)",
    PASTED: "pasted tissue (cut at the outline)",
    RENOISED: "renoised (original, new noise)",
}
"""Fillers whose name says too little."""

# Okabe & Ito 2008, then Tol's muted scheme: told apart in every common form of colour blindness.
COLOURS = {
    ORIGINAL: "#000000",
    FLOOR: "#7f7f7f",
    RENOISED: "#4d4d4d",
    PASTED: "#aa4499",
    "biharmonic": "#e69f00",
    "nearest tissue": "#009e73",
    "local mean": "#56b4e9",
    "timemap": "#0072b2",
    "repaint": "#d55e00",
}
OTHER_COLOURS = ("#cc79a7", "#882255", "#332288", "#999933")
MARKERS = {
    RENOISED: "x",
    PASTED: "<",
    "biharmonic": "^",
    "nearest tissue": "v",
    "local mean": "D",
    "timemap": "o",
    "repaint": "s",
}
OTHER_MARKERS = ("P", "X", "*", "p", "h")
BAND = "#d9d9d9"

PAPER = "Kropp et al. 2024"
PAPER_ERROR, PAPER_FLIPS, PAPER_TOP2 = 8.0, 15.0, 98.0
PANELS = ("cell density", "cell area", "neighbour distance", "close pairs")
PAPER_PANELS = ("cell density", "cell area")
"""Statistics for which the paper reports its error."""
LEAST_ERROR, GREATEST_ERROR = 1.0, 1000.0
ERROR_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
CELL_COLOUR, RIM_COLOUR, MASK_COLOUR = "#d55e00", "#0072b2", "#f0e442"


@dataclass(frozen=True, slots=True)
class Look:
    """How a filler is drawn."""

    colour: str
    marker: str = ""
    dash: str | tuple[int, tuple[int, ...]] = "-"
    width: float = 2.6
    is_control: bool = False

    @property
    def line(self) -> dict[str, Any]:
        """What `Axes.plot` is told."""
        size = 5 if self.is_control else 7.5
        order = 4 if self.is_control else 3
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.dash,
            "linewidth": self.width,
            "markersize": size,
            "zorder": order,
        }


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A trial to be looked at.

    ``original``, ``mended`` (S, S) grey or (S, S, 3) RGB; ``mask`` (S, S); ``cells_before``, ``cells_after`` a row a
    cell with ``contour_y_um`` and ``contour_x_um``, arrays of points from the corner of the first pixel; ``fraction``
    is the share of the patch that is masked, ``size`` that of the patch.
    """

    original: NDArray[np.generic]
    mask: NDArray[np.bool_]
    mended: NDArray[np.generic]
    cells_before: pd.DataFrame
    cells_after: pd.DataFrame
    fraction: float
    title: str
    pixel_size_um: float = 1.0
    size: str = "small"


@dataclass(frozen=True, slots=True)
class EvaluationTables:
    """What is drawn, of patches of one size; a table may be empty.

    ``cell_areas_um2`` are the areas of single cells by filler; ``models`` names the fillers that are models, if that is
    known: all others are controls then. ``fillers`` names those of other figures too, so that each has one colour.
    """

    summary: pd.DataFrame = field(default_factory=pd.DataFrame)
    classes: pd.DataFrame = field(default_factory=pd.DataFrame)
    measurements: pd.DataFrame = field(default_factory=pd.DataFrame)
    arrangement: pd.DataFrame = field(default_factory=pd.DataFrame)
    exemplars: Sequence[Exemplar] = ()
    cell_areas_um2: Mapping[str, Float] = field(default_factory=dict)
    models: Sequence[str] = ()
    fillers: Sequence[str] = ()


class WrittenFigures(NamedTuple):
    """Files and captions by the name of a figure."""

    paths: dict[str, Path]
    captions: dict[str, str]


def write_figures(
    folder: Path, tables: EvaluationTables, *, segmenter: str | None = None, suffix: str = ""
) -> WrittenFigures:
    """Draw all figures of one segmenter, by default the first, and write ``NAME.svg``.

    The same tables give the same bytes.

    Parameters
    ----------
    folder : made if need be
    tables : what was measured
    segmenter : whose measurements are shown
    suffix : of every name
    """
    segmenter = segmenter or first_segmenter(tables)
    drawn = {f"{name}{suffix}": figure for name, figure in draw_figures(tables, segmenter).items()}
    return WrittenFigures(
        {name: write_svg(figure, folder / f"{name}.svg") for name, (figure, _) in drawn.items()},
        {name: caption for name, (_, caption) in drawn.items()},
    )


def first_segmenter(tables: EvaluationTables) -> str:
    """Return the first segmenter that is not the truth, or nothing."""
    named = (table["segmenter"] for table in (tables.summary, tables.measurements, tables.arrangement) if len(table))
    return next((name for names in named for name in names.unique() if name != KNOWN), "")


def draw_figures(tables: EvaluationTables, segmenter: str) -> dict[str, tuple[Figure, str]]:
    """Return every figure with its caption; errors against known cells only where cells are known."""
    looks = looks_of(tables)
    drawn = {}
    for name, reference, kind in (
        ("errors", "original", "intact"),
        ("errors-truth", "truth", "intact"),
        ("errors-artefact", "truth", "artefact"),
    ):
        rows = chosen(tables.summary, segmenter=segmenter, reference=reference, kind=kind)
        if len(rows) or name == "errors":
            drawn[name] = draw_errors(rows, looks), caption_errors(rows, looks, segmenter)
    classes = chosen(tables.classes, kind="intact")
    measurements = chosen(tables.measurements, segmenter=segmenter, kind="intact")
    arrangement = chosen(tables.arrangement, segmenter=segmenter)
    drawn["classes"] = draw_classes(classes, looks), caption_classes(classes)
    drawn["distributions"] = (
        draw_distributions(measurements, looks, tables.cell_areas_um2),
        caption_distributions(measurements),
    )
    drawn["arrangement"] = (
        draw_arrangement(arrangement, looks),
        caption_arrangement(arrangement, segmenter),
    )
    if tables.exemplars:
        drawn["exemplars"] = draw_exemplars(tables.exemplars), caption_exemplars(tables.exemplars)
    return drawn


@mpl.rc_context(HOUSE)
def draw_errors(rows: pd.DataFrame, looks: Mapping[str, Look]) -> Figure:
    """Draw the median error against the mask fraction, a panel a statistic, all on one logarithmic scale.

    Parameters
    ----------
    rows : of a summary, of one segmenter, reference and kind
    looks : by filler
    """
    figure = Figure(figsize=(WIDTH_IN, 7.2), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    shown = chosen(rows, statistic=PANELS)
    places = bin_places(shown)
    for axes, statistic in zip(panels, PANELS, strict=True):
        axes.set_title(statistic, loc="left", fontweight="bold")
        if statistic in PAPER_PANELS:
            draw_paper(axes, PAPER_ERROR)
        columns = ("median_error", "median_low", "median_high")
        draw_binned(axes, chosen(shown, statistic=statistic), columns, looks, places, LEAST_ERROR)
    values = ("median_error", "median_low", "median_high")
    scale_errors(panels[0], least(shown, values), greatest(shown, values))
    label_bins(panels, places)
    against = "known cells" if "truth" in set(shown.get("reference", ())) else "the original"
    for axes in panels[::2]:
        axes.set_ylabel(f"median error\nagainst {against}")
    add_legend(figure, fillers_of(shown), looks, {f"8 % ({PAPER})": paper_line()})
    return figure


@mpl.rc_context(HOUSE)
def draw_classes(rows: pd.DataFrame, looks: Mapping[str, Look]) -> Figure:
    """Draw flips and top-2 agreement against the mask fraction, a row of panels a classifier.

    Parameters
    ----------
    rows : of a summary of classes, of one kind
    looks : by filler
    """
    classifiers = list(dict.fromkeys(rows["classifier"])) if len(rows) else [""]
    figure = Figure(figsize=(WIDTH_IN, 1.4 + 3.2 * len(classifiers)), layout="constrained")
    panels = figure.subplots(len(classifiers), 2, sharex=True, squeeze=False)
    places = bin_places(rows)
    for (flips, top2), classifier in zip(panels, classifiers, strict=True):
        part, said = chosen(rows, classifier=classifier), f", {plain(classifier)}" if classifier else ""
        for axes, title, kind, figure_of_paper in (
            (flips, "first choice flips", "flip", PAPER_FLIPS),
            (top2, "original class among the first two", "top2", PAPER_TOP2),
        ):
            axes.set_title(title + said, loc="left", fontweight="bold")
            draw_paper(axes, figure_of_paper)
            draw_binned(axes, part, (f"{kind}_rate", f"{kind}_low", f"{kind}_high"), looks, places)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        flips.set_ylim(-1, max(20.0, greatest(part, ("flip_rate", "flip_high"))) * 1.05)
        top2.set_ylim(min(96.0, least(part, ("top2_rate", "top2_low"))) - 0.5, 100.5)
    label_bins(panels.ravel(), places)
    bounds = f"≤ 15 %, > 98 % ({PAPER})"
    add_legend(figure, fillers_of(rows), looks, {bounds: paper_line()})
    return figure


@mpl.rc_context(HOUSE)
def draw_distributions(rows: pd.DataFrame, looks: Mapping[str, Look], cell_areas_um2: Mapping[str, Float]) -> Figure:
    """Draw how density and cell area are distributed, in the originals, by the models and on the floor.

    Parameters
    ----------
    rows : of the measurements, of one segmenter and kind
    looks : by filler
    cell_areas_um2 : areas of single cells by filler; the means of the trials are drawn without them
    """
    density = {name: ratio(part, "cells", "area_mm2") for name, part in parts(rows)}
    areas = cell_areas_um2 or {name: ratio(part, "cell_area_um2", "cells") for name, part in parts(rows)}
    counted = "cells" if cell_areas_um2 else "trials"
    figure = Figure(figsize=(WIDTH_IN, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [name for name in compared([*density, *areas], looks) if name in looks]
    draw_histograms(left, density, names, looks)
    left.set_xlabel("cells per mm²")
    left.set_ylabel("share of trials")
    draw_histograms(right, areas, names, looks)
    right.set_xlabel("cell area (µm²)" if cell_areas_um2 else "mean cell area of a trial (µm²)")
    right.set_ylabel(f"share of {counted}")
    left.set_title("cell density", loc="left", fontweight="bold", pad=12)
    right.set_title("cell area", loc="left", fontweight="bold", pad=12)
    median = Line2D([], [], color="#5a5b62", marker="v", linestyle="", markersize=8)
    add_legend(figure, names, looks, {"median": median}, band=ORIGINAL)
    return figure


@mpl.rc_context(HOUSE)
def draw_arrangement(rows: pd.DataFrame, looks: Mapping[str, Look]) -> Figure:
    """Draw L(r) - r, and beside it the difference from the originals, within whose band real tissue lies.

    Parameters
    ----------
    rows : of the arrangement, of one segmenter
    looks : by filler
    """
    figure = Figure(figsize=(WIDTH_IN, 4.8), layout="constrained")
    whole, difference = figure.subplots(1, 2)
    curves = {name: curve_of(part) for name, part in parts(rows)}
    zero = pd.DataFrame(0.0, index=[], columns=["l_minus_r_um"])
    original = curves[ORIGINAL]["l_minus_r_um"] if ORIGINAL in curves else zero["l_minus_r_um"]
    draw_curves(whole, curves, looks)
    draw_curves(difference, {name: c.sub(original, axis=0).dropna(how="all") for name, c in curves.items()}, looks)
    whole.set_title("L(r) − r", loc="left", fontweight="bold")
    difference.set_title("difference from the original", loc="left", fontweight="bold")
    for axes in (whole, difference):
        axes.set_xlabel("distance r (µm)")
        axes.set_ylabel("µm")
    independent = Line2D([], [], color="#5a5b62", linewidth=1, linestyle=":")
    add_legend(figure, list(curves), looks, {"0: cells placed independently": independent}, band=ORIGINAL)
    return figure


@mpl.rc_context(HOUSE)
def draw_exemplars(exemplars: Sequence[Exemplar]) -> Figure:
    """Draw trials in rows: the original, what was masked, the mended patch, with the cells found in both."""
    figure = Figure(figsize=(WIDTH_IN, 0.7 + 3.75 * max(len(exemplars), 1)), layout="constrained")
    if not exemplars:
        say_not_measured(figure.subplots())
        return figure
    for row, exemplar in zip(figure.subfigures(len(exemplars), 1, squeeze=False).ravel(), exemplars, strict=True):
        draw_exemplar(row, exemplar)
    outlined = any(len(exemplar.cells_before) for exemplar in exemplars)
    cells = {
        "cells in the mask": Line2D([], [], color=CELL_COLOUR, linewidth=1.6),
        "cells around it": Line2D([], [], color=RIM_COLOUR, linewidth=1.0),
    }
    handles = {**(cells if outlined else {}), "mask": Patch(facecolor=MASK_COLOUR, edgecolor="black", linestyle="--")}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_exemplar(row: SubFigure, exemplar: Exemplar) -> None:
    """Draw one trial."""
    row.suptitle(
        f"{plain(exemplar.title)}, {100 * exemplar.fraction:.0f} % masked", x=0.012, ha="left", fontweight="bold"
    )
    height_um, width_um = (n * exemplar.pixel_size_um for n in exemplar.mask.shape)
    shown = to_bytes(exemplar.original, exemplar.original), to_bytes(exemplar.mended, exemplar.original)
    masked = np.repeat(shown[0][..., None], 3, axis=-1) if shown[0].ndim == 2 else shown[0].copy()
    masked[exemplar.mask] = (np.array(mpl.colors.to_rgb(MASK_COLOUR)) * 255).astype(np.uint8)
    for axes, title, image, cells in zip(
        row.subplots(1, 3),
        ("original", "mask", "mended"),
        (shown[0], masked, shown[1]),
        (exemplar.cells_before, None, exemplar.cells_after),
        strict=True,
    ):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(0, width_um, height_um, 0), interpolation="none")
        axes.set_axis_off()
        axes.set_title(title, loc="left", fontsize=HOUSE["font.size"], pad=3)
        outline = [line[:, ::-1] for line in mask_outline(exemplar.mask, exemplar.pixel_size_um)]
        axes.add_collection(LineCollection(outline, colors="black", linewidths=0.9, linestyles="--"), autolim=False)
        if cells is not None:
            draw_contours(axes, cells, exemplar)
    draw_scale_bar(row.axes[0], width_um, height_um)


def draw_contours(axes: Axes, cells: pd.DataFrame, exemplar: Exemplar) -> None:
    """Outline cells, those in the mask stand out."""
    if not {"contour_y_um", "contour_x_um"} <= set(cells):
        return
    contours = [
        np.column_stack([np.append(x, x[:1]), np.append(y, y[:1])])
        for y, x in zip(cells["contour_y_um"], cells["contour_x_um"], strict=True)
        if len(y)
    ]
    last = np.array(exemplar.mask.shape) - 1
    pixels = [np.clip((c.mean(0)[::-1] / exemplar.pixel_size_um).astype(int), 0, last) for c in contours]
    inside = [bool(exemplar.mask[y, x]) for y, x in pixels]
    for where, colour, width in ((False, RIM_COLOUR, 0.8), (True, CELL_COLOUR, 1.4)):
        lines = [contour for contour, is_inside in zip(contours, inside, strict=True) if is_inside == where]
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=width), autolim=False)


def draw_scale_bar(axes: Axes, width_um: float, height_um: float) -> None:
    """Draw a bar of a round length below a picture, where it hides no tissue."""
    bar, y = scale_bar(width_um), height_um * 1.045
    axes.plot([0, bar.length_um], [y, y], color="black", linewidth=3, solid_capstyle="butt", clip_on=False)
    axes.text(bar.length_um + width_um * 0.02, y, bar.text, va="center", ha="left")
    axes.set(xlim=(0, width_um), ylim=(height_um, 0))


def mask_outline(mask: NDArray[np.bool_], pixel_size_um: float) -> list[Float]:
    """Return the outlines of a mask, (n, 2) y_um, x_um from the corner of the first pixel."""
    return [
        (np.asarray(line) - 0.5) * pixel_size_um
        for line in find_contours(np.pad(mask, 1).astype(float), 0.5)  # type: ignore[no-untyped-call]
    ]


def to_bytes(image: NDArray[np.generic], original: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return a picture for the eye, whose black and white are the darkest and the lightest of the original."""
    low, high = (float(value) for value in np.percentile(original.astype(np.float64), (0.2, 99.8)))
    scaled = (image.astype(np.float64) - low) / max(high - low, 1e-9)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def draw_binned(
    axes: Axes,
    rows: pd.DataFrame,
    columns: tuple[str, str, str],
    looks: Mapping[str, Look],
    places: Mapping[str, float],
    smallest: float = -np.inf,
) -> None:
    """Draw a share with its interval in every bin of mask fractions, fillers side by side.

    Parameters
    ----------
    rows : a row a filler and bin
    columns : of the value, its lower and its upper bound, as shares; drawn in per cent
    looks, places : by filler, by bin
    smallest : what is smaller is drawn here, in per cent
    """
    fillers = [name for name in fillers_of(rows) if rows.loc[rows["filler"] == name, columns[0]].notna().any()]
    if not fillers:
        say_not_measured(axes)
        return
    side_by_side = [name for name in ordered(fillers, looks) if name != FLOOR]
    aside = dict(zip(side_by_side, np.linspace(-0.3, 0.3, len(side_by_side) + 2)[1:-1], strict=True))
    for name in fillers:
        part = rows[rows["filler"] == name].set_index("bin")[list(columns)].astype(float)
        part = part.reindex([label for label in places if label in part.index])
        middle, low, high = (100 * part).clip(smallest, GREATEST_ERROR).to_numpy().T
        x = np.array([places[label] for label in part.index])
        if name == FLOOR:
            axes.bar(x, high - low, 1.0, bottom=low, color=BAND, linewidth=0, zorder=1)
            axes.hlines(middle, x - 0.5, x + 0.5, color=COLOURS[FLOOR], linewidth=1.6, zorder=2)
            continue
        x, look, binned = x + aside[name], looks[name], part.index != ALL
        axes.plot(x[binned], middle[binned], **look.line)
        axes.plot(x[~binned], middle[~binned], **look.line)
        axes.vlines(x, low, high, color=look.colour, linewidth=look.width * 0.6, zorder=look.line["zorder"])
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)


def draw_paper(axes: Axes, percent: float) -> None:
    """Draw a figure of the paper."""
    axes.axhline(percent, **{**PAPER_LINE, "zorder": 2.5})


PAPER_LINE: dict[str, Any] = {"color": "black", "linestyle": (0, (5, 3)), "linewidth": 1.3}


def paper_line() -> Line2D:
    """Return what stands for the paper in a legend."""
    return Line2D([], [], **PAPER_LINE)


def scale_errors(axes: Axes, smallest: float, largest: float) -> None:
    """Set a logarithmic scale in per cent, whose outermost ticks hold all that lies beyond them."""
    bottom = max(tick for tick in ERROR_TICKS if tick <= max(min(smallest, 5.0), LEAST_ERROR))
    top = min(max(largest, 25.0), GREATEST_ERROR) * 1.2
    said = {LEAST_ERROR: "≤ 1 %", GREATEST_ERROR: "≥ 1000 %"}
    ticks = [tick for tick in ERROR_TICKS if bottom <= tick <= top]
    axes.set_yscale("log")
    axes.set_ylim(bottom * 0.88, top)
    axes.set_yticks(ticks, [said.get(tick, f"{tick} %") for tick in ticks])
    axes.set_yticks([], minor=True)


def bin_places(rows: pd.DataFrame) -> dict[str, float]:
    """Return where the bins stand, by name in the order of their fractions; all together stand apart."""
    if rows.empty:
        return {}
    lows = rows.groupby("bin", sort=False)["low_fraction"].min()
    names = [str(name) for name in lows.sort_values(kind="stable").index if name != ALL]
    places = {name: float(i) for i, name in enumerate(names)}
    return {**places, **({ALL: len(names) + 0.3} if ALL in lows.index else {})}


def label_bins(panels: Iterable[Axes], places: Mapping[str, float]) -> None:
    """Name the bins below the panels."""
    for axes in panels:
        names = [name.removesuffix("%").strip().replace("-", "–") for name in places]
        axes.set_xticks(list(places.values()), [plain(name) for name in names])
        if places:
            axes.set_xlim(-0.6, max(places.values()) + 0.6)
        if ALL in places and len(places) > 1:
            axes.axvline(places[ALL] - 0.65, color="#b8b8b8", linewidth=0.8)
        if axes.get_subplotspec().is_last_row():  # type: ignore[union-attr]
            axes.set_xlabel("masked share of the patch (%)")


def draw_histograms(axes: Axes, values: Mapping[str, Float], names: Sequence[str], looks: Mapping[str, Look]) -> None:
    """Draw the original as an area, the others as lines on the same classes, and medians above."""
    finite = {name: v[np.isfinite(v)] for name in names if (v := np.asarray(values.get(name, ()), float)).size}
    finite = {name: v for name, v in finite.items() if len(v)}
    if not finite:
        say_not_measured(axes)
        return
    pooled = np.concatenate(list(finite.values()))
    classes = int(np.clip(2 * len(pooled) ** (1 / 3) / len(finite) ** (1 / 3), 6, 36))  # Rice's rule
    edges = np.histogram_bin_edges(pooled, classes)
    for name, of_filler in finite.items():
        shares, look = 100 * np.histogram(of_filler, edges)[0] / len(of_filler), looks[name]
        if name == ORIGINAL:
            axes.stairs(shares, edges, fill=True, color=BAND, zorder=1)
        axes.stairs(
            shares, edges, color=look.colour, linestyle=look.dash, linewidth=look.width, zorder=look.line["zorder"]
        )
        place = float(np.median(of_filler)), 1.03
        axes.plot(
            *place, marker="v", markersize=8, color=look.colour, transform=axes.get_xaxis_transform(), clip_on=False
        )
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")


def draw_curves(axes: Axes, curves: Mapping[str, pd.DataFrame], looks: Mapping[str, Look]) -> None:
    """Draw curves over the radius, the original's with its band."""
    measured = {name: curve for name, curve in curves.items() if curve["l_minus_r_um"].notna().any()}
    if not measured:
        say_not_measured(axes)
        return
    axes.axhline(0, color="#5a5b62", linewidth=1, linestyle=":")
    for place, name in enumerate(ordered(measured, looks)):
        curve, look = measured[name], looks[name]
        radius = curve.index.to_numpy(float)
        if name == ORIGINAL:
            axes.fill_between(radius, curve["low"], curve["high"], color=BAND, linewidth=0, zorder=1)
        axes.plot(radius, curve["l_minus_r_um"], markevery=(place % 4, 4), **look.line)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.7)


def curve_of(part: pd.DataFrame) -> pd.DataFrame:
    """Return L(r) - r with its interval by radius."""
    return part.set_index("radius_um").sort_index()[["l_minus_r_um", "low", "high"]].astype(float)


def looks_of(tables: EvaluationTables) -> dict[str, Look]:
    """Return how each filler of any table is drawn, in the order of the legend: models before controls."""
    named = (fillers_of(table) for table in (tables.summary, tables.classes, tables.measurements, tables.arrangement))
    names = list(dict.fromkeys([*tables.fillers, *(name for names in named for name in names), *tables.cell_areas_um2]))
    return looks_for(names, tables.models)


def looks_for(fillers: Sequence[str], models: Sequence[str] = ()) -> dict[str, Look]:
    """Return a look for each filler; without ``models``, what is none of the usual controls counts as one.

    >>> list(looks_for(["biharmonic", "mine", "floor"]))
    ['floor', 'mine', 'biharmonic']
    """
    others = [name for name in fillers if name not in COLOURS]
    known_first = [name for name in (ORIGINAL, FLOOR) if name in fillers]
    rest = [name for name in fillers if name not in (ORIGINAL, FLOOR, *CONTROLS)]
    drawn = [name for name in rest if not models or name in models]
    controls = [name for name in (*CONTROLS, *rest) if name in fillers and name not in drawn]
    looks = {name: look_of(name, others) for name in (*known_first, *drawn, *controls)}
    return {name: as_control(look) if name in controls else look for name, look in looks.items()}


def as_control(look: Look) -> Look:
    """Return the look of a filler that is no model: thin, above the models' lines."""
    return replace(look, width=min(look.width, 1.2), is_control=True)


def look_of(name: str, others: Sequence[str]) -> Look:
    """Return the look of one filler; ``others`` are all those without a colour of their own."""
    if name == ORIGINAL:
        return Look(COLOURS[name], ".", width=1.6, is_control=True)
    if name == FLOOR:
        return Look(COLOURS[name], width=1.6, dash=(0, (4, 2)), is_control=True)
    if name in CONTROLS:
        return Look(COLOURS[name], MARKERS[name], ":" if name == RENOISED else "-", 1.2, is_control=True)
    if name in COLOURS:
        return Look(COLOURS[name], MARKERS[name])
    i = others.index(name)
    return Look(OTHER_COLOURS[i % len(OTHER_COLOURS)], OTHER_MARKERS[i % len(OTHER_MARKERS)])


def compared(names: Iterable[str], looks: Mapping[str, Look]) -> list[str]:
    """Return whose distributions are shown: original, floor and models; controls only where there is no model."""
    there = ordered(dict.fromkeys(names), looks)
    models = [name for name in there if not looks[name].is_control]
    return [name for name in there if name in (ORIGINAL, FLOOR, *(models or there))]


def ordered(names: Iterable[str], looks: Mapping[str, Look]) -> list[str]:
    """Return fillers in the order of the legend."""
    there = set(names)
    return [name for name in looks if name in there]


def add_legend(
    figure: Figure,
    fillers: Sequence[str],
    looks: Mapping[str, Look],
    others: Mapping[str, Line2D],
    band: str = FLOOR,
) -> None:
    """Put one legend below all panels; ``band`` is the filler that is drawn as an area."""
    entries: list[tuple[str, Any]] = []  # no dict: long names may be alike once they are cut
    for name in ordered(fillers, looks):
        line = Line2D([], [], **looks[name].line)
        area = Patch(facecolor=BAND, linewidth=0)
        entries.append((plain(SAID.get(name, name)), (area, line) if name == band else line))
    entries += others.items()
    labels = [label for label, _ in entries]
    columns = int(np.clip(LEGEND_LETTERS // (max(map(len, labels)) + 8), 1, len(labels)))
    figure.legend([handle for _, handle in entries], labels, loc="outside lower center", ncols=columns, frameon=False)


def say_not_measured(axes: Axes) -> None:
    """Say that a panel has nothing to show."""
    axes.text(
        0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color="#5a5b62", fontsize=12
    )
    axes.tick_params(length=0)


def plain(text: object) -> str:
    r"""Return a name as one line of printable letters, cut where it is too long for a legend.

    >>> plain("a\x00b\n c")
    'a b c'
    """
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"


def chosen(table: pd.DataFrame, **values: str | tuple[str, ...]) -> pd.DataFrame:
    """Return the rows that have these values in these columns."""
    for column, wanted in values.items():
        if len(table):
            table = table[table[column].isin([wanted] if isinstance(wanted, str) else wanted)]
    return table


def fillers_of(table: pd.DataFrame) -> list[str]:
    """Return the fillers of a table, in its order."""
    return list(dict.fromkeys(table["filler"])) if len(table) else []


def parts(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each filler."""
    return [(name, table[table["filler"] == name]) for name in fillers_of(table)]


def ratio(rows: pd.DataFrame, top: str, bottom: str) -> Float:
    """Return a quotient of each trial, NaN where nothing was counted."""
    return (rows[top] / rows[bottom].where(rows[bottom] > 0)).to_numpy(np.float64)


def greatest(rows: pd.DataFrame, columns: Sequence[str]) -> float:
    """Return the largest share of some columns in per cent; 0 if there is none."""
    values = rows[list(columns)].to_numpy(np.float64) if len(rows) else np.zeros(0)
    return float(values[~np.isnan(values)].max(initial=0)) * 100


def least(rows: pd.DataFrame, columns: Sequence[str]) -> float:
    """Return the smallest share of some columns in per cent; 100 if there is none."""
    values = rows[list(columns)].to_numpy(np.float64) if len(rows) else np.zeros(0)
    return float(values[np.isfinite(values)].min(initial=1)) * 100


def caption_errors(rows: pd.DataFrame, looks: Mapping[str, Look], segmenter: str) -> str:
    """Say what the errors show, and which control does better than every model."""
    if rows.empty:
        return "Errors of cell statistics were not measured."
    against = "known cells" if (rows["reference"] == "truth").any() else "the same segmenter's view of the original"
    where = "under known artefacts" if (rows["kind"] == "artefact").any() else "on intact tissue"
    text = (
        f"Median relative error of a trial {where} against {against} (segmenter: {plain(segmenter)}), lower is better,"
        " with 95 % bootstrap intervals; errors inside or below the grey band are no larger than those of the floor,"
        " other real tissue of the section, measured as it stands under the same mask."
    )
    if ORIGINAL in fillers_of(rows):
        text += " The line of the original is the segmenter's own error, on undamaged tissue."
    better = better_controls(rows, looks)
    return f"{text} With a lower median than every model: {'; '.join(better)}." if better else text


def better_controls(rows: pd.DataFrame, looks: Mapping[str, Look]) -> list[str]:
    """Return which simple fillers err less than every model over all mask fractions, for each statistic shown."""
    found = []
    for statistic in PANELS:
        errors = chosen(rows, statistic=statistic, bin=ALL).set_index("filler")["median_error"].dropna()
        models = [name for name in errors.index if not looks[name].is_control]
        fillers = [name for name in errors.index if looks[name].is_control and name not in NO_FILLERS]
        better = [name for name in fillers if models and errors[name] < errors[models].min()]
        found += [f"{statistic}, {' and '.join(better)}"] if better else []
    return found


def caption_classes(rows: pd.DataFrame) -> str:
    """Say what flips are."""
    if rows.empty:
        return "No classifier was asked."
    return (
        "How often the classifier holds the mended patch for something else than the original (left, lower is better)"
        " and how often the original's class is still among its first two choices (right, higher is better), with 95 %"
        " bootstrap intervals; the paper's figures come from its own classifier and tissue."
    )


def caption_distributions(rows: pd.DataFrame) -> str:
    """Say what the distributions show."""
    if rows.empty:
        return "Cell density and cell area were not measured."
    trials = len(rows[[column for column in ("section", "trial") if column in rows]].drop_duplicates())
    return (
        f"Cell density and cell area inside the masks of {trials} trials, in the originals (grey area) and as mended:"
        " a model that keeps the tissue has the same shape, not only the same median (triangles)."
    )


def caption_arrangement(rows: pd.DataFrame, segmenter: str) -> str:
    """Say how to read L(r) - r."""
    if rows.empty:
        return "The arrangement of cells was not measured."
    return (
        f"Arrangement of cells (segmenter: {plain(segmenter)}): below zero cells keep apart, above zero they gather."
        " Mended tissue should stay within the grey band, the originals' 95 % bootstrap interval."
    )


def caption_exemplars(exemplars: Sequence[Exemplar]) -> str:
    """Say what is seen in the sheet."""
    if not exemplars:
        return "No trials were kept to be shown."
    outlined = any(len(exemplar.cells_before) for exemplar in exemplars)
    return (
        "Trials as they look: original, mask and mended patch on the same grey scale"
        + (", with the cells that the segmenter found." if outlined else ".")
        + " Pixels inside the dashed line of the last column are synthetic."
    )


def write_svg(figure: Figure, path: Path) -> Path:
    """Write a figure, the same bytes at any time and on any machine with the same libraries."""
    metadata: dict[str, Any] = {"Date": None, "Creator": "cytomend", "Title": path.stem}
    with mpl.rc_context({**HOUSE, "svg.hashsalt": path.stem}):
        write_whole(path, lambda beside: figure.savefig(beside, format="svg", metadata=metadata))
    return path
