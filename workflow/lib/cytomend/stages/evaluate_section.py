"""Evaluate the mending of one section: what downstream models and statistics say of its trials, with controls.

Reads the trials that `cytomend.stages.mend_trials` has mended, and compares what segmenters, a classifier and plain
statistics say before and after. The same is done with controls in place of the mended pixels:

| filler | what |
|---|---|
| the section's sampler, and others | the model |
| ``floor`` | the same mask on another patch of the same tissue, as it stands: how far real tissue is from real tissue |
| ``pasted tissue`` | that patch's pixels in the mask: real tissue in the wrong place, its cells cut at the outline |
| ``renoised`` | the original with fresh noise: the segmenter's own error |
| ``biharmonic``, ``nearest tissue``, ``local mean`` | simple fillers |

Where the truth is known (phantoms: ``--truth`` is the section before it was damaged, ``--cells`` its cells), errors are
taken against it too, also under the artefacts themselves. Written into one folder:

| file | what |
|---|---|
| ``trials``, ``measurements``, ``arrangement``, ``cells``, ``classes`` ``.parquet``, ``.tsv`` | a row a trial or more |
| ``colours`` ``.parquet``, ``.tsv`` | of RGB sections, a row a trial, filler and channel |
| ``summary``, ``class_summary``, ``arrangement_summary`` ``.parquet``, ``.tsv`` | errors with intervals, by bin |
| ``windows``, ``realism_summary`` ``.parquet``, ``.tsv`` | whether a judge tells fills by features of windows |
| ``area_summary`` ``.parquet``, ``.tsv`` | shares of large cells and quantiles of their areas, with intervals |
| ``colour_summary`` ``.parquet``, ``.tsv`` | how far fillers shift red, green and blue, with intervals |
| ``dictionary.tsv`` | every column of every table, with its unit (`cytomend.evaluation.tables`) |
| ``evaluation.json`` | settings, model with checksum, number of trials |
| ``figures/*.svg``, ``figures/captions.json`` | the figures, and what to see in them |

Small and large patches stand in the same tables, with a column that says which; summaries and figures keep them apart.
Few trials are held at a time, and their rows are written as they come.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm.contrib.logging import logging_redirect_tqdm

from cytomend.classification.classifiers import Classifier, open_classifier
from cytomend.errors import InputError
from cytomend.evaluation.colours import colour_rows
from cytomend.evaluation.fillers import Filler, open_filler, renoised
from cytomend.evaluation.measurement import (
    FLOOR,
    KNOWN,
    ORIGINAL,
    PASTED,
    PLACES,
    RENOISED,
    TRUTH,
    Looks,
    Row,
    Seen,
    classify,
)
from cytomend.evaluation.placement import ARTEFACT, INTACT, LARGE, SMALL, Placement
from cytomend.evaluation.realism_table import window_rows
from cytomend.evaluation.summary import summaries
from cytomend.evaluation.tables import (
    FACTS,
    GATHERED,
    SUMMED,
    TableFiles,
    cell_areas,
    pieces,
    read_table,
    table,
    write_tables,
)
from cytomend.evaluation.trial_store import MendedTrial, TrialStore
from cytomend.geometry import Box
from cytomend.plugins import blamed_on
from cytomend.progress import Progress
from cytomend.regions.plan import Plan, SectionFacts
from cytomend.report.evaluation_drawing import draw_evaluation
from cytomend.report.evaluation_figures import Exemplar
from cytomend.report.evaluation_shown import FIGURES
from cytomend.segmentation.segmenters import Segmenter, open_segmenter
from cytomend.segmentation.stain import section_stain
from cytomend.stages.mend_shard import plan_identity
from cytomend.stains import MEASURED, parse_stain
from cytomend.storage.edition import require_planned
from cytomend.storage.images import SectionImage, open_image
from cytomend.storage.publish import (
    add_key_arguments,
    keyed,
    manifest_of,
    one_writer,
    publish,
    refuse_over,
    require_key,
)

log = logging.getLogger(__name__)

CHUNK, MOST_LARGE = 64, 4
"""Small trials that are held at a time, and large ones: a large one may take gigabytes while it is looked at."""
EXEMPLARS = {SMALL: 4, LARGE: 2}
MOST_EXEMPLAR_PX = 400
"""Side up to which the picture of a trial is shown as it is; of a larger one every second or third pixel, say."""
SURROUNDINGS_UM = 64.0

Grey = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """How to look at trials; see the block ``evaluate`` of ``workflow/schemas/config.schema.yaml``."""

    segmenters: list[str]
    classifier: str | None
    fillers: list[str]
    stain: str = MEASURED
    realism: bool = False


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of a section: its scan, and, where they are known, the section before its damage and its cells."""

    image: Path
    truth: Path | None = None
    cells: Path | None = None


class Views(NamedTuple):
    """What is read of a trial, all grey: of an RGB section its stain (`cytomend.segmentation.stain`).

    ``original`` undamaged, ``scan`` as it is with ``unknown`` pixels, ``other`` tissue for the floor (S, S) each, and
    the surroundings of the original and of the other. ``pixels`` and ``other_pixels`` (C, S, S) are original and other
    in colour.
    """

    original: Grey
    scan: Grey
    unknown: NDArray[np.bool_]
    other: Grey
    surroundings: Grey
    other_surroundings: Grey
    pixels: Grey
    other_pixels: Grey


def evaluate_section(
    sources: Sources, plan_folder: Path, trials: Path, settings: EvaluateSettings, threads: int, out: Path
) -> Path:
    """Evaluate the mended trials of a section into the folder ``out`` and return its manifest.

    Raises
    ------
    InputError
        If a file or a name among the settings cannot be used, or truth and scan do not fit each other.
    """
    refuse_over(out, [sources.image, sources.truth, sources.cells, plan_folder, trials])
    plan, store = Plan.read(plan_folder), TrialStore.open(trials)
    if store.facts["plan"] != plan_identity(plan_folder):
        raise InputError(f"{trials}: was made for another plan than {plan_folder}; mend the trials again")
    require_planned(sources.image, manifest_of(plan_folder))
    with one_writer(out) as work, logging_redirect_tqdm(), ExitStack() as stack:
        shutil.rmtree(work)
        (work / FIGURES).mkdir(parents=True)
        image = stack.enter_context(open_image(sources.image))
        truth = stack.enter_context(open_image(sources.truth)) if sources.truth else None
        _check_truth(image, truth)
        Evaluation(plan, store, image, truth, sources.cells, settings).run(threads, work)
        return publish(work, out, {"section": plan.facts.section, "trials": len(store)})


def check_sources(sources: Sources, plan_folder: Path) -> None:
    """Refuse a truth or known cells that do not belong to the section.

    Raises
    ------
    InputError
        If they do not fit, or cannot be read.
    """
    _known_cells(sources.cells, Plan.read(plan_folder).facts)
    if sources.truth:
        with open_image(sources.image) as image, open_image(sources.truth) as truth:
            _check_truth(image, truth)


class Parts(NamedTuple):
    """What looks at pictures, and the simple fillers, by name."""

    segmenters: dict[str, Segmenter]
    classifier: Classifier | None
    fillers: dict[str, Filler]


def open_parts(settings: EvaluateSettings) -> Parts:
    """Load what an evaluation is put together from.

    Raises
    ------
    InputError
        If a name is unknown, or a file or module cannot be used.
    """
    parse_stain(settings.stain)
    return Parts(
        {name: open_segmenter(name) for name in settings.segmenters},
        open_classifier(settings.classifier) if settings.classifier else None,
        {name: open_filler(name) for name in settings.fillers},
    )


class Evaluation:
    """One evaluation: trials, controls and downstream models put together."""

    def __init__(
        self,
        plan: Plan,
        store: TrialStore,
        image: SectionImage,
        truth: SectionImage | None,
        cells: Path | None,
        settings: EvaluateSettings,
    ) -> None:
        self.plan, self.facts, self.store, self.image, self.truth = plan, plan.facts, store, image, truth
        self.settings = settings
        self.segmenters, self.classifier, self.fillers = open_parts(settings)
        self.known = _known_cells(cells, plan.facts)
        self.stain = section_stain(image, plan.not_intact(), plan.facts.value_range, settings.stain)
        log.info("section %s: stain %s", plan.facts.section, self.stain.record())

    def run(self, threads: int, work: Path) -> None:
        """Look at all trials, sum up, and write."""
        exemplars: list[Exemplar] = []
        with (
            Progress(f"section {self.facts.section}", len(self.store), "trial") as progress,
            ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
            TableFiles(work, GATHERED) as files,
        ):
            shown = self._choose_exemplars()
            for chunk in self.store.batches(CHUNK, min(threads, MOST_LARGE)):
                views = [self._read(trial.place) for trial in chunk]
                looks = list(pool.map(self._look, chunk, views))
                for name in GATHERED:
                    rows = [{"section": self.facts.section, **row} for found in looks for row in found[name]]
                    files.add(name, table(name, rows))
                exemplars += [
                    self._exemplar(trial, seen)
                    for trial, seen in zip(chunk, views, strict=True)
                    if trial.place.trial in shown
                ]
                progress.update(len(chunk))
        measured = {name: read_table(work, name) for name in SUMMED}
        tables = summaries(measured, pieces(work, "cells"))
        write_tables(work, tables, files.columns)
        exemplars.sort(key=lambda exemplar: exemplar.fraction)
        segmenter, facts = self.settings.segmenters[0], self._facts()
        draw_evaluation(
            work / FIGURES,
            {**measured, **tables},
            cell_areas(work, segmenter, INTACT),
            segmenter,
            self.store.facts["samplers"],
            facts["patches"]["patch_um"],
            exemplars,
        )
        (work / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def _choose_exemplars(self) -> set[int]:
        """Return some trials of each size on intact tissue, from small masks to large ones, to be shown."""
        picked: set[int] = set()
        for size, most in EXEMPLARS.items():
            chosen = sorted(
                (trial.fraction, trial.trial)
                for trial in self.store.listed()
                if trial.kind == INTACT and trial.size == size
            )
            places = np.linspace(0, len(chosen) - 1, min(most, len(chosen))).round().astype(int)
            picked |= {chosen[i][1] for i in places}
        return picked

    def _read(self, place: Placement) -> Views:
        """Read what a trial needs; files are read by one thread alone."""
        whole = self.truth or self.image
        pixels, other = whole.read(place.view), whole.read(place.other)
        return Views(
            original=self.stain.grey(pixels),
            scan=self.stain.grey(self.image.read(place.view)),
            unknown=place.mask | self.plan.mask.read(place.view),
            other=self.stain.grey(other),
            surroundings=self._surroundings(place.view),
            other_surroundings=self._surroundings(place.other),
            pixels=pixels,
            other_pixels=other,
        )

    def _surroundings(self, view: Box) -> Grey:
        around = view.grow(round(SURROUNDINGS_UM / self.facts.pixel_size_um)).clip(self.facts.shape)
        return self.stain.grey((self.truth or self.image).read(around))

    def _look(self, trial: MendedTrial, views: Views) -> dict[str, list[Row]]:
        """Return the rows of one trial, by table."""
        place, pictures = trial.place, self._pictures(trial, views)
        looks = self._looks(place, views.original, views.surroundings)
        floor = self._looks(place.at_floor, views.other, views.other_surroundings)
        seen = [
            floor.as_it_stands(FLOOR, name, views.original) if filler == FLOOR else looks.look(filler, name, picture)
            for name in self.segmenters
            for filler, picture in pictures.items()
        ]
        if self.known is not None:
            cells = _cells_in(self.known, place, self.facts.pixel_size_um)
            seen.append(looks.measured(TRUTH, KNOWN, views.original, cells, cells))
        classes: list[Row] = []
        if self.classifier and self.settings.classifier:
            classes = classify(
                place,
                pictures,
                self.settings.classifier,
                self.classifier,
                pixel_size_um=self.facts.pixel_size_um,
                value_range=self.facts.value_range,
            )
        # Under the mask the floor and what is pasted are the same pixels.
        others = dict.fromkeys((FLOOR, PASTED), views.other_pixels)
        coloured = {ORIGINAL: views.pixels, **trial.fills, **others}
        windows: list[Row] = []
        if self.settings.realism:
            windows = window_rows(place, pictures, views.surroundings, self.facts.pixel_size_um)
        return {**_rows(place, seen, classes), "colours": colour_rows(place, coloured), "windows": windows}

    def _looks(self, place: Placement, picture: Grey, surroundings: Grey) -> Looks:
        return Looks(
            place,
            picture,
            surroundings,
            self.segmenters,
            pixel_size_um=self.facts.pixel_size_um,
            value_range=self.facts.value_range,
        )

    def _pictures(self, trial: MendedTrial, views: Views) -> dict[str, Grey]:
        """Return the original, all that fills it, each equal to the original outside the mask, and the floor whole."""

        def put_in(filled: Grey) -> Grey:
            return np.where(trial.place.mask, filled, views.original)

        pictures = {
            ORIGINAL: views.original,
            **{name: put_in(self.stain.grey(pixels)) for name, pixels in trial.fills.items()},
            FLOOR: views.other,
            PASTED: put_in(views.other),
        }
        for name, filler in self.fillers.items():
            with blamed_on("filler", name):
                pictures[name] = put_in(filler(views.scan, views.unknown))
        return {**pictures, RENOISED: renoised(views.original, seed=trial.place.trial)}

    def _exemplar(self, trial: MendedTrial, views: Views) -> Exemplar:
        """Return a trial to be looked at, with the first segmenter's cells; those of a large patch are too many."""
        place, fill = trial.place, next(iter(trial.fills.values()))
        low, high = self.facts.value_range
        filled = np.where(place.mask, fill, views.pixels)
        step = -(-place.view.shape[0] // MOST_EXEMPLAR_PX)
        shown = [((p.astype(np.float64) - low) / (high - low)).clip(0, 1) for p in (views.pixels, filled)]
        looks = [p[0] if len(p) == 1 else np.moveaxis(p, 0, -1) for p in (p[:, ::step, ::step] for p in shown)]
        cells = [pd.DataFrame()] * 2 if place.size == LARGE else self._exemplar_cells(trial, fill, views)
        return Exemplar(
            original=looks[0],
            mask=place.mask[::step, ::step],
            mended=looks[1],
            cells_before=cells[0],
            cells_after=cells[1],
            pixel_size_um=self.facts.pixel_size_um * step,
            fraction=place.fraction,
            title=f"trial {place.trial}",
            size=place.size,
        )

    def _exemplar_cells(self, trial: MendedTrial, fill: Grey, views: Views) -> list[pd.DataFrame]:
        """Return the first segmenter's cells before and after."""
        after = np.where(trial.place.mask, self.stain.grey(fill), views.original)
        return [
            next(iter(self.segmenters.values())).find(
                picture.copy(),
                pixel_size_um=self.facts.pixel_size_um,
                value_range=self.facts.value_range,
                surroundings=views.surroundings,
            )
            for picture in (views.original, after)
        ]

    def _facts(self) -> Row:
        stored = self.store.facts
        counts = Counter(trial.kind for trial in self.store.listed() if trial.size == SMALL)
        keys = (
            *("section", "cytomend", "model", "checkpoint_sha256", "filler", "sampler", "calls"),
            *("wanted", "patches", "settings", "seed"),
        )
        return {
            **{key: stored[key] for key in keys},
            "model_fillers": stored["samplers"],
            "look": asdict(self.settings),
            "pixel_size_um": self.facts.pixel_size_um,
            "stain": self.stain.record(),
            "trials": {kind: counts[kind] for kind in (INTACT, ARTEFACT)},
        }


def _rows(place: Placement, seen: Sequence[Seen], classes: list[Row]) -> dict[str, list[Row]]:
    trial: Row = {
        "trial": place.trial,
        "kind": place.kind,
        "size": place.size,
        "fraction": place.fraction,
        "y0_px": place.patch.y0,
        "x0_px": place.patch.x0,
        "patch_px": place.patch.shape[0],
        "margin_px": place.margin_px,
        "masked_px": int(place.mask.sum()),
        "other_y0_px": place.other.y0 + place.margin_px,
        "other_x0_px": place.other.x0 + place.margin_px,
    }
    return {
        "trials": [trial],
        "measurements": [s.measurement for s in seen],
        "arrangement": [row for s in seen for row in s.arrangement],
        "cells": [row for s in seen for row in s.cells],
        "classes": classes,
    }


def _known_cells(path: Path | None, facts: SectionFacts) -> pd.DataFrame | None:
    """Read a table of known cells.

    Raises
    ------
    InputError
        If it is missing, has other columns or numbers that mean nothing, or no cell in the section.
    """
    if path is None:
        return None
    try:
        cells = pd.read_parquet(path, columns=PLACES).astype(np.float64)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: expected a table of cells with {', '.join(PLACES)} ({reason})") from error
    if not np.isfinite(cells.to_numpy()).all() or (cells["area_um2"] <= 0).any():
        raise InputError(f"{path}: expected finite places and positive areas of all cells")
    height, width = (side * facts.pixel_size_um for side in facts.shape)
    if not (cells["y_um"].between(0, height) & cells["x_um"].between(0, width)).any():
        raise InputError(f"{path}: no cell lies in the section of {height:g} x {width:g} µm; are they given in µm?")
    return cells


def _cells_in(cells: pd.DataFrame, place: Placement, pixel_size_um: float) -> pd.DataFrame:
    """Return the cells of a view, from its own corner."""
    corner = np.array([place.view.y0, place.view.x0]) * pixel_size_um
    moved = cells.assign(y_um=cells["y_um"] - corner[0], x_um=cells["x_um"] - corner[1])
    side_um = place.view.shape[0] * pixel_size_um
    return moved[((moved[["y_um", "x_um"]] >= 0) & (moved[["y_um", "x_um"]] < side_um)).all(axis=1)]


def _check_truth(image: SectionImage, truth: SectionImage | None) -> None:
    if truth is not None and (truth.shape, truth.channels, truth.dtype) != (image.shape, image.channels, image.dtype):
        raise InputError(
            f"{truth.path}: {truth.shape} px, {truth.channels} channels, {truth.dtype}; expected the undamaged"
            f" {image.path} with {image.shape} px, {image.channels} channels, {image.dtype}"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--image", type=Path, required=True, help="scan of the section")
    parser.add_argument("--truth", type=Path, help="the section before it was damaged, if that is known")
    parser.add_argument("--cells", type=Path, help="its cells (Parquet), if they are known")
    parser.add_argument("--plan", type=Path, required=True, help="folder of the plan")
    parser.add_argument("--trials", type=Path, required=True, help="Zarr store of the mended trials")
    entries = ", ".join(field.name for field in fields(EvaluateSettings))
    parser.add_argument("--settings", required=True, help=f"JSON object with {entries}")
    parser.add_argument("--out", type=Path, required=True, help="folder of the evaluation")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="trials that are looked at at a time")
    add_key_arguments(parser, after="mended trials")


def main(args: argparse.Namespace) -> None:
    """Run the stage."""
    require_key(args.trials, args.after)
    if args.threads < 1:
        raise InputError(f"--threads is {args.threads}, expected at least 1")
    settings = EvaluateSettings(**json.loads(args.settings))
    sources = Sources(args.image, args.truth, args.cells)
    print(keyed(evaluate_section(sources, args.plan, args.trials, settings, args.threads, args.out), args.key))
