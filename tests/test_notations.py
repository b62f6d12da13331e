"""Kinds and classes of annotated objects in every notation: what is understood is understood the same."""

from __future__ import annotations

import gzip
import json
import logging
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from roifile import ROI_TYPE, ImagejRoi

from cytomend.classification.areas import PolygonAreas
from cytomend.errors import InputError
from cytomend.geometry import Box
from cytomend.regions.annotation import open_mask
from cytomend.regions.geojson import read_features
from cytomend.regions.notation import LONGEST_TEXT, kind_word, same_class

SHAPE = (60, 80)
WHOLE = Box(0, 0, *SHAPE)
TEAR = (10, 10, 20, 30)
OTHER = (30, 40, 50, 70)


def corners(y0, x0, y1, x1):
    return [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]


def feature(box, properties=None, **own):
    geometry = {"type": "Polygon", "coordinates": corners(*box)}
    return {"type": "Feature", "geometry": geometry, "properties": properties, **own}


def pixels(*boxes):
    mask = np.zeros(SHAPE, bool)
    for y0, x0, y1, x1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def opened(tmp_path):
    """Return a function from the content of a file to its mask."""

    def opened(content, name="a.geojson", **classes):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return open_mask(path, SHAPE, **classes)

    return opened


def said(mask):
    return " ".join(mask.warnings)


# Kinds ----------------------------------------------------------------------------------------------------------------

WORDS = {
    "cell": ["PathCellObject", "cell", "Cell", " CELL ", "cells", "qupath.lib.objects.PathCellObject", "nucleus"],
    "detection": ["PathDetectionObject", "detection", "Detections"],
    "tile": ["PathTileObject", "tile", "TILE"],
    "TMA core": ["TMACoreObject", "tma_core", "tmaCore", "TMA core", "TMA cores"],
    "root": ["PathRootObject", "root", "Root"],
}
PLACES = {
    "id, QuPath 0.2": lambda word: feature(OTHER, {"isLocked": False}, id=word),
    "object_type, QuPath 0.3": lambda word: feature(OTHER, {"object_type": word}, id="5a-7f"),
    "objectType, QuPath 0.4 on": lambda word: feature(OTHER, {"objectType": word}, id="5a-7f"),
    "type, QuPath 0.1": lambda word: feature(OTHER, {"type": word, "class": "Positive"}),
    "id in properties, geopandas": lambda word: feature(OTHER, {"id": word, "classification": "{'name': 'Positive'}"}),
    "beside the properties": lambda word: feature(OTHER, None, objectType=word),
    "kind, hand-written": lambda word: feature(OTHER, {"kind": word}),
    "flat, with blanks": lambda word: feature(OTHER, {"Object Type": word}),
    "properties as text": lambda word: feature(OTHER, json.dumps({"objectType": word})),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", WORDS)
def test_what_nobody_drew_is_no_damage_wherever_its_kind_stands(opened, place, kind):
    objects = [PLACES[place](word) for word in WORDS[kind]]
    mask = opened([feature(TEAR, {"classification": {"name": "Tear"}}), *objects])
    np.testing.assert_array_equal(mask.read(WHOLE), pixels(TEAR))
    assert f"not taken as damage ({kind} {len(objects)})" in said(mask)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("word", ["PathAnnotationObject", "annotation", "Annotation", "annotations"])
def test_what_somebody_drew_is_damage_wherever_its_kind_stands(opened, place, word):
    mask = opened([PLACES[place](word)])
    np.testing.assert_array_equal(mask.read(WHOLE), pixels(OTHER))


@pytest.mark.parametrize(
    "cell",
    [
        feature(OTHER, {}, nucleusGeometry={"type": "Polygon", "coordinates": corners(*TEAR)}),
        feature(OTHER, {"nucleusGeometry": '{"type": "Polygon"}'}),
        feature(OTHER, {"measurements": [{"name": "Nucleus: Area", "value": 30.0}]}),
        feature(OTHER, {"measurements": {"Cell: Area": 30.0}}),
        feature(OTHER, {"measurements": "[{'name': 'Nucleus: Area', 'value': 30.0}]"}),
        feature(OTHER, {"class": "Cell"}),
        feature(OTHER, {"label": "cell: positive"}),
        feature(OTHER, {"name": "cell"}),
        feature(OTHER, {"class": "Cell", "id": 7}),
    ],
)
def test_a_cell_is_known_without_a_kind(opened, cell):
    assert not opened([cell]).read(WHOLE).any()


@pytest.mark.parametrize("name", ["Tear", "Cell debris", "Root canal", "Tile mark"])
def test_words_that_hold_a_kind_are_none(opened, name):
    assert opened([feature(OTHER, {"class": name})]).read(WHOLE).any()


def test_an_annotation_of_class_cell_is_what_its_kind_says(opened):
    assert opened([feature(OTHER, {"objectType": "annotation", "classification": "Cell"})]).read(WHOLE).any()


def test_a_kind_that_is_not_known_is_named(opened):
    mask = opened([feature(OTHER, {"objectType": "subcellular spot", "classification": "Tear"})])
    assert mask.read(WHOLE).any()
    assert "1 objects of the kind 'subcellular spot', which is not known, are taken as damage" in said(mask)


def test_detections_come_back_when_their_class_is_included(opened):
    cell = feature(OTHER, {"classification": "{'name': 'Neuron'}"}, id="PathCellObject")
    np.testing.assert_array_equal(opened([cell], include_classes=["neuron"]).read(WHOLE), pixels(OTHER))


# Classes --------------------------------------------------------------------------------------------------------------

NOTATIONS = {
    "object": {"classification": {"name": "Tissue", "colorRGB": -1}},
    "object with colour": {"classification": {"name": "Tissue", "color": [1, 2, 3]}},
    "names": {"classification": {"names": ["Tissue"]}},
    "list": {"classification": ["Tissue"]},
    "list of objects": {"classification": [{"name": "Tissue"}]},
    "word": {"classification": "Tissue"},
    "small letters": {"classification": "tissue"},
    "blanks": {"classification": {"name": " Tissue "}},
    "capitals": {"classification": {"name": "TISSUE"}},
    "wide blanks": {"classification": "\u00a0Tissue\u2003"},
    "JSON text": {"classification": '{"name": "Tissue", "colorRGB": -1}'},
    "JSON text of JSON text": {"classification": json.dumps(json.dumps({"name": "Tissue"}))},
    "JSON text of names": {"classification": '{"names": ["Tissue"], "color": [1, 2, 3]}'},
    "JSON text of a list": {"classification": '["Tissue"]'},
    "JSON text of a word": {"classification": '"Tissue"'},
    "Python text": {"classification": "{'name': 'Tissue', 'color': [1, 2, 3]}"},
    "Python text of a tuple": {"classification": "('Tissue',)"},
    "Python text with None": {"classification": "{'name': 'Tissue', 'color': None}"},
    "flattened": {"classification.name": "Tissue", "classification.colorRGB": -1},
    "flattened with underscore": {"classification_name": "Tissue"},
    "flattened names": {"classification_names": "['Tissue']"},
    "class": {"class": "Tissue"},
    "Class": {"Class": "tissue"},
    "class_name": {"class_name": "Tissue"},
    "pathClass": {"pathClass": "Tissue"},
    "label": {"label": "Tissue"},
    "category": {"category": "Tissue"},
    "category object": {"category": {"name": "Tissue", "id": 1}},
    "type": {"type": "Tissue"},
    "objectType": {"objectType": "Tissue"},
    "name": {"name": "Tissue"},
    "name of an unclassified annotation": {"objectType": "annotation", "name": "tissue", "classification": None},
    "null before class": {"classification": None, "class": "Tissue"},
    "not a number before class": {"classification": float("nan"), "class": "Tissue"},
    "text of nothing before class": {"classification": "None", "label": "Tissue"},
}


# The type of a feature itself is GeoJSON's.
@pytest.mark.parametrize(
    ("notation", "beside"),
    [(n, beside) for n in NOTATIONS for beside in (False, True) if (n, beside) != ("type", True)],
)
def test_tissue_is_no_damage_however_its_class_is_written(opened, notation, beside):
    entries = NOTATIONS[notation]
    tissue = feature(OTHER, {}, **entries) if beside else feature(OTHER, entries)
    mask = opened([tissue, feature((35, 45, 40, 50), {"classification": "Tear"})])
    np.testing.assert_array_equal(mask.read(WHOLE), pixels((35, 45, 40, 50)))


@pytest.mark.parametrize(
    "classification",
    ["Tissue: Large", "tissue:large", {"name": "Tissue: Large"}, {"names": ["Tissue", "Large"]}, ["Tissue", "Large"]],
)
def test_a_derived_class_is_one_class_in_all_notations(opened, classification):
    features = [feature(OTHER, {"classification": classification}), feature(TEAR, {"class": "Tear"})]
    np.testing.assert_array_equal(opened(features, exclude_classes=["Tissue: Large"]).read(WHOLE), pixels(TEAR))
    np.testing.assert_array_equal(opened(features, include_classes=[" TISSUE :LARGE"]).read(WHOLE), pixels(OTHER))


@pytest.mark.parametrize("nothing", [None, "", " ", "None", "null", "NaN", "Unclassified", {}, [], {"colorRGB": -1}])
def test_no_class_is_no_class_in_all_notations(opened, nothing):
    with pytest.raises(InputError, match="found no class at all"):
        opened([feature(TEAR, {"classification": nothing})], include_classes=["Tear"])


@pytest.mark.parametrize(
    "strange",
    [
        "{'name': 'Tissue', 'color': array([1, 2])}",
        '{"name": "Tissue"',
        "[Tissue]",
        {"ontology": "http://example.org/7"},
        True,
        '{"name": "Tissue", "notes": "' + "x" * LONGEST_TEXT + '"}',
        "{" * 1000,
        "{'name': print('run')}",
    ],
)
def test_a_class_that_is_not_understood_is_refused_with_the_feature(opened, strange, capsys):
    with pytest.raises(InputError, match=r"a\.geojson: feature 2: expected .* found .*; correct or export it again"):
        opened([feature(TEAR, {}), feature(OTHER, {"classification": strange})])
    assert "run" not in capsys.readouterr().out


def test_properties_that_are_no_object_are_refused_with_the_feature(opened):
    with pytest.raises(InputError, match="feature 1: expected properties as an object, found list"):
        opened([feature(TEAR, [1, 2])])


def test_classes_that_are_seldom_damage_are_named(opened):
    mask = opened([feature(TEAR, {"class": "Tear"}), feature(OTHER, {"class": "Ignore*"})])
    np.testing.assert_array_equal(mask.read(WHOLE), pixels(TEAR, OTHER))
    assert mask.warnings == [
        f"{mask.warnings[0].split(': ')[0]}: 1 objects of class 'Ignore*' are taken as damage; if they are none, name"
        " the class under mask.exclude_classes, or under mask.tissue_classes if it outlines tissue"
    ]


def test_only_some_of_many_classes_are_named(opened):
    many = [feature(TEAR, {"class": f"c{number:02}"}) for number in range(20)]
    with pytest.raises(InputError, match=r"'c11' and 8 others; correct"):
        opened(many, include_classes=["Tear"])


@given(st.text(), st.sampled_from([str.upper, str.lower, str.strip, lambda name: f"  {name} "]))
def test_a_class_has_one_name_however_often_it_is_reduced(name, change):
    assert same_class(same_class(name)) == same_class(name)
    plain = "".join(letter for letter in name if letter.isascii())  # capitals of other scripts may have two small ones
    assert same_class(change(plain)) == same_class(plain)


@given(st.text())
def test_any_text_is_a_word_or_none(word):
    assert kind_word(word) in {*WORDS, "annotation", None}


# What holds the features ----------------------------------------------------------------------------------------------


def nested(items, depth):
    for _ in range(depth):
        items = [{"type": "FeatureCollection", "features": items}]
    return items


@pytest.mark.parametrize(
    "content",
    [
        [feature(TEAR, {}), feature(OTHER, {})],
        {"type": "FeatureCollection", "features": [feature(TEAR), feature(OTHER)]},
        {"type": "FeatureCollection", "features": nested([feature(TEAR, {}), feature(OTHER, {})], 3)},
        [nested([feature(TEAR, {})], 1)[0], [feature(OTHER, {})]],
        [feature(TEAR)["geometry"], feature(OTHER)["geometry"]],
        {"type": "GeometryCollection", "geometries": [feature(TEAR)["geometry"], feature(OTHER)["geometry"]]},
        {"type": "MultiPolygon", "coordinates": [corners(*TEAR), corners(*OTHER), []]},
        {"type": "MultiPolygon", "coordinates": [[[]], corners(*TEAR), [*corners(*OTHER), []]]},
    ],
)
def test_features_are_found_whatever_holds_them(opened, content):
    np.testing.assert_array_equal(opened(content).read(WHOLE), pixels(TEAR, OTHER))


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Polygon", "coordinates": []},
        {"type": "Polygon", "coordinates": [[]]},
        {"type": "MultiPolygon", "coordinates": []},
        {"type": "MultiPolygon", "coordinates": [[]]},
        {"type": "MultiPolygon", "coordinates": [[[]]]},
        {"type": "GeometryCollection", "geometries": []},
        {"type": "GeometryCollection", "geometries": [{"type": "Polygon", "coordinates": []}]},
        None,
    ],
)
def test_empty_geometries_are_skipped_with_a_warning(opened, geometry):
    mask = opened([feature(TEAR, {}), {"type": "Feature", "geometry": geometry, "properties": {"name": "gone"}}])
    np.testing.assert_array_equal(mask.read(WHOLE), pixels(TEAR))
    assert "feature 2 ('gone') has no" in said(mask)
    assert "skipped" in said(mask)


@pytest.mark.parametrize("hole", [0, 1])
def test_an_empty_part_of_a_polygon_is_told(opened, hole):
    rings = [[], *corners(*TEAR)] if hole == 0 else [*corners(*TEAR), []]
    mask = opened([{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": {}}])
    assert mask.read(WHOLE).any() == (hole == 1)
    assert "skipped" in said(mask)


def test_nested_features_are_named_by_their_place(opened):
    broken = feature(TEAR, {"classification": True})
    with pytest.raises(InputError, match=r"feature 2\.1\.3: expected"):
        opened([feature(TEAR), *nested([feature(OTHER), feature(OTHER), broken], 2)])


def test_collections_without_end_are_refused(opened):
    with pytest.raises(InputError, match="found collections nested more than 32 deep"):
        opened(nested([feature(TEAR)], 40))


def test_a_gzipped_export_with_text_is_read_as_a_plain_one(tmp_path):
    path = tmp_path / "a.geojson.gz"
    cell = feature(OTHER, {"classification": '{"name": "Tissue"}'}, id="PathAnnotationObject")
    path.write_bytes(gzip.compress(json.dumps([cell]).encode()))
    (found,) = read_features(path)
    assert (found.class_name, found.kind, found.place) == ("Tissue", "annotation", "feature 1 (class 'Tissue')")


# Other formats --------------------------------------------------------------------------------------------------------


def roi(box, name="", group=0):
    y0, x0, y1, x1 = box
    return ImagejRoi(roitype=ROI_TYPE.RECT, top=y0, left=x0, bottom=y1, right=x1, name=name, group=group)


@pytest.mark.parametrize("stored", ["in its name", "in the zip"])
@pytest.mark.parametrize("group", [0, 3])
def test_an_outline_of_imagej_is_of_the_class_that_its_name_says(tmp_path, stored, group):
    inner = "tissue " if stored == "in its name" else ""
    outer = "0001-0002" if stored == "in its name" else "Tissue"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(f"{outer}.roi", roi(OTHER, inner, group).tobytes())
        archive.writestr("0035-0047.roi", roi((35, 45, 40, 50)).tobytes())
    np.testing.assert_array_equal(open_mask(tmp_path / "a.zip", SHAPE).read(WHOLE), pixels((35, 45, 40, 50)))


def test_names_that_imagej_makes_are_no_classes(tmp_path):
    roi(TEAR, "0015-0020").tofile(tmp_path / "0015-0020.roi")
    with pytest.raises(InputError, match="found no class at all"):
        open_mask(tmp_path / "0015-0020.roi", SHAPE, include_classes=["Tear"])


def test_detected_objects_are_no_areas_to_learn_from(tmp_path, caplog):
    path = tmp_path / "areas.geojson"
    path.write_text(
        json.dumps([feature(TEAR, {"class": "V1"}), feature(OTHER, {"class": "Neuron"}, id="PathCellObject")])
    )
    with caplog.at_level(logging.WARNING):
        areas = PolygonAreas(path, SHAPE)
    assert set(areas.tiles) == {"V1"}
    assert "1 cells or other detected objects are no areas" in caplog.text
