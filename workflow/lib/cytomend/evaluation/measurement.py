"""What downstream models and statistics say of a trial's picture: rows of the tables of an evaluation.

Each picture of a trial, the original included, is looked at by every segmenter and by the classifier. Everything is
measured inside the mask, but for the cells of the rim around it.

The *floor* is the view of another place, measured as it stands under the same mask: nothing is pasted, so that no cell
is cut at an outline. It has no statistics of the rim's cells, which compare cells of one place before and after. Its
direction is compared with that of the original, and with its own rim.
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
FLOOR, PASTED, RENOISED = "floor", "pasted tissue", "renoised"
MEASURED: Mapping[str, Ratio] = {**STATISTICS, **RIM_STATISTICS, **ORIENTATION_STATISTICS}
"""Statistics of a picture by name. Those of the rim's cells and ``direction kept`` compare it with the original."""

NO_RIM = {name: np.nan for ratio in RIM_STATISTICS.values() for name in (ratio.top, ratio.bottom)}
"""Sums of the rim of a picture that has no original to compare with."""

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
        self._oriented: dict[str, dict[str, float]] = {}
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

    def as_it_stands(self, filler: str, segmenter: str, replaced: Grey) -> Seen:
        """Return what a segmenter and the statistics say of the original itself, in another's place.

        Parameters
        ----------
        filler, segmenter : names
        replaced : (S, S) grey, the original of that place: the direction is compared with its direction
        """
        return self.measured(filler, segmenter, self.original, self.cells_before[segmenter], None, replaced)

    def measured(
        self,
        filler: str,
        segmenter: str,
        picture: Grey,
        cells: pd.DataFrame,
        before: pd.DataFrame | None,
        replaced: Grey | None = None,
    ) -> Seen:
        """Return the rows of a picture whose cells are found.

        Parameters
        ----------
        filler, segmenter : names
        picture : (S, S) grey
        cells : of the picture
        before : cells of the original; without them, those of the rim are not compared
        replaced : (S, S) grey, whose direction the picture should keep; by default the original
        """
        mask, pixel_size_um = self.place.mask, self.pixel_size_um
        places = cells[PLACES].to_numpy(np.float64)
        place = self.place
        trial: Row = {"trial": place.trial, "kind": place.kind, "size": place.size}
        key: Row = {**trial, "filler": filler, "segmenter": segmenter}
        sums = dict(
            zip(SUMS, measure(picture, mask, places, pixel_size_um=pixel_size_um, dark=self.dark).tolist(), strict=True)
        )
        rim = NO_RIM if before is None else rim_sums(before[PLACES].to_numpy(np.float64), places, mask, pixel_size_um)
        sums |= rim | self._orientation(filler, picture, replaced)
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

    def _orientation(self, filler: str, picture: Grey, replaced: Grey | None) -> dict[str, float]:
        """Return the sums of orientation, computed once for all segmenters."""
        if filler not in self._oriented:
            original = self.original if replaced is None else replaced
            self._oriented[filler] = orientation_sums(picture, original, self.place.mask, self.pixel_size_um)
        return self._oriented[filler]

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
            "size": place.size,
            "fraction": place.fraction,
            "filler": filler,
            "classifier": name,
            "top1": classifier.classes[first],
            "top2": classifier.classes[second],
            "margin": chance[first] - chance[second],
        }
        for filler, (first, second), chance in zip(pictures, order[:, :2].tolist(), probability, strict=True)
    ]
