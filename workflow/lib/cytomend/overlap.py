"""Reading and writing while something else is computed, with a few threads and no queue."""

from __future__ import annotations

from collections import deque
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
    writers: int = 1,
) -> None:
    """Read, compute and write each item; the next is read and the last written while one is computed.

    Computing stays in the calling thread, and one item at most is in each hand: one that reads, one that computes,
    ``writers`` that write. Items are begun to be written in order; with one writer they are written in order. The first
    error, or an interrupt, ends it: what is being read or written is finished, nothing more is begun, and the error is
    raised here.
    """
    with ThreadPoolExecutor(1 + writers, thread_name_prefix="overlap") as pool:
        waiting = iter(items)
        coming = _begin(pool, read, waiting)
        written: deque[Future[object]] = deque()
        while coming is not None:
            ready = coming.result()
            coming = _begin(pool, read, waiting)
            done = compute(ready)
            if len(written) == writers:
                written.popleft().result()
            written.append(pool.submit(write, done))
        for last in written:
            last.result()


def _begin(pool: ThreadPoolExecutor, read: Callable[[Item], Ready], waiting: Iterator[Item]) -> Future[Ready] | None:
    """Begin to read the next item, if there is one."""
    for item in waiting:
        return pool.submit(read, item)
    return None
