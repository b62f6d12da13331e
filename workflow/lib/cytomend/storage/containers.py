"""Files that begin like another kind than they are, and what to do with those that we cannot read.

Many scanners write something that begins like a TIFF: the overview of a scan whose pixels lie elsewhere, or tiles that
overlap. A reader of plain TIFFs shows a picture of all of them, and a wrong one.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from pathlib import Path, PurePath

from tifffile import TiffFile

from cytomend.errors import InputError

EXPORT = "export it as OME-TIFF, in QuPath or Fiji, or by Bio-Formats: bfconvert {name} {stem}.ome.tif"
UNPACK = "unpack it and give what is in it"

REFUSED_SUFFIXES = {
    ".vsi": "an Olympus or Evident VSI, which holds an overview (the pixels lie in _{stem}_/stack*/frame_t.ets)",
    ".ets": "the pixels of an Olympus or Evident VSI without its .vsi",
    ".ndpis": "a list of NDPI files, one a channel",
    ".isyntax": "a Philips iSyntax file",
    ".i2syntax": "a Philips iSyntax file",
    ".flex": "an Opera Flex file, which holds fields of a plate",
    ".afi": "a list of Aperio files, one a channel",
    ".dng": "raw values of a camera",
    ".nef": "raw values of a camera",
    ".nrw": "raw values of a camera",
    ".cr2": "raw values of a camera",
    ".arw": "raw values of a camera",
    ".sr2": "raw values of a camera",
    ".pef": "raw values of a camera",
    ".orf": "raw values of a camera",
    ".rw2": "raw values of a camera",
    ".3fr": "raw values of a camera",
    ".lif": "a Leica LIF file",
    ".lof": "a Leica LOF file",
    ".nd2": "a Nikon ND2 file",
    ".oir": "an Olympus OIR file",
    ".oib": "an Olympus OIB file",
    ".zvi": "a Zeiss ZVI file",
    ".kfb": "a KFBio file",
    ".sdpc": "an SQRAY file",
    ".tmap": "a UNIC file",
    ".jp2": "a JPEG 2000 file",
    ".j2k": "a JPEG 2000 file",
    ".jpx": "a JPEG 2000 file",
    ".heic": "a HEIC photo",
    ".webp": "a WebP picture",
    ".bmp": "a BMP picture",
    ".gif": "a GIF picture",
    ".psd": "a Photoshop file",
}
"""What files of some suffixes are; none of them is read as what it begins like."""

ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "an empty zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\0": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
}
ETS_MAGIC = b"SIS\0"
OPENSLIDE_ONLY = {
    "is_bif": "a Ventana BIF, whose tiles overlap",
    "is_scn": "a Leica SCN, which holds several regions",
    "is_philips": "a Philips TIFF, whose levels are padded",
    "is_ndpi": "a Hamamatsu NDPI",
}
"""tifffile's flags of files that OpenSlide should have known."""
NO_PICTURES = {
    "is_dng": "raw values of a camera",
    "is_mdgel": "a Molecular Dynamics GEL file, whose values are square roots",
    "is_eer": "electrons counted by a camera",
    "is_vista": "a Vista IQ file",
    "is_tvips": "an image of an electron microscope",
}
"""tifffile's flags of files whose values are no grey or colour as they stand."""
IMAGE_SUFFIXES = {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".svs", ".ndpi", ".mrxs", ".czi", ".dcm"}
IMAGE_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\x89PNG", b"\xff\xd8\xff", b"ZISRAWFI")
ZARR_METADATA = ("zarr.json", ".zgroup", ".zattrs", ".zarray")


def refuse_by_name(path: Path, head: bytes) -> None:
    """Refuse what a file's name or beginning says to be of a kind that we do not read.

    Raises
    ------
    InputError
        With the way to convert it.
    """
    what = REFUSED_SUFFIXES.get(path.suffix.lower())
    if what is None and head.startswith(ETS_MAGIC):
        what = REFUSED_SUFFIXES[".ets"]
    if what is None and (pixels := pixels_beside(path)):
        what = f"the overview of an Olympus or Evident scan, whose pixels lie in {pixels}"
    if what is not None:
        raise InputError(f"{path}: expected an image that is read as it is, found {_filled(what, path)}; {how(path)}")
    archive = next((name for magic, name in ARCHIVES.items() if head.startswith(magic)), None)
    if archive is not None:
        inside = ", of an OME-Zarr store" if is_zipped_zarr(path) else ""
        cure = "unzip it and give the folder" if inside else UNPACK
        raise InputError(f"{path}: expected an image, found {archive}{inside}; {cure}")


def refuse_by_flags(path: Path, tif: TiffFile) -> None:
    """Refuse a TIFF that tifffile knows to be of a kind that we would read wrongly.

    Raises
    ------
    InputError
        With the way to convert it.
    """
    for flag, what in OPENSLIDE_ONLY.items():
        if getattr(tif, flag, False):
            raise InputError(
                f"{path}: expected a file that OpenSlide can read, found {what}, which it does not know; {how(path)}"
            )
    for flag, what in NO_PICTURES.items():
        if getattr(tif, flag, False):
            raise InputError(f"{path}: expected grey or RGB values, found {what}; {how(path)}")
    if str(tif.pages.first.software).startswith("MedScan"):
        raise InputError(
            f"{path}: expected a file that OpenSlide can read, found one of a Trestle scanner, whose tiles overlap;"
            f" {how(path)}"
        )


def pixels_beside(path: Path) -> Path | None:
    """Return where the pixels of an Olympus or Evident scan lie, if this file is its overview, whatever its suffix."""
    beside = path.with_name(f"_{path.stem}_")
    return next(iter(sorted(beside.glob("stack*/*.ets"))), None) if beside.is_dir() else None


def is_zipped_zarr(path: Path) -> bool:
    """Whether a file is a zip archive of a Zarr store."""
    if path.suffix.lower() == ".ozx" or path.name.lower().endswith(".zarr.zip"):
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rsplit("/", 1)[-1] in ZARR_METADATA for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return False


def is_packed_image(path: Path) -> bool:
    """Whether a file is an archive that holds an image, and neither outlines of ImageJ nor GeoJSON."""
    with path.open("rb") as file:
        head = file.read(8)
    archive = next((name for magic, name in ARCHIVES.items() if head.startswith(magic)), "")
    if archive == "a gzip archive":
        try:
            with gzip.open(path) as packed:
                return packed.read(8).startswith(IMAGE_MAGIC)
        except (OSError, EOFError, zlib.error):
            return False
    if archive == "a zip archive":
        return is_zipped_zarr(path) or _holds_images(path)
    return bool(archive) and "zip archive" not in archive


def _holds_images(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            suffixes = {PurePath(name).suffix.lower() for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, ValueError):
        return False
    return bool(suffixes & IMAGE_SUFFIXES) and ".roi" not in suffixes


def how(path: Path) -> str:
    """Return how to make an image of a file that we can read."""
    return _filled(EXPORT, path)


def _filled(text: str, path: Path) -> str:
    return text.format(name=path.name, stem=path.stem)
