"""Long work says how far it is, also where no terminal shows a bar."""

import logging

import pytest

from cytomend import progress
from cytomend.progress import Progress


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = iter([0.0, 30.0, 60.0, 70.0, 240.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress("section B20", 400, "window") as count:
        for _ in range(4):
            count.update(100)
    assert caplog.messages == ["section B20: 200 of 400 windows (50 %), about 1 min left"]
