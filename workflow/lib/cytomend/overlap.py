"""Reading and writing while something else is computed, with two threads and no queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Done = TypeVar("Done")


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Ready],
    compute: Callable[[Ready], Done],
    write: Callable[[Done], object],
) -> None:
    """Read, compute and write each item; the next is read and the last written while one is computed.

    Computing stays in the calling thread, and one item at most is in each of the three hands. Items are written in
    order. The first error, or an interrupt, ends it: what is being read or written is finished, nothing more is
    begun, and the error is raised here.
    """
    with ThreadPoolExecutor(2, thread_name_prefix="overlap") as pool:
        waiting = iter(items)
        coming = _begin(pool, read, waiting)
        written: Future[object] | None = None
        while coming is not None:
            ready = coming.result()
            coming = _begin(pool, read, waiting)
            done = compute(ready)
            if written is not None:
                written.result()
            written = pool.submit(write, done)
        if written is not None:
            written.result()


def _begin(pool: ThreadPoolExecutor, read: Callable[[Item], Ready], waiting: Iterator[Item]) -> Future[Ready] | None:
    """Begin to read the next item, if there is one."""
    for item in waiting:
        return pool.submit(read, item)
    return None
