"""The model card of a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cytomend.classification.agreement import confusion_table
from cytomend.classification.record import ClassifierSettings
from cytomend.report.model_card import code, plain
from cytomend.storage.publish import write_whole

TEXT = """# Classifier {name}

A compact CNN ({widths} channels, mean over all places) that says which of {count} classes a patch of tissue looks like.
It tells texture: number, size, darkness and arrangement of cells. A patch of {patch_px} px spans {span_um:.0f} µm
and not the cortex, so that neither depth nor neighbouring layers are seen.

| | |
|---|---|
| classes | {classes} |
| pixel size | {pixel_size_um} µm; patches at another are resampled |
| training | {steps} steps, {seconds:.0f} s; patches of {sides} px, one class over at least {share:.0%} of each |
| kept | the weights after step {step}, where the loss on held-out tissue was lowest |
| held out | top-1 {top1:.3f}, top-2 {top2:.3f}, on {patches} patches of {patch_px} px, classes drawn alike |

Share (%) of the held-out patches of each class (row) by answer (column):

{confusion}

## Data

{data}

## What it is not good for

- Naming layers or areas of a brain it was not trained on. Trained on phantoms, it knows how phantoms are made.
- Other stains, and pixel sizes from which its own cannot be resampled.
- Borders: it was trained on patches that show one class.
- Diagnosis.
"""


def write_card(folder: Path, record: ClassifierSettings) -> None:
    """Write ``MODEL_CARD.md`` beside the weights."""
    training, best = record.training, record.training["validated"]
    settings = training["settings"]
    text = TEXT.format(
        name=code(folder.name),
        widths="-".join(map(str, record.widths)),
        count=len(record.classes),
        classes=", ".join(plain(name) for name in record.classes),
        patch_px=record.patch_px,
        span_um=record.patch_px * record.pixel_size_um,
        pixel_size_um=record.pixel_size_um,
        steps=settings["steps"],
        sides=" to ".join(map(str, settings["sides_px"])),
        share=settings["share"],
        patches=settings["validation_patches"],
        seconds=training["seconds"],
        step=best["step"],
        top1=best["top1"],
        top2=best["top2"],
        confusion=confusion_table(np.array(training["confusion"]), [plain(name) for name in record.classes]),
        data="\n".join(
            f"- {side}: {_told(source)}" for side in ("training", "validation") for source in training[side]
        ),
    )
    write_whole(folder / "MODEL_CARD.md", lambda path: path.write_text(text, encoding="utf-8"))


def _told(source: dict[str, Any]) -> str:
    """Say in words what a source is."""
    if "phantom" in source:
        phantom = source["phantom"]
        areas = f", {', '.join(phantom['areas'])}" if "areas" in phantom else ""
        return (
            f"phantom tissue, {phantom['count']} pieces of {phantom['size_px']} px, seeds from {phantom['seed']}{areas}"
        )
    rest = ", ".join(plain(source[key]) for key in ("attribution", "licence") if source.get(key))
    where = f"{code(source['image'])}, areas {code(source['areas'])}"
    return f"{where}; {rest or 'licence not stated'}; {code(source['hash'])}"
