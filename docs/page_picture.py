"""Take a picture of a section's page, for the README.

    python docs/page_picture.py results/phantom-1/report/index.html docs/images/page.webp --region 3

Needs chromium and the development packages.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SIZE = {"width": 1280, "height": 800}
QUALITY = 88


def picture(page: Path, region: int, keys: list[str], out: Path) -> None:
    """Open a page at a region, press keys, and save what is seen."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium: expected a browser of this name on the path, found none; install it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport=SIZE, reduced_motion="reduce")
        tab.goto(f"{page.resolve().as_uri()}#region-{region}")
        tab.wait_for_selector("html[data-ready]")
        for key in keys:
            tab.keyboard.press(key)
        tab.wait_for_timeout(500)
        tab.wait_for_selector("#viewer[aria-busy='false']")
        shot = tab.screenshot()
        browser.close()
    with Image.open(io.BytesIO(shot)) as image:
        image.convert("RGB").save(out, quality=QUALITY)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--region", type=int, required=True)
    parser.add_argument("--keys", nargs="*", default=[])
    args = parser.parse_args()
    picture(args.page, args.region, args.keys, args.out)
