"""Which annotated objects are damage, and which outline the tissue, by their class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cytomend.errors import InputError
from cytomend.regions.geojson import Feature
from cytomend.regions.notation import ANNOTATION, same_class

TISSUE_CLASSES = ("Tissue",)

DOUBTFUL = {"region", "region*", "ignore*", "other", "tumor", "stroma", "immune cells", "necrosis", "positive"}
DOUBTFUL |= {"negative", "tissue*", "tissues", "tissue region", "tissue mask", "section", "specimen", "background"}
DOUBTFUL |= {"glass", "neuron", "neurons", "white matter", "grey matter", "gray matter", "cortex", "gewebe"}
"""Classes, in small letters, that are seldom damage: most are QuPath's own."""
MOST_NAMED = 12

Placed = tuple[Path, Feature]
"""A feature and the file that has it."""


@dataclass(frozen=True, slots=True)
class Classes:
    """What the classes of annotated objects mean, whatever their capitals and blanks.

    Parameters
    ----------
    include : sequence of str or None
        Only these are damage; by default all are, but for those below and for what QuPath detected itself
        (cells, detections, tiles, TMA cores, its root).
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
        if detected := Counter(feature.kind for _, feature in chosen if feature.is_detection):
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(detected.items()))
            warnings.append(
                f"{_files(placed)}: {detected.total():,} cells or other objects that QuPath detected are not taken as"
                f" damage ({kinds}); include their class if they are"
            )
        drawn = [one for one in chosen if not one[1].is_detection]
        warnings += self._doubts(drawn, _files(placed))
        return drawn

    def outlines(self, placed: Sequence[Placed]) -> list[Placed]:
        """Return the features that outline tissue."""
        return [one for one in placed if _named(one[1], self.tissue)]

    def _is_chosen(self, feature: Feature) -> bool:
        if _named(feature, self.exclude) or _named(feature, self.tissue):
            return False
        return self.include is None or _named(feature, self.include)

    def _doubts(self, drawn: Sequence[Placed], where: str) -> list[str]:
        """Return sentences about what is taken as damage although it may be none."""
        strange = Counter(feature.kind for _, feature in drawn if feature.kind != ANNOTATION)
        doubtful = Counter(name for _, feature in drawn for name in feature.classes if same_class(name) in DOUBTFUL)
        return [
            f"{where}: {count:,} objects of the kind {kind[:40]!r}, which is not known, are taken as damage; exclude"
            " their class if they are none"
            for kind, count in sorted(strange.items())
        ] + [
            f"{where}: {count:,} objects of class {name!r} are taken as damage; if they are none, name the class under"
            " mask.exclude_classes, or under mask.tissue_classes if it outlines tissue"
            for name, count in sorted(doubtful.items())
        ]

    def _require(self, placed: Sequence[Placed]) -> None:
        where = _files(placed)
        if not self.include:
            raise InputError(
                f"{where}: expected the classes that are damage, found an empty list; name one, or leave it out"
            )
        found = {name for _, feature in placed for name in feature.classes}
        never = {same_class(name) for name in (*self.exclude, *self.tissue)}
        if both := [name for name in self.include if same_class(name) in never]:
            raise InputError(
                f"class {both[0]!r} is included as damage, and excluded or tissue as well; correct the lists of classes"
            )
        known = {same_class(name) for name in found}
        if missing := [name for name in self.include if same_class(name) not in known]:
            names = ", ".join(repr(name) for name in sorted(found)[:MOST_NAMED]) or "no class at all"
            names += f" and {len(found) - MOST_NAMED:,} others" if len(found) > MOST_NAMED else ""
            raise InputError(
                f"{where}: expected features of class {', '.join(repr(name) for name in missing)}, found {names};"
                " correct the list of classes, or classify the annotations in QuPath"
            )


def _named(feature: Feature, names: Sequence[str]) -> bool:
    """Whether a feature is of one of these classes, whatever their capitals and blanks."""
    wanted = {same_class(name) for name in names}
    return any(same_class(name) in wanted for name in feature.classes)


def _files(placed: Iterable[Placed]) -> str:
    return ", ".join(dict.fromkeys(str(path) for path, _ in placed)) or "annotation"
