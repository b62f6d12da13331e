"""What every section image can do: say its size and give the pixels of a box, lazily."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.geometry import Box


@dataclass(frozen=True)
class PixelKind:
    """Which pixels an opener accepts: stained tissue and artefact masks are stored differently.

    Parameters
    ----------
    expected : str
        What the error sentence asks for.
    dtypes : tuple of str
        Accepted numpy dtype names.
    channels : tuple of int
        Accepted numbers of channels, once alpha is dropped.
    photometrics : tuple of int
        Accepted meanings of values, as numbered by TIFF: 0 white-is-zero, 1 black-is-zero, 2 RGB, 3 palette.
    """

    expected: str
    dtypes: tuple[str, ...]
    channels: tuple[int, ...]
    photometrics: tuple[int, ...]


INDICES_READ = "has a colour table; its indices are read: 0 is intact, every other one is damage, whatever its colour"
ALPHA_UNUSED = "its alpha channel is not used"
TISSUE = PixelKind("an 8 or 16 bit unsigned image, grey or RGB", ("uint8", "uint16"), (1, 3), (1, 2))
LABELS = PixelKind(
    "a mask of bits or unsigned labels in one channel", ("bool", "uint8", "uint16", "uint32"), (1,), (0, 1, 2, 3)
)


class SectionImage(ABC):
    """The full-resolution plane of one scanned slide, read by region.

    Nothing is decoded before it is asked for, and boxes may be read from several threads at once.

    Attributes
    ----------
    path : Path
        The file or store, as given.
    shape : (height, width)
        Size in pixels.
    channels : int
        1 (grey) or 3 (RGB).
    dtype : numpy dtype
        As on disk, in the byte order of this machine.
    pixel_size_um : float or None
        Edge of a pixel in µm; None where the file says nothing or nothing credible.
    block_px : (height, width)
        What is decoded at once: a tile, a strip or a chunk. Boxes along this grid are the cheapest to read.
    warnings : list of str
        Sentences on what was understood in one of several possible ways.
    """

    def __init__(
        self,
        path: Path,
        *,
        shape: tuple[int, int],
        channels: int,
        dtype: np.dtype[Any],
        pixel_size_um: float | None,
        block_px: tuple[int, int],
    ) -> None:
        self.path = path
        self.shape = shape
        self.channels = channels
        self.dtype = dtype
        self.pixel_size_um = pixel_size_um
        self.block_px = block_px
        self.warnings: list[str] = []

    def read(self, box: Box) -> NDArray[Any]:
        """Decode the pixels of one box.

        Parameters
        ----------
        box : Box
            Not empty, and inside the section.

        Returns
        -------
        (C, h, w) array of `dtype`
            A fresh array that the caller may change.

        Raises
        ------
        ValueError
            The box is empty or reaches outside the section.
        InputError
            The file cannot be decoded there.
        """
        require_inside(box, self.shape)
        try:
            return self._read(box)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # codecs raise whatever they like on damaged data
            raise InputError(
                f"{self.path}: expected readable pixels at y {box.y0}-{box.y1}, x {box.x0}-{box.x1}, found damaged data"
                f" ({first_line(error)}); copy or export the file again"
            ) from error

    @abstractmethod
    def _read(self, box: Box) -> NDArray[Any]:
        """Decode a box that is known to lie inside."""

    def close(self) -> None:  # noqa: B027 - most formats hold nothing open
        """Release the file; later reads fail."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def require_inside(box: Box, shape: tuple[int, int]) -> None:
    """Raise ValueError unless the box holds pixels and all of them lie in a section of this (height, width)."""
    if box.is_empty or box.clip(shape) != box:
        raise ValueError(
            f"{box} is empty or reaches outside a section of {shape[0]} x {shape[1]} pixels (height x width)"
        )


def check_pixels(path: Path, kind: PixelKind, *, shape: tuple[int, int], channels: int, dtype: np.dtype[Any]) -> None:
    """Raise InputError unless these are pixels we can work on."""
    if min(shape) < 1:
        raise InputError(f"{path}: expected an image with pixels, found {shape[0]} x {shape[1]} (height x width)")
    if dtype.name not in kind.dtypes:
        raise InputError(
            f"{path}: expected {kind.expected}, found {dtype.name} values; convert it to {' or '.join(kind.dtypes)}"
        )
    if channels not in kind.channels:
        wanted = " or ".join(str(count) for count in kind.channels)
        raise InputError(f"{path}: expected {kind.expected}, found {channels} channels; export it with {wanted}")


def first_line(error: BaseException) -> str:
    """Return the first line of what a library said, short enough for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
