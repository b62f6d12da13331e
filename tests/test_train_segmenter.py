"""Training a segmenter: it learns, goes on after a kill with the same curve, and refuses what it should."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from cytomend.cli import main
from cytomend.errors import InputError
from cytomend.segmentation.pictures import Labelled, Phantoms, dark_on_light, draw_view, label_image
from cytomend.segmentation.record import load_record
from cytomend.segmentation.training import proposal_targets
from cytomend.stages import train_segmenter as stage
from cytomend.stages.train_segmenter import train_segmenter

TINY = {
    "network": {"widths": [4, 8, 12], "order": 3},
    "view_px": 48,
    "batch": 2,
    "steps": 24,
    "warmup_steps": 2,
    "report_every": 8,
    "learning_rate": 0.01,
    "seed": 3,
    "phantoms": {"count": 2, "size_px": 64, "seed": 600000},
    "validation": {"count": 1, "size_px": 64, "seed": 650000},
}


@pytest.fixture
def config(tmp_path):
    def write(**changes):
        path = tmp_path / "segmenter.yaml"
        path.write_text(yaml.safe_dump({**TINY, **changes}))
        return path

    return write


def curve(out):
    return pd.read_csv(out / "loss.tsv", sep="\t").drop(columns="seconds")


def test_training_learns_and_leaves_a_model_with_its_card(config, tmp_path):
    out = tmp_path / "out"
    assert main(["train-segmenter", str(config()), "--out", str(out), "--device", "cpu"]) == 0
    losses = curve(out)
    assert losses["step"].tolist() == [8, 16, 24]
    assert losses["loss"].iloc[-1] < 0.85 * losses["loss"].iloc[0]
    record = load_record(out / "model.safetensors")
    assert (record.network.widths, record.network.order) == ((4, 8, 12), 3)
    assert record.training["data"] == [{"phantoms": {**TINY["phantoms"], "weight": 1}}]
    assert "phantom tissue: 2 pieces of 64 px, seeds from 600000" in (out / "MODEL_CARD.md").read_text()


def same_model(one, other):
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_killed_training_goes_on_with_the_same_curve(config, tmp_path, monkeypatch):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train_segmenter(config(), straight)
    step = stage.Training.step

    def killed(self, batch):
        if self.steps_done == 13:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(stage.Training, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(config(), broken)
    assert curve(broken)["step"].tolist() == [8]  # the state of a report is all that is kept
    monkeypatch.setattr(stage.Training, "step", step)
    train_segmenter(config(), broken)
    pd.testing.assert_frame_equal(curve(broken), curve(straight), check_exact=True)
    assert same_model(broken, straight)
    assert not list(broken.glob(".*"))


@pytest.mark.parametrize("saves", [1, 2])
def test_a_training_killed_between_model_and_state_makes_the_same_model(config, tmp_path, monkeypatch, saves):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train_segmenter(config(), straight)
    save, left = stage.Training.save, iter(range(saves))

    def killed(self, path, facts):
        if next(left, None) is None:
            raise KeyboardInterrupt
        save(self, path, facts)

    monkeypatch.setattr(stage.Training, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(config(), broken)
    assert (broken / "model.safetensors").exists()
    monkeypatch.setattr(stage.Training, "save", save)
    train_segmenter(config(), broken)
    pd.testing.assert_frame_equal(curve(broken), curve(straight), check_exact=True)
    assert same_model(broken, straight)


def test_another_training_is_not_gone_on_with_and_a_model_not_overwritten(config, tmp_path):
    out = tmp_path / "out"
    train_segmenter(config(steps=8), out)
    with pytest.raises(InputError, match=r"a training with other settings \(learning_rate, steps\)"):
        train_segmenter(config(steps=9, learning_rate=0.1), out)
    (out / "training.safetensors").unlink()
    with pytest.raises(InputError, match=r"found a finished model, which would be overwritten"):
        train_segmenter(config(steps=8), out)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"validation": {"count": 5, "seed": 599996}},
            r"validation has seeds 599996 to 600000, expected none of those",
        ),
        ({"phantoms": {"count": 2, "seed": 899999}}, r"expected none of 1 and 2 \(demo\) and none from 900000 on"),
        ({"phantoms": {"count": 2, "seed": 0}}, r"expected none of 1 and 2 \(demo\)"),
        ({"step": 5}, r"'step' was unexpected"),
        ({"view_px": 40}, r"view_px: 40 is not a multiple of 16"),
    ],
)
def test_a_training_file_is_refused_with_the_reason(config, tmp_path, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        train_segmenter(config(**changes), tmp_path / "out")


# pictures


@pytest.fixture
def labelled(tmp_path):
    folder = tmp_path / "nuclei"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(4):
        labels = np.zeros((80, 100), np.uint16)
        labels[20:44, 30:54] = 7
        image = np.where(labels[..., None] > 0, 220, 30).astype(np.uint8) * np.ones(3, np.uint8)  # light on dark
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{i}.png")
    rows = "".join(f"{i},x,1,24\n" for i in range(4))
    (folder / "index.csv").write_text("id,appearance,n_nuclei,median_equivalent_diameter_px\n" + rows)
    return folder


def test_labelled_images_come_dark_on_light_at_the_size_of_cells_and_a_third_is_held_out(labelled):
    learned, held_out = (Labelled(labelled, 12.0, held_out=side) for side in (False, True))
    assert ([row["id"] for row in learned.rows], [row["id"] for row in held_out.rows]) == (["1", "2"], ["0", "3"])
    picture = learned[0]
    assert picture.values.shape == (40, 50)
    (contour,) = picture.contours
    assert contour.min(axis=0).tolist() == [10, 15]
    assert contour.max(axis=0).tolist() == [22, 27]
    inside = label_image(picture.contours, (40, 50)) > 0
    assert picture.values[inside].mean() < -0.5 < 0.3 < picture.values[~inside].mean()
    assert dark_on_light(picture.values, inside)[inside].mean() < 0


def test_labelled_images_are_learned_from_where_present(config, tmp_path, labelled, caplog):
    entry = {"folder": str(labelled), "cell_px": 12, "weight": 1, "licence": "CC0-1.0", "attribution": "us"}
    train_segmenter(config(steps=8, labelled=[entry, {**entry, "folder": "none"}]), tmp_path / "out")
    assert "none: there are no labelled images here" in caplog.text
    told = load_record(tmp_path / "out" / "model.safetensors").training["data"]
    assert told[1] == {"labelled": {**entry, "folder": "nuclei"}, "images": 2}
    assert "2 labelled images of `nuclei`" in (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert str(tmp_path) not in json.dumps(told)


def test_a_view_shows_cells_where_its_contours_are_however_it_is_turned():
    picture = Phantoms(1, 128, 610_000)[0]
    darker = []
    for seed in range(12):
        view = draw_view(picture, 64, np.random.default_rng(seed))
        inside = label_image(view.contours, (64, 64)) > 0
        if inside.any():
            darker.append(view.values[view.seen & ~inside].mean() - view.values[view.seen & inside].mean())
    assert len(darker) > 6
    assert min(darker) > 0.15


def test_a_view_larger_than_its_picture_says_what_it_does_not_see(labelled):
    view = draw_view(Labelled(labelled, 12.0, held_out=False)[0], 64, np.random.default_rng(1))
    assert 0 < view.seen.mean() < 0.9


def test_each_of_two_touching_cells_has_one_middle_and_its_own_contour():
    labels = np.zeros((32, 32), np.int64)
    labels[8:20, 4:16], labels[8:20, 16:28] = 1, 2
    score, cell = proposal_targets(labels)
    assert set(np.unique(cell)) == {0, 1, 2}
    assert (cell[:, :8] != 2).all()
    assert score.max() == 1
    assert score[7, 7] < 0.5 < score[7, 5]  # low where they touch
    assert (score[:3] == 0).all()


def test_a_batch_is_the_same_whenever_it_is_drawn(config):
    course = stage.Course(config(), {**stage.read_yaml(config(), "segmenter")}, config().parent / "o", "cpu")
    for one, other in zip(course.training.draw(5), course.training.draw(5), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(course.training.draw(5).values, course.training.draw(6).values)
