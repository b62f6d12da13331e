"""Who encodes the chunks of the stores we write, and what its errors mean."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import zarr

POOL = 4
"""Threads of zarr in a process."""


@contextmanager
def encoder() -> Iterator[None]:
    """Have the stores that are created here encoded by zarrs, outside Python: several times as fast as by zarr alone.

    A shard is encoded by one thread. With several, its chunks come to lie in the order in which they are finished, and
    the same pixels give other bytes; shards are therefore encoded side by side instead (`cytomend.overlap`).
    """
    with zarr.config.set({"threading.max_workers": POOL}):
        zarr.create_group({})  # zarr makes its pool at the first call, by what stands here, and keeps it
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": 1}):
        yield


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
