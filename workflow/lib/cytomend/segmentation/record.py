"""The settings record of a segmenter's checkpoint: what must be known to use it and its origin. Needs no torch.

The metadata of the safetensors file hold one JSON object under ``cytomend-segmenter``. A file without it, or that does
not fit it, is refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cytomend.errors import InputError

FORMAT = 1
KEY = "cytomend-segmenter"
EXPECTED = "expected one written by `cytomend train-segmenter`"


@dataclass(frozen=True, slots=True)
class CpnSettings:
    """The shape of a contour proposal network.

    ``widths`` are the channels of each resolution, finest first, each half the one before; ``order`` that of the
    contours' Fourier descriptors; ``refinements`` how often the points of a contour are moved, by at most
    ``step_px`` each time; ``reach_px`` how far a contour may reach from the pixel that proposes it.
    """

    widths: tuple[int, ...] = (8, 24, 48, 96)
    order: int = 4
    refinements: int = 3
    step_px: float = 2.0
    reach_px: int = 32

    @property
    def divisor_px(self) -> int:
        """The sides of a picture must be multiples of this, and blocks must begin at multiples of it."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def receptive_px(self) -> int:
        """How far from a pixel the picture can change what is predicted there; a bound.

        Two 3 x 3 convolutions a level on the way down and up, a pooling or doubling between levels, and two more
        convolutions of a head at half resolution.
        """
        down = sum(2 * 2**level for level in range(len(self.widths)))
        up = sum(2 * 2**level for level in range(len(self.widths) - 1))
        return int(down + up + 2 * self.divisor_px + 4)


@dataclass(frozen=True, slots=True)
class CpnRecord:
    """All that must be known to use a checkpoint, and where it came from.

    ``score`` is the least score of a cell, ``overlap`` the greatest intersection over union of two cells.
    """

    network: CpnSettings
    pixel_size_um: float
    score: float = 0.4
    overlap: float = 0.3
    training: dict[str, Any] = field(default_factory=dict)
    """Provenance: settings, seconds, data with licences, scores on held-out tissue."""

    def to_json(self) -> str:
        """Return the record that goes into the file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CpnRecord:
        """Read the record back; raises AttributeError, KeyError, TypeError or ValueError on anything else."""
        record = json.loads(text)
        if (found := record.pop("format")) != FORMAT:
            raise ValueError(f"format {found}, expected {FORMAT}; trained by another release of cytomend")
        network = record.pop("network")
        return cls(network=CpnSettings(**{**network, "widths": tuple(network["widths"])}), **record)


def load_record(path: Path) -> CpnRecord:
    """Return the settings record of a checkpoint without reading its weights.

    Raises
    ------
    InputError
        If the file is missing, no safetensors file, or carries no settings record of ours.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such segmenter; expected a .safetensors file written by `cytomend train-segmenter`"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file ({error}); {EXPECTED}") from error
    try:
        return CpnRecord.from_json(metadata[KEY])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: a safetensors file without the settings record of a segmenter ({error!r}); {EXPECTED}"
        ) from error
