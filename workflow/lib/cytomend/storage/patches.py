"""A patch store: squares of intact tissue of one section, in one Zarr group that training reads at random.

| array | dimensions | what |
|---|---|---|
| ``pixels`` | (patch, c, y, x) | values in the scanner's dtype |
| ``corners`` | (patch, 2) | absolute (y, x) pixel of the patch's upper left corner in the scan |

A shard file holds about 64 MiB of patches, so that a million patches of 1 MB are some twenty thousand files; a chunk is
at most 256 px wide, so that a small window costs little reading.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from cytomend.errors import InputError
from cytomend.storage.omezarr import attributes_of
from cytomend.values import ValueRange, to_model

SHARD_BYTES = 64 << 20
CHUNK_PX = 256
FACTS = {"patches", "patch_px", "value_range"}
"""Attributes without which a group is no patch store."""


class Patch(NamedTuple):
    """``corner`` (y, x) in the scan; ``pixels`` (C, side, side) in the scanner's dtype."""

    corner: tuple[int, int]
    pixels: NDArray[Any]


def write_patches(
    store: Path, patches: Iterable[Patch], shape: tuple[int, int, int, int], dtype: str, facts: dict[str, Any]
) -> int:
    """Write patches as they come, never holding more than a shard of them, and return how many came.

    Parameters
    ----------
    store : folder of the group; what is in it is replaced
    patches : as many as there are, at most ``shape[0]``
    shape : (most patches, C, side, side)
    dtype : of the scanner
    facts : attributes of the group, builtins only
    """
    most, channels, side, _ = shape
    chunk = min(CHUNK_PX, side)
    shard = -(-side // chunk) * chunk  # a shard is whole chunks; what lies beyond the patch is never written
    each = max(1, min(most, SHARD_BYTES // (channels * side**2 * np.dtype(dtype).itemsize)))
    group = zarr.open_group(store, mode="w", zarr_format=3)
    pixels = group.create_array(
        "pixels",
        shape=shape,
        dtype=dtype,
        chunks=(1, channels, chunk, chunk),
        shards=(each, channels, shard, shard),
        compressors=BloscCodec(cname="zstd", clevel=1, shuffle="noshuffle"),
        dimension_names=("patch", "c", "y", "x"),
        overwrite=True,
    )
    corners: list[tuple[int, int]] = []
    waiting: list[NDArray[Any]] = []
    for patch in patches:
        corners.append(patch.corner)
        waiting.append(patch.pixels)
        if len(waiting) == each:
            pixels[len(corners) - len(waiting) : len(corners)] = np.stack(waiting)
            waiting.clear()
    if waiting:
        pixels[len(corners) - len(waiting) : len(corners)] = np.stack(waiting)
    pixels.resize((len(corners), *shape[1:]))
    group.create_array("corners", data=np.array(corners, dtype=np.int64).reshape(-1, 2), overwrite=True)
    group.attrs.update({**facts, "patches": len(corners), "patch_px": side, "channels": channels})
    return len(corners)


def is_patch_store(path: Path) -> bool:
    """Whether a folder says that it is a patch store."""
    return set(attributes_of(path)) >= FACTS


class PatchStore:
    """A finished store, from which windows are read one by one; nothing of it is held.

    Parameters
    ----------
    path : the store
    weight : how often it is drawn, in proportion

    Raises
    ------
    InputError
        If it is no patch store.
    """

    def __init__(self, path: Path, weight: float = 1.0) -> None:
        self.path = path
        self.weight = weight
        self.facts = attributes_of(path)
        if not set(self.facts) >= FACTS:
            raise InputError(
                f"{path}: expected a patch store, found none that is whole; make it with `cytomend gather-patches`"
            )
        self.patches: int = self.facts["patches"]
        self.patch_px: int = self.facts["patch_px"]
        self._range: ValueRange = (float(self.facts["value_range"][0]), float(self.facts["value_range"][1]))
        self._opened: tuple[int, zarr.Array[Any]] | None = None

    def square(self, rng: np.random.Generator, side_px: int) -> NDArray[np.float32]:
        """Return a random (C, side, side) part of a random patch, in [-1, 1].

        Raises
        ------
        ValueError
            If the patches are smaller.
        """
        if side_px > self.patch_px:
            raise ValueError(f"no square of {side_px} px in patches of {self.patch_px} px")
        patch = int(rng.integers(self.patches))
        y, x = (int(v) for v in rng.integers(self.patch_px - side_px + 1, size=2))
        return to_model(np.asarray(self._pixels()[patch, :, y : y + side_px, x : x + side_px]), self._range)

    def _pixels(self) -> zarr.Array[Any]:
        """Return the array, opened by the very process that reads: a forked one must not share its threads."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), zarr.open_array(self.path / "pixels", mode="r")
        return self._opened[1]
