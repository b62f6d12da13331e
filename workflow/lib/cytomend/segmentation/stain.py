"""Which stain shows the cells of a section: its optical density, apart from that of a counterstain, as a grey picture.

Segmenters know grey pictures. Luminance makes one of RGB, but a stain's hue then decides how dark a cell looks, and a
pink counterstain is as dark as a pale blue cell. In optical density stains add up, each along its own direction
(`cytomend.stains`), so that the amount of each follows by least squares (Ruifrok & Johnston 2001). The picture is that
of a grey scan through the colour that the stain absorbs most: ``clear * exp(-amount * absorption)``.

Directions are given, or measured from intact tissue in the manner of Macenko et al. (2009). A section's pixels are
taken from the same places whatever runs where, so that its directions are always the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.regions.annotation import Masked
from cytomend.regions.value_range import sampled_boxes
from cytomend.segmentation.luminance import luminance
from cytomend.stains import LUMINANCE, MEASURED, parse_stain
from cytomend.storage.images import SectionImage
from cytomend.values import ValueRange

CLEAR_PERCENTILE = 99.0
FAINT_DENSITY = 0.5
"""Length of the optical density from which on a pixel counts as stained; the noise of paler ones has any hue."""
DARKEST = 0.02
"""Share of the clear light below which a channel says nothing: it is stray light, noise, or clipped."""
EXTREMES = (1.0, 99.0)
"""Percentiles of the hues of stained pixels that are taken for pure stains."""
APART_DEG = 27.0
"""Hues farther apart than this are those of two stains; those of a single stain scatter by noise, focus and dye."""
FEWEST_PX = 256

Float = NDArray[np.float64]
Pixels = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class SectionStain:
    """How a section's pixels become the grey picture that shows its cells.

    Attributes
    ----------
    how : what was asked for
    vectors : directions in optical density, (3,) of unit length each: of the stain, then of a counterstain; none if
        the picture is that of the luminance, or the section is grey
    clear : values of red, green and blue where nothing absorbs
    value_range : values that mean black and white
    """

    how: str
    vectors: tuple[tuple[float, ...], ...]
    clear: tuple[float, ...]
    value_range: ValueRange

    def grey(self, pixels: Pixels) -> Pixels:
        """Return (C, h, w) pixels as grey ones (h, w) of their dtype, dark where the stain is dense."""
        if len(pixels) == 1:
            return np.asarray(pixels[0])
        if not self.vectors:
            return _as(luminance(pixels), pixels.dtype)
        low, directions = self.value_range[0], np.array(self.vectors)
        density = optical_density(pixels, np.array(self.clear), low)
        amount = np.tensordot(np.linalg.pinv(directions.T)[0], density, axes=1)
        clear = float(np.mean(self.clear))
        return _as(low + (clear - low) * np.exp(-amount.clip(0) * directions[0].max()), pixels.dtype)

    def record(self) -> dict[str, Any] | None:
        """Return what tables say of it, or None of a grey section."""
        if not self.clear:
            return None
        rounded = [[round(float(value), 4) for value in vector] for vector in self.vectors]
        return {"how": self.how, "vectors": rounded, "clear": [round(float(value), 1) for value in self.clear]}


PLAIN = SectionStain("grey", (), (), (0.0, 255.0))
"""Of grey sections, whose pixels are shown as they are."""


def section_stain(image: SectionImage, mask: Masked | None, values: ValueRange, how: str = MEASURED) -> SectionStain:
    """Return how the cells of a section are shown.

    Parameters
    ----------
    image : the scan
    mask : its artefacts, which are not looked at
    values : values that mean black and white
    how : ``measured``, ``luminance``, or ``STAIN`` or ``STAIN/COUNTERSTAIN``, each by its name or its absorption

    Raises
    ------
    InputError
        If the stain is not known, or `how` asks to measure it and the section shows none.
    """
    given: Sequence[NDArray[np.floating]] | None = parse_stain(how)
    if image.channels == 1:
        return SectionStain(how, (), (), values)
    pixels = np.concatenate([_halved_intact(image, mask, box) for box in sampled_boxes(image)], axis=1)
    if pixels.shape[1] < FEWEST_PX:
        raise InputError(
            f"{image.path}: hardly any intact pixel to measure light and stain from; check the annotation, or use"
            f" stain {LUMINANCE}"
        )
    clear = np.percentile(pixels, CLEAR_PERCENTILE, axis=1)
    vectors = _measured(image, pixels, clear, values[0]) if given is None else given
    return SectionStain(how, tuple(tuple(map(float, v)) for v in vectors), tuple(map(float, clear)), values)


def optical_density(pixels: Pixels, clear: Float, low: float) -> Float:
    """Return the optical density (natural logarithm) of (3, ...) pixels, at least 0."""
    shape = (-1,) + (1,) * (pixels.ndim - 1)
    share = (pixels.astype(np.float64) - low) / np.maximum(clear - low, 1e-9).reshape(shape)
    return np.asarray(-np.log(share.clip(DARKEST, 1)))


def _measured(image: SectionImage, pixels: Float, clear: Float, low: float) -> list[Float]:
    """Return the direction of the stain, and of a counterstain if there is one.

    Of two stains the one that absorbs more red is taken for that of the cells, as with haematoxylin and Nissl stains.
    """
    density = optical_density(pixels, clear, low)
    length = np.linalg.norm(density, axis=0)
    stained = density[:, (length >= FAINT_DENSITY) & (density < -np.log(DARKEST)).all(axis=0)]
    if stained.shape[1] < FEWEST_PX:
        raise InputError(
            f"{image.path}: found {stained.shape[1]} stained pixels, expected at least {FEWEST_PX} to measure the stain"
            f" from; give its name or direction, or use stain {LUMINANCE}"
        )
    first, second = np.linalg.svd(stained @ stained.T)[0].T[:2]
    first = first * np.sign(first.sum())
    hues = np.degrees(np.arctan2(second @ stained, first @ stained))
    extremes = np.radians(np.percentile(hues, EXTREMES))
    pure = [np.clip(np.cos(angle) * first + np.sin(angle) * second, 0, None) for angle in extremes]
    if np.degrees(extremes[1] - extremes[0]) < APART_DEG:
        return [first.clip(0) / np.linalg.norm(first.clip(0))]
    return sorted((vector / np.linalg.norm(vector) for vector in pure), key=lambda vector: -float(vector[0]))


def _halved_intact(image: SectionImage, mask: Masked | None, box: Any) -> Float:  # noqa: ANN401
    """Return means over 2 x 2 intact pixels, (3, n); they have half the noise of pixels."""
    pixels = image.read(box)
    rows, columns = (side // 2 * 2 for side in box.shape)
    blocks = pixels[:, :rows, :columns].reshape(len(pixels), rows // 2, 2, columns // 2, 2).mean((2, 4))
    if mask is None:
        return np.asarray(blocks.reshape(len(pixels), -1))
    hit = mask.read(box)[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2).any((1, 3))
    return np.asarray(blocks[:, ~hit])


def _as(values: NDArray[np.floating], dtype: np.dtype[Any]) -> Pixels:
    """Round to whole values of a dtype; floats stay as they are."""
    if not np.issubdtype(dtype, np.integer):
        return np.asarray(values, dtype)
    return np.asarray(np.rint(values).clip(0, np.iinfo(dtype).max), dtype)
