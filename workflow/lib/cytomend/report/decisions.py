"""What the page of a section says of its reviewers' decisions: of each region who decided what, and what is still open.

A decision is about a filling that was looked at. Once a region is drawn again, or mended by another model or seed, an
earlier acceptance says nothing of it, and the region waits for review. What is left as scanned stays so.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cytomend.decisions import ACCEPT, LEAVE, REDRAW, SCAN, Decision, by_place
from cytomend.geometry import Box
from cytomend.regions.decided import not_applied
from cytomend.regions.plan import Plan
from cytomend.settings import schema

DRAWN_BY = ("checkpoint_sha256", "seed", "window_px", "stride_px", "value_range", "source_blake2b")
"""Provenance that a filling depends on, besides its sampler."""


SAID = ("decision", "who", "when", "text")
"""What the page's script must know of a region about which something was said."""


@dataclass(frozen=True, slots=True)
class LeftShown:
    """A region that is left as scanned, as the page shows it."""

    number: int
    box: Box
    area_px: int
    area_um2: float
    y_um: float
    x_um: float


@dataclass(frozen=True, slots=True)
class RegionDecision:
    """What was decided of a region.

    Attributes
    ----------
    decision : ``accept``, ``leave``, ``redraw`` (it was drawn again, and waits for review), or empty
    who, when : of the last decision, empty without any
    text : the same in words
    draw : how often it was drawn again
    seen : name of the filling that the page shows
    history : all its rows, the earliest first
    """

    decision: str
    who: str
    when: str
    text: str
    draw: int
    seen: str
    history: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class DecisionsShown:
    """What was decided of a section; ``record`` is what the script of its page must know."""

    of: dict[int, RegionDecision]
    left: tuple[LeftShown, ...]
    warnings: tuple[str, ...]
    record: dict[str, Any]

    @property
    def counts(self) -> dict[str, int]:
        """How many regions were accepted, left, drawn again, and wait without a decision."""
        found = Counter(region.decision for region in self.of.values())
        return {
            "regions_accepted": found[ACCEPT],
            "regions_left": found[LEAVE],
            "regions_redrawn": found[REDRAW],
            "regions_undecided": found[""],
        }


def decisions_shown(rows: Sequence[Decision], plan: Plan, provenance: Mapping[str, Any]) -> DecisionsShown:
    """Return what the page shows of the decisions about a section.

    Parameters
    ----------
    rows : of this section, the earliest first
    plan : of the section
    provenance : of the corrected section, which names what was drawn
    """
    facts, said = plan.facts, by_place(rows)
    left = tuple(
        LeftShown(one.number, one.box, one.area_px, one.area_px * facts.pixel_size_um**2, one.y_um, one.x_um)
        for one in facts.left
    )
    places: dict[int, tuple[Box, int]] = {
        int(row["region"]): (
            Box(*(int(row[side]) for side in ("y0_px", "x0_px", "y1_px", "x1_px"))),
            int(row["area_px"]),
        )
        for row in plan.regions.to_dict("records")
    } | {one.number: (one.box, one.area_px) for one in left}
    draws = dict(zip(plan.regions["region"].tolist(), plan.regions["draw"].tolist(), strict=True))
    of = {
        number: _region_decision(said.get(place, []), filling(provenance, draws.get(number)), draws.get(number))
        for number, place in sorted(places.items())
    }
    lost = [row for place, its_rows in said.items() if place not in places.values() for row in its_rows[-1:]]
    warnings = [not_applied(row.region, row.box, row.area_px, row.decision or "a comment") for row in lost]
    # The plan has said so already of what would have reached pixels.
    new = tuple(warning for warning in warnings if warning not in facts.warnings)
    return DecisionsShown(of, left, new, _record(facts.section, facts.source_blake2b, rows, places, of))


def filling(provenance: Mapping[str, Any], draw: int | None) -> str:
    """Return the name of what a reviewer sees in a region: of the scan, or of a drawing of this number."""
    if draw is None:
        return SCAN
    made_by = {key: provenance[key] for key in provenance if key in DRAWN_BY or key.startswith("sampler")}
    record = json.dumps({**made_by, "draw": draw}, sort_keys=True, default=str)
    return f"f{hashlib.blake2b(record.encode(), digest_size=6).hexdigest()}"  # no number to a spreadsheet


def _region_decision(rows: Sequence[Decision], seen: str, draw: int | None) -> RegionDecision:
    decided = [row for row in rows if row.decision]
    if not decided:
        return RegionDecision("", "", "", "Not decided yet.", draw or 0, seen, tuple(rows))
    last = decided[-1]
    decision, text = last.decision, _text(last, draw)
    if decision == ACCEPT and last.seen == SCAN != seen:
        decision, text = "", f"Mended after all, decided by {last.who} on {last.when[:10]}; look at the filling."
    elif decision == ACCEPT and last.seen not in ("", seen):
        decision, text = "", f"{last.who} accepted an earlier filling on {last.when[:10]}; look at this one."
    return RegionDecision(decision, last.who, last.when, text, draw or 0, seen, tuple(rows))


def _text(last: Decision, draw: int | None) -> str:
    """Say what was decided, and, where the section was mended before, what is still to be done."""
    by = f"decided by {last.who} on {last.when[:10]}"
    if last.decision == LEAVE:
        return f"Left as scanned, {by}." if draw is None else f"To be left as scanned, {by}; mended before that."
    if last.decision == REDRAW and draw:
        times = "again" if draw == 1 else f"again {draw} times"
        return f"Drawn {times}, {by}; look at the new filling."
    if last.decision == REDRAW:
        return f"To be drawn again, {by}; mended before that."
    return f"Accepted, {by}." if draw is not None else f"To be mended after all, {by}."


def _record(
    section: str,
    source: str,
    rows: Sequence[Decision],
    places: Mapping[int, tuple[Box, int]],
    of: Mapping[int, RegionDecision],
) -> dict[str, Any]:
    """Return what the page's script exports, and adds to."""
    return {
        "section": section,
        "source": source[:12],
        "longest": {
            column: rule["maxLength"]
            for column, rule in schema("decisions")["properties"].items()
            if "maxLength" in rule
        },
        "rows": [asdict(row) for row in rows],
        "regions": [
            {
                "region": number,
                "at": [box.y0, box.x0, box.y1, box.x1, area_px],
                "seen": of[number].seen,
                **({name: getattr(of[number], name) for name in SAID} if of[number].history else {}),
            }
            for number, (box, area_px) in sorted(places.items())
        ],
    }
