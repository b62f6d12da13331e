"""Training: the same whatever interrupts or shares it, and the best weights are the ones that are kept."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import random_network, write_tiff
from safetensors import SafetensorError

from cytomend.cli import main
from cytomend.diffusion import checkpoint
from cytomend.diffusion.checkpoint import load_model, save_model
from cytomend.diffusion.patches import Patches, Tile
from cytomend.diffusion.processes import Processes
from cytomend.diffusion.record import ModelSettings, UNetSettings, checkpoint_hash, load_settings
from cytomend.diffusion.training import Training, TrainingSettings
from cytomend.errors import InputError
from cytomend.regions.value_range import value_range
from cytomend.report.model_card import code, plain
from cytomend.stages import train as stage
from cytomend.storage.images import open_image
from cytomend.training_data import read_data
from cytomend.training_file import read_training_file

TISSUE = np.tanh(np.random.default_rng(0).standard_normal((1, 96, 96))).astype(np.float32)
UNET = UNetSettings(widths=(8, 16), attention=(1,), heads=2)
HOW = TrainingSettings(steps=6, batch=4, warmup_steps=2)
ALONE = Processes(torch.device("cpu"))


def patches(image=TISSUE, batch=4):
    return Patches([Tile(image, np.ones(image.shape[1:], bool))], 32, batch, 256, seed=0)


def parts(drawn, step, count):
    return [drawn.draw(step, range(part, drawn.batch, count)) for part in range(count)]


def trained(steps, training=None, accumulate=1, how=HOW):
    training = training or Training(UNET, how, ALONE)
    losses = [training.step(*parts(patches(), training.steps_done, accumulate)).item() for _ in range(steps)]
    return training, losses


def assert_same(one, two, **tolerance):
    for (name, a), (_, b) in zip(sorted(one.items()), sorted(two.items()), strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0, "atol": 0}), msg=lambda m, n=name: f"{n}: {m}")


def weights(training):
    return dict(training.network.named_parameters())


# The network in training


def test_a_resumed_training_equals_an_undisturbed_one_exactly(tmp_path):
    undisturbed, losses = trained(6)
    first, early = trained(3)
    first.save(tmp_path / "training.safetensors", {"row": 0.1})
    torch.manual_seed(99)  # nothing may depend on what else was drawn
    second = Training(UNET, HOW, ALONE)
    assert second.resume(tmp_path / "training.safetensors") == {"row": 0.1}
    assert second.steps_done == 3
    second, late = trained(3, second)
    assert early + late == losses
    for p, state in second.optimizer.state.items():  # the fused optimiser of GPUs demands it
        assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == p.stride()
    assert_same(weights(undisturbed), weights(second))
    assert_same(undisturbed.average.weights, second.average.weights)


def test_kept_weights_are_those_of_then_and_outlive_an_interruption(tmp_path):
    training, _ = trained(2)
    training.keep()
    then = {name: p.clone() for name, p in training.average.weights.items()}
    trained(2, training)
    training.save(tmp_path / "training.safetensors")
    resumed = Training(UNET, HOW, ALONE)
    resumed.resume(tmp_path / "training.safetensors")
    assert_same(resumed.kept, then)
    assert any(not torch.equal(then[name], p) for name, p in resumed.average.weights.items())


def test_a_training_with_other_settings_is_not_continued_and_the_sentence_names_what_differs(tmp_path):
    trained(1)[0].save(tmp_path / "training.safetensors")
    other = Training(UNET, TrainingSettings(steps=7, batch=4, warmup_steps=2), ALONE)
    with pytest.raises(InputError, match=r"training\.safetensors: saved .* other settings: steps is 7, was 6;"):
        other.resume(tmp_path / "training.safetensors")


def test_training_learns_something():
    flat = patches(np.full((1, 40, 40), 0.5, np.float32), batch=8)
    how = TrainingSettings(steps=40, batch=8, warmup_steps=5, learning_rate=3e-3)
    training = Training(UNET, how, ALONE)
    losses = [training.step(flat.draw(step)).item() for step in range(40)]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_batch_worked_off_in_parts_gives_the_same_up_to_rounding(accumulate):
    whole, losses = trained(4)
    divided, others = trained(4, accumulate=accumulate)
    assert others == pytest.approx(losses, rel=1e-4)
    assert_same(whole.average.weights, divided.average.weights, rtol=1e-3, atol=1e-4)


def test_bfloat16_learns_nearly_the_same_with_float32_weights():
    _, losses = trained(4)
    rough, others = trained(4, how=TrainingSettings(steps=6, batch=4, warmup_steps=2, precision="bfloat16"))
    assert others == pytest.approx(losses, rel=0.05)
    assert others != losses
    assert {p.dtype for p in weights(rough).values()} == {torch.float32}


def test_the_validation_loss_is_that_of_the_average_whatever_the_parts():
    training, _ = trained(3)
    whole = training.validation_loss([patches().draw(0)])
    assert training.validation_loss(parts(patches(), 0, 4)) == pytest.approx(whole, rel=1e-5)
    trained(1, training)
    assert training.validation_loss([patches().draw(0)]) != whole


def test_the_diffusion_layer_needs_torch_numpy_and_safetensors_alone():
    others = ["pandas", "zarr", "scipy", "yaml", "jsonschema", "jinja2", "snakemake", "tifffile", "matplotlib"]
    modules = "cytomend.diffusion.training, cytomend.diffusion.feed"
    program = f"import sys; sys.modules.update(dict.fromkeys({others})); import {modules}"
    subprocess.run([sys.executable, "-c", program], check=True)


# The command


@pytest.fixture(scope="module")
def training_file(tmp_path_factory):
    """A function that writes a training of six steps on a small scan, with some settings changed."""
    folder = tmp_path_factory.mktemp("training")
    write_tiff(folder / "scan.tif", (np.random.default_rng(3).random((140, 90)) * 255).astype(np.uint8))
    settings = {
        "network": {"widths": [8, 16], "attention": [1], "heads": 2},
        "window_px": 32,
        "steps": 6,
        "batch": 4,
        "report_every": 2,
        "sample_every": 6,
        "validation_patches": 5,
        "sources": [{"image": str(folder / "scan.tif"), "box": [0, 0, 80, 90], "licence": "CC0"}],
        "validation": [{"image": str(folder / "scan.tif"), "box": [80, 0, 140, 90]}],
    }

    def write(**changes):
        path = folder / f"train-{len(list(folder.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump({**settings, **changes}))
        return str(path)

    write.scan = folder / "scan.tif"
    return write


def train(path, out, *options):
    return main(["train", path, "--device", "cpu", "--out", str(out), *options])


@pytest.fixture(autouse=True)
def quick_samples(monkeypatch):
    """Samples take longer than all the training here; the folder `undisturbed` has real ones."""
    monkeypatch.setattr(stage, "draw_samples", lambda _denoiser, _held_out, path: path.write_bytes(b"samples"))


@pytest.fixture(scope="module")
def undisturbed(training_file, tmp_path_factory):
    """The folder of a training that nobody interrupted."""
    folder = tmp_path_factory.mktemp("models") / "undisturbed"
    assert train(training_file(), folder) == 0
    return folder


def curve(folder):
    return pd.read_csv(folder / "loss.tsv", sep="\t").drop(columns="seconds")


def assert_same_models(one, two, **tolerance):
    assert_same(
        *(dict(load_model(folder / "model.safetensors")[0].named_parameters()) for folder in (one, two)), **tolerance
    )
    pd.testing.assert_frame_equal(curve(one), curve(two), check_exact=not tolerance, rtol=1e-3)


def test_a_training_leaves_all_it_promises(undisturbed):
    made = {path.name for path in undisturbed.iterdir()}
    assert made == {"model.safetensors", "training.safetensors", "loss.tsv", "loss.png", "samples.png", "MODEL_CARD.md"}
    assert curve(undisturbed)["step"].tolist() == [2, 4, 6]
    record = load_settings(undisturbed / "model.safetensors").training
    assert record["sources"][0]["image"] == "scan.tif"
    assert len(record["sources"][0]["blake2b"]) == 64
    assert "/" not in json.dumps(record)  # no paths in what is handed on


@pytest.mark.parametrize("killed_in", ["state", "loss.tsv", "save_model", "write_card", "draw_samples", "step 3"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_training_interrupted_at_any_write_resumes_and_ends_the_same(
    training_file, undisturbed, tmp_path, monkeypatch, killed_in, times
):
    """``times``: it is interrupted when it writes for the first or the second time."""
    left = times

    def killing(owner, name):
        call = getattr(owner, name)

        def killed(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return call(*args, **kwargs)

        monkeypatch.setattr(owner, name, killed)

    with monkeypatch.context() as monkeypatch:
        if killed_in == "state":
            killing(Training, "save")
        elif killed_in == "loss.tsv":
            killing(pd.DataFrame, "to_csv")
        elif killed_in == "step 3":
            left = 2 + times
            killing(Training, "step")
        else:
            killing(stage, killed_in)
        expected = 0 if killed_in == "draw_samples" and times == 2 else 130  # samples are drawn once
        assert train(training_file(), tmp_path / "model") == expected
    assert train(training_file(), tmp_path / "model") == 0
    assert_same_models(undisturbed, tmp_path / "model")
    assert (tmp_path / "model" / "samples.png").exists()


def test_a_finished_training_run_again_gives_the_same_files_even_where_they_are_gone(training_file, undisturbed):
    before = {path.name: checkpoint_hash(path) for path in undisturbed.iterdir() if path.suffix != ".png"}
    for name in ("model.safetensors", "MODEL_CARD.md", "loss.tsv", "samples.png"):  # as Snakemake does before a job
        (undisturbed / name).unlink()
    assert train(training_file(), undisturbed) == 0
    assert {path.name: checkpoint_hash(path) for path in undisturbed.iterdir() if path.suffix != ".png"} == before
    assert (undisturbed / "samples.png").exists()


def test_the_weights_with_the_lowest_validation_loss_are_kept(training_file, tmp_path, monkeypatch):
    told = iter([0.5, 0.4, 0.6])
    monkeypatch.setattr(Training, "validation_loss", lambda *_: next(told))
    assert train(training_file(), tmp_path / "three") == 0
    record = load_settings(tmp_path / "three" / "model.safetensors").training
    assert record["loss"]["step"] == 4
    assert record["loss"]["validation_loss"] == 0.4
    card = (tmp_path / "three" / "MODEL_CARD.md").read_text()
    assert "after step 4 of 6" in card
    # They are those of step 4 indeed: a training that is better and better until it is stopped there keeps the same.
    told = iter([0.5, 0.4])
    with monkeypatch.context() as patch:
        killed = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
        step = Training.step
        patch.setattr(Training, "step", lambda t, *p: killed() if t.steps_done == 4 else step(t, *p))
        assert train(training_file(), tmp_path / "two") == 130
    assert_same(*(dict(load_model(tmp_path / n / "model.safetensors")[0].named_parameters()) for n in ("two", "three")))


def test_a_loss_that_is_no_number_stops_the_training_and_spoils_nothing(training_file, tmp_path, monkeypatch, capsys):
    losses = iter([0.5, float("nan")])
    monkeypatch.setattr(Training, "validation_loss", lambda *_: next(losses))
    assert train(training_file(), tmp_path / "model") == 2
    told = capsys.readouterr().err
    assert "no longer finite at step 4 of 6" in told
    assert "kept so far are in" in told
    assert load_settings(tmp_path / "model" / "model.safetensors").training["loss"]["step"] == 2


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    network = random_network()
    path = tmp_path_factory.mktemp("models") / "other" / "model.safetensors"
    save_model(path, dict(network.named_parameters()), ModelSettings(network.settings, 256, 32, 1.0))
    return path


def test_a_training_starts_from_another_model_and_says_so(training_file, tmp_path, other_model):
    path = training_file(start_from=str(other_model), learning_rate=1e-12, steps=1)
    assert train(path, tmp_path / "model") == 0
    network, record = load_model(tmp_path / "model" / "model.safetensors")
    assert_same(dict(network.network.named_parameters()), dict(random_network().named_parameters()), rtol=0, atol=1e-6)
    assert record.training["start_from"] == {"model": "other", "sha256": checkpoint_hash(other_model)}
    assert checkpoint_hash(other_model)[:16] in (tmp_path / "model" / "MODEL_CARD.md").read_text()


def test_what_a_training_starts_from_is_part_of_it(training_file, undisturbed, other_model, capsys):
    assert train(training_file(start_from=str(other_model)), undisturbed) == 2
    assert "start_from is" in capsys.readouterr().err


def test_a_changed_training_is_refused_or_sets_the_earlier_one_aside(training_file, tmp_path, capsys):
    assert train(training_file(), tmp_path / "model") == 0
    changed = training_file(seed=5, steps=2)
    assert train(changed, tmp_path / "model") == 2
    assert "steps is 2, was 6" in capsys.readouterr().err
    earlier = checkpoint_hash(tmp_path / "model" / "training.safetensors")
    assert train(changed, tmp_path / "model", "--set-aside") == 0
    assert curve(tmp_path / "model")["step"].tolist() == [2]
    aside = list((tmp_path / "model").glob("training.*.safetensors"))
    assert [checkpoint_hash(path) for path in aside] == [earlier]
    stamp = aside[0].name.split(".")[1]
    for name in (f"model.{stamp}.safetensors", f"MODEL_CARD.{stamp}.md", f"loss.{stamp}.tsv"):
        assert (tmp_path / "model" / name).exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": {"widths": [8, 16]}}, "network.attention names resolution 2, expected 0 to 1"),
        ({"seed": 2**63}, "seed: 9223372036854775808 is greater than the maximum"),
        (
            {"sources": [{"phantom": {"count": 1, "size_px": 48, "seed": 1}}], "window_px": 64},
            "sources.0.phantom.size_px is 48, expected at least window_px, 64",
        ),
        ({"start_from": "a{b}"}, "start_from is a{b}: braces mean wildcards"),
        ({"sources": [{"image": "a{b}.tif"}]}, "sources.0.image is a{b}.tif: braces mean wildcards"),
        ({"sources": [{"image": "a.tif", "annotation": "{}"}]}, "sources.0.annotation is {}: braces mean wildcards"),
        (
            {"sources": [{"image": "a.tif", "value_range": [9, 9]}]},
            "sources.0.value_range is [9, 9], expected [low, hi",
        ),
        ({"sources": [{"image": "a.tif", "box": [9, 0, 9, 4]}]}, "sources.0.box is [9, 0, 9, 4], which is empty"),
        ({"window_px": 48, "network": {"widths": [8] * 5}}, "window_px is 48, expected a multiple of 32"),
        ({"network": {"widths": [8, 16], "attention": [1], "heads": 3}}, "heads"),
        ({"step": 4}, "'step' was unexpected"),
        ({"learning_rate": float("nan")}, "learning_rate: nan"),
        ({"sources": [{"image": "nowhere.tif"}]}, "nowhere.tif"),
        ({"network": {"channels": 3, "widths": [8, 16], "attention": [1]}}, "has 1 channels, expected 3"),
        ({"sources": []}, "sources: []"),
        ({"validation": []}, "validation is empty; expected tissue that is not learned from"),
        ({"accumulate": 3}, "batch is 4, expected a multiple of 3: 1 process(es), each in 3 part(s)"),
        ({"precision": "half"}, "precision: 'half' is not one of"),
        ({"start_from": "no-such-model"}, "model 'no-such-model': expected a bundled name"),
        ({"start_from": "tiny"}, "network.widths is (8, 16), expected (32, 64, 128)"),
        (
            {
                "sources": [{"phantom": {"count": 9, "size_px": 64, "seed": 1}}],
                "validation": [{"phantom": {"count": 2, "size_px": 64, "seed": 9}}],
            },
            "phantom tissue of the seeds 1 to 9 is learned from, and phantom tissue of the seeds 9 to 10 is held out",
        ),
    ],
)
def test_a_training_file_that_cannot_be_used_is_refused(training_file, tmp_path, capsys, changes, words):
    assert train(training_file(**changes), tmp_path / "model") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.parametrize(("rows", "status"), [((0, 80), 2), ((79, 140), 2), ((80, 140), 0)])
def test_the_same_tissue_is_not_learned_and_held_out_even_by_another_name(
    training_file, tmp_path, capsys, rows, status
):
    (tmp_path / "copy.tif").write_bytes(training_file.scan.read_bytes())
    held_out = {"image": str(tmp_path / "copy.tif"), "box": [rows[0], 0, rows[1], 90]}
    assert train(training_file(validation=[held_out], steps=1), tmp_path / "model") == status
    assert ("both show the same tissue" in capsys.readouterr().err) == (status == 2)


def direct(training_file, tmp_path, pixels, **source):
    """Return what is read of a scan of these pixels."""
    scan = write_tiff(tmp_path / "direct.tif", pixels)
    path = training_file(sources=[{"image": str(scan), **source}])
    return read_data(read_training_file(Path(path)), tmp_path)


NOISE = np.random.default_rng(5).random((128, 128))


def test_a_box_beside_the_scan_is_refused(training_file, tmp_path):
    with pytest.raises(InputError, match=r"direct\.tif: box is \[0, 200, 50, 300\], expected a part .* 128 x 128 px"):
        direct(training_file, tmp_path, (NOISE * 255).astype(np.uint8), box=[0, 200, 50, 300])


def test_16_bit_is_scaled_and_told_as_in_mending(training_file, tmp_path):
    pixels = (NOISE * 1000 + 2000).astype(np.uint16)
    data = direct(training_file, tmp_path, pixels)
    with open_image(tmp_path / "direct.tif") as image:
        expected = value_range(image, None)
    assert 1900 < expected[0] < 2000 < 3000 < expected[1] < 3100
    assert data.record["sources"][0]["value_range"] == list(expected)
    assert data.sources[0].image.min() < -0.8 < 0.8 < data.sources[0].image.max()


def test_damage_grows_and_glass_is_left_out_in_scans_named_directly(training_file, tmp_path):
    damage = np.zeros((128, 128), np.uint8)
    damage[60:64, 60:64] = 255
    mask = write_tiff(tmp_path / "mask.tif", damage)
    pixels = (NOISE * 255).astype(np.uint8)
    (tile,) = direct(training_file, tmp_path, pixels, annotation=str(mask)).sources
    assert not tile.intact[57, 60]
    assert tile.intact[56, 60]
    with pytest.raises(InputError, match="on tissue"):
        direct(training_file, tmp_path, np.where(np.arange(128) < 64, 240, pixels).astype(np.uint8))


def test_what_is_learned_is_known_by_content_not_by_names_and_licences(training_file, tmp_path):
    def read(scan, **source):
        path = training_file(sources=[{"image": str(scan), "box": [0, 0, 80, 90], **source}])
        return read_data(read_training_file(Path(path)), tmp_path).identity

    renamed = tmp_path / "renamed.tif"
    renamed.write_bytes(training_file.scan.read_bytes())
    assert read(training_file.scan) == read(renamed, licence="other")
    assert read(renamed) != read(renamed, value_range=[0, 200])


def test_a_finished_model_is_not_trained_over(training_file, tmp_path, capsys, other_model):
    model = tmp_path / "model" / "model.safetensors"
    model.parent.mkdir()
    model.write_bytes(other_model.read_bytes())
    (model.parent / "MODEL_CARD.md").write_text("card")
    (model.parent / ".training.safetensors.99").write_text("left by a killed writer")
    path = training_file(steps=1)
    assert train(path, model.parent) == 2
    assert "found a finished model, which would be overwritten; give another --out" in capsys.readouterr().err
    assert checkpoint_hash(model) == checkpoint_hash(other_model)
    assert train(training_file(start_from=str(model)), model.parent) == 2
    assert "lies in --out and would be overwritten" in capsys.readouterr().err
    assert train(path, model.parent, "--set-aside") == 0
    (aside,) = model.parent.glob("model.*.safetensors")
    assert checkpoint_hash(aside) == checkpoint_hash(other_model)
    stamp = aside.name.split(".")[1]
    assert (model.parent / f"MODEL_CARD.{stamp}.md").read_text() == "card"
    assert not list(model.parent.glob(".*"))


def test_a_damaged_state_is_told(undisturbed, training_file, tmp_path, capsys):
    state = tmp_path / "training.safetensors"
    state.write_bytes((undisturbed / "training.safetensors").read_bytes()[:-100])
    assert train(training_file(), tmp_path) == 2
    assert "expected the state of a training, found a damaged file" in capsys.readouterr().err


def test_a_full_disk_is_told(training_file, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    assert train(training_file(), tmp_path / "model") == 1
    assert "training.safetensors: the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "nonsense"], "--device nonsense: cannot be used here"),
        (["--workers", "-1"], "--workers -1: expect"),
    ],
)
def test_options_that_cannot_be_used_are_refused(training_file, tmp_path, capsys, options, words):
    assert train(training_file(), tmp_path / "model", *options) == 2
    assert words in capsys.readouterr().err


def test_no_weights_are_promised_where_none_were_kept(training_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Training, "validation_loss", lambda *_: float("nan"))
    assert train(training_file(), tmp_path / "model") == 2
    assert "kept so far" not in capsys.readouterr().err


def test_words_of_the_user_mean_nothing_in_a_model_card():
    assert plain("a\n# b <i>*c*</i> [d](e) INM-1") == r"a # b \<i\>\*c\*\</i\> \[d\](e) INM-1"
    assert code("a`b`\nc") == "`a'b' c`"


# Several processes

SHARED = {"steps": 4, "batch": 8, "validation_patches": 7}


def torchrun(count, *words, **options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", f"--master-port={port}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*launch, "-m", "cytomend", "train", *words, "--device", "cpu"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    )


def finished(process):
    output = process.communicate(timeout=180)[0]
    assert process.returncode == 0, output
    return output


def test_two_processes_killed_and_restarted_give_what_one_gives(training_file, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert train(training_file(**SHARED), alone) == 0
    path = training_file(**SHARED, accumulate=2)
    run = torchrun(2, path, "--out", str(together))
    end = time.monotonic() + 120
    while not (together / "training.safetensors").exists():
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    output = finished(torchrun(2, path, "--out", str(together)))
    assert output.count(str(together / "model.safetensors")) == 1  # one process speaks
    assert_same_models(alone, together, rtol=1e-3, atol=1e-4)
    sheets = {path.name for path in together.iterdir()}
    assert {"model.safetensors", "loss.tsv", "samples.png", "MODEL_CARD.md"} <= sheets


def test_a_batch_that_the_processes_cannot_share_is_refused(training_file, tmp_path):
    run = torchrun(2, training_file(batch=3), "--out", str(tmp_path / "model"))
    assert "batch is 3, expected a multiple of 2: 2 process(es)" in run.communicate(timeout=120)[0]
    assert run.returncode != 0
