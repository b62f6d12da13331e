"""Tables and pictures of a study of samplers (see `study_samplers`, which writes what is read here).

Three kinds of error are given, each with a 95 % interval from a bootstrap over trials:

- *pooled*, the primary one: the statistic over all fills together, against the same over all originals. A window holds
  half a dozen cells, so that trials have to be added up before a density or a mean area says anything.
- *per trial*: the median over trials of the absolute relative error against the trial's own original, where that has
  the statistic. It is large for real tissue too, as neighbouring tissue differs: read it against the floor.
- *paired*: how much larger the absolute error is than the reference sampler's, on the same trials and resamples.

``results.tsv``: sampler, calls, seconds (per trial), statistic, unit, original, found, pooled (relative error), low,
high, trial_error, trial_low, trial_high, trials (that have the statistic). ``paired.tsv``: sampler, reference, calls,
statistic, kind (pooled or per trial), difference (of absolute relative errors), low, high, verdict. The distance of
grey histograms is no relative error but grey levels (of 256), and has no sign.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.evaluation.measurement import FLOOR, ORIGINAL, PASTED
from cytomend.evaluation.statistics import (
    CELL_STATISTICS,
    STATISTICS,
    bootstrap_counts,
    grey_histogram,
    histogram_distance,
    interval,
    measure,
    paired_interval,
    ratios,
)
from cytomend.fingerprint import fingerprint
from cytomend.segmentation.classical import find_cells
from cytomend.storage.publish import write_whole

Float = NDArray[np.float64]

HISTOGRAM = "grey histogram"
NAMES = (*STATISTICS, HISTOGRAM)
UNITS = {**{name: ratio.unit for name, ratio in STATISTICS.items()}, HISTOGRAM: "grey"}
UNDRAWN = (FLOOR, PASTED)
"""Real tissue, for which no network was asked."""
MOST_CALLS = 100
SHEET_TRIALS, SHEET_SAMPLERS = 8, 10
COLOURS = {"timemap": "tab:blue", "langevin": "tab:green", "repaint": "tab:red", "repaint-strided": "tab:orange"}
MARKERS = {0.0: "o", 0.5: "s", 1.0: "^"}


@dataclass(frozen=True, slots=True)
class Filled:
    """What one sampler made of all trials: ``fills`` (n, P, P), ``sums`` (n, k), ``greys`` (n, 256)."""

    label: str
    name: str
    calls: int
    eta: float
    seconds: float
    fills: NDArray[Any]
    sums: Float
    greys: Float


@dataclass(frozen=True, slots=True)
class Study:
    """All that a folder holds: the originals, every sampler that has filled all trials, and the other patches.

    ``floor`` are these as they stand, ``pasted`` the originals with their pixels in the mask.
    """

    settings: dict[str, Any]
    masks: NDArray[np.bool_]
    original: Filled
    floor: Filled
    pasted: Filled
    samplers: list[Filled]
    unfinished: dict[str, int]


def read_study(out: Path) -> Study:
    """Read a study and measure what was not measured yet.

    Raises
    ------
    InputError
        If the folder holds no study.
    """
    if not (out / "trials.npz").exists():
        raise InputError(f"{out}: expected a folder of benchmarks/study_samplers.py, found no trials.npz in it")
    settings = json.loads((out / "study.json").read_text())
    with np.load(out / "trials.npz", allow_pickle=False) as file:
        trials = {name: file[name] for name in file.files}
    patch, masks = trials["patch"], trials["mask"]

    def filled(label: str, fills: NDArray[Any], **about: Any) -> Filled:  # noqa: ANN401
        cache = out / "measured" / f"{label.replace(':', '_')}.npz"
        sums, greys = measured(fills, trials, settings["pixel_size_um"], cache)
        known: dict[str, Any] = {"name": label, "calls": 0, "eta": 0.0, "seconds": 0.0} | about
        return Filled(label=label, fills=fills, sums=sums, greys=greys, **known)

    samplers, unfinished = [], {}
    for path in sorted(out.glob("fills/*/sampler.json")):
        about = json.loads(path.read_text())
        chunks = [np.load(chunk, allow_pickle=False) for chunk in sorted(path.parent.glob("[0-9]*.npz"))]
        fills = np.concatenate([chunk["fill"] for chunk in chunks]) if chunks else patch[:0]
        if len(fills) < len(patch):
            unfinished[about["label"]] = len(fills)
            continue
        seconds = float(np.average([c["seconds"] for c in chunks], weights=[len(c["fill"]) for c in chunks]))
        samplers.append(
            filled(about["label"], fills, seconds=seconds, **{k: about[k] for k in ("name", "calls", "eta")})
        )
    samplers.sort(key=lambda s: (s.calls, s.label))
    floor, pasted = filled(FLOOR, trials["other"]), filled(PASTED, np.where(masks, trials["other"], patch))
    return Study(settings, masks, filled(ORIGINAL, patch), floor, pasted, samplers, unfinished)


def measured(
    fills: NDArray[Any], trials: dict[str, NDArray[Any]], pixel_size_um: float, cache: Path
) -> tuple[Float, Float]:
    """Return sums and histograms of all fills, from the cache while neither they nor the code have changed."""
    code = fingerprint("cytomend.evaluation.statistics") + fingerprint("cytomend.segmentation.classical")
    if cache.exists():
        with np.load(cache, allow_pickle=False) as file:
            if str(file["code"]) == code and np.array_equal(file["of"], fills):
                return file["sums"], file["greys"]
    largest = int(np.iinfo(fills.dtype).max)
    sums, greys = [], []
    for fill, mask, dark in zip(fills, trials["mask"], trials["dark"], strict=True):
        cells = find_cells(fill, pixel_size_um=pixel_size_um, threshold=float(dark))
        sums.append(measure(fill, mask, cells.to_numpy(), pixel_size_um=pixel_size_um, dark=float(dark)))
        greys.append(grey_histogram(fill, mask, largest))
    arrays: dict[str, Any] = {"code": code, "of": fills, "sums": np.stack(sums), "greys": np.stack(greys)}
    write_whole(cache, lambda work: np.savez_compressed(work, allow_pickle=False, **arrays))
    return arrays["sums"], arrays["greys"]


def pooled_errors(filled: Filled, original: Filled, counts: Float) -> Float:
    """Return pooled errors of each resample (times, len(NAMES)): relative, but the histogram's, which is a distance."""
    truth = ratios(counts @ original.sums)
    relative = ratios(counts @ filled.sums) / np.where(truth > 0, truth, np.nan) - 1
    apart = histogram_distance(counts @ filled.greys, counts @ original.greys)
    return np.concatenate([relative, apart[:, None]], axis=1)


def trial_errors(filled: Filled, original: Filled) -> Float:
    """Return absolute errors (n, len(NAMES)) of each trial against its own original; NaN where that has none."""
    truth = ratios(original.sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.abs(ratios(filled.sums) / np.where(truth > 0, truth, np.nan) - 1)
    apart = histogram_distance(filled.greys, original.greys)
    return np.concatenate([relative, apart[:, None]], axis=1)


def once(filled: Filled) -> Float:
    """Return the resample that is the trials themselves."""
    return np.ones((1, len(filled.sums)))


def results(study: Study, counts: Float) -> Iterator[dict[str, Any]]:
    """Yield a row for each statistic and sampler, also for the floor and for what is pasted."""
    truth = ratios(study.original.sums.sum(0))
    for filled in (study.floor, study.pasted, *study.samplers):
        found = np.append(ratios(filled.sums.sum(0)), np.nan)
        error = pooled_errors(filled, study.original, once(filled))[0]
        draws, own = pooled_errors(filled, study.original, counts), trial_errors(filled, study.original)
        for i, name in enumerate(NAMES):
            low, high = interval(draws[:, i])
            middle, trial_low, trial_high = paired_interval(own[:, i], np.zeros(len(own)), median)
            yield {
                "sampler": filled.label,
                "calls": filled.calls,
                "seconds": filled.seconds,
                "statistic": name,
                "unit": UNITS[name],
                "original": np.append(truth, np.nan)[i],
                "found": found[i],
                "pooled": error[i],
                "low": low,
                "high": high,
                "trial_error": middle,
                "trial_low": trial_low,
                "trial_high": trial_high,
                "trials": int(np.isfinite(own[:, i]).sum()),
            }


def median(values: Float) -> float:
    """Return the median as a plain number."""
    return float(np.median(values))


def paired(study: Study, reference: str, counts: Float) -> Iterator[dict[str, Any]]:
    """Yield, for each sampler and statistic, by how much its absolute error exceeds the reference's."""
    base = next((filled for filled in study.samplers if filled.label == reference), None)
    for filled in study.samplers if base else ():
        if base is None or filled is base:
            continue
        error, base_error = (np.abs(pooled_errors(f, study.original, once(f))[0]) for f in (filled, base))
        draws = np.abs(pooled_errors(filled, study.original, counts))
        draws -= np.abs(pooled_errors(base, study.original, counts))
        own, base_own = (trial_errors(f, study.original) for f in (filled, base))
        for i, name in enumerate(NAMES):
            of_pooled = (error[i] - base_error[i], *interval(draws[:, i]))
            of_trials = paired_interval(own[:, i], base_own[:, i], median)
            for kind, (difference, low, high) in (("pooled", of_pooled), ("per trial", of_trials)):
                yield {
                    "sampler": filled.label,
                    "reference": reference,
                    "calls": filled.calls,
                    "statistic": name,
                    "kind": kind,
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "verdict": verdict(low, high),
                }


def verdict(low: float, high: float) -> str:
    """Return what an interval of (error minus the reference's error) says."""
    if not np.isfinite([low, high]).all():
        return "undefined"
    return "better" if high < 0 else "worse" if low > 0 else "no worse within CI"


def percent(value: float, low: float, high: float) -> str:
    """Return a relative error with its interval, as the tables show it."""
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]" if np.isfinite(value) else "–"


def levels(value: float, low: float, high: float) -> str:
    """Return a number of grey levels with its interval."""
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def shown(row: Any, *keys: str) -> str:  # noqa: ANN401
    """Return the cell of a table for a row of results or pairs."""
    return (levels if row["statistic"] == HISTOGRAM else percent)(*(row[key] for key in keys))


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def result_table(table: pd.DataFrame, names: tuple[str, ...], keys: tuple[str, str, str]) -> str:
    """Return sampler x calls x seconds x these statistics."""
    header = ["sampler", "calls", "s/trial", *(f"{n} (grey)" if n == HISTOGRAM else f"{n} %" for n in names)]
    rows = []
    for label, part in table.groupby("sampler", sort=False):
        by_name = part.set_index("statistic", drop=False)
        first = part.iloc[0]
        cost = ["–", "–"] if label in UNDRAWN else [f"{first['calls']:,}", f"{first['seconds']:.2f}"]
        rows.append([str(label), *cost, *(shown(by_name.loc[name], *keys) for name in names)])
    return markdown(header, rows)


def paired_table(table: pd.DataFrame, kind: str) -> str:
    """Return statistics x cheap samplers of one kind, each with difference, interval and verdict."""
    part = table[(table["kind"] == kind) & (table["calls"] <= MOST_CALLS)]
    labels = list(dict.fromkeys(part["sampler"]))
    cells = {(row["sampler"], row["statistic"]): row for _, row in part.iterrows()}
    rows = []
    for name in NAMES:
        row = [f"{name} (grey)" if name == HISTOGRAM else f"{name} (points)"]
        for label in labels:
            found = cells[label, name]
            row.append(f"{shown(found, 'difference', 'low', 'high')} {found['verdict']}")
        rows.append(row)
    return markdown(["statistic", *labels], rows)


def summary(pairs: pd.DataFrame, reference: str) -> str:
    """Return a sentence a cheap sampler: on which pooled statistics it is worse than the reference, cells first."""
    part = pairs[(pairs["kind"] == "pooled") & (pairs["calls"] <= MOST_CALLS)]
    lines = []
    for label, rows in part.groupby("sampler", sort=False):
        worse = rows[rows["verdict"] == "worse"]["statistic"].tolist()
        cells = [name for name in CELL_STATISTICS if name in worse]
        others = [name for name in worse if name not in cells]
        lines.append(
            f"- `{label}`, {rows['calls'].iloc[0]} calls, against `{reference}`: "
            + (f"worse on {', '.join(cells)}" if cells else "no worse on any cell statistic")
            + (f"; also worse on {', '.join(others)}" if others else ", nor on any other")
            + "."
        )
    return "\n".join(lines)


def report_text(study: Study, table: pd.DataFrame, pairs: pd.DataFrame, reference: str) -> str:
    """Return the report as Markdown."""
    s = study.settings
    overlap = overlapping(study)
    parts = [
        f"{s['trials']} trials on {s['tissue']}"
        + (f", box {s['box']}" if s["box"] else "")
        + f"; patches of {s['patch_px']} px, model `{s['model']}` ({s['checkpoint_sha256'][:12]}), {s['precision']} on"
        f" {s['device']}. Originals, pooled: "
        + ", ".join(f"{n} {v:.4g} {UNITS[n]}".strip() for n, v in originals(table).items())
        + ".",
        overlap,
        *(f"Not finished: {label}, {done} of {s['trials']} trials." for label, done in study.unfinished.items()),
    ]
    keys = ("pooled", "low", "high")
    half = NAMES.index("power, cells")
    parts += ["## Pooled error", result_table(table, NAMES[:half], keys), result_table(table, NAMES[half:], keys)]
    keys = ("trial_error", "trial_low", "trial_high")
    parts += ["## Median absolute error of a trial", result_table(table, NAMES[:half], keys)]
    parts += [result_table(table, NAMES[half:], keys)]
    if len(pairs):
        parts += [f"## Pooled, in a sentence each, up to {MOST_CALLS} calls", summary(pairs, reference)]
        for kind in ("pooled", "per trial"):
            parts += [
                f"## Absolute error minus that of `{reference}`, {kind}, up to {MOST_CALLS} calls",
                paired_table(pairs, kind),
            ]
    else:
        parts += [f"`{reference}` has not filled all trials: nothing to pair with."]
    return "\n\n".join(part for part in parts if part) + "\n"


def originals(table: pd.DataFrame) -> dict[str, float]:
    """Return the pooled statistics of the originals."""
    part = table[table["sampler"] == FLOOR].dropna(subset="original")
    return dict(zip(part["statistic"], part["original"], strict=True))


def overlapping(study: Study) -> str:
    """Return a warning if trials share tissue, which the bootstrap takes to be independent."""
    s = study.settings
    if not s["box"]:
        return ""
    y0, x0, y1, x1 = s["box"]
    fit = ((y1 - y0) // s["patch_px"]) * ((x1 - x0) // s["patch_px"])
    if s["trials"] <= fit:
        return ""
    return f"Only {fit} patches fit side by side: trials share tissue, and the intervals are somewhat too narrow."


def draw_calls(study: Study, table: pd.DataFrame, out: Path) -> None:
    """Draw pooled error against network calls, a panel a statistic, with the floor as a band."""
    figure = Figure(figsize=(17, 11), layout="constrained")
    axes = figure.subplots(3, 5).ravel()
    by_label = {filled.label: filled for filled in study.samplers}
    calls = sorted({filled.calls for filled in study.samplers})
    for name, axis in zip(NAMES, axes, strict=False):
        part = table[table["statistic"] == name]
        scale = 1 if name == HISTOGRAM else 100
        floor = part[part["sampler"] == FLOOR].iloc[0]
        axis.axhspan(scale * floor["low"], scale * floor["high"], color="0.88", zorder=0)
        axis.axhline(0, color="0.4", linewidth=0.8)
        pasted = part[part["sampler"] == PASTED].iloc[0]
        axis.axhline(scale * pasted["pooled"], color="0.55", linewidth=1.2, linestyle=":", zorder=1)
        for _, row in part[~part["sampler"].isin(UNDRAWN)].iterrows():
            filled = by_label[row["sampler"]]
            middle, low, high = (scale * row[key] for key in ("pooled", "low", "high"))
            colour, marker = COLOURS.get(filled.name, "0.3"), MARKERS.get(filled.eta, "o")
            nudge = 1 + 0.1 * (filled.eta - 0.5) * (filled.name == "timemap")
            hollow = {"markerfacecolor": "white"} if "bend" in filled.label else {}
            bars = [[max(middle - low, 0)], [max(high - middle, 0)]]
            axis.errorbar(filled.calls * nudge, middle, bars, color=colour, marker=marker, markersize=5, **hollow)
        axis.set(title=name, xscale="log", ylabel="grey levels" if name == HISTOGRAM else "pooled error, %")
        axis.set_xticks(calls, [f"{n:,}" for n in calls], rotation=60)
        axis.minorticks_off()
        # What is pasted lies far off across the outline, and would flatten what is to be compared.
        drawn = part[~part["sampler"].isin(UNDRAWN)]
        low, high = scale * np.nanmin([*drawn["low"], 0]), scale * np.nanmax([*drawn["high"], 0])
        if high > low:
            axis.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
    for axis in axes[len(NAMES) :]:
        axis.axis("off")
    legend = axes[-1]
    for name in dict.fromkeys(filled.name for filled in study.samplers):
        etas = sorted({filled.eta for filled in study.samplers if filled.name == name})
        for eta in etas:
            text = f"{name}, eta {eta:g}" if name == "timemap" else name
            legend.plot([], [], color=COLOURS.get(name, "0.3"), marker=MARKERS.get(eta, "o"), linestyle="", label=text)
    legend.fill_between([], [], [], color="0.88", label="floor: other tissue as it stands, 95 %")
    legend.plot([], [], color="0.55", linewidth=1.2, linestyle=":", label="pasted tissue: cut at the outline")
    legend.legend(loc="center", frameon=False)
    for axis in axes[len(NAMES) - 5 : len(NAMES)]:
        axis.set_xlabel("network calls a window")
    for suffix in ("svg", "png"):
        figure.savefig(out / f"calls.{suffix}", dpi=110, metadata={"Date": None} if suffix == "svg" else None)


def draw_sheet(study: Study, out: Path) -> None:
    """Draw some trials, from small masks to large ones, with the fills of the samplers beside each other."""
    fractions = study.masks.mean((1, 2))
    order = np.argsort(fractions)
    rows = order[np.linspace(0, len(order) - 1, min(SHEET_TRIALS, len(order))).round().astype(int)]
    chosen = sheet_samplers(study.samplers)
    figure = Figure(figsize=(1.55 * (len(chosen) + 3), 1.62 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), len(chosen) + 3, squeeze=False)
    white = study.original.fills.dtype.type(np.iinfo(study.original.fills.dtype).max)
    top = float(np.quantile(study.original.fills, 0.999))
    for line, i in enumerate(rows):
        original, mask = study.original.fills[i], study.masks[i]
        pictures = [original, np.where(mask, white, original), *(f.fills[i] for f in chosen), study.pasted.fills[i]]
        titles = ["original", f"mask, {100 * fractions[i]:.0f} %", *(title_of(f) for f in chosen), PASTED]
        for column, (axis, picture, title) in enumerate(zip(axes[line], pictures, titles, strict=True)):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=top, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            if line == 0 or column == 1:
                axis.set_title(title, fontsize=8)
    figure.savefig(out / "sheet.png", dpi=110)


def title_of(filled: Filled) -> str:
    """Return a sampler's label over two lines, with its calls."""
    name, _, rest = filled.label.partition(":")
    return f"{name} ({filled.calls:,})\n{rest.replace(',', ', ')}"


def sheet_samplers(samplers: list[Filled]) -> list[Filled]:
    """Return as many samplers as there is room for: one of each name and number of calls first."""
    first: dict[tuple[str, int], Filled] = {}
    for filled in samplers:
        first.setdefault((filled.name, filled.calls), filled)
    rest = [filled for filled in samplers if filled not in first.values()]
    chosen = [*first.values(), *rest][:SHEET_SAMPLERS]
    return sorted(chosen, key=lambda filled: (filled.calls, filled.label))


def report(out: Path, reference: str) -> str:
    """Write tables and pictures into the study's folder and return the text of the report."""
    study = read_study(out)
    counts = bootstrap_counts(len(study.masks))
    table = pd.DataFrame(results(study, counts))
    pairs = pd.DataFrame(paired(study, reference, counts))
    table.to_csv(out / "results.tsv", sep="\t", index=False, float_format="%.6g")
    pairs.to_csv(out / "paired.tsv", sep="\t", index=False, float_format="%.6g")
    text = report_text(study, table, pairs, reference)
    (out / "report.md").write_text(text, encoding="utf-8")
    draw_calls(study, table, out)
    draw_sheet(study, out)
    return text
