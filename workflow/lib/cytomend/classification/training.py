"""Training of a classifier: AdamW on the cross entropy, resumable after any report with the same curve."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cytomend.classification.network import TextureNet
from cytomend.classification.patches import LabelledBatch, LabelledPatches
from cytomend.diffusion.checkpoint import save_tensors
from cytomend.errors import InputError

AHEAD = 4
"""Batches that are drawn while the network learns."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How to train; a change of any of these is another training."""

    steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    label_smoothing: float
    seed: int
    data: str
    """What is learned from, in words that change with it; a state is not resumed on other data."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up under half a cosine down to nothing."""
        return (
            self.learning_rate
            * min(1.0, (step + 1) / max(self.warmup_steps, 1))
            * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))
        )


class Training:
    """A classifier in training.

    Parameters
    ----------
    widths, classes : shape of the network
    settings : how to train
    device : torch device
    """

    def __init__(self, widths: tuple[int, ...], classes: int, settings: TrainingSettings, device: str = "cpu") -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.device = torch.device(device)
        network = TextureNet(widths, classes)
        self.network: TextureNet = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.kept: dict[str, Tensor] = {}
        """The weights to keep, those with the lowest validation loss so far."""
        self.steps_done = 0

    def step(self, batch: LabelledBatch) -> float:
        """Take one optimiser step and return the loss before it."""
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.steps_done)
        logits = self.network(batch.image.to(self.device, memory_format=torch.channels_last))
        loss = nn.functional.cross_entropy(
            logits, batch.label.to(self.device), label_smoothing=self.settings.label_smoothing
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.steps_done += 1
        return float(loss.detach())

    @torch.no_grad()
    def logits(self, batches: list[LabelledBatch]) -> Tensor:
        """Return the logits of some batches, as the network is now, in evaluation mode."""
        self.network.eval()
        shown = (batch.image.to(self.device, memory_format=torch.channels_last) for batch in batches)
        return torch.cat([self.network(image).cpu() for image in shown])

    def keep(self) -> None:
        """Keep the weights as they are now, in place of those kept before."""
        self.kept = {name: p.detach().to("cpu", copy=True) for name, p in self.network.state_dict().items()}

    def save(self, path: Path, notes: dict[str, Any]) -> None:
        """Write all that resuming needs, and the caller's notes."""
        tensors = {f"weights/{name}": p for name, p in self.network.state_dict().items()}
        tensors |= {f"kept/{name}": p for name, p in self.kept.items()}
        for name, p in self.network.named_parameters():
            tensors |= {f"optimizer/{key}/{name}": value for key, value in self.optimizer.state[p].items()}
        record = {"steps_done": str(self.steps_done), "settings": self._record(), "notes": json.dumps(notes)}
        save_tensors(path, tensors, record)

    def resume(self, path: Path) -> dict[str, Any]:
        """Continue from a saved state and return the notes saved with it.

        Raises
        ------
        InputError
            If the state was saved by a training with other settings, or is damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            self._refuse_others(path, metadata["settings"])
            self.steps_done = int(metadata["steps_done"])
            self.network.load_state_dict(_below("weights/", tensors))
            self.kept = _below("kept/", tensors)
            for name, p in self.network.named_parameters():
                moments = [key for key in tensors if key.startswith("optimizer/") and key.split("/")[2] == name]
                # The optimiser's arithmetic depends on the memory format in its last bits.
                self.optimizer.state[p] = {
                    key.split("/")[1]: torch.empty_like(p).copy_(tensors[key]) if tensors[key].ndim else tensors[key]
                    for key in moments
                }
            notes: dict[str, Any] = json.loads(metadata["notes"])
        except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: expected the state of a training, found a damaged file ({error}); delete it to train anew"
            ) from error
        return notes

    def _refuse_others(self, path: Path, saved: str) -> None:
        theirs, ours = json.loads(saved), json.loads(self._record())
        if other := sorted(key for key in {*theirs, *ours} if theirs.get(key) != ours.get(key)):
            differences = "; ".join(f"{key} is {ours.get(key)}, was {theirs.get(key)}"[:400] for key in other)
            raise InputError(
                f"{path}: saved by a training with other settings: {differences}; set them back, or give another --out"
            )

    def _record(self) -> str:
        return json.dumps(asdict(self.settings), sort_keys=True)


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def drawn_ahead(patches: LabelledPatches, steps: range) -> Iterator[LabelledBatch]:
    """Yield the batches of the steps in their order, drawn by a second thread while the network learns."""
    with ThreadPoolExecutor(1) as drawer:
        waiting = [drawer.submit(patches.draw, step) for step in steps[:AHEAD]]
        for step in steps:
            batch = waiting.pop(0).result()
            if step + AHEAD in steps:
                waiting.append(drawer.submit(patches.draw, step + AHEAD))
            yield batch
