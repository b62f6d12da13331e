"""What downstream models and statistics say of a trial's picture: rows of the tables of an evaluation.

Each picture of a trial, the original included, is looked at by every segmenter and by the classifier. Everything is
measured inside the mask, but for the cells of the rim around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cytomend.classification.classifiers import Classifier
from cytomend.errors import InputError
from cytomend.evaluation.arrangement import RADII_UM, neighbour_sums
from cytomend.evaluation.orientation import ORIENTATION_STATISTICS, orientation_sums
from cytomend.evaluation.placement import Placement
from cytomend.evaluation.position import RIM_STATISTICS, rim_sums
from cytomend.evaluation.statistics import STATISTICS, SUMS, Ratio, measure
from cytomend.plugins import blamed_on
from cytomend.segmentation.classical import body_threshold
from cytomend.segmentation.segmenters import Segmenter
from cytomend.values import ValueRange, to_model

Grey = NDArray[np.generic]
Float = NDArray[np.float64]
Row = dict[str, Any]

ORIGINAL, TRUTH, KNOWN = "original", "truth", "known cells"
MEASURED: Mapping[str, Ratio] = {**STATISTICS, **RIM_STATISTICS, **ORIENTATION_STATISTICS}
"""Statistics of a picture by name. Those of the rim and ``direction kept`` compare it with the original."""

PLACES = ["y_um", "x_um", "area_um2"]


class Seen(NamedTuple):
    """What one look at a picture gives: rows for the tables of measurements, of arrangement and of cells."""

    measurement: Row
    arrangement: list[Row]
    cells: list[Row]


class Looks:
    """Looks at the pictures of one trial.

    Parameters
    ----------
    place : the trial
    original : (S, S) grey, undamaged
    surroundings : a larger picture of the same tissue, for thresholds
    segmenters, classifier : downstream models
    pixel_size_um, value_range : of the section
    """

    def __init__(
        self,
        place: Placement,
        original: Grey,
        surroundings: Grey,
        segmenters: Mapping[str, Segmenter],
        *,
        pixel_size_um: float,
        value_range: ValueRange,
    ) -> None:
        self.place, self.surroundings, self.segmenters = place, surroundings, segmenters
        self.pixel_size_um, self.value_range = pixel_size_um, value_range
        self.dark = body_threshold(surroundings, pixel_size_um=pixel_size_um)
        self.original = original
        self.cells_before = {name: self.find(name, segmenter, original) for name, segmenter in segmenters.items()}

    def find(self, name: str, segmenter: Segmenter, picture: Grey) -> pd.DataFrame:
        """Return the cells of a picture of this trial."""
        with blamed_on("segmenter", name):
            cells = segmenter.find(
                picture.copy(),
                pixel_size_um=self.pixel_size_um,
                value_range=self.value_range,
                surroundings=self.surroundings.copy(),
            )
            return checked_cells(cells, picture.shape[0] * self.pixel_size_um)

    def look(self, filler: str, segmenter: str, picture: Grey) -> Seen:
        """Return what a segmenter and the statistics say of a picture."""
        before = self.cells_before[segmenter]
        cells = before if picture is self.original else self.find(segmenter, self.segmenters[segmenter], picture)
        return self.measured(filler, segmenter, picture, cells, before)

    def measured(self, filler: str, segmenter: str, picture: Grey, cells: pd.DataFrame, before: pd.DataFrame) -> Seen:
        """Return the rows of a picture whose cells are found."""
        mask, pixel_size_um = self.place.mask, self.pixel_size_um
        places = cells[PLACES].to_numpy(np.float64)
        key: Row = {"trial": self.place.trial, "kind": self.place.kind, "filler": filler, "segmenter": segmenter}
        sums = dict(
            zip(SUMS, measure(picture, mask, places, pixel_size_um=pixel_size_um, dark=self.dark).tolist(), strict=True)
        )
        sums |= rim_sums(before[PLACES].to_numpy(np.float64), places, mask, pixel_size_um)
        sums |= orientation_sums(picture, self.original, mask, pixel_size_um)
        pairs, expected = neighbour_sums(places, mask, pixel_size_um)
        return Seen(
            {**key, "fraction": self.place.fraction, **sums, **values(sums)},
            [
                {**key, "radius_um": r, "pairs": p, "pairs_expected": e}
                for r, p, e in zip(RADII_UM.tolist(), pairs.tolist(), expected.tolist(), strict=True)
            ],
            [
                {**key, "fraction": self.place.fraction, **dict(zip(PLACES, cell, strict=True))}
                for cell in self._inside(places).tolist()
            ],
        )

    def _inside(self, places: Float) -> Float:
        """Return the cells whose centre lies in the mask, placed on the section."""
        mask = self.place.mask
        pixel = np.minimum((places[:, :2] / self.pixel_size_um).astype(np.int64), np.array(mask.shape) - 1)
        inside = places[mask[pixel[:, 0], pixel[:, 1]]]
        corner = np.array([self.place.view.y0, self.place.view.x0]) * self.pixel_size_um
        return np.column_stack([inside[:, :2] + corner, inside[:, 2]])


def checked_cells(cells: pd.DataFrame, side_um: float) -> pd.DataFrame:
    """Return the cells of a picture whose centre lies in it.

    Raises
    ------
    InputError
        If a column is missing, a number is not finite, or an area is not positive.
    """
    if missing := [column for column in PLACES if column not in cells]:
        raise InputError(f"expected a table of cells with {', '.join(PLACES)}, found none of {', '.join(missing)}")
    cells = cells.reset_index(drop=True)
    places = cells[PLACES].to_numpy(np.float64)
    if not np.isfinite(places).all() or (places[:, 2] <= 0).any():
        raise InputError("expected finite places and positive areas (µm, µm²) of all cells")
    inside = ((places[:, :2] >= 0) & (places[:, :2] < side_um)).all(axis=1)
    return cells.loc[np.flatnonzero(inside)].reset_index(drop=True)


def values(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statistics of sums; NaN where nothing was counted."""
    found = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, ratio in MEASURED.items():
            top, bottom = np.asarray(sums[ratio.top], np.float64), np.asarray(sums[ratio.bottom], np.float64)
            part = np.where(bottom > 0, top / bottom, np.nan)
            found[name] = (np.sqrt(part) if ratio.root else part)[()]
    return found


def classify(
    place: Placement,
    pictures: Mapping[str, Grey],
    name: str,
    classifier: Classifier,
    *,
    pixel_size_um: float,
    value_range: ValueRange,
) -> list[Row]:
    """Return a row a picture: what the classifier holds the patch for, first and second choice, and how surely."""
    inner = place.patch.relative_to(place.view).slices
    patches = np.stack([to_model(picture[inner], value_range) for picture in pictures.values()])
    with blamed_on("classifier", name):
        logits = np.asarray(classifier.predict(patches, pixel_size_um), dtype=np.float64)
        if logits.shape != (len(patches), len(classifier.classes)) or len(classifier.classes) < 2:
            raise InputError(
                f"expected logits of {len(patches)} patches and its {len(classifier.classes)} classes (at least 2),"
                f" found an array of shape {logits.shape}"
            )
        if not np.isfinite(logits).all():
            raise InputError("expected finite logits")
    order = np.argsort(-logits, axis=1, kind="stable")
    probability = np.exp(logits - logits.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    return [
        {
            "trial": place.trial,
            "kind": place.kind,
            "fraction": place.fraction,
            "filler": filler,
            "classifier": name,
            "top1": classifier.classes[first],
            "top2": classifier.classes[second],
            "margin": chance[first] - chance[second],
        }
        for filler, (first, second), chance in zip(pictures, order[:, :2].tolist(), probability, strict=True)
    ]
