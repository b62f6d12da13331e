"""The figures of an evaluation, made from its tables and written into its folder, with their captions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from cytomend.evaluation.placement import INTACT
from cytomend.report.evaluation_figures import EvaluationTables, Exemplar, write_figures
from cytomend.report.evaluation_shown import CAPTIONS
from cytomend.storage.publish import write_whole


def draw_evaluation(
    folder: Path,
    tables: Mapping[str, pd.DataFrame],
    segmenter: str,
    models: Sequence[str],
    exemplars: Sequence[Exemplar] = (),
) -> None:
    """Write ``NAME.svg`` for each figure and ``captions.json``.

    Parameters
    ----------
    folder : of the figures
    tables : all tables of an evaluation, by name
    segmenter : whose cells are drawn
    models : fillers that are the model, by one sampler or another
    exemplars : trials to be looked at
    """
    cells = tables["cells"]
    mine = cells[(cells["segmenter"] == segmenter) & (cells["kind"] == INTACT)]
    areas = {str(name): part["area_um2"].to_numpy(dtype=float) for name, part in mine.groupby("filler", sort=False)}
    drawn = EvaluationTables(
        summary=tables["summary"],
        classes=tables["class_summary"],
        measurements=tables["measurements"],
        arrangement=tables["arrangement_summary"],
        exemplars=exemplars,
        cell_areas_um2=areas,
        models=models,
    )
    captions = json.dumps(write_figures(folder, drawn, segmenter=segmenter).captions, indent=1) + "\n"
    write_whole(folder / CAPTIONS, lambda path: path.write_text(captions, encoding="utf-8"))
