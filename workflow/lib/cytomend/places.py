"""Where the checkout keeps what is not Python: schemas, page templates, bundled models."""

from __future__ import annotations

from pathlib import Path

from cytomend.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[3]
SCHEMAS = CHECKOUT / "workflow" / "schemas"
TEMPLATES = CHECKOUT / "workflow" / "report"
MODELS = CHECKOUT / "models"
LOOKING = ("cells", "layers")
"""Bundled models that look at tissue: they find cells or classify patches, and draw nothing."""


def model_file(name_or_path: str) -> Path:
    """Return the checkpoint of a bundled model's name, of a model folder, or of a .safetensors file.

    Raises
    ------
    InputError
        If there is none; the sentence lists the bundled names.
    """
    bundled = MODELS / name_or_path / "model.safetensors"
    given = Path(name_or_path)
    if "/" not in name_or_path and name_or_path not in {"", ".", ".."} and bundled.is_file():
        return bundled
    if given.is_dir() and (given / "model.safetensors").is_file():
        return given / "model.safetensors"
    if given.is_file():
        return given
    names = ", ".join(sorted({p.parent.name for p in MODELS.glob("*/model.safetensors")} - {*LOOKING})) or "none"
    raise InputError(
        f"model {name_or_path!r}: expected a bundled name ({names}), a folder with model.safetensors,"
        " or a .safetensors file"
    )
