"""Training of D: AdamW on the velocity loss, with a running average of the weights, resumable after any step."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from cytomend.diffusion.checkpoint import channels_last, save_tensors
from cytomend.diffusion.ema import Average
from cytomend.diffusion.patches import Batch
from cytomend.diffusion.precondition import Denoiser, velocity_loss
from cytomend.diffusion.record import UNetSettings
from cytomend.diffusion.schedule import TIMES
from cytomend.diffusion.unet import UNet
from cytomend.errors import InputError


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How to train; a change of any of these is another training."""

    steps: int
    batch: int
    learning_rate: float = 4e-4
    warmup_steps: int = 200
    weight_decay: float = 1e-3
    clip_norm: float = 1.0
    average_decay: float = 0.9995
    seed: int = 0
    times: int = TIMES
    data: str = ""
    """What is learned from, in words that change with it; a state is not resumed on other data."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then half a cosine down to a hundredth."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return self.learning_rate * (0.505 + 0.495 * math.cos(math.pi * min(done, 1)))


class Training:
    """A network in training.

    Parameters
    ----------
    unet : shape of the network
    settings : how to train
    device : where
    """

    def __init__(self, unet: UNetSettings, settings: TrainingSettings, device: torch.device) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.denoiser = Denoiser(channels_last(UNet(unet)), settings.times).to(device).train()
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.99)
        )
        self.average = Average(self.network, settings.average_decay)
        self.device = device
        self.steps_done = 0

    @property
    def network(self) -> nn.Module:
        """F, as it is now; what sampling should use is ``average``."""
        return self.denoiser.network

    def step(self, batch: Batch) -> float:
        """Take one optimiser step and return the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.steps_done)
        x0, time, noise = (t.to(self.device) for t in (batch.x0, batch.time, batch.noise))
        loss = velocity_loss(self.denoiser, x0.contiguous(memory_format=torch.channels_last), time, noise)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.average.update(self.network, self.steps_done)
        self.steps_done += 1
        return loss.item()

    def averaged(self) -> Denoiser:
        """Return the denoiser with averaged weights, for sampling and validation."""
        network = UNet(self.network.settings)  # type: ignore[arg-type]
        network.load_state_dict(self.average.weights)
        return Denoiser(channels_last(network), self.settings.times).to(self.device).eval()

    def save(self, path: Path) -> None:
        """Write all that resuming needs: weights, average, moments, step."""
        tensors: dict[str, Tensor] = {f"weights/{name}": p for name, p in self.network.named_parameters()}
        tensors |= {f"average/{name}": p for name, p in self.average.weights.items()}
        for name, p in self.network.named_parameters():
            for key, value in self.optimizer.state[p].items():
                tensors[f"optimizer/{key}/{name}"] = value
        save_tensors(path, tensors, {"steps_done": str(self.steps_done), "settings": self._record()})

    def resume(self, path: Path) -> None:
        """Continue from a saved state.

        Raises
        ------
        InputError
            If the state was saved by a training with other settings.
        """
        with safe_open(path, framework="pt", device=str(self.device)) as file:
            metadata = file.metadata()
            if metadata["settings"] != self._record():
                raise InputError(
                    f"{path}: saved by a training with other settings; expected {self._record()},"
                    f" found {metadata['settings']}; give another --out, or delete the file to start anew"
                )
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        self.steps_done = int(metadata["steps_done"])
        with torch.no_grad():
            for name, p in self.network.named_parameters():
                p.copy_(tensors[f"weights/{name}"])
                self.average.weights[name].copy_(tensors[f"average/{name}"])
                moments = (key for key in tensors if key.startswith("optimizer/") and key.endswith(f"/{name}"))
                self.optimizer.state[p] = {key.split("/")[1]: tensors[key] for key in moments}

    def _record(self) -> str:
        unet: UNetSettings = self.network.settings  # type: ignore[assignment]
        return json.dumps({**asdict(self.settings), "unet": asdict(unet)}, sort_keys=True)
