"""Stains as they absorb light: optical density by Beer and Lambert, and the directions of stains in it.

Light that passes a stained section falls to ``white * exp(-density * vector)``, channel by channel (Ruifrok & Johnston
2001), so that in optical density stains add up, each along its own direction of red, green and blue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cytomend.errors import InputError

Floats = NDArray[np.float32]

STAINS = {
    "nissl-blue": (0.70, 0.69, 0.19),
    "cresyl-violet": (0.55, 0.80, 0.24),
    "haematoxylin": (0.65, 0.70, 0.29),
    "eosin": (0.07, 0.99, 0.11),
}
"""Absorption of red, green and blue by the name of a stain. Blue Nissl was measured on the public field of fetal human
brain (see docs/colour.md), haematoxylin and eosin are those of Ruifrok & Johnston; cresyl violet follows its look and
was not measured."""


MEASURED, LUMINANCE = "measured", "luminance"
EXPECTED = (
    f"{MEASURED!r}, {LUMINANCE!r}, or a stain ({', '.join(STAINS)}, or its absorption of red, green and blue such as"
    " '0.70,0.69,0.19'), and after a '/' a counterstain"
)
ALIKE_DEG = 10.0
"""Two given stains that are closer than this cannot be told from each other."""


def stain_vector(name: str) -> Floats:
    """Return the direction of a stain, (3,) of unit length.

    Raises
    ------
    InputError
        If no stain has this name.
    """
    if name not in STAINS:
        raise InputError(f"stain {name!r}: expected one of {', '.join(STAINS)}")
    return unit(STAINS[name])


def unit(vector: Sequence[float] | NDArray[np.generic]) -> Floats:
    """Return a vector with length one.

    >>> unit([3, 0, 4]).round(2).tolist()
    [0.6000000238418579, 0.0, 0.800000011920929]
    """
    values = np.asarray(vector, np.float64)
    return np.asarray(values / np.linalg.norm(values), np.float32)


def parse_stain(how: str) -> list[Floats] | None:
    """Return the directions that are given: one, two, or none for luminance; None if they are to be measured.

    Raises
    ------
    InputError
        If it is none of the expected.

    Examples
    --------
    >>> len(parse_stain("haematoxylin/eosin"))
    2
    """
    if how == MEASURED:
        return None
    if how == LUMINANCE:
        return []
    names = how.split("/")
    vectors = [_vector(name.strip(), how) for name in names]
    if len(vectors) > 2:
        raise InputError(f"stain {how!r}: expected {EXPECTED}; found {len(vectors)} stains")
    if len(vectors) == 2 and float(vectors[0] @ vectors[1]) > np.cos(np.radians(ALIKE_DEG)):
        raise InputError(f"stain {how!r}: expected two stains at least {ALIKE_DEG:g}° apart in optical density")
    return vectors


def _vector(name: str, how: str) -> Floats:
    if name in STAINS:
        return stain_vector(name)
    try:
        vector = [float(value) for value in name.split(",")]
    except ValueError:
        vector = []
    if len(vector) != 3 or not np.isfinite(vector).all() or min(vector) < 0 or max(vector) <= 0:
        raise InputError(f"stain {how!r}: expected {EXPECTED}")
    return unit(vector)
