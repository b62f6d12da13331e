"""The frame in which an annotation was drawn is the frame that is read: bounds of slides, scenes, orientation tags."""

from __future__ import annotations

import json

import numpy as np
import openslide
import pytest
import tifffile
import zarr
from conftest import cpu, mend_settings, plan_settings
from PIL import Image, ImageOps
from pylibCZIrw import czi
from test_slides import TILE, tissue, whole, write_mirax

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.regions.annotation import open_mask
from cytomend.sheet import image_of
from cytomend.stages.blend_section import BlendSettings, blend_section
from cytomend.stages.convert import convert
from cytomend.stages.mend_shard import mend_shard
from cytomend.stages.plan_section import plan_section
from cytomend.stages.verify_section import verify_section
from cytomend.storage.edition import require_planned
from cytomend.storage.frames import file_and_frame, framed
from cytomend.storage.identity import image_identity, stamp
from cytomend.storage.images import open_image, open_labels
from cytomend.storage.publish import manifest_of, refuse_over

ROWS, COLUMNS = 7, 8
SCANNED = Box(2 * TILE, 3 * TILE, 5 * TILE, 7 * TILE)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A MIRAX slide of which 3 x 4 tiles were scanned, one of them left out as glass, and its canvas."""
    canvas = tissue((ROWS * TILE, COLUMNS * TILE))
    inside = {row * COLUMNS + column for row in range(2, 5) for column in range(3, 7)} - {3 * COLUMNS + 4}
    path = write_mirax(
        tmp_path_factory.mktemp("slide") / "s.mrxs",
        canvas,
        left_out=set(range(ROWS * COLUMNS)) - inside,
    )
    seen = np.full_like(canvas, 240)
    for number, box in enumerate(Box(0, 0, *canvas.shape[:2]).tiles(TILE)):
        if number in inside:
            seen[box.slices] = canvas[box.slices]
    return path, seen


def outline(path, y0, x0, y1, x1):
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    return path


# Slides --------------------------------------------------------------------------------------------------------------


def test_a_slide_is_read_within_its_bounds_as_qupath_shows_it(slide):
    path, seen = slide
    with openslide.OpenSlide(path) as second:
        told = [int(second.properties[f"openslide.bounds-{name}"]) for name in ("y", "x", "height", "width")]
    assert told == [SCANNED.y0, SCANNED.x0, *SCANNED.shape]
    np.testing.assert_array_equal(whole(path), seen[SCANNED.slices])
    with open_image(path) as image:
        assert image.shape == SCANNED.shape
        np.testing.assert_array_equal(
            np.moveaxis(image.read(Box(10, 20, 100, 200)), 0, -1), seen[SCANNED.slices][10:100, 20:200]
        )
        first, second = image.warnings
        assert "y 128-320, x 192-448 of a canvas of 448 x 512 px" in first
        assert "s.mrxs#canvas" in first
        assert "8% of the frame was not scanned" in second
        assert "F0F0F0" in second


def test_the_canvas_is_read_if_it_is_named(slide):
    path, seen = slide
    np.testing.assert_array_equal(whole(framed(path, "canvas")), seen)
    with open_image(framed(path, "canvas")) as image:
        assert [warning for warning in image.warnings if "coordinates" in warning] == []
    np.testing.assert_array_equal(whole(framed(path, "bounds")), seen[SCANNED.slices])


@pytest.mark.parametrize(("frame", "corner"), [("", (0, 0)), ("#canvas", (SCANNED.y0, SCANNED.x0))])
def test_a_tear_is_mended_where_it_was_drawn(slide, tiny_model, tmp_path, frame, corner):
    path, seen = slide
    path = path.with_name(path.name + frame)
    tear = outline(tmp_path / "tear.geojson", corner[0] + 20, corner[1] + 100, corner[0] + 40, corner[1] + 130)
    plan_section(path, tear, plan_settings(grow_px=0, model_channels=3), tmp_path / "plan")
    mend_shard(path, tmp_path / "plan", 0, tiny_model(3), mend_settings(), cpu(), tmp_path / "0.zarr")
    blend_section(path, tmp_path / "plan", [tmp_path / "0.zarr"], BlendSettings(64, 128), tmp_path / "c.ome.zarr")
    result = zarr.open_group(tmp_path / "c.ome.zarr")
    y, x = np.nonzero(result["labels/mended/0"][:])
    assert (y.min(), y.max(), x.min(), x.max()) == (corner[0] + 20, corner[0] + 39, corner[1] + 100, corner[1] + 129)
    expected = (seen if frame else seen[SCANNED.slices]).copy()
    pixels = np.moveaxis(result["0"][:], 0, -1)
    expected[y, x] = pixels[y, x]
    np.testing.assert_array_equal(pixels, expected)
    assert verify_section(path, tmp_path / "plan", tmp_path / "c.ome.zarr").holds


def test_another_frame_of_a_slide_is_another_scan(slide, tmp_path):
    path, _ = slide
    tear = outline(tmp_path / "tear.geojson", 20, 100, 40, 130)
    plan_section(path, tear, plan_settings(model_channels=3), tmp_path / "plan")
    require_planned(path, manifest_of(tmp_path / "plan"))
    with pytest.raises(InputError, match="was changed since"):
        require_planned(framed(path, "canvas"), manifest_of(tmp_path / "plan"))
    assert image_identity(framed(path, "canvas")) != image_identity(path)
    assert stamp(framed(path, "canvas")) == [*stamp(path), "canvas"]


def test_the_warning_about_the_frame_reaches_the_plan(slide, tmp_path):
    path, _ = slide
    tear = outline(tmp_path / "tear.geojson", 20, 100, 40, 130)
    plan_section(path, tear, plan_settings(model_channels=3), tmp_path / "plan")
    warnings = json.loads((tmp_path / "plan" / "section.json").read_text())["warnings"]
    assert any("#canvas" in warning for warning in warnings)


@pytest.mark.parametrize("frame", ["scene1", "upright", "stored"])
def test_a_frame_that_a_slide_does_not_have_is_refused(slide, frame):
    with pytest.raises(InputError, match="bounds and canvas; correct the frame"):
        open_image(framed(slide[0], frame))


def test_a_converted_slide_lies_in_the_frame_that_was_named(slide, tmp_path):
    path, seen = slide
    convert(framed(path, "canvas"), tmp_path / "canvas.ome.zarr")
    convert(path, tmp_path / "bounds.ome.zarr")
    np.testing.assert_array_equal(whole(tmp_path / "canvas.ome.zarr"), seen)
    np.testing.assert_array_equal(whole(tmp_path / "bounds.ome.zarr"), seen[SCANNED.slices])


# Scenes --------------------------------------------------------------------------------------------------------------


def write_scenes(path, *scenes, kind=3):
    """Write scenes, each a list of (location x, y) and pixels, and return the path."""
    with czi.create_czi(str(path)) as file:
        for number, tiles in enumerate(scenes):
            for place, pixels in tiles:
                file.write(data=pixels.reshape(*pixels.shape[:2], kind), plane={"C": 0}, location=place, scene=number)
    return path


def test_several_scenes_are_never_joined(tmp_path):
    one, two = tissue((50, 60)), 255 - tissue((70, 40))
    path = write_scenes(tmp_path / "s.czi", [((100, 20), one)], [((300, 400), two)])
    with pytest.raises(InputError, match=r"found 2: scene1 \(50 x 60 px\), scene2 \(70 x 40 px\).*s\.czi#scene1"):
        open_image(path)
    np.testing.assert_array_equal(whole(framed(path, "scene 1")), one[..., ::-1])
    np.testing.assert_array_equal(whole(framed(path, "scene=2")), two[..., ::-1])
    for frame in ("scene3", "canvas", "upright"):
        with pytest.raises(InputError, match="expected"):
            open_image(framed(path, frame))
    assert len({image_identity(framed(path, frame)) for frame in ("scene1", "scene2")}) == 2


def test_scenes_whose_frames_overlap_do_not_show_each_other(tmp_path):
    one, two = np.full((50, 50, 3), 10, np.uint8), np.full((50, 50, 3), 200, np.uint8)
    path = write_scenes(tmp_path / "s.czi", [((0, 0), one), ((100, 100), one)], [((60, 60), two)])
    found = whole(framed(path, "scene1"))
    assert found.shape == (150, 150, 3)
    assert set(np.unique(found)) == {10, 255}


def test_a_single_scene_counts_from_its_own_corner_and_needs_no_name(tmp_path):
    pixels = tissue((50, 60))
    path = write_scenes(tmp_path / "s.czi", [((1000, -200), pixels)])
    np.testing.assert_array_equal(whole(path), pixels[..., ::-1])
    np.testing.assert_array_equal(whole(framed(path, "scene1")), pixels[..., ::-1])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_lies_between_tiles_of_a_scene_is_white_and_told_of(tmp_path, dtype):
    pixels = tissue((50, 50), dtype, 1)
    path = write_scenes(tmp_path / "s.czi", [((0, 0), pixels), ((150, 0), pixels)], kind=1)
    assert (whole(path)[:, 50:150] == np.iinfo(dtype).max).all()
    with open_image(path) as image:
        assert image.warnings == [f"{path}: about 50% of the frame was not scanned, and is read as white ground"]


# Orientation ---------------------------------------------------------------------------------------------------------


def shown(path):
    """What a program shows that follows the tag; Pillow follows that of a TIFF without being asked."""
    image = Image.open(path)
    return np.asarray(image if path.suffix == ".tif" else ImageOps.exif_transpose(image))


def write_oriented(path, pixels, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, tile=(16, 16), extratags=[(274, 3, 1, orientation, True)], metadata=None)
    else:
        Image.fromarray(pixels).save(path, exif=exif, **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
def test_an_orientation_tag_is_told_of_and_may_be_followed(tmp_path, name, orientation):
    pixels = tissue((70, 90), channels=1)
    path = write_oriented(tmp_path / name, pixels, orientation)
    stored = tifffile.imread(path) if name == "a.tif" else np.asarray(Image.open(path))
    np.testing.assert_array_equal(whole(path), stored)
    expected = shown(path)
    np.testing.assert_array_equal(whole(framed(path, "upright")), expected)
    with open_image(framed(path, "upright")) as image:
        assert (image.shape, image.warnings) == (expected.shape, [])
        np.testing.assert_array_equal(image.read(Box(3, 5, 40, 60))[0], expected[3:40, 5:60])
    with open_image(path) as image:
        (warning,) = image.warnings
        assert f"orientation tag (EXIF, TIFF tag 274) is {orientation}" in warning
        assert f"{name}#upright" in warning
    with open_image(framed(path, "stored")) as image:
        assert image.warnings == []


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_a_tag_that_turns_nothing_is_passed_over(tmp_path, orientation):
    path = write_oriented(tmp_path / "a.tif", tissue((70, 90), channels=1), orientation)
    with open_image(path) as image:
        assert not any("upright" in warning for warning in image.warnings)


@pytest.mark.parametrize("name", ["mask.tif", "mask.png"])
def test_a_mask_with_an_orientation_tag_is_told_of_and_may_be_turned(tmp_path, name):
    mask = np.zeros((40, 60), np.uint8)
    mask[5:10, 40:50] = 255
    path = write_oriented(tmp_path / name, mask, 3)
    box = Box(0, 0, 40, 60)
    as_stored, upright = open_mask(path, (40, 60)), open_mask(framed(path, "upright"), (40, 60))
    np.testing.assert_array_equal(as_stored.read(box), mask != 0)
    np.testing.assert_array_equal(upright.read(box), mask[::-1, ::-1] != 0)
    assert "is 3" in as_stored.warnings[0]
    assert upright.warnings == []
    assert open_labels(framed(path, "stored")).warnings == []


def test_a_mask_that_lies_on_its_side_is_refused_with_its_tag(tmp_path):
    path = write_oriented(tmp_path / "mask.tif", np.zeros((40, 60), np.uint8), 6)
    with pytest.raises(InputError, match=r"its orientation tag .* is 6"):
        open_mask(path, (60, 40))
    assert open_mask(framed(path, "upright"), (60, 40)).shape == (60, 40)


# Names ---------------------------------------------------------------------------------------------------------------


def test_a_file_of_that_very_name_is_no_frame(tmp_path):
    path = tmp_path / "a.tif#canvas"
    assert file_and_frame(path) == (tmp_path / "a.tif", "canvas")
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8))
    assert file_and_frame(path) == (path, "")
    assert whole(path).shape == (8, 8)


@pytest.mark.parametrize("frame", ["whole", "scene0", "scene", "2"])
def test_a_frame_that_nothing_has_is_refused(tmp_path, frame):
    with pytest.raises(InputError, match=f"found '{frame}'"):
        framed(tmp_path / "a.czi", frame)


def test_a_row_names_its_frame_in_a_column_or_behind_the_name():
    assert image_of({"image": "a.czi", "frame": "Scene 2"}, "row 2").name == "a.czi#scene2"
    assert image_of({"image": "a.czi#scene2", "frame": None}, "row 2").name == "a.czi#scene2"
    with pytest.raises(InputError, match=r"row 2: .*expected one frame"):
        image_of({"image": "a.czi#scene2", "frame": "scene1"}, "row 2")


@pytest.mark.parametrize("name", ["a.zarr", "a.geojson"])
def test_what_has_no_frames_takes_none(tmp_path, name):
    if name == "a.zarr":
        group = zarr.open_group(tmp_path / name, mode="w")
        group.create_array("0", shape=(8, 8), chunks=(8, 8), dtype="u1")[:] = 1
    else:
        outline(tmp_path / name, 1, 1, 5, 5)
    with pytest.raises(InputError, match="found one that has one frame"):
        open_mask(tmp_path / f"{name}#upright", (8, 8))


def test_a_result_may_not_replace_a_scan_of_which_a_frame_is_read(tmp_path):
    (tmp_path / "a.czi").write_bytes(b"x")
    with pytest.raises(InputError, match="would replace or change"):
        refuse_over(tmp_path / "a.czi", [tmp_path / "a.czi#scene2"])
