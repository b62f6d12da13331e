"""The linear judge in an evaluation: a table of window features, and what the judge says of it.

Features of windows are small, so they are kept in a table for each section. Over a brain, tables are put together and
sections are left out in turn. Windows of small and of large patches are judged apart.
`cytomend.evaluation.realism` says how a judge works.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cytomend.evaluation.measurement import FLOOR, ORIGINAL, Row
from cytomend.evaluation.placement import Placement
from cytomend.evaluation.realism import Groups, LinearLearner, groups_by_place, judge_looks, weights_of
from cytomend.evaluation.window_features import describe
from cytomend.evaluation.window_pairs import COVERED, WINDOW_UM, covered_corners

Grey = NDArray[np.generic]
Float = NDArray[np.float64]

FEWEST = 12
"""Pairs of windows from which on a judge is asked."""
MOST_WINDOWS = 8
"""Windows of a trial that are kept. A large mask has room for hundreds."""
TOLD = 3
KEYS = ["section", "trial", "window"]


def feature_names() -> list[str]:
    """Return the names of all features of grey windows."""
    return describe(np.zeros((1, 1, 64, 64), np.float32), 1.0)[0]


def window_rows(place: Placement, pictures: Mapping[str, Grey], surroundings: Grey, pixel_size_um: float) -> list[Row]:
    """Return a row for each picture and each of at most `MOST_WINDOWS` windows of the mask, with its features.

    Parameters
    ----------
    place : the trial
    pictures : (S, S) grey by filler, with the original; the floor is tissue elsewhere, as it stands
    surroundings : tissue around the trial, whose mean and standard deviation scale all windows alike
    pixel_size_um : side of a pixel in µm
    """
    side_px = round(WINDOW_UM / pixel_size_um)
    corners = some_of(covered_corners(place.mask, side_px, COVERED), MOST_WINDOWS)
    if not corners:
        return []
    mean, sd = float(surroundings.mean()), max(float(surroundings.std()), 1e-6)
    key = {"trial": place.trial, "kind": place.kind, "size": place.size, "fraction": place.fraction}
    rows: list[Row] = []
    for filler, picture in pictures.items():
        view = place.other if filler == FLOOR else place.view
        windows = np.stack([picture[y : y + side_px, x : x + side_px] for y, x in corners])
        names, features = describe(
            ((windows.astype(np.float64) - mean) / sd)[:, None].astype(np.float32), pixel_size_um
        )
        rows += [
            {
                **key,
                "filler": filler,
                "window": i,
                "y_um": (view.y0 + y) * pixel_size_um,
                "x_um": (view.x0 + x) * pixel_size_um,
                **dict(zip(names, values, strict=True)),
            }
            for i, ((y, x), values) in enumerate(zip(corners, features.tolist(), strict=True))
        ]
    return rows


def some_of(corners: list[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Return at most so many corners, spread over the list."""
    chosen = np.linspace(0, len(corners) - 1, min(most, len(corners))).round().astype(int)
    return [corners[i] for i in chosen]


def summarise_realism(windows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return a row for each size, kind and filler: how often the linear judge tells its windows from the original's.

    Parameters
    ----------
    windows : the table ``windows``, of one section or of many; a single section is split by place
    seed : decides which sections are judged together
    """
    rows = [
        {"size": size, "kind": kind, "filler": filler, **row}
        for (size, kind), part in windows.groupby(["size", "kind"], sort=False)
        for filler in dict.fromkeys(part["filler"])
        if filler != ORIGINAL
        for row in _judged(str(filler), part, seed)
    ]
    return pd.DataFrame(rows)


def _judged(filler: str, windows: pd.DataFrame, seed: int) -> Iterator[Row]:
    """Yield the row of one filler, if there are enough windows."""
    own, original = (windows[windows["filler"] == name].set_index(KEYS) for name in (filler, ORIGINAL))
    both = own.index.intersection(original.index)
    own, original = own.loc[both], original.loc[both]
    groups = _groups(own, original)
    kept = groups >= 0
    if kept.sum() < FEWEST or len(set(groups[kept].tolist())) < 2:
        return
    names = [name for name in feature_names() if name in own and own[name].notna().all()]
    features = np.concatenate([table[names].to_numpy(np.float64)[kept] for table in (own, original)])
    looks = LinearLearner.centred(features, np.tile(groups[kept], 2))
    verdict = judge_looks(looks, groups[kept], seed, learner=LinearLearner())
    weights = weights_of(names, looks)
    yield {
        "window_pairs": verdict.pairs,
        "parts": len(set(groups[kept].tolist())),
        "accuracy": verdict.accuracy,
        "low": verdict.low,
        "high": verdict.high,
        "told_by": ", ".join(f"{weight.feature} {weight.difference:+.2f}" for weight in weights[:TOLD]),
    }


def _groups(own: pd.DataFrame, original: pd.DataFrame) -> Groups:
    """Return the group of each pair: its section, or its part of the only section."""
    names, groups = np.unique(own.index.get_level_values("section").to_numpy(str), return_inverse=True)
    if len(names) > 1 or not len(own):
        return groups.astype(np.int64)
    places = np.stack([table[["y_um", "x_um"]].to_numpy(np.float64) for table in (own, original)], axis=1)
    return groups_by_place(places, WINDOW_UM)
