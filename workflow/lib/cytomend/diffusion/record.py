"""The settings record of a checkpoint: what must be known to use a model, and where it came from. Needs no torch.

The metadata of the safetensors file hold one JSON object under ``cytomend``. A file without it, or that does not fit
it, is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cytomend.errors import InputError

FORMAT = 2


@dataclass(frozen=True, slots=True)
class UNetSettings:
    """The shape of a network; stands in every checkpoint.

    ``widths`` are the channels of each resolution, each half the one before. ``stem`` folds squares of that many
    pixels into channels before the first convolution, which divides the cost by its square. ``attention`` names the
    resolutions (0 is the finest) with self-attention.
    """

    channels: int = 1
    widths: tuple[int, ...] = (32, 64, 128)
    blocks: int = 1
    stem: int = 2
    attention: tuple[int, ...] = (2,)
    heads: int = 4
    embedding: int = 32

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> UNetSettings:
        """Return settings from what JSON or YAML made of them."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        return cls(**fields)

    @property
    def divisor_px(self) -> int:
        """The window side must be a multiple of this."""
        return int(self.stem * 2 ** (len(self.widths) - 1))


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """All that must be known to use a checkpoint, and where it came from."""

    unet: UNetSettings
    times: int
    window_px: int
    pixel_size_um: float
    training: dict[str, Any] = field(default_factory=dict)
    """Provenance: steps, seconds, data with fingerprints and licences."""

    def to_json(self) -> str:
        """Return the record that goes into the file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ModelSettings:
        """Read the record back; raises AttributeError, KeyError, TypeError or ValueError on anything else."""
        record = json.loads(text)
        if (found := record.pop("format")) != FORMAT:
            raise ValueError(f"format {found}, expected {FORMAT}; trained by another release of cytomend")
        return cls(unet=UNetSettings.from_record(record.pop("unet")), **record)


def load_settings(path: Path) -> ModelSettings:
    """Return the settings record of a checkpoint without reading its weights.

    Raises
    ------
    InputError
        If the file is missing, no safetensors file, or carries no settings record of ours.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; expected a .safetensors file written by `cytomend train`")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a safetensors file ({error}); expected one written by `cytomend train`"
        ) from error
    try:
        return ModelSettings.from_json(metadata["cytomend"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: a safetensors file without a settings record that can be used ({error!r});"
            " expected one written by `cytomend train`"
        ) from error


def checkpoint_hash(path: Path) -> str:
    """Return the SHA-256 of the file, the identity of a model in every provenance record."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
