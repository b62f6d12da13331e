"""Settings and inputs that stages are handed: what cannot be used is refused with a sentence, before any work."""

from __future__ import annotations

import importlib
import json
from dataclasses import fields

import pytest
from conftest import as_json, blobs, mend_settings, plan_settings

from cytomend.cli import main
from cytomend.errors import InputError
from cytomend.handed import MADE, SETTINGS, read_settings
from cytomend.settings import checked
from cytomend.sheet import settings_of
from cytomend.stages.plan_section import plan_section
from cytomend.training_file import read_training_file

PLAN = {**json.loads(as_json(plan_settings())), "fill": "graft"}
VALID = {
    ("plan-section", "settings"): PLAN,
    ("mend-shard", "settings"): json.loads(as_json(mend_settings())),
    ("blend-section", "settings"): {"chunk_px": 64, "shard_px": 128},
    ("mend-trials", "mend"): json.loads(as_json(mend_settings())),
    ("mend-trials", "settings"): {
        "trials": 2,
        "artefact_trials": 0,
        "windows": 2,
        "sampler_trials": 1,
        "samplers": ["graft:block_um=128"],
        "seed": 4_000_000_000,
    },
    ("evaluate-section", "settings"): {"segmenters": ["cpn"], "classifier": None, "fillers": []},
    ("report-section", "settings"): {"overview_px": 4096, "context_px": 48, "crop_px": 640, "pictures": 60},
    ("summarise-brain", "settings"): {},
    ("gather-patches", "settings"): {
        "section": "s1",
        "channels": 1,
        "pixel_size_um": 1.0,
        "value_range": [0, 255],
        "patch_px": 64,
        "patches_per_section": 2,
        "tissue_share": 0.5,
        "grow_px": 2,
        "licence": "",
        "attribution": "",
        "include_classes": [],
        "exclude_classes": [],
        "tissue_classes": ["Tissue"],
    },
}
OPTIONS = [(stage, option) for stage, options in SETTINGS.items() for option in options]


def record_of(stage, option):
    module = importlib.import_module(f"cytomend.stages.{stage.replace('-', '_')}")
    return getattr(module, SETTINGS[stage][option].record)


def read(stage, option, value):
    text = value if isinstance(value, str) else json.dumps(value)
    return read_settings(f"--{option}", text, record_of(stage, option), SETTINGS[stage][option])


def refusal(stage, option, value):
    with pytest.raises(InputError) as caught:
        read(stage, option, value)
    assert str(caught.value).startswith(f"--{option}: ")
    return str(caught.value)


# Settings -------------------------------------------------------------------------------------------------------------


def test_every_stage_with_settings_is_looked_at():
    assert set(OPTIONS) == set(VALID)


@pytest.mark.parametrize(("stage", "option"), OPTIONS)
def test_settings_that_a_workflow_hands_over_are_taken(stage, option):
    assert read(stage, option, VALID[stage, option]) == VALID[stage, option]


def test_what_the_sheet_makes_is_taken(tiny_model):
    row = {"section": "s1", "image": "a.tif", "annotation": "b.tif", "pixel_size_um": 1.0, "model": str(tiny_model())}
    config = checked({}, "config", "c")
    section = settings_of(checked(row, "sections", "row"), config, "row")
    made = {("plan-section", "settings"): section.plan, ("mend-shard", "settings"): section.mend}
    made |= {("mend-trials", "mend"): section.mend, ("mend-trials", "settings"): section.trials}
    made |= {("evaluate-section", "settings"): section.evaluate, ("report-section", "settings"): config["report"]}
    made |= {("blend-section", "settings"): config["pyramid"], ("summarise-brain", "settings"): config["brain"]}
    for (stage, option), settings in made.items():
        assert read(stage, option, settings) == settings


def test_what_a_training_file_makes_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).touch()
    rows = "".join(f"{name}\ta.tif\tb.tif\t1.0\n" for name in ("s1", "s2"))
    (tmp_path / "s.tsv").write_text(f"section\timage\tannotation\tpixel_size_um\n{rows}")
    (tmp_path / "t.yaml").write_text("sources: [{sheet: s.tsv, validation_share: 0}]\nvalidation: [{image: b.tif}]\n")
    section = read_training_file(tmp_path / "t.yaml").sections["s1"]
    assert read("gather-patches", "settings", section.gather) == section.gather


@pytest.mark.parametrize(("stage", "option"), OPTIONS)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{oops", "expected a JSON object, found '{oops' (Expecting property name"),
        ("", "expected a JSON object, found ''"),
        ("[]", "expected a JSON object, found '[]'; write {...} with its entries"),
        ("null", "expected a JSON object, found 'null'"),
        ("7", "expected a JSON object, found '7'"),
        ('{"a": 1, "a": 2}', "'a' stands in it twice"),
        ("[" * 100_000, "expected a JSON object, found '[[["),
    ],
)
def test_text_that_is_no_object_is_refused(stage, option, text, reason):
    assert reason in refusal(stage, option, text)


@pytest.mark.parametrize(("stage", "option"), OPTIONS)
def test_an_unknown_entry_is_named_with_the_known_ones(stage, option):
    sentence = refusal(stage, option, {**VALID[stage, option], "stepps": 5})
    assert "'stepps' was unexpected" in sentence
    assert all(field.name in sentence for field in fields(record_of(stage, option)))


@pytest.mark.parametrize(("stage", "option"), [one for one in OPTIONS if one[0] != "summarise-brain"])
def test_a_missing_entry_is_named(stage, option):
    for name in ("grow_px", "steps", "chunk_px", "trials", "segmenters", "pictures"):
        if name in VALID[stage, option]:
            left = {key: value for key, value in VALID[stage, option].items() if key != name}
            assert f"'{name}' is a required property" in refusal(stage, option, left)


@pytest.mark.parametrize(("stage", "option"), OPTIONS)
def test_an_entry_of_another_type_is_named(stage, option):
    for field in fields(record_of(stage, option)):
        if field.type == "dict[str, Any]":
            continue
        wrong = refusal(stage, option, {**VALID[stage, option], field.name: {"no": ["such thing"]}})
        assert field.name in wrong


@pytest.mark.parametrize(
    ("stage", "option", "name", "value", "reason"),
    [
        ("plan-section", "settings", "grow_px", -1, "grow_px: -1 is less than the minimum of 0 (Width in px"),
        ("plan-section", "settings", "grow_px", 2.0, "grow_px: 2.0 is not of type 'integer'"),
        ("plan-section", "settings", "section", "../s", "section: '../s' does not match"),
        ("plan-section", "settings", "value_range", [1], "value_range: [1] is too short"),
        ("plan-section", "settings", "decisions", [{"region": 1}], "decisions.0: 'box' is a required property"),
        ("plan-section", "settings", "include_classes", "Tear", "include_classes: 'Tear' is not of type 'array'"),
        ("plan-section", "settings", "window_px", 0, "window_px: 0 is less than the minimum of 1"),
        ("plan-section", "settings", "pixel_size_um", float("nan"), "pixel_size_um: nan is not of type 'number'"),
        ("mend-shard", "settings", "steps", 0, "steps: 0 is less than the minimum of 1 (Denoising steps"),
        ("mend-shard", "settings", "steps", None, "steps: None is not of type 'integer'"),
        ("mend-shard", "settings", "sampler", "magic", "sampler: 'magic' is not one of"),
        ("mend-shard", "settings", "precision", "int8", "precision: 'int8' is not one of"),
        ("mend-shard", "settings", "graft", {"block": 3}, "'block' was unexpected"),
        ("mend-shard", "settings", "seed", True, "seed: True is not of type 'integer'"),
        ("mend-trials", "mend", "eta", "0", "eta: '0' is not of type 'number'"),
        ("mend-trials", "settings", "windows", 0, "windows: 0 is less than the minimum"),
        ("blend-section", "settings", "chunk_px", 0, "chunk_px: 0 is"),
        ("report-section", "settings", "pictures", -1, "pictures: -1 is less than the minimum"),
        ("summarise-brain", "settings", "gpu_hour_cost", -1, "gpu_hour_cost: -1 is less than the minimum"),
        ("gather-patches", "settings", "tissue_share", 2, "tissue_share: 2 is greater than the maximum"),
    ],
)
def test_a_wrong_value_is_told_as_by_the_workflow(stage, option, name, value, reason):
    assert reason in refusal(stage, option, {**VALID[stage, option], name: value})


@pytest.mark.parametrize("text", ["{}", "{oops", '{"grow": 3}'])
def test_the_command_line_prints_a_sentence(make_section, tmp_path, capsys, text):
    section = make_section(blobs((96, 96), (10, 10, 20, 20)))
    words = ["--image", str(section.image), "--annotation", str(section.annotation), "--out", str(tmp_path / "plan")]
    assert main(["plan-section", *words, "--settings", text]) == 2
    assert "cytomend plan-section: --settings: " in capsys.readouterr().err
    assert main(["plan-section", *words, "--settings", as_json(plan_settings()), "--editions", "[1]"]) == 2
    assert "--editions: expected a JSON object, found '[1]'" in capsys.readouterr().err
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    "settings", ["{oops", "[]", '{"classes": [["Tear"]]}', '{"classes": "Tear"}', '{"grow": 1}', '{"min_score": "1"}']
)
def test_settings_of_screening_are_checked_too(make_section, tmp_path, capsys, settings):
    section = make_section(blobs((96, 96)))
    words = ["--image", str(section.image), "--out", str(tmp_path / "a.geojson"), "--settings", settings]
    assert main(["screen-section", *words]) == 2
    assert "cytomend screen-section: --settings: " in capsys.readouterr().err


# Inputs ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def stages(make_section, tiny_model, tmp_path):
    """Return a function from a stage, and what is wrong of its inputs, to its exit status."""
    section = make_section(blobs((96, 96), (10, 10, 20, 20)))
    plan_section(section.image, section.annotation, plan_settings(), tmp_path / "plan")
    store = tmp_path / "store.zarr"
    store.mkdir()
    (store / "zarr.json").write_text("{}")
    usual = {"image": section.image, "plan": tmp_path / "plan", "shards": store, "corrected": store, "trials": store}
    usual |= {"model": tiny_model(), "out": tmp_path / "out" / "result.zarr"}
    takes = {
        "mend-shard": ("image", "plan", "model"),
        "blend-section": ("image", "plan", "shards"),
        "mend-trials": ("image", "plan", "model"),
        "evaluate-section": ("image", "plan", "trials"),
        "verify-section": ("image", "plan", "corrected"),
        "report-section": ("image", "plan", "corrected"),
    }

    def run(stage, **wrong):
        given = {name: usual[name] for name in (*takes[stage], "out")} | wrong
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        words += ["--shard", "0"] if stage == "mend-shard" else []
        for option in SETTINGS.get(stage, ()):
            words += [f"--{option}", json.dumps(VALID[stage, option])]
        return main([stage, *words])

    run.takes = takes
    return run


@pytest.mark.parametrize(
    "stage", ["mend-shard", "blend-section", "mend-trials", "evaluate-section", "verify-section", "report-section"]
)
def test_an_input_that_is_missing_or_of_another_kind_is_named(stages, tmp_path, capsys, stage):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    (tmp_path / "file").touch()
    places = {"nowhere": "nothing at this path", "empty": "an empty folder", "other": "a folder with notes.txt"}
    for option in stages.takes[stage][1:]:
        for name, found in (places | ({} if MADE[option].holds is None else {"file": "a file"})).items():
            assert stages(stage, **{option: tmp_path / name}) == 2
            sentence = capsys.readouterr().err
            assert f"--{option} {tmp_path / name}: expected {MADE[option].what}" in sentence
            assert f"found {found}" in sentence
            assert f"cytomend {MADE[option].stage}" in sentence
    assert stages(stage, image=tmp_path / "nowhere") == 2
    assert "found nothing at this path" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_shards_that_no_chunks_fill_are_refused(stages, capsys, monkeypatch):
    monkeypatch.setitem(VALID, ("blend-section", "settings"), {"chunk_px": 128, "shard_px": 320})
    assert stages("blend-section") == 2
    assert "--settings: shard_px is 320, expected a multiple of chunk_px, 128" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["evaluation", "verdict"])
def test_optional_inputs_of_the_page_are_looked_at_too(stages, tmp_path, capsys, option):
    assert stages("report-section", **{option: tmp_path / "nowhere"}) == 2
    assert f"--{option} {tmp_path / 'nowhere'}: expected {MADE[option].what}" in capsys.readouterr().err


def test_a_summary_of_no_results_is_refused(tmp_path, capsys):
    (tmp_path / "s.tsv").write_text("section\timage\tannotation\tpixel_size_um\ns1\ta\tb\t1\n")
    outs = ["--out-table", str(tmp_path / "t.tsv"), "--out-page", str(tmp_path / "p.html")]
    assert main(["summarise-brain", "--sheet", str(tmp_path / "s.tsv"), "--results", str(tmp_path / "no"), *outs]) == 2
    assert "--results" in capsys.readouterr().err
