"""The study of samplers: trials are filled alike however they are chunked, and only once."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

from cytomend.diffusion.samplers import SAMPLERS, Sampler
from cytomend.errors import InputError
from cytomend.evaluation.copying import Correlator, poses

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import nearest_patch
import study_report
import study_samplers


@pytest.mark.parametrize("name", study_samplers.STUDIED)
def test_every_studied_sampler_is_named_by_its_label(name):
    sampler = study_samplers.parse_sampler(name)
    assert study_samplers.parse_sampler(study_samplers.label_of(sampler)) == sampler


def test_labels_name_what_differs_from_the_default():
    assert study_samplers.label_of(SAMPLERS["repaint"]) == "repaint"
    assert study_samplers.label_of(Sampler("timemap", 25, eta=0.5, bend=1.5)) == "timemap:steps=25,eta=0.5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ddim", "expected a name out of repaint"),
        ("timemap:stepz=3", "expected settings out of steps, .* found stepz"),
        ("timemap:steps=x", "expected numbers"),
    ],
)
def test_a_misspelt_sampler_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        study_samplers.parse_sampler(text)


@pytest.fixture
def options(tiny_model, tmp_path):
    parser = study_samplers.arguments()

    def parsed(*more: str) -> argparse.Namespace:
        given = ["--phantoms", "3", "--model", str(tiny_model()), "--out", str(tmp_path / "study"), "--threads", "1"]
        samplers = ["--samplers", "timemap:steps=2", "repaint:steps=2,jump=1,resample=2", "langevin:steps=2"]
        return parser.parse_args([*given, *samplers, *more])

    return parsed


@pytest.mark.parametrize("windows", ["1", "2"])
def test_a_study_fills_masks_alone_reports_and_goes_on(options, monkeypatch, windows):
    args = options("--windows", windows, "--reference", "repaint:steps=2,jump=1,resample=2")
    study_samplers.study(args)
    read = study_report.read_study(args.out)
    assert [filled.name for filled in read.samplers] == ["timemap", "repaint", "langevin"]
    for filled in read.samplers:
        assert (filled.fills == read.original.fills)[~read.masks].all()
        assert (filled.fills != read.original.fills)[read.masks].mean() > 0.5
    text = study_report.report(args.out, args.reference)
    assert "| floor |" in text
    assert "| pasted tissue |" in text
    np.testing.assert_array_equal(
        read.floor.fills == read.pasted.fills, read.masks | (read.floor.fills == read.original.fills)
    )
    assert (args.out / "sheet.png").stat().st_size > 1000
    monkeypatch.setattr(study_samplers.Filler, "__call__", lambda *_: pytest.fail("filled again"))
    study_samplers.study(args)


def test_fills_do_not_depend_on_the_chunks(options, tmp_path):
    one, other = options("--chunk", "2"), options("--chunk", "40")
    other.out = tmp_path / "other"
    for args in (one, other):
        study_samplers.study(args)
    for a, b in zip(*(study_report.read_study(args.out).samplers for args in (one, other)), strict=True):
        assert np.array_equal(a.fills, b.fills)


def test_another_study_does_not_go_into_the_same_folder(options):
    study_samplers.study(options())
    with pytest.raises(InputError, match=r"holds another study \(seed was 0, is 5\)"):
        study_samplers.study(options("--seed", "5"))


def test_verdicts_are_those_of_the_interval():
    assert study_report.verdict(-2, -1) == "better"
    assert study_report.verdict(-2, 1) == "no worse within CI"
    assert study_report.verdict(1, 2) == "worse"


@pytest.mark.parametrize("pose", range(8))
def test_a_copy_is_found_in_every_pose_and_shown_in_the_querys_own(pose):
    image = np.random.default_rng(0).normal(100, 20, (60, 90)).astype(np.float32)
    tissue = Correlator(image, 16)
    copied = list(poses(image[20:36, 30:46]))[pose]
    match = nearest_patch.nearest(tissue, copied * 0.7 + 20)
    assert match.correlation == pytest.approx(1, abs=1e-4)
    assert np.array_equal(match.patch, copied)
    assert nearest_patch.nearest(tissue, image[20:36, 30:46], own=(20, 30)).correlation < 0.5
