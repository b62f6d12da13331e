"""The numbers of one section, as ``metrics.json`` beside its page and as a row of the brain's table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from cytomend.errors import InputError
from cytomend.regions.plan import SectionFacts
from cytomend.report.corrected import CorrectedSection
from cytomend.report.decisions import DecisionsShown
from cytomend.report.origin import RegionOrigin, total_origin
from cytomend.report.regions import RegionFacts
from cytomend.verdict import Verdict


@dataclass(frozen=True, slots=True)
class SectionMetrics:
    """The numbers of a section; units in `cytomend.stages.report_section`."""

    section: str
    stain: str
    shape: tuple[int, int]
    channels: int
    dtype: str
    pixel_size_um: float
    regions: int
    windows: int
    mended_px: int
    mended_share: float
    mended_mm2: float
    largest_region_um2: float
    model: str
    checkpoint_sha256: str
    sampler: str
    sampler_steps: int
    sampler_jump: int
    sampler_resample: int
    network_calls: int
    seed: int
    samples: int
    precision: str
    uncertainty_grey: float | None
    region_uncertainty_grey: dict[str, float]
    grafts: int
    copied_px: int
    drawn_px: int
    region_grafts: dict[str, dict[str, float]]
    grow_px: int
    window_px: int
    stride_px: int
    source_blake2b: str
    mask_blake2b: str
    cytomend: str
    evaluated: bool
    proved: bool | None
    warnings: tuple[str, ...]
    flagged: int
    regions_accepted: int
    regions_left: int
    regions_redrawn: int
    regions_undecided: int
    reviewed_until: dict[str, str]

    @property
    def regions_to_review(self) -> int:
        """Regions that wait for a look: nothing was decided of them, or they were drawn again since."""
        return self.regions_undecided + self.regions_redrawn

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read ``metrics.json``.

        Raises
        ------
        InputError
            If it is missing, damaged, or of another version.
        """
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            height, width = record["shape"]
            return cls(**{**record, "shape": (height, width), "warnings": tuple(record["warnings"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: expected the metrics of a section ({error}); write them again with `cytomend report-section`"
            ) from error

    def write(self, path: Path) -> None:
        """Write ``metrics.json``."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


MADE_BY = (
    "model",
    "checkpoint_sha256",
    "sampler",
    "sampler_steps",
    "sampler_jump",
    "sampler_resample",
    "network_calls",
    "seed",
    "samples",
    "precision",
    "source_blake2b",
    "cytomend",
)
"""What the metrics take from the provenance."""


def measure(
    facts: SectionFacts,
    regions: list[RegionFacts],
    corrected: CorrectedSection,
    origins: Mapping[int, RegionOrigin],
    warnings: tuple[str, ...],
    said: DecisionsShown,
    verdict: Verdict | None,
    *,
    flagged: int,
    evaluated: bool,
) -> SectionMetrics:
    """Return the numbers of a section.

    Parameters
    ----------
    facts, regions, corrected : what was planned and mended
    origins : by region, where its pixels come from
    warnings : sentences
    said : what reviewers decided
    verdict : what was proved of the corrected section, if it was
    flagged : regions that look wrong
    evaluated : whether the section has an evaluation

    Raises
    ------
    InputError
        If the provenance lacks an entry.
    """
    provenance, uncertainty = corrected.provenance, corrected.uncertainty
    if missing := [key for key in MADE_BY if key not in provenance]:
        raise InputError(
            f"section {facts.section!r}: the corrected section does not say its {', '.join(missing)}; mend it again"
        )
    height, width = facts.shape
    return SectionMetrics(
        section=facts.section,
        stain=facts.stain,
        shape=facts.shape,
        channels=facts.channels,
        dtype=facts.dtype,
        pixel_size_um=facts.pixel_size_um,
        regions=len(regions),
        windows=sum(region.windows for region in regions),
        mended_px=facts.masked_px,
        mended_share=facts.masked_px / (height * width),
        mended_mm2=facts.masked_px * facts.pixel_size_um**2 / 1e6,
        largest_region_um2=max((region.area_um2 for region in regions), default=0.0),
        uncertainty_grey=uncertainty.mean if uncertainty else None,
        region_uncertainty_grey={str(number): mean for number, mean in uncertainty.regions.items()}
        if uncertainty
        else {},
        **asdict(total_origin(origins.values())),
        region_grafts={
            str(number): {
                "grafts": one.count,
                "copied_px": one.copied_px,
                "drawn_px": one.drawn_px,
                "farthest_um": one.farthest_um,
            }
            for number, one in sorted(origins.items())
            if one.farthest_um is not None
        },
        grow_px=facts.grow_px,
        window_px=facts.window_px,
        stride_px=facts.stride_px,
        mask_blake2b=facts.mask_blake2b,
        evaluated=evaluated,
        proved=verdict.holds if verdict else None,
        warnings=warnings,
        flagged=flagged,
        # The earliest rows come first.
        reviewed_until={row["who"]: row["when"] for row in said.record["rows"]},
        **{key: provenance[key] for key in MADE_BY} | said.counts,
    )
