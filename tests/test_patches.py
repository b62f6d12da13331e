"""What training sees, and that an interrupted training goes on as if nothing had happened."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from conftest import write_tiff
from hypothesis import given, settings
from hypothesis import strategies as st

from cytomend.cli import main
from cytomend.diffusion.checkpoint import load_model
from cytomend.diffusion.masks import random_mask
from cytomend.diffusion.patches import Patches, Tile, intact_square, restain, turn
from cytomend.diffusion.record import UNetSettings, checkpoint_hash
from cytomend.diffusion.training import Training, TrainingSettings
from cytomend.errors import InputError

TISSUE = np.tanh(np.random.default_rng(0).standard_normal((1, 96, 96))).astype(np.float32)
INTACT = np.ones((96, 96), bool)
UNET = UNetSettings(widths=(8, 16), attention=(1,), heads=2)
HOW = TrainingSettings(steps=6, batch=4, warmup_steps=2)
CPU = torch.device("cpu")


def patches(tiles=None, batch=16, seed=0, **shares):
    return Patches(tiles or [Tile(TISSUE, INTACT)], 32, batch, 256, seed, **shares)


def as_bytes(batch):
    return [t.numpy().tobytes() for t in (batch.x0, batch.time, batch.noise)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_every_mask_leaves_something_to_draw(seed):
    mask = random_mask(np.random.default_rng(seed), 32)
    assert mask.shape == (32, 32)
    assert mask.mean() >= 0.05


def test_masks_cover_little_and_much_in_many_shapes():
    rng = np.random.default_rng(1)
    shares = np.array([random_mask(rng, 32).mean() for _ in range(400)])
    assert 0.05 < (shares == 1).mean() < 0.25
    assert (shares < 0.2).mean() > 0.1
    assert ((shares > 0.5) & (shares < 1)).mean() > 0.1


def test_a_batch_depends_on_seed_and_step_alone():
    assert as_bytes(patches().draw(5)) == as_bytes(patches().draw(5))
    assert as_bytes(patches().draw(5)) != as_bytes(patches().draw(6))
    assert as_bytes(patches().draw(5)) != as_bytes(patches(seed=1).draw(5))


def test_a_batch_holds_images_in_range_times_of_the_schedule_and_known_pixels_at_time_zero():
    batch = patches(batch=64).draw(0)
    assert batch.x0.shape == batch.noise.shape == (64, 1, 32, 32)
    assert batch.time.shape == (64, 1, 32, 32)
    assert batch.x0.abs().max() <= 1
    assert batch.noise.std() == pytest.approx(1, abs=0.02)
    for time in batch.time:
        assert len(set(time.unique().tolist()) - {0}) == 1
    latest = batch.time.amax((1, 2, 3))
    assert latest.min() >= 1
    assert latest.max() <= 256
    assert sorted((latest - 1).div(4, rounding_mode="floor").tolist()) == list(range(64))  # every stage of the schedule


@pytest.mark.parametrize("share", [0.34, 0.7, 1.0])
def test_as_many_patches_as_said_are_noised_all_over(share):
    drawn = torch.cat([patches(batch=64, constant_share=share).draw(step).time for step in range(6)])
    whole = (drawn > 0).all(-1).all(-1).float().mean()
    assert share - 0.09 < whole < share + (1 - share) * 0.3 + 0.09  # some masks cover all too


def test_damaged_tissue_is_never_shown():
    intact = INTACT.copy()
    intact[40:44] = False
    spoilt = np.where(intact, 0.25, np.nan).astype(np.float32)[None]
    for step in range(8):
        assert patches([Tile(spoilt, intact)], resample_share=0.5).draw(step).x0.isfinite().all()


def test_the_only_intact_square_of_a_tile_is_found():
    intact = ~INTACT
    intact[11:43, 60:92] = True
    square = intact_square(np.random.default_rng(0), Tile(TISSUE, intact), 32)
    assert np.array_equal(square, TISSUE[:, 11:43, 60:92])


def test_a_tile_without_an_intact_square_is_told():
    with pytest.raises(ValueError, match="no intact square of 32 px"):
        intact_square(np.random.default_rng(0), Tile(TISSUE, ~INTACT), 32)


def test_tiles_are_drawn_by_their_weight():
    tiles = [Tile(np.full((1, 40, 40), v, np.float32), np.ones((40, 40), bool), w) for v, w in ((-0.9, 3), (0.9, 1))]
    means = torch.cat([patches(tiles, batch=64).draw(step).x0.mean((1, 2, 3)) for step in range(6)])
    assert (means < 0).float().mean() == pytest.approx(0.75, abs=0.1)


def test_turning_by_a_quarter_is_exact_and_by_little_stays_close():
    assert np.allclose(turn(TISSUE, np.pi / 2, 1.0, 96), np.rot90(TISSUE, 1, (1, 2)), atol=1e-4) or np.allclose(
        turn(TISSUE, np.pi / 2, 1.0, 96), np.rot90(TISSUE, -1, (1, 2)), atol=1e-4
    )
    assert np.allclose(turn(TISSUE, 0, 1.0, 32), TISSUE[:, 32:64, 32:64], atol=1e-4)


def test_another_stain_keeps_the_range_and_the_order_of_greys():
    greys = np.linspace(-0.7, 0.7, 100, dtype=np.float32).reshape(1, 10, 10)
    for seed in range(20):
        stained = restain(np.random.default_rng(seed), greys).reshape(-1)
        assert (np.diff(stained) > 0).all()
        assert abs(stained).max() <= 1


# Training, interrupted


def trained(steps, training=None):
    training = training or Training(UNET, HOW, CPU)
    losses = [training.step(patches(batch=4).draw(training.steps_done)) for _ in range(steps)]
    return training, losses


def test_a_resumed_training_equals_an_undisturbed_one_exactly(tmp_path):
    undisturbed, losses = trained(6)
    first, early = trained(3)
    first.save(tmp_path / "training.safetensors")
    torch.manual_seed(99)  # nothing may depend on what else was drawn
    second = Training(UNET, HOW, CPU)
    second.resume(tmp_path / "training.safetensors")
    assert second.steps_done == 3
    second, late = trained(3, second)
    assert early + late == losses
    for name, weight in undisturbed.network.named_parameters():
        assert torch.equal(weight, dict(second.network.named_parameters())[name]), name
        assert torch.equal(undisturbed.average.weights[name], second.average.weights[name]), name


def test_a_training_with_other_settings_is_not_continued(tmp_path):
    trained(1)[0].save(tmp_path / "training.safetensors")
    other = Training(UNET, TrainingSettings(steps=7, batch=4, warmup_steps=2), CPU)
    with pytest.raises(InputError, match=r"training\.safetensors: saved by a training with other settings"):
        other.resume(tmp_path / "training.safetensors")


def test_training_learns_something():
    flat = patches([Tile(np.full((1, 40, 40), 0.5, np.float32), np.ones((40, 40), bool))], batch=8)
    how = TrainingSettings(steps=40, batch=8, warmup_steps=5, learning_rate=3e-3)
    training = Training(UNET, how, CPU)
    losses = [training.step(flat.draw(step)) for step in range(40)]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


@pytest.fixture(scope="module")
def training_file(tmp_path_factory):
    """A function that writes a training of four steps on a small scan, with some settings changed."""
    folder = tmp_path_factory.mktemp("training")
    write_tiff(folder / "scan.tif", (np.random.default_rng(3).random((80, 90)) * 255).astype(np.uint8))
    settings = {
        "network": {"widths": [8, 16], "attention": [1], "heads": 2},
        "window_px": 32,
        "steps": 4,
        "batch": 2,
        "report_every": 2,
        "sample_every": 4,
        "sources": [{"image": str(folder / "scan.tif"), "licence": "CC0"}],
        "validation": [{"image": str(folder / "scan.tif"), "box": [0, 0, 60, 60]}],
    }

    def write(**changes):
        path = folder / f"train-{len(list(folder.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump({**settings, **changes}))
        return str(path)

    return write


@pytest.fixture(scope="module")
def undisturbed(training_file, tmp_path_factory):
    """The folder of a training that nobody interrupted."""
    folder = tmp_path_factory.mktemp("models") / "undisturbed"
    assert main(["train", training_file(), "--device", "cpu", "--out", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("killed_in", ["training.safetensors", "loss.tsv", "step 3"])
def test_an_interrupted_train_command_resumes_and_ends_with_the_same_weights(
    training_file, undisturbed, tmp_path, monkeypatch, killed_in
):
    def killed(*_, **__):
        raise KeyboardInterrupt

    step = Training.step

    def killed_at_three(training, batch):
        return killed() if training.steps_done == 3 else step(training, batch)

    words = ["train", training_file(), "--device", "cpu", "--out", str(tmp_path / "model")]
    with monkeypatch.context() as patch:
        if killed_in == "training.safetensors":
            patch.setattr(Training, "save", killed)
        elif killed_in == "loss.tsv":
            patch.setattr("pandas.DataFrame.to_csv", killed)
        else:
            patch.setattr(Training, "step", killed_at_three)
        assert main(words) == 130
    assert not (tmp_path / "model" / "model.safetensors").exists()
    assert main(words) == 0

    (one, record), (two, _) = (load_model(folder / "model.safetensors") for folder in (undisturbed, tmp_path / "model"))
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    tables = [(folder / "loss.tsv").read_text().splitlines() for folder in (undisturbed, tmp_path / "model")]
    assert [row.split("\t")[0] for row in tables[0]] == [row.split("\t")[0] for row in tables[1]] == ["step", "2", "4"]
    assert record.training["sources"][0]["image"] == "scan.tif"
    assert (undisturbed / "MODEL_CARD.md").is_file()


def test_a_finished_training_run_again_gives_the_same_file(training_file, undisturbed):
    before = checkpoint_hash(undisturbed / "model.safetensors")
    path = training_file()
    assert main(["train", path, "--device", "cpu", "--out", str(undisturbed)]) == 0
    assert checkpoint_hash(undisturbed / "model.safetensors") == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window_px": 48, "network": {"widths": [8] * 5}}, "window_px is 48, expected a multiple of 32"),
        ({"network": {"widths": [8, 16], "attention": [1], "heads": 3}}, "heads"),
        ({"step": 4}, "'step' was unexpected"),
        ({"learning_rate": float("nan")}, "learning_rate: nan"),
        ({"sources": [{"image": "nowhere.tif"}]}, "nowhere.tif"),
        ({"network": {"channels": 3, "widths": [8, 16]}}, "has 1 channels, expected 3"),
        ({"sources": []}, "sources: []"),
    ],
)
def test_a_training_file_that_cannot_be_used_is_refused(training_file, tmp_path, capsys, changes, words):
    assert main(["train", training_file(**changes), "--device", "cpu", "--out", str(tmp_path / "model")]) == 2
    assert words in capsys.readouterr().err
