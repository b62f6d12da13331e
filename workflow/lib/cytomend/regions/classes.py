"""Which annotated objects are damage, and which outline the tissue, by their class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cytomend.errors import InputError
from cytomend.regions.geojson import Feature

TISSUE_CLASSES = ("Tissue",)

Placed = tuple[Path, Feature]
"""A feature and the file that has it."""


@dataclass(frozen=True, slots=True)
class Classes:
    """What the classes of annotated objects mean.

    Parameters
    ----------
    include : sequence of str or None
        Only these are damage; by default all are, but for those below and for what QuPath detected itself (cells).
    exclude : sequence of str
        Never damage.
    tissue : sequence of str
        Outlines of tissue: never damage, and damage counts inside of them only, where there are any.
    """

    include: Sequence[str] | None = None
    exclude: Sequence[str] = ()
    tissue: Sequence[str] = TISSUE_CLASSES

    def damage(self, placed: Sequence[Placed], warnings: list[str]) -> list[Placed]:
        """Return the features that are damage.

        Raises
        ------
        InputError
            If a class is to be included that none of the files has.
        """
        if self.include is not None:
            self._require(placed)
        chosen = [one for one in placed if self._is_chosen(one[1])]
        if self.include is not None:
            return chosen
        if detected := sum(feature.is_detection for _, feature in chosen):
            warnings.append(
                f"{_files(placed)}: {detected:,} cells or other objects that QuPath detected are not taken as damage;"
                " include their class if they are"
            )
        return [one for one in chosen if not one[1].is_detection]

    def outlines(self, placed: Sequence[Placed]) -> list[Placed]:
        """Return the features that outline tissue."""
        return [one for one in placed if one[1].class_name in self.tissue]

    def _is_chosen(self, feature: Feature) -> bool:
        if feature.class_name in self.exclude or feature.class_name in self.tissue:
            return False
        return self.include is None or feature.class_name in self.include

    def _require(self, placed: Sequence[Placed]) -> None:
        where = _files(placed)
        if not self.include:
            raise InputError(
                f"{where}: expected the classes that are damage, found an empty list; name one, or leave it out"
            )
        found = {feature.class_name for _, feature in placed if feature.class_name is not None}
        if both := [name for name in self.include if name in self.exclude or name in self.tissue]:
            raise InputError(
                f"class {both[0]!r} is included as damage, and excluded or tissue as well; correct the lists of classes"
            )
        if missing := [name for name in self.include if name not in found]:
            names = ", ".join(repr(name) for name in sorted(found)) or "no class at all"
            raise InputError(
                f"{where}: expected features of class {', '.join(repr(name) for name in missing)}, found {names};"
                " correct the list of classes, or classify the annotations in QuPath"
            )


def _files(placed: Iterable[Placed]) -> str:
    return ", ".join(dict.fromkeys(str(path) for path, _ in placed)) or "annotation"
