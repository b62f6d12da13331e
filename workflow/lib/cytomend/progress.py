"""How far long work has come: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

log = logging.getLogger(__name__)

SAY_SECONDS = 60.0


class Progress:
    """Counts units of work that are done.

    Parameters
    ----------
    what : named in every line
    total : units in all
    unit : one of them, in words
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self.begun = self.said = time.monotonic()
        self.bar = tqdm(total=total, unit=unit, unit_scale=True, desc=what, disable=not sys.stderr.isatty())

    def update(self, units: int) -> None:
        """Count units as done."""
        self.done += units
        self.bar.update(units)
        now = time.monotonic()
        if self.bar.disable and now >= self.said + SAY_SECONDS and self.done < self.total:
            self.said = now
            left = (now - self.begun) / self.done * (self.total - self.done)
            log.info(
                "%s: %d of %d %ss (%.0f %%), about %.0f min left",
                self.what,
                self.done,
                self.total,
                self.unit,
                100 * self.done / self.total,
                left / 60,
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
