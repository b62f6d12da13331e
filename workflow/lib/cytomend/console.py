"""What is printed reaches its reader, or is lost without harm: work that is done is not undone by a console."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO, cast


class Outlet(io.TextIOWrapper):
    """A stream that prints what it can, in place of another one.

    Letters that the console's encoding lacks are written as escapes. When the reader is gone (``| head``) or the disk
    behind a file is full, what follows is dropped, and ``failure`` keeps the first error.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        encoding, line_buffering = stream.encoding, stream.line_buffering
        # A buffered writer is left to whom it belongs, for detaching closes nothing.
        super().__init__(
            stream.detach(), encoding=encoding, errors="backslashreplace", line_buffering=line_buffering, newline=None
        )
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, or drop it where nobody reads."""
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Hand on what is kept, or drop it where nobody reads."""
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Let all that is kept, and all that follows, go nowhere."""
        self.failure = self.failure or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def use_outlets() -> None:
    """Print through outlets from now on; streams that are closed, or are no console's, stay as they are."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:
            setattr(sys, name, cast("TextIO", Outlet(stream)))


def lost_output() -> str | None:
    """Return a sentence if what was printed is lost for another reason than that its reader left."""
    failure = sys.stdout.failure if isinstance(sys.stdout, Outlet) else None
    if failure is None or isinstance(failure, BrokenPipeError):
        return None
    return f"standard output cannot be written ({failure.strerror}); files that were asked for are not touched by it"
