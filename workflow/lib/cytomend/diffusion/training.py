"""Training of D: AdamW on the velocity loss, with a running average of the weights, resumable after any step.

A step's batch may be shared by several processes (DDP) and worked off in parts (accumulation). Each part's loss counts
by the weight of its pixels in that of the whole batch, so that sharing changes the last bits and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cytomend.diffusion.checkpoint import channels_last, save_tensors
from cytomend.diffusion.ema import Average
from cytomend.diffusion.patches import Batch
from cytomend.diffusion.precondition import Denoiser, pixel_weights, velocity_loss
from cytomend.diffusion.processes import Processes
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
    border_weight: float = 0.0
    precision: str = "float32"
    seed: int = 0
    times: int = TIMES
    start_from: str = ""
    """SHA-256 of the checkpoint that training starts from."""
    data: str = ""
    """What is learned from, in words that change with it; a state is not resumed on other data."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then half a cosine down to a hundredth."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return self.learning_rate * (0.505 + 0.495 * math.cos(math.pi * min(done, 1)))


class VelocityLoss(nn.Module):
    """The velocity loss as a module, which is what DDP and the compiler wrap."""

    def __init__(self, denoiser: Denoiser, border_weight: float) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.border_weight = border_weight

    def forward(self, x0: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Return `cytomend.diffusion.precondition.velocity_loss`."""
        return velocity_loss(self.denoiser, x0, time, noise, self.border_weight)


class Training:
    """A network in training.

    Parameters
    ----------
    unet : shape of the network
    settings : how to train
    processes : this process and its device
    compiled : whether to compile the network
    """

    def __init__(
        self, unet: UNetSettings, settings: TrainingSettings, processes: Processes, *, compiled: bool = False
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.processes = processes
        self.device = processes.device
        self.denoiser = Denoiser(channels_last(UNet(unet)), settings.times).to(self.device).train()
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=(0.9, 0.99),
            fused=self.device.type == "cuda",
        )
        self.average = Average(self.network, settings.average_decay)
        self.kept: dict[str, Tensor] = {}
        """The averaged weights to keep, with the lowest validation loss so far; empty before the first `keep`."""
        self.steps_done = 0
        self._shared, self._loss = self._wrapped(compiled=compiled)

    def _wrapped(self, *, compiled: bool) -> tuple[DistributedDataParallel | None, nn.Module]:
        """Return the loss as DDP wraps it, if there are several processes, and as it is called."""
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # shapes are fixed
        loss: nn.Module = VelocityLoss(self.denoiser, self.settings.border_weight)
        shared = None
        if self.processes.count > 1:
            places = [self.device] if self.device.type == "cuda" else None
            loss = shared = DistributedDataParallel(loss, places, gradient_as_bucket_view=True)
        return shared, torch.compile(loss, dynamic=False) if compiled else loss  # type: ignore[return-value]

    @property
    def network(self) -> nn.Module:
        """F, as it is now; what sampling should use is ``average``."""
        return self.denoiser.network

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Take over the weights of another model, in the average too.

        Raises
        ------
        RuntimeError
            If they are those of another network.
        """
        self.network.load_state_dict(weights)
        self.average = Average(self.network, self.settings.average_decay)

    def step(self, *parts: Batch) -> Tensor:
        """Take one optimiser step on this process's parts of a batch; return the loss of the whole before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.steps_done)
        shares = self._shares(parts)
        self.optimizer.zero_grad(set_to_none=True)
        losses = torch.zeros((), device=self.device)
        for number, (part, share) in enumerate(zip(parts, shares, strict=True), start=1):
            # Gradients of earlier parts add up here; the last part's backward sums them over the processes.
            alone = self._shared is not None and number < len(parts)
            with self._shared.no_sync() if alone and self._shared is not None else nullcontext():
                loss = self._loss_of(self._loss, part)
                (loss * (share * self.processes.count)).backward()  # DDP takes the mean
            losses += loss.detach() * share
        nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.average.update(self.network, self.steps_done)
        self.steps_done += 1
        return self.processes.total(losses)

    def _shares(self, parts: Sequence[Batch]) -> Tensor:
        """Return each part's share of the weight of the whole batch."""
        weights = [float(pixel_weights(part.time, self.settings.border_weight).sum()) for part in parts]
        weight = torch.tensor(weights, dtype=torch.float64, device=self.device)
        return (weight / self.processes.total(weight.sum()).clamp(min=1)).float()

    def _loss_of(self, loss: nn.Module, part: Batch) -> Tensor:
        x0, time, noise = (values.to(self.device, non_blocking=True) for values in part)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            found: Tensor = loss(x0.contiguous(memory_format=torch.channels_last), time, noise)
        return found

    @torch.no_grad()
    def validation_loss(self, parts: Sequence[Batch]) -> float:
        """Return the loss of the averaged weights over the parts of all processes together."""
        loss = VelocityLoss(self.averaged(), self.settings.border_weight)
        losses = torch.zeros((), dtype=torch.float64, device=self.device)
        for part, share in zip(parts, self._shares(parts), strict=True):
            losses += self._loss_of(loss, part).double() * share
        return float(self.processes.total(losses))

    def keep(self) -> None:
        """Keep the averaged weights as they are now, in place of those kept before."""
        self.kept = {name: p.detach().to("cpu", copy=True) for name, p in self.average.weights.items()}

    def averaged(self, weights: dict[str, Tensor] | None = None) -> Denoiser:
        """Return the denoiser with averaged weights, those of now or those kept, for sampling and validation."""
        network = UNet(self.network.settings)  # type: ignore[arg-type]
        network.load_state_dict(weights or self.average.weights)
        return Denoiser(channels_last(network), self.settings.times).to(self.device).eval()

    def save(self, path: Path, notes: dict[str, Any] | None = None) -> None:
        """Write all that resuming needs: weights, average, moments, kept weights, step; and the caller's notes."""
        tensors: dict[str, Tensor] = {f"weights/{name}": p for name, p in self.network.named_parameters()}
        tensors |= {f"average/{name}": p for name, p in self.average.weights.items()}
        tensors |= {f"kept/{name}": p for name, p in self.kept.items()}
        for name, p in self.network.named_parameters():
            for key, value in self.optimizer.state[p].items():
                tensors[f"optimizer/{key}/{name}"] = value
        save_tensors(
            path,
            tensors,
            {"steps_done": str(self.steps_done), "settings": self._record(), "notes": json.dumps(notes or {})},
        )

    def differs(self, path: Path) -> str:
        """Return in words how the settings of a saved state differ from these; nothing if they do not.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        with _told_if_damaged(path), safe_open(path, framework="pt") as file:
            saved = json.loads(file.metadata()["settings"])
        mine = json.loads(self._record())
        return "; ".join(
            f"{key} is {_short(mine.get(key))}, was {_short(saved.get(key))}"
            for key in sorted({*mine, *saved})
            if mine.get(key) != saved.get(key)
        )

    def resume(self, path: Path) -> dict[str, Any]:
        """Continue from a saved state and return the notes saved with it.

        Raises
        ------
        InputError
            If the state was saved by a training with other settings, or is damaged.
        """
        if difference := self.differs(path):
            raise InputError(
                f"{path}: saved by a training with other settings: {difference}; set them back, give another --out, or"
                " set that training aside (--set-aside)"
            )
        with _told_if_damaged(path), safe_open(path, framework="pt", device=str(self.device)) as file:
            metadata = file.metadata()
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        self.steps_done = int(metadata["steps_done"])
        self.kept = {name.removeprefix("kept/"): p.cpu() for name, p in tensors.items() if name.startswith("kept/")}
        with torch.no_grad():
            for name, p in self.network.named_parameters():
                p.copy_(tensors[f"weights/{name}"])
                self.average.weights[name].copy_(tensors[f"average/{name}"])
                moments = (key for key in tensors if key.startswith("optimizer/") and key.endswith(f"/{name}"))
                self.optimizer.state[p] = {key.split("/")[1]: _laid_out_as(p, tensors[key]) for key in moments}
        notes: dict[str, Any] = json.loads(metadata["notes"])
        return notes

    def _record(self) -> str:
        unet: UNetSettings = self.network.settings  # type: ignore[assignment]
        return json.dumps({**asdict(self.settings), "unet": asdict(unet)}, sort_keys=True)


@contextmanager
def _told_if_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected the state of a training, found a damaged file ({error}); delete it, and move away the"
            " model beside it, to train anew"
        ) from error


def _laid_out_as(p: Tensor, moment: Tensor) -> Tensor:
    """Return an optimiser's moment in the memory format of its weights, as the fused optimiser on a GPU demands."""
    return torch.empty_like(p).copy_(moment) if moment.shape == p.shape else moment


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
