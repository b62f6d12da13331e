"""The log of a job, up to its last lines: they name section, region and cause, also of a job that is killed.

A job is two processes. The one that computes may be killed by the system, out of memory, without a word; the other
waits for it, hands on signals, and says what became of it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

MEANINGS = {
    signal.SIGKILL: "usually memory ran out, or the scheduler ended the job",
    signal.SIGTERM: "it was cancelled, or its time was over",
    signal.SIGXCPU: "its time was over",
    signal.SIGBUS: "a file shrank while it was read, or the disk is full",
}
HANDED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)

_PR_SET_PDEATHSIG = 1
_M_ARENA_MAX, _ARENAS = -8, 2


class Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: {MEANINGS[signal.SIGTERM]}")
        self.status = 128 + number


def begin_log() -> None:
    """Send the log to standard error."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True
    )


def told(error: BaseException) -> str:
    """Return the sentence of an error with its notes: section and region."""
    notes = getattr(error, "__notes__", [])
    return f"{error}" + (f" ({'; '.join(notes)})" if notes else "")


def supervised(main: Callable[[], int]) -> int:
    """Run ``main`` in a process of its own and return its status; if it is killed, say so at the end of the log."""
    parent = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # or, if it came ignored, the status would be lost
    awaited = {*HANDED_ON, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)  # none comes between fork, handlers and waiting
    child = os.fork()
    if child == 0:
        die_with(parent)
        _keep_few_arenas()
        signal.signal(signal.SIGTERM, _stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, awaited)
        try:
            status = main()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        if sys.stdout is not None:
            sys.stdout.flush()
        sys.exit(status)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
    gone, ended, used = os.wait4(child, os.WNOHANG)
    while not gone:
        if (got := signal.sigwait(awaited)) != signal.SIGCHLD:
            os.kill(child, got)
        gone, ended, used = os.wait4(child, os.WNOHANG)
    if not os.WIFSIGNALED(ended):
        return os.waitstatus_to_exitcode(ended)
    killer = os.WTERMSIG(ended)
    name = signal.Signals(killer).name if killer in set(signal.Signals) else f"signal {killer}"
    meaning = f": {MEANINGS[signal.Signals(killer)]}" if killer in MEANINGS else ""
    print(
        f"cytomend: killed by {name}{meaning}; it had taken {used.ru_maxrss / 1e3:.0f} MB of"
        " memory. What it was doing stands above; what is finished is kept: run again",
        file=sys.stderr,
        flush=True,
    )
    return 128 + killer


def _stop(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a scheduler tells every process of a job, and the other one hands it on
    raise Stopped(number)


def _keep_few_arenas() -> None:
    """Let threads share what each has freed: glibc otherwise keeps it for each."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, _ARENAS)


def die_with(parent: int) -> None:
    """End this process when its parent, by its number, is gone, so that nothing goes on writing behind a killed job."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
