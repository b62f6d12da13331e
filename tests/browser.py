"""Pages in a real browser: headless Chromium opens them from disk, and whatever goes wrong there fails the test."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
CHROMIUM = shutil.which("chromium")
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")


class View(NamedTuple):
    """How large a window is, in CSS pixels, and which colours its reader prefers.

    A test takes another one, or several, with ``@pytest.mark.parametrize("view", [DESK, NIGHT, PROJECTOR], ids=str)``.
    """

    width: int
    height: int
    scheme: str

    def __str__(self) -> str:
        return f"{self.width} {self.scheme}"


DESK = View(1280, 800, "light")
NIGHT = View(1280, 800, "dark")
PROJECTOR = View(1920, 1080, "light")
PHONE = View(390, 844, "light")


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    """The browser. One a module: Playwright runs once at a time in a thread."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright on this machine")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def view() -> View:
    """The window that `visit` opens."""
    return DESK


class Guard:
    """Notes what must not happen on a page: errors, dialogs, and requests for anything but files of its report."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve().as_uri() + "/"
        self.wrong: list[str] = []

    def watch(self, page) -> None:
        page.on("console", lambda said: self._note(said.type in ("error", "warning"), f"console: {said.text}"))
        page.on("pageerror", lambda error: self._note(True, f"error: {error}"))
        page.on("dialog", lambda dialog: (self._note(True, f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("requestfailed", lambda asked: self._note(True, f"failed: {asked.url}"))
        page.on("request", lambda asked: self._note(not self.allows(asked.url), f"request: {asked.url}"))

    def allows(self, url: str) -> bool:
        return url.startswith(("data:", "blob:", self.folder))

    def _note(self, is_wrong: bool, what: str) -> None:
        if is_wrong:
            self.wrong.append(what[:500])


class Visitor:
    """Opens pages in one browser profile: ``visit(path, within=folder, hash_="#region-7")``.

    ``within`` is the folder whose files the page may ask for, its own without one.
    """

    def __init__(self, context) -> None:
        self.context = context
        self.guards: list[Guard] = []

    def __call__(self, path: Path, *, within: Path | None = None, hash_: str = ""):
        page = self.context.new_page()
        self.guards.append(Guard(within or path.parent))
        self.guards[-1].watch(page)
        page.goto(path.resolve().as_uri() + hash_)
        return page


@pytest.fixture
def visit(chromium, view: View) -> Iterator[Visitor]:
    """A function that opens a page; at the end nothing may have gone wrong on any."""
    context = chromium.new_context(
        viewport={"width": view.width, "height": view.height},
        color_scheme=view.scheme,
        accept_downloads=True,
        reduced_motion="reduce",
    )
    context.set_default_timeout(20_000)
    visitor = Visitor(context)
    yield visitor
    titles = [page.title() for page in context.pages]
    context.close()
    if wrong := [wrong for guard in visitor.guards for wrong in guard.wrong]:
        pytest.fail("\n".join(wrong))
    assert "hit" not in titles  # what a hostile name of a test would have done


class Viewer:
    """The viewer of a section's page in the hands of a reader."""

    def __init__(self, tab, guard: Guard) -> None:
        self.tab, self.guard = tab, guard
        self.tab.wait_for_selector("html[data-ready]")
        self.rest()

    def rest(self) -> Viewer:
        """Wait until nothing moves any more and tiles have come."""
        self.tab.wait_for_timeout(200)
        self.tab.wait_for_selector("#viewer[aria-busy='false']")
        self.tab.wait_for_timeout(200)
        return self

    def press(self, *keys: str) -> Viewer:
        """Press keys one after the other."""
        for key in keys:
            self.tab.keyboard.press(key)
        return self.rest()

    def ruler(self) -> float:
        """Return µm a screen pixel, by the scale bar."""
        ruler = self.tab.locator("#ruler")
        text, width = ruler.inner_text(), ruler.evaluate("ruler => ruler.getBoundingClientRect().width")
        number, unit = text.split()
        return float(number) * {"µm": 1, "mm": 1000}[unit] / width

    def picture(self, selector: str = "#pane-first") -> np.ndarray:
        """Return the pane as it is seen, (h, w, 3), drawn by the browser."""
        box = self.tab.locator(selector).bounding_box()
        wrong = list(self.guard.wrong)
        shot = self.tab.screenshot(clip=box)
        self.guard.wrong = wrong  # taking a picture puts in a style, which the page's policy refuses
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))

    def text(self, selector: str) -> str:
        """Return what is read there."""
        return self.tab.locator(selector).inner_text()


@pytest.fixture
def show(visit: Visitor):
    """A function that opens the page of a section: ``show(path, "#region-7")``."""
    return lambda path, hash_="", **how: Viewer(visit(path, hash_=hash_, **how), visit.guards[-1])


def section_data(path: Path) -> dict:
    """Return what the script of a section's page knows, its regions as records."""
    (found,) = re.findall(r'id="section-data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    data = json.loads(found)
    columns, rows = data["regions"].values()
    return {**data, "regions": [dict(zip(columns, row, strict=True)) for row in rows]}


def axe(page, within: str | None = None) -> str:
    """Return what axe finds wrong with a page, or with what a selector names, as text; empty if it finds nothing."""
    # Not by a script tag, which the page's security policy would rightly refuse.
    page.evaluate(AXE.read_text(encoding="utf-8"))
    options = {"runOnly": {"type": "tag", "values": RULES}, "resultTypes": ["violations"], "preload": False}
    found = page.evaluate("([within, options]) => axe.run(within ?? document, options)", [within, options])
    return "\n".join(
        f"{wrong['id']}: {wrong['help']}\n    {node['html'][:200]}\n    {' '.join(node['failureSummary'].split())}"
        for wrong in found["violations"]
        for node in wrong["nodes"][:3]
    )
