"""Classifiers by name: the bundled one, one of your own, an exported network, a developer's plug-in.

A patch's answer never depends on its company: patches go through the network in batches of one fixed shape, padded
with zeros, and on a CPU the logits of a patch are the same bit for bit wherever in whichever batch it stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from cytomend.classification.exported import ExportedNetwork
from cytomend.classification.record import check_classes, check_lengths, load_classifier
from cytomend.errors import InputError
from cytomend.places import MODELS
from cytomend.plugins import is_plugin, plugin

Float = NDArray[np.float32]

BUNDLED = ("layers",)
BATCH = 16
SMALLEST_PX = 64
"""Of the patches that are given."""
SMALLEST_RESAMPLED_PX = 32
"""Of what is left of them at the classifier's pixel size."""
POSSIBLE = (
    f"a bundled classifier ({', '.join(BUNDLED)}), a .safetensors file written by `cytomend train-classifier`, a .pt2"
    " file written by torch.export.save with its .json beside it, or package.module:factory"
)


@runtime_checkable
class Classifier(Protocol):
    """What the evaluation asks of a classifier.

    Attributes
    ----------
    name : str
        How results call it.
    classes : tuple of str
        Names of the classes, in the order of the logits.
    """

    name: str
    classes: tuple[str, ...]

    def predict(self, patches: Float, pixel_size_um: float) -> Float:
        """Return the logits of some patches, each on its own.

        Parameters
        ----------
        patches : (n, Y, X) float32 in [-1, 1], black to white by the section's value range; sides from 64 px
        pixel_size_um : side of their pixels in µm

        Returns
        -------
        (n, k) float32
        """
        ...


class NetworkClassifier:
    """A network as a classifier.

    Parameters
    ----------
    name, classes : see `Classifier`
    network : (n, 1, Y, X) in [-1, 1] to logits (n, k)
    pixel_size_um : what the network wants; patches at another are resampled
    device : torch device
    """

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        network: Callable[[Tensor], Tensor],
        *,
        pixel_size_um: float,
        device: str = "cpu",
    ) -> None:
        self.name, self.classes, self.pixel_size_um = name, classes, pixel_size_um
        self._network, self._device = network, torch.device(device)

    @torch.no_grad()
    def predict(self, patches: Float, pixel_size_um: float) -> Float:
        """Return the logits of some patches; see `Classifier.predict`."""
        _check(self.name, patches)
        x = resampled(torch.from_numpy(np.array(patches, np.float32))[:, None], pixel_size_um / self.pixel_size_um)
        if len(x) and min(x.shape[2:]) < SMALLEST_RESAMPLED_PX:
            raise InputError(
                f"classifier {self.name!r}: patches of {patches.shape[1]} x {patches.shape[2]} px of {pixel_size_um} µm"
                f" are {x.shape[2]} x {x.shape[3]} px of its {self.pixel_size_um} µm, expected at least"
                f" {SMALLEST_RESAMPLED_PX}; give larger patches"
            )
        logits = (
            [self._batch(part) for part in torch.split(x, BATCH)] if len(x) else [torch.empty(0, len(self.classes))]
        )
        return torch.cat(logits).numpy()

    def _batch(self, part: Tensor) -> Tensor:
        full = torch.zeros(BATCH, *part.shape[1:])
        full[: len(part)] = part
        full = full.to(self._device, memory_format=torch.channels_last)
        logits = self._network(full)
        if logits.shape != (BATCH, len(self.classes)):
            raise InputError(
                f"classifier {self.name!r}: logits of shape {tuple(logits.shape)} for {BATCH} patches, expected"
                f" {(BATCH, len(self.classes))}, one for each of the classes {', '.join(self.classes)}"
            )
        return logits[: len(part)].float().cpu()


def _check(name: str, patches: Float) -> None:
    if patches.ndim != 3 or (len(patches) and min(patches.shape[1:]) < SMALLEST_PX):
        raise InputError(
            f"classifier {name!r}: patches of shape {patches.shape}, expected grey ones (n, Y, X) with sides of at"
            f" least {SMALLEST_PX} px"
        )


def resampled(x: Tensor, factor: float) -> Tensor:
    """Return patches (n, 1, Y, X) with ``factor`` times as many pixels a side; smoothed first where there are fewer."""
    sides = tuple(max(round(side * factor), 1) for side in x.shape[2:])
    if sides == tuple(x.shape[2:]) or not len(x):
        return x
    return interpolate(x, sides, mode="bilinear", antialias=True, align_corners=False)


def open_classifier(name: str, device: str = "cpu") -> Classifier:
    """Return a classifier by name.

    Parameters
    ----------
    name : a bundled classifier, a .safetensors file, a .pt2 file, or ``package.module:factory``
    device : torch device

    Raises
    ------
    InputError
        If there is none of that name or it cannot be used; the sentence says what is possible.
    """
    path = Path(name)
    if name in BUNDLED:
        return _trained(name, MODELS / name / "model.safetensors", device)
    if path.suffix == ".safetensors":
        return _trained(path.parent.name if path.stem == "model" else path.stem, path, device)
    if path.suffix == ".pt2":
        return _exported(path, device)
    if is_plugin(name):
        return _plugged_in(name)
    raise InputError(f"classifier {name!r}: expected {POSSIBLE}")


def _trained(name: str, path: Path, device: str) -> Classifier:
    network, settings = load_classifier(path, device)
    return NetworkClassifier(name, settings.classes, network, pixel_size_um=settings.pixel_size_um, device=device)


def _exported(path: Path, device: str) -> Classifier:
    """Return an exported network as a classifier, with classes and sizes from the JSON file beside it."""
    beside = path.with_suffix(".json")
    wanted = 'expected {"classes": [...], "pixel_size_um": ..., "patch_px": ...}'
    if not path.is_file():
        raise InputError(f"{path}: no such classifier; expected {POSSIBLE}")
    try:
        record = json.loads(beside.read_text(encoding="utf-8"))
        classes = tuple(record["classes"])
        check_classes(classes)
        check_lengths(record["pixel_size_um"], record["patch_px"])
    except FileNotFoundError:
        raise InputError(f"{path}: found no {beside.name} beside it, which must name its classes: {wanted}") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{beside}: cannot be used ({error!r}); {wanted}") from error
    network = ExportedNetwork(path, device)
    classifier = NetworkClassifier(
        path.stem, classes, network, pixel_size_um=float(record["pixel_size_um"]), device=device
    )
    # A network that does not fit its classes is refused here, not after hours of mending.
    side_px = max(record["patch_px"], SMALLEST_PX)
    classifier.predict(np.zeros((1, side_px, side_px), np.float32), classifier.pixel_size_um)
    return classifier


def _plugged_in(name: str) -> Classifier:
    """Return what a developer's factory returns; this imports the module, which is to run its code."""
    made = plugin(name, "classifier")()
    if not isinstance(made, Classifier):
        raise InputError(
            f"classifier {name!r}: returned {type(made).__name__}, expected an object with name, classes and"
            " predict(patches, pixel_size_um)"
        )
    return made
