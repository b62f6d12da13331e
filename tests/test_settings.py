"""Settings and the sheet of sections: every mistake is named with its file, row and entry."""

from __future__ import annotations

import json

import pytest

from cytomend.errors import InputError
from cytomend.settings import checked, one_line, read_yaml
from cytomend.sheet import read_sheet

CONFIG = checked({}, "config", "test")


@pytest.fixture
def sheet(tiny_model, tmp_path):
    """A function from rows to the sections of a sheet; what a row leaves out is usual, None leaves the column out."""
    (tmp_path / "scan.tif").touch()
    usual = {
        "section": "s1",
        "image": str(tmp_path / "scan.tif"),
        "annotation": str(tmp_path / "scan.tif"),
        "pixel_size_um": "1.0",
        "model": str(tiny_model()),
    }

    def read(*rows, config=CONFIG):
        full = [{**usual, **row} for row in rows or [{}]]
        columns = [name for name, value in full[0].items() if value is not None]
        lines = ["\t".join(columns), *("\t".join(str(row.get(name, "")) for name in columns) for row in full)]
        (tmp_path / "sections.tsv").write_text("\n".join(lines) + "\n")
        return read_sheet(tmp_path / "sections.tsv", config)

    return read


def refusal(function, *arguments, **options):
    with pytest.raises(InputError) as refused:
        function(*arguments, **options)
    return str(refused.value)


def test_an_empty_configuration_is_completed_with_its_defaults():
    assert CONFIG["mend"]["sampler"] == "timemap"
    classes = {"include_classes": [], "exclude_classes": [], "tissue_classes": ["Tissue"]}
    assert CONFIG["mask"] == {"grow_px": 3, "max_covered": 0.5, **classes}
    assert checked({"mask": None, "mend": {"seed": 5}}, "config", "x")["mend"] == {**CONFIG["mend"], "seed": 5}


def test_completing_changes_neither_the_record_nor_the_defaults():
    record = {"mask": {}}
    checked(record, "config", "x")["mask"]["include_classes"].append("tear")
    assert record == {"mask": {}}
    assert checked({}, "config", "x")["mask"]["include_classes"] == []


@pytest.mark.parametrize(
    ("record", "entry"),
    [
        ({"mned": {}}, "'mned' was unexpected"),
        ({"mend": {"step": 5}}, "mend: Additional properties are not allowed ('step' was unexpected); known entries"),
        ({"mend": {"steps": 0}}, "mend.steps: 0"),
        ({"mend": {"steps": "many"}}, "mend.steps: 'many'"),
        ({"mend": {"steps": 1.5}}, "mend.steps: 1.5"),
        ({"mend": {"sampler": "ddim"}}, "mend.sampler: 'ddim'"),
        ({"mend": {"seed": -1}}, "mend.seed: -1"),
        ({"mend": {"seed": 1 << 64}}, "mend.seed"),
        ({"mend": {"stride_px": 6}}, "mend.stride_px: 6"),
        ({"mask": {"grow_px": True}}, "mask.grow_px: True"),
        ({"mask": {"include_classes": "tear"}}, "mask.include_classes: 'tear'"),
        ({"pyramid": {"chunk_px": 100}}, "pyramid.chunk_px: 100"),
        ([], "(top level): []"),
        ("text", "(top level): 'text'"),
    ],
)
def test_a_wrong_entry_is_named(record, entry):
    sentence = refusal(checked, record, "config", "config.yaml")
    assert sentence.startswith("config.yaml: ")
    assert entry in sentence


def test_all_wrong_entries_are_named_at_once():
    sentence = refusal(checked, {"mend": {"steps": 0, "seed": "x"}, "mask": {"grow_px": -1}}, "config", "c")
    assert all(entry in sentence for entry in ("mend.steps", "mend.seed", "mask.grow_px"))


def test_whole_numbers_of_a_spreadsheet_are_whole():
    steps = checked({"mend": {"steps": 50.0}}, "config", "c")["mend"]["steps"]
    assert (steps, type(steps)) == (50, int)


@pytest.mark.parametrize(
    ("content", "words"), [(b"a: [", "not YAML"), (b"\xff\xfe", "cannot be read"), (None, "cannot be read")]
)
def test_a_file_that_is_no_yaml_is_named(tmp_path, content, words):
    path = tmp_path / "train.yaml"
    if content is not None:
        path.write_bytes(content)
    sentence = refusal(read_yaml, path, "train")
    assert sentence.startswith(f"{path}: ")
    assert words in sentence


def test_the_same_settings_are_the_same_line():
    assert one_line({"b": 1, "a": [1, None]}) == one_line({"a": [1, None], "b": 1}) == '{"a": [1, null], "b": 1}'


def test_a_row_is_joined_with_the_configuration(sheet, tiny_model):
    config = checked({"mend": {"seed": 3, "sampler": "repaint"}, "mask": {"include_classes": ["tear"]}}, "config", "c")
    section = sheet({"seed": "9", "shards": "2", "include_classes": "fold; dirt ;"}, config=config)["s1"]
    assert (section.model, section.shards) == (tiny_model(), 2)
    assert section.mend["sampler"], section.mend["steps"] == ("repaint", 256)
    assert section.mend["seed"] == 9
    assert section.plan["include_classes"] == ["fold", "dirt"]
    assert (section.plan["window_px"], section.plan["stride_px"], section.plan["model_channels"]) == (32, 24, 1)
    assert json.loads(one_line(section.plan)) == section.plan


def test_empty_cells_fall_back_to_the_configuration(sheet):
    section = sheet({"seed": "", "grow_px": "", "sampler": "", "shards": "", "value_low": "", "value_high": ""})["s1"]
    assert (section.mend["seed"], section.plan["grow_px"], section.shards, section.plan["value_range"]) == (
        0,
        3,
        1,
        None,
    )


def test_zero_is_not_taken_for_an_empty_cell(sheet):
    section = sheet({"grow_px": "0", "value_low": "0", "value_high": "4095"})["s1"]
    assert (section.plan["grow_px"], section.plan["value_range"]) == (0, [0.0, 4095.0])


def test_a_spreadsheet_may_write_whole_numbers_with_a_point(sheet):
    section = sheet({"shards": "3.0", "seed": "12.0", "grow_px": "2.0"})["s1"]
    found = (section.shards, section.mend["seed"], section.plan["grow_px"])
    assert found == (3, 12, 2)
    assert {type(value) for value in found} == {int}


def test_names_of_digits_stay_names(sheet):
    assert list(sheet({"section": "007"}, {"section": "7"})) == ["007", "7"]


def test_comments_and_empty_lines_are_left_out_and_rows_counted_as_in_the_file(sheet, tmp_path):
    sheet({"section": "a"}, {"section": "b"})
    path = tmp_path / "sections.tsv"
    header, first, second = path.read_text().splitlines()
    path.write_text(f"\ufeff# our brain\n\n{header}\n{first}\n\n{second.replace('1.0', '-1')}\n")
    assert "sections.tsv, row 6: pixel_size_um: -1" in refusal(read_sheet, path, CONFIG)


@pytest.mark.parametrize("name", ["a/b", "..", ".a", "a b", "", "-a", "brain", "ü", "a" * 101, "a\\b", "{a}", "a*"])
def test_a_name_that_is_no_folder_is_refused(sheet, name):
    sentence = refusal(sheet, {"section": name})
    assert "sections.tsv, row 2: " in sentence
    assert "section" in sentence


@pytest.mark.parametrize(("first", "second"), [("s1", "s1"), ("s1", "S1")])
def test_a_name_may_stand_but_once(sheet, first, second):
    sentence = refusal(sheet, {"section": first}, {"section": second})
    assert f"sections.tsv, row 3: section {second!r} stands in row 2 already" in sentence


@pytest.mark.parametrize("column", ["section", "image", "annotation", "pixel_size_um"])
def test_a_missing_column_and_an_empty_cell_are_named(sheet, column):
    for value in (None, ""):
        sentence = refusal(sheet, {column: value})
        assert "sections.tsv, row 2: " in sentence
        assert f"'{column}' is a required property" in sentence


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("pixel_size_um", "0"),
        ("pixel_size_um", "-1"),
        ("pixel_size_um", "nan"),
        ("pixel_size_um", "inf"),
        ("pixel_size_um", "1,0"),
        ("pixel_size_um", "1 µm"),
        ("shards", "0"),
        ("shards", "1.5"),
        ("shards", "two"),
        ("seed", "-1"),
        ("seed", str(1 << 64)),
        ("steps", "257"),
        ("sampler", "magic"),
        ("grow_px", "-3"),
    ],
)
def test_a_wrong_cell_is_named(sheet, column, value):
    sentence = refusal(sheet, {column: value})
    assert f"sections.tsv, row 2: {column}: " in sentence
    assert value.split("e")[0] in sentence


@pytest.mark.parametrize(
    ("low", "high"), [("5", ""), ("", "5"), ("5", "5"), ("6", "5"), ("nan", "5"), ("0", "nan"), ("0", "inf")]
)
def test_a_value_range_without_width_is_refused(sheet, low, high):
    sentence = refusal(sheet, {"value_low": low, "value_high": high})
    assert "sections.tsv, row 2: " in sentence
    assert "value_" in sentence


def test_an_unknown_or_doubled_column_is_named(sheet, tmp_path):
    assert "sections.tsv, row 1: column 'sead' is unknown" in refusal(sheet, {"sead": "4"})
    path = tmp_path / "sections.tsv"
    path.write_text("section\timage\timage\ns1\ta\tb\n")
    assert "sections.tsv, row 1: column 'image'" in refusal(read_sheet, path, CONFIG)


def test_commas_instead_of_tabs_are_told(tmp_path):
    (tmp_path / "sections.tsv").write_text("section,image\ns1,a.tif\n")
    assert "separated by tabs" in refusal(read_sheet, tmp_path / "sections.tsv", CONFIG)


def test_a_row_with_too_many_cells_is_named(sheet, tmp_path):
    sheet()
    path = tmp_path / "sections.tsv"
    path.write_text(path.read_text().rstrip("\n") + "\tmore\n")
    assert "row 2: 6 cells, expected at most 5" in refusal(read_sheet, path, CONFIG)


def test_a_missing_file_is_named_with_its_row_and_column(sheet):
    assert "row 2: image nowhere.tif" in refusal(sheet, {"image": "nowhere.tif"})


def test_a_missing_or_foreign_model_is_named_with_its_row(sheet, tmp_path):
    assert "sections.tsv, row 2: model 'splendid'" in refusal(sheet, {"model": "splendid"})
    (tmp_path / "weights.pt").write_bytes(b"PK")
    assert "weights.pt: not a safetensors file" in refusal(sheet, {"model": str(tmp_path / "weights.pt")})


@pytest.mark.parametrize("content", ["", "section\timage\tannotation\tpixel_size_um\n", "# nothing\n"])
def test_a_sheet_without_sections_is_refused(tmp_path, content):
    (tmp_path / "sections.tsv").write_text(content)
    assert "no section in it" in refusal(read_sheet, tmp_path / "sections.tsv", CONFIG)


def test_a_missing_sheet_is_named(tmp_path):
    assert "nowhere.tsv: the sheet of sections cannot be read" in refusal(read_sheet, tmp_path / "nowhere.tsv", CONFIG)


def test_shards_of_the_pyramid_that_no_chunks_fill_are_refused_before_any_job(sheet):
    config = checked({"pyramid": {"chunk_px": 128, "shard_px": 320}}, "config", "c")
    assert "pyramid.shard_px is 320, expected a multiple of pyramid.chunk_px, 128" in refusal(sheet, config=config)


def test_a_stride_that_the_models_windows_cannot_take_is_refused_before_any_job(sheet):
    config = checked({"mend": {"stride_px": 36}}, "config", "c")
    assert "stride_px" in refusal(sheet, config=config)


def test_a_quote_in_a_cell_is_a_letter_and_swallows_no_rows(sheet):
    sections = sheet({"section": "a", "stain": '"Nissl'}, {"section": "b"})
    assert list(sections) == ["a", "b"]
    assert sections["a"].plan["stain"] == '"Nissl'
