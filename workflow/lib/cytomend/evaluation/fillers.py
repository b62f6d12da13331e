"""Simple fillers: the controls that every sampler has to beat, and plug-ins to be measured beside it.

A filler takes a picture and its unknown pixels and returns the picture filled, in the same dtype. `lawful` keeps the
law of them all: what stands under the mask is not seen, and known pixels come back bit for bit.

``biharmonic``
    The smoothest surface through the known pixels.
``nearest tissue``
    Real tissue in the wrong place: each piece of the mask is copied from where it fits on known pixels, as near as can
    be; a piece that fits nowhere is cut in two.
``local mean``
    Flat grey of the surroundings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import correlate
from skimage.restoration import inpaint_biharmonic

from cytomend.errors import InputError
from cytomend.plugins import is_plugin, plugin

Grey = NDArray[Any]
Float = NDArray[np.float64]
Mask = NDArray[np.bool_]
Filler = Callable[[Grey, Mask], Grey]

# Wider than cells are apart, so that none of those beside the mask shows in a mean.
LEAST_SIGMA_PX = 16.0
MAD_OF_NORMAL = 0.6745


def lawful(fill: Filler) -> Filler:
    """Return the filler bound to the law: it sees 0 in place of unknown pixels, and known ones are put back.

    Raises
    ------
    InputError
        When it is called: if picture and mask do not fit, nothing is known, or the fill is not like the picture.
    """

    def filler(picture: Grey, unknown: Mask) -> Grey:
        if picture.ndim != 2 or picture.shape != unknown.shape:
            raise InputError(
                f"expected a grey picture (Y, X) and a mask of its shape, found {picture.shape} and {unknown.shape}"
            )
        if unknown.all():
            raise InputError("expected some known pixels to fill from, found none; give a smaller mask or more margin")
        if not unknown.any():
            return picture.copy()
        filled = np.asarray(fill(np.where(unknown, np.zeros((), picture.dtype), picture), unknown.copy()))
        if filled.shape != picture.shape or filled.dtype != picture.dtype:
            raise InputError(
                f"{getattr(fill, '__name__', fill)}: expected a fill like the picture, {picture.shape} {picture.dtype},"
                f" found {filled.shape} {filled.dtype}; return the filled picture in its own dtype"
            )
        return np.where(unknown, filled, picture)

    return filler


def biharmonic(picture: Grey, unknown: Mask) -> Grey:
    """Solve the biharmonic equation over the unknown pixels (Damelin & Hoang 2018)."""
    filled = inpaint_biharmonic(picture.astype(np.float64), unknown)
    return in_dtype(filled, picture.dtype)


def nearest_tissue(picture: Grey, unknown: Mask) -> Grey:
    """Copy each connected piece from the nearest place where it lies wholly on known pixels."""
    filled, blocked = picture.copy(), unknown.astype(np.float64)
    pieces, _ = ndimage.label(unknown, np.ones((3, 3)))
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        copy_piece(filled, picture, blocked, pieces[box] == number, (box[0].start, box[1].start))
    return filled


def copy_piece(filled: Grey, picture: Grey, blocked: Float, piece: Mask, corner: tuple[int, int]) -> None:
    """Write one piece (h, w), whose box has this corner (y, x), into the filled picture."""
    if not piece.any():
        return
    source = nearest_place(blocked, piece, corner)
    if source is None:
        axis = int(np.argmax(piece.shape))
        half = piece.shape[axis] // 2
        rest = (corner[0] + half, corner[1]) if axis == 0 else (corner[0], corner[1] + half)
        one, other = np.split(piece, [half], axis)
        copy_piece(filled, picture, blocked, one, corner)
        copy_piece(filled, picture, blocked, other, rest)
        return
    (y, x), (from_y, from_x), (h, w) = corner, source, piece.shape
    filled[y : y + h, x : x + w][piece] = picture[from_y : from_y + h, from_x : from_x + w][piece]


def nearest_place(blocked: Float, piece: Mask, corner: tuple[int, int]) -> tuple[int, int] | None:
    """Return the corner of the nearest box in which the piece lies on known pixels of the picture, None without one."""
    overlap = correlate(blocked, piece.astype(np.float64), mode="valid")
    ys, xs = np.nonzero(overlap < 0.5)
    if not len(ys):
        return None
    nearest = int(np.argmin((ys - corner[0]) ** 2 + (xs - corner[1]) ** 2))
    return int(ys[nearest]), int(xs[nearest])


def local_mean(picture: Grey, unknown: Mask) -> Grey:
    """Give each unknown pixel the Gaussian mean of known ones, the wider, the deeper it lies in the mask."""
    depth_px = ndimage.distance_transform_edt(unknown)[unknown]
    octave = np.log2(np.maximum(depth_px / LEAST_SIGMA_PX, 1))
    known = (~unknown).astype(np.float64)
    means = [known_mean(picture * known, known, LEAST_SIGMA_PX * 2**i)[unknown] for i in range(int(octave.max()) + 2)]
    lower = octave.astype(np.int64)
    filled, at, part = picture.astype(np.float64), np.arange(len(lower)), octave - lower
    filled[unknown] = (1 - part) * np.stack(means)[lower, at] + part * np.stack(means)[lower + 1, at]
    return in_dtype(filled, picture.dtype)


def known_mean(grey: Float, known: Float, sigma_px: float) -> Float:
    """Return the Gaussian mean of known pixels about each place; 0 where there is none."""
    share = ndimage.gaussian_filter(known, sigma_px)
    return np.asarray(ndimage.gaussian_filter(grey, sigma_px) / np.maximum(share, 1e-12))


def in_dtype(filled: Float, dtype: np.dtype[Any]) -> Grey:
    """Return grey values in the picture's dtype, rounded and within its range if that is whole numbers."""
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        filled = np.clip(np.rint(filled), limits.min, limits.max)
    return filled.astype(dtype)


FILLERS: dict[str, Filler] = {
    "biharmonic": lawful(biharmonic),
    "nearest tissue": lawful(nearest_tissue),
    "local mean": lawful(local_mean),
}


def open_filler(name: str) -> Filler:
    """Return a filler by its name in `FILLERS`, or a plug-in by ``package.module:function``.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    if name in FILLERS:
        return FILLERS[name]
    if not is_plugin(name):
        raise InputError(f"filler {name!r}: expected one of {', '.join(FILLERS)}, or package.module:function")
    found = plugin(name, "filler")
    if not callable(found):
        raise InputError(f"filler {name!r}: expected a function of picture and mask, found {type(found).__name__}")
    return lawful(found)


def renoised(picture: Grey, seed: int, noise_sd: float | None = None) -> Grey:
    """Return the picture with fresh white noise on top, to see what noise alone changes for a segmenter.

    Parameters
    ----------
    picture : (Y, X)
    seed : decides the noise
    noise_sd : of the noise, in grey values; by default as much again as the picture has, see `grain_sd`
    """
    sd = grain_sd(picture) if noise_sd is None else noise_sd
    noise = np.random.default_rng(seed).normal(0, 1, picture.shape)
    return in_dtype(picture.astype(np.float64) + sd * noise, picture.dtype)


def grain_sd(picture: Grey) -> float:
    """Return the standard deviation of the picture's white noise, from the finest diagonal band of Haar wavelets.

    The median of its absolute values, so that outlines of cells, which are few there, do not count (Donoho 1994).
    """
    grey = picture.astype(np.float64)
    height, width = (side - side % 2 for side in grey.shape)
    a, b, c, d = (grey[y:height:2, x:width:2] for y in (0, 1) for x in (0, 1))
    return float(np.median(np.abs(a - b - c + d)) / 2 / MAD_OF_NORMAL)
