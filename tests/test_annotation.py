"""Artefact masks: the pixels of an annotation do not depend on the box that is read, and mistakes are named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import binary_dilation

from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.regions.annotation import GrownMask, open_mask
from cytomend.regions.image_mask import ImageMask
from cytomend.regions.polygon_mask import PolygonMask

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="sample files are not beside this checkout")

SHAPE = (60, 80)
WHOLE = Box(0, 0, *SHAPE)
SQUARE = [[10, 20], [30, 20], [30, 40], [10, 40], [10, 20]]


def feature(coordinates=SQUARE, *, kind="Polygon", **properties):
    if kind == "Polygon" and coordinates and not isinstance(coordinates[0][0], list):
        coordinates = [coordinates]
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


def write(tmp_path, content, name="a.geojson"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def drawn(path, shape=SHAPE, **options):
    return open_mask(path, shape, **options).read(Box(0, 0, *shape))


def square_mask(y0=20, x0=10, y1=40, x1=30, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def refusal(path, shape=SHAPE, **options):
    with pytest.raises(InputError) as caught:
        open_mask(path, shape, **options)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ")
    assert "expected" in sentence
    assert "found" in sentence
    return sentence


@st.composite
def boxes(draw, shape=SHAPE):
    y0, x0 = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
    return Box(y0, x0, draw(st.integers(y0 + 1, shape[0])), draw(st.integers(x0 + 1, shape[1])))


@st.composite
def areas(draw):
    """Valid areas with holes; on whole and half pixels, where centres lie exactly on edges, and in between."""
    step = draw(st.sampled_from([1, 0.5, 0.01]))
    corner = st.tuples(*(st.integers(int(-10 / step), int(90 / step)) for _ in range(2)))
    shapes = [
        shapely.make_valid(shapely.Polygon(np.array(draw(st.lists(corner, min_size=3, max_size=9))) * step))
        for _ in range(draw(st.integers(1, 3)))
    ]
    parts = [part for shape in shapes for part in shapely.get_parts(shapely.get_parts(shape)) if part.area > 0]
    return [shapely.MultiPolygon([part]) for part in parts]


# Polygons ------------------------------------------------------------------------------------------------------------


@given(areas(), boxes())
@settings(max_examples=150, deadline=None)
def test_polygons_drawn_in_a_box_equal_the_crop_of_the_whole(polygons, box):
    mask = PolygonMask(polygons, SHAPE, [])
    np.testing.assert_array_equal(mask.read(box), mask.read(WHOLE)[box.slices])


@given(areas())
@settings(max_examples=150, deadline=None)
def test_polygons_have_the_pixels_that_gdal_gives_them(polygons):
    rasterize = pytest.importorskip("rasterio.features").rasterize
    expected = rasterize(polygons, out_shape=SHAPE) if polygons else np.zeros(SHAPE)
    ours = PolygonMask(polygons, SHAPE, []).read(WHOLE)
    for y, x in np.argwhere(ours != expected.astype(bool)):
        # GDAL counts a centre that lies exactly on an edge in or out by the last bit of a sum; nothing else may differ.
        assert min(area.boundary.distance(shapely.Point(x + 0.5, y + 0.5)) for area in polygons) < 1e-9


@given(areas(), st.integers(5, 40))
@settings(max_examples=100, deadline=None)
def test_candidate_boxes_hold_all_damage_and_lie_on_the_grid_row_by_row(polygons, tile_px):
    mask = PolygonMask(polygons, SHAPE, [])
    candidates = list(mask.candidate_boxes(tile_px))
    assert candidates == [tile for tile in WHOLE.tiles(tile_px) if tile in set(candidates)]
    outside = mask.read(WHOLE).copy()
    for box in candidates:
        outside[box.slices] = False
    assert not outside.any()


def test_a_pixel_belongs_to_the_mask_when_its_centre_lies_inside(tmp_path):
    path = write(tmp_path, feature([[10.4, 20.6], [30.4, 20.6], [30.4, 40.6], [10.4, 40.6], [10.4, 20.6]]))
    np.testing.assert_array_equal(drawn(path), square_mask(21, 10, 41, 30))


def test_a_hole_is_no_damage_and_overlapping_features_add_up(tmp_path):
    hole = [[15, 25], [20, 25], [20, 30], [15, 30], [15, 25]]
    path = write(
        tmp_path, collection(feature([SQUARE, hole]), feature([[14, 24], [17, 24], [17, 27], [14, 27], [14, 24]]))
    )
    expected = square_mask() & ~square_mask(25, 15, 30, 20) | square_mask(24, 14, 27, 17)
    np.testing.assert_array_equal(drawn(path), expected)


@pytest.mark.parametrize("wrap", [collection, lambda one: [one], lambda one: one])
@pytest.mark.parametrize("compress", [False, True])
def test_collections_lists_and_single_features_are_read_gzipped_or_not(tmp_path, wrap, compress):
    path = write(tmp_path, wrap(feature()))
    if compress:
        path = tmp_path / "a.geojson.gz"
        path.write_bytes(gzip.compress((tmp_path / "a.geojson").read_bytes()))
    np.testing.assert_array_equal(drawn(path), square_mask())


def test_gzip_and_a_byte_order_mark_are_recognised_whatever_the_name(tmp_path):
    text = b"\xef\xbb\xbf" + json.dumps(feature()).encode()
    for name, data in {"a": text, "b.geojson": gzip.compress(text), "c.txt": gzip.compress(text)}.items():
        (tmp_path / name).write_bytes(data)
        np.testing.assert_array_equal(drawn(tmp_path / name), square_mask())


def test_multipolygons_and_collections_of_geometries_are_drawn(tmp_path):
    other = [[50, 5], [60, 5], [60, 15], [50, 15], [50, 5]]
    expected = square_mask() | square_mask(5, 50, 15, 60)
    several = feature([[SQUARE], [other]], kind="MultiPolygon")
    np.testing.assert_array_equal(drawn(write(tmp_path, several)), expected)
    several["geometry"] = {
        "type": "GeometryCollection",
        "geometries": [
            feature(SQUARE)["geometry"],
            feature(other)["geometry"],
            {"type": "Point", "coordinates": [1, 2]},
        ],
    }
    mask = open_mask(write(tmp_path, several), SHAPE)
    np.testing.assert_array_equal(mask.read(WHOLE), expected)
    assert mask.warnings == [f"{tmp_path / 'a.geojson'}: feature 1 is a Point and has no area; skipped"]


def test_a_third_coordinate_is_ignored(tmp_path):
    path = write(tmp_path, feature([[*corner, 0] for corner in SQUARE]))
    np.testing.assert_array_equal(drawn(path), square_mask())


def test_no_features_mean_no_damage(tmp_path):
    mask = open_mask(write(tmp_path, collection()), SHAPE)
    assert list(mask.candidate_boxes(16)) == []
    assert not mask.read(WHOLE).any()
    assert mask.warnings == []


@pytest.mark.parametrize("kind", ["Point", "MultiPoint", "LineString", "MultiLineString"])
def test_points_and_lines_are_skipped_with_a_warning(tmp_path, kind):
    mask = open_mask(write(tmp_path, collection(feature(), feature([1, 2], kind=kind, name="pia"))), SHAPE)
    np.testing.assert_array_equal(mask.read(WHOLE), square_mask())
    assert mask.warnings == [f"{tmp_path / 'a.geojson'}: feature 2 ('pia') is a {kind} and has no area; skipped"]


def test_a_feature_without_geometry_or_area_is_skipped_with_a_warning(tmp_path):
    flat = [[10, 20], [30, 20], [20, 20], [10, 20]]
    mask = open_mask(write(tmp_path, [{"type": "Feature", "geometry": None, "properties": None}, feature(flat)]), SHAPE)
    assert not mask.read(WHOLE).any()
    assert "feature 1 has no geometry; skipped" in mask.warnings[0]
    assert "feature 2 encloses no area; skipped" in mask.warnings[-1]


def test_an_outline_that_crosses_itself_is_repaired_with_a_warning(tmp_path):
    bow_tie = [[10, 10], [30, 30], [30, 10], [10, 30], [10, 10]]
    mask = open_mask(write(tmp_path, feature(bow_tie, name="bow")), SHAPE)
    assert mask.read(WHOLE).sum() == pytest.approx(200, abs=20)
    assert len(mask.warnings) == 1
    assert "feature 1 ('bow') is not a simple outline (Self-intersection[20 20])" in mask.warnings[0]
    assert "repaired to 200 px²" in mask.warnings[0]


def test_a_feature_that_overhangs_the_image_is_clipped_with_a_warning(tmp_path):
    path = write(tmp_path, feature([[70, 50], [90, 50], [90, 70], [70, 70], [70, 50]], name="rim"))
    mask = open_mask(path, SHAPE)
    np.testing.assert_array_equal(mask.read(WHOLE), square_mask(50, 70, 60, 80))
    assert list(mask.candidate_boxes(20)) == [Box(40, 60, 60, 80)]
    assert mask.warnings == [
        f"{path}: feature 1 ('rim') reaches outside the image (x 70 to 90, y 50 to 70, of an image of 80 x 60 pixels"
        " (width x height)); clipped"
    ]


@pytest.mark.parametrize(
    "classification",
    ["Tear", {"name": "Tear", "color": [1, 2, 3]}, {"name": "Tear", "colorRGB": -65536}, {"names": ["Tear"]}],
)
def test_classes_are_chosen_however_qupath_wrote_them(tmp_path, classification):
    other = feature([[50, 5], [60, 5], [60, 15], [50, 15], [50, 5]], classification={"name": "Fold"})
    path = write(tmp_path, collection(other, feature(classification=classification), feature()))
    np.testing.assert_array_equal(drawn(path, include_classes=["Tear"]), square_mask())
    np.testing.assert_array_equal(drawn(path), square_mask() | square_mask(5, 50, 15, 60))


def test_a_derived_class_is_called_by_both_its_names(tmp_path):
    path = write(tmp_path, feature(classification={"names": ["Tear", "Large"]}))
    np.testing.assert_array_equal(drawn(path, include_classes=["Tear: Large"]), square_mask())


def test_features_of_other_classes_may_lie_anywhere(tmp_path):
    far = feature([[500, 500], [510, 500], [510, 510], [500, 500]], classification="Ruler")
    path = write(tmp_path, collection(far, feature(classification="Tear")))
    assert open_mask(path, SHAPE, include_classes=["Tear"]).warnings == []


def test_a_class_that_no_feature_has_is_refused_with_those_found(tmp_path):
    path = write(tmp_path, collection(feature(classification="Tear"), feature(classification="Fold"), feature()))
    sentence = refusal(path, include_classes=["Tear", "Teer"])
    assert "expected features of class 'Teer', found 'Fold', 'Tear'" in sentence
    path = write(tmp_path, feature())
    assert "expected features of class 'Tear', found no class at all" in refusal(path, include_classes=["Tear"])


def test_an_empty_list_of_classes_is_refused_rather_than_taken_for_no_damage(tmp_path):
    assert "found an empty list; name one, or leave it out" in refusal(write(tmp_path, feature()), include_classes=[])


def test_a_feature_outside_the_image_is_refused_with_its_bounds(tmp_path):
    far = [[500, 700], [510, 700], [510, 720], [500, 700]]
    sentence = refusal(write(tmp_path, collection(feature(), feature(far, name="hippocampus", classification="Tear"))))
    assert "feature 2 ('hippocampus', class 'Tear')" in sentence
    assert "found x 500 to 510, y 700 to 720, of an image of 80 x 60 pixels (width x height)" in sentence


@pytest.mark.parametrize(
    ("coordinates", "reason"),
    [
        ([[10, 20], [30, 20], [30, float("nan")], [10, 20]], "expected finite coordinates, found NaN or infinity"),
        ([[10, 20], [30, 20], [30, float("inf")], [10, 20]], "expected finite coordinates, found NaN or infinity"),
        ([[10, 20], [30, 20], [30, 40], [10, 40]], "a closed ring, found one that begins at [10.0, 20.0] and ends"),
        ([[10, 20], [30, 20], [10, 20]], "expected rings of at least 4 corners, found 3"),
        ([["1", "2"]] * 4, "expected corners as [x, y] numbers, found [['1', '2']"),
        ([[None, 2]] * 4, "expected corners as [x, y] numbers"),
        ([[1], [2], [3], [1]], "expected corners as [x, y] numbers"),
        ([[1, 2], [3], [3, 4], [1, 2]], "expected corners as [x, y], found lists of unequal length"),
        ([[[[1, 2]]]], "expected corners as [x, y] numbers"),
    ],
)
def test_malformed_coordinates_are_refused_by_feature(tmp_path, coordinates, reason):
    broken = feature([coordinates], name="tear")
    sentence = refusal(write(tmp_path, collection(feature(), broken)))
    assert "feature 2 ('tear'): expected" in sentence
    assert reason in sentence


@pytest.mark.parametrize(
    ("geometry", "reason"),
    [
        (7, "expected a geometry object, found int 7"),
        ({"type": "Circle"}, "expected a Polygon or MultiPolygon, found 'Circle'"),
        ({"type": "Polygon"}, "expected a list of rings, found NoneType"),
        ({"type": "Polygon", "coordinates": [7]}, "expected a list of corners, found int 7"),
        ({"type": "MultiPolygon", "coordinates": 7}, "expected a list of polygons, found int 7"),
        ({"type": "GeometryCollection"}, "expected a list of geometries, found NoneType"),
    ],
)
def test_malformed_geometries_are_refused_by_feature(tmp_path, geometry, reason):
    path = write(tmp_path, [{"type": "Feature", "geometry": geometry, "properties": {}}])
    assert f"feature 1: {reason}" in refusal(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "expected GeoJSON, found at line 1, column 2"),
        ("", "expected GeoJSON, found at line 1, column 1"),
        ("[" * 100_000, "found JSON that cannot be parsed"),
        ("7", "found int 7"),
        ({"type": "Topology"}, "found an object of type 'Topology'"),
        ({"type": "FeatureCollection"}, "found NoneType None"),
        ([7], "expected feature 1 to be a GeoJSON Feature, found int 7"),
        (
            [feature(), {"type": "Polygon"}],
            "expected feature 2 to be a GeoJSON Feature, found an object of type 'Polygon'",
        ),
    ],
)
def test_other_json_is_refused(tmp_path, content, reason):
    assert reason in refusal(write(tmp_path, content))


def test_truncated_gzip_is_refused(tmp_path):
    path = tmp_path / "a.geojson.gz"
    data = gzip.compress(json.dumps(feature()).encode())
    for length in (1, 5, 20, len(data) - 1):
        path.write_bytes(data[:length])
        refusal(path)
    assert "expected a gzipped GeoJSON file, found a damaged or truncated one" in refusal(path)


def test_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.geojson").write_bytes('{"name": "Läsion"}'.encode("latin-1"))
    assert "expected GeoJSON in UTF-8, found other bytes at 11" in refusal(tmp_path / "a.geojson")


def test_a_missing_annotation_is_refused(tmp_path):
    assert "found nothing at this path" in refusal(tmp_path / "absent.geojson")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.xml").write_text("<Annotations/>")
    assert "found another kind of file" in refusal(tmp_path / "a.xml")


def test_a_box_outside_is_a_bug_of_the_caller(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(SHAPE, np.uint8))
    polygons = open_mask(write(tmp_path, feature()), SHAPE)
    for mask in (polygons, open_mask(tmp_path / "a.tif", SHAPE), GrownMask(polygons, 3)):
        for box in (Box(0, 0, 61, 5), Box(-1, 0, 5, 5), Box(5, 5, 5, 6)):
            with pytest.raises(ValueError, match="reaches outside a section of 60 x 80"):
                mask.read(box)


def test_a_thousand_regions_with_a_million_corners_have_their_area(tmp_path):
    shape = (80_000, 100_000)
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    circle = 300 * np.column_stack([np.cos(angle), np.sin(angle)])
    rings = [np.round(circle + rng.uniform(300, 79_700, 2), 2) for _ in range(1000)]
    path = write(tmp_path, collection(*(feature([*ring.tolist(), ring[0].tolist()]) for ring in rings)))
    mask = open_mask(path, shape)
    damaged_px = sum(int(mask.read(box).sum()) for box in mask.candidate_boxes(1024))
    union_px2 = shapely.union_all([shapely.Polygon(ring) for ring in rings]).area
    assert damaged_px == pytest.approx(union_px2, rel=1e-3)


# Files of QuPath -----------------------------------------------------------------------------------------------------


@needs_data
@pytest.mark.parametrize("name", ["brush", "ellipse", "polygon", "rectangle", "wand", "polygon-cell-classified"])
def test_areas_exported_by_qupath_have_their_size(name):
    path = DATA / "formats" / "qupath-geojson" / f"qupath-{name}.json"
    mask = open_mask(path, (32_000, 40_000))
    content = json.loads(path.read_text())
    features = content if isinstance(content, list) else [content]
    expected = sum(shapely.geometry.shape(one["geometry"]).area for one in features)
    found = sum(int(mask.read(box).sum()) for box in mask.candidate_boxes(256))
    assert found == pytest.approx(expected, rel=0.03)
    assert mask.warnings == []


@needs_data
@pytest.mark.parametrize("name", ["point", "multipoint", "line", "polyline"])
def test_points_and_lines_exported_by_qupath_are_skipped(name):
    mask = open_mask(DATA / "formats" / "qupath-geojson" / f"qupath-{name}.json", (32_000, 40_000))
    assert list(mask.candidate_boxes(256)) == []
    assert "has no area; skipped" in mask.warnings[0]


@needs_data
def test_the_class_exported_by_qupath_is_found():
    path = DATA / "formats" / "qupath-geojson" / "qupath-polygon-cell-classified.json"
    assert list(open_mask(path, (32_000, 40_000), include_classes=["Cell"]).candidate_boxes(256))


@needs_data
def test_a_whole_qupath_project_export_is_read_class_by_class():
    path = DATA / "nissl-rat-layer-cells" / "SLD_0000736.vsi - 20x_01_annotations.json"
    mask = open_mask(path, (60_000, 60_000), include_classes=["S1HL"])
    assert list(mask.candidate_boxes(1024))
    sentence = refusal(path, (60_000, 60_000), include_classes=["Tear"])
    assert "found 'Other', 'Outside Pia', 'S1HL', 'SliceContour'" in sentence


# Mask images ---------------------------------------------------------------------------------------------------------


def blobs(shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    for _ in range(4):
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        mask[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = True
    return mask


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "uint32"])
@pytest.mark.parametrize("kind", ["strips", "tiles", "png", "zarr"])
def test_every_nonzero_pixel_of_a_mask_image_is_damage(tmp_path, kind, dtype):
    labels = (blobs() * 200).astype(dtype)
    path = tmp_path / f"a.{kind}"
    if kind == "png":
        Image.fromarray(labels.astype(bool) if dtype == "bool" else blobs() * np.uint8(9)).save(path)
    elif kind == "zarr":
        group = zarr.open_group(path, mode="w")
        group.create_array("0", shape=SHAPE, chunks=(16, 16), dtype=dtype)[...] = labels
        multiscale = {"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}]}
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    else:
        options = {"tile": (16, 16)} if kind == "tiles" else {"rowsperstrip": 5}
        tifffile.imwrite(path, labels, photometric="minisblack", compression="zlib", **options)
    mask = open_mask(path, SHAPE)
    np.testing.assert_array_equal(mask.read(WHOLE), blobs())
    np.testing.assert_array_equal(mask.read(Box(7, 9, 50, 71)), blobs()[7:50, 9:71])
    assert mask.warnings == []


def reduced_mask(tmp_path, labels, shape):
    tifffile.imwrite(tmp_path / "reduced.tif", labels.astype(np.uint8), tile=(16, 16), photometric="minisblack")
    return open_mask(tmp_path / "reduced.tif", shape)


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_reduced_mask_is_enlarged_to_the_nearest_neighbour_whatever_the_box(tmp_path, rounding, data):
    shape, factor = (61, 83), 4
    small = (15, 20) if rounding == "floor" else (16, 21)
    labels = blobs(small)
    mask = reduced_mask(tmp_path, labels, shape)
    rows, columns = (np.minimum(np.arange(n) // factor, m - 1) for n, m in zip(shape, small, strict=True))
    expected = labels[rows[:, None], columns]
    box = data.draw(boxes(shape))
    np.testing.assert_array_equal(mask.read(box), expected[box.slices])
    tile_px = data.draw(st.integers(3, 40))
    expected_tiles = [tile for tile in Box(0, 0, *shape).tiles(tile_px) if expected[tile.slices].any()]
    assert list(mask.candidate_boxes(tile_px)) == expected_tiles


def test_a_mask_image_is_decoded_block_by_block_and_once(tmp_path):
    mask = reduced_mask(tmp_path, blobs((128, 160)), (1024, 1280))
    assert isinstance(mask, ImageMask)
    reads = []
    original = mask._image.read
    mask._image.read = lambda box: reads.append(box) or original(box)
    list(mask.candidate_boxes(64))
    assert sum(box.shape[0] * box.shape[1] for box in reads) == 128 * 160
    assert max(box.shape[0] * box.shape[1] for box in reads) <= 16 * 16


@pytest.mark.parametrize("size", [(60, 81), (30, 41), (60, 40), (7, 80), (120, 160), (29, 40)])
def test_a_mask_of_another_size_is_refused_with_both_sizes_and_the_nearest_factor(tmp_path, size):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(size, np.uint8), photometric="minisblack")
    sentence = refusal(tmp_path / "a.tif")
    assert "expected a mask of the section's 60 x 80 pixels (height x width)" in sentence
    assert f"found {size[0]} x {size[1]}, nearest to a factor of " in sentence


def test_a_coloured_mask_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((*SHAPE, 3), np.uint8), photometric="rgb")
    assert "expected a mask of bits or unsigned labels in one channel, found 3 channels" in refusal(tmp_path / "a.tif")


def test_a_mask_of_fractions_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(SHAPE, np.float32))
    assert "found float32 values" in refusal(tmp_path / "a.tif")


def test_classes_asked_of_a_mask_image_are_ignored_with_a_warning(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", blobs().astype(np.uint8))
    mask = open_mask(tmp_path / "a.tif", SHAPE, include_classes=["Tear"])
    assert "a mask image has no classes" in mask.warnings[0]
    np.testing.assert_array_equal(mask.read(WHOLE), blobs())


# Grown masks ---------------------------------------------------------------------------------------------------------


def disk(radius_px):
    y, x = np.ogrid[-radius_px : radius_px + 1, -radius_px : radius_px + 1]
    return y**2 + x**2 <= radius_px**2


@given(areas(), boxes(), st.integers(0, 12))
@settings(max_examples=100, deadline=None)
def test_a_grown_mask_read_by_boxes_equals_the_dilation_of_the_whole(polygons, box, grow_px):
    mask = PolygonMask(polygons, SHAPE, ["note"])
    grown = GrownMask(mask, grow_px)
    expected = binary_dilation(mask.read(WHOLE), disk(grow_px))
    np.testing.assert_array_equal(grown.read(box), expected[box.slices])
    assert grown.warnings == ["note"]
    assert grown.shape == SHAPE


@given(areas(), st.integers(0, 30), st.integers(5, 40))
@settings(max_examples=60, deadline=None)
def test_candidate_boxes_of_a_grown_mask_hold_all_of_it(polygons, grow_px, tile_px):
    grown = GrownMask(PolygonMask(polygons, SHAPE, []), grow_px)
    candidates = list(grown.candidate_boxes(tile_px))
    assert candidates == [tile for tile in WHOLE.tiles(tile_px) if tile in set(candidates)]
    outside = grown.read(WHOLE).copy()
    for box in candidates:
        outside[box.slices] = False
    assert not outside.any()


def test_a_mask_cannot_shrink():
    with pytest.raises(ValueError, match="must not be negative"):
        GrownMask(PolygonMask([], SHAPE, []), -1)
