"""Section images of every supported format behind one way of reading: `open_image`."""

from __future__ import annotations

from pathlib import Path

from cytomend.errors import InputError
from cytomend.storage.containers import ETS_MAGIC, REFUSED_SUFFIXES, is_packed_image, refuse_by_name
from cytomend.storage.czi import MAGIC as CZI_MAGIC
from cytomend.storage.czi import open_czi
from cytomend.storage.frames import file_and_frame, require_frame
from cytomend.storage.omezarr import open_omezarr
from cytomend.storage.raster import LABELS, TISSUE, PixelKind, SectionImage
from cytomend.storage.slides import SUFFIXES as SLIDE_SUFFIXES
from cytomend.storage.slides import VENDORS, open_slide, vendor_of
from cytomend.storage.small import JPEG_MAGIC, PNG_MAGIC, open_small
from cytomend.storage.tiff import MAGIC as TIFF_MAGIC
from cytomend.storage.tiff import open_tiff

__all__ = ["SectionImage", "is_image", "open_image", "open_labels"]

SUPPORTED = "a TIFF, OME-TIFF, SVS, NDPI, MRXS, DICOM, SCN, BIF, CZI, PNG or JPEG file or an OME-Zarr folder"


def open_image(path: Path) -> SectionImage:
    """Open the full-resolution plane of a section.

    Parameters
    ----------
    path : Path
        TIFF (strips or tiles, BigTIFF, either byte order), OME-TIFF, SVS, OME-Zarr 0.4 or 0.5, CZI, PNG, JPEG, or a
        slide that OpenSlide reads; 8 or 16 bit unsigned, grey or RGB. An alpha channel is dropped. A frame may be
        named, as in ``scan.czi#scene2`` (`cytomend.storage.frames`).

    Returns
    -------
    SectionImage
        Nothing of a TIFF or OME-Zarr is decoded yet. Close it, or use it in a ``with`` block.

    Raises
    ------
    InputError
        The file is missing, damaged, truncated, or of a kind we cannot mend.
    """
    return _open(path, TISSUE)


def open_labels(path: Path) -> SectionImage:
    """Open a mask image: the same formats in one channel, of bits or of unsigned labels up to 32 bit."""
    return _open(path, LABELS)


def is_image(path: Path) -> bool:
    """Whether a path is a folder or a file that begins like an image we read.

    Raises
    ------
    InputError
        The path does not exist or may not be read, or names a frame of what is no image.
    """
    file, frame = file_and_frame(path)
    magic = (*TIFF_MAGIC, PNG_MAGIC, JPEG_MAGIC, CZI_MAGIC, ETS_MAGIC)
    if file.is_dir() or _head(file).startswith(magic) or _is_slide(file):
        return True
    if file.suffix.lower() in REFUSED_SUFFIXES or is_packed_image(file):
        return True
    require_frame(file, frame)
    return False


def _open(named: Path, kind: PixelKind) -> SectionImage:
    path, frame = file_and_frame(named)
    head = _head(path)
    if path.is_dir():
        require_frame(path, frame)
        return open_omezarr(path, kind)
    refuse_by_name(path, head)
    if head.startswith(CZI_MAGIC):
        return open_czi(path, kind, frame)
    if _is_slide(path):
        return open_slide(path, kind, frame)
    if head.startswith(TIFF_MAGIC):
        return open_tiff(path, kind, frame)
    if head.startswith(JPEG_MAGIC) and kind is LABELS:
        raise InputError(f"{path}: a JPEG blurs the rim of a mask; save the mask as PNG or TIFF")
    if head.startswith((PNG_MAGIC, JPEG_MAGIC)):
        return open_small(path, kind, frame)
    found = "an empty file" if not head else f"a file that begins with {head!r}"
    raise InputError(f"{path}: expected {SUPPORTED}, found {found}; convert it, or copy it again if it is damaged")


def _is_slide(path: Path) -> bool:
    """Whether OpenSlide is to read a file: of these formats some begin like a TIFF, and others like nothing else."""
    return path.suffix.lower() in SLIDE_SUFFIXES or vendor_of(path) in VENDORS


def _head(path: Path) -> bytes:
    """Return the first bytes of a file, or nothing for a folder; refuse what is not there."""
    try:
        if path.is_dir():
            next(path.iterdir(), None)  # a folder that may not be listed is found out here
            return b""
        with path.open("rb") as file:
            return file.read(8)
    except FileNotFoundError:
        raise InputError(f"{path}: expected {SUPPORTED}, found nothing at this path; check it") from None
    except OSError as error:
        raise InputError(
            f"{path}: expected {SUPPORTED} that may be read, found: {error.strerror or error}; check its permissions"
        ) from error
