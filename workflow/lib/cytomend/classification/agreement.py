"""How often a classifier is right: first answer, first two answers, and what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Answers beside the truth.

    ``top1`` and ``top2`` are the shares of patches whose class is the first, or one of the first two answers; they
    weigh patches alike. ``confusion`` (k, k) counts patches, a row a true class, a column an answer.
    """

    top1: float
    top2: float
    confusion: NDArray[np.int64]


def agreement(logits: Floats, labels: NDArray[np.integer]) -> Agreement:
    """Compare logits (n, k) with the true classes (n,).

    Examples
    --------
    >>> agreement(np.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]]), np.array([0, 1])).confusion.tolist()
    [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    """
    order = np.argsort(-logits, axis=1, kind="stable")[:, :2]
    right = order == labels[:, None]
    confusion = np.zeros((logits.shape[1],) * 2, np.int64)
    np.add.at(confusion, (labels, order[:, 0]), 1)
    return Agreement(float(right[:, 0].mean()), float(right.any(axis=1).mean()), confusion)


def confusion_table(confusion: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Return a confusion matrix as Markdown: percent of each true class (row) by answer (column)."""
    percent = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    head = ["class", *classes, "patches"]
    rows = [
        [name, *(f"{share:.1f}" if share else "" for share in shares), str(count)]
        for name, shares, count in zip(classes, percent, confusion.sum(axis=1), strict=True)
    ]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
