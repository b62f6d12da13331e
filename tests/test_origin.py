"""What the page says of drawn and copied pixels: numbers, colours, outlines, and what a reader finds by hand."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import zarr
from browser import DESK, NIGHT, PHONE, Guard, Viewer, axe, section_data
from conftest import blobs, mend_by_stages, mend_settings, plan_settings, write_tiff
from PIL import Image
from scipy import ndimage

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.grafts.record import COLUMNS, DRAWN, FIRST, read_grafts
from cytomend.regions.plan import Plan
from cytomend.report.corrected import CorrectedSection, Origin
from cytomend.report.metrics import SectionMetrics
from cytomend.report.origin import (
    MOST_GRAFT_CHARACTERS,
    OUTLINE_TOLERANCE_PX,
    GraftOutlines,
    RegionOrigin,
    region_origin,
    source_boxes,
    total_origin,
)
from cytomend.report.outlines import outline
from cytomend.report.palette import COPIED_RGB, DRAWN_RGB, graft_turns, origin_colours
from cytomend.report.regions import region_facts
from cytomend.report.tiles import TileWriter
from cytomend.stages.report_section import ReportSettings, report_section
from cytomend.storage.images import open_image

WIDE, NARROW, SQUARE = (60, 80, 130, 170), (180, 20, 186, 200), (30, 220, 80, 270)
QUICK = {"block_um": 24, "step_um": 16, "search_um": 200, "joint_um": 2, "narrow_um": 10, "apart_um": 24}
DEEP_PX = 4
"""Pixels that lie so deep inside a copy, or inside drawn pixels, are told apart whatever the outline's tolerance."""


def table(*rows):
    """A table of grafts: (region, number, y, x, source_y, source_x, side) each, not mirrored."""
    return pd.DataFrame([(*row, 0, 1.0) for row in rows], columns=list(COLUMNS))


def held(labels, origin, grafts):
    """A corrected section held in memory."""
    pixels = np.zeros(labels.shape, np.uint8)
    return CorrectedSection(
        (pixels,), (labels.astype(np.uint32),), {}, None, Origin((origin,), grafts, origin_colours(grafts))
    )


def two_regions():
    """A (100, 120) section: region 1 with two copies that left pixels and one that left none, region 2 all drawn."""
    labels, origin = np.zeros((2, 100, 120), np.uint32)
    labels[10:50, 10:60], labels[70:80, 10:110] = 1, 2
    origin[labels > 0] = DRAWN
    origin[12:30, 12:40], origin[32:48, 20:50] = FIRST, FIRST + 2
    grafts = table((1, 1, 10, 10, 60, 10, 40), (1, 2, 10, 10, 0, 70, 40), (1, 3, 12, 20, 12, 80, 40))
    return labels, origin, grafts


# --- numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile_px", [7, 1024])
def test_pixels_of_a_region_are_counted_by_what_they_are_whatever_the_tiles(monkeypatch, tile_px):
    monkeypatch.setattr("cytomend.report.origin.COUNTED_PX", tile_px)
    labels, origin, grafts = two_regions()
    corrected = held(labels, origin, grafts)
    found = region_origin(1, Box(10, 10, 50, 60), corrected, 2.0)
    assert (found.copied_px, found.drawn_px) == (18 * 28 + 16 * 30, 40 * 50 - 18 * 28 - 16 * 30)
    assert found.grafts.tolist() == [0, 2]
    assert found.farthest_um == 60 * 2.0  # the copy that left no pixel is no copy
    drawn = region_origin(2, Box(70, 10, 80, 110), corrected, 2.0)
    assert (drawn.count, drawn.copied_px, drawn.drawn_px, drawn.farthest_um) == (0, 0, 1000, None)
    total = total_origin([found, drawn])
    assert (total.grafts, total.copied_px + total.drawn_px) == (2, int((labels > 0).sum()))


def test_without_the_label_every_mended_pixel_is_drawn():
    labels, _, _ = two_regions()
    corrected = CorrectedSection((np.zeros(labels.shape, np.uint8),), (labels,), {})
    found = region_origin(1, Box(10, 10, 50, 60), corrected, 1.0)
    assert (found.count, found.copied_px, found.drawn_px, found.farthest_um) == (0, 0, 2000, None)


# --- colours -------------------------------------------------------------------------------------------------------


def lattice(rows, columns, step=64, side=96):
    chance = np.random.default_rng(0).permutation(rows * columns)
    return table(*((1, i + 1, p // columns * step, p % columns * step, 0, 0, side) for i, p in enumerate(chance)))


def test_copies_that_lie_side_by_side_have_different_colours():
    grafts = lattice(9, 11)
    turns = graft_turns(grafts)
    assert set(turns) == {0, 1, 2}
    laid = np.zeros((9, 11), int)
    laid[grafts["y"] // 64, grafts["x"] // 64] = turns
    assert (laid[1:] != laid[:-1]).all()
    assert (laid[:, 1:] != laid[:, :-1]).all()


def test_drawn_pixels_are_orange_and_copies_are_cool():
    colours = origin_colours(lattice(2, 2))
    assert tuple(colours[DRAWN]) == DRAWN_RGB
    assert DRAWN_RGB[0] > 2 * DRAWN_RGB[2]
    assert {tuple(colour) for colour in colours[FIRST:].tolist()} <= set(COPIED_RGB)
    assert all(blue > red for red, _, blue in COPIED_RGB)


# --- outlines ------------------------------------------------------------------------------------------------------


def test_a_page_takes_only_so_many_copies():
    corrected = held(*two_regions())
    box = Box(10, 10, 50, 60)
    found = region_origin(1, box, corrected, 1.0)
    outlines = GraftOutlines(corrected)
    first, second = outlines.pack(found, box)
    _, origin, _ = two_regions()
    assert first[:6] == [10, 10, 60, 10, 40, 0]
    assert second[:6] == [12, 20, 12, 80, 40, 0]
    for graft, value, middle in ((first, FIRST, (21, 26)), (second, FIRST + 2, (40, 35))):
        y, x = graft[0] + graft[6], graft[1] + graft[7]
        assert origin[y, x] == value
        assert abs(y - middle[0]) <= 1
        assert graft[8] == outline(origin == value, tolerance_px=OUTLINE_TOLERANCE_PX)
    spent = MOST_GRAFT_CHARACTERS - outlines.left
    assert spent == len(json.dumps([first, second]))
    assert GraftOutlines(corrected, spent).pack(found, box) == [first, second]
    assert GraftOutlines(corrected, spent - 1).pack(found, box) is None
    assert GraftOutlines(corrected, 0).pack(region_origin(2, Box(70, 10, 80, 110), corrected, 1.0), box) == []


def test_a_page_of_a_section_with_20_000_copies_keeps_its_room():
    side, step, count = 96, 64, 20_000
    columns = 200
    shape = (count // columns * step + side, columns * step + side)
    rows = np.arange(count)
    corners = zip((rows // columns * step).tolist(), (rows % columns * step).tolist(), strict=True)
    grafts = table(*((row // 20 + 1, row % 20 + 1, y, x, 0, 0, side) for row, (y, x) in enumerate(corners)))

    class Wavy:
        """An origin label of this size that is made where it is read: cores of blocks, with wavy edges."""

        def __init__(self):
            self.shape = shape

        def __getitem__(self, index):
            y, x = (np.arange(part.start, part.stop) for part in index)
            y, x = y[:, None] + (4 * np.sin(x / 7)).astype(int), x + (4 * np.sin(y[:, None] / 7)).astype(int)
            core = (y % step > 3) & (x % step > 3) & (y // step < count // columns) & (x // step < columns)
            place = np.clip(y // step, 0, count // columns - 1) * columns + np.clip(x // step, 0, columns - 1)
            return np.where(core, place + FIRST, DRAWN).astype(np.uint32)

    corrected = CorrectedSection((), (), {}, None, Origin((Wavy(),), grafts, origin_colours(grafts)))
    # A twentieth of a page's room for a fifth of the regions: most are refused, without being traced.
    room = MOST_GRAFT_CHARACTERS // 20
    outlines, packed, written = GraftOutlines(corrected, room), 0, 0
    for region in range(200):
        own = np.arange(20 * region, 20 * region + 20)
        y, x = region // 10 * step, region % 10 * 20 * step
        found = outlines.pack(RegionOrigin(1, 1, 1.0, own), Box(y, x, y + side, x + 20 * step + side))
        packed += found is not None
        written += len(json.dumps(found)) if found else 0
    assert written <= room
    assert 5 <= packed < 200


def test_a_large_region_is_traced_copy_by_copy_with_the_same_result(monkeypatch):
    corrected, box = held(*two_regions()), Box(10, 10, 50, 60)
    found = region_origin(1, box, corrected, 1.0)
    whole = GraftOutlines(corrected).pack(found, box)
    monkeypatch.setattr("cytomend.report.origin.TRACED_PX", 16)
    assert GraftOutlines(corrected).pack(found, box) == whole


# --- the page ------------------------------------------------------------------------------------------------------


class Grafted:
    """A section on disk with one wide hole, a square and a narrow tear, mended with copies."""

    def __init__(self, folder, model, fill="graft"):
        self.mask = blobs((240, 320), WIDE, NARROW, SQUARE)
        soft = ndimage.gaussian_filter(np.random.default_rng(5).standard_normal(self.mask.shape), 2)
        tissue = np.clip(soft / soft.std() * 25 + 110, 0, 200).astype(np.uint8)
        self.image = write_tiff(folder / "scan.tif", np.where(self.mask, 255, tissue).astype(np.uint8))
        self.annotation = write_tiff(folder / "mask.tif", self.mask.astype(np.uint8) * 255)
        graft = QUICK if fill == "graft" else {}
        self.corrected = mend_by_stages(
            self, model, folder, plan=plan_settings(grow_px=0), mend=mend_settings(fill=fill, graft=graft)
        )
        settings = ReportSettings(400, 8, 200, 60, "classical")
        self.page = report_section(
            self.image, folder / "plan", self.corrected, settings, folder / "page #1" / "report" / "index.html"
        )
        self.grafts = read_grafts(self.corrected)

    def read(self, place):
        return np.asarray(zarr.open_array(self.corrected / place / "0", mode="r"))


@pytest.fixture(scope="module")
def grafted(tiny_model, tmp_path_factory):
    return Grafted(tmp_path_factory.mktemp("grafted"), tiny_model())


@pytest.fixture(scope="module")
def drawn(tiny_model, tmp_path_factory):
    return Grafted(tmp_path_factory.mktemp("drawn"), tiny_model(), fill="draw")


def number_of(page, box):
    return next(region["number"] for region in section_data(page)["regions"] if tuple(region["box"]) == box)


def test_metrics_and_page_tell_how_much_was_copied(grafted):
    origin, labels = grafted.read("labels/origin"), grafted.read("labels/mended")
    metrics = SectionMetrics.read(grafted.page.with_name("metrics.json"))
    assert metrics.copied_px == (origin >= FIRST).sum() > 1000
    assert metrics.drawn_px == (origin == DRAWN).sum()
    assert metrics.copied_px + metrics.drawn_px == metrics.mended_px
    assert metrics.grafts == len(np.unique(origin[origin >= FIRST]))
    for region in section_data(grafted.page)["regions"]:
        own = origin[labels == region["number"]]
        rows = np.unique(own[own >= FIRST]) - FIRST
        assert region["graft_count"] == len(region["grafts"]) == len(rows)
        assert (region["copied_px"], region["drawn_px"]) == ((own >= FIRST).sum(), (own == DRAWN).sum())
        told = metrics.region_grafts.get(str(region["number"]))
        assert (told is None) == (not len(rows))
        if told:
            used = grafted.grafts.iloc[rows]
            far = np.hypot(used["source_y"] - used["y"], used["source_x"] - used["x"]).max()
            assert told["farthest_um"] == pytest.approx(far)
            assert region["farthest_um"] == pytest.approx(far, rel=1e-4)
    narrow = number_of(grafted.page, NARROW)
    assert str(narrow) not in metrics.region_grafts


def test_tiles_of_the_layer_have_the_colours_of_the_label(grafted):
    origin = grafted.read("labels/origin")
    (tile,) = (grafted.page.parent / "images").glob("*/origin/0/0_0.png")
    shown = np.asarray(Image.open(tile))
    np.testing.assert_array_equal(shown[..., 3] > 0, origin > 0)
    np.testing.assert_array_equal(shown[origin > 0][:, :3], origin_colours(grafted.grafts)[origin[origin > 0]])


@pytest.mark.parametrize("box", [WIDE, NARROW])
def test_sources_of_shown_regions_have_tiles_at_half_the_resolution(grafted, tmp_path, monkeypatch, box):
    monkeypatch.setattr("cytomend.report.tiles.TILE_PX", 16)
    plan = Plan.read(grafted.corrected.parent / "plan")
    corrected = CorrectedSection.open(grafted.corrected, plan.facts)
    shown = next(one for one in region_facts(plan.regions) if one.box == Box(*box))
    sources = source_boxes(corrected, [region_origin(shown.number, shown.box, corrected, 1.0)])
    with open_image(grafted.image) as image:
        writer = TileWriter(
            image, corrected, plan.facts.value_range, {shown.number}, 100, 8, tmp_path / "with", sources
        )
        found = writer.write()
        bare = replace(writer, sources=(), folder=tmp_path / "without").write()
    assert found.complete_from > 1
    has = np.zeros((-(-240 // 32), -(-320 // 32)), dtype=bool)
    for row, column in found.before[1]:
        has[row, column] = True
    for source in sources:
        assert has[source.y0 // 32 : (source.y1 - 1) // 32 + 1, source.x0 // 32 : (source.x1 - 1) // 32 + 1].all()
    assert set(found.before[0]) == set(bare.before[0])
    assert set(bare.before[1]) <= set(found.before[1])
    assert bool(sources) == (len(found.before[1]) > len(bare.before[1])) == (box == WIDE)


def test_a_section_that_was_drawn_has_no_layer_and_says_nothing_of_copies(drawn):
    text = re.sub(r"<script.*?</script>", "", drawn.page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert 'data-layer="origin"' not in text
    assert "copied from" not in text
    assert not list((drawn.page.parent / "images").glob("*/origin"))
    metrics = SectionMetrics.read(drawn.page.with_name("metrics.json"))
    assert (metrics.grafts, metrics.copied_px, metrics.drawn_px) == (0, 0, metrics.mended_px)
    assert metrics.region_grafts == {}


def test_a_damaged_table_of_grafts_is_named(grafted, tmp_path):
    copy = shutil.copytree(grafted.corrected, tmp_path / "corrected.ome.zarr")
    shutil.rmtree(copy / "labels" / "origin" / "grafts")
    with pytest.raises(InputError, match="origin/grafts: expected the table of grafts"):
        CorrectedSection.open(copy, Plan.read(grafted.corrected.parent / "plan").facts)


# --- in a browser --------------------------------------------------------------------------------------------------


def screen(seen, y, x, shape):
    """Where a pixel lies on the screen while all of the section is shown."""
    box, scale = seen.tab.locator("#pane-first").bounding_box(), 1 / seen.ruler()
    corner_x = box["x"] + box["width"] / 2 - shape[1] * scale / 2
    corner_y = box["y"] + box["height"] / 2 - shape[0] * scale / 2
    return corner_x + (x + 0.5) * scale, corner_y + (y + 0.5) * scale


def deep(mask):
    """The pixel that lies deepest in a mask, (y, x)."""
    depth = ndimage.distance_transform_edt(mask)
    assert depth.max() >= DEEP_PX - 1
    return tuple(int(i) for i in np.unravel_index(depth.argmax(), mask.shape))


def expected(grafted, row, y, x):
    """The sentence of a copied pixel; a pixel is 1 µm wide."""
    graft = grafted.grafts.iloc[row]
    across = x - graft["x"]
    source_x = int(graft["source_x"] + (graft["side_px"] - 1 - across if graft["mirrored"] else across))
    source_y = int(graft["source_y"] + y - graft["y"])
    away = round(float(np.hypot(source_y - y, source_x - x)))
    mirrored = ", mirrored" if graft["mirrored"] else ""
    return f"copied from x {source_x} µm, y {source_y} µm, {away} µm away{mirrored}."


def told(seen):
    return seen.text("#origin-text").replace("\u202f", "")


def test_a_pixel_under_the_pointer_says_whether_it_was_drawn_or_copied_and_from_where(grafted, show):
    origin, labels = grafted.read("labels/origin"), grafted.read("labels/mended")
    seen = show(grafted.page)
    assert not seen.tab.locator("#origin-note").is_visible()
    seen.tab.locator("[data-wipe='0']").click()
    plain = seen.picture()
    seen.press("g")
    assert "drawn by the network" in seen.text(".legend")
    assert "copied from this section" in seen.text(".legend")
    assert "wrong place" in told(seen)
    assert (seen.picture() != plain).any()
    sizes = np.bincount(origin[origin >= FIRST])
    for value in np.argsort(sizes)[::-1][:3]:
        y, x = deep(origin == value)
        seen.tab.mouse.move(*screen(seen, y, x, origin.shape))
        seen.rest()
        assert told(seen) == f"Region {labels[y, x]}: {expected(grafted, value - FIRST, y, x)}"
    y, x = NARROW[0] + 3, 100
    seen.tab.mouse.move(*screen(seen, y, x, origin.shape))
    seen.rest()
    assert told(seen) == f"Region {labels[y, x]}: drawn by the network."
    assert seen.tab.locator("#graft-source").is_disabled()
    seen.tab.mouse.move(*screen(seen, 150, 250, origin.shape))
    seen.rest()
    assert "Point at a mended pixel" in told(seen)
    seen.press("g")
    assert not seen.tab.locator("#origin-note").is_visible()


def test_a_click_keeps_the_pixel_and_a_button_goes_to_its_source_and_back(grafted, show):
    origin = grafted.read("labels/origin")
    seen = show(grafted.page)
    seen.tab.locator("[data-wipe='0']").click()
    seen.press("g")
    value = int(np.bincount(origin[origin >= FIRST]).argmax())
    y, x = deep(origin == value)
    seen.tab.mouse.click(*screen(seen, y, x, origin.shape))
    seen.rest()
    said = told(seen)
    assert said.endswith(expected(grafted, value - FIRST, y, x))
    marked = seen.picture()
    seen.tab.mouse.move(*screen(seen, NARROW[0] + 3, 100, origin.shape))
    seen.rest()
    assert told(seen) == said
    for _ in range(6):
        seen.tab.locator("#zoom-in").click()
    seen.rest()
    seen.tab.locator("#graft-source").click()
    seen.rest()
    there = seen.picture()
    assert seen.text("#graft-source") == "back to the copy"
    seen.tab.locator("#graft-source").click()
    seen.rest()
    assert seen.text("#graft-source") == "see the source"
    assert (seen.picture() != there).any()
    assert (marked == 255).all(axis=-1).sum() > 100  # the outlines of copy and source


def test_keys_step_from_copy_to_copy_of_the_chosen_region(grafted, show):
    number = number_of(grafted.page, WIDE)
    region = next(one for one in section_data(grafted.page)["regions"] if one["number"] == number)
    seen = show(grafted.page, f"#region-{number}").press(".")
    assert seen.tab.locator("#origin-note").is_visible()
    told_ones = [told(seen)]
    for _ in region["grafts"]:
        told_ones.append(told(seen.press(".")))
    assert all(one.startswith(f"Region {number}: copied from ") for one in told_ones)
    assert told_ones[0] == told_ones[-1]
    assert told(seen.press(",")) == told_ones[-2]
    seen.press("v")
    assert seen.text("#graft-source") == "back to the copy"
    facts = seen.text("#chosen-facts")
    assert f"{region['graft_count']} copies" in facts
    assert "Farthest source" in facts
    seen.tab.evaluate(f"location.hash = '#region-{number_of(grafted.page, NARROW)}'")
    assert told(seen.press(".")).endswith(": drawn by the network.")
    assert "all drawn by the network" in seen.text("#chosen-facts")


def test_a_finger_asks_too(grafted, chromium):
    origin = grafted.read("labels/origin")
    value = int(np.bincount(origin[origin >= FIRST]).argmax())
    with chromium.new_context(viewport={"width": 900, "height": 700}, has_touch=True, reduced_motion="reduce") as hand:
        tab, guard = hand.new_page(), Guard(grafted.page.parent)
        guard.watch(tab)
        tab.goto(grafted.page.as_uri())
        seen = Viewer(tab, guard)
        tab.locator("[data-wipe='0']").tap()
        tab.locator("[data-layer='origin']").tap()
        y, x = deep(origin == value)
        tab.touchscreen.tap(*screen(seen.rest(), y, x, origin.shape))
        seen.rest()
        assert told(seen).endswith(expected(grafted, value - FIRST, y, x))
        tab.locator("#graft-source").tap()
        assert seen.rest().text("#graft-source") == "back to the copy"
    assert guard.wrong == []


def test_the_table_of_all_regions_has_columns_of_copies(grafted, show):
    seen = show(grafted.page)
    seen.tab.locator("#all-regions summary").click()
    heads = seen.tab.locator("#table thead th").all_inner_texts()
    assert {"copies", "copied", "drawn", "farthest source (µm)"} <= set(heads)


@pytest.mark.parametrize("view", [DESK, NIGHT, PHONE], ids=str)
def test_axe_finds_nothing_wrong_with_the_layer_on(grafted, show):
    seen = show(grafted.page).press("g", ".")
    assert axe(seen.tab) == ""
