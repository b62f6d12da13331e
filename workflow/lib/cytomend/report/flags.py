"""What a reviewer should look at: flags of a region, each a sentence, and the limits from which they are raised.

A limit follows from how much such numbers differ between intact tissue and the tissue around it, which is never alike:
``EASY * sqrt(local + scatter / amount)``, where ``local`` is the variance that is left however large the region is
(layers, vessels) and ``scatter / amount`` that of a finite sample; of greys it is what one sees at least. The numbers
were fitted to intact tissue of phantoms and are checked, also on a real scan, by ``benchmarks/flags.py``;
``docs/report.md`` has its tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from cytomend.report.orientation import Orientation

EASY = 2.3
"""Standard deviations that intact tissue may differ: of a normal law 1 % lie beyond them on either side."""
LEAST_UM2 = 400.0
"""Area of two or three cells; of less tissue the greys' spread says nothing."""
LEAST_CELLS = 4.0
"""Expected cells below which none need be there; cells of which a median area says something."""
BLANK_SHARE = 0.25
"""Of the rim's squares that show no tissue, from which on the region touches background."""
LEAST_REGIONS = 5
"""Regions of a section whose median uncertainty says something."""
UNCERTAIN = 1.5
"""Times the median of the section's regions, the least that counts as far above it."""
DEEP_UM = 100.0
"""How far tissue tells of its surroundings: at this depth half of how means over 100 µm vary is foretold from the rim,
at 150 µm less than a third (``benchmarks/reach.py --smooth-um 100``)."""
SCARCE = 1.0
"""Intact tissue around a region over the region's area, below which there is little to go by or to copy."""
CLEAR = 0.1
"""Coherence of a rim from which on it has a direction; that of layered cortex is about 0.2."""
NORMAL_MAD = 1.4826
"""Standard deviation of a normal law over its median absolute deviation."""

GRAVE = frozenset(
    {"seam", "smooth", "rough", "pale", "harsh", "dark", "bright", "few", "many", "small", "large", "turned"}
)
"""Flags that say that the filling differs from its surroundings; the others say why it may."""


@dataclass(frozen=True, slots=True)
class Flag:
    """Why a region should be looked at: a short word for what is wrong, and the sentence that the page shows."""

    key: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Limit:
    """How far a number of intact tissue may lie from that of its rim.

    ``local`` and ``scatter`` are variances, ``least`` is a difference that never counts.
    """

    local: float
    scatter: float
    least: float = 0.0

    def of(self, amount: float) -> float:
        """Return the greatest difference that passes; the larger the amount of tissue, the less."""
        return max(EASY * math.sqrt(self.local + self.scatter / amount), self.least)


VISIBLE = math.log(1.15)
"""Of quotients of greys: less is not seen, however surely it is there."""
SEAM = Limit(local=0.0005, scatter=2.6, least=VISIBLE)
"""Of the logarithm of the quotient, by pairs of pixels across the outline."""
GRAIN = Limit(local=0.0004, scatter=13.0, least=VISIBLE)
"""Of the logarithm of the quotient, by area in µm²."""
SPREAD = Limit(local=0.0005, scatter=91.0, least=VISIBLE)
"""Of the logarithm of the quotient, by area in µm²."""
SHIFT = Limit(local=0.0063, scatter=164.0)
"""In standard deviations of the rim, by area in µm²."""
COUNT = Limit(local=0.037, scatter=0.34)
"""Of twice the root of the cells (a Poisson law's root scatters by one half), by one over the expected cells."""
SIZE = Limit(local=0.0023, scatter=1.3)
"""Of the logarithm of the quotient of medians, by cells (half the harmonic mean of those inside and in the rim)."""

TURN = Limit(local=0.001, scatter=120.0)
"""Of the distance of two orientations, by area in µm² (half the harmonic mean of those inside and in the rim)."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """What was measured of a region and its rim; `cytomend.report.review.RegionReview` says what the names stand for.

    ``outline_pairs`` are pairs of pixels across the outline, ``grain`` is the mean step between neighbouring pixels
    inside over that in the rim: unlike ``spread`` it says little of cells and much of blur. ``blank_share`` is that of
    the rim's squares, ``others_grey`` the uncertainties of all regions of the section. ``depth_um`` and ``tissue_um2``
    are those of `cytomend.report.depth`, ``inside`` and ``rim`` the directions in which structures run.
    """

    area_um2: float
    rim_um2: float
    outline_pairs: float
    seam: float | None
    grain: float | None
    spread: float | None
    shift: float | None
    cells_inside: int
    cells_rim: int
    area_inside_um2: float | None
    area_rim_um2: float | None
    blank_share: float
    window_um: float
    touches_border: bool
    is_wide: bool
    uncertainty_grey: float | None = None
    others_grey: tuple[float, ...] = ()
    depth_um: float = 0.0
    tissue_um2: float = math.inf
    inside: Orientation | None = None
    rim: Orientation | None = None

    @property
    def expected_cells(self) -> float:
        """Cells inside if the rim's density held there."""
        return self.cells_rim * self.area_um2 / self.rim_um2 if self.rim_um2 else 0.0


@dataclass(frozen=True, slots=True)
class Difference:
    """A number on a scale on which intact tissue scatters around 0, and the limit there."""

    value: float
    limit: float

    @property
    def is_below(self) -> bool:
        """Whether it is too small."""
        return self.value < -self.limit

    @property
    def is_above(self) -> bool:
        """Whether it is too large."""
        return self.value > self.limit


def flags_of(numbers: Numbers) -> tuple[Flag, ...]:
    """Return the flags of a region, what differs from the rim first."""
    if not numbers.rim_um2:
        alone = Flag("alone", "There is no intact tissue around it with which it could be compared.")
        return (alone, *_circumstances(numbers))
    if numbers.blank_share >= BLANK_SHARE:
        return tuple(_circumstances(numbers))
    return (*_greys(numbers), *_cells(numbers), *_circumstances(numbers))


def differences(numbers: Numbers) -> dict[str, Difference]:
    """Return what can be compared: ``seam``, ``grain``, ``spread``, ``shift``, ``count``, ``size``, ``turn``."""
    found = dict[str, Difference]()
    if numbers.seam:
        found["seam"] = Difference(math.log(numbers.seam), SEAM.of(numbers.outline_pairs))
    if numbers.area_um2 >= LEAST_UM2:
        if numbers.grain is not None:
            found["grain"] = Difference(_log(numbers.grain), GRAIN.of(numbers.area_um2))
        if numbers.spread is not None:
            found["spread"] = Difference(_log(numbers.spread), SPREAD.of(numbers.area_um2))
        if numbers.shift is not None:
            found["shift"] = Difference(numbers.shift, SHIFT.of(numbers.area_um2))
    if numbers.rim_um2:
        found["count"] = _count(numbers)
    enough = min(numbers.cells_inside, numbers.cells_rim) >= LEAST_CELLS
    if enough and numbers.area_inside_um2 and numbers.area_rim_um2:
        cells = 1 / (1 / numbers.cells_inside + 1 / numbers.cells_rim)
        found["size"] = Difference(math.log(numbers.area_inside_um2 / numbers.area_rim_um2), SIZE.of(cells))
    if (turn := _turn(numbers.inside, numbers.rim)) is not None:
        found["turn"] = turn
    return found


def _turn(inside: Orientation | None, rim: Orientation | None) -> Difference | None:
    """Return how far the directions inside and in the rim lie apart, if the rim has one."""
    if inside is None or rim is None or min(inside.area_um2, rim.area_um2) < LEAST_UM2:
        return None
    if rim.coherence < max(CLEAR, TURN.of(rim.area_um2)):
        return None
    return Difference(inside.apart(rim), TURN.of(1 / (1 / inside.area_um2 + 1 / rim.area_um2)))


def _count(numbers: Numbers) -> Difference:
    """Return the difference of cells found and expected, after Anscombe (1948): the variance of its root is steady."""
    expected = numbers.expected_cells
    value = 2 * (math.sqrt(numbers.cells_inside + 3 / 8) - math.sqrt(expected + 3 / 8))
    # The rim is a sample too; its error grows with the region's share.
    own = 1 + numbers.area_um2 / numbers.rim_um2
    return Difference(value, EASY * math.sqrt(COUNT.scatter * own + COUNT.local * expected))


def _log(ratio: float) -> float:
    return math.log(ratio) if ratio > 0 else -math.inf


def _greys(numbers: Numbers) -> Iterator[Flag]:
    found = differences(numbers)
    if "seam" in found and found["seam"].is_above:
        yield Flag(
            "seam",
            f"A seam: grey values step {numbers.seam:.2g} times as far across its outline as between neighbouring"
            " pixels of the tissue around it.",
        )
    yield from _texture(numbers, found)
    yield from _direction(numbers, found)
    if (shift := found.get("shift")) and (shift.is_below or shift.is_above):
        yield Flag(
            "dark" if shift.is_below else "bright",
            f"Too {'dark' if shift.is_below else 'bright'}: its mean grey value lies {abs(shift.value):.2g} standard"
            f" deviations {'below' if shift.is_below else 'above'} that of the tissue around it.",
        )


def _texture(numbers: Numbers, found: dict[str, Difference]) -> Iterator[Flag]:
    """Yield whether greys vary too little or too much: from pixel to pixel, or over the region."""
    grain, spread = found.get("grain"), found.get("spread")
    for fine, wide, much, side in (("smooth", "pale", "little", "is_below"), ("rough", "harsh", "much", "is_above")):
        if grain and getattr(grain, side):
            yield Flag(
                fine,
                f"Too {fine}: neighbouring pixels inside differ {numbers.grain:.2g} times as much as in the tissue"
                " around it.",
            )
        elif spread and getattr(spread, side):
            yield Flag(
                wide,
                f"Too {much} contrast: grey values inside vary {numbers.spread:.2g} times as much as in the tissue"
                " around it.",
            )


def _direction(numbers: Numbers, found: dict[str, Difference]) -> Iterator[Flag]:
    """Yield whether structures run another way than around the region, or no way at all."""
    inside, rim = numbers.inside, numbers.rim
    if "turn" not in found or not found["turn"].is_above or inside is None or rim is None:
        return
    if inside.coherence < CLEAR:
        sentence = f"No direction: around it cells and fibres run at {rim.degrees:.0f}°, inside no direction prevails."
    else:
        sentence = (
            f"Another direction: cells and fibres run at {inside.degrees:.0f}° inside and at {rim.degrees:.0f}° around"
            " it, counted from the horizontal."
        )
    yield Flag("turned", sentence)


def _cells(numbers: Numbers) -> Iterator[Flag]:
    found, expected = differences(numbers), numbers.expected_cells
    count, size = found["count"], found.get("size")
    seen = f"{numbers.cells_inside} found where the density around it lets {expected:.2g} be expected."
    if count.is_below and expected >= LEAST_CELLS:
        yield Flag("few", f"Too few cells: {seen}")
    if count.is_above:
        yield Flag("many", f"Too many cells: {seen}")
    if size and (size.is_below or size.is_above):
        yield Flag(
            "small" if size.is_below else "large",
            f"Cells too {'small' if size.is_below else 'large'}: half of them are smaller than"
            f" {numbers.area_inside_um2:.0f} µm², around it {numbers.area_rim_um2:.0f} µm².",
        )


def _circumstances(numbers: Numbers) -> Iterator[Flag]:
    """Yield what makes a filling doubtful, however it looks."""
    grey, middle = numbers.uncertainty_grey, median(numbers.others_grey or [0.0])
    if grey is not None and grey > _uncertain_from(numbers.others_grey):
        yield Flag(
            "uncertain",
            f"Uncertain: its samples differ by {grey:.2g} grey values, those of the section's median region by"
            f" {middle:.2g}.",
        )
    if numbers.is_wide:
        yield Flag(
            "wide",
            f"Too large for the context: its middle lies more than {numbers.window_um / 2:.0f} µm from any intact"
            f" tissue, and the model sees {numbers.window_um:.0f} µm at once.",
        )
    if numbers.depth_um > DEEP_UM:
        yield Flag(
            "deep",
            f"Too wide to know its layers: its middle lies {numbers.depth_um:.0f} µm from any intact tissue. Beyond"
            f" {DEEP_UM:.0f} µm the surroundings do not tell which tissue was there.",
        )
    if numbers.tissue_um2 < SCARCE * numbers.area_um2:
        yield Flag(
            "scarce",
            f"Little tissue around it: {numbers.tissue_um2:,.0f} µm² of intact tissue nearby, and the region has"
            f" {numbers.area_um2:,.0f} µm².",
        )
    if numbers.touches_border:
        yield Flag("border", "It touches the section's border: on that side there was no tissue to go on from.")
    if numbers.rim_um2 and numbers.blank_share >= BLANK_SHARE:
        yield Flag(
            "background",
            f"It touches background: {numbers.blank_share:.0%} of its surroundings show no tissue, so that it is not"
            " compared with them.",
        )


def _uncertain_from(others_grey: tuple[float, ...]) -> float:
    """Return the uncertainty above which a region stands out in its section."""
    if len(others_grey) < LEAST_REGIONS:
        return math.inf
    middle = median(others_grey)
    apart = NORMAL_MAD * median(abs(grey - middle) for grey in others_grey)
    return max(UNCERTAIN * middle, middle + 3 * apart)
