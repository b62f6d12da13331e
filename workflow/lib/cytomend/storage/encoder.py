"""Who encodes the chunks of the stores we write, and what its errors mean."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

ENCODER = "zarrs.ZarrsCodecPipeline"
"""Encodes the chunks of a shard side by side, outside Python: several times as fast as zarr alone."""


@contextmanager
def errors_of_the_system() -> Iterator[None]:
    """Raise as OSError what the encoder tells as text: a full disk is to be known for one."""
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if not found:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
