"""The page of a section in a browser: what is shown is what was scanned or mended, and hands find their way."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from browser import DESK, NIGHT, PHONE, PROJECTOR, Guard, axe, section_data
from conftest import blobs, mend_by_stages, plan_settings, write_tiff
from PIL import Image
from playwright.sync_api import expect
from scipy import ndimage

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.regions.plan import Plan
from cytomend.report.corrected import CorrectedSection
from cytomend.report.regions import region_facts
from cytomend.report.review import RegionReview
from cytomend.report.tiles import EMPTY, TileIndex, TileWriter
from cytomend.report.viewer import Contours, shares_of_time
from cytomend.stages.report_section import ReportSettings, report_section
from cytomend.storage.images import open_image
from cytomend.storage.pyramid import halve_by_mean

HOSTILE = "</script><script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\">"
HOLES = ((60, 80, 180, 240), (300, 420, 330, 640), (380, 100, 400, 130), (0, 600, 20, 640))
WHITE = 255


def damaged():
    """A (480, 700) scan of soft tissue with white holes, and the mask of the holes."""
    mask = blobs((480, 700), *HOLES)
    soft = ndimage.gaussian_filter(np.random.default_rng(5).standard_normal(mask.shape), 2)
    tissue = np.clip(soft / soft.std() * 25 + 110, 0, 200).astype(np.uint8)
    return np.where(mask, WHITE, tissue).astype(np.uint8), mask


class Mended:
    """A mended section on disk."""

    def __init__(self, folder, model, **plan):
        self.pixels, self.mask = damaged()
        self.image = write_tiff(folder / "scan.tif", self.pixels)
        self.annotation = write_tiff(folder / "mask.tif", self.mask.astype(np.uint8) * 255)
        self.corrected = mend_by_stages(self, model, folder, plan=plan_settings(grow_px=0, **plan))
        self.plan = folder / "plan"

    def report(self, out, **how):
        settings = {
            "overview_px": 200,
            "context_px": 8,
            "crop_px": 200,
            "pictures": 60,
            "segmenter": "classical",
            **how,
        }
        return report_section(self.image, self.plan, self.corrected, ReportSettings(**settings), out)


@pytest.fixture(scope="module")
def mended(tiny_model, tmp_path_factory):
    return Mended(tmp_path_factory.mktemp("mended"), tiny_model(), stain=HOSTILE, samples=2)


@pytest.fixture(scope="module")
def page(mended, tmp_path_factory):
    """The page of a section with four regions, three of them at full resolution."""
    return mended.report(tmp_path_factory.mktemp("page #1") / "report" / "index.html", pictures=3)


# --- tiles --------------------------------------------------------------------------------------------------------


class Tiled:
    """Tiles of 64 px as they lie on disk, put together again."""

    def __init__(self, mended, folder, shown, overview_px, monkeypatch):
        monkeypatch.setattr("cytomend.report.tiles.TILE_PX", 64)
        plan = Plan.read(mended.plan)
        self.corrected = CorrectedSection.open(mended.corrected, plan.facts)
        self.folder = folder
        with open_image(mended.image) as image:
            self.index = TileWriter(
                image, self.corrected, plan.facts.value_range, shown, overview_px, 8, folder
            ).write()
        self.numbers = {r.box: r.number for r in region_facts(plan.regions)}

    def layer(self, name, level):
        """A layer with its opacity, (h, w, 2); nothing where it has no tile."""
        height, width = self.corrected.levels[level].shape
        whole = np.zeros((height, width, 2), dtype=int)
        for path in (self.folder / name / str(level)).glob("*"):
            column, row = map(int, path.stem.split("_"))
            tile = np.asarray(Image.open(path).convert("LA"), dtype=int)
            whole[row * 64 : row * 64 + len(tile), column * 64 : column * 64 + tile.shape[1]] = tile
        return whole[..., 0], whole[..., 1] > 0


def pyramid(pixels, levels):
    found = [pixels[np.newaxis]]
    for _ in range(levels - 1):
        found.append(halve_by_mean(found[-1]))
    return [level[0].astype(int) for level in found]


def test_tiles_show_scan_and_mended_section_at_every_level(mended, tmp_path, monkeypatch):
    tiled = Tiled(mended, tmp_path, shown={1, 2, 3, 4}, overview_px=200, monkeypatch=monkeypatch)
    assert (tiled.index.levels, tiled.index.complete_from) == (len(tiled.corrected.levels), 2)
    for level, scan in enumerate(pyramid(mended.pixels, tiled.index.levels)):
        (before, has_before), (after, is_mended) = (tiled.layer(name, level) for name in ("before", "after"))
        assert has_before.all() == (level >= tiled.index.complete_from)
        # Lossy where it is reduced: a hole is white all the same, and tissue is not.
        np.testing.assert_allclose(before[has_before], scan[has_before], atol=0 if level == 0 else 40)
        assert abs(before[has_before] - scan[has_before]).mean() < 4
        label = np.asarray(tiled.corrected.labels[level]) > 0
        np.testing.assert_array_equal(is_mended, label)
        np.testing.assert_array_equal(after[label], np.asarray(tiled.corrected.levels[level])[label])
        np.testing.assert_array_equal(tiled.layer("mended", level)[1], label)


def test_tiles_at_full_resolution_lie_around_the_shown_regions_alone(mended, tmp_path, monkeypatch):
    tiled = Tiled(mended, tmp_path, shown=set(), overview_px=200, monkeypatch=monkeypatch)
    assert set(tiled.index.before) == set(tiled.index.mended) == set(range(2, tiled.index.levels))
    one = Tiled(mended, tmp_path / "one", {(box := Box(380, 100, 400, 130)) and tiled.numbers[box]}, 200, monkeypatch)
    _, has_before = one.layer("before", 0)
    assert has_before[box.grow(8).slices].all()
    assert has_before.sum() == 4 * 64 * 64  # rows 320 to 448, columns 64 to 192
    (tmp_path / "one" / EMPTY).stat()


def test_tiles_of_an_altered_scan_are_refused(mended, tmp_path, monkeypatch):
    pixels = mended.pixels.copy()
    pixels[50, 70] ^= 1
    monkeypatch.setattr(mended, "image", write_tiff(tmp_path / "other.tif", pixels))
    with pytest.raises(InputError, match="1 px outside the mask"):
        Tiled(mended, tmp_path, {1}, 200, monkeypatch)


def test_runs_of_tiles_are_counted_row_by_row():
    index = TileIndex(2, 1)
    index.before[0] = [(2, 1), (0, 0), (0, 2), (0, 1)]
    assert index.runs(index.before, 3 * 512) == {"0": [0, 3, 7, 1]}
    assert index.runs(index.before, 3 * 512 + 1) == {"0": [0, 3, 9, 1]}


def test_time_is_shared_by_windows_within_a_shard():
    windows, shards = {1: 3, 2: 1, 3: 5}, {1: 0, 2: 0, 3: 1}
    assert shares_of_time(windows, shards, {0: 8.0, 1: None}) == {1: 6.0, 2: 2.0, 3: None}


def test_a_page_takes_only_so_many_contours():
    square = np.array([[0, 0], [0, 4], [4, 4], [4, 0]])
    review = RegionReview(1, *[None] * 7, 0, 0, 0.1, None, (), (square,), (square, square))
    contours = Contours(most_numbers=40)
    assert contours.pack(review) == {"before": [[0, 0, 4, 0, 0, 4, -4, 0]], "after": [[0, 0, 4, 0, 0, 4, -4, 0]] * 2}
    assert contours.pack(review) is None


# --- in a browser -------------------------------------------------------------------------------------------------


def middle(picture, share=0.5):
    """A square of 40 px around the middle of a picture, or around another share of its width."""
    y, x = picture.shape[0] // 2, int(picture.shape[1] * share)
    return picture[y - 20 : y + 20, x - 20 : x + 20].astype(int)


def orange(picture):
    """How many pixels have the colour of outlines."""
    r, g, b = (picture[..., i].astype(int) for i in range(3))
    return int(((r > 200) & (g > 90) & (g < 180) & (b < 90)).sum())


def number_of(page, box):
    """The number of a hole."""
    return next(region["number"] for region in section_data(page)["regions"] if tuple(region["box"]) == box)


def test_the_curtain_shows_the_scan_on_its_left_and_the_mended_section_on_its_right(page, show):
    seen = show(page, f"#region-{number_of(page, HOLES[0])}").press("o")
    seen.tab.locator("#wiper").focus()
    seen.press("End")
    assert middle(seen.picture()).min() == WHITE  # the hole, as scanned
    assert [seen.tab.locator(f"#pane-first .tag.{side}").is_visible() for side in ("left", "right")] == [True, False]
    seen.press("Home")
    assert [seen.tab.locator(f"#pane-first .tag.{side}").is_visible() for side in ("left", "right")] == [False, True]
    after = middle(seen.picture())
    assert after.mean() < 250
    wiper, box = seen.tab.locator("#wiper"), seen.tab.locator("#pane-first").bounding_box()
    handle = wiper.bounding_box()
    seen.tab.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + 80)
    seen.tab.mouse.down()
    seen.tab.mouse.move(box["x"] + box["width"] / 2, handle["y"] + 90, steps=5)
    seen.tab.mouse.up()
    seen.rest()
    assert abs(int(wiper.get_attribute("aria-valuenow")) - 50) <= 1
    picture = seen.picture()
    assert middle(picture, 0.4).min() == WHITE
    assert middle(picture, 0.6).mean() < 250
    seen.press("ArrowLeft", "ArrowLeft")
    assert abs(int(wiper.get_attribute("aria-valuenow")) - 48) <= 1
    assert "% before" in wiper.get_attribute("aria-valuetext")


def test_keys_step_from_region_to_region_and_the_address_follows(page, show):
    seen = show(page)
    order = seen.tab.eval_on_selector_all("#regions li", "items => items.map((item) => item.dataset.region)")
    assert len(order) == 4
    whole = seen.ruler()
    for number in order:
        seen.press("j")
        assert seen.tab.evaluate("location.hash") == f"#region-{number}"
        assert seen.text("#chosen-title") == f"Region {number}"
        assert seen.ruler() < whole
    seen.press("k")
    assert seen.text("#chosen-title") == f"Region {order[-2]}"
    seen.press("0")
    assert seen.ruler() == pytest.approx(whole, rel=0.02)
    seen.tab.get_by_role("link", name=re.compile(rf"^{order[0]} ")).click()
    seen.rest()
    assert seen.text("#chosen-title") == f"Region {order[0]}"
    visible = seen.tab.locator(".decision:visible")
    assert visible.count() == 1
    seen.tab.evaluate(f"location.hash = '#region-{order[1]}'")
    seen.rest()
    assert seen.text("#chosen-title") == f"Region {order[1]}"


def test_side_by_side_keeps_the_view_and_both_sides_move_together(page, show):
    seen = show(page, f"#region-{number_of(page, HOLES[0])}").press("o")
    scale = seen.ruler()
    seen.press("s")
    assert seen.ruler() == pytest.approx(scale, rel=0.01)
    left, right = seen.picture(), seen.picture("#pane-second")
    assert middle(left).min() == WHITE
    assert middle(right).mean() < 250
    seen.tab.locator("#pane-second .openseadragon-canvas").focus()
    for _ in range(12):  # a key held zooms frame by frame, however many there are a second
        if seen.press("-").ruler() > scale * 1.3:
            break
    assert scale * 1.3 < seen.ruler() < scale * 2
    seen.press("ArrowRight")
    left, right = seen.picture(), seen.picture("#pane-second")
    above = slice(45, 120), slice(0, min(left.shape[1], right.shape[1]))  # the tissue above the hole
    assert (left[above] == right[above]).all(axis=-1).mean() > 0.99
    assert len(np.unique(left[above])) > 50
    zoomed = seen.ruler()
    seen.press("s")
    assert seen.ruler() == pytest.approx(zoomed, rel=0.01)


def test_synthetic_pixels_are_framed_whatever_is_switched_off(page, show):
    seen = show(page, f"#region-{number_of(page, HOLES[0])}")
    seen.tab.locator("[data-wipe='0']").click()
    strong = orange(seen.picture())
    seen.press("o")
    plain = seen.picture()
    assert 300 < orange(plain) < strong
    assert "synthetic" in seen.text(".legend")
    seen.press("t")
    tinted = seen.picture()
    r, _, b = middle(tinted).reshape(-1, 3).mean(axis=0)
    assert r > b + 30
    seen.press("t", "u")
    coloured = middle(seen.picture()).reshape(-1, 3)
    assert np.ptp(coloured, axis=1).mean() > 30
    assert "2 fillings differ" in seen.text(".legend")
    seen.press("u", "c")
    assert (seen.picture() != plain).any()
    assert "cells found" in seen.text(".legend")
    seen.tab.locator("[data-wipe='100']").click()
    seen.press("c")
    assert orange(seen.picture()) < 100  # nothing synthetic is shown; the legend is


def test_facts_stand_beside_the_region_and_what_is_coarse_says_so(page, show):
    seen = show(page, f"#region-{number_of(page, HOLES[1])}")
    facts = " ".join(seen.text("#chosen-facts").split()).replace("\u202f", " ")
    for fact in (
        "220 × 30 px",
        "2 % ",
        "Cell density",
        "Seam",
        "timemap",
        "network calls",
        "grey values over 2 fillings",
    ):
        assert fact in facts, fact
    assert not seen.tab.locator("#chosen-coarse").is_visible()
    for link in seen.tab.locator("#chosen-facts a").all():
        assert (page.parent / link.get_attribute("href")).is_file()
    last = seen.tab.locator("#regions li").last.get_attribute("data-region")
    seen.tab.evaluate(f"location.hash = '#region-{last}'")
    assert seen.tab.locator("#chosen-coarse").is_visible()
    border = seen.tab.locator("#regions li.flagged", has_text="border")
    assert border.get_attribute("data-region") == str(number_of(page, HOLES[3]))


def test_a_click_on_a_region_chooses_it_and_help_opens(page, show):
    seen = show(page)
    box = seen.tab.locator("#pane-first").bounding_box()
    scale = seen.ruler()
    corner_x = box["x"] + box["width"] / 2 - 700 / scale / 2
    corner_y = box["y"] + box["height"] / 2 - 480 / scale / 2
    seen.tab.mouse.click(corner_x + 160 / scale, corner_y + 120 / scale)
    seen.rest()
    assert seen.text("#chosen-title") == f"Region {number_of(page, HOLES[0])}"
    assert seen.ruler() == pytest.approx(scale)  # one looks at it where it is
    seen.press("?")
    assert seen.tab.locator("#help").is_visible()
    seen.press("Escape", "b")
    assert not seen.tab.locator("#help").is_visible()
    assert seen.tab.locator("[data-wipe='0']").get_attribute("aria-pressed") == "true"


def test_the_table_of_all_regions_is_sorted_by_a_click(page, show):
    seen = show(page)
    seen.tab.locator("#all-regions summary").click()
    column = "rows => rows.map((row) => Number(row.cells[2].dataset.value))"
    seen.tab.get_by_role("button", name="area (µm²)").click()
    areas = seen.tab.eval_on_selector_all("#table tbody tr", column)
    assert areas == sorted(areas)
    assert len(areas) == 4
    seen.tab.get_by_role("button", name="area (µm²)").click()
    assert seen.tab.eval_on_selector_all("#table tbody tr", column) == areas[::-1]


def test_a_page_whose_tiles_are_gone_says_so(page, chromium, tmp_path):
    copy = shutil.copytree(page.parent, tmp_path / "copy")
    with chromium.new_context(viewport={"width": DESK.width, "height": DESK.height}) as context:
        tab = context.new_page()
        tab.goto((copy / page.name).as_uri())
        tab.wait_for_selector("html[data-ready]")
        tab.wait_for_selector("#viewer[aria-busy='false']")
        assert not tab.locator("#lost").is_visible()
        (tiles,) = copy.glob("images/*/after")
        shutil.rmtree(tiles)
        tab.reload()
        expect(tab.locator("#lost")).to_be_visible()


def test_without_a_script_there_are_plain_pictures(page, chromium):
    with chromium.new_context(java_script_enabled=False) as context:
        tab, guard = context.new_page(), Guard(page.parent)
        guard.watch(tab)
        tab.goto(page.as_uri())
        links = [link.get_attribute("href") for link in tab.locator("noscript a").all()]
        assert len(links) == 1 + 2 * 3
        assert all((page.parent / link).is_file() for link in links)
        assert not tab.locator("#viewer").is_visible()
    assert guard.wrong == []


@pytest.mark.parametrize("view", [DESK, NIGHT, PROJECTOR, PHONE], ids=str)
def test_axe_finds_nothing_wrong(page, show):
    seen = show(page)
    assert axe(seen.tab) == ""
    seen.press("j", "c", "u", "s")
    seen.tab.locator("#all-regions summary").click()
    assert axe(seen.tab) == ""
    seen.press("?")
    assert axe(seen.tab, "#help") == ""


@pytest.mark.parametrize("view", [DESK, PROJECTOR], ids=str)
def test_picture_and_decision_are_in_sight_together(page, show, view):
    seen = show(page, f"#region-{number_of(page, HOLES[0])}")
    for part in ("#pane-first", "#chosen-title", ".deciding.current fieldset", "#regions"):
        box = seen.tab.locator(part).bounding_box()
        assert box["x"] >= 0, part
        assert box["y"] >= 0, part
        assert box["x"] + box["width"] <= view.width, part
        assert box["y"] + box["height"] <= view.height, part
    assert seen.tab.evaluate("document.documentElement.scrollWidth") <= view.width
    before = show(page).tab.locator("#pane-first").bounding_box()
    assert before["height"] > view.height / 2  # also when no region is chosen yet


def test_the_page_is_small_lets_only_its_own_scripts_run_and_holds_the_licence(page):
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 700_000
    assert "Redistributions of source code must retain the above copyright" in text
    assert "unsafe" not in re.search(r"<meta http-equiv[^>]*>", text)[0]
    assert not re.search(r"<[^>]*\son\w+=", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
    assert " style=" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
