"""Masks that cover the tissue or the glass instead of the damage are refused by what they cover."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import Section, as_json, blobs, plan_settings, write_tiff
from scipy import ndimage

from cytomend.cli import main
from cytomend.errors import InputError
from cytomend.regions.annotation import open_mask
from cytomend.regions.covering import BLOCK_PX, BLOCKS_A_SIDE, Coverage, check_covering, coverage
from cytomend.settings import checked
from cytomend.sheet import settings_of
from cytomend.stages.plan_section import plan_section
from cytomend.storage.images import open_image

SHAPE = (512, 640)
TISSUE = blobs(SHAPE, (96, 128, 416, 512))  # 37 % of the scan
DAMAGE = blobs(SHAPE, (200, 200, 240, 260))


def stained(channels=1, dtype="uint8"):
    """Pixels of tissue on glass; its values fill a twelfth of 16 bit."""
    chance = np.random.default_rng(3)
    noise = ndimage.gaussian_filter(chance.standard_normal((*SHAPE, channels)), (2, 2, 0))
    top = 255 if dtype == "uint8" else 5000
    values = np.where(TISSUE[..., None], 0.5 + 0.15 * noise / noise.std(), 0.9)
    pixels = np.clip(values * top, 0, top).astype(dtype)
    return pixels[..., 0] if channels == 1 else pixels


@pytest.fixture
def section(tmp_path):
    """Return a function from the pixels of a mask to a section with it."""

    def section(mask, name="mask", channels=1, dtype="uint8"):
        image = write_tiff(tmp_path / "scan.tif", stained(channels, dtype))
        stored = write_tiff(tmp_path / f"{name}.tif", np.asarray(mask).astype(np.uint8))
        return Section(image, stored, stained(channels, dtype), np.asarray(mask) != 0)

    return section


def grandqc():
    """Codes for every pixel: 1 tissue, 2 fold, 7 background."""
    return np.where(TISSUE, np.where(DAMAGE, 2, 1), 7)


OF_TISSUE = {
    "tissue": TISSUE,
    "usable tissue, HistoQC": TISSUE & ~DAMAGE,
    "inverted": ~DAMAGE,
    "codes of GrandQC": grandqc(),
    "usable tissue with many holes": TISSUE & (np.indices(SHAPE).sum(0) % 8 > 1),
    "all": np.ones(SHAPE),
    "two thirds of the tissue": TISSUE & (np.arange(SHAPE[1]) < 384),
}
OF_DAMAGE = {
    "a hole": DAMAGE,
    "none": np.zeros(SHAPE),
    "a fifth of the tissue": TISSUE & (np.arange(SHAPE[1]) < 200),
    "an object on the glass": blobs(SHAPE, (10, 10, 60, 600)),
    "tears that reach to the rim": blobs(SHAPE, (0, 200, 200, 240), (300, 300, 512, 340)),
}


@pytest.mark.parametrize("name", OF_TISSUE)
def test_a_mask_of_the_tissue_is_refused_with_its_share(section, tmp_path, name):
    one = section(OF_TISSUE[name])
    with pytest.raises(InputError, match=r"expected a mask of the damage.* covers \d+% of the tissue.*max_covered 1"):
        plan_section(one.image, one.annotation, plan_settings(), tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize("name", OF_DAMAGE)
def test_a_mask_of_damage_is_planned(section, tmp_path, name):
    one = section(OF_DAMAGE[name])
    plan_section(one.image, one.annotation, plan_settings(), tmp_path / "plan")
    warnings = json.loads((tmp_path / "plan" / "section.json").read_text())["warnings"]
    assert not any("of the tissue" in warning for warning in warnings)


def test_a_mask_of_the_background_is_refused(section, tmp_path):
    one = section(~TISSUE)
    with pytest.raises(InputError, match=r"covers \d% of the tissue and 100% of the empty glass along the rim"):
        plan_section(one.image, one.annotation, plan_settings(), tmp_path / "plan")


def test_a_third_of_the_tissue_is_asked_about(section, tmp_path):
    one = section(TISSUE & (np.arange(SHAPE[1]) < 260))
    plan_section(one.image, one.annotation, plan_settings(), tmp_path / "plan")
    warnings = json.loads((tmp_path / "plan" / "section.json").read_text())["warnings"]
    assert any("% of the tissue; is it the mask of the damage?" in warning for warning in warnings)


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (3, "uint8"), (1, "uint16"), (3, "uint16")])
def test_tissue_is_known_in_all_kinds_of_pixels(section, channels, dtype):
    one = section(TISSUE, channels=channels, dtype=dtype)
    with open_image(one.image) as image:
        found = coverage(image, open_mask(one.annotation, SHAPE), (0, 255 if dtype == "uint8" else 5000))
    assert found.tissue == pytest.approx(1, abs=0.02)
    assert found.covered_rim_glass == 0


@pytest.mark.parametrize("mask", [TISSUE, ~TISSUE], ids=["tissue", "background"])
def test_those_who_mean_it_say_so(section, tmp_path, mask):
    one = section(mask)
    plan_section(one.image, one.annotation, plan_settings(max_covered=1.0), tmp_path / "plan")
    assert (tmp_path / "plan.manifest.json").exists()


def test_outlines_are_compared_with_tissue_too(section, tmp_path):
    one = section(DAMAGE)
    ring = [[120, 90], [520, 90], [520, 420], [120, 420], [120, 90]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "Feature", "geometry": geometry, "properties": {"class": "Specimen outline"}}))
    with pytest.raises(InputError, match=r"a\.geojson: expected a mask of the damage.*covers 100% of the tissue"):
        plan_section(one.image, path, plan_settings(), tmp_path / "plan")


def test_the_choice_comes_from_sheet_configuration_and_command_line(tiny_model, section, tmp_path, capsys):
    row = {"section": "s1", "image": "a.tif", "annotation": "b.tif", "pixel_size_um": 1.0, "model": str(tiny_model())}
    default, wide = checked({}, "config", "c"), checked({"mask": {"max_covered": 1}}, "config", "c")

    def planned(row, config):
        return settings_of(checked(row, "sections", "row"), config, "row").plan["max_covered"]

    assert [planned(row, default), planned(row, wide), planned({**row, "max_covered": 0.7}, wide)] == [0.5, 1.0, 0.7]
    one = section(TISSUE)
    words = [str(one.image), "--mask", str(one.annotation), "--out", str(tmp_path / "o.ome.zarr")]
    assert main(["mend", *words, "--model", str(tiny_model())]) == 2
    assert "--max-covered" in capsys.readouterr().err
    assert main(["mend", *words, "--model", str(tiny_model()), "--max-covered", "1.5"]) == 2
    assert "max_covered: 1.5 is greater than the maximum of 1" in capsys.readouterr().err
    plan = ["--image", str(one.image), "--annotation", str(one.annotation), "--out", str(tmp_path / "plan")]
    assert main(["plan-section", *plan, "--settings", as_json(plan_settings(max_covered=1.0))]) == 0


class Counted:
    """A scan of any size without memory, that counts what is read."""

    def __init__(self, shape):
        self.shape, self.read_px = shape, 0

    def read(self, box):
        self.read_px += box.shape[0] * box.shape[1]
        return np.zeros((1, *box.shape), np.uint8)


class Nothing:
    def __init__(self, shape):
        self.shape = shape

    def read(self, box):
        return np.zeros(box.shape, bool)


@pytest.mark.parametrize("shape", [(80_000, 100_000), (1, 1), (2, 3), (127, 129), (5, 9_000_000)])
def test_of_a_scan_of_any_size_few_pixels_are_read(shape):
    image = Counted(shape)
    assert coverage(image, Nothing(shape), (0, 255)).tissue == 0
    assert image.read_px <= (BLOCKS_A_SIDE * BLOCK_PX) ** 2


def test_glass_counts_only_where_the_rim_is_glass():
    assert check_covering("a", Coverage(0.1, rim_glass=0.4, covered_rim_glass=1.0), 0.5) == []
    with pytest.raises(InputError):
        check_covering("a", Coverage(0.1, rim_glass=0.6, covered_rim_glass=1.0), 0.5)
