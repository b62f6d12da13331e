"""How good is a classifier of layers, on phantoms that nothing was trained on? Prints Markdown.

    python benchmarks/classifier.py [--classifier layers] [--patches 420] [--pieces 60]

1. Top-1, top-2 and natural flips for patches of 96, 112, 160 and 256 px. A natural flip is another answer for the same
   place shifted by half a side: half of the patch is replaced by other real tissue, mostly of the same layer. Flips of
   mended patches must be compared with it. The pair lies in one layer: at 160 and 256 px only thick ones count.
2. The confusion matrix at 112 px.
3. The same patches blurred, with other contrast, brightness and gamma, and noisier: top-1, top-2, and how often the
   answer differs from that for the patch as it was.
4. Top-1 and top-2 by phantom area: layers of different areas share names, not textures.

With ``--cells`` it prints instead what the true cells in focus tell: a small network is given number, sizes and
orientations of all of them in simulated patches. A picture shows more than that (cells out of focus, texture) and less
(bodies that lie on one another).

Seeds begin at 950000, which the training file of the bundled classifier keeps off.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cytomend.classification.agreement import agreement, confusion_table
from cytomend.classification.classifiers import Classifier, open_classifier
from cytomend.classification.patches import LabelledPatches, Phantoms
from cytomend.phantom import AREAS
from cytomend.phantom.areas import Area
from cytomend.phantom.population import Frame, Unevenness, draw_population

Float = NDArray[np.float32]
Labels = NDArray[np.int64]

FIRST_SEED = 950_000
SIDES_PX = (96, 112, 160, 256)
USUAL_PX = 112
PIECE_PX = 448
SHARE = 0.8
SHIFTS: dict[str, Callable[[Float, np.random.Generator], Float]] = {
    "as it was": lambda x, _: x,
    "blur, sigma 0.7 px": lambda x, _: gaussian_filter(x, (0, 0.7, 0.7)),
    "blur, sigma 1.5 px": lambda x, _: gaussian_filter(x, (0, 1.5, 1.5)),
    "contrast x 0.8": lambda x, _: contrasted(x, 0.8),
    "contrast x 1.2": lambda x, _: contrasted(x, 1.2),
    "brighter by 0.1": lambda x, _: x + np.float32(0.1),
    "darker by 0.1": lambda x, _: x - np.float32(0.1),
    "gamma 0.8": lambda x, _: ((x + 1) / 2) ** np.float32(0.8) * 2 - 1,
    "gamma 1.25": lambda x, _: ((x + 1) / 2) ** np.float32(1.25) * 2 - 1,
    "noise, sd 0.05": lambda x, rng: x + 0.05 * rng.standard_normal(x.shape, dtype=np.float32),
    "noise, sd 0.1": lambda x, rng: x + 0.1 * rng.standard_normal(x.shape, dtype=np.float32),
}


def contrasted(x: Float, factor: float) -> Float:
    """Return patches with another contrast about their own mean."""
    mean = x.mean(axis=(1, 2), keepdims=True)
    return np.asarray(mean + (x - mean) * factor, np.float32)


def drawn(tissue: Phantoms, classes: tuple[str, ...], side_px: int, count: int) -> tuple[Float, Labels]:
    """Return patches and their labels, classes drawn alike."""
    held = {name: (name,) for name in classes if name in tissue.names}
    patches = LabelledPatches([tissue], held, (side_px,) * 2, count, SHARE, seed=0, augmented=False)
    image, label = patches.draw(0)
    places = np.array([classes.index(name) for name in held])
    return image[:, 0].numpy(), places[label.numpy()]


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", default="layers", help="see cytomend.classification.classifiers")
    parser.add_argument("--patches", type=int, default=420, help="of each side")
    parser.add_argument("--pieces", type=int, default=60, help="phantoms that they are cut from")
    parser.add_argument("--cells", action="store_true", help="print what the true cells tell instead")
    args = parser.parse_args()
    if args.cells:
        tell_cells()
        return
    torch.set_num_threads(1)
    classifier = open_classifier(args.classifier)
    tissue = Phantoms(args.pieces, PIECE_PX, FIRST_SEED)
    print(
        f"`{args.classifier}`: {args.patches} patches of each side, {args.pieces} phantoms, seeds from {FIRST_SEED}\n"
    )
    tell_sides(classifier, tissue, args.patches)
    patches, labels = drawn(tissue, classifier.classes, USUAL_PX, args.patches)
    logits = classifier.predict(patches, 1.0)
    print(f"\nAnswers at {USUAL_PX} px, % of each true class (row):\n")
    print(confusion_table(agreement(logits, labels).confusion, classifier.classes))
    tell_shifts(classifier, patches, labels)
    tell_areas(classifier, args.patches, args.pieces)


def tell_sides(classifier: Classifier, tissue: Phantoms, count: int) -> None:
    """Print the table of sides."""
    print("| side, px | top-1 | top-2 | flips when shifted by half |")
    print("|---:|---:|---:|---:|")
    for side in SIDES_PX:
        patches, labels = drawn(tissue, classifier.classes, side, count)
        found = agreement(classifier.predict(patches, 1.0), labels)
        print(f"| {side} | {found.top1:.3f} | {found.top2:.3f} | {natural_flips(classifier, tissue, side, count)} |")


def natural_flips(classifier: Classifier, tissue: Phantoms, side: int, count: int) -> str:
    """Return how often the answer for a patch differs from that for the patch beside it, half of which is the same."""
    wide, _ = drawn(tissue, classifier.classes, side + side // 2, count)
    here, beside = (classifier.predict(wide[:, :side, x : x + side], 1.0).argmax(1) for x in (0, side // 2))
    return f"{(here != beside).mean():.3f}"


def tell_shifts(classifier: Classifier, patches: Float, labels: Labels) -> None:
    """Print the table of worse pictures."""
    print(f"\n| at {USUAL_PX} px | top-1 | top-2 | other answer than before |")
    print("|---|---:|---:|---:|")
    before = classifier.predict(patches, 1.0).argmax(1)
    for name, shift in SHIFTS.items():
        logits = classifier.predict(shift(patches, np.random.default_rng(0)).clip(-1, 1), 1.0)
        found = agreement(logits, labels)
        print(f"| {name} | {found.top1:.3f} | {found.top2:.3f} | {(logits.argmax(1) != before).mean():.3f} |")


def tell_areas(classifier: Classifier, count: int, pieces: int) -> None:
    """Print the table of phantom areas."""
    print(f"\n| area, {USUAL_PX} px | top-1 | top-2 |")
    print("|---|---:|---:|")
    for area in AREAS:
        tissue = Phantoms(pieces // len(AREAS), PIECE_PX, FIRST_SEED, areas=[area])
        patches, labels = drawn(tissue, classifier.classes, USUAL_PX, count // len(AREAS))
        found = agreement(classifier.predict(patches, 1.0), labels)
        print(f"| {area} | {found.top1:.3f} | {found.top2:.3f} |")


def tell_cells() -> None:
    """Print what a network reaches that is told the true cells in focus."""
    torch.set_num_threads(1)
    print("| side, µm | classes | top-1 | top-2 |")
    print("|---:|---|---:|---:|")
    names = [f"{area.name} {layer.name}" for area in AREAS.values() for layer in area.layers]
    layers = list(dict.fromkeys(name.split()[1] for name in names))
    to_layer = torch.tensor([[float(name.split()[1] == layer) for layer in layers] for name in names])
    for side_um, count in ((112, 400), (256, 200)):
        shares, truth = learned_from_cells(side_um, count)
        for told, matrix in (("area and layer", torch.eye(len(names))), ("layer", to_layer)):
            found = agreement((shares @ matrix).numpy(), matrix[truth].argmax(1).numpy())
            print(f"| {side_um} | {told} ({matrix.shape[1]}) | {found.top1:.3f} | {found.top2:.3f} |")


def learned_from_cells(side_um: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return shares of belief (n, k) and true classes (n,) for held-out patches, of area and layer together."""
    rng = np.random.default_rng(0)
    rows = [
        (cell_statistics(area, depth_um, side_um, rng), number)
        for number, (area, index) in enumerate((a, i) for a in AREAS.values() for i in range(len(a.layers)))
        for depth_um in depths_um(area, index, side_um, count, rng)
    ]
    x = torch.tensor(np.array([row for row, _ in rows]), dtype=torch.float32)
    x, y = (x - x.mean(0)) / x.std(0), torch.tensor([number for _, number in rows])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held_out, learned = order[: len(x) // 4], order[len(x) // 4 :]
    torch.manual_seed(0)
    layers = torch.nn.Linear(x.shape[1], 64), torch.nn.SiLU(), torch.nn.Linear(64, int(y.max()) + 1)
    network = torch.nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=1e-2)
    for _ in range(40):
        for part in learned[torch.randperm(len(learned))].split(256):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x[part]), y[part]).backward()
            optimizer.step()
    return network(x[held_out]).softmax(1).detach(), y[held_out]


def depths_um(area: Area, index: int, side_um: int, count: int, rng: np.random.Generator) -> Float:
    """Return depths of patches that one layer covers over most of their side."""
    below = np.cumsum([layer.thickness for layer in area.layers[:-1]]) * area.thickness_um
    edges = np.array([0, *below, below[-1] + 300])
    low, high = edges[index] + 0.3 * side_um, edges[index + 1] - 0.3 * side_um
    return np.asarray(rng.uniform(low, high, count) if high > low else np.full(count, (low + high) / 2), np.float32)


def cell_statistics(area: Area, depth_um: float, side_um: int, rng: np.random.Generator) -> Float:
    """Return density by size of soma, density, mean and spread of log area, and alignment, of the cells in focus."""
    frame = Frame((side_um / 2, side_um / 2), depth_um, float(rng.uniform(-np.pi, np.pi)), 0.0)
    size = (float(side_um), float(side_um))
    cells = draw_population(area, frame, Unevenness.draw(rng, contrast=0.36), size, rng, crowding=1.02)
    seen = cells.take((cells.y_um > 0) & (cells.x_um > 0) & (cells.y_um < side_um) & (cells.x_um < side_um))
    edges = [1, 35, 45, 55, 65, 80, 100, 120, 145, 175, 215, 270, 350, 500, 2000]
    by_size = np.histogram(seen.area_um2, edges)[0] / side_um**2 * 1e4
    if not len(seen):
        return np.zeros(len(by_size) + 4, np.float32)
    logarithm = np.log(seen.area_um2)
    aligned = abs(np.exp(2j * seen.orientation_rad).mean())
    return np.array([*by_size, by_size.sum(), logarithm.mean(), logarithm.std(), aligned], np.float32)


if __name__ == "__main__":
    main()
