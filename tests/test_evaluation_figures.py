"""Figures of an evaluation are written whatever is missing, the same bytes every time, and take every name as text."""

import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from cytomend.report.evaluation_figures import (
    ALL,
    CONTROLS,
    FLOOR,
    ORIGINAL,
    PANELS,
    EvaluationTables,
    Exemplar,
    better_controls,
    caption_errors,
    chosen,
    draw_arrangement,
    draw_classes,
    draw_distributions,
    draw_errors,
    draw_exemplars,
    first_segmenter,
    looks_for,
    mask_outline,
    plain,
    write_figures,
    write_svg,
)

EDGES = (0.05, 0.14, 0.23, 0.32, 0.41, 0.5)
BINS = [
    (ALL, 0.0, 1.0),
    *((f"{100 * a:.0f}-{100 * b:.0f} %", 0.0 if a == 0.05 else a, b) for a, b in pairwise(EDGES)),
]
FILLERS = ("timemap", "repaint", FLOOR, *CONTROLS)
HOSTILE = ("<script>alert(1)</script>", "$x$ $\\frac{1}", "_nolegend_", "a\x00b\n&amp;", "--><b>", "long " * 40)
NAMES = {"errors", "classes", "distributions", "arrangement", "exemplars"}


def summary_of(fillers=FILLERS, bins=BINS, reference="original", kind="intact"):
    size = dict(zip(fillers, np.geomspace(0.06, 0.9, len(fillers)), strict=True))
    return pd.DataFrame(
        [
            {
                "filler": filler,
                "segmenter": "cpn",
                "reference": reference,
                "kind": kind,
                "statistic": statistic,
                "bin": name,
                "low_fraction": low,
                "high_fraction": high,
                "median_error": (e := size[filler] * (1 + i / 4) * (1.3 - low)),
                "median_low": 0.8 * e,
                "median_high": 1.25 * e,
            }
            for filler in fillers
            for i, statistic in enumerate(PANELS)
            for name, low, high in bins
        ]
    )


def classes_of(fillers=FILLERS, bins=BINS):
    return pd.DataFrame(
        [
            {
                "filler": filler,
                "classifier": "layers",
                "kind": "intact",
                "bin": name,
                "low_fraction": low,
                "high_fraction": high,
                "flip_rate": (r := min(0.03 * (i + 1) * (0.6 + 2 * low), 1)),
                "flip_low": 0.7 * r,
                "flip_high": min(1.4 * r, 1),
                "top2_rate": 1 - r / 6,
                "top2_low": 1 - r / 4,
                "top2_high": 1 - r / 9,
            }
            for i, filler in enumerate(fillers)
            for name, low, high in bins
        ]
    )


def measurements_of(fillers=(ORIGINAL, *FILLERS), trials=120):
    rng = np.random.default_rng(1)
    area_mm2 = rng.uniform(0.001, 0.008, trials)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "trial": np.arange(trials),
                    "kind": "intact",
                    "filler": filler,
                    "segmenter": "cpn",
                    "area_mm2": area_mm2,
                    "cells": (cells := rng.poisson(area_mm2 * 2600 * (1 - 0.03 * i))),
                    "cell_area_um2": cells * rng.normal(75 - 2 * i, 8, trials),
                }
            )
            for i, filler in enumerate(fillers)
        ]
    )


def arrangement_of(fillers=(ORIGINAL, *FILLERS)):
    radius = np.arange(4.0, 41, 2)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "filler": filler,
                    "segmenter": "cpn",
                    "radius_um": radius,
                    "l_minus_r_um": (
                        curve := (0.15 * i - 2.5) * np.exp(-(((radius - 8) / 7) ** 2)) + 0.02 * i * radius / 10
                    ),
                    "low": curve - 0.3,
                    "high": curve + 0.3,
                }
            )
            for i, filler in enumerate(fillers)
        ]
    )


def exemplar_of(seed=0, side=96, title="cortex, layer III"):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(4, side - 4, (30, 2))
    dots = np.zeros((side, side))
    dots[tuple(centres.astype(int).T)] = 1
    image = (200 - 1.1e4 * ndimage.gaussian_filter(dots, 3)).clip(40, 255).astype(np.uint8)
    mask = ndimage.gaussian_filter(rng.standard_normal((side, side)), 12)
    mask = mask > np.quantile(mask, 0.7)
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    cells = pd.DataFrame(
        {
            "contour_y_um": [y + 4 * np.sin(turn) for y, _ in centres],
            "contour_x_um": [x + 4 * np.cos(turn) for _, x in centres],
        }
    )
    mended = np.where(mask, np.roll(image, 9, axis=1), image)
    return Exemplar(image, mask, mended, cells, cells.iloc[:20], float(mask.mean()), title)


def tables_of():
    return EvaluationTables(
        pd.concat([summary_of(), summary_of((*FILLERS, ORIGINAL), reference="truth", kind="artefact")]),
        classes_of(),
        measurements_of(),
        arrangement_of(),
        (exemplar_of(0, 64), exemplar_of(1, 64)),
    )


def texts(figure_or_path):
    if hasattr(figure_or_path, "read_text"):
        return [e.text for e in ET.parse(figure_or_path).iter("{http://www.w3.org/2000/svg}text")]
    return [text.get_text() for text in figure_or_path.findobj(lambda artist: hasattr(artist, "get_text"))]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    return folder, write_figures(folder, tables_of())


def test_every_figure_is_a_file_with_a_caption_and_the_same_bytes_when_written_again(written, tmp_path):
    folder, figures = written
    assert set(figures.paths) == set(figures.captions) == NAMES | {"errors-artefact"}
    assert {path.name for path in folder.iterdir()} == {f"{name}.svg" for name in figures.paths}
    again = write_figures(tmp_path, tables_of())
    for name, path in figures.paths.items():
        assert path.read_bytes() == again.paths[name].read_bytes(), name
        assert len(figures.captions[name]) > 40
        assert "not measured" not in texts(path)


def test_words_stay_words_and_pictures_lie_inside_the_file(written):
    _, figures = written
    assert "8 % (Kropp et al. 2024)" in texts(figures.paths["errors"])
    assert {"5–14", "41–50", ALL} <= set(texts(figures.paths["errors"]))
    sheet = figures.paths["exemplars"].read_text(encoding="utf-8")
    assert sheet.count("data:image/png;base64") == 6
    assert any("30 % masked" in (text or "") for text in texts(figures.paths["exemplars"]))
    assert "10 µm" in texts(figures.paths["exemplars"])


def test_errors_against_known_cells_say_so(written):
    _, figures = written
    assert "against known cells" in texts(figures.paths["errors-artefact"])
    assert "segmenter's own error" in figures.captions["errors-artefact"]
    assert ORIGINAL in texts(figures.paths["errors-artefact"])
    assert "against the original" in texts(figures.paths["errors"])


def test_each_filler_stands_once_in_the_legend_models_before_controls(written):
    _, figures = written
    found = [text for text in texts(figures.paths["errors"]) if text in FILLERS]
    assert found == ["timemap", "repaint", "biharmonic", "nearest tissue", "local mean"]
    assert sum("pasted tissue" in (text or "") for text in texts(figures.paths["errors"])) == 1


def test_a_filler_looks_the_same_in_every_figure(written):
    _, figures = written
    for name in ("errors", "classes", "distributions", "arrangement"):
        drawing = figures.paths[name].read_text(encoding="utf-8")
        assert "#0072b2" in drawing, name
        assert "#d55e00" in drawing, name


def test_an_empty_evaluation_says_that_nothing_was_measured(tmp_path):
    figures = write_figures(tmp_path, EvaluationTables())
    assert set(figures.paths) == NAMES - {"exemplars"}
    expected = {"errors": 4, "classes": 2, "distributions": 2, "arrangement": 2}
    assert {name: texts(path).count("not measured") for name, path in figures.paths.items()} == expected


def test_what_is_missing_is_missing_in_its_panel_alone():
    rows = summary_of()
    looks = looks_for(FILLERS)
    assert texts(draw_errors(rows[rows["statistic"] != "close pairs"], looks)).count("not measured") == 1
    measured = ["median_error", "median_low", "median_high"]
    rows.loc[rows["statistic"] == "cell area", measured] = np.nan
    assert texts(draw_errors(rows, looks)).count("not measured") == 1


@pytest.mark.parametrize("bins", [BINS[:1], BINS[1:2], BINS[1:]], ids=["all alone", "one bin", "no all"])
def test_few_bins_are_drawn(bins, tmp_path):
    figure = draw_errors(summary_of(("mine", FLOOR), bins), looks_for(("mine", FLOOR)))
    found = texts(write_svg(figure, tmp_path / "errors.svg"))
    assert "not measured" not in found
    assert (ALL in found, "5–14" in found) == (BINS[0] in bins, BINS[1] in bins)


def test_one_trial_of_one_filler_without_its_original_is_drawn(tmp_path):
    names = ("mine",)
    tables = EvaluationTables(
        summary_of(names), classes_of(names), measurements_of(names, 1), arrangement_of(names), (exemplar_of(side=32),)
    )
    found = {name: texts(path).count("not measured") for name, path in write_figures(tmp_path, tables).paths.items()}
    assert found == {**dict.fromkeys(NAMES, 0), "arrangement": 1}  # there is nothing to take the curve from


def test_undefined_intervals_and_errors_beyond_the_scale_are_drawn(tmp_path):
    tables = tables_of()
    bounds = ["median_low", "median_high"]
    for filler, value in (("timemap", np.nan), (FLOOR, np.nan), ("repaint", np.inf), ("biharmonic", 0.0)):
        tables.summary.loc[tables.summary["filler"] == filler, bounds] = value
    tables.summary.loc[tables.summary["filler"] == "biharmonic", "median_error"] = 0.0
    tables.summary.loc[tables.summary["filler"] == "local mean", "median_error"] = np.inf
    tables.classes.loc[:, ["flip_low", "flip_high", "top2_low"]] = np.nan
    tables.measurements.loc[tables.measurements["filler"] == FLOOR, "cells"] = 0
    tables.arrangement.loc[tables.arrangement["filler"] == "repaint", "l_minus_r_um"] = np.nan
    figures = write_figures(tmp_path, tables)
    assert {"≤ 1 %", "≥ 1000 %"} <= set(texts(figures.paths["errors"]))
    for path in figures.paths.values():
        assert "not measured" not in texts(path)
        assert not {"nan", "inf"} & set(path.read_text(encoding="utf-8").replace('"', " ").split())


def test_hostile_names_are_text(tmp_path):
    tables = EvaluationTables(
        summary_of(HOSTILE).assign(segmenter="<b>$y$"),
        classes_of(HOSTILE).assign(classifier="<i>$z$"),
        measurements_of((ORIGINAL, *HOSTILE), 20).assign(segmenter="<b>$y$"),
        arrangement_of((ORIGINAL, *HOSTILE)).assign(segmenter="<b>$y$"),
        (exemplar_of(title="$t$ <script>"),),
    )
    figures = write_figures(tmp_path, tables)
    for name, path in figures.paths.items():
        root = ET.parse(path).getroot()
        assert not [element for element in root.iter() if element.tag.endswith(("}script", "}b", "}i"))]
        if name != "exemplars":
            assert {plain(hostile) for hostile in HOSTILE} <= set(texts(path)), name
    assert any(text.startswith("$t$ <script>, ") for text in texts(figures.paths["exemplars"]) if text)
    assert "<b>$y$" in figures.captions["errors"]


def test_the_segmenter_can_be_chosen_and_known_cells_are_none():
    rows = pd.concat([measurements_of(trials=4).assign(segmenter="known cells"), measurements_of(trials=4)])
    both = pd.concat([summary_of(), summary_of().assign(segmenter="classical")])
    assert set(chosen(both, segmenter="classical")["segmenter"]) == {"classical"}
    assert first_segmenter(EvaluationTables(measurements=rows)) == "cpn"


def test_a_control_better_than_every_model_is_named():
    rows = summary_of()
    looks = looks_for(FILLERS)
    assert better_controls(rows, looks) == []
    rows.loc[(rows["filler"] == "biharmonic") & (rows["statistic"] == "cell area"), "median_error"] = 0.01
    assert better_controls(rows, looks) == ["cell area, biharmonic"]


def test_sizes_of_single_cells_take_the_place_of_means():
    rows, looks = measurements_of(), looks_for((ORIGINAL, *FILLERS))
    areas = {ORIGINAL: np.array([60.0, 70, 80]), "timemap": np.array([50.0, np.nan, 90])}
    assert "cell area (µm²)" in texts(draw_distributions(rows, looks, areas))
    assert "mean cell area of a trial (µm²)" in texts(draw_distributions(rows, looks, {}))


def test_a_histogram_shows_shares_of_the_trials():
    figure = draw_distributions(measurements_of(("mine",), 50), looks_for(("mine",)), {})
    steps = figure.axes[0].patches[0].get_data()
    assert steps.values.sum() == pytest.approx(100)


def test_the_mask_is_outlined_along_its_pixels():
    mask = np.zeros((6, 6), dtype=bool)
    mask[2:4, 1:6] = True
    (line,) = mask_outline(mask, 2.0)
    assert line.min(0) == pytest.approx([4, 2])
    assert line.max(0) == pytest.approx([8, 12])


def test_cells_without_outlines_and_a_mask_without_pixels_are_drawn():
    plain_cells = pd.DataFrame({"y_um": [3.0], "x_um": [4.0]})
    there = exemplar_of()
    bare = Exemplar(
        there.original, np.zeros_like(there.mask), there.mended, plain_cells, pd.DataFrame(), 0.0, "bare", 0.5
    )
    assert "10 µm" in texts(draw_exemplars([bare]))


def test_more_fillers_than_colours_differ_by_their_markers():
    names = [f"model {i}" for i in range(12)]
    looks = looks_for([*names, *FILLERS, ORIGINAL])
    assert len({(look.colour, look.marker, look.dash) for look in looks.values()}) == len(looks)
    assert draw_arrangement(arrangement_of(names), looks).axes
    assert draw_classes(classes_of(names), looks).axes


def test_names_that_are_alike_once_cut_both_stand_in_the_legend():
    names = ["x" * 60 + "a", "x" * 60 + "b"]
    (legend,) = draw_errors(summary_of(names), looks_for(names)).legends
    assert len(legend.get_texts()) == 3


def test_what_is_no_model_is_a_control_and_named_where_it_errs_less():
    looks = looks_for(["timemap", "mine", "floor"], models=["timemap"])
    assert looks["mine"].is_control
    assert not looks["timemap"].is_control
    assert not looks_for(["mine"])["mine"].is_control
    rows = pd.DataFrame(
        {
            "statistic": "cell density",
            "bin": "all",
            "filler": ["timemap", "mine"],
            "median_error": [0.3, 0.2],
            "kind": "intact",
            "reference": "original",
        }
    )
    assert "cell density, mine" in caption_errors(rows, looks, "cpn")
