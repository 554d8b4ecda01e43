"""PSNR and SSIM against hand-worked numbers and scipy's filters; LPIPS through a stand-in."""

import importlib.machinery
import sys
import types

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from reverie.evaluate import pixels


def constant(shade, n=2, size=16):
    return torch.full((n, 3, size, size), float(shade))


def test_psnr_by_hand():
    """Off by 25.5 everywhere: MSE 0.01, 20 dB. Black for white: 0 dB."""
    assert pixels.psnr(constant(100), constant(125)).tolist() == pytest.approx(
        [20 * np.log10(255 / 25)] * 2
    )
    assert pixels.psnr(constant(0), constant(255)).tolist() == [0, 0]


def test_psnr_of_equal_frames_is_the_cap():
    assert pixels.psnr(constant(7.4), constant(7)).tolist() == [60, 60]


def test_psnr_is_of_each_frame():
    mixed = torch.cat([constant(0, 1), constant(255, 1)])
    assert pixels.psnr(mixed, constant(255)).tolist() == [0, 60]


def test_ssim_of_constant_frames_by_hand():
    """Only the light term is left: (2ab + C1) / (a^2 + b^2 + C1)."""
    found = pixels.ssim(constant(51), constant(102))
    assert found.tolist() == pytest.approx([(0.16 + 1e-4) / (0.2 + 1e-4)] * 2, abs=1e-4)


def test_ssim_of_equal_frames_is_1_and_of_inverted_ones_negative(generator):
    frame = torch.randint(256, (2, 3, 20, 24), generator=generator)
    assert pixels.ssim(frame, frame).tolist() == pytest.approx([1, 1])
    assert (pixels.ssim(frame, 255 - frame) < -0.5).all()


def test_ssim_equals_scipys_gaussian_filter(generator):
    """Wang et al. 2004 with scipy's window of 11 pixels, cut where it does not fit whole."""
    x = torch.randint(256, (1, 1, 19, 23), generator=generator)
    y = (0.6 * x + 60 * torch.rand(x.shape, generator=generator)).round()

    def blurred(image):
        return gaussian_filter(image, 1.5, radius=5)[5:-5, 5:-5]

    a, b = x[0, 0].numpy() / 255, y[0, 0].double().numpy() / 255
    ma, mb = blurred(a), blurred(b)
    va, vb, cab = blurred(a * a) - ma**2, blurred(b * b) - mb**2, blurred(a * b) - ma * mb
    top = (2 * ma * mb + 1e-4) * (2 * cab + 9e-4)
    wanted = (top / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))).mean()
    assert pixels.ssim(x, y).item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("metric", [pixels.psnr, pixels.ssim])
def test_more_noise_is_worse(metric, generator):
    frame = torch.randint(256, (4, 3, 32, 32), generator=generator).float()
    noise = torch.randn(frame.shape, generator=generator)
    scores = [metric(frame + level * noise, frame).mean().item() for level in (0, 2, 8, 32, 128)]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 5


def test_lpips_is_left_out_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(pixels.importlib.util, "find_spec", lambda name: None)
    assert pixels.lpips(torch.device("cpu")) is None


def test_lpips_is_asked_in_minus_1_to_1(monkeypatch):
    class LPIPS(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            assert (net, verbose) == ("alex", False)

        def forward(self, a, b):
            return (a - b).abs().amax((1, 2, 3), keepdim=True)

    module = types.ModuleType("lpips")
    module.__spec__ = importlib.machinery.ModuleSpec("lpips", None)
    module.LPIPS = LPIPS
    monkeypatch.setitem(sys.modules, "lpips", module)
    distance = pixels.lpips(torch.device("cpu"))
    assert distance(constant(0, size=64), constant(255, size=64)).tolist() == [2, 2]
