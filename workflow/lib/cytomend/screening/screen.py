"""Screen a section: survey it, look at it tile by tile, join what was seen, and judge it class by class."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import shapely

from cytomend.geometry import Box
from cytomend.screening import bubbles, focus, gaps, grains, ground, judge
from cytomend.screening.bubbles import see_bubbles
from cytomend.screening.focus import see_blur, usual_sharpness
from cytomend.screening.gaps import deep_inside, see_gaps
from cytomend.screening.grains import see_grains
from cytomend.screening.ground import ground_of
from cytomend.screening.light import Bools, LightReader, Scale
from cytomend.screening.lines import see_lines
from cytomend.screening.midline import Midline, find_midline, natural_gaps
from cytomend.screening.proposals import Found, Fragment, Proposal, fragments, in_reading_order, joined, settled
from cytomend.screening.settings import (
    BUBBLE,
    FOLD,
    MISSING_TISSUE,
    NATURAL_GAP,
    OUT_OF_FOCUS,
    PRECIPITATE,
    SCRATCH,
    STAIN_DROP,
    STRIPE,
    TEAR,
    ScreenSettings,
)
from cytomend.screening.stripes import see_stripes
from cytomend.screening.survey import Survey, square_px, survey
from cytomend.screening.thick import see_thick
from cytomend.screening.tiles import Seen, Tile, tiles

log = logging.getLogger(__name__)

MOSTLY_STRIPE = 0.5
"""Share of a fold, drop or scratch that lies in stripes from which on it is none."""


@dataclass(frozen=True, slots=True)
class Detector:
    """A way of looking at a tile, and a way of judging what was seen.

    Parameters
    ----------
    kind : str
        Its name in `Seen`; names that begin with it are its own too.
    classes : tuple of str
        What it may propose.
    coarsest_um : float
        It sees nothing on coarser pixels.
    halo_um : float
        How far around a tile it looks.
    judge : Judge
        Of the joined areas.
    """

    kind: str
    classes: tuple[str, ...]
    coarsest_um: float
    halo_um: float
    judge: judge.Judge


DETECTORS: tuple[Detector, ...] = (
    Detector("gap", (TEAR, MISSING_TISSUE, NATURAL_GAP), 40.0, gaps.HALO_UM, judge.GAP),
    Detector("line", (SCRATCH,), 2.5, ground.HALO_UM, judge.LINE),
    Detector("grains", (PRECIPITATE,), 1.5, grains.HALO_UM, judge.GRAINS),
    Detector("blur", (OUT_OF_FOCUS,), 1.5, focus.HALO_UM, judge.BLUR),
    Detector("bubble", (BUBBLE,), 5.0, bubbles.HALO_UM, judge.BUBBLES),
    Detector("stripe", (STRIPE,), 5.0, ground.HALO_UM, judge.STRIPES),
    Detector("thick", (FOLD, STAIN_DROP), 5.0, ground.HALO_UM, judge.THICK),
)


@dataclass(frozen=True, slots=True)
class Context:
    """What detectors know of the whole section."""

    survey: Survey
    midline: Midline | None
    natural: Bools
    inside: Bools
    deep: Bools
    sharpness: float | None


def look(tile: Tile, known: Context, kinds: set[str]) -> Iterator[Seen]:
    """Yield what each detector sees in a tile; folds and drops come last, where nothing else explains the dark."""
    otherwise = np.zeros([size // tile.scale.factors[-1] for size in tile.core.shape], bool)
    if "gap" in kinds:
        yield see_gaps(tile, known.natural, known.inside, known.deep)
    if "grains" in kinds:
        yield see_grains(tile)
    if "blur" in kinds:
        yield (blur := see_blur(tile, known.inside, known.sharpness))
        otherwise |= blur.aside
    if "bubble" in kinds:
        yield (bubble := see_bubbles(tile))
        otherwise |= bubble.mask
    if not kinds & {"line", "stripe", "thick"}:
        return
    local = ground_of(tile, known.inside)
    if "line" in kinds:
        yield see_lines(tile, local)
    if "stripe" in kinds:
        yield from see_stripes(tile, local)
    if "thick" in kinds:
        yield see_thick(tile, local, otherwise)


@dataclass(frozen=True, slots=True)
class Screening:
    """What was found in a section.

    Parameters
    ----------
    proposals : list of Proposal
        Class by class, from top to bottom.
    survey, midline : of the section
    warnings : list of str
        Classes that could not be looked for.
    """

    proposals: list[Proposal]
    survey: Survey
    midline: Midline | None
    warnings: list[str]


def screen(reader: LightReader, pixel_size_um: float, settings: ScreenSettings) -> Screening:
    """Propose the artefacts of a section.

    Parameters
    ----------
    reader : light of the section
    pixel_size_um : side of a pixel in µm
    settings : see `ScreenSettings`
    """
    scale = Scale.of(pixel_size_um)
    side = square_px(scale)
    tile_px = side * max(1, round(settings.tile_um / (side * pixel_size_um)))
    known = _context(reader, scale, survey(reader, scale, tile_px), settings)
    _log_survey(known)
    used, warnings = _choose(settings, pixel_size_um)
    seen: dict[str, _Seen] = {}
    boxes = list(tiles(reader.shape, side, tile_px)) if used else []
    halo_um = max((detector.halo_um for detector in used), default=0.0)
    for number, box in enumerate(boxes, 1):
        if not known.inside[box.y0 // side : box.y1 // side, box.x0 // side : box.x1 // side].any():
            continue
        tile = Tile(reader, scale, known.survey, box, halo_um)
        for part in look(tile, known, {detector.kind for detector in used}):
            by = next(detector.judge for detector in used if part.kind.startswith(detector.kind))
            parts = list(fragments(part, box, scale.factors[part.lattice]))
            seen.setdefault(part.kind, _Seen(by, pixel_size_um)).add(parts, box)
        if number % 100 == 0:
            log.info("tile %d of %d", number, len(boxes))
    proposals = [
        one
        for detector in used
        for kind in sorted(seen)
        if kind.startswith(detector.kind)
        for one in _judged(seen.pop(kind), settings, reader)
    ]
    proposals = _explained(proposals)
    order = {name: number for number, name in enumerate(settings.classes)}
    proposals.sort(key=lambda one: order[one.class_name])
    return Screening(proposals, known.survey, known.midline, warnings)


def _context(reader: LightReader, scale: Scale, found: Survey, settings: ScreenSettings) -> Context:
    midline = find_midline(found.tissue) if settings.symmetry else None
    natural = natural_gaps(found, midline) if midline else np.zeros_like(found.tissue)
    sharp = usual_sharpness(reader, scale, found) if OUT_OF_FOCUS in settings.classes else None
    deep = deep_inside(found.tissue, found.square_px * scale.pixel_size_um)
    return Context(found, midline, natural, found.tissue, deep, sharp)


def _log_survey(known: Context) -> None:
    log.info(
        "light of tissue %.2f, of its ground %.2f, glass from %.2f; tissue on %.1f %% of the scan; %s",
        known.survey.middle,
        known.survey.ground,
        known.survey.limit,
        100 * known.survey.tissue.mean(),
        f"mirror image agrees by {known.midline.overlap:.0%}" if known.midline else "no midline",
    )


def _choose(settings: ScreenSettings, pixel_size_um: float) -> tuple[list[Detector], list[str]]:
    used, warnings = [], []
    for detector in DETECTORS:
        wanted = [name for name in detector.classes if name in settings.classes]
        if wanted and pixel_size_um > detector.coarsest_um:
            warnings.append(
                f"{', '.join(wanted)}: not looked for on pixels of {pixel_size_um:g} µm; {detector.coarsest_um:g} µm or"
                " less are needed"
            )
        elif wanted:
            used.append(detector)
    return used, warnings


def _explained(proposals: list[Proposal]) -> list[Proposal]:
    """Drop folds and drops of stain that are the dark of a stripe, and scratches that are its light."""
    stripes = shapely.union_all([one.area for one in proposals if one.class_name == STRIPE])
    return [
        one
        for one in proposals
        if one.class_name not in (FOLD, STAIN_DROP, SCRATCH)
        or shapely.intersection(one.area, stripes).area < MOSTLY_STRIPE * one.area.area
    ]


@dataclass(slots=True)
class _Seen:
    """What one kind of seeing has found in all tiles so far: areas that are something, and what is not yet whole."""

    by: judge.Judge
    pixel_size_um: float
    found: list[Found] = field(default_factory=list)
    parts: list[Fragment] = field(default_factory=list)

    def add(self, parts: list[Fragment], core: Box) -> None:
        """Take what was seen in a tile."""
        found, others = settled(parts, core, near_px=self._near_px)
        self.found += self._something(found)
        self.parts += others

    def whole(self) -> list[Found]:
        """Return all areas that are something."""
        return in_reading_order([*self.found, *self._something(joined(self.parts, near_px=self._near_px))])

    @property
    def _near_px(self) -> float:
        return self.by.near_um / self.pixel_size_um

    def _something(self, found: list[Found]) -> list[Found]:
        return [one for one in found if self.by.classify(one, self.pixel_size_um)]


def _judged(seen: _Seen, settings: ScreenSettings, reader: LightReader) -> Iterator[Proposal]:
    frame = shapely.box(0, 0, reader.shape[1], reader.shape[0])
    by, um = seen.by, seen.pixel_size_um
    for found in seen.whole():
        verdict = by.classify(found, um)
        if verdict is None or verdict.class_name not in settings.classes or verdict.score < settings.min_score:
            continue
        area = judge.enclosed(found.area, by.grow_um + settings.grow_um, settings.simplify_um, um, frame)
        if not area.is_empty:
            yield Proposal(verdict.class_name, verdict.score, area)
