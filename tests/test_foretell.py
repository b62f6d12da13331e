"""What known pixels foretell: themselves, their like beside them, nothing far away."""

import torch

from cytomend.diffusion.foretell import foretell
from cytomend.diffusion.precondition import Denoiser


def half_known(side: int = 24) -> torch.Tensor:
    """Times of a window whose left half is known."""
    time = torch.full((1, 1, side, side), 200)
    time[..., : side // 2] = 0
    return time


def test_known_pixels_foretell_themselves_and_their_like_beside_them() -> None:
    x, time = torch.full((1, 1, 24, 24), 0.5), half_known()
    x[..., 12:] = 7.0  # noisy values are not looked at
    told = foretell(x, time)[0, 0, 12]
    assert torch.equal(told[:12], x[0, 0, 12, :12])
    assert 0.49 < told[12] <= 0.5
    assert (told[12:16].diff() < 0).all()
    assert (told[17:] == 0).all()


def test_nothing_is_foretold_on_a_constant_map() -> None:
    x = torch.randn(2, 3, 16, 16)
    assert (foretell(x, torch.full((2, 1, 16, 16), 9)) == 0).all()


def test_channels_and_windows_do_not_mix() -> None:
    x, time = torch.randn(2, 3, 24, 24), half_known().expand(2, 1, 24, 24)
    whole = foretell(x, time)
    for n in range(2):
        for c in range(3):
            assert torch.allclose(whole[n, c], foretell(x[n : n + 1, c : c + 1], time[:1])[0, 0])


def test_a_network_that_adds_nothing_gives_what_is_foretold_at_full_noise() -> None:
    class Silent(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
            return torch.zeros_like(x)

    denoiser, time = Denoiser(Silent(), 256), half_known() // 200 * 256
    x = torch.where(time == 0, torch.rand(1, 1, 24, 24) - 0.5, torch.randn(1, 1, 24, 24))
    assert torch.allclose(denoiser(x, time), foretell(x, time), atol=0.01)
