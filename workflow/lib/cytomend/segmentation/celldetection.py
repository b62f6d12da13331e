"""A contour proposal network of the package celldetection, with a checkpoint of the user's own.

The package is an optional extra with an environment of its own (``envs/celldetection.yaml``): it needs torchvision, and
a torchvision that does not fit torch cannot be loaded. A checkpoint is read as plain tensors and settings; one that
holds pickled objects is refused, for reading it would run whatever code it carries.
"""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import shapely
import torch
from numpy.typing import NDArray

from cytomend.errors import InputError
from cytomend.segmentation.polygons import polygons
from cytomend.segmentation.table import cell_table
from cytomend.values import to_model

Grey = NDArray[np.generic]

ENVIRONMENT = "envs/celldetection.yaml"
STATE, MODEL = "state_dict", "cd.models"


class CelldetectionSegmenter:
    """A model of celldetection behind our interface; it sees a picture whole and at its own pixel size."""

    def __init__(self, network: torch.nn.Module, channels: int, device: str, name: str) -> None:
        self.network, self.channels, self.device, self.name = network.to(device).eval(), channels, device, name

    @torch.inference_mode()
    def find(
        self,
        image: Grey,
        *,
        pixel_size_um: float,
        value_range: tuple[float, float],
        surroundings: Grey | None = None,  # noqa: ARG002 - the network takes no threshold
    ) -> pd.DataFrame:
        """Return the cells of a picture; see `Segmenter.find`."""
        values = torch.from_numpy((to_model(image, value_range) + 1) / 2).to(self.device)  # celldetection wants [0, 1]
        found = self.network(values.expand(1, self.channels, *values.shape))
        contours = found["contours"][0].cpu().numpy()[..., ::-1]  # theirs are (x, y), between the pixels' centres
        shapes = polygons(contours + np.float32(0.5))
        centre = shapely.centroid(shapes)
        places = np.stack([shapely.get_y(centre), shapely.get_x(centre)], axis=1) * pixel_size_um
        outlines = list((contours + np.float32(0.5)) * np.float32(pixel_size_um))
        score = found["scores"][0].cpu().numpy()
        return cell_table(places, shapely.area(shapes) * pixel_size_um**2, score, outlines)


def open_celldetection(path: Path, device: str = "cpu") -> CelldetectionSegmenter:
    """Return the segmenter of a checkpoint that ``celldetection.save_fetchable_model`` wrote.

    Raises
    ------
    InputError
        If the package cannot be loaded, or the file is missing or no such checkpoint.
    """
    if not path.is_file():
        raise InputError(f"segmenter celldetection:{path}: no such file; expected a checkpoint of celldetection")
    models = _models()
    checkpoint = _read(path)
    kind, arguments = _what(path, checkpoint)
    try:
        network = getattr(models, kind)(**arguments)
        network.load_state_dict(checkpoint[STATE])
    except (AttributeError, TypeError, RuntimeError, KeyError) as error:
        raise InputError(f"{path}: celldetection cannot make a {kind} of it ({error})") from error
    return CelldetectionSegmenter(network, int(arguments.get("in_channels", 3)), device, f"celldetection-{path.stem}")


def _models() -> ModuleType:
    try:
        return importlib.import_module("celldetection.models")
    except Exception as error:  # a torchvision that does not fit torch fails in many ways
        raise InputError(
            f"segmenter celldetection: the package cannot be loaded ({type(error).__name__}: {error}); expected"
            f" celldetection 0.4.9 beside a torchvision that fits torch; make the environment {ENVIRONMENT},"
            " or use 'cpn'"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise InputError(
            f"{path}: expected a checkpoint of tensors and plain settings, found something else; it is not loaded, for"
            f" that might run code ({str(error).splitlines()[0]}); save it again with"
            " celldetection.save_fetchable_model"
        ) from error
    if not isinstance(checkpoint, dict) or not {STATE, MODEL} <= set(checkpoint):
        raise InputError(
            f"{path}: expected a checkpoint with {STATE!r} and {MODEL!r}; save it with"
            " celldetection.save_fetchable_model"
        )
    return checkpoint


def _what(path: Path, checkpoint: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the class of a checkpoint's model, and its arguments."""
    settings = checkpoint[MODEL]
    kind = settings.get("model") if isinstance(settings, dict) else None
    if not isinstance(kind, str) or not kind.isidentifier() or not kind.lower().startswith("cpn"):
        raise InputError(f"{path}: expected a contour proposal network (Cpn...), found {kind!r}")
    return kind, {str(key): value for key, value in settings.get("kwargs", {}).items()}
