"""A judge of fills that looks at pixels: a small convolutional network, trained on the spot.

It sees what no hand-made feature names. It has few weights, because there are few windows. Windows are turned and
mirrored at random while it learns, and judged in all eight poses.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cytomend.evaluation.realism import Groups, Labels, Looks, Score
from cytomend.evaluation.window_features import Windows

WIDTHS = (8, 16, 16)
POSES = 8


class JudgeNet(nn.Module):
    """Three convolutions of stride 2, then mean and maximum of each channel, then one number: above 0 for a fill.

    About 4,000 weights for grey windows. The maximum finds a single odd place, the mean a texture that is wrong
    everywhere.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        sizes = (channels, *WIDTHS)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(sizes)):
            side = 5 if i == 0 else 3
            layers += [nn.Conv2d(before, after, side, stride=2, padding=side // 2), nn.GroupNorm(4, after), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.answer = nn.Linear(2 * WIDTHS[-1], 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Return a number for each window, (n, C, S, S) to (n,)."""
        seen = self.layers(windows)
        answer: Tensor = self.answer(torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], dim=1))
        return answer[:, 0]


@dataclass(frozen=True, slots=True)
class NetworkLearner:
    """How the network is trained; the defaults take some seconds a fold on one core."""

    steps: int = 300
    pairs: int = 24
    """In a batch: as many fills and as many real windows."""
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    name: str = "network"

    def look(self, windows: Windows, groups: Groups, pixel_size_um: float) -> Windows:  # noqa: ARG002
        """Return the windows as they are."""
        return windows

    def fit(self, looks: Looks, fills: Labels, seed: int) -> Score:
        """Train a network on windows (n, C, S, S); the same seed gives the same network."""
        chance = np.random.default_rng([seed, 11])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = JudgeNet(looks.shape[1])
        optimizer = torch.optim.AdamW(network.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.steps)
        classes = [torch.from_numpy(np.asarray(looks[which])) for which in (fills, ~fills)]
        labels = torch.cat([torch.ones(self.pairs), torch.zeros(self.pairs)])
        for _ in range(self.steps):
            drawn = [windows[chance.integers(len(windows), size=self.pairs)] for windows in classes]
            batch = posed_at_random(torch.cat(drawn), chance)
            loss = nn.functional.binary_cross_entropy_with_logits(network(batch), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        return Judged(network.eval())


@dataclass(frozen=True, slots=True)
class Judged:
    """A trained network as a judge."""

    network: JudgeNet

    def __call__(self, looks: Looks) -> NDArray[np.float64]:
        """Return the mean answer over all poses of each window, (n,)."""
        windows = torch.from_numpy(np.asarray(looks))
        with torch.inference_mode():
            answers = [self.network(pose(windows, i)) for i in range(POSES)]
        return np.asarray(torch.stack(answers).mean(0).numpy(), dtype=np.float64)


def pose(windows: Tensor, number: int) -> Tensor:
    """Return windows (n, C, S, S) in one of eight poses: mirrored along y, along x, transposed, by its three bits."""
    for bit, axis in enumerate((2, 3)):
        windows = windows.flip(axis) if number >> bit & 1 else windows
    return windows.transpose(2, 3) if number & 4 else windows


def posed_at_random(windows: Tensor, chance: np.random.Generator) -> Tensor:
    """Return each window in a random pose."""
    numbers = torch.from_numpy(chance.integers(POSES, size=len(windows)))
    found = windows
    for bit in (1, 2, 4):
        chosen = (numbers & bit).bool()[:, None, None, None]
        found = torch.where(chosen, pose(found, bit), found)
    return found
