"""The contour proposal network as a segmenter: pictures of any size, dtype and pixel size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from cytomend.diffusion.checkpoint import save_tensors
from cytomend.errors import InputError
from cytomend.segmentation.blocks import BLOCK_PX, Block, Read, blocks, even, inside
from cytomend.segmentation.cpn import ContourProposalNetwork, fused
from cytomend.segmentation.decoding import Cells, best, proposed
from cytomend.segmentation.record import KEY, CpnRecord, load_record
from cytomend.segmentation.resampling import Resampled, grid_for
from cytomend.segmentation.table import cell_table
from cytomend.values import to_model

Grey = NDArray[np.generic]


class CpnSegmenter:
    """A trained network with its settings.

    Parameters
    ----------
    network : trained
    record : its settings
    device : torch device
    name : what tables call it
    """

    def __init__(
        self, network: ContourProposalNetwork, record: CpnRecord, device: str = "cpu", name: str = "cpn"
    ) -> None:
        self.name, self.record, self.device = name, record, torch.device(device)
        network = fused(network).to(self.device)
        self.network: ContourProposalNetwork = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def load(cls, path: Path, device: str = "cpu", name: str = "cpn") -> CpnSegmenter:
        """Read a checkpoint; nothing in it is executed.

        Raises
        ------
        InputError
            If the file is no checkpoint of a segmenter, or its weights do not fit its settings.
        """
        record = load_record(path)
        network = ContourProposalNetwork(record.network)
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        try:
            _fill(network, weights)
        except RuntimeError as error:
            raise InputError(
                f"{path}: the weights do not fit the settings record; the file is damaged or was edited ({error})"
            ) from error
        return cls(network, record, device, name)

    def find(
        self,
        image: Grey,
        *,
        pixel_size_um: float,
        value_range: tuple[float, float],
        surroundings: Grey | None = None,  # noqa: ARG002 - the network takes no threshold
    ) -> pd.DataFrame:
        """Return the cells of a picture; see `Segmenter.find`."""
        if image.ndim != 2:
            raise InputError(f"expected a grey picture (Y, X) to find cells in, found one of shape {image.shape}")
        found = self.find_blockwise(
            lambda box: image[box.slices],
            (image.shape[0], image.shape[1]),
            pixel_size_um=pixel_size_um,
            value_range=value_range,
        )
        return pd.concat(list(found), ignore_index=True)

    def find_blockwise(
        self,
        read: Read,
        shape: tuple[int, int],
        *,
        pixel_size_um: float,
        value_range: tuple[float, float],
        block_px: int = BLOCK_PX,
    ) -> Iterator[pd.DataFrame]:
        """Yield the cells of a picture of any size, block by block; the same cells whatever the blocks.

        Parameters
        ----------
        read : returns the grey pixels of a box inside the picture
        shape : (height, width) in px
        pixel_size_um : side of a pixel in µm
        value_range : values that mean black and white
        block_px : side of a block's core, in px of the model
        """
        low, high = value_range
        if not low < high:
            raise InputError(f"value range {value_range}: expected the value of black before the larger one of white")
        grid = grid_for(shape, pixel_size_um, self.record.pixel_size_um)
        pixels = Resampled(lambda box: to_model(read(box), value_range), shape, grid)
        for block in blocks(grid.shape, self.record.network, block_px):
            yield self._table(self._cells(block, pixels, grid.shape), grid.pixel_size_um)

    @torch.inference_mode()
    def _cells(self, block: Block, pixels: Resampled, shape: tuple[int, int]) -> Cells:
        """Return the cells that a block owns, in px of the model."""
        values = even(pixels.read(block.window), self.record.network.divisor_px)
        batch = torch.from_numpy(values)[None, None].to(self.device).contiguous(memory_format=torch.channels_last)
        rivals = proposed(self.network(batch), self.record, (block.window.y0, block.window.x0), shape)
        cells = best(rivals.take(inside(rivals.place, block.rivals)), self.record.overlap)
        return cells.take(inside(cells.place, block.core))

    @staticmethod
    def _table(cells: Cells, pixel_size_um: float) -> pd.DataFrame:
        centre = shapely.centroid(cells.polygon)
        places = np.stack([shapely.get_y(centre), shapely.get_x(centre)], axis=1) * pixel_size_um
        area_um2 = shapely.area(cells.polygon) * pixel_size_um**2
        return cell_table(places, area_um2, cells.score, list(cells.contour * np.float32(pixel_size_um)))


def save_segmenter(path: Path, weights: dict[str, Tensor], record: CpnRecord) -> None:
    """Write the weights with their settings record."""
    kept: dict[str, Any] = {
        name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")
    }
    save_tensors(path, kept, {KEY: record.to_json()})


def _fill(network: ContourProposalNetwork, weights: dict[str, Tensor]) -> None:
    """Load weights; how many batches a BatchNorm has seen matters to training alone, and is not in the file."""
    counters = {name: tensor for name, tensor in network.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict({**weights, **counters})
