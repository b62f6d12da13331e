"""The lattice of windows and the layout of a canvas: laws of geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cytomend.diffusion.fuse import FusedDenoiser
from cytomend.geometry import Box
from cytomend.regions.lattice import Lattice, Layout


@st.composite
def lattices(draw):
    """Every lattice of small windows."""
    window = draw(st.integers(2, 12)) * 4
    stride = draw(st.integers(-(-window // 8), window // 4)) * 4
    return Lattice(window, stride)


cells = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=12, unique=True).map(np.array)


@given(lattices(), st.tuples(st.integers(-200, 200), st.integers(-200, 200)))
def test_the_shares_of_all_windows_add_up_to_one_everywhere(lattice, at):
    weights, total = lattice.weights(), 0.0
    for row in range(at[0] // lattice.stride_px - 3, at[0] // lattice.stride_px + 1):
        for column in range(at[1] // lattice.stride_px - 3, at[1] // lattice.stride_px + 1):
            box = lattice.window_box(row, column)
            if box.y0 <= at[0] < box.y1 and box.x0 <= at[1] < box.x1:
                total += weights[at[0] - box.y0, at[1] - box.x0]
    assert total == pytest.approx(1, abs=1e-6)
    assert (weights > 0).all()


@given(lattices(), cells)
def test_windows_over_cells_are_exactly_those_that_see_one_of_them(lattice, cells):
    c = lattice.cell_px
    boxes = [Box(y * c, x * c, (y + 1) * c, (x + 1) * c) for y, x in cells.tolist()]
    reach = 9 * c // lattice.stride_px + 4
    expected = [
        (row, column)
        for row in range(-reach, reach)
        for column in range(-reach, reach)
        if any(not lattice.window_box(row, column).intersect(box).is_empty for box in boxes)
    ]
    assert lattice.windows_over(cells).tolist() == [list(window) for window in expected]


@settings(deadline=None)
@given(lattices(), cells)
def test_a_layout_holds_each_cell_once_and_finds_it_in_every_window(lattice, cells):
    windows = lattice.windows_over(cells)
    layout = Layout.of(lattice, windows)
    side, step = lattice.cells_per_side, lattice.stride_px // lattice.cell_px
    assert len(np.unique(layout.cells, axis=0)) == len(layout.cells)
    assert set(map(tuple, cells.tolist())) <= set(map(tuple, layout.cells.tolist()))
    for window, members in zip(windows, layout.members, strict=True):
        whole = [[window[0] * step + i, window[1] * step + j] for i in range(side) for j in range(side)]
        assert layout.cells[members].tolist() == whole
    flat = layout.members.reshape(-1)
    for cell, sources in enumerate(layout.sources):
        assert sorted(s for s in sources if s < len(flat)) == np.flatnonzero(flat == cell).tolist()


@settings(deadline=None, max_examples=30)
@given(lattices(), st.lists(cells, min_size=1, max_size=4))
def test_joined_layouts_do_to_each_canvas_what_its_own_does(lattice, canvases):
    layouts = [Layout.of(lattice, lattice.windows_over(one)) for one in canvases]
    chance = torch.Generator().manual_seed(0)
    c, side = lattice.cell_px, lattice.window_px
    values = [torch.randn(len(one.cells), 2, c, c, generator=chance) for one in layouts]
    tilt = torch.linspace(-1, 1, side)  # so that windows disagree about their common pixels

    def fuse(layout, x):
        return FusedDenoiser(lambda windows, _: windows * tilt, *tables(layout))(x, torch.zeros_like(x[:, :1]))

    together = fuse(Layout.joined(layouts), torch.cat(values))
    assert torch.equal(together, torch.cat([fuse(one, x) for one, x in zip(layouts, values, strict=True)]))
    assert Layout.joined(layouts).corners_px.tolist() == [at for one in layouts for at in one.corners_px.tolist()]


@pytest.mark.parametrize(("window", "stride"), [(32, 12), (32, 36), (30, 20), (32, 18)])
def test_strides_that_windows_cannot_be_fused_on_are_refused(window, stride):
    with pytest.raises(ValueError, match=r"_px"):
        Lattice(window, stride)


def tables(layout):
    return (torch.from_numpy(t) for t in (layout.members, layout.sources, layout.lattice.weights()))


@settings(deadline=None, max_examples=30)
@given(lattices(), cells)
def test_fusing_gives_back_what_all_windows_agree_on(lattice, cells):
    layout = Layout.of(lattice, lattice.windows_over(cells))
    canvas = torch.randn(len(layout.cells), 2, lattice.cell_px, lattice.cell_px, dtype=torch.float64)
    time = torch.zeros(len(canvas), 1, *canvas.shape[2:], dtype=torch.int64)
    fused = FusedDenoiser(lambda x, _: x, *tables(layout))(canvas, time)
    assert torch.allclose(fused, canvas, atol=1e-6)


def test_windows_are_laid_out_as_they_stand_on_the_section():
    lattice = Lattice(16, 12)
    layout = Layout.of(lattice, np.array([[0, 0], [0, 1], [-1, 0]]))
    corners = torch.from_numpy(layout.corners_px)
    inside = torch.arange(4)
    y, x = torch.broadcast_tensors(
        (corners[:, 0, None] + inside)[:, None, :, None], (corners[:, 1, None] + inside)[:, None, None, :]
    )
    seen = []
    FusedDenoiser(lambda x, _: (seen.append(x), x)[1], *tables(layout))(torch.cat([y, x], 1).double(), y)
    for window, (row, column) in zip(seen[0], [[0, 0], [0, 1], [-1, 0]], strict=True):
        expected = torch.meshgrid(torch.arange(16) + row * 12, torch.arange(16) + column * 12, indexing="ij")
        assert torch.equal(window, torch.stack(expected).double())
