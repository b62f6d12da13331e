"""The figures of an evaluation, made from its tables and written into its folder, with their captions.

Small and large patches have figures apart: those of large ones are named ``NAME-large``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cytomend.evaluation.placement import LARGE, SIZES, SMALL
from cytomend.report.evaluation_figures import EvaluationTables, Exemplar, write_figures
from cytomend.report.evaluation_shown import CAPTIONS, square_mm
from cytomend.storage.publish import write_whole


def draw_evaluation(
    folder: Path,
    tables: Mapping[str, pd.DataFrame],
    areas: Mapping[str, Mapping[str, NDArray[np.float64]]],
    segmenter: str,
    models: Sequence[str],
    patch_um: float,
    exemplars: Sequence[Exemplar] = (),
) -> None:
    """Write ``NAME.svg`` for each figure and ``captions.json``.

    Parameters
    ----------
    folder : of the figures
    tables : ``summary``, ``class_summary``, ``measurements`` and ``arrangement_summary`` of an evaluation
    areas : of single cells in µm², by size of the patch and by filler
    segmenter : whose cells are drawn
    models : fillers that are the model, by one sampler or another
    patch_um : side of the large patches
    exemplars : trials to be looked at
    """
    captions: dict[str, str] = {}
    found = set(tables["measurements"]["size"]) or {SMALL}
    for size in (size for size in SIZES if size in found):
        drawn = EvaluationTables(
            summary=_of(tables["summary"], size),
            classes=_of(tables["class_summary"], size),
            measurements=_of(tables["measurements"], size),
            arrangement=_of(tables["arrangement_summary"], size),
            exemplars=[exemplar for exemplar in exemplars if exemplar.size == size],
            cell_areas_um2=areas.get(size, {}),
            models=models,
            fillers=list(dict.fromkeys(tables["measurements"]["filler"])),
        )
        suffix, said = ("", "") if size == SMALL else (f"-{LARGE}", f"Patches of {square_mm(patch_um)}. ")
        written = write_figures(folder, drawn, segmenter=segmenter, suffix=suffix)
        captions |= {name: said + caption for name, caption in written.captions.items()}
    text = json.dumps(captions, indent=1) + "\n"
    write_whole(folder / CAPTIONS, lambda path: path.write_text(text, encoding="utf-8"))


def _of(table: pd.DataFrame, size: str) -> pd.DataFrame:
    return table[table["size"] == size]
