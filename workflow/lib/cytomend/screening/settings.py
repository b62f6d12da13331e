"""What screening depends on besides the scan, and the classes it knows, with their colours in QuPath."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from cytomend.errors import InputError
from cytomend.values import ValueRange

TEAR = "Tear"
MISSING_TISSUE = "Missing tissue"
FOLD = "Fold"
PRECIPITATE = "Precipitate"
SCRATCH = "Scratch"
STRIPE = "Stripe"
BUBBLE = "Bubble"
STAIN_DROP = "Stain drop"
OUT_OF_FOCUS = "Out of focus"
NATURAL_GAP = "Natural gap"

COLOURS: dict[str, tuple[int, int, int]] = {
    TEAR: (200, 40, 40),
    MISSING_TISSUE: (60, 120, 220),
    FOLD: (240, 150, 30),
    PRECIPITATE: (120, 60, 160),
    SCRATCH: (40, 170, 120),
    STRIPE: (20, 120, 90),
    BUBBLE: (80, 190, 230),
    STAIN_DROP: (130, 90, 50),
    OUT_OF_FOCUS: (230, 90, 180),
    NATURAL_GAP: (140, 140, 140),
}
"""Every class that can be proposed; those that phantoms have bear the colours they have there."""

LARGEST_VALUE = 1e9

ARTEFACTS = tuple(name for name in COLOURS if name != NATURAL_GAP)
"""What is proposed by default. A natural gap is tissue as it grew; it is named only when asked for."""


@dataclass(frozen=True, slots=True)
class ScreenSettings:
    """How a section is screened.

    Parameters
    ----------
    classes : tuple of str
        Which of `COLOURS` are proposed.
    min_score : float in [0, 1)
        Proposals below are left out; every detector scores 0.5 at its limit.
    grow_um : float
        Margin around what was seen, for rims that are altered but do not look so.
    simplify_um : float
        How far an outline may run outside of what it encloses, never inside.
    symmetry : bool
        Whether a gap that has a mirror image across the midline of a whole section is natural.
    value_range : (float, float) or None
        Grey values that mean black and white; measured if None.
    tile_um : float
        Side of the part of a section that is looked at at once. It decides memory, not the result.
    """

    classes: tuple[str, ...] = ARTEFACTS
    min_score: float = 0.5
    grow_um: float = 3.0
    simplify_um: float = 1.5
    symmetry: bool = True
    value_range: ValueRange | None = None
    tile_um: float = 2048.0

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ScreenSettings:
        """Read settings from a JSON object; entries that are absent keep their defaults.

        Raises
        ------
        InputError
            An entry is unknown or out of range.

        Examples
        --------
        >>> ScreenSettings.of({"classes": ["Tear"], "min_score": 0.7}).classes
        ('Tear',)
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(record) - known)
        if unknown:
            raise InputError(f"--settings: expected entries of {', '.join(sorted(known))}, found {unknown[0]!r}")
        values = dict(record)
        for name in ("classes", "value_range"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """Refuse values that mean nothing."""
        if not isinstance(self.classes, tuple) or not self.classes:
            raise InputError("--settings: classes: expected a list of at least one class; leave it out for all")
        strange = [name for name in self.classes if not isinstance(name, str) or name not in COLOURS]
        if strange:
            raise InputError(f"--settings: classes: expected some of {', '.join(COLOURS)}, found {strange[0]!r}")
        limits = {"min_score": (0, 0.999), "grow_um": (0, 100), "simplify_um": (0.1, 50), "tile_um": (64, 16384)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise InputError(f"--settings: {name}: expected a number from {low} to {high}, found {value!r}")
        if not isinstance(self.symmetry, bool):
            raise InputError(f"--settings: symmetry: expected true or false, found {self.symmetry!r}")
        if self.value_range is not None and not _is_range(self.value_range):
            raise InputError(
                f"--settings: value_range: expected two numbers, the first below the second, found {self.value_range!r}"
            )


def _is_range(values: object) -> bool:
    if not isinstance(values, tuple) or len(values) != 2:
        return False
    numbers = all(isinstance(v, int | float) and abs(v) < LARGEST_VALUE for v in values)  # no NaN is
    return numbers and values[0] < values[1]
