"""Mended trials on disk: where they lie, their masks, and what each sampler drew there. One Zarr group.

It holds a group for each size of patch, ``small`` and ``large``:

| array | dimensions | what |
|---|---|---|
| ``place`` | (trial, 7) | number; corner of the view, y and x; of the floor's view; 1 on an artefact; masked pixels |
| ``mask`` | (trial, y, x) | bool, the pixels that were masked |
| ``fill-0``, ``fill-1``, ... | (trial, c, y, x) | what each sampler drew, in the scanner's dtype; 0 outside the mask |
| ``drawn-0``, ``drawn-1``, ... | (trial,) | bool, whether the sampler filled this trial |

Attributes: ``samplers``, their names in the order of the arrays; provenance; of each size ``margin_px``. A chunk holds
one large trial, or some small ones. Trials are written and read a chunk at a time, so that memory does not grow with
their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.evaluation.placement import ARTEFACT, INTACT, LARGE, SIZES, Placement
from cytomend.geometry import Box
from cytomend.storage.publish import require_intact

ENTRIES = 7
"""Of a row of ``place``."""
PER_CHUNK = 16

Picture = NDArray[np.generic]
Places = NDArray[np.int64]


class MendedTrial(NamedTuple):
    """A trial and what was drawn in it, (C, S, S) by sampler."""

    place: Placement
    fills: dict[str, Picture]


class Listed(NamedTuple):
    """What is known of a trial before its pictures are read; ``fraction`` is the share of the patch that is masked."""

    trial: int
    kind: str
    size: str
    fraction: float


@dataclass(frozen=True, slots=True)
class TrialStore:
    """A store opened for reading; pictures are read trial by trial."""

    group: zarr.Group
    facts: dict[str, Any]
    places: dict[str, Places]
    """By size."""

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
            places = {size: np.asarray(_array(group, f"{size}/place")) for size in SIZES}
            return cls(group, dict(group.attrs), places)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{folder}: expected mended trials ({error}); delete it and run again") from error

    def __len__(self) -> int:
        return sum(map(len, self.places.values()))

    def listed(self) -> list[Listed]:
        """Return all trials, in their order, without reading a picture."""
        return [
            Listed(number, ARTEFACT if artefact else INTACT, size, masked / self.patch_px(size) ** 2)
            for size, places in self.places.items()
            for number, *_, artefact, masked in places.tolist()
        ]

    def batches(self, most: int, most_large: int) -> Iterator[list[MendedTrial]]:
        """Yield all trials in their order, so many small or so many large ones at a time."""
        for size, places in self.places.items():
            step = most_large if size == LARGE else most
            for start in range(0, len(places), step):
                yield self.read(size, start, start + step)

    def patch_px(self, size: str) -> int:
        """Return the side of the patches of a size."""
        return int(_array(self.group, f"{size}/mask").shape[-1]) - 2 * self._margin_px(size)

    def read(self, size: str, start: int, stop: int) -> list[MendedTrial]:
        """Return some trials of a size, in their order."""
        masks = np.asarray(_array(self.group, f"{size}/mask")[start:stop])
        fills = {
            name: [np.asarray(_array(self.group, f"{size}/{what}-{i}")[start:stop]) for what in ("drawn", "fill")]
            for i, name in enumerate(self.facts["samplers"])
        }
        found = []
        for i, (place, mask) in enumerate(zip(self.places[size][start:stop], masks, strict=True)):
            drawn = {name: pixels[i] for name, (there, pixels) in fills.items() if there[i]}
            found.append(MendedTrial(_placement(place.tolist(), mask, self._margin_px(size), size), drawn))
        return found

    def _margin_px(self, size: str) -> int:
        return int(str(self.group[size].attrs["margin_px"]))


def write_trials(
    folder: Path,
    places: Mapping[str, Sequence[Placement]],
    fills: Mapping[str, Mapping[int, Picture]],
    channels: int,
    dtype: np.dtype[Any],
    facts: Mapping[str, Any],
) -> None:
    """Write a store.

    Parameters
    ----------
    folder : what stood there is replaced
    places : the trials, by size
    fills : by sampler and by the trial's number, (C, S, S)
    channels, dtype : of the scan
    facts : attributes
    """
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    for size in SIZES:
        step = 1 if size == LARGE else PER_CHUNK
        _write_size(group.create_group(size), places.get(size, ()), step, fills, channels, dtype)
    group.attrs.update({**facts, "samplers": list(fills)})


def _write_size(
    group: zarr.Group,
    places: Sequence[Placement],
    step: int,
    fills: Mapping[str, Mapping[int, Picture]],
    channels: int,
    dtype: np.dtype[Any],
) -> None:
    """Write the trials of one size, a chunk of ``step`` trials at a time."""
    one = places[0] if len(places) else None
    side, margin_px = (one.view.shape[0], one.margin_px) if one else (1, 0)
    step = min(step, max(len(places), 1))

    def make(name: str, kind: Any, *axes: tuple[str, int]) -> zarr.Array[Any]:  # noqa: ANN401
        dimensions, sides = zip(("trial", len(places)), *axes, strict=True)
        return group.create_array(
            name, shape=sides, dtype=kind, chunks=(step, *sides[1:]), dimension_names=dimensions, overwrite=True
        )

    square = ("y", side), ("x", side)
    table, masks = make("place", np.dtype(np.int64), ("entry", ENTRIES)), make("mask", np.dtype(bool), *square)
    drawn = [make(f"drawn-{i}", np.dtype(bool)) for i in range(len(fills))]
    pictures = [make(f"fill-{i}", dtype, ("c", channels), *square) for i in range(len(fills))]
    nothing = np.zeros((channels, side, side), dtype)
    for start in range(0, len(places), step):
        some = list(places[start : start + step])
        here = slice(start, start + len(some))
        table[here] = np.array([_row(place) for place in some], np.int64)
        masks[here] = np.stack([place.mask for place in some])
        for of_sampler, there, picture in zip(fills.values(), drawn, pictures, strict=True):
            there[here] = np.array([place.trial in of_sampler for place in some])
            picture[here] = np.stack([of_sampler.get(place.trial, nothing) for place in some])
    group.attrs["margin_px"] = margin_px


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    found = group[name]
    assert isinstance(found, zarr.Array)
    return found


def _row(place: Placement) -> tuple[int, ...]:
    corners = (place.view.y0, place.view.x0, place.other.y0, place.other.x0)
    return (place.trial, *corners, int(place.kind == ARTEFACT), int(place.mask.sum()))


def _placement(row: list[int], mask: NDArray[np.bool_], margin_px: int, size: str) -> Placement:
    trial, y, x, other_y, other_x, artefact, _ = row
    side = mask.shape[0]
    return Placement(
        trial,
        ARTEFACT if artefact else INTACT,
        Box(y, x, y + side, x + side),
        margin_px,
        mask,
        Box(other_y, other_x, other_y + side, other_x + side),
        size,
    )
