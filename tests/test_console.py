"""A console that cannot print undoes no work: other encodings, readers that leave, full disks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import as_json, blobs, plan_settings

LIBRARY = Path(__file__).parents[1] / "workflow" / "lib"


@pytest.fixture
def plan(make_section, tmp_path):
    """Return a function that plans a section in a folder with an accent, and returns process and manifest."""
    section = make_section(blobs((96, 96), (10, 10, 20, 20)))

    def plan(stdout=subprocess.PIPE, **environment):
        out = tmp_path / "plän"
        words = ["--image", str(section.image), "--annotation", str(section.annotation), "--out", str(out)]
        environment = {**os.environ, "PYTHONPATH": str(LIBRARY), **environment}
        line = [sys.executable, "-m", "cytomend", "plan-section", *words, "--settings", as_json(plan_settings())]
        ended = subprocess.run(line, stdout=stdout, stderr=subprocess.PIPE, env=environment, check=False)
        assert b"Traceback" not in ended.stderr
        assert (tmp_path / "plän.manifest.json").is_file()
        return ended

    return plan


def test_letters_that_a_console_lacks_are_written_as_escapes(plan):
    ended = plan(PYTHONIOENCODING="ascii")
    assert ended.returncode == 0
    assert b"pl\\xe4n.manifest.json" in ended.stdout


def test_a_reader_that_leaves_undoes_nothing(plan):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert plan(stdout=writing).returncode == 0
    finally:
        os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
def test_a_full_disk_behind_the_output_is_told(plan):
    with Path("/dev/full").open("wb") as full:
        ended = plan(stdout=full)
    assert ended.returncode == 1
    assert b"cytomend: standard output cannot be written (No space left on device)" in ended.stderr


def test_help_is_printed_in_any_encoding():
    line = [sys.executable, "-m", "cytomend", "mend", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY), "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(line, capture_output=True, env=environment, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"\\xb5m" in ended.stdout


def test_streams_that_are_closed_do_no_harm():
    line = [sys.executable, "-m", "cytomend", "mend", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    closing = ["sh", "-c", 'exec "$@" >&-', "sh", *line]
    ended = subprocess.run(closing, capture_output=True, env=environment, check=False)
    assert ended.returncode == 0
    assert b"Traceback" not in ended.stderr
