"""The target `train`: patches of a sheet gathered, a model trained, and only what changed done again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from test_workflow import Lab, change_pixels, edit, tiny_checkpoint, touch_everything

from cytomend.diffusion.record import load_settings
from cytomend.storage.patches import PatchStore

__all__ = ["tiny_checkpoint"]  # a fixture

TRAINING = {
    "network": {"widths": [8, 16], "attention": [1], "heads": 2},
    "window_px": 32,
    "steps": 4,
    "batch": 4,
    "report_every": 2,
    "validation_patches": 4,
    "sources": [{"sheet": "config/sections.tsv", "patch_px": 32, "patches_per_section": 4}],
}
CONFIG = ("train", "--config", "train=config/train/small.yaml")
MODEL = Path("results") / "training" / "small"


class TrainingLab(Lab):
    """A lab that trains."""

    def write(self) -> None:
        super().write()
        (self.folder / "config" / "train").mkdir(exist_ok=True)
        (self.folder / "config" / "train" / "small.yaml").write_text(yaml.safe_dump(TRAINING))

    def would_train(self) -> set[str]:
        output = self.snakemake("--dry-run", *CONFIG)
        jobs = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", output, flags=re.MULTILINE)
        named = ((rule, re.search(r"wildcards: .*?section=([\w-]+)", text)) for rule, text in jobs)
        return {f"{rule} {section[1]}" if section else rule for rule, section in named} - {"train"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> TrainingLab:
    folder = tmp_path_factory.mktemp("lab") / "a lab"
    folder.mkdir()
    lab = TrainingLab(folder, tiny_checkpoint)
    assert lab.would_train() == {"gather_patches left", "gather_patches right", "train_model"}
    lab.snakemake(*CONFIG)
    return lab


@pytest.fixture
def lab(finished: TrainingLab, tmp_path: Path) -> Lab:
    twin = finished.copy(tmp_path / "another lab")
    twin.__class__ = TrainingLab
    return twin


def test_a_model_is_trained_from_the_sheet_and_nothing_is_left_to_do(finished: TrainingLab) -> None:
    folder = finished.folder / MODEL
    record = load_settings(folder / "model.safetensors").training
    sides = [set(record["sources"][0][side]["sections"]) for side in ("sources", "validation")]
    assert sorted(map(len, sides)) == [1, 1]
    assert sides[0] ^ sides[1] == {"left", "right"}
    for section in ("left", "right"):
        assert PatchStore(folder / "patches" / f"{section}.zarr").patches == 4
    assert (folder / "MODEL_CARD.md").exists()
    assert (folder / "samples.png").stat().st_size > 1000
    assert finished.would_train() == set()


def comment(lab: Lab) -> None:
    path = lab.folder / "config" / "train" / "small.yaml"
    path.write_text("# a note\n" + path.read_text())


def set_training(**changes: object) -> Callable[[Lab], None]:
    def change(lab: Lab) -> None:
        text = yaml.safe_dump({**TRAINING, **changes})
        (lab.folder / "config" / "train" / "small.yaml").write_text(text)

    return change


def set_source(**changes: object) -> Callable[[Lab], None]:
    return set_training(sources=[{**TRAINING["sources"][0], **changes}])  # type: ignore[index]


def seed_row(lab: Lab) -> None:
    lab.rows[0]["seed"] = "7"
    lab.write()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(touch_everything, set(), id="touching scans, settings and sources redoes nothing"),
        pytest.param(comment, set(), id="a comment in the training file redoes nothing"),
        pytest.param(seed_row, set(), id="what a row says of mending redoes nothing"),
        pytest.param(change_pixels, {"gather_patches left", "train_model"}, id="new pixels redo their section"),
        pytest.param(set_training(steps=6), {"train_model"}, id="more steps gather nothing anew"),
        pytest.param(set_source(validation_share=0.2), {"train_model"}, id="another split gathers nothing anew"),
        pytest.param(
            set_source(tissue_share=0.5),
            {"gather_patches left", "gather_patches right", "train_model"},
            id="another rule for tissue gathers anew",
        ),
        pytest.param(edit("diffusion/ema.py", "min(self.decay", "min(1 * self.decay"), {"train_model"}, id="new code"),
    ],
)
def test_only_what_changed_is_trained_again(
    lab: TrainingLab, change: Callable[[Lab], None], expected: set[str]
) -> None:
    change(lab)
    assert lab.would_train() == expected


def test_without_a_training_file_the_target_says_what_to_give(lab: Lab) -> None:
    process = lab.start("train", "--dry-run")
    output = process.communicate()[0]
    assert process.returncode != 0
    assert "snakemake train --config train=config/train/base.yaml" in output


def test_a_mistake_in_the_training_file_is_named_before_any_job(lab: Lab) -> None:
    set_source(patch_px=16)(lab)
    process = lab.start("--dry-run", *CONFIG)
    output = process.communicate()[0]
    assert process.returncode != 0
    assert "sources.0.patch_px is 16, expected at least window_px, 32" in output
    assert "Traceback" not in output
