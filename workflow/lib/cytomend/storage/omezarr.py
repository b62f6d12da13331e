"""OME-Zarr 0.4 (Zarr v2) and 0.5 (Zarr v3): level 0, read chunk by chunk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.storage.absent import (
    Chunks,
    absent_in_shards,
    ground_value,
    refuse_contradicted,
    refuse_damaged,
    refuse_misnamed,
    refuse_stopped_copy,
    sampled,
    with_fill,
)
from cytomend.storage.desktop import without_left_behind
from cytomend.storage.pixel_size import credible_size_um, length_um
from cytomend.storage.publish import lost_files
from cytomend.storage.raster import LABELS, PixelKind, SectionImage, check_pixels, first_line

VERSIONS = ("0.4", "0.5")
"""Of Zarr formats 2 and 3."""
CONVERTED = "converted"
"""Attribute of a scan that `cytomend convert` wrote."""
_ADVICE = "give the OME-Zarr image itself, the folder whose metadata hold 'multiscales'"


def open_omezarr(path: Path, kind: PixelKind) -> SectionImage:
    """Open level 0 of an OME-Zarr image; see `cytomend.storage.images.open_image`."""
    group = _open_group(path)
    multiscale = _multiscale(path, group)
    axes = _axes(path, multiscale)
    dataset = _first(path, multiscale.get("datasets"), "datasets")
    array = _open_array(path, group, dataset.get("path"))
    if array.ndim != len(axes):
        raise InputError(f"{path}: expected {len(axes)} dimensions for the axes {_names(axes)}, found {array.ndim}")
    sizes = dict(zip(_names(axes), array.shape, strict=True))
    planes = int(np.prod([size for axis, size in sizes.items() if axis in "tz"]))
    if planes > 1:
        raise InputError(
            f"{path}: expected one plane, found {planes} (axes {_names(axes)}, shape {array.shape}); export the plane"
            " to be mended alone"
        )
    check_pixels(path, kind, shape=(sizes["y"], sizes["x"]), channels=sizes.get("c", 1), dtype=array.dtype)
    array, warnings = _grounded(path, group, array, _names(axes), multiscale, kind)
    image = OmeZarrImage(path, array, axes=_names(axes), pixel_size_um=_pixel_size(axes, multiscale, dataset))
    image.warnings += warnings
    return image


def _grounded(
    path: Path, group: zarr.Group, array: zarr.Array[Any], axes: str, multiscale: dict[str, Any], kind: PixelKind
) -> tuple[zarr.Array[Any], list[str]]:
    """Return level 0 with ground where chunks are absent, and what to say of it; see `cytomend.storage.absent`.

    Raises
    ------
    InputError
        If their absence means that the store is damaged.
    """
    folder = path / array.path
    chunks = Chunks.of(folder, array)
    refuse_misnamed(path, folder, array, chunks)
    absent, what = len(chunks.absent), "shards" if array.shards else "chunks"
    shape = (int(array.shape[-2]), int(array.shape[-1]))
    if kind is LABELS:  # those that mark nothing are seldom written
        if absent:
            refuse_contradicted(path, chunks, shape, _coarser(group, multiscale, array.ndim), flat=0)
        return array, [] if chunks.present else [f"{path}: none of its {absent} {what} was written; it marks nothing"]
    refuse_damaged(path, chunks, axes)
    if CONVERTED in group.attrs:
        if lost := lost_files(path):  # what is absent besides is of the fill value, for the store was written whole
            raise InputError(f"{path}: expected all files that were converted, found {lost[0]} missing; copy it again")
        return array, []
    inner, looked = absent_in_shards(folder, array, chunks)
    if not absent and not inner:
        return array, []
    filled: Any = array.metadata.fill_value
    declared = None if filled is None else float(filled)
    ground = ground_value(sampled(array, chunks), declared)
    if ground:
        refuse_stopped_copy(path, chunks, declared)
    refuse_contradicted(path, chunks, shape, _coarser(group, multiscale, array.ndim))
    counted = [f"{absent} of {chunks.count} {what}"] * (absent > 0)
    counted += [f"{inner} of {looked} chunks in shards"] * (inner > 0)
    return with_fill(array, ground), [
        f"{path}: {' and '.join(counted)} of level 0 are absent, and read as ground of the value {ground}"
    ]


def _coarser(group: zarr.Group, multiscale: dict[str, Any], dimensions: int) -> Iterator[zarr.Array[Any]]:
    """Yield the levels below level 0 that can be opened, the largest first."""
    for dataset in multiscale["datasets"][1:]:
        try:
            level = group[str(dataset["path"])]
        except Exception:
            continue
        if isinstance(level, zarr.Array) and level.ndim == dimensions:
            yield level


class OmeZarrImage(SectionImage):
    """Level 0 of an OME-Zarr image."""

    def __init__(self, path: Path, array: zarr.Array[Any], *, axes: str, pixel_size_um: float | None) -> None:
        super().__init__(
            path,
            shape=(int(array.shape[-2]), int(array.shape[-1])),
            channels=int(array.shape[axes.index("c")]) if "c" in axes else 1,
            dtype=np.dtype(array.dtype).newbyteorder("="),
            pixel_size_um=pixel_size_um,
            block_px=(int(array.chunks[-2]), int(array.chunks[-1])),
        )
        self._array = array
        # Axes before y and x are of length one, but for the channels.
        self._leading = tuple(slice(None) if axis == "c" else 0 for axis in axes[:-2])

    def _read(self, box: Box) -> NDArray[Any]:
        pixels = np.asarray(self._array[(*self._leading, *box.slices)], self.dtype)
        return pixels.reshape(self.channels, *box.shape)


def _open_group(path: Path) -> zarr.Group:
    if not _has_metadata(path):
        found, cure = _other_folder(path)
        raise InputError(f"{path}: expected an image file or an OME-Zarr folder, found {found}; {cure}")
    try:
        return zarr.open_group(path, mode="r", use_consolidated=False)  # it may be older than what it describes
    except Exception as error:  # zarr raises several kinds for damaged metadata
        raise InputError(
            f"{path}: expected an OME-Zarr image, found a folder whose Zarr metadata cannot be read"
            f" ({first_line(error)}); {_ADVICE}"
        ) from error


def _other_folder(path: Path) -> tuple[str, str]:
    """Return what a folder is that is no Zarr store, and what to do."""
    held = without_left_behind(path.iterdir())
    if not held:
        return "an empty folder", "check the path"
    if any(part.name == "Slidedat.ini" for part in held):
        return "the folder of a MIRAX slide", f"give the file beside it, {path.name}.mrxs"
    if dicom := sorted(part.name for part in held if part.suffix.lower() == ".dcm"):
        return "a folder of DICOM files", f"give one of them, such as {dicom[0]}"
    if stores := sorted(part.name for part in held if part.is_dir() and _has_metadata(part)):
        return "a folder that holds Zarr stores", f"give one of them, such as {path / stores[0]}"
    return "a folder without .zgroup or zarr.json", "check the path"


def _has_metadata(folder: Path) -> bool:
    return any((folder / name).exists() for name in (".zgroup", "zarr.json", ".zarray"))


def _multiscale(path: Path, group: zarr.Group) -> dict[str, Any]:
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    if not isinstance(ome, dict):
        raise InputError(f"{path}: expected 'ome' metadata as an object, found {type(ome).__name__}; {_ADVICE}")
    if "multiscales" not in ome and (images := _images_in(path)):
        raise InputError(
            f"{path}: expected an OME-Zarr image, found a store that holds {len(images)} of them; give one, such as"
            f" {path / images[0]}"
        )
    multiscale = _first(path, ome.get("multiscales"), "multiscales")
    usual = VERSIONS[group.metadata.zarr_format - 2]  # 0.4 recommends to name the version, and does not demand it
    version = (ome.get("version") if "ome" in attributes else None) or multiscale.get("version") or usual
    if version not in VERSIONS:
        raise InputError(
            f"{path}: expected OME-Zarr version {' or '.join(VERSIONS)}, found {version!r}; convert it to one of them"
        )
    return multiscale


def _images_in(path: Path) -> list[str]:
    """Return the names of the images that a store holds as groups, as bioformats2raw writes them."""
    held = [part for part in without_left_behind(path.iterdir()) if part.is_dir() and part.name != "labels"]
    described = [part for part in held if any(_says_multiscales(part / name) for name in (".zattrs", "zarr.json"))]
    return sorted((part.name for part in described), key=lambda name: (len(name), name))


def _says_multiscales(metadata: Path) -> bool:
    return metadata.is_file() and '"multiscales"' in metadata.read_text(encoding="utf-8", errors="replace")


def _first(path: Path, values: object, name: str) -> dict[str, Any]:
    """Return the first object of a metadata list that must hold one."""
    if not isinstance(values, list) or not values or not isinstance(values[0], dict):
        raise InputError(f"{path}: expected OME-Zarr metadata with a list '{name}', found {_short(values)}; {_ADVICE}")
    return values[0]


def _axes(path: Path, multiscale: dict[str, Any]) -> list[dict[str, Any]]:
    axes = multiscale.get("axes")
    objects = isinstance(axes, list) and all(isinstance(axis, dict) for axis in axes)
    names = [str(axis.get("name")) for axis in axes] if objects else []  # type: ignore[union-attr]
    known = names[-2:] == ["y", "x"] and set(names[:-2]) <= {"t", "c", "z"} and len(set(names)) == len(names)
    if not known:
        raise InputError(
            f"{path}: expected OME-Zarr axes that end in y, x after at most t, c, z, found {names or _short(axes)};"
            " convert it to such axes"
        )
    return list(axes)  # type: ignore[arg-type]


def _names(axes: list[dict[str, Any]]) -> str:
    return "".join(str(axis["name"]) for axis in axes)


def _open_array(path: Path, group: zarr.Group, name: object) -> zarr.Array[Any]:
    try:
        array = group[str(name)]
    except Exception as error:  # a missing key, a wrong type, damaged metadata
        raise InputError(
            f"{path}: expected level 0 at {name!r} as its metadata say, found no readable array there"
            f" ({first_line(error)}); copy or export it again"
        ) from error
    if not isinstance(array, zarr.Array):
        raise InputError(f"{path}: expected an array at {name!r} as its metadata say, found a group; export it again")
    return array


def _pixel_size(axes: list[dict[str, Any]], multiscale: dict[str, Any], dataset: dict[str, Any]) -> float | None:
    """Return the size of a level-0 pixel in µm: the scales of the level and of the whole, times the unit."""
    sizes = [
        length_um(_scale(dataset, axis) * _scale(multiscale, axis), str(axes[axis].get("unit", "")))
        for axis in (-2, -1)
    ]
    return credible_size_um(*sizes)


def _scale(owner: dict[str, Any], axis: int) -> float:
    scale = 1.0
    for transformation in owner.get("coordinateTransformations") or []:
        values = transformation.get("scale") if isinstance(transformation, dict) else None
        if isinstance(values, list) and len(values) >= -axis and isinstance(values[axis], int | float):
            scale *= values[axis]
    return scale


def _short(value: object) -> str:
    return repr(value)[:80]


def attributes_of(store: Path) -> dict[str, Any]:
    """Return the attributes of a Zarr v3 group, or nothing if there is none."""
    try:
        attributes = json.loads((store / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return attributes if isinstance(attributes, dict) else {}
