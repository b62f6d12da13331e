"""Several annotations of a section: of any kind, united; what their classes mean; outlines of ImageJ."""

from __future__ import annotations

import gzip
import io
import json
import zipfile

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi
from skimage.draw import ellipse

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.regions import imagej_roi
from cytomend.regions.annotation import open_mask

SHAPE = (60, 80)
WHOLE = Box(0, 0, *SHAPE)


def square(y0, x0, y1, x1, **properties):
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def pixels(*boxes):
    mask = np.zeros(SHAPE, bool)
    for y0, x0, y1, x1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def write(tmp_path):
    """Return a function that writes features and returns the file."""

    def write(*features, name="a.geojson"):
        path = tmp_path / name
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return path

    return write


@pytest.fixture
def outlines(tmp_path):
    """Return a function that writes outlines of ImageJ, one as .roi, several as .zip, and returns the file."""

    def write(*rois, name="outlines"):
        if len(rois) == 1:
            path = tmp_path / f"{name}.roi"
            path.write_bytes(rois[0].tobytes())
            return path
        path = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for number, roi in enumerate(rois):
                archive.writestr(f"../{number}.roi", roi.tobytes())
        return path

    return write


def polygon(*corners, **settings):
    roi = ImagejRoi.frompoints(np.array(corners))
    roi.roitype = ROI_TYPE.POLYGON
    for name, value in settings.items():
        setattr(roi, name, value)
    return roi


def bounded(kind, y0, x0, y1, x1):
    return ImagejRoi(roitype=kind, top=y0, left=x0, bottom=y1, right=x1)


def drawn(paths, **classes):
    return open_mask(paths, SHAPE, **classes).read(WHOLE)


# --- several files ----------------------------------------------------------------------------------------------------


def test_annotations_of_every_kind_are_united_in_any_order(write, outlines, tmp_path):
    image = np.zeros(SHAPE, np.uint8)
    image[50:55, 60:70] = 1
    tifffile.imwrite(tmp_path / "mask.tif", image)
    paths = [
        write(square(5, 5, 20, 20)),
        tmp_path / "mask.tif",
        outlines(bounded(ROI_TYPE.RECT, 15, 15, 30, 40)),
        write(square(40, 0, 50, 10), name="b.geojson"),
    ]
    expected = pixels((5, 5, 20, 20), (50, 60, 55, 70), (15, 15, 30, 40), (40, 0, 50, 10))
    for order in (paths, paths[::-1]):
        mask = open_mask(order, SHAPE)
        np.testing.assert_array_equal(mask.read(WHOLE), expected)
        tiles = list(mask.candidate_boxes(16))
        assert tiles == sorted(tiles)
        assert sum(int(mask.read(tile).sum()) for tile in tiles) == expected.sum()


@given(
    st.lists(st.tuples(st.integers(0, 59), st.integers(0, 79), st.integers(1, 30), st.integers(1, 30)), max_size=5),
    st.integers(0, 2**16 - 1),
)
def test_how_outlines_are_spread_over_files_changes_nothing(tmp_path_factory, squares, spread):
    folder = tmp_path_factory.mktemp("spread")
    files = {0: [], 1: []}
    for number, (y, x, height, width) in enumerate(squares):
        files[spread >> number & 1].append(square(y, x, min(y + height, 60), min(x + width, 80)))
    paths = []
    for number, features in files.items():
        paths.append(folder / f"{number}.geojson")
        paths[-1].write_text(json.dumps(features))
    whole = folder / "whole.geojson"
    whole.write_text(json.dumps([*files[0], *files[1]]))
    np.testing.assert_array_equal(drawn(paths), drawn(whole))


def test_a_class_may_stand_in_any_of_the_files(write):
    paths = [
        write(square(5, 5, 9, 9, classification="Fold")),
        write(square(20, 5, 29, 9, classification="Tear"), name="b.geojson"),
    ]
    np.testing.assert_array_equal(drawn(paths, include_classes=["Tear"]), pixels((20, 5, 29, 9)))
    with pytest.raises(
        InputError, match=r"a.geojson, .*b.geojson: expected features of class 'Hole', found 'Fold', 'Tear'"
    ):
        drawn(paths, include_classes=["Hole"])


# --- what classes mean ------------------------------------------------------------------------------------------------


def test_excluded_classes_are_no_damage(write):
    path = write(square(5, 5, 9, 9), square(20, 5, 29, 9, classification="Ignore*"))
    np.testing.assert_array_equal(drawn(path, exclude_classes=["Ignore*", "Region*"]), pixels((5, 5, 9, 9)))


def test_a_class_that_is_included_and_excluded_is_refused(write):
    path = write(square(5, 5, 9, 9, classification="Tear"))
    for other in ("exclude_classes", "tissue_classes"):
        with pytest.raises(InputError, match="class 'Tear' is included as damage, and excluded or tissue as well"):
            drawn(path, include_classes=["Tear"], **{other: ["Tear"]})


def test_tissue_is_no_damage_and_bounds_it_but_for_its_holes(write):
    torn = square(10, 10, 50, 70, classification={"name": "Tissue"})
    torn["geometry"]["coordinates"].append([[30, 20], [50, 20], [50, 30], [30, 30], [30, 20]])  # found by its darkness
    path = write(torn, square(18, 28, 32, 52), square(0, 0, 20, 20, classification="Tear"))
    mask = open_mask(path, SHAPE)
    np.testing.assert_array_equal(mask.read(WHOLE), pixels((18, 28, 32, 52), (10, 10, 20, 20)))
    (warning,) = mask.warnings
    assert "1 of 2 outlines of damage lie mostly outside of the tissue (class Tissue)" in warning
    np.testing.assert_array_equal(drawn(path, tissue_classes=[], include_classes=["Tear"]), pixels((0, 0, 20, 20)))


def test_tissue_of_one_file_bounds_the_mask_image_of_another(write, tmp_path):
    tifffile.imwrite(tmp_path / "mask.tif", np.ones(SHAPE, np.uint8))
    paths = [tmp_path / "mask.tif", write(square(10, 10, 50, 70, classification="Tissue"))]
    np.testing.assert_array_equal(drawn(paths), pixels((10, 10, 50, 70)))


@pytest.mark.parametrize("kind", ["detection", "cell", "tile"])
def test_cells_that_qupath_detected_are_no_damage_unless_asked_for(write, kind):
    cells = [square(y, 5, y + 2, 9, objectType=kind, classification="Neuron") for y in range(0, 40, 4)]
    path = write(*cells, square(50, 5, 55, 9, objectType="annotation"))
    mask = open_mask(path, SHAPE)
    np.testing.assert_array_equal(mask.read(WHOLE), pixels((50, 5, 55, 9)))
    assert "10 cells or other objects that QuPath detected are not taken as damage" in mask.warnings[0]
    assert drawn(path, include_classes=["Neuron"]).sum() == 10 * 2 * 4


def test_a_bare_geometry_is_an_annotation(tmp_path):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(square(5, 5, 9, 9)["geometry"]))
    np.testing.assert_array_equal(drawn(path), pixels((5, 5, 9, 9)))


# --- outlines of ImageJ -----------------------------------------------------------------------------------------------


def test_rectangles_and_polygons_take_the_pixels_that_imagej_fills(outlines):
    np.testing.assert_array_equal(drawn(outlines(bounded(ROI_TYPE.RECT, 3, 4, 10, 20))), pixels((3, 4, 10, 20)))
    np.testing.assert_array_equal(drawn(outlines(polygon((4, 3), (20, 3), (20, 10), (4, 10)))), pixels((3, 4, 10, 20)))


def test_an_oval_takes_the_pixels_of_an_ellipse_in_its_box(outlines):
    found = drawn(outlines(bounded(ROI_TYPE.OVAL, 5, 10, 45, 70)))
    expected = np.zeros(SHAPE, bool)
    expected[ellipse(24.5, 39.5, 20, 30, SHAPE)] = True  # skimage's centres of pixels are whole numbers
    assert (found != expected).sum() <= 4  # 720 corners instead of a curve


def test_corners_between_pixels_are_kept(outlines):
    corners = np.array([(10.4, 10.4), (20.6, 10.4), (20.6, 20.6), (10.4, 20.6)], np.float32)
    roi = ImagejRoi.frompoints(corners)
    roi.roitype = ROI_TYPE.FREEHAND
    roi.options |= ROI_OPTIONS.SUB_PIXEL_RESOLUTION
    np.testing.assert_array_equal(drawn(outlines(roi)), pixels((10, 10, 21, 21)))


def test_a_composite_outline_keeps_its_hole(outlines):
    path = [0, 10, 10, 1, 50, 10, 1, 50, 40, 1, 10, 40, 4, 0, 20, 20, 1, 30, 20, 1, 30, 30, 1, 20, 30, 4]
    roi = bounded(ROI_TYPE.RECT, 10, 10, 40, 50)
    roi.multi_coordinates, roi.shape_roi_size = np.array(path, np.float32), len(path)
    expected = pixels((10, 10, 40, 50))
    expected[20:30, 20:30] = False
    np.testing.assert_array_equal(drawn(outlines(roi)), expected)


def test_a_zip_of_the_roi_manager_is_read_whole_and_lines_are_skipped(outlines):
    line = polygon((1, 1), (30, 30), (30, 31))
    line.roitype = ROI_TYPE.POLYLINE
    mask = open_mask(
        outlines(bounded(ROI_TYPE.RECT, 3, 4, 10, 20), line, polygon((40, 40), (50, 40), (50, 50), (40, 50))), SHAPE
    )
    np.testing.assert_array_equal(mask.read(WHOLE), pixels((3, 4, 10, 20), (40, 40, 50, 50)))
    assert "outline '1' is a line and has no area; skipped" in mask.warnings[0]


def test_a_group_is_a_class(outlines):
    corners = (4, 3), (20, 3), (20, 10), (4, 10)
    path = outlines(polygon(*corners, group=2), polygon((40, 40), (50, 40), (50, 50), (40, 50)))
    np.testing.assert_array_equal(drawn(path, include_classes=["group 2"]), pixels((3, 4, 10, 20)))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.roi", b""), ("a.roi", b"Iout" + bytes(20)), ("a.roi", b"nonsense" * 40), ("a.zip", b"PK\x03\x04nonsense")],
)
def test_damaged_outlines_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: .*expected.*save it again"):
        open_mask(tmp_path / name, SHAPE)


def test_a_zip_that_unpacks_to_more_than_outlines_take_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(imagej_roi, "LARGEST_ZIP_BYTES", 1 << 20)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.roi", bytes(2 << 20))
    (tmp_path / "a.zip").write_bytes(packed.getvalue())
    with pytest.raises(InputError, match="expected outlines of at most 1 MiB, found 2 MiB"):
        open_mask(tmp_path / "a.zip", SHAPE)


# What must not pass for an annotation, or for none -------------------------------------------------------------------


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("_", "."), data)
    return path


@pytest.mark.parametrize("members", [{}, {"m_geojson": "[]"}], ids=["empty", "of GeoJSON"])
def test_a_zip_without_outlines_does_not_mean_that_nothing_is_damaged(tmp_path, members):
    with pytest.raises(InputError, match="expected outlines of ImageJ, found none in it"):
        open_mask(zipped(tmp_path / "a.zip", **members), SHAPE)


@pytest.mark.parametrize(("subtype", "said"), [(ROI_SUBTYPE.TEXT, "a text"), (ROI_SUBTYPE.IMAGE, "a picture")])
def test_overlays_of_imagej_are_no_damage(tmp_path, subtype, said):
    roi = ImagejRoi.frompoints([[10, 10], [40, 10], [40, 30], [10, 30]])
    roi.roitype, roi.subtype = ROI_TYPE.RECT, subtype
    roi.left, roi.top, roi.right, roi.bottom = 10, 10, 40, 30
    roi.tofile(tmp_path / "a.roi")
    mask = open_mask(tmp_path / "a.roi", SHAPE)
    assert not mask.read(WHOLE).any()
    assert said in " ".join(mask.warnings)


def corners_of(x, y, side):
    return [[[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]]


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "MultiPolygon", "coordinates": [corners_of(5, 5, 20), corners_of(15, 15, 20)]},
        {
            "type": "GeometryCollection",
            "geometries": [{"type": "Polygon", "coordinates": corners_of(x, x, 20)} for x in (5, 15)],
        },
    ],
    ids=["multipolygon", "collection"],
)
def test_parts_of_an_object_that_overlap_are_united(tmp_path, geometry):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(geometry))
    assert open_mask(path, SHAPE).read(WHOLE).sum() == 20 * 20 + 20 * 20 - 10 * 10


def test_tissue_without_an_area_is_none(tmp_path):
    path = tmp_path / "a.geojson"
    line = {"type": "LineString", "coordinates": [[0, 0], [9, 9]]}
    features = [
        {"type": "Feature", "geometry": line, "properties": {"classification": {"name": "Tissue"}}},
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": corners_of(5, 5, 20)}, "properties": {}},
    ]
    path.write_text(json.dumps(features))
    mask = open_mask(path, SHAPE)
    assert mask.read(WHOLE).sum() == 400
    assert "LineString" in " ".join(mask.warnings)
    tifffile.imwrite(tmp_path / "mask.tif", np.zeros(SHAPE, np.uint8))
    assert "LineString" in " ".join(open_mask([path, tmp_path / "mask.tif"], SHAPE).warnings)


@pytest.mark.parametrize(
    "content", [{"type": ["Polygon"]}, [{"type": "Feature", "geometry": {"type": ["Polygon"]}, "properties": {}}]]
)
def test_a_type_that_is_no_word_is_refused(tmp_path, content):
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="expected"):
        open_mask(path, SHAPE)


def test_gzip_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("cytomend.regions.geojson.LARGEST_BYTES", 1000)
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(gzip.compress(b"[" + b" " * 5000 + b"]"))
    with pytest.raises(InputError, match="expected GeoJSON of at most"):
        open_mask(path, SHAPE)


def test_a_picture_of_a_few_pixels_is_no_reduced_mask(tmp_path):
    tifffile.imwrite(tmp_path / "mask.tif", np.ones((2, 3), np.uint8))
    with pytest.raises(InputError, match="a reduced one of at least 8 a side, found 2 x 3"):
        open_mask(tmp_path / "mask.tif", (200, 300))
