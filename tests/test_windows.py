"""Windows in calls of one shape: neither neighbours nor threads reach a result; the fast network is the plain one."""

from __future__ import annotations

import copy
import logging
import shutil
from collections import deque
from dataclasses import replace
from functools import partial

import pytest
import torch

from cytomend.diffusion import inference
from cytomend.diffusion.compiled import Compiled, compile_for_shape
from cytomend.diffusion.inference import inference_copy, usable_dtype
from cytomend.diffusion.precondition import Denoiser
from cytomend.diffusion.record import UNetSettings
from cytomend.diffusion.samplers import SAMPLERS
from cytomend.diffusion.unet import UNet
from cytomend.diffusion.windows import CPU_BATCH, FixedBatches, cpu_batch, window_denoiser

CPU = torch.device("cpu")
SIDE, TIMES = 32, 256
PRECISIONS = ["float32", "bfloat16"]

FLOAT32_TOLERANCE = 5e-5
"""Largest difference of F between ways of computing it in float32, over its standard deviation."""
BFLOAT16_TOLERANCE = 0.02
"""Root mean square difference of F between bfloat16 and float32, over its standard deviation."""
FILL_TOLERANCE = 1.0
"""Root mean square difference of a fill between bfloat16 and float32, in grey levels of 255."""


@pytest.fixture(params=PRECISIONS)
def precision(request):
    if request.param == "bfloat16" and not inference.multiplies_bfloat16(CPU):
        pytest.skip("this CPU has no bfloat16 instructions")
    return request.param


def denoiser(settings=None, seed=0):
    """A network whose answer is about as large as a trained one's, also where training starts from zero."""
    torch.manual_seed(seed)
    network = UNet(settings or UNetSettings(widths=(16, 32), attention=(1,), heads=2))
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                weight.normal_(std=0.05)
    return Denoiser(network.to(memory_format=torch.channels_last), TIMES).eval()


def windows(count, seed=0, channels=1, side=SIDE):
    """Noisy windows with strips of known pixels, each at a time of its own."""
    chance = torch.Generator().manual_seed(seed)
    x = torch.randn(count, channels, side, side, generator=chance)
    time = torch.randint(1, TIMES + 1, (count, 1, 1, 1), generator=chance).repeat(1, 1, side, side)
    for window, edge in zip(time, torch.randint(0, side, (count,), generator=chance).tolist(), strict=True):
        window[..., :edge] = 0
    return x, time


@pytest.mark.parametrize("count", [1, 3, 4, 7])
@pytest.mark.parametrize("threads", [0, 3])
def test_windows_are_asked_in_order_in_calls_of_one_shape(count, threads):
    x, time = torch.randn(count, 1, 8, 8), torch.arange(count).view(-1, 1, 1, 1).expand(count, 1, 8, 8)
    shapes = set()

    def denoise(x, time):
        shapes.add(tuple(x.shape))
        return x * time

    assert torch.equal(FixedBatches(denoise, lambda _: 4, threads)(x, time), x * time)
    assert shapes == {(4, 1, 8, 8)}


def test_a_call_on_a_cpu_holds_fewer_windows_the_larger_they_are():
    assert [cpu_batch(side) for side in (8, 64, 128, 256, 4096)] == [CPU_BATCH, CPU_BATCH, 2, 1, 1]


def test_a_window_gives_the_same_bits_whatever_its_place_neighbours_and_threads(precision):
    ask = [window_denoiser(denoiser(), CPU, batch=7, threads=n, precision=precision) for n in (1, 3)]
    x, time = windows(9)
    expected = ask[0](x, time)
    assert torch.equal(ask[1](x, time), expected)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ask[1](x[order], time[order]), expected[order])
    for count in (1, 2, 5):
        assert torch.equal(ask[0](x[:count], time[:count]), expected[:count])
    wild, its_time = windows(9, seed=2)
    for place in range(CPU_BATCH):
        wild[:CPU_BATCH], its_time[:CPU_BATCH] = wild[:CPU_BATCH] * 1e4, 256
        wild[place], its_time[place] = x[3], time[3]
        assert torch.equal(ask[0](wild, its_time)[place], expected[3])


def test_a_fixed_number_of_threads_outside_reaches_no_result(precision):
    ask = window_denoiser(denoiser(), CPU, batch=1, threads=2, precision=precision)
    expected, before = ask(*windows(4)), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(ask(*windows(4)), expected)
    finally:
        torch.set_num_threads(before)


ARCHITECTURES = {
    "default": UNetSettings(),
    "colour": UNetSettings(channels=3, widths=(8, 16), attention=(0, 1), heads=2),
    "one resolution": UNetSettings(widths=(8,), stem=1, attention=(), heads=1, blocks=2),
    "wide stem": UNetSettings(widths=(8, 8, 16), stem=4, heads=2, blocks=2, embedding=8),
}


@pytest.mark.parametrize("settings", ARCHITECTURES.values(), ids=ARCHITECTURES)
@torch.no_grad()
def test_the_inference_copy_is_the_same_function(settings):
    plain = denoiser(settings)
    x, time = windows(4, channels=settings.channels)
    expected = plain.velocity(x, time)
    found = inference_copy(plain, CPU, "float32").velocity(x, time)
    assert (found - expected).abs().max() < FLOAT32_TOLERANCE * expected.std()


@torch.no_grad()
def test_any_map_of_times_is_embedded_as_in_training():
    plain = denoiser()
    x = windows(2)[0]
    time = torch.randint(0, TIMES + 1, (2, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(3))
    expected = plain.velocity(x, time)
    found = inference_copy(plain, CPU, "float32").velocity(x, time)
    assert (found - expected).abs().max() < FLOAT32_TOLERANCE * expected.std()


@torch.no_grad()
def test_without_onednn_the_answer_is_the_same(monkeypatch):
    plain = denoiser()
    expected = plain.velocity(*windows(2))
    monkeypatch.setattr(inference, "has_onednn", lambda: False)
    found = inference_copy(plain, CPU, "float32").velocity(*windows(2))
    assert (found - expected).abs().max() < FLOAT32_TOLERANCE * expected.std()


@torch.no_grad()
def test_bfloat16_stays_near_float32(precision):
    plain = denoiser(UNetSettings())
    x, time = windows(8)
    expected = plain.velocity(x, time)
    found = inference_copy(plain, CPU, precision).velocity(x, time)
    assert found.dtype == torch.float32
    assert (found - expected).square().mean().sqrt() < BFLOAT16_TOLERANCE * expected.std()


def test_a_whole_fill_in_bfloat16_stays_within_grey_levels_of_one_in_float32(precision):
    plain = denoiser(UNetSettings(widths=(16, 32), attention=(1,), heads=2))
    image, known = torch.zeros(2, 1, SIDE, SIDE), torch.ones(2, 1, SIDE, SIDE, dtype=torch.bool)
    known[..., 8:24] = False
    noise = [torch.randn(image.shape, generator=torch.Generator().manual_seed(draw)) for draw in range(60)]

    def fill(precision):
        ask = window_denoiser(plain, CPU, batch=1, threads=1, precision=precision)
        sampler = replace(SAMPLERS["timemap"], steps=25)
        states = sampler.run(ask, image, known, plain.alpha_bar.double(), noise.__getitem__)
        return deque(states, maxlen=1).pop()

    reference, found = fill("float32"), fill(precision)
    assert torch.equal(found[known], reference[known])
    assert reference[~known].std() > 0.05
    assert (found - reference)[~known].square().mean().sqrt() * 127.5 < FILL_TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("last", [True, False])
def test_blocks_of_the_plain_network_keep_channels_last(last):
    seen = watch(denoiser().network, last=last)
    assert len(seen) > 10
    assert all(seen.values()), [name for name, kept in seen.items() if not kept]


@torch.no_grad()
def test_blocks_of_the_inference_copy_keep_channels_last(precision):
    seen = watch(inference_copy(denoiser(), CPU, precision).network, last=True)
    assert len(seen) > 10
    assert all(seen.values()), [name for name, kept in seen.items() if not kept]


def watch(network, *, last):
    """Run a network and return, by module, whether its feature maps left it in channels_last."""
    seen = {}

    def note(name, module, inputs, output):  # noqa: ARG001
        if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[1] > 4:
            seen[name] = output.is_contiguous(memory_format=torch.channels_last)

    for name, module in network.named_modules():
        module.register_forward_hook(partial(note, name))
    x, time = windows(2)
    network(x.contiguous(memory_format=torch.channels_last) if last else x, time / TIMES)
    return {name: kept for name, kept in seen.items() if name and name != "network"}


def test_a_norm_that_leaves_channels_last_is_brought_back(monkeypatch):
    plain = torch.nn.functional.group_norm
    leaving = lambda *args: plain(*args).contiguous()  # noqa: E731 - as CUDA's kernel does
    monkeypatch.setattr(torch.nn.functional, "group_norm", leaving)
    assert all(watch(denoiser().network, last=True).values())


def test_the_given_denoiser_is_left_as_it_is(precision):
    plain = denoiser()
    before = copy.deepcopy(plain.state_dict())
    ask = window_denoiser(plain, CPU, batch=1, threads=1, precision=precision)
    expected = ask(*windows(2))
    after = plain.state_dict()
    assert all(torch.equal(after[name], before[name]) and after[name].dtype == torch.float32 for name in before)
    assert all(p.requires_grad for p in plain.parameters())
    with torch.no_grad():
        for p in plain.parameters():
            p.zero_()
    assert torch.equal(ask(*windows(2)), expected)


def test_a_network_of_another_kind_is_asked_as_it_is():
    class Twice(torch.nn.Module):
        def forward(self, x, time):  # noqa: ARG002
            return 2 * x

    plain = Denoiser(Twice(), TIMES)
    x, time = windows(3)
    assert torch.equal(window_denoiser(plain, CPU, batch=1, threads=1, precision="bfloat16")(x, time), plain(x, time))


def test_a_cpu_without_bfloat16_computes_in_float32_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(inference, "multiplies_bfloat16", lambda _: False)
    with caplog.at_level(logging.WARNING):
        found = window_denoiser(denoiser(), CPU, batch=1, threads=1, precision="bfloat16")(*windows(2))
    assert "no bfloat16 instructions on this cpu" in caplog.text
    assert torch.equal(found, window_denoiser(denoiser(), CPU, batch=1, threads=1)(*windows(2)))


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision is 'float16', expected bfloat16 or float32"):
        usable_dtype(CPU, "float16")


@torch.inference_mode()
def test_the_whole_copy_is_traced_as_one_graph_and_equals_itself():
    ours = inference_copy(denoiser(UNetSettings(widths=(8,), attention=(0,), heads=1)), CPU, "float32")
    x, time = windows(2, side=16)
    expected = ours(x, time)
    found = torch.compile(ours, backend="aot_eager", fullgraph=True, dynamic=False)(x, time)
    assert (found - expected).abs().max() < FLOAT32_TOLERANCE * expected.std()


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.skipif(" " in torch.__file__, reason="torch does not quote its own folder for the compiler")
@torch.inference_mode()
def test_a_compiled_block_equals_itself():
    settings = UNetSettings(widths=(8,), attention=(), heads=1)  # one block: compiling a network takes a minute
    ours = inference_copy(denoiser(settings), CPU, "float32").network.network.down[0].block
    x, embedding = (torch.randn(2, c, 8, 8).contiguous(memory_format=torch.channels_last) for c in (8, 32))
    expected = ours(x, embedding)
    found = compile_for_shape(ours, x, embedding)(x, embedding)
    assert (found - expected).abs().max() < FLOAT32_TOLERANCE * expected.std()


def test_what_cannot_be_compiled_is_asked_as_it_is(monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(torch, "compile", fail)
    x, time = windows(2)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(Compiled(lambda x, _: x)(x, time), x)
    assert "compile_for_shape failed, going on without: no compiler" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gpu_agrees_with_the_cpu(precision):
    plain, gpu = denoiser(UNetSettings()), torch.device("cuda")
    x, time = windows(5)
    expected = window_denoiser(plain, CPU, batch=1, threads=1)(x, time)
    found = window_denoiser(plain, gpu, batch=4, threads=1, precision=precision)(x.to(gpu), time.to(gpu)).cpu()
    assert (found - expected).square().mean().sqrt() < BFLOAT16_TOLERANCE * expected.std()
