"""Sheets as spreadsheets save them: read alike, or refused with a cure that works."""

from __future__ import annotations

import shutil
import subprocess
import unicodedata

import pytest

from cytomend.decisions import read_decisions
from cytomend.errors import InputError
from cytomend.settings import checked
from cytomend.sheet import read_sheet

HEADER = ["section", "image", "annotation", "pixel_size_um", "stain"]


@pytest.fixture
def save(tmp_path, monkeypatch, tiny_model):
    """Return a function that writes rows as a sheet in a folder with its files, and returns its path."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.tif", "b.tif", "a,b.tif"):
        (tmp_path / name).touch()
    config = checked({"mend": {"model": str(tiny_model())}}, "config", "c")

    def save(rows, encoding="utf-8", sep="\t", end="\r\n"):
        path = tmp_path / "s.tsv"
        path.write_bytes("".join(sep.join(row) + end for row in rows).encode(encoding))
        return path

    save.config = config
    return save


def row(**cells):
    usual = {"section": "s1", "image": "a.tif", "annotation": "b.tif", "pixel_size_um": "1.0", "stain": "Färbung"}
    return list({**usual, **cells}.values())


def refusal(save, *saved, **how):
    path = save(*saved, **how)
    with pytest.raises(InputError) as caught:
        read_sheet(path, save.config)
    assert str(caught.value).startswith(f"{path}, row ")
    return str(caught.value)


READ = {
    "plain": ([HEADER, row()], {}),
    "byte-order mark": ([HEADER, row()], {"encoding": "utf-8-sig"}),
    "Unicode text of Excel": ([HEADER, row()], {"encoding": "utf-16"}),
    "UTF-16 without a mark": ([HEADER, row()], {"encoding": "utf-16-le"}),
    "UTF-16 of the other order": ([HEADER, row()], {"encoding": "utf-16-be"}),
    "UTF-32": ([HEADER, row()], {"encoding": "utf-32"}),
    "old Mac": ([HEADER, row()], {"end": "\r"}),
    "Unix": ([HEADER, row()], {"end": "\n"}),
    "empty columns": ([[*HEADER, "", ""], [*row(), "", ""]], {}),
    "an empty column between": ([[HEADER[0], "", *HEADER[1:]], [row()[0], "", *row()[1:]]], {}),
    "empty cells": ([HEADER, [*row(), "", " "]], {}),
    "empty rows": ([[""] * 5, HEADER, [""] * 5, row(), [" "] * 9, [""]], {}),
    "quoted cells": ([[f'"{name}"' for name in HEADER], [f'"{cell}"' for cell in row()]], {}),
    "wide blanks": ([HEADER, [f"{cell}\u00a0" for cell in row()]], {}),
    "a mark within": ([HEADER, ["\ufeffs1", *row()[1:]]], {}),
    "a sign that ends lines elsewhere": ([HEADER, row(stain="Färbung\u2028")], {}),
}


@pytest.mark.parametrize("name", READ)
def test_what_spreadsheets_save_is_read_alike(save, name):
    rows, how = READ[name]
    sections = read_sheet(save(rows, **how), save.config)
    assert list(sections) == ["s1"]
    assert (str(sections["s1"].image), sections["s1"].plan["stain"]) == ("a.tif", "Färbung")


def test_a_quoted_path_with_a_comma_is_found(save):
    assert str(read_sheet(save([HEADER, row(image='"a,b.tif"')]), save.config)["s1"].image) == "a,b.tif"


@pytest.mark.skipif(shutil.which("iconv") is None, reason="no iconv on this machine")
def test_another_encoding_is_refused_with_a_command_that_cures_it(save, tmp_path):
    sentence = refusal(save, [HEADER, row()], encoding="cp1252")
    assert "row 2: the sheet of sections is expected in UTF-8, found other letters around" in sentence
    assert "Färbung" in sentence
    command = sentence[sentence.index("iconv") :]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert read_sheet(tmp_path / "utf8-s.tsv", save.config)["s1"].plan["stain"] == "Färbung"


@pytest.mark.parametrize(("text", "meant"), [("1,0", "1.0"), ("0,5", "0.5"), (",5", ".5")])
def test_a_decimal_comma_is_named_with_its_cure(save, text, meant):
    sentence = refusal(save, [HEADER, row(pixel_size_um=text)])
    assert f"pixel_size_um: expected a number with a decimal point, found {text!r}; write {meant}" in sentence
    assert read_sheet(save([HEADER, row(pixel_size_um=meant)]), save.config)["s1"].plan["pixel_size_um"] == float(meant)


@pytest.mark.parametrize("text", ["1.000,5", "1 000", "1_0", "1.0 µm", "1,000.5", "nan", "-1", "01. Mai"])
def test_other_numbers_are_refused_with_their_cell(save, text):
    assert "pixel_size_um" in refusal(save, [HEADER, row(pixel_size_um=text)])


def test_a_comma_is_a_letter_where_text_is_meant(save):
    assert read_sheet(save([HEADER, row(stain="1,0")]), save.config)["s1"].plan["stain"] == "1,0"


@pytest.mark.parametrize("sep", [";", ","])
def test_other_separators_are_named_with_their_cure(save, sep):
    sentence = refusal(save, [HEADER, row()], sep=sep)
    assert f"row 1: columns are separated by {sep!r}, expected columns separated by tabs; save the table as" in sentence


def test_a_cell_in_a_column_without_name_is_refused(save):
    sentence = refusal(save, [[*HEADER, ""], [*row(), "0.5"]])
    assert "row 2: '0.5' stands in a column without a name" in sentence


def test_a_column_with_capitals_is_named_as_it_should_be(save):
    assert "'Pixel_Size_um' is unknown or doubled, write pixel_size_um" in refusal(
        save, [[*HEADER[:3], "Pixel_Size_um"], row()[:4]]
    )


def test_a_name_in_the_other_form_of_unicode_is_explained(save, tmp_path):
    here, there = (unicodedata.normalize(form, "Schnitt_ä.tif") for form in ("NFC", "NFD"))
    (tmp_path / here).touch()
    sentence = refusal(save, [HEADER, row(image=there)])
    assert "written in the form NFC: copy its name" in sentence
    assert str(read_sheet(save([HEADER, row(image=here)]), save.config)["s1"].image) == here


def test_decisions_in_unicode_text_are_read(tmp_path):
    columns = ["section", "region", "y0_px", "x0_px", "y1_px", "x1_px", "area_px", "decision", "comment", "who", "when"]
    cells = ["s1", "1", "0", "0", "5", "5", "20", "accept", "schön", "ä", "2026-07-01T12:30"]
    path = tmp_path / "d.tsv"
    path.write_bytes(("\t".join(columns) + "\r\n" + "\t".join(cells) + "\r\n").encode("utf-16"))
    assert read_decisions(path)["s1"][0].comment == "schön"
    path.write_bytes(("\t".join(columns) + "\r\n" + "\t".join(cells) + "\r\n").encode("cp1252"))
    with pytest.raises(InputError, match=r"row 2: the table of decisions is expected in UTF-8"):
        read_decisions(path)
