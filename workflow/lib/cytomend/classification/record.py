"""The settings record of a classifier, as JSON in the metadata of its safetensors file. Loading executes nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cytomend.classification.network import TextureNet
from cytomend.diffusion.checkpoint import save_tensors
from cytomend.errors import InputError

FORMAT = "classifier-1"
EXPECTED = "expected one written by `cytomend train-classifier`"


@dataclass(frozen=True, slots=True)
class ClassifierSettings:
    """All that must be known to use a classifier, and where it came from.

    Parameters
    ----------
    classes : names of the classes, in the order of the logits
    widths : channels of the network at each resolution, see `cytomend.classification.network.TextureNet`
    pixel_size_um : pixel size of the patches it was trained on; others are resampled to it
    patch_px : side of the patches on which it was validated
    training : provenance: settings, data with seeds or content hashes and licences, what was measured
    """

    classes: tuple[str, ...]
    widths: tuple[int, ...]
    pixel_size_um: float
    patch_px: int
    training: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the record that goes into the file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ClassifierSettings:
        """Read the record back; raises AttributeError, KeyError, TypeError or ValueError on anything else."""
        record = json.loads(text)
        if (found := record.pop("format")) != FORMAT:
            raise ValueError(f"format {found}, expected {FORMAT}; no classifier, or one of another release of cytomend")
        settings = cls(**{**record, "classes": tuple(record["classes"]), "widths": tuple(record["widths"])})
        if not all(isinstance(width, int) and 0 < width <= 4096 for width in settings.widths) or not settings.widths:
            raise ValueError(f"widths {settings.widths}, expected channels between 1 and 4096")
        check_classes(settings.classes)
        check_lengths(settings.pixel_size_um, settings.patch_px)
        return settings


def check_classes(classes: tuple[object, ...]) -> None:
    """Raise ValueError unless these are two or more different names."""
    if len(classes) < 2 or len(set(classes)) < len(classes) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"classes {classes}, expected two or more different names")


def check_lengths(pixel_size_um: object, patch_px: object) -> None:
    """Raise ValueError unless these are a pixel size and a side."""
    if not isinstance(pixel_size_um, int | float) or not 0 < pixel_size_um <= 100:
        raise ValueError(f"pixel_size_um {pixel_size_um!r}, expected a number above 0 and up to 100")
    if not isinstance(patch_px, int) or not 0 < patch_px <= 8192:
        raise ValueError(f"patch_px {patch_px!r}, expected a whole number from 1 to 8192")


def save_classifier(path: Path, weights: dict[str, Tensor], settings: ClassifierSettings) -> None:
    """Write the weights with their settings record."""
    save_tensors(path, weights, {"cytomend": settings.to_json()})


def load_classifier(path: Path, device: str = "cpu") -> tuple[TextureNet, ClassifierSettings]:
    """Return the network in evaluation mode, and its settings.

    Raises
    ------
    InputError
        If the file is missing, no safetensors file, carries no record of ours, or holds weights that do not fit it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such classifier; {EXPECTED}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file ({error}); {EXPECTED}") from error
    try:
        settings = ClassifierSettings.from_json(metadata["cytomend"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: a safetensors file without a classifier's record that can be used ({error!r}); {EXPECTED}"
        ) from error
    network = TextureNet(settings.widths, len(settings.classes))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path}: the weights do not fit the settings record; the file is damaged or was edited ({error})"
        ) from error
    laid_out: TextureNet = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return laid_out.eval(), settings
