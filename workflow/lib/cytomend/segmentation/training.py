"""Learning to propose contours: targets of a view, the loss, one training step after another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from cytomend.diffusion.checkpoint import save_tensors
from cytomend.errors import InputError
from cytomend.segmentation.cpn import STRIDE, ContourProposalNetwork, contours, places, refined
from cytomend.segmentation.fourier import walk_contour
from cytomend.segmentation.pictures import Pictures, View, draw_view, label_image
from cytomend.segmentation.record import CpnSettings

TARGET_POINTS = 32
MOST_PROPOSALS = 1500
"""About how many places of a batch have their contours drawn and compared."""
LEAST_SCORE = 0.25
"""Places nearer to the rim of a cell than this part of its depth propose no contour."""


class Batch(NamedTuple):
    """Views with what is to be said of them.

    ``values`` (n, 1, S, S); ``score`` (n, S/2, S/2) in [0, 1], highest in the middle of a cell; ``seen`` (n, S/2, S/2);
    ``cell`` (n, S/2, S/2) is the row of ``contour`` (cells, points, 2) that a place is to propose, -1 for none.
    """

    values: Tensor
    score: Tensor
    seen: Tensor
    cell: Tensor
    contour: Tensor


def collate(views: Sequence[View]) -> Batch:
    """Return views as a batch with its targets."""
    scores, owners, walks, first = [], [], [np.zeros((0, TARGET_POINTS, 2))], 0
    for view in views:
        labels = label_image(view.contours, (view.values.shape[0], view.values.shape[1]))
        depth, owner = proposal_targets(labels)
        scores.append(depth)
        owners.append(np.where(owner > 0, owner - 1 + first, -1))
        walks.append(np.array([walk_contour(c, TARGET_POINTS) for c in view.contours]).reshape(-1, TARGET_POINTS, 2))
        first += len(view.contours)
    return Batch(
        torch.from_numpy(np.stack([view.values for view in views]))[:, None].contiguous(
            memory_format=torch.channels_last
        ),
        torch.from_numpy(np.stack(scores)),
        torch.from_numpy(np.stack([_blocks(view.seen).all(axis=(2, 3)) for view in views])),
        torch.from_numpy(np.stack(owners)),
        torch.from_numpy(np.concatenate(walks).astype(np.float32)),
    )


def proposal_targets(labels: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the score and the cell that each place at half resolution is to propose.

    The score is the distance from the rim over the greatest one in that cell: one at the middle, and low where two
    bodies touch, so that each has one peak.
    """
    inner = np.pad(labels, 1, mode="edge")  # a cell that the view cuts off goes on beyond its rim
    middle = inner[1:-1, 1:-1]
    rim = np.zeros(labels.shape, dtype=bool)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        rim |= inner[dy : dy + labels.shape[0], dx : dx + labels.shape[1]] != middle
    depth = ndimage.distance_transform_edt(~rim & (labels > 0)) + 1.0 * (labels > 0)
    count = int(labels.max(initial=0))
    greatest = np.concatenate([[1.0], np.atleast_1d(ndimage.maximum(depth, labels, np.arange(1, count + 1)))[:count]])
    share = _blocks((depth / np.maximum(greatest[labels], 1.0)).astype(np.float32))
    share = share.reshape(*share.shape[:2], -1)
    most = share.argmax(axis=2)[..., None]
    owner = np.take_along_axis(_blocks(labels).reshape(share.shape), most, axis=2)[..., 0]
    score = np.take_along_axis(share, most, axis=2)[..., 0]
    return score, np.where(score >= LEAST_SCORE, owner, 0)


def _blocks(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return (h, w, 2, 2): the pixels of each place."""
    height, width = (side // STRIDE for side in pixels.shape)
    return pixels.reshape(height, STRIDE, width, STRIDE).swapaxes(1, 2)


class Losses(NamedTuple):
    """Parts of the loss.

    ``score`` is its binary cross-entropy; ``contour`` and ``refined`` how far a contour's points are off, in px, before
    and after refinement.
    """

    score: Tensor
    contour: Tensor
    refined: Tensor

    @property
    def total(self) -> Tensor:
        """Return what is minimised."""
        return 4 * self.score + 0.2 * (self.contour + self.refined)


def losses(network: ContourProposalNetwork, batch: Batch) -> Losses:
    """Return how far the network is from a batch's targets."""
    says = network(batch.values)
    entropy = F.binary_cross_entropy_with_logits(says.score.float(), batch.score, reduction="none")
    score = (entropy * batch.seen).sum() / batch.seen.sum().clamp(min=1)
    asked = torch.nonzero((batch.cell >= 0) & batch.seen)
    view, row, column = asked[:: max(len(asked) // MOST_PROPOSALS, 1)].unbind(1)
    centre = places(torch.stack([row, column], dim=1)) + says.location[view, :, row, column].float()
    drawn = contours(centre, says.fourier[view, :, row, column].float(), TARGET_POINTS)
    # Refinement learns to mend what is drawn; it does not tell the heads what to draw.
    moved = refined(drawn.detach(), says.field.float(), view, network.settings.refinements)
    wanted = batch.contour[batch.cell[view, row, column]]
    weight = batch.score[view, row, column]
    off = [
        ((contour - wanted).abs().mean(dim=(1, 2)) * weight).sum() / weight.sum().clamp(min=1)
        for contour in (drawn, moved)
    ]
    return Losses(score, *off)


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Everything on which the curve of a training depends, but the pictures, for which ``data`` stands."""

    network: CpnSettings
    view_px: int
    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int
    precision: str
    seed: int
    data: str


class Training:
    """Weights on their way; a state on disk is all that going on needs.

    Parameters
    ----------
    settings : of the training
    sources : pictures with how often each set is drawn, relative to the others
    """

    def __init__(
        self, settings: TrainingSettings, sources: Sequence[tuple[Pictures, float]], device: str = "cpu"
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.sources, self.device = settings, list(sources), torch.device(device)
        network = ContourProposalNetwork(settings.network).to(self.device)
        self.network: ContourProposalNetwork = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
        self.steps_done = 0

    def draw(self, step: int) -> Batch:
        """Return the batch of a step: the same whenever it is asked for."""
        weights = np.array([weight for _, weight in self.sources])
        views = []
        for item in range(self.settings.batch):
            rng = np.random.default_rng([self.settings.seed, step, item])
            pictures = self.sources[rng.choice(len(weights), p=weights / weights.sum())][0]
            views.append(draw_view(pictures[int(rng.integers(len(pictures)))], self.settings.view_px, rng))
        return collate(views)

    def learning_rate(self, step: int) -> float:
        """Rise in a line, then fall along a cosine to nothing."""
        rise = min((step + 1) / max(self.settings.warmup_steps, 1), 1.0)
        return float(self.settings.learning_rate * rise * (1 + np.cos(np.pi * step / self.settings.steps)) / 2)

    def step(self, batch: Batch) -> dict[str, float]:
        """Take one step down; return the parts of the loss."""
        self.network.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(self.steps_done)
        low = self.settings.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            parts = losses(self.network, Batch(*(tensor.to(self.device) for tensor in batch)))
        self.optimiser.zero_grad()
        parts.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.steps_done += 1
        return {"loss": float(parts.total.detach()), **{k: float(v.detach()) for k, v in parts._asdict().items()}}

    def save(self, path: Path, facts: dict[str, Any]) -> None:
        """Write all that going on needs, and some facts."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for i, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": tensor for name, tensor in moments.items()}
        record = {"settings": asdict(self.settings), "steps_done": self.steps_done, **facts}
        save_tensors(path, tensors, {"cytomend-segmenter-training": json.dumps(record)})

    def resume(self, path: Path) -> dict[str, Any]:
        """Go on from a state; return its facts.

        Raises
        ------
        InputError
            If it is of a training with other settings, or damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                record: dict[str, Any] = json.loads((file.metadata() or {})["cytomend-segmenter-training"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except Exception as error:
            raise InputError(f"{path}: cannot be read as the state of a training ({error!r}); move it away") from error
        ours = json.loads(json.dumps(asdict(self.settings)))
        if other := sorted(key for key in ours if record["settings"].get(key) != ours[key]):
            raise InputError(
                f"{path}: the state of a training with other settings ({', '.join(other)}); give another --out, or the"
                " settings it was begun with"
            )
        weights = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith("network.")}
        self.network.load_state_dict(weights)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                number, _, moment = rest.partition(".")
                state.setdefault(int(number), {})[moment] = tensor
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        self.steps_done = record["steps_done"]
        return record
