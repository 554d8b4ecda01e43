"""Convolutions in a faster order, and a fused norm, against torch's own, gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reverie.nn.folded import Doubled, Halved, Same, Transposed
from reverie.nn.onepass import rms_silu

PLAIN = {
    Halved: nn.Conv2d.forward,
    Transposed: nn.ConvTranspose2d.forward,
    Same: nn.Conv2d.forward,
    Doubled: lambda net, x: F.conv2d(
        F.interpolate(x, scale_factor=2.0), net.weight, net.bias, padding=2
    ),
}


def with_gradients(y, inputs):
    """What came out, and the gradients of a fixed weighing of it."""
    weight = torch.linspace(-1, 1, y.numel()).view(y.shape)
    return [y.detach(), *torch.autograd.grad((y.float() * weight).sum(), inputs)]


@pytest.mark.parametrize("layer", PLAIN)
@pytest.mark.parametrize("channels", [(3, 8), (8, 5)])
@pytest.mark.parametrize("side", [(6, 4), (10, 10)])
def test_every_order_gives_the_same_sums(layer, channels, side):
    net = layer(*channels)
    with torch.no_grad():
        net.bias.normal_()
    x = torch.randn(2, channels[0], *side, requires_grad=True)
    inputs = [x, net.weight, net.bias]
    ours, torchs = (with_gradients(f(net, x), inputs) for f in (layer.__call__, PLAIN[layer]))
    for found, wanted in zip(ours, torchs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [Halved, Transposed])
def test_only_what_is_asked_for_gets_a_gradient(layer):
    net, x = layer(3, 4), torch.randn(1, 3, 8, 8)
    net(x).sum().backward()
    assert x.grad is None
    assert net.weight.grad is not None
    net.requires_grad_(requires_grad=False).zero_grad(set_to_none=True)
    x.requires_grad_()
    net(x).sum().backward()
    assert x.grad.shape == x.shape
    assert net.weight.grad is None


@pytest.mark.parametrize("layer", PLAIN)
def test_under_autocast_they_compute_in_bf16(layer):
    net = layer(3, 4)
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert net.weight.grad.dtype == x.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), net(x).detach(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("width", [1, 8, 12, 16, 20, 100])
@pytest.mark.parametrize("rows", [1, 64, 150])
def test_the_fused_norm_is_torchs_norm_and_silu(width, rows):
    x = (3 * torch.randn(rows, width)).requires_grad_()
    gain = (0.5 + torch.rand(width)).requires_grad_()
    ours = with_gradients(rms_silu(x, gain), [x, gain])
    exact = F.silu(F.rms_norm(x.double(), gain.shape, gain.double(), 1e-4))
    for found, wanted in zip(ours, with_gradients(exact, [x, gain]), strict=True):
        torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=2e-5)


def test_the_fused_norm_holds_at_the_ends_of_its_range():
    gain = torch.tensor([200.0, 1.0])
    rows = torch.tensor([[9.0, 9.0], [-9.0, -9.0], [0.0, 0.0]])
    found = rms_silu(rows, gain)
    torch.testing.assert_close(found[0], torch.tensor([200.0, 0.731058]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], torch.tensor([0.0, -0.268941]), rtol=1e-4, atol=1e-5)
    assert found[2].tolist() == [0.0, 0.0]
    assert rms_silu(torch.full((1, 2), float("nan")), gain).isnan().all()
