"""Whether a corrected section describes itself rightly: a validator's word, and sizes and places of our own reckoning.

The validator (yaozarrs) knows what OME-Zarr demands of any image. That a scale is the right one, only the section's
pixel size tells.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cytomend.errors import ResourceError
from cytomend.storage.pyramid import VERSION

LONGEST = 300


def validator() -> str:
    """Return name and version of the validator.

    Raises
    ------
    ResourceError
        If it is not installed.
    """
    try:
        import yaozarrs
    except ImportError as error:
        raise ResourceError(
            "expected the package yaozarrs, which knows the rules of OME-Zarr, found none; `pip install yaozarrs`, or"
            " use the environment envs/cytomend.yaml"
        ) from error
    return f"yaozarrs {yaozarrs.__version__}"


def invalid(store: Path) -> Iterator[str]:
    """Yield what the validator says against a store with all its arrays and labels."""
    import yaozarrs

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what an image should have is asked for below
            yaozarrs.validate_zarr_store(str(store))
    except Exception as error:  # whatever damaged metadata make of it
        yield f"{store}: expected OME-Zarr {VERSION}, found what {validator()} refuses: {_short(error)}"


def misplaced(store: Path, *, name: str, levels: int, channels: int, pixel_size_um: float) -> Iterator[str]:
    """Yield what is wrong with version, axes, scales and places of an image or label.

    Parameters
    ----------
    store : the group of the image or label
    name : how sentences call it
    levels : how many there should be
    channels : 1 for (y, x), more for (c, y, x)
    pixel_size_um : side of a pixel of level 0
    """
    ome = ome_of(store)
    if ome is None:
        yield f"{store / 'zarr.json'}: expected the metadata of a group with 'ome', found nothing that can be read"
        return
    if ome.get("version") != VERSION:
        yield f"{name}: expected OME-Zarr version {VERSION}, found {ome.get('version')!r}"
    entry = _first(ome.get("multiscales"))
    if (whole := entry.get("coordinateTransformations")) is not None:
        yield f"{name}: expected a scale of each level and none of all, found {_short(whole)}"
    coloured = channels > 1
    axes = [_pair(axis) for axis in _list(entry.get("axes"))]
    wanted = [("c", None)] * coloured + [("y", "micrometer"), ("x", "micrometer")]
    if axes != wanted:
        yield f"{name}: expected the axes {_axes(wanted)}, found {_axes(axes) or 'none'}"
    datasets = _list(entry.get("datasets"))
    paths = [str(dataset.get("path")) for dataset in datasets]
    if paths != [str(level) for level in range(levels)]:
        yield f"{name}: expected the levels 0 to {levels - 1}, found {', '.join(paths) or 'none'}"
    for level, dataset in enumerate(datasets[:levels]):
        yield from _misplaced_level(dataset, f"{name}, level {level}", level, coloured, pixel_size_um)


def unlisted_labels(store: Path, names: list[str]) -> Iterator[str]:
    """Yield what is wrong with the list of a store's labels, and with what each says of its image."""
    ome = ome_of(store / "labels")
    if ome is None:
        yield f"{store / 'labels' / 'zarr.json'}: expected the list of labels, found nothing that can be read"
        return
    if ome.get("labels") != names:
        yield f"labels: expected the labels {', '.join(names)}, found {_short(ome.get('labels'))}"
    for name in names:
        said = (ome_of(store / "labels" / name) or {}).get("image-label")
        source = said.get("source") if isinstance(said, dict) else None
        if source != {"image": "../../"}:
            yield f"labels/{name}: expected to be a label of the image at ../../, found {_short(source)}"


def ome_of(group: Path) -> dict[str, Any] | None:
    """Return the OME metadata of a Zarr v3 group, or None if there are none that can be read."""
    try:
        ome = json.loads((group / "zarr.json").read_bytes())["attributes"]["ome"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return ome if isinstance(ome, dict) else None


def _misplaced_level(
    dataset: dict[str, Any], name: str, level: int, coloured: bool, pixel_size_um: float
) -> Iterator[str]:
    """Compare scale and translation of a level with what its pixels cover: squares of ``2**level`` pixels."""
    side = 2**level
    wanted = {
        "scale": [1.0] * coloured + [pixel_size_um * side] * 2,
        "translation": [0.0] * coloured + [pixel_size_um * (side - 1) / 2] * 2,  # the centre of the first square
    }
    found: dict[str, Any] = {"translation": [0.0] * len(wanted["scale"])}
    for transformation in _list(dataset.get("coordinateTransformations")):
        kind = str(transformation.get("type"))
        found[kind] = transformation.get(kind)
    for kind in sorted({*found, *wanted}):
        if not _close(found.get(kind), wanted.get(kind)):
            yield f"{name}: expected the {kind} {wanted.get(kind)} µm, found {_short(found.get(kind))}"


def _close(found: object, wanted: list[float] | None) -> bool:
    if wanted is None or not isinstance(found, list) or len(found) != len(wanted):
        return False
    return all(
        isinstance(a, int | float) and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
        for a, b in zip(found, wanted, strict=True)
    )


def _first(values: object) -> dict[str, Any]:
    entries = _list(values)
    return entries[0] if entries else {}


def _list(values: object) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _pair(axis: dict[str, Any]) -> tuple[str, str | None]:
    return str(axis.get("name")), axis.get("unit")


def _axes(axes: Sequence[tuple[str, str | None]]) -> str:
    return ", ".join(f"{name} ({unit})" if unit else name for name, unit in axes)


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."
