"""Mended trials on disk: where they lie, their masks, and what each sampler drew there. One Zarr group.

| array | dimensions | what |
|---|---|---|
| ``place`` | (trial, 6) | number; corner of the view, y and x; of the floor's view, y and x; 1 on an artefact |
| ``mask`` | (trial, y, x) | bool, the pixels that were masked |
| ``fill-0``, ``fill-1``, ... | (trial, c, y, x) | what each sampler drew, in the scanner's dtype; 0 outside the mask |
| ``drawn-0``, ``drawn-1``, ... | (trial,) | bool, whether the sampler filled this trial |

Attributes: ``samplers``, their names in the order of the arrays; ``margin_px``; provenance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.evaluation.placement import ARTEFACT, INTACT, Placement
from cytomend.geometry import Box
from cytomend.storage.publish import require_intact

PER_CHUNK = 16

Picture = NDArray[np.generic]


class MendedTrial(NamedTuple):
    """A trial and what was drawn in it, (C, S, S) by sampler."""

    place: Placement
    fills: dict[str, Picture]


@dataclass(frozen=True, slots=True)
class TrialStore:
    """A store opened for reading; pictures are read trial by trial."""

    group: zarr.Group
    facts: dict[str, Any]
    places: NDArray[np.int64]

    @classmethod
    def open(cls, folder: Path) -> TrialStore:
        """Open a store.

        Raises
        ------
        InputError
            If it is missing or damaged.
        """
        require_intact(folder)
        try:
            group = zarr.open_group(folder, mode="r")
            return cls(group, dict(group.attrs), np.asarray(_array(group, "place")))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder}: expected mended trials ({error}); delete it and run again") from error

    def __len__(self) -> int:
        return len(self.places)

    def read(self, start: int, stop: int) -> list[MendedTrial]:
        """Return some trials, in their order."""
        masks = np.asarray(_array(self.group, "mask")[start:stop])
        fills = {
            name: [np.asarray(_array(self.group, f"{what}-{i}")[start:stop]) for what in ("drawn", "fill")]
            for i, name in enumerate(self.facts["samplers"])
        }
        found = []
        for i, (place, mask) in enumerate(zip(self.places[start:stop], masks, strict=True)):
            drawn = {name: pixels[i] for name, (there, pixels) in fills.items() if there[i]}
            found.append(MendedTrial(_placement(place.tolist(), mask, self.facts["margin_px"]), drawn))
        return found


def write_trials(
    folder: Path,
    places: Sequence[Placement],
    fills: Mapping[str, Mapping[int, Picture]],
    channels: int,
    dtype: np.dtype[Any],
    facts: Mapping[str, Any],
) -> None:
    """Write a store.

    Parameters
    ----------
    folder : what stood there is replaced
    places : the trials
    fills : by sampler and by the trial's number, (C, S, S)
    channels, dtype : of the scan
    facts : attributes
    """
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    side = places[0].view.shape[0] if places else 1
    table = np.array([_row(place) for place in places], dtype=np.int64).reshape(-1, 6)
    _write(group, "place", table, ("trial", "entry"))
    _write(group, "mask", np.array([p.mask for p in places], bool).reshape(-1, side, side), ("trial", "y", "x"))
    nothing = np.zeros((channels, side, side), dtype)
    for i, of_sampler in enumerate(fills.values()):
        drawn = np.array([p.trial in of_sampler for p in places], bool)
        pixels = np.array([of_sampler.get(p.trial, nothing) for p in places], dtype)
        _write(group, f"drawn-{i}", drawn, ("trial",))
        _write(group, f"fill-{i}", pixels.reshape(-1, channels, side, side), ("trial", "c", "y", "x"))
    margin_px = places[0].margin_px if places else 0
    group.attrs.update({**facts, "samplers": list(fills), "margin_px": margin_px})


def _write(group: zarr.Group, name: str, values: NDArray[Any], dimensions: tuple[str, ...]) -> None:
    chunks = (min(PER_CHUNK, max(len(values), 1)), *values.shape[1:])
    array = group.create_array(
        name, shape=values.shape, dtype=values.dtype, chunks=chunks, dimension_names=dimensions, overwrite=True
    )
    if values.size:
        array[...] = values


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    found = group[name]
    assert isinstance(found, zarr.Array)
    return found


def _row(place: Placement) -> tuple[int, ...]:
    corners = (place.view.y0, place.view.x0, place.other.y0, place.other.x0)
    return (place.trial, *corners, int(place.kind == ARTEFACT))


def _placement(row: list[int], mask: NDArray[np.bool_], margin_px: int) -> Placement:
    trial, y, x, other_y, other_x, artefact = row
    side = mask.shape[0]
    return Placement(
        trial,
        ARTEFACT if artefact else INTACT,
        Box(y, x, y + side, x + side),
        margin_px,
        mask,
        Box(other_y, other_x, other_y + side, other_x + side),
    )
