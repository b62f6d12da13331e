"""Screening proposes what is damaged, the same whatever the tiles, in a file that masks are read from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cytomend.cli import main
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.phantom import damage, render_tissue
from cytomend.phantom.artefacts import fill
from cytomend.regions.annotation import open_mask
from cytomend.screening.focus import CELLS, FINE, LATTICE, WINDOW_UM, energies, sharpness
from cytomend.screening.light import LightReader, Scale, squares, to_light
from cytomend.screening.midline import find_midline
from cytomend.screening.proposals import fragments, in_reading_order, joined, outlined, settled
from cytomend.screening.screen import screen
from cytomend.screening.settings import ARTEFACTS, COLOURS, ScreenSettings
from cytomend.screening.tiles import Seen
from cytomend.stages.screen_section import screen_section
from cytomend.storage.images import open_image

SIDE_PX = 1024
SEED = 4
DATA = Path(os.environ.get("CYTOMEND_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="module")
def phantom():
    tissue = render_tissue((SIDE_PX, SIDE_PX), SEED).image
    return tissue, damage(tissue, SEED)


@pytest.fixture(scope="module")
def screened(phantom, tmp_path_factory):
    """The folder of a damaged phantom and its proposals."""
    folder = tmp_path_factory.mktemp("screened")
    tifffile.imwrite(folder / "section.tif", phantom[1].image)
    assert run(folder / "section.tif", folder / "proposals.geojson") == 0
    return folder


def run(image, out, settings=None, *more):
    given = json.dumps(settings or {})
    return main(
        ["screen-section", "--image", str(image), "--pixel-size-um", "1", "--settings", given, "--out", str(out), *more]
    )


def features(path):
    return json.loads(path.read_text())["features"]


def truth(damaged, name):
    areas = [
        shapely.from_geojson(json.dumps(feature["geometry"]))
        for feature in damaged.features
        if feature["properties"]["classification"]["name"] == name
    ]
    return fill(areas, Box(0, 0, SIDE_PX, SIDE_PX))


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_gaps_are_found_and_intact_tissue_is_left(phantom, screened, tmp_path):
    found = open_mask(screened / "proposals.geojson", (SIDE_PX, SIDE_PX), include_classes=["Tear", "Missing tissue"])
    gaps = truth(phantom[1], "Tear") | truth(phantom[1], "Missing tissue")
    assert dice(found.read(Box(0, 0, SIDE_PX, SIDE_PX)), gaps) > 0.85
    tifffile.imwrite(tmp_path / "intact.tif", phantom[0])
    run(tmp_path / "intact.tif", tmp_path / "none.geojson")
    assert features(tmp_path / "none.geojson") == []
    nothing = open_mask(tmp_path / "none.geojson", (SIDE_PX, SIDE_PX))
    assert not nothing.read(Box(0, 0, SIDE_PX, SIDE_PX)).any()


def test_the_file_is_one_of_qupath_and_of_our_own_reader(screened):
    path = screened / "proposals.geojson"
    assert json.loads(path.read_text())["type"] == "FeatureCollection"
    written = features(path)
    assert written
    assert len({feature["id"] for feature in written}) == len(written)
    for feature in written:
        properties = feature["properties"]
        name = properties["classification"]["name"]
        assert properties["objectType"] == "annotation"
        assert properties["classification"]["color"] == list(COLOURS[name])
        assert properties["name"].startswith(name)
        assert 0.5 <= properties["measurements"]["score"] < 1
        area = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert area.is_valid
        assert area.within(shapely.box(0, 0, SIDE_PX, SIDE_PX))
    mask = open_mask(path, (SIDE_PX, SIDE_PX))
    assert mask.warnings == []
    every = [shapely.from_geojson(json.dumps(feature["geometry"])) for feature in written]
    frame = Box(0, 0, SIDE_PX, SIDE_PX)
    # Both rasterise; they may differ on pixels whose centre lies on a line.
    assert (mask.read(frame) != fill(every, frame)).mean() < 1e-4


@pytest.mark.parametrize("tile_um", [192, 416])
def test_the_result_does_not_know_the_tiles(screened, tmp_path, tile_um):
    run(screened / "section.tif", tmp_path / "other.geojson", {"tile_um": tile_um})
    assert (tmp_path / "other.geojson").read_bytes() == (screened / "proposals.geojson").read_bytes()


@pytest.mark.parametrize("pixel_size_um", [0.6, 1.3, 2.6])
def test_nor_does_it_on_pixels_that_are_no_whole_micrometre(tmp_path, pixel_size_um):
    write_banded(tmp_path / "section.tif")
    classes = {"classes": ["Fold", "Scratch", "Stripe", "Stain drop"]}
    for name, tile_um in (("whole", 4096), ("tiles", 256 * pixel_size_um)):
        image = tmp_path / "section.tif"
        screen_section(image, tmp_path / name, ScreenSettings(**classes, tile_um=tile_um), pixel_size_um)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "tiles").read_bytes()


def write_banded(path):
    """Write tissue under uneven light, with a band across it."""
    image = render_tissue((420, 1400), 900_310).image.astype(float)
    light = 1 + 0.1 * np.sin(np.arange(1400) / 210)
    image *= light
    image[180:216] *= 0.84
    tifffile.imwrite(path, image.clip(0, 255).astype(np.uint8), tile=(256, 256))


def test_a_stripe_does_not_know_the_tiles(tmp_path):
    write_banded(tmp_path / "section.tif")
    found = [tmp_path / name for name in ("whole", "tiles")]
    for path, tile_um in zip(found, (4096, 192), strict=True):
        screen_section(tmp_path / "section.tif", path, ScreenSettings(("Stripe",), tile_um=tile_um), 1.0)
    assert [feature["properties"]["classification"]["name"] for feature in features(found[0])]
    assert found[0].read_bytes() == found[1].read_bytes()


def test_what_only_touches_the_border_of_the_scan_leaves_no_lines():
    area = shapely.MultiPolygon([shapely.box(10, 10, 50, 50), shapely.box(100, 704, 200, 708)])
    frame = shapely.box(0, 0, 1000, 699)
    found = outlined(area, grow_px=3.5, simplify_px=1.5, frame=frame)
    assert found.geom_type == "Polygon"
    assert found.intersects(shapely.box(10, 10, 50, 50))


def test_only_geojson_is_overwritten_and_never_the_scan(screened, tmp_path, capsys):
    scan, other = tmp_path / "scan.tif", tmp_path / "notes.txt"
    scan.write_bytes((screened / "section.tif").read_bytes())
    other.write_text("dear")
    for out, words in ((scan, "would replace or change"), (other, "is no GeoJSON; it is not overwritten")):
        before = out.read_bytes()
        line = ["screen-section", "--image", str(scan), "--pixel-size-um", "1", "--out", str(out), "--overwrite"]
        assert main(line) == 2
        assert words in capsys.readouterr().err
        assert out.read_bytes() == before


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.floats(0.02, 0.6), st.sampled_from([8, 12, 24]), st.sampled_from([0.0, 0.7, 1.5, 4])
)
def test_what_is_settled_within_tiles_is_what_the_whole_gives(seed, share, tile, near_px):
    chance = np.random.default_rng(seed)
    mask, evidence = chance.random((24, 48)) < share, chance.random((24, 48)).astype(np.float32) * 3
    seen = Seen("gap", 0, mask, evidence, evidence > 2, evidence < 1)
    whole = joined(list(fragments(seen, Box(0, 0, 24, 48), 1)), near_px=near_px)
    found, rest = [], []
    for core in Box(0, 0, 24, 48).tiles(tile):
        part = Seen("gap", 0, *(values[core.slices] for values in (mask, evidence, evidence > 2, evidence < 1)))
        own, others = settled(list(fragments(part, core, 1)), core, near_px=near_px)
        found += own
        rest += others
    together = in_reading_order([*found, *joined(rest, near_px=near_px)])
    assert together == in_reading_order(whole)
    assert sum(one.area.area for one in together) == mask.sum()


def test_grey_and_colour_and_sixteen_bit_agree(phantom, screened, tmp_path):
    grey = phantom[1].image
    tifffile.imwrite(tmp_path / "rgb.tif", np.stack([grey] * 3, -1), photometric="rgb")
    tifffile.imwrite(tmp_path / "deep.tif", grey.astype(np.uint16) * 16)
    run(tmp_path / "rgb.tif", tmp_path / "rgb.geojson")
    run(tmp_path / "deep.tif", tmp_path / "deep.geojson", {"value_range": [0, 4080]})
    expected = (screened / "proposals.geojson").read_bytes()
    assert (tmp_path / "rgb.geojson").read_bytes() == expected
    assert (tmp_path / "deep.geojson").read_bytes() == expected
    # The range of a 16-bit scan is measured, which need not give the same limits, but much the same gaps.
    screen_section(tmp_path / "deep.tif", tmp_path / "measured.geojson", ScreenSettings(), 1.0)
    frame, gaps = Box(0, 0, SIDE_PX, SIDE_PX), ["Tear", "Missing tissue"]
    masks = [
        open_mask(path, frame.shape, include_classes=gaps).read(frame)
        for path in (tmp_path / "measured.geojson", screened / "proposals.geojson")
    ]
    assert dice(*masks) > 0.95


def test_a_hole_has_one_size_whatever_the_pixels(tmp_path):
    for pixel_size_um in (0.5, 1.0, 2.0):
        side = round(1024 / pixel_size_um)
        tissue = render_tissue((side, side), 11, pixel_size_um=pixel_size_um).image
        y, x = np.indices(tissue.shape) * pixel_size_um
        tissue[np.hypot(y - 500, x - 500) < 90] = 245
        tifffile.imwrite(tmp_path / "s.tif", tissue)
        out = tmp_path / f"{pixel_size_um}.geojson"
        screen_section(tmp_path / "s.tif", out, ScreenSettings(classes=("Tear", "Missing tissue")), pixel_size_um)
        (feature,) = features(out)
        assert feature["properties"]["classification"]["name"] == "Missing tissue"
        radius_um = np.sqrt(feature["properties"]["measurements"]["area µm^2"] / np.pi)
        assert 90 < radius_um < 103


def test_an_outline_encloses_its_area_and_keeps_its_hole():
    ring = shapely.box(10, 10, 90, 90).difference(shapely.box(35, 35, 65, 65))
    outline = outlined(ring, grow_px=3, simplify_px=2, frame=shapely.box(0, 0, 100, 100))
    assert ring.buffer(2.9).within(outline)
    assert len(outline.interiors) == 1
    assert outline.within(shapely.box(0, 0, 100, 100))


def test_a_gap_with_a_mirror_image_is_natural(tmp_path):
    y, x = np.indices((500, 700))
    section = np.full((500, 700), 255, np.uint8)
    rng = np.random.default_rng(0)
    tissue = ((y - 250) / 200) ** 2 + ((x - 350) / 300) ** 2 < 1
    section[tissue] = rng.normal(120, 15, int(tissue.sum())).clip(0, 200)
    for centre in (250, 450):  # ventricles
        section[((y - 250) / 60) ** 2 + ((x - centre) / 15) ** 2 < 1] = 255
    section[(np.abs(x - y - 250) < 5) & (y > 80) & (y < 170)] = 255  # a tear, in one half only
    tifffile.imwrite(tmp_path / "s.tif", section)
    settings = ScreenSettings(classes=("Tear", "Missing tissue", "Natural gap"))
    screen_section(tmp_path / "s.tif", tmp_path / "a.geojson", settings, 12.0)
    names = [feature["properties"]["classification"]["name"] for feature in features(tmp_path / "a.geojson")]
    assert names == ["Tear", "Natural gap", "Natural gap"]
    with open_image(tmp_path / "s.tif") as image:
        plain = ScreenSettings(classes=settings.classes, symmetry=False)
        found = screen(LightReader(image, (0.0, 255.0)), 12.0, plain)
    assert "Natural gap" not in {one.class_name for one in found.proposals}


def test_part_of_a_section_has_no_midline():
    assert find_midline(np.ones((40, 40), bool)) is None


def test_a_blurred_place_is_out_of_focus(phantom, tmp_path):
    tissue = phantom[0].astype(np.float32)
    y, x = np.indices(tissue.shape)
    place = np.hypot(y - 500, x - 520) < 250
    blurred = np.where(place, ndimage.gaussian_filter(tissue, 3), tissue).round().astype(np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", blurred)
    run(tmp_path / "s.tif", tmp_path / "a.geojson", {"classes": ["Out of focus"]})
    found = open_mask(tmp_path / "a.geojson", place.shape).read(Box(0, 0, *place.shape))
    assert dice(found, place) > 0.85


def test_the_real_focus_stack_is_ranked():
    folder = DATA / "merker-cortex-demics" / "focus_stack_rows000-255"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    scale, values = Scale.of(1.0), []
    for path in sorted(folder.glob("*.tif")):
        light = to_light(tifffile.imread(path)[None], (0.0, 255.0))
        pair = energies(squares(light, scale.factors[FINE]), squares(light, scale.factors[CELLS]), scale)
        sharp, shows = sharpness(*pair, scale.sigma(WINDOW_UM, LATTICE))
        values.append(float(np.median(sharp[shows])))
    best = int(np.argmax(values))
    assert 10 <= best <= 16
    assert values[: best + 1] == sorted(values[: best + 1])
    assert values[best:] == sorted(values[best:], reverse=True)


def test_a_class_that_needs_finer_pixels_is_named(tmp_path):
    tifffile.imwrite(tmp_path / "s.tif", np.full((64, 64), 200, np.uint8))
    with open_image(tmp_path / "s.tif") as image:
        found = screen(LightReader(image, (0.0, 255.0)), 12.0, ScreenSettings())
    assert any("Precipitate" in warning and "12 µm" in warning for warning in found.warnings)
    assert found.proposals == []


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"classes": ["Hole"]}, "Hole"),
        ({"classes": []}, "at least one"),
        ({"min_score": 1.5}, "min_score"),
        ({"tile_um": True}, "tile_um"),
        ({"score": 1}, "score"),
        ({"value_range": [5, 5]}, "value_range"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, word):
    with pytest.raises(InputError, match=word):
        ScreenSettings.of(settings)


def test_the_command_refuses_what_it_cannot_do(screened, capsys):
    section, out = screened / "section.tif", screened / "proposals.geojson"
    assert run(section, out) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["screen-section", "--image", str(section), "--out", str(screened / "new.geojson")]) == 2
    assert "--pixel-size-um" in capsys.readouterr().err
    assert main(["screen-section", "--image", str(section), "--settings", "[", "--out", "x"]) == 2
    assert "JSON" in capsys.readouterr().err


def test_all_artefacts_are_proposed_by_default():
    assert set(ScreenSettings().classes) == set(ARTEFACTS) == set(COLOURS) - {"Natural gap"}
