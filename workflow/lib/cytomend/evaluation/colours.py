"""The colour of RGB trials: mean red, green and blue inside the mask, and how far a filler shifts each.

A picture of the stain's density, in which cells are looked for, says nothing of hue: a fill may have the right cells
in the wrong colour.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cytomend.evaluation.measurement import ORIGINAL, Row
from cytomend.evaluation.placement import Placement
from cytomend.evaluation.statistics import bootstrap_counts, interval

CHANNELS = ("red", "green", "blue")
DRAWS = 1000


def colour_rows(place: Placement, pictures: Mapping[str, NDArray[np.generic]]) -> list[Row]:
    """Return a row a picture and channel: the sum of its values in the mask; none of grey pictures.

    Parameters
    ----------
    place : the trial
    pictures : (C, S, S) by filler, with the original
    """
    key = {"trial": place.trial, "kind": place.kind, "size": place.size, "fraction": place.fraction}
    return [
        {**key, "filler": filler, "channel": name, "pixels": float(place.mask.sum()), "value": float(total)}
        for filler, pixels in pictures.items()
        if len(pixels) == len(CHANNELS)
        for name, total in zip(CHANNELS, pixels[:, place.mask].astype(np.float64).sum(1), strict=True)
    ]


def summarise_colours(colours: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each size, kind, filler and channel: means over all trials together, and their difference."""
    keys = ["section", "trial", "size", "kind", "channel"]
    original = colours[colours["filler"] == ORIGINAL].set_index(keys)["value"].rename("before")
    both = colours[colours["filler"] != ORIGINAL].join(original, on=keys)
    rows: list[Row] = []
    for (size, kind, filler, channel), part in both.groupby(["size", "kind", "filler", "channel"], sort=False):
        pixels, before, value = (part[name].to_numpy(np.float64) for name in ("pixels", "before", "value"))
        counts = bootstrap_counts(len(part), times=DRAWS)
        low, high = interval((counts @ (value - before)) / np.maximum(counts @ pixels, 1))
        rows.append(
            {
                "size": size,
                "kind": kind,
                "filler": filler,
                "channel": channel,
                "trials": len(part),
                "original": float(before.sum() / pixels.sum()),
                "found": float(value.sum() / pixels.sum()),
                "shift": float((value - before).sum() / pixels.sum()),
                "shift_low": low,
                "shift_high": high,
            }
        )
    return pd.DataFrame(rows)
