"""The last lines of a job's log: what was done, and what ended it."""

import os
import signal
import subprocess
import sys
import time

import pytest

CHILD = """
import os, signal, sys, time
from cytomend.diary import Stopped, begin_log, supervised, told
def main():
    {work}
    return 0
sys.exit(supervised(main))
"""


def job(work):
    """Start a job whose computing process does this."""
    return subprocess.Popen([sys.executable, "-c", CHILD.format(work=work)], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("work", "status", "last"),
    [
        ("return 0", 0, ""),
        ("return 2", 2, ""),
        ("sys.exit('a sentence')", 1, "a sentence"),
        ("raise RuntimeError('a bug')", 1, "RuntimeError: a bug"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "killed by SIGKILL: usually memory ran out"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139, "killed by SIGSEGV"),
    ],
)
def test_status_and_cause_are_handed_on(work, status, last):
    process = job(work)
    text = process.communicate(timeout=60)[1]
    assert process.returncode == status
    assert last in (text.splitlines() or [""])[-1]


def test_a_stopped_job_says_so_and_may_tidy_up():
    work = """
    try:
        print('begun', file=sys.stderr, flush=True)
        time.sleep(60)
    except Stopped as error:
        print(told(error), file=sys.stderr)
        return error.status"""
    process = job(work)
    assert process.stderr.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert text.startswith("stopped by SIGTERM: it was cancelled, or its time was over")


def test_what_computes_ends_with_the_job():
    process = job("print(os.getpid(), file=sys.stderr, flush=True); time.sleep(60)")
    child = int(process.stderr.readline())
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while _alive(child):
        assert time.monotonic() < end
        time.sleep(0.02)


def _alive(process):
    try:
        with open(f"/proc/{process}/stat") as stat:  # noqa: PTH123
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_command_line_is_such_a_job(tmp_path):
    words = [sys.executable, "-m", "cytomend", "mend", str(tmp_path / "none.tif"), "--mask", "x", "--out", "y.zarr"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    assert done.returncode == 2
    assert "cytomend mend:" in done.stderr.splitlines()[-1]
