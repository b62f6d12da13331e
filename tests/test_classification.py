"""A classifier answers for each patch alone, whatever file it came from, and refuses files that could execute code."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter
from torch import nn

from cytomend.classification.agreement import agreement, confusion_table
from cytomend.classification.classifiers import BATCH, Classifier, NetworkClassifier, open_classifier
from cytomend.classification.exported import ExportedNetwork
from cytomend.classification.network import TextureNet
from cytomend.classification.patches import GRID_PX, LabelledPatches, Phantoms, phantom_names
from cytomend.classification.record import ClassifierSettings, save_classifier
from cytomend.errors import InputError
from cytomend.phantom import AREAS, render_tissue
from cytomend.phantom.layers import layer_image
from cytomend.places import MODELS
from cytomend.values import to_model

CLASSES = ("I", "II", "III")
SETTINGS = ClassifierSettings(CLASSES, (8, 16), pixel_size_um=1.0, patch_px=64)


def network(classes=3):
    torch.manual_seed(0)
    net = TextureNet((8, 16), classes)
    net(torch.randn(8, 1, 64, 64))  # running statistics other than those of a new network
    return net.eval()


def patches(n=5, side=80, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, side, side)).astype(np.float32)


@pytest.fixture
def checkpoint(tmp_path):
    save_classifier(tmp_path / "mine.safetensors", network().state_dict(), SETTINGS)
    return tmp_path / "mine.safetensors"


# Answers


def test_a_classifier_of_a_file_gives_logits_for_any_side(checkpoint):
    classifier = open_classifier(str(checkpoint))
    assert isinstance(classifier, Classifier)
    assert (classifier.name, classifier.classes) == ("mine", CLASSES)
    for shape in ((5, 64, 64), (1, 112, 96), (0, 64, 64)):
        logits = classifier.predict(np.zeros(shape, np.float32), 1.0)
        assert logits.shape == (shape[0], 3)
        assert logits.dtype == np.float32
    expected = network()(torch.from_numpy(patches())[:, None]).detach().numpy()
    assert classifier.predict(patches(), 1.0) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["layers", "mine"])
def test_a_patch_gets_the_same_logits_in_any_company(name, checkpoint):
    classifier = open_classifier(name if name == "layers" else str(checkpoint))
    some = patches(2 * BATCH + 3)
    together = classifier.predict(some, 1.0)
    alone = np.concatenate([classifier.predict(some[i : i + 1], 1.0) for i in range(len(some))])
    backwards = classifier.predict(some[::-1], 1.0)[::-1]
    assert np.array_equal(together, alone)
    assert np.array_equal(together, backwards)
    assert not np.array_equal(together[0], together[1])


def test_patches_of_another_pixel_size_are_resampled(checkpoint):
    seen = []
    mean = NetworkClassifier(
        "sides", ("a", "b"), lambda x: seen.append(x.shape) or x.mean((2, 3)).repeat(1, 2), pixel_size_um=1
    )
    ramp = np.linspace(-1, 1, 128, dtype=np.float32) * np.ones((2, 128, 1), np.float32)
    assert mean.predict(ramp, 0.5) == pytest.approx(0, abs=1e-6)
    assert mean.predict(ramp, 2.0) == pytest.approx(0, abs=1e-6)
    assert [tuple(shape) for shape in seen] == [(BATCH, 1, 64, 64), (BATCH, 1, 256, 256)]
    smooth = gaussian_filter(patches(3, 96), (0, 2, 2)) * 5
    fine = np.repeat(np.repeat(smooth, 2, axis=1), 2, axis=2)  # each pixel cut in four
    classifier = open_classifier(str(checkpoint))
    expected = classifier.predict(smooth, 1.0)
    far, unscaled = (np.abs(classifier.predict(fine, um) - expected).max() for um in (0.5, 1.0))
    assert far < unscaled / 3


@pytest.mark.parametrize(
    ("shape", "pixel_size_um", "sentence"),
    [
        ((2, 1, 64, 64), 1.0, r"shape \(2, 1, 64, 64\), expected grey ones \(n, Y, X\)"),
        ((2, 63, 64), 1.0, r"expected grey ones .* sides of at least 64 px"),
        ((2, 64, 64), 0.4, r"are 26 x 26 px of its 1.0 µm, expected at least 32"),
    ],
)
def test_patches_that_show_too_little_are_refused(shape, pixel_size_um, sentence, checkpoint):
    with pytest.raises(InputError, match=sentence):
        open_classifier(str(checkpoint)).predict(np.zeros(shape, np.float32), pixel_size_um)


# Names and records


@pytest.mark.parametrize("name", ["cortex", "model.pt", "model.pkl", "", "a b:c", "os.system"])
def test_an_unknown_name_is_told_what_is_possible(name):
    with pytest.raises(
        InputError, match=r"expected a bundled classifier \(layers\), a \.safetensors .* a \.pt2 .* package"
    ):
        open_classifier(name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.safetensors: no such classifier"):
        open_classifier(str(tmp_path / "none.safetensors"))


def test_a_pickle_is_refused_and_not_loaded(tmp_path):
    for name in ("evil.safetensors", "evil.pt2"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
        (tmp_path / "evil.json").write_text(json.dumps(BESIDE))
        with pytest.raises(InputError, match=name):
            open_classifier(str(path))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"cytomend": "[]"},
        {"cytomend": json.dumps({"format": 2, "unet": {}})},
        {"cytomend": SETTINGS.to_json().replace('"I", ', "")},
        {"cytomend": SETTINGS.to_json().replace("[8, 16]", "[8, 32]")},
        {"cytomend": SETTINGS.to_json().replace('"pixel_size_um": 1.0', '"pixel_size_um": 0')},
    ],
)
def test_a_record_that_does_not_fit_is_refused(record, tmp_path):
    save_file(network().state_dict(), tmp_path / "wrong.safetensors", record)
    with pytest.raises(InputError, match=r"wrong\.safetensors: (a safetensors file without|the weights do not fit)"):
        open_classifier(str(tmp_path / "wrong.safetensors"))


def test_a_factory_of_a_module_is_a_plug_in(tmp_path, monkeypatch):
    (tmp_path / "plugged.py").write_text(
        "class Mine:\n"
        "    name, classes = 'mine', ('a', 'b')\n"
        "    def predict(self, patches, pixel_size_um):\n"
        "        return patches.mean((1, 2))[:, None] * (1, -1)\n"
        "def make():\n"
        "    return Mine()\n"
        "def wrong():\n"
        "    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plugged", raising=False)
    assert open_classifier("plugged:make").predict(np.ones((2, 64, 64), np.float32), 1.0).shape == (2, 2)
    for name, sentence in {
        "plugged:wrong": "returned int, expected an object with name, classes",
        "plugged:absent": "has no attribute 'absent'",
        "not_there:make": "No module named 'not_there'",
    }.items():
        with pytest.raises(InputError, match=sentence):
            open_classifier(name)


# Exported networks

BESIDE = {"classes": list(CLASSES), "pixel_size_um": 1.0, "patch_px": 64}


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


class Pooled(nn.Module):
    """Uses what other networks use: a dynamic shape, lists of tensors, GroupNorm, attention-like products."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.GELU(), nn.MaxPool2d(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.first(x)
        a, b = x.chunk(2, dim=1)
        x = torch.cat([a.sigmoid(), b], dim=1).view(x.shape[0], 8, -1)
        return self.head((x @ x.transpose(1, 2)).softmax(-1).mean(1))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The exported network of these tests, which takes a while to make."""
    return export(network(), tmp_path_factory.mktemp("exported") / "theirs.pt2")


@pytest.fixture
def theirs(exported, tmp_path):
    """A copy of it that may be changed."""
    for suffix in (".pt2", ".json"):
        shutil.copy(exported.with_suffix(suffix), tmp_path / f"theirs{suffix}")
    return tmp_path / "theirs.pt2"


def export(net, path, *, dynamic=True, beside=BESIDE):
    sides = {
        0: torch.export.Dim("n", min=1),
        2: torch.export.Dim("y", min=64, max=2048),
        3: torch.export.Dim("x", min=64, max=2048),
    }
    given = torch.zeros(2, 1, 128, 128)
    torch.export.save(torch.export.export(net, (given,), dynamic_shapes=(sides,) if dynamic else None), path)
    if beside is not None:
        path.with_suffix(".json").write_text(json.dumps(beside))
    return path


@pytest.mark.parametrize("dynamic", [True, False])
def test_an_exported_network_answers_as_before(dynamic, theirs):
    path = theirs if dynamic else export(network(), theirs, dynamic=False)
    classifier = open_classifier(str(path))
    assert (classifier.name, classifier.classes) == ("theirs", CLASSES)
    expected = network()(torch.from_numpy(patches())[:, None]).detach().numpy()
    assert classifier.predict(patches(), 1.0) == pytest.approx(expected, abs=1e-5)


def test_an_exported_network_may_use_other_layers(tmp_path):
    torch.manual_seed(0)
    net = Pooled().eval()
    classifier = open_classifier(str(export(net, tmp_path / "pooled.pt2")))
    expected = net(torch.from_numpy(patches())[:, None]).detach().numpy()
    assert classifier.predict(patches(), 1.0) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("beside", "sentence"),
    [
        (None, r"found no theirs\.json beside it, which must name its classes"),
        ({"classes": ["a", "b"], "patch_px": 64}, r"theirs\.json: cannot be used \(KeyError\('pixel_size_um'\)\)"),
        ({**BESIDE, "classes": ["a", "a", "b"]}, "expected two or more different names"),
        ({**BESIDE, "classes": ["a", "b"]}, r"logits of shape \(16, 3\) for 16 patches, expected \(16, 2\)"),
    ],
)
def test_an_exported_network_needs_its_classes_beside_it(beside, sentence, theirs):
    theirs.with_suffix(".json").unlink()
    if beside is not None:
        theirs.with_suffix(".json").write_text(json.dumps(beside))
    with pytest.raises(InputError, match=sentence):
        open_classifier(str(theirs))


def rewritten(path, change, **replaced):
    """Rewrite a .pt2 file with a changed graph and other entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    top = next(iter(entries)).partition("/")[0]
    program = json.loads(entries[f"{top}/models/model.json"])
    config = json.loads(entries[f"{top}/data/weights/model_weights_config.json"])
    change(program, config["config"])
    entries[f"{top}/models/model.json"] = json.dumps(program).encode()
    entries[f"{top}/data/weights/model_weights_config.json"] = json.dumps(config).encode()
    entries |= {f"{top}/{name}": data for name, data in replaced.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def unchanged(*_):
    """Change nothing."""


def test_what_torch_would_unpickle_or_execute_is_refused_or_not_read(theirs, tmp_path):
    """Each of these makes ``torch.export.load`` execute code; the first assertion shows that the attack is real."""
    path, bomb = theirs, io.BytesIO()
    torch.save(Bomb(tmp_path / "exploded"), bomb)

    def pickled(_, config):
        config["head.bias"]["use_pickle"] = True

    def guards(program, _):
        program["guards_code"] = [f"open({str(tmp_path / 'exploded')!r}, 'w') is not None"]

    # Sample inputs and guards are not read, so the network works as before.
    rewritten(path, unchanged, **{"data/sample_inputs/model.pt": bomb.getvalue()})
    with contextlib.suppress(Exception):  # it fails one way or another, after it has unpickled
        torch.export.load(path)
    assert (tmp_path / "exploded").exists()
    (tmp_path / "exploded").unlink()
    rewritten(path, guards)
    assert open_classifier(str(path)).predict(patches(), 1.0).shape == (5, 3)
    rewritten(path, pickled, **{"data/weights/weight_10": bomb.getvalue()})
    with pytest.raises(InputError, match=r"head\.bias is pickled; unpickling can execute code"):
        open_classifier(str(path))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.serialization.os.system",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.relu.__class__",
        "torch.ops.other.relu.default",
        "_operator.call",
    ],
)
def test_only_operators_of_the_list_are_called(target, theirs):

    def change(program, _):
        program["graph_module"]["graph"]["nodes"][2]["target"] = target

    rewritten(theirs, change)
    with pytest.raises(InputError, match=r"which is not on the list of operators"):
        ExportedNetwork(theirs)


def test_weights_that_do_not_fit_their_shape_are_refused(theirs):
    rewritten(theirs, unchanged, **{"data/weights/weight_0": b"\0" * 8})
    with pytest.raises(InputError, match=r"theirs\.pt2: expected a network written by torch\.export\.save"):
        ExportedNetwork(theirs)


# What is learned from


@pytest.mark.parametrize(("seed", "area"), [(700_005, None), (700_002, None), (700_003, "phantom-a")])
def test_the_layer_image_agrees_with_the_cells(seed, area):
    size = (400, 520)
    cells, truth = render_tissue(size, seed, area=area).cells, layer_image(size, seed, area=area)
    assert truth.area.name == cells["area"].iloc[0]
    at = truth.index[cells["y_um"].astype(int), cells["x_um"].astype(int)]
    names = np.array([layer.name for layer in truth.area.layers])[at]
    assert (names == cells["layer"].astype(str)).mean() > 0.9  # near borders, cells pass into the next layer
    if len(set(names)) > 1:
        assert (names[::-1] == cells["layer"].astype(str)).mean() < 0.9


def test_a_finer_layer_image_shows_the_same_layers():
    fine, coarse = (layer_image((480 // p,) * 2, 700_004, pixel_size_um=p) for p in (1, 8))
    assert (fine.index[4::8, 4::8] == coarse.index).mean() > 0.99


def test_phantom_patches_show_the_class_that_was_asked_for():
    tissue = Phantoms(4, 256, 700_000, layers_of="each area")
    rng, found = np.random.default_rng(0), 0
    images = [to_model(render_tissue((256, 256), 700_000 + i).image, (0, 255)) for i in range(4)]
    truths = [layer_image((256, 256), 700_000 + i) for i in range(4)]
    for name in tissue.names:
        patch = tissue.patch(rng, name, 64, 0.8)
        if patch is not None:
            found += 1
            assert any(share_of(image, truth, patch, name) > 0.75 for image, truth in zip(images, truths, strict=True))
    assert found >= 4
    assert tissue.patch(rng, "phantom-a IV", 64, 0.8) is None


def share_of(image, truth, patch, name):
    """The share that a class has of the place where a patch was cut; 0 if it was not cut there."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8))
    for y, x in np.argwhere((windows == patch[:8, :8]).all(axis=(2, 3))):
        names = np.array([f"{truth.area.name} {layer.name}" for layer in truth.area.layers])
        return (names[truth.index[y : y + len(patch), x : x + len(patch)]] == name).mean()
    return 0


def test_batches_follow_from_their_step_alone_and_hold_all_classes():
    tissue = Phantoms(6, 256, 700_000)
    drawn = LabelledPatches([tissue], {"upper": ("II", "III"), "lower": ("V", "VI")}, (64, 96), 24, 0.8, seed=0)
    one, two = drawn.draw(3), drawn.draw(3)
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.label, two.label)
    assert not torch.equal(drawn.draw(4).label, one.label)
    assert set(one.label.tolist()) == {0, 1}
    assert one.image.shape[2] in (64, 80, 96)
    assert one.image.abs().max() <= 1


def test_classes_of_phantoms_are_layers_or_areas_and_layers():
    assert {name for names in phantom_names("any area").values() for name in names} == {
        "I",
        "II",
        "III",
        "IV",
        "V",
        "VI",
        "WM",
    }
    assert phantom_names("each area")["phantom-a"][3] == "phantom-a V"
    assert sum(map(len, phantom_names("each area").values())) == sum(len(area.layers) for area in AREAS.values())
    assert 256 % GRID_PX == 0


def test_agreement_counts_first_and_second_answers():
    logits = np.array([[3, 2, 1], [3, 2, 1], [3, 2, 1], [1, 2, 3]], np.float32)
    found = agreement(logits, np.array([0, 1, 2, 2]))
    assert (found.top1, found.top2) == (0.5, 0.75)
    assert found.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 1]]
    assert confusion_table(found.confusion, "abc").splitlines()[-1] == "| c | 50.0 |  | 50.0 | 2 |"


# The bundled classifier


def test_the_bundled_classifier_tells_layers_of_unseen_phantoms_by_their_texture():
    classifier = open_classifier("layers")
    assert classifier.classes == ("I", "II", "III", "IV", "V", "VI", "WM")
    assert (MODELS / "layers" / "model.safetensors").stat().st_size < 3e6
    classes = {name: (name,) for name in classifier.classes}
    batch = LabelledPatches([Phantoms(16, 384, 960_000)], classes, (160, 160), 140, 0.8, 0, augmented=False).draw(0)
    found = agreement(classifier.predict(batch.image[:, 0].numpy(), 1.0), batch.label.numpy())
    assert found.top1 > 0.6  # 0.65 and 0.85 were measured
    assert found.top2 > 0.8
